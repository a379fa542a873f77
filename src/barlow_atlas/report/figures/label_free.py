"""Label-free signals against accuracy."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from barlow_atlas.atlas.label_free import SENSES
from barlow_atlas.report.figures.canvas import (
    RHO,
    SMALL,
    WIDTH,
    Drawing,
    clean,
    heading,
    line_handles,
    number_of,
    plain,
    probe_name,
    sheet,
    sign,
    signed,
    stroke,
    style,
    told,
    wrap,
)
from barlow_atlas.report.figures.curves import protocols, settings
from barlow_atlas.report.figures.palette import GREY, Look, looks

SUBJECT = "Label-free signals on held-out images against accuracy"
NAMES = {
    "rankme": "RankMe",
    "effective_rank": "Effective rank",
    "feature_std": "Feature deviation",
    "alpha_req": "alpha-ReQ",
    "alignment": "Alignment",
    "uniformity": "Uniformity",
    "invariance": "Invariance",
    "redundancy": "Redundancy",
    "bt_loss": "Barlow Twins loss",
    "dead_dimensions": "Dead dimensions",
}
COLUMNS = 4
TOLD = 2
"""Up to so many lines, each has its rank correlation printed; with more, the range is."""
WIDE = 30
"""Values that span more than this factor are shown on a logarithmic axis."""
PROBES = ("linear", "knn")
"""The probe that is shown is the first of these that a study has."""


@style()
def signals(
    title: str,
    signals: pd.DataFrame,
    curves: pd.DataFrame,
    label_free: pd.DataFrame,
    methods: Sequence[str] = (),
) -> Drawing:
    """Each signal against the test top-1 of one probe: milestones joined in the order of time.

    Means over seeds; the first milestone is open, the last one filled. Under each signal's name
    stands its rank correlation with the probe along milestones.

    Args:
        signals: as `frames.read_signals` gives it.
        curves: as `curves.mean_curves` gives it.
        label_free: columns `frames.LINE`, `signal`, `space`, `split`, `statistic`, `estimate`,
            `low`, `high`; rows of the statistic `rank_correlation` are used.
        methods: as in `palette.looks`.
    """
    held_out = signals[signals["split"] != "train"]
    accuracy, probe = _accuracy(curves)
    points = (
        held_out.groupby(["signal", "space", "method", "embedding_dim", "epoch"], sort=True)[
            "value"
        ]
        .mean()
        .reset_index()
        .merge(accuracy, on=["method", "embedding_dim", "epoch"])
        .dropna(subset=["value", "accuracy"])
    )
    if points.empty:
        return plain(SUBJECT, title, "No milestone has both signals and an accuracy yet.")
    lines = looks(zip(points["method"], points["embedding_dim"], strict=True), methods)
    rank = label_free[
        (label_free["statistic"] == "rank_correlation") & (label_free["split"] != "train")
    ]
    rank = rank.merge(probe.to_frame().T, on=["probe", "variant", "setting"])
    panels = [
        (name, space)
        for name in [*SENSES, *sorted(set(points["signal"]) - set(SENSES))]
        for space in sorted(points["space"].unique())
        if _of(points, name, space)["value"].nunique() > 1
    ]
    ranks = [_correlations(rank, name, space, lines) for name, space in panels]
    most = max(map(len, ranks))
    rows = -(-len(panels) // COLUMNS)
    shown = probe_name(str(probe["probe"]), str(probe["variant"]))
    figure, axes = sheet(
        SUBJECT,
        title,
        [0.9] * rows,
        COLUMNS,
        around=0.6 + 0.13 * most,
        legend=[
            *line_handles(lines),
            Line2D([], [], marker="o", ls="", mfc="white", mec=GREY, ms=6, label="first milestone"),
            Line2D([], [], marker="o", ls="", color=GREY, ms=6, label="last milestone"),
        ],
    )
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for place, (name, space) in enumerate(panels):
        axis = axes.flat[place]
        of_panel = _of(points, name, space)
        _panel(axis, of_panel, lines)
        heading(axis, clean(NAMES.get(name, name)), [clean(space), *ranks[place]], most + 1)
        if place % COLUMNS == 0:
            axis.set_ylabel(f"{shown}, %", fontsize=7.5)
        else:
            axis.tick_params(labelleft=False)
    return Drawing(figure, told(_caption(held_out, curves, probe, rank, len(lines) <= TOLD)))


def _accuracy(curves: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """Mean test top-1 of the probe that is shown, and what that probe is."""
    chosen = curves[(curves["split"] == "test") & (curves["metric"] == "top1")]
    names = chosen[["probe", "variant", "setting"]].drop_duplicates()
    order = names["probe"].map(lambda name: PROBES.index(name) if name in PROBES else len(PROBES))
    if names.empty:
        return pd.DataFrame(columns=["method", "embedding_dim", "epoch", "accuracy"]), pd.Series()
    probe = names.iloc[int(order.to_numpy().argmin())]
    accuracies = chosen.merge(probe.to_frame().T, on=["probe", "variant", "setting"])
    accuracies = accuracies.rename(columns={"mean": "accuracy"})
    return accuracies[["method", "embedding_dim", "epoch", "accuracy"]], probe


def _of(frame: pd.DataFrame, name: str, space: str) -> pd.DataFrame:
    return frame[(frame["signal"] == name) & (frame["space"] == space)]


def _panel(axis: Axes, points: pd.DataFrame, lines: Mapping[tuple[str, int], Look]) -> None:
    for (method, dim), look in lines.items():
        of_line = points[(points["method"] == method) & (points["embedding_dim"] == dim)]
        of_line = of_line.sort_values("epoch")
        if of_line.empty:
            continue
        x, y = of_line["value"].to_numpy(), of_line["accuracy"].to_numpy()
        every = max(1, len(of_line) // 20)
        axis.plot(x, y, **stroke(look), marker=".", ms=2.5, lw=0.8, markevery=every)
        ends = {**sign(look), "ms": 6 if len(lines) <= TOLD else 4, "ls": ""}
        axis.plot(x[0], y[0], **{**ends, "fillstyle": "none"})
        axis.plot(x[-1], y[-1], **{**ends, "fillstyle": "full"})
    values = points["value"].to_numpy()
    if values.min() > 0 and values.max() > WIDE * values.min():
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(numticks=4))
        axis.xaxis.set_minor_locator(NullLocator())
    else:
        axis.xaxis.set_major_locator(MaxNLocator(3))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: signed(f"{value:g}")))
    axis.yaxis.set_major_locator(MaxNLocator(4))
    axis.tick_params(labelsize=SMALL)
    axis.margins(0.1)


def _correlations(
    rank: pd.DataFrame, name: str, space: str, lines: Mapping[tuple[str, int], Look]
) -> list[str]:
    """Spearman's rho of a signal, each line's with its interval or the range of many."""
    of_signal = _of(rank, name, space)
    if len(lines) > TOLD:
        known = of_signal["estimate"].dropna()
        if known.empty:
            return [f"{RHO} undefined"]
        return [signed(f"{RHO} {known.min():.2f} to {known.max():.2f}")]
    ranks = []
    for method, dim in lines:
        row = of_signal[(of_signal["method"] == method) & (of_signal["embedding_dim"] == dim)]
        if row.empty:
            continue
        estimate, low, high = row[["estimate", "low", "high"]].iloc[0].astype(float)
        text = "undefined" if np.isnan(estimate) else f"{estimate:.2f}"
        text += "" if np.isnan(low) else f" [{low:.2f}, {high:.2f}]"
        ranks += wrap(f"{RHO} {signed(text)} {method}", SMALL, WIDTH / COLUMNS - 0.2)[:1]
    return ranks


def _caption(
    held_out: pd.DataFrame, curves: pd.DataFrame, probe: pd.Series, rank: pd.DataFrame, few: bool
) -> list[str]:
    seeds = held_out.groupby(["method", "embedding_dim"])["seed"].nunique()
    splits = ", ".join(sorted(held_out["split"].unique()))
    what = (
        f"{RHO}: Spearman's rank correlation of signal and accuracy along milestones, the signal "
        "turned so that good is high; mean over seeds"
        + (" [95 % t interval over seeds]" if rank["low"].notna().any() and few else "")
        + ("" if few else ", the range over lines")
        + "; two curves that only rise have 1 without knowing of each other. "
        "Signals that have one value only are left out."
    )
    counted = f"{protocols(curves)}, {number_of(sorted(seeds), 'seed')}, split {splits}."
    of_probe = curves.merge(probe.to_frame().T, on=["probe", "variant", "setting"])
    return [f"{counted} Points are means over seeds. {what}", *settings(of_probe)]
