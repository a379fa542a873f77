"""The figure of the answer: accuracy along pre-training, and below it what the objective does."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from barlow_atlas.report.answer import points
from barlow_atlas.report.figures.canvas import (
    COLUMN,
    LEADING,
    LEGEND,
    SMALL,
    WIDTH,
    Drawing,
    legend_columns,
    plain,
    sign,
    style,
    told,
    wrap,
)
from barlow_atlas.report.figures.epochs import MARKED
from barlow_atlas.report.figures.palette import GREY, INK
from barlow_atlas.report.figures.panels import Course, Panel

SUBJECT = "Accuracy along pre-training"
HEIGHT, LOSS_HEIGHT = 1.65, 0.95
"""Inches of the two parts of a panel."""
ABREAST = 3
NAMES, BRACKET = 0.86, 0.12
"""Inches beside a panel: with the names of its lines, and where a legend has them."""
LEFT, BELOW, APART = 0.42, 0.36, 0.12
TITLE = 8
SETTLED = 0.1
"""Share of the epochs after which losses decide the axis: before, they fall from far above."""
WRITTEN_FROM = 0.55
"""Share of the epochs from which on the difference at the end is written, under all lines."""
HELD_OUT = (2.5, 1.2)


@style()
def answer_figure(
    panels: Sequence[Panel],
    heads: Sequence[tuple[str, str]] = (),
    beside: Sequence[Panel] = (),
) -> Drawing:
    """Panels side by side, each with accuracy above and the loss below.

    Epochs are on a linear axis, and all panels of a study share their axes of accuracy. Names stand
    at the lines' ends; of more than two panels, three in a row, above all of them. A fall that is
    shown is shaded from its peak on, a difference at the end that is shown has a bracket.

    Args:
        panels: none if nothing has been probed.
        heads: questions and their answers, above the panels.
        beside: panels of other figures, which share the axes of these.
    """
    if not panels:
        return plain(SUBJECT, "", "No milestone has been probed yet.")
    columns = min(len(panels), ABREAST)
    width = COLUMN if columns == 1 else WIDTH
    losses = any(len(course.loss) for panel in panels for course in panel.courses)
    named = columns < ABREAST
    keys = [] if named else [*_name_keys(panels), *(_loss_keys() if losses else [])]
    cell = width / columns
    titles = [
        [*wrap(p.study, TITLE, cell - LEFT, "bold"), *filter(None, [p.width])] for p in panels
    ]
    above = max(map(len, titles)) * TITLE * LEADING / 72 + APART
    each = above + HEIGHT + BELOW + (LOSS_HEIGHT + APART if losses else 0)
    lines = [(text, bold) for head in heads for text, bold in _wrapped(*head, width)]
    top = sum(_leading(bold) for _, bold in lines) + (0.1 if lines else 0)
    keys_from = top
    if keys:
        in_a_row = legend_columns([str(key.get_label()) for key in keys])
        top += -(-len(keys) // in_a_row) * LEGEND * 1.5 / 72 + 0.08
    rows = -(-len(panels) // columns)
    height = top + rows * each
    figure = Figure(figsize=(width, height))
    y = height
    for text, bold in lines:
        weight, colour = ("bold", INK) if bold else ("normal", GREY)
        size = 10 if bold else 8
        at: dict[str, Any] = {"va": "top", "fontsize": size, "fontweight": weight, "color": colour}
        figure.text(0.03 / width, y / height, text, **at)
        y -= _leading(bold)
    if keys:
        figure.legend(
            handles=keys, loc="upper left", bbox_to_anchor=(0.03 / width, 1 - keys_from / height),
            ncols=in_a_row, borderaxespad=0, borderpad=0, labelspacing=0.35,
        )  # fmt: skip
    for place, panel in enumerate(panels):
        left = (place % columns) * cell
        first = named or not place % columns
        base = height - top - (place // columns + 1) * each + BELOW
        box = (left + LEFT, cell - LEFT - (NAMES if named else BRACKET))
        with_loss = any(len(course.loss) for course in panel.courses)
        if with_loss:
            axis = _axis(figure, box, base, LOSS_HEIGHT)
            _losses(axis, panel)
            axis.set_ylabel("BT's loss" if first else "", fontsize=SMALL)
            if named:
                axis.legend(
                    handles=_loss_keys("\n"), loc="center left", bbox_to_anchor=(1.01, 0.5),
                    fontsize=SMALL, handlelength=1.6, labelspacing=0.5, borderpad=0,
                    handletextpad=0.4,
                )  # fmt: skip
        base += LOSS_HEIGHT + APART if losses else 0
        upper = _axis(figure, box, base, HEIGHT)
        upper.set_title("\n".join(titles[place]), fontsize=TITLE, pad=4)
        _accuracy(upper, panel, [*panels, *beside], below=with_loss)
        upper.set_ylabel("test accuracy, %" if first else "", fontsize=SMALL)
        if named:
            _name(upper, panel.courses)
    bases = dict.fromkeys(f"{p.study}: {p.basis}" if p.study else p.basis for p in panels)
    return Drawing(figure, told(bases))


def _wrapped(question: str, answer: str, width: float) -> list[tuple[str, bool]]:
    return [
        *((line, False) for line in wrap(question, 8, width)),
        *((line, True) for line in wrap(answer, 10, width, "bold")),
    ]


def _leading(bold: bool) -> float:
    return (10 * LEADING + 3 if bold else 8 * LEADING) / 72


def _axis(figure: Figure, box: tuple[float, float], base: float, height: float) -> Axes:
    width, whole = figure.get_size_inches()
    return figure.add_axes((box[0] / width, base / whole, box[1] / width, height / whole))


def _accuracy(axis: Axes, panel: Panel, beside: Sequence[Panel], below: bool) -> None:
    for course in panel.courses:
        of = course.accuracy
        axis.fill_between(
            of["epoch"], of["low"], of["high"], color=course.look.colour, alpha=0.18, lw=0
        )
        every = -(-len(of) // MARKED)
        look = course.look
        marks = {**sign(look), "ms": 3.4, "markevery": every, "clip_on": False}
        axis.plot(of["epoch"], of["mean"], color=look.colour, **marks)
        if course.fell_from is not None:
            _shade(axis, course)
    values = pd.concat([c.accuracy for p in _of_study(panel, beside) for c in p.courses])
    low = float(np.nanmin(values[["mean", "low"]]))
    high = min(float(np.nanmax(values[["mean", "high"]])), 100.0)
    room = 0.06 * (high - low) or 1.0
    axis.set_ylim(max(low - room, 0) if low >= 0 else low - room, high + room)
    _epochs(axis, panel, labelled=not below)
    axis.yaxis.set_major_locator(MaxNLocator(5, integer=high - low > 4))
    if panel.gap is not None and len(panel.courses) == 2:
        _bracket(axis, panel)


def _of_study(panel: Panel, beside: Sequence[Panel]) -> list[Panel]:
    """Those with which it shares its axis."""
    return [other for other in beside if other.study == panel.study]


def _shade(axis: Axes, course: Course) -> None:
    """What is lost since the peak."""
    of = course.accuracy[course.accuracy["epoch"] >= course.fell_from]
    level = of["mean"].iloc[0]
    axis.fill_between(
        of["epoch"], of["mean"], level, where=of["mean"] < level, color=course.look.colour,
        alpha=0.25, lw=0, hatch="////", edgecolor="white",
    )  # fmt: skip
    axis.hlines(level, of["epoch"].iloc[0], of["epoch"].iloc[-1], color=GREY, lw=0.7, ls=":")


def _bracket(axis: Axes, panel: Panel) -> None:
    """The difference at the end, inside the panel beside the lines' ends."""
    assert panel.gap is not None
    ends = sorted(course.accuracy["mean"].iloc[-1] for course in panel.courses)
    epochs = panel.courses[0].accuracy["epoch"]
    last = float(epochs.max())
    x = last * 1.03
    axis.plot([x, x * 1.012, x * 1.012, x], np.repeat(ends, 2), color=INK, lw=0.8, clip_on=False)
    size = f"{'+' if panel.gap.estimate > 0 else ''}{points(panel.gap.estimate)} points"
    over = np.linspace(WRITTEN_FROM * last, last)
    under = min(
        np.interp(over, course.accuracy["epoch"], course.accuracy["mean"]).min()
        for course in panel.courses
    )
    axis.annotate(
        size,
        (last, under),
        xytext=(2, -6),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=SMALL + 0.5,
        fontweight="bold",
        color=INK,
    )


