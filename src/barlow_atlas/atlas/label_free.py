"""What label-free signals tell: how they rank milestones, and when they would stop training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from barlow_atlas.atlas.overfitting import at_peak, choice
from barlow_atlas.atlas.statistics import Effect, cut, effect, level, over_seeds, paired

SENSES: dict[str, Literal["high", "low", "near 1"]] = {
    "rankme": "high",
    "effective_rank": "high",
    "feature_std": "high",
    "alpha_req": "near 1",
    "alignment": "low",
    "uniformity": "low",
    "invariance": "low",
    "redundancy": "low",
    "bt_loss": "low",
    "dead_dimensions": "low",
}
"""Which values of a signal (`probes/signals.py`) are taken as good."""


@dataclass(frozen=True)
class Stopping:
    """What a stopping rule without labels would have kept: test top-1, in percent and points.

    Attributes:
        kept: accuracy at the epochs where the signal is best.
        against_end: the same minus the accuracy at the last milestone.
        against_peak: the same minus the accuracy at the peak that labels choose; None without
            validation images.
    """

    kept: Effect
    against_end: Effect
    against_peak: Effect | None


def goodness(signal: str, values: np.ndarray) -> np.ndarray:
    """The signal's values, turned so that higher is better; any shape.

    Raises:
        ValueError: a signal without a known sense.
    """
    if signal not in SENSES:
        raise ValueError(
            f"signal {signal!r} has no sense; known are {', '.join(SENSES)}. "
            "Say in label_free.SENSES which of its values are good"
        )
    turned = {"high": values, "low": -values, "near 1": -np.abs(values - 1)}
    return np.asarray(turned[SENSES[signal]])


def rank_correlation(signal: str, values: np.ndarray, accuracy: np.ndarray) -> Effect:
    """Does the signal order a run's milestones as the probe does? Spearman's rho, mean over seeds.

    rho is computed along the milestones of each seed, with the signal turned by `goodness`: 1 is
    the same order. t interval over the seeds' rho, cut to [-1, 1]; it speaks about new seeds on
    these images. Two curves that only rise have rho = 1 without knowing of each other.

    Args:
        values, accuracy: (n, milestones). Milestones where the signal is NaN are left out.

    Returns:
        NaN if rho is undefined for a seed: a constant curve, or fewer than three milestones.
    """
    turned = goodness(signal, values)
    rho = np.array([spearman(*curves) for curves in zip(turned, accuracy, strict=True)])
    what = f"Spearman's rho of {signal} with the probe along milestones"
    undefined = int(np.isnan(rho).sum())
    if undefined:
        what += f" (undefined in {undefined} of {len(rho)} seeds: a constant or short curve)"
    return over_seeds(rho, what, -1, 1)


def stopping_milestones(signal: str, values: np.ndarray) -> np.ndarray:
    """For each seed, the milestone (n,) where the signal is best; the earliest of equals.

    Each seed by its own signal, as somebody with one run and no labels would do.

    Args:
        values: (n, milestones); NaN is never the best.

    Raises:
        ValueError: a seed whose signal is NaN at all milestones.
    """
    undefined = np.flatnonzero(np.isnan(values).all(axis=1))
    if len(undefined):
        raise ValueError(
            f"signal {signal!r} is undefined at all milestones of seed number {undefined[0] + 1} "
            f"of {len(values)}, so it stops nowhere; leave this signal out"
        )
    return np.asarray(np.nanargmax(goodness(signal, values), axis=1))


def stopping_rule(
    signal: str, values: np.ndarray, validation: np.ndarray | None, correct: np.ndarray
) -> Stopping:
    """What accuracy would one have kept by stopping where a label-free signal is best?

    Args:
        values: the signal (n, milestones).
        validation: as in `overfitting.at_peak`, whose errors it raises, or None.
        correct: bits (n, milestones, images).
    """
    stops = stopping_milestones(signal, values)
    name = f"test top-1 where {signal} is best"
    stopped = correct[np.arange(len(stops)), stops]
    kept = effect(level(stopped, f"{name} (percent)"))
    end = paired(stopped, correct[:, -1], f"{name}, minus that at the last milestone (points)")
    return Stopping(
        kept=cut(kept, 0, 100),
        against_end=effect(end),
        against_peak=None
        if validation is None
        else _against_peak(stops, validation, correct, name),
    )


def _against_peak(
    stops: np.ndarray, validation: np.ndarray, correct: np.ndarray, name: str
) -> Effect:
    """Test accuracy at each seed's stop (n,) minus that at the peak that the others choose."""
    unit = np.eye(correct.shape[1])
    weights = unit[stops][:, None, :] - unit
    what = f"{name}, minus that at {choice(validation)} on the same seed (points)"
    return effect(at_peak(validation, correct, weights, what))


def spearman(signal: np.ndarray, accuracy: np.ndarray) -> float:
    """Spearman's rho along the milestones (m,) where the signal is defined.

    NaN for fewer than three of them, or where one of the two never changes.
    """
    defined = ~np.isnan(signal)
    signal, accuracy = signal[defined], accuracy[defined]
    if len(signal) < 3 or np.ptp(signal) == 0 or np.ptp(accuracy) == 0:
        return float("nan")
    return float(stats.spearmanr(signal, accuracy).statistic)
