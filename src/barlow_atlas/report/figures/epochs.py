"""The axis of pre-training epochs, and what is drawn along it."""

import math
from collections.abc import Iterable, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from barlow_atlas.atlas.curves import t_half_width
from barlow_atlas.report.figures.canvas import sign, stroke
from barlow_atlas.report.figures.palette import Look

LINEAR_PART = 0.4
"""Decades that the step from the untrained network to the first milestone takes."""
MARKED = 12
"""A line with more milestones has a marker at about so many of them."""


def epoch_axis(axis: Axes, epochs: Iterable[int], labels: int = 7) -> None:
    """A logarithmic axis with the untrained network, epoch 0, at its left end."""
    shown = sorted({int(epoch) for epoch in epochs}) or [0]
    first = next((epoch for epoch in shown if epoch > 0), 1)
    axis.set_xscale("symlog", linthresh=first, linscale=LINEAR_PART)
    axis.xaxis.set_major_locator(FixedLocator(spread(shown, labels)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(ScalarFormatter())
    # Not left to matplotlib, whose margins depend on when the scale is set.
    decades = LINEAR_PART + math.log10(max(shown[-1] / first, 1))
    axis.set_xlim(-0.15 * first, max(shown[-1], first) * 10 ** (0.05 * decades))
    axis.set_xlabel("pre-training epoch")


def spread(epochs: Sequence[int], labels: int) -> list[int]:
    """The milestones to label: first and last, and between them those that leave each other room.

    Args:
        epochs: rising.
        labels: how many of three digits have room side by side.
    """
    first = next((epoch for epoch in epochs if epoch > 0), 1)

    def place(epoch: int) -> float:
        linear = LINEAR_PART / 0.9
        return linear * epoch / first if epoch < first else linear + math.log10(epoch / first)

    character = (place(epochs[-1]) - place(epochs[0])) / labels / 4

    def apart(left: int, right: int) -> bool:
        """Whether a character fits between the two labels, each in the middle of its place."""
        needed = (len(str(left)) + len(str(right))) / 2 + 1
        return place(right) - place(left) >= needed * character

    labelled = [epochs[0]]
    for epoch in epochs[1:-1]:
        if apart(labelled[-1], epoch) and apart(epoch, epochs[-1]):
            labelled.append(epoch)
    return labelled + [epoch for epoch in epochs[-1:] if epoch != labelled[0]]


def over_seeds(frame: pd.DataFrame, keys: Sequence[str], value: str = "value") -> pd.DataFrame:
    """Mean over rows with equal keys: `n`, `mean`, `low` and `high`, the 95 % t interval.

    NaN is left out; a mean of one has no interval.
    """
    table = frame.groupby(list(keys), sort=True)[value].agg(n="count", mean="mean", deviation="std")
    unit = table["n"].map({n: t_half_width(1.0, n) for n in set(table["n"])})
    half = unit * table["deviation"]
    table["low"], table["high"] = table["mean"] - half, table["mean"] + half
    return table.drop(columns="deviation").reset_index()


def draw_mean(
    axis: Axes,
    mean: pd.DataFrame,
    look: Look,
    crowd: int,
    dash: tuple[float, ...] | None = None,
    marked: bool = True,
) -> None:
    """A mean curve with its band.

    Args:
        mean: columns `epoch`, `mean`, `low`, `high`.
        crowd: lines in the panel; the more, the paler their bands.
        dash: instead of the look's, where dashes tell something else.
    """
    mean = mean.sort_values("epoch")
    alpha = 0.18 if crowd <= 2 else 0.1
    axis.fill_between(
        mean["epoch"], mean["low"], mean["high"], color=look.colour, alpha=alpha, linewidth=0
    )
    every = -(-len(mean) // MARKED)
    strokes = {**stroke(look), "linewidth": 1.5 if crowd <= 4 and every < 4 else 1.0}
    if dash is not None:
        strokes["linestyle"] = (0, dash) if dash else "-"
    signs = {**sign(look), "markevery": every} if marked else {}
    axis.plot(mean["epoch"], mean["mean"], **strokes, **signs)
