"""Published values beside measured ones."""

import math
from itertools import pairwise

import pandas as pd
from matplotlib.lines import Line2D

from barlow_atlas.report.figures.canvas import (
    SMALL,
    Drawing,
    number_of,
    plain,
    rows_of,
    sheet,
    style,
    wrap,
)
from barlow_atlas.report.figures.forests import interval, row_axis
from barlow_atlas.report.figures.palette import COLOURS, GREY, INK, Look

SUBJECT = "Published values beside ours"
HOW = (
    "Ours: mean with 95 % interval for new seeds and new test images; an open circle has no "
    "interval, since it comes from one seed. To the right: what differs in the set-up. A published "
    "value comes without an interval."
)
OURS = Look(COLOURS[0], "o")


@style()
def published(beside: pd.DataFrame) -> Drawing:
    """A row for each published value that has been measured: theirs open, ours filled.

    Args:
        beside: columns `label` (method, data set, probe), `published`, `estimate`, `low`, `high`
            (all in percent; NaN estimate: not measured), `differs` (the set-up, a tuple of texts).
    """
    measured = beside.dropna(subset=["estimate", "published"])
    waiting = len(beside) - len(measured)
    if measured.empty:
        return plain(
            SUBJECT,
            "",
            f"{number_of([len(beside)], 'published value')}, none of them measured yet: no "
            "finished run has their method, data set and probe.",
        )
    labels = [wrap(label, SMALL, 2.5) for label in measured["label"]]
    texts = [wrap("; ".join(differs), SMALL, 2.0) for differs in measured["differs"]]
    lines = [max(len(label), len(text)) for label, text in zip(labels, texts, strict=True)]
    comparable = any(not differs for differs in measured["differs"])
    figure, axes = sheet(
        SUBJECT if comparable else f"{SUBJECT}: not comparable yet, the set-ups differ",
        f"{number_of([len(measured)], 'value')} measured, {waiting} not yet",
        [0.145 * sum(lines) + 0.1 * len(lines)],
        legend=[
            Line2D([], [], marker="D", ls="", mfc="white", mec=INK, label="published"),
            Line2D([], [], marker=OURS.marker, color=OURS.colour, label="ours"),
        ],
    )
    axis = axes[0, 0]
    values = measured[["published", "estimate", "low", "high"]].to_numpy().ravel()
    finite = [value for value in values if math.isfinite(value)]
    room = 0.06 * (max(finite) - min(finite)) or 1.0
    axis.set_xlim(min(finite) - room, max(finite) + room)
    edges = [0.0]
    for count in lines:
        edges.append(edges[-1] + 0.145 * count + 0.1)
    middles = [(top + bottom) / 2 for top, bottom in pairwise(edges)]
    row_axis(axis, middles, ["\n".join(label) for label in labels])
    axis.set_ylim(edges[-1], 0)
    for y, text, row in zip(middles, texts, rows_of(measured), strict=True):
        axis.plot([row.published, row.estimate], [y, y], color="#BBBBBB", lw=0.8, zorder=1)
        axis.plot(row.published, y, "D", mfc="white", mec=INK, ms=4.5, zorder=5)
        interval(axis, y, row.estimate, row.low, row.high, OURS)
        axis.annotate(
            "\n".join(text),
            (1.01, y),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=SMALL,
            color=GREY,
        )
    axis.set_xlabel("accuracy, %")
    return Drawing(figure, HOW)
