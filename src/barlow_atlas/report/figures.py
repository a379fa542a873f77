"""The figures of a study."""

import textwrap
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
PROBE_TITLES = {"knn": "kNN", "linear": "Linear probe", "transfer": "Transfer"}


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
    panels = list(curves.groupby(["probe", "variant", "setting"], sort=True))
    colours = _colours(curves)
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(
            1,
            len(panels),
            figsize=(3.4 * len(panels), 3.8),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        told = [textwrap.fill(str(setting), 58) for (_, _, setting), _ in panels]
        lines_above = 1 + max(text.count("\n") for text in told)
        for axis, text, ((probe, variant, _), means) in zip(axes[0], told, panels, strict=True):
            seeds = tidy[(tidy["probe"] == probe) & (tidy["variant"] == variant)]
            _panel(axis, means, seeds, colours)
            name = PROBE_TITLES.get(str(probe), str(probe))
            axis.set_title(name, fontweight="bold", pad=5 + 8.5 * lines_above)
            axis.text(0, 1.02, text, transform=axis.transAxes, fontsize=7, color="0.35")
        axes[0][0].set_ylabel("test top-1 accuracy, %")
        lines, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(lines, labels, loc="outside upper right", ncols=6)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        figure.supxlabel(_footing(curves), x=0.01, ha="left", fontsize=7, color="0.35")
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
            label=f"{method}, d = {dim}" if dim else method,
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
    plural = "s" if np.max(seeds) > 1 else ""
    band = "band: 95 % t interval over seeds" if plural else "no interval from one seed"
    told = "; ".join(
        f"{method}: {objective}"
        for method, objective in sorted(
            set(zip(curves["method"], curves["objective"], strict=True))
        )
    )
    return f"protocol {protocols}, {number} seed{plural}, {band}\n{textwrap.fill(told, 160)}"


def save(figure: Figure, pdf: Path, png: Path) -> None:
    """Writes both files; the same figure gives the same bytes."""
    with plt.style.context(STYLE):
        figure.savefig(pdf, metadata={"CreationDate": None, "ModDate": None})
        figure.savefig(png, metadata={"Software": None})
    plt.close(figure)
