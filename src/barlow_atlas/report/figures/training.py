"""Training dynamics: the loss and its terms on training and held-out images."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from barlow_atlas.report.figures.canvas import (
    Drawing,
    clean,
    heading,
    line_handles,
    number_of,
    plain,
    sheet,
    style,
    told,
)
from barlow_atlas.report.figures.curves import protocols
from barlow_atlas.report.figures.epochs import draw_mean, epoch_axis, over_seeds
from barlow_atlas.report.figures.palette import INK, Look, looks, ordered

SUBJECT = "Training dynamics: Barlow Twins' loss and its terms, and each method's own loss"
TERMS = {
    "invariance": "Invariance term",
    "redundancy": "Redundancy term",
    "bt_loss": "Barlow Twins loss",
}
HELD_OUT = (3, 1.5)
"""Dashes of held-out images; here markers alone tell widths apart."""
WIDE = 30
"""Values that span more than this factor are shown on a logarithmic axis."""
COLUMNS = 3


@style()
def dynamics(
    title: str, signals: pd.DataFrame, training: pd.DataFrame, methods: Sequence[str] = ()
) -> Drawing:
    """The terms of Barlow Twins' loss after the projector, the generalisation gap, own losses.

    Terms are those of the label-free signals: of networks at rest, on training images (solid) and
    held-out ones (dashed) alike, for every method. The gap is the loss on held-out minus that on
    training images, seed by seed. A method's own loss is what its training reported, a mean over
    each epoch's steps.

    Args:
        signals: as `frames.read_signals` gives it.
        training: as `training.training_table` gives it.
        methods: as in `palette.looks`.
    """
    terms = signals[(signals["space"] == "projector") & signals["signal"].isin(TERMS)]
    # The signals may be those of a method without a projector, too: its backbone is all there is.
    terms = terms.dropna(subset=["value"])
    training = training.dropna(subset=["loss"])
    if terms.empty and training.empty:
        return plain(SUBJECT, title, "No milestone of a network with a projector is probed yet.")
    pairs = [
        zip(frame["method"], frame["embedding_dim"], strict=True) for frame in (terms, training)
    ]
    lines = looks([line for pair in pairs for line in pair], methods)
    with_metrics = [
        method
        for method in ordered(training["method"], methods)
        if method in set(training["method"])
    ]
    panels = len(TERMS) + 1 + len(with_metrics)
    rows = -(-panels // COLUMNS)
    figure, axes = sheet(
        SUBJECT,
        title,
        [1.25] * rows,
        COLUMNS,
        legend=[
            *(_solid(handle) for handle in line_handles(lines)),
            Line2D([], [], color=INK, lw=1.2, label="training images"),
            Line2D([], [], color=INK, lw=1.2, ls=(0, HELD_OUT), label="held-out images"),
        ],
    )
    for axis in axes.flat[panels:]:
        axis.remove()
    keys = ["method", "embedding_dim", "epoch"]
    for axis, (term, name) in zip(axes.flat, TERMS.items(), strict=False):
        of_term = terms[terms["signal"] == term]
        for split, dash in (("train", ()), ("held-out", HELD_OUT)):
            means = over_seeds(of_term[(of_term["split"] == "train") == (split == "train")], keys)
            _draw(axis, means, lines, dash)
        _scale(axis, of_term["value"])
        epoch_axis(axis, of_term["epoch"])
        heading(axis, name, ["of the projector's two views"])
    gap_axis = axes.flat[len(TERMS)]
    gap = _gap(terms[(terms["signal"] == "bt_loss") & (terms["epoch"] > 0)])
    _draw(gap_axis, over_seeds(gap, keys), lines, ())
    gap_axis.axhline(0, color=INK, lw=0.7)
    gap_axis.yaxis.set_major_locator(MaxNLocator(5))
    epoch_axis(gap_axis, terms["epoch"])
    heading(gap_axis, "Generalisation gap", ["Barlow Twins loss, held-out minus training"])
    for axis, method in zip(axes.flat[len(TERMS) + 1 :], with_metrics, strict=False):
        of_method = training[training["method"] == method]
        _draw(axis, over_seeds(of_method, keys, "loss"), lines, (), marked=False)
        _scale(axis, of_method["loss"])
        epoch_axis(axis, [*terms["epoch"].unique(), of_method["epoch"].max()])
        heading(axis, clean(method), ["own training loss"])
    return Drawing(figure, told(_caption(signals, training)))


def _solid(handle: Line2D) -> Line2D:
    handle.set_linestyle("-")
    return handle


def _gap(loss: pd.DataFrame) -> pd.DataFrame:
    """Loss on held-out minus loss on training images, of each run and epoch."""
    keys = ["run", "method", "embedding_dim", "seed", "epoch"]
    train = loss[loss["split"] == "train"][[*keys, "value"]]
    held_out = loss[loss["split"] != "train"][[*keys, "value"]]
    both = held_out.merge(train, on=keys, suffixes=("", "_train"))
    return both.assign(value=both["value"] - both["value_train"])


def _draw(
    axis: Axes,
    means: pd.DataFrame,
    lines: Mapping[tuple[str, int], Look],
    dash: tuple[float, ...],
    marked: bool = True,
) -> None:
    for (method, dim), look in lines.items():
        mean = means[(means["method"] == method) & (means["embedding_dim"] == dim)]
        if not mean.empty:
            draw_mean(axis, mean, look, len(lines), dash, marked)


def _scale(axis: Axes, values: pd.Series) -> None:
    """A logarithmic axis for values that span much; bands may end outside of it."""
    if len(values) and values.min() > 0 and values.max() > WIDE * values.min():
        axis.set_yscale("log", nonpositive="clip")
        axis.set_ylim(values.min() / 1.5, values.max() * 1.5)
        axis.yaxis.set_major_locator(LogLocator(numticks=5))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axis.yaxis.set_major_locator(MaxNLocator(5))


def _caption(signals: pd.DataFrame, training: pd.DataFrame) -> list[str]:
    runs = pd.concat([frame[["method", "embedding_dim", "seed"]] for frame in (signals, training)])
    seeds = sorted(runs.groupby(["method", "embedding_dim"])["seed"].nunique())
    band = (
        "Band: 95 % t interval over seeds"
        if seeds[-1] > 1
        else "One seed: no interval can be given"
    )
    of_protocol = f"{protocols(signals)}, " if len(signals) else ""
    return [
        f"{of_protocol}{number_of(seeds, 'seed')}. {band}. Terms: correlations of two views of the "
        "same images, networks at rest, summed as in the loss and with its usual weight, for every "
        "method alike. Own losses differ in kind from method to method; only their course compares."
    ]
