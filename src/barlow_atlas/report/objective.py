"""What Barlow Twins' loss does on images that are trained on, and on images that are not."""

import pandas as pd

from barlow_atlas.report.answer import FULL_NAMES

NOTICEABLE = 0.005
"""Share of its minimum by which a loss must end above it, for a sentence to say so."""


def loss_course(signals: pd.DataFrame) -> pd.DataFrame:
    """Barlow Twins' loss of the projector along milestones, mean over seeds.

    Args:
        signals: columns of signals.csv.

    Returns:
        Columns `method`, `embedding_dim`, `held_out`, `epoch`, `mean`, `seeds`. All methods are
        measured alike, also those that minimise something else.
    """
    of_loss = signals[(signals["signal"] == "bt_loss") & (signals["space"] == "projector")]
    of_loss = of_loss.dropna(subset=["value"]).assign(held_out=of_loss["split"] != "train")
    keys = ["method", "embedding_dim", "held_out", "epoch"]
    grouped = of_loss.groupby(keys, sort=True)["value"]
    return grouped.agg(mean="mean", seeds="count").reset_index()


def overfitting(course: pd.DataFrame) -> tuple[float, str]:
    """Whether Barlow Twins' objective overfits.

    Returns:
        The share of its minimum by which the loss on held-out images ends above it, and that in a
        sentence; of several widths for the one where it rises most. An empty sentence where it was
        not measured.
    """
    trained = course[(course["epoch"] > 0) & course["held_out"]]
    ends = {line: _rise(rows) for line, rows in trained.groupby(["method", "embedding_dim"])}
    of_bt = {dim: rise for (method, dim), rise in ends.items() if method == "bt"}
    if not of_bt:
        return 0.0, ""
    dim = max(of_bt, key=lambda dim: of_bt[dim][1])
    epoch, rise = of_bt[dim]
    stays = f"ends within {100 * NOTICEABLE:g} % of its lowest"
    at = f" (d = {dim})" if len(of_bt) > 1 else ""
    if rise < NOTICEABLE:
        told = f"Barlow Twins' loss on held-out images {stays}: the objective does not overfit."
        return rise, told
    told = (
        f"The objective overfits: Barlow Twins' loss{at} on held-out images is lowest at epoch "
        f"{epoch} and ends {100 * rise:.0f} % higher"
    )
    other = ends.get(("mix", dim))
    if other is not None and other[1] < NOTICEABLE:
        told += f"; under {FULL_NAMES['mix']} it {stays}"
    return rise, f"{told}."


def _rise(rows: pd.DataFrame) -> tuple[int, float]:
    """The epoch at which a course is lowest, and the share by which it ends above that."""
    rows = rows.sort_values("epoch")
    lowest = rows.iloc[int(rows["mean"].to_numpy().argmin())]
    return int(lowest["epoch"]), float(rows["mean"].iloc[-1] / lowest["mean"] - 1)
