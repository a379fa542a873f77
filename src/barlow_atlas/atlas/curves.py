"""Mean curves over seeds, with intervals."""

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from barlow_atlas.atlas.frames import CURVE, headlines

CONFIDENCE = 0.95


def mean_curves(tidy: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of every curve at every milestone.

    Args:
        tidy: as `frames.probe_table` gives it.

    Returns:
        One row for each curve, metric and epoch: `seeds` (n), `mean`, `low` and `high`, the 95 %
        t interval over seeds (df n - 1). A single seed has no interval: NaN. Epochs rise; curves
        come in the order in which `tidy` has them first, so that a study's probes stay in its own.
    """
    curve = [*CURVE, "metric"]
    grouped = tidy.groupby([*curve, "epoch"], sort=False)["value"]
    table = grouped.agg(seeds="count", mean="mean", deviation="std").reset_index()
    table["place"] = table.groupby(curve, sort=False).ngroup()
    table = table.sort_values(["place", "epoch"], ignore_index=True)
    half = [
        t_half_width(deviation, n)
        for deviation, n in zip(table["deviation"], table["seeds"], strict=True)
    ]
    table["low"], table["high"] = table["mean"] - half, table["mean"] + half
    return table.drop(columns=["deviation", "place"])


def t_half_width(deviation: float, n: int) -> float:
    """Half of the t interval for a mean: t_{df = n - 1} s / sqrt(n); NaN for n = 1."""
    if n < 2:
        return float("nan")
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))
    return float(quantile * deviation / n**0.5)


def highest(curves: np.ndarray) -> np.ndarray:
    """Where curves (..., milestones) are highest, as places (...): the earliest of equals.

    Values that agree to nine decimals are equal, since sums of the same counts in another order
    differ in the last digits.
    """
    return np.asarray(curves.round(9).argmax(axis=-1))


def peak_epoch(curve: pd.DataFrame) -> int:
    """The epoch at which a mean curve is `highest`; rows of `mean_curves`, of one curve."""
    curve = curve.sort_values("epoch")
    return int(curve["epoch"].to_numpy()[highest(curve["mean"].to_numpy())])


def headline(curves: pd.DataFrame) -> dict[str, Any]:
    """Test accuracy (top-1, or average precision; percent) of every curve: at the highest mean, and
    at the end.

    The highest mean is chosen on the validation curve where there is one, and read on the test
    curve; without validation images it is left out, since choosing on the test would flatter it.

    Returns:
        By line, then by probe with its variant: `at_peak` and `last`.
    """
    lines: dict[str, Any] = {}
    for key, curve in headlines(curves).groupby(
        ["method", "embedding_dim", "probe", "variant"], sort=True
    ):
        method, dim, probe, variant = key
        splits = {split: part.set_index("epoch")["mean"] for split, part in curve.groupby("split")}
        numbers = {}
        if "validation" in splits:
            peak = peak_epoch(curve[curve["split"] == "validation"])
            numbers["at_peak"] = float(splits["test"][peak])
        numbers["last"] = float(splits["test"].iloc[-1])
        line = lines.setdefault(line_name(str(method), int(str(dim))), {})
        line[f"{probe} {variant}"] = {name: round(value, 4) for name, value in numbers.items()}
    return lines


def accuracy_columns(curves: pd.DataFrame) -> pd.DataFrame:
    """Mean test top-1, mAP or AP (percent) by epoch, a column a line and probe, for plotting tools.

    Columns are named as `column_name` does.
    """
    chosen = headlines(curves[curves["split"] == "test"])
    parts = (chosen[part] for part in ("method", "embedding_dim", "probe", "variant"))
    names = [column_name(*line) for line in zip(*parts, strict=True)]
    wide = chosen.assign(name=names).pivot(index="epoch", columns="name", values="mean")
    return wide.reset_index().rename_axis(columns=None)


def column_name(method: str, dim: int, probe: str, variant: str) -> str:
    """Such as `mix-d1024 knn k=20 T=0.07` or `bt-d256 linear standard`."""
    return f"{line_name(method, dim)} {probe} {variant}"


def line_name(method: str, dim: int) -> str:
    """Method and embedding width, such as `mix-d1024`; imported weights have no width."""
    return f"{method}-d{dim}" if dim else method
