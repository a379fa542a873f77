"""Accuracy along pre-training."""

from collections.abc import Sequence

import pandas as pd

from barlow_atlas.atlas.frames import HEADLINES, headlines
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
from barlow_atlas.report.figures.palette import looks

SUBJECT = "Accuracy of the frozen features along pre-training"
FEW, MANY = 4, 60
"""Up to so many lines and milestones, a panel also shows the seeds."""


@style()
def accuracy_curves(
    title: str, probes: pd.DataFrame, curves: pd.DataFrame, methods: Sequence[str] = ()
) -> Drawing:
    """Test top-1, mAP or AP against the pre-training epoch, a panel for each probe and setting.

    Bands are the intervals over seeds, thin lines the seeds.

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
    panels = list(curves.groupby(["probe", "variant", "setting"], sort=False))
    rows, columns = grid(len(panels))
    variants = [wrap(variant, SMALL, WIDTH / columns - 0.6) for (_, variant, _), _ in panels]
    figure, axes = sheet(
        SUBJECT,
        title,
        [1.5 if columns == 3 else 2.1] * rows,
        columns,
        legend=line_handles(lines),
    )
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for place, ((probe, variant, setting), means) in enumerate(panels):
        axis, row = axes.flat[place], place // columns
        seeds = probes[
            (probes["probe"] == probe)
            & (probes["variant"] == variant)
            & (probes["setting"] == setting)
        ]
        for (method, dim), look in lines.items():
            of_line = seeds[(seeds["method"] == method) & (seeds["embedding_dim"] == dim)]
            if len(lines) <= FEW and means["epoch"].nunique() <= MANY:
                for _, seed in of_line.sort_values("epoch").groupby("run"):
                    thin = {"color": look.colour, "alpha": 0.4, "linewidth": 0.6}
                    axis.plot(seed["epoch"], seed["value"], **thin)
            mean = means[(means["method"] == method) & (means["embedding_dim"] == dim)]
            draw_mean(axis, mean, look, len(lines))
        epoch_axis(axis, means["epoch"], 21 // columns)
        axis.set_ylim(top=min(axis.get_ylim()[1], 101))
        shown = variants[row * columns : (row + 1) * columns]
        heading(axis, probe_name(str(probe), str(variant)), variants[place], max(map(len, shown)))
        if place % columns == 0:
            axis.set_ylabel(f"test {told_metrics}, %")
    return Drawing(figure, told([*basis(curves), *settings(curves)]))


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
