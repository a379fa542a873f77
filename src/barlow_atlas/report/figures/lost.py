"""The map: accuracy lost against the peak, by epoch and embedding width."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from barlow_atlas.atlas.frames import LINE
from barlow_atlas.report.figures.canvas import (
    SMALL,
    WIDTH,
    Drawing,
    heading,
    number_of,
    plain,
    probe_name,
    rows_of,
    sheet,
    signed,
    style,
    told,
    wrap,
)
from barlow_atlas.report.figures.curves import protocols, settings
from barlow_atlas.report.figures.palette import GREY, INK, line_label, ordered
from barlow_atlas.report.text import MINUS

SUBJECT = "The map: test accuracy lost after its peak"
WARM: Colormap = ListedColormap(colormaps["YlOrRd"](np.linspace(0.05, 0.95, 256)), "lost")
BLANK = (1.0, 1.0, 1.0, 1.0)
"""Up to the peak there is nothing to lose yet, and a gain after it is no loss."""
NOT_THERE = (0.9, 0.9, 0.9, 1.0)
"""A milestone that others have."""
ROW = 0.25
NUMBER = 0.29
LABEL = 0.4
"""Inches: a row's height, the width from which a cell holds its number, an epoch's label."""
LEAST_SCALE = 1.0
"""Points at which the colours end at least: noise on a flat curve must not look like a fall."""


@style()
def lost_map(title: str, losses: pd.DataFrame, methods: Sequence[str] = ()) -> Drawing:
    """Accuracy lost against the leave-one-out peak at each milestone, in points of test top-1.

    A block of panels for each probe, in it one panel for each method with its widths as rows, or a
    single panel with the lines as rows where most methods have one width. Warm cells have lost
    accuracy since the peak of the mean validation curve, which is framed; grey ones are milestones
    that a line does not have; all others are blank. A number is bold and dotted if its interval
    excludes 0. A sentence stands instead where nothing is lost.

    Args:
        losses: columns `frames.LINE`, `epoch`, `after_peak`, `estimate`, `low`, `high` (points,
            positive is lost) and `n` (seeds).
        methods: as in `palette.looks`.
    """
    if losses.empty:
        return plain(
            SUBJECT,
            title,
            "No map: a loss is counted from a peak, and the peak is chosen on validation images. "
            "Either this study holds none out (protocol reference), or no run is finished yet.",
        )
    if not (losses["after_peak"] & (losses["estimate"].round(1) > 0)).any():
        later = int(losses["after_peak"].sum())
        return plain(
            SUBJECT,
            title,
            f"No map: nothing is lost. Of {len(losses)} milestones of all lines {later} come after "
            "their peak, and none of these is below it by a tenth of a point or more. "
            f"{protocols(losses)}, {number_of([int(n) for n in losses['n'].unique()], 'seed')}.",
        )
    order = ordered(losses["method"], methods)
    order = [method for method in order if method in set(losses["method"])]
    epochs = sorted(losses["epoch"].unique())
    lines = losses[["method", "embedding_dim"]].drop_duplicates()
    by_width = len(lines) >= 2 * len(order)
    blocks = [[method] for method in order] if by_width else [order]
    columns = 1 if len(blocks) == 1 or 10 < len(epochs) <= 20 else 2
    panels = [
        (probe, block)
        for _, probe in losses.groupby(["probe", "variant", "setting"], sort=True)
        for block in _filled(blocks, columns)
    ]
    headings = [_heading(probe, block, columns) for probe, block in panels]
    rows = [
        max(len(_rows(probe, block)) for probe, block in panels[start : start + columns])
        for start in range(0, len(panels), columns)
    ]
    after = losses[losses["after_peak"]]["estimate"]
    scale = Normalize(0, max(LEAST_SCALE, float(np.nan_to_num(after.max()))))
    bar = ScalarMappable(scale, WARM), "test top-1 lost since the peak, points"
    figure, axes = sheet(
        SUBJECT,
        title,
        [ROW * n for n in rows],
        columns,
        around=0.8,
        bar=bar,
        legend=[
            Line2D([], [], marker="s", ls="", ms=8, mfc="none", mec=INK, label="the peak"),
            Line2D([], [], marker="s", ls="", ms=8, color=WARM(0.6), label="after the peak: lost"),
            Line2D([], [], marker="s", ls="", ms=2, color=INK, label="bold: interval excludes 0"),
        ],
    )
    for place, (probe, block) in enumerate(panels):
        axis = axes.flat[place]
        if not block:
            axis.remove()
            continue
        cell = (WIDTH / columns - (0.65 if by_width else 1.3)) / len(epochs)
        _panel(axis, probe, _rows(probe, block), epochs, scale, by_width, cell)
        heading(axis, *headings[place])
    return Drawing(figure, told(_caption(losses)))


def _filled(blocks: list[list[str]], columns: int) -> list[list[str]]:
    """Whole rows of panels, the last one filled with none."""
    return blocks + [[]] * (-len(blocks) % columns)


def _heading(probe: pd.DataFrame, block: list[str], columns: int) -> tuple[str, list[str]]:
    kind, variant = str(probe["probe"].iloc[0]), str(probe["variant"].iloc[0])
    name = probe_name(kind, variant)
    title = f"{name}: {block[0]}" if len(block) == 1 else name
    return title, wrap(variant, SMALL, WIDTH / columns - 0.8)


def _rows(probe: pd.DataFrame, block: list[str]) -> list[tuple[str, int]]:
    """The lines (method, width) of a panel from the top: widths falling, as on an axis."""
    of_block = probe[probe["method"].isin(block)]
    pairs = set(zip(of_block["method"], of_block["embedding_dim"], strict=True))
    return sorted(pairs, key=lambda line: (block.index(line[0]), -line[1]))


def _panel(
    axis: Axes,
    probe: pd.DataFrame,
    rows: list[tuple[str, int]],
    epochs: list[int],
    scale: Normalize,
    by_width: bool,
    cell: float,
) -> None:
    shades = np.full((len(rows), len(epochs), 4), NOT_THERE)
    of_rows = probe[
        [line in rows for line in zip(probe["method"], probe["embedding_dim"], strict=True)]
    ]
    peaks: dict[int, int] = {}
    for milestone in rows_of(of_rows):
        row, column = (
            rows.index((milestone.method, milestone.embedding_dim)),
            epochs.index(milestone.epoch),
        )
        if not milestone.after_peak:
            peaks[row] = max(column, peaks.get(row, column))
        shades[row, column] = BLANK
        if np.isnan(milestone.estimate) or not milestone.after_peak:
            continue
        shade = WARM(scale(milestone.estimate)) if milestone.estimate > 0 else BLANK
        shades[row, column] = shade
        if cell >= NUMBER:
            _number(axis, column, row, milestone, shade)
    axis.imshow(shades, aspect="auto", interpolation="nearest")
    for row, column in peaks.items():
        frame = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, ec=INK, lw=1.2, zorder=4)
        frame.set_clip_on(False)
        axis.add_patch(frame)
    axis.set_yticks(
        range(len(rows)),
        [str(dim) if by_width else line_label(method, dim) for method, dim in rows],
    )
    if by_width:
        axis.set_ylabel("width d")
    labelled = epochs if cell >= NUMBER else epochs[:: math.ceil(LABEL / cell)]
    axis.set_xticks([epochs.index(epoch) for epoch in labelled], [str(e) for e in labelled])
    axis.set_xlabel("pre-training epoch")
    axis.tick_params(length=0)
    axis.grid(False)
    if cell >= NUMBER:
        axis.set_xticks(np.arange(len(epochs) - 1) + 0.5, minor=True)
        axis.grid(True, which="minor", axis="x", color="white", lw=1)
    axis.set_yticks(np.arange(len(rows) - 1) + 0.5, minor=True)
    axis.grid(True, which="minor", axis="y", color="white", lw=1)
    axis.tick_params(which="minor", length=0)
    axis.set_axisbelow(False)
    axis.spines[:].set_visible(False)


def _number(axis: Axes, column: int, row: int, milestone: Any, shade: tuple[float, ...]) -> None:
    """A cell's number, bold with a dot where the interval excludes 0."""
    estimate = milestone.estimate
    shown = bool(milestone.low > 0 or milestone.high < 0)
    dark = 0.2126 * shade[0] + 0.7152 * shade[1] + 0.0722 * shade[2] < 0.45
    colour = "white" if dark else INK if estimate > 0 else GREY
    text = signed(f"{estimate:.1f}")
    axis.text(
        column,
        row,
        text.lstrip(MINUS) if float(f"{estimate:.1f}") == 0 else text,
        ha="center",
        va="center_baseline",
        fontsize=SMALL,
        color=colour,
        fontweight="bold" if shown else "normal",
        zorder=5,
    )
    if shown:
        axis.plot(column + 0.4, row - 0.33, "s", ms=2, color=colour, zorder=5)


def _caption(losses: pd.DataFrame) -> list[str]:
    seeds = sorted(int(n) for n in losses["n"].unique())
    peak = (
        "The peak of each seed is chosen on the other seeds' validation curves, the loss is read "
        "on its own test images; the frame is the peak of the mean validation curve"
        if seeds[-1] > 1
        else "One seed: it chooses its own peak, which flatters the loss, and has no interval"
    )
    spans = losses.groupby([*LINE])["epoch"].nunique()
    grey = " Grey: a milestone that others have." if spans.nunique() > 1 else ""
    return [
        f"{protocols(losses)}, {number_of(seeds, 'seed')}. {peak}.{grey}",
        *settings(losses),
    ]
