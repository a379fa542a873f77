"""Accuracy along pre-training."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.axes import Axes

from barlow_atlas.atlas.frames import HEADLINES, headlines
from barlow_atlas.report.answer import BARLOW, MIXED
from barlow_atlas.report.figures.canvas import (
    SMALL,
    WIDTH,
    Drawing,
    clean,
    grid,
    heading,
    line_handles,
    number_of,
    plain,
    probe_name,
    sheet,
    style,
    told,
    wrap,
)
from barlow_atlas.report.figures.epochs import draw_mean, epoch_axis
from barlow_atlas.report.figures.palette import BEHIND, Look, looks, ordered
from barlow_atlas.report.text import probe_order

SUBJECT = "Accuracy of the frozen features along pre-training"
FEW, MANY = 4, 60
"""Up to so many lines and milestones, a panel also shows the seeds."""
CROWD = 6
"""Methods that a panel holds; of more, those that are not asked for have panels of their own."""
ASKED = 4
"""Methods that are asked for where the study does not have the two of the question."""
Lines = dict[tuple[str, int], Look]


@dataclass(frozen=True)
class _Panel:
    """A panel: its lines of one probe, and lines that are drawn in grey behind them."""

    title: str
    told: list[str]
    means: pd.DataFrame
    seeds: pd.DataFrame
    lines: Lines
    behind: Lines = field(default_factory=dict)


@style()
def accuracy_curves(
    title: str, probes: pd.DataFrame, curves: pd.DataFrame, methods: Sequence[str] = ()
) -> Drawing:
    """Test top-1, mAP or AP against the pre-training epoch, a panel for each probe and setting.

    Bands are the intervals over seeds, thin lines the seeds. Of many methods these panels hold
    those of the question; each other method has a panel by the main probe, before the first one.

    Args:
        probes: as `frames.read_probes` gives it.
        curves: as `curves.mean_curves` gives it.
        methods: as in `palette.looks`.
    """
    probes, curves = (headlines(frame[frame["split"] == "test"]) for frame in (probes, curves))
    if curves.empty:
        return plain(SUBJECT, title, "No milestone has been probed yet.")
    metrics = set(curves["metric"])
    told_metrics = " or ".join(name for metric, name in HEADLINES.items() if metric in metrics)
    lines = looks(zip(curves["method"], curves["embedding_dim"], strict=True), methods)
    crowded = curves["method"].nunique() > CROWD
    asked = set(asked_methods(curves, methods)) if crowded else set(curves["method"])
    apart = [method for method in dict.fromkeys(name for name, _ in lines) if method not in asked]
    together = {line: look for line, look in lines.items() if line[0] in asked}
    of_probes = list(curves.groupby(["probe", "variant", "setting"], sort=False))
    rows, columns = grid(len(of_probes) + len(apart))
    width = WIDTH / columns - 0.6
    panels = [
        _Panel(
            probe_name(str(probe), str(variant)),
            wrap(variant, SMALL, width),
            means,
            _of(probes, probe, variant, setting),
            together,
        )
        for (probe, variant, setting), means in of_probes
    ]
    (probe, variant, setting), means = min(of_probes, key=lambda one: probe_order(str(one[0][0])))
    seeds = _of(probes, probe, variant, setting)
    panels += [
        _apart(name, probe_name(str(probe), str(variant)), means, seeds, lines) for name in apart
    ]
    figure, axes = sheet(
        SUBJECT,
        title,
        [1.5 if columns == 3 else 2.1] * rows,
        columns,
        legend=line_handles(together),
    )
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for place, panel in enumerate(panels):
        axis, row = axes.flat[place], place // columns
        _draw(axis, panel)
        epoch_axis(axis, panel.means["epoch"], 21 // columns)
        axis.set_ylim(top=min(axis.get_ylim()[1], 101))
        beside = panels[row * columns : (row + 1) * columns]
        heading(axis, panel.title, panel.told, max(len(other.told) for other in beside))
        if place % columns == 0:
            axis.set_ylabel(f"test {told_metrics}, %")
    return Drawing(figure, told([*basis(curves), *settings(curves)]))


def _of(probes: pd.DataFrame, probe: object, variant: object, setting: object) -> pd.DataFrame:
    return probes[
        (probes["probe"] == probe) & (probes["variant"] == variant) & (probes["setting"] == setting)
    ]


def _apart(
    method: str, probe: str, means: pd.DataFrame, seeds: pd.DataFrame, lines: Lines
) -> _Panel:
    """One method's panel; behind it the first method at the same widths."""
    own = {line: look for line, look in lines.items() if line[0] == method}
    (first, _), *_ = lines
    behind = {(first, dim): BEHIND for _, dim in own if (first, dim) in lines}
    shown = means[means["method"].isin([method, *(name for name, _ in behind)])]
    grey = f"; grey: {first}" if behind else ""
    return _Panel(method, [f"{probe}{grey}"], shown, seeds, own, behind)


def _draw(axis: Axes, panel: _Panel) -> None:
    few = len(panel.lines) <= FEW and panel.means["epoch"].nunique() <= MANY
    for (method, dim), look in {**panel.behind, **panel.lines}.items():
        seeds = panel.seeds
        of_line = seeds[(seeds["method"] == method) & (seeds["embedding_dim"] == dim)]
        if few and (method, dim) in panel.lines:
            for _, seed in of_line.sort_values("epoch").groupby("run"):
                axis.plot(seed["epoch"], seed["value"], color=look.colour, alpha=0.4, linewidth=0.6)
        means = panel.means
        mean = means[(means["method"] == method) & (means["embedding_dim"] == dim)]
        draw_mean(axis, mean, look, len(panel.lines))


def asked_methods(curves: pd.DataFrame, methods: Sequence[str]) -> list[str]:
    """The methods of the question that have results, else the first few.

    Args:
        curves: columns of curves.csv, of one study.
        methods: as in `palette.looks`.
    """
    named = curves[["method", "objective"]].drop_duplicates()
    objectives = {m: o.partition(" ")[0] for m, o in named.itertuples(index=False)}
    order = ordered(objectives, methods)
    present = [method for method in order if method in objectives]
    both = [m for m in present if m in ("bt", "mix") and objectives[m] in (BARLOW, MIXED)]
    return both if len(both) == 2 else present[:ASKED]


def basis(curves: pd.DataFrame) -> list[str]:
    """Protocol, seeds, band and objectives: an accuracy must be printed with them."""
    seeds = sorted(int(n) for n in curves["seeds"].unique())
    band = (
        "Band: 95 % t interval over seeds"
        if seeds[-1] > 1
        else "One seed: no interval can be given"
    )
    return [f"{protocols(curves)}, {number_of(seeds, 'seed')}. {band}.", objectives(curves)]


def settings(frame: pd.DataFrame) -> list[str]:
    """What the probes' short names stand for."""
    columns = ["probe", "variant", "setting"]
    named = frame[columns].drop_duplicates().sort_values(columns)
    return [
        f"{probe_name(probe, variant)}: {setting}."
        for probe, variant, setting in named.itertuples(index=False)
        if setting != variant
    ]


def protocols(frame: pd.DataFrame) -> str:
    """`Protocol clean`, or both."""
    return clean(f"Protocol {', '.join(sorted(frame['protocol'].astype(str).unique()))}")


def objectives(frame: pd.DataFrame) -> str:
    """What each method minimised."""
    pairs = sorted(set(zip(frame["method"], frame["objective"], strict=True)))
    return "; ".join(f"{method}: {objective}" for method, objective in pairs) + "."