def _name(axis: Axes, courses: Sequence[Course]) -> None:
    """Each line's name beside its end, moved apart where they would touch."""
    figure = axis.get_figure(root=True)
    assert figure is not None
    inches = axis.get_position().height * figure.get_size_inches()[1]
    low, high = axis.get_ylim()
    texts = [wrap(course.name, SMALL, NAMES - 0.1, "bold") for course in courses]
    step = SMALL * 1.15 / 72 / inches
    wanted = [(c.accuracy["mean"].iloc[-1] - low) / (high - low) for c in courses]
    heights = [len(text) * step for text in texts]
    places = _apart(wanted, heights)
    for text, place in zip(texts, places, strict=True):
        axis.annotate(
            "\n".join(text),
            (1, place),
            xycoords="axes fraction",
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            linespacing=1.05,
            fontsize=SMALL,
            fontweight="bold",
            color=INK,
        )


def _apart(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Middles near the wanted ones, from the lowest up, so that no two of these heights touch."""
    order = np.argsort(wanted)
    places = np.array(wanted, dtype=float)
    for lower, upper in pairwise(order):
        room = (heights[lower] + heights[upper]) / 2 + 0.02
        places[upper] = max(places[upper], places[lower] + room)
    # As much too high as the wanted ones are moved: half of it back.
    return list(places - (places - np.array(wanted)).mean())


def _losses(axis: Axes, panel: Panel) -> None:
    last = max(course.accuracy["epoch"].max() for course in panel.courses)
    settled = []
    for course in panel.courses:
        for held_out, of in course.loss.groupby("held_out"):
            dash = (0, HELD_OUT) if held_out else "-"
            axis.plot(of["epoch"], of["mean"], color=course.look.colour, lw=1.2, ls=dash)
            settled.append(of[of["epoch"] >= SETTLED * last]["mean"])
            if held_out:
                lowest = of.iloc[int(of["mean"].to_numpy().argmin())]
                mark: dict[str, Any] = {
                    "color": course.look.colour,
                    "ms": 5,
                    "mec": "white",
                    "mew": 0.6,
                }
                axis.plot(lowest["epoch"], lowest["mean"], "v", **mark, zorder=5, clip_on=False)
    values = pd.concat(settled) if settled else pd.Series([0.0, 1.0])
    room = 0.08 * (values.max() - values.min()) or 1.0
    axis.set_ylim(values.min() - room, values.max() + room)
    axis.yaxis.set_major_locator(MaxNLocator(3))
    _epochs(axis, panel, labelled=True)


def _name_keys(panels: Sequence[Panel]) -> list[Line2D]:
    """Legend entries of methods, whatever the width: that stands above a panel."""
    looks = {course.name: course.look for panel in panels for course in panel.courses}
    return [
        Line2D([], [], label=name, color=look.colour, **{**sign(look), "fillstyle": "full"})
        for name, look in looks.items()
    ]


def _loss_keys(gap: str = " ") -> list[Line2D]:
    """Legend entries of how losses are drawn; `gap` stands where their texts may break."""
    return [
        Line2D([], [], color=GREY, lw=1.2, label=f"training{gap}images"),
        Line2D([], [], color=GREY, lw=1.2, ls=(0, HELD_OUT), label=f"held-out{gap}images"),
        Line2D([], [], color=GREY, marker="v", ls="", ms=4.5, label="its lowest"),
    ]


def _epochs(axis: Axes, panel: Panel, labelled: bool) -> None:
    """A linear axis over all epochs."""
    last = max(course.accuracy["epoch"].max() for course in panel.courses)
    axis.set_xlim(0, max(last, 1))
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.tick_params(labelsize=SMALL, labelbottom=labelled)
    if labelled:
        axis.set_xlabel("pre-training epoch", fontsize=SMALL, labelpad=2)
