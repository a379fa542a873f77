"""The figures of a study."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

STYLE = Path(__file__).with_name("style.mplstyle")
PROBE_TITLES = {"knn": "kNN", "linear": "Linear probe"}


def accuracy_curves(title: str, tidy: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Test top-1 accuracy against the pre-training epoch, a panel for each probe and setting.

    Bands are the intervals over seeds, thin lines the seeds. The axis is logarithmic, with the
    untrained network at its left end.

    Args:
        tidy: as `frames.read_probes` gives it.
        curves: as `curves.mean_curves` gives it.
    """
    tidy, curves = (
        frame[(frame["split"] == "test") & (frame["metric"] == "top1")] for frame in (tidy, curves)
    )
    panels = list(curves.groupby(["probe", "setting"], sort=True))
    colours = _colours(curves)
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(
            1,
            len(panels),
            figsize=(3.4 * len(panels), 3.3),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for axis, ((probe, setting), means) in zip(axes[0], panels, strict=True):
            seeds = tidy[(tidy["probe"] == probe) & (tidy["setting"] == setting)]
            _panel(axis, means, seeds, colours)
            axis.set_title(f"{PROBE_TITLES.get(str(probe), probe)}\n", fontweight="bold")
            axis.text(0, 1.02, setting, transform=axis.transAxes, fontsize=7, color="0.35")
        axes[0][0].set_ylabel("test top-1 accuracy, %")
        axes[0][-1].legend(loc="lower right")
        figure.suptitle(f"{title}  ({_footing(curves)})", x=0.01, ha="left", fontsize=10)
    return figure


def _colours(curves: pd.DataFrame) -> dict[tuple[str, int], tuple[float, float, float]]:
    """A colour for each method and width, told apart by colour-blind readers."""
    lines = sorted(set(zip(curves["method"], curves["embedding_dim"], strict=True)))
    return dict(zip(lines, sns.color_palette("colorblind", len(lines)), strict=True))


def _panel(
    axis: Axes,
    means: pd.DataFrame,
    seeds: pd.DataFrame,
    colours: dict[tuple[str, int], tuple[float, float, float]],
) -> None:
    # A second code beside colour, for print: each method and width has its own marker.
    markers = dict(zip(colours, "osD^vPX*<>" * len(colours), strict=False))
    for line, colour in colours.items():
        method, dim = line
        mean = means[(means["method"] == method) & (means["embedding_dim"] == dim)]
        own = seeds[(seeds["method"] == method) & (seeds["embedding_dim"] == dim)]
        sns.lineplot(
            own,
            x="epoch",
            y="value",
            units="seed",
            estimator=None,
            color=colour,
            alpha=0.35,
            linewidth=0.7,
            ax=axis,
            legend=False,
        )
        axis.fill_between(mean["epoch"], mean["low"], mean["high"], color=colour, alpha=0.15, lw=0)
        axis.plot(
            mean["epoch"],
            mean["mean"],
            color=colour,
            marker=markers[line],
            label=f"{method}, d = {dim}",
        )
    epochs = sorted(means["epoch"].unique())
    axis.set_xscale("symlog", linthresh=max(epochs[1], 1), linscale=0.4)
    axis.xaxis.set_major_locator(FixedLocator(_spread(epochs)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.set_xlabel("pre-training epoch")
    axis.set_ylabel("")


def _spread(epochs: list[int]) -> list[int]:
    """The milestones to label: none closer to the one before than a factor of 1.4."""
    labelled = epochs[:2]
    for epoch in epochs[2:]:
        if epoch >= 1.4 * labelled[-1]:
            labelled.append(epoch)
    return labelled


def _footing(curves: pd.DataFrame) -> str:
    """Protocol and number of seeds, as every accuracy must be printed with them."""
    protocols = ", ".join(sorted(curves["protocol"].unique()))
    seeds = curves["seeds"].unique()
    number = f"{np.min(seeds)}" if len(seeds) == 1 else f"{np.min(seeds)} to {np.max(seeds)}"
    band = "band: 95 % t interval over seeds" if np.max(seeds) > 1 else "one seed: no interval"
    return f"protocol {protocols}, {number} seeds, {band}"


def save(figure: Figure, pdf: Path, png: Path) -> None:
    """Writes both files; the same figure gives the same bytes."""
    figure.savefig(pdf, metadata={"CreationDate": None, "ModDate": None})
    figure.savefig(png, metadata={"Software": None})
    plt.close(figure)
