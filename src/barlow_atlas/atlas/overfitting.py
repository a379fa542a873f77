"""How much accuracy is lost after the peak, from when on, and how it depends on settings.

Curves are arrays: `validation` (n, milestones), each seed's validation accuracy in any unit, and
`correct` (n, milestones, images), the test images' correctness bits. The peak is chosen on the one
and the loss read on the other, and for each seed on the *other* seeds' curves: the network that
looks best by chance on its own curve would show a drop where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from barlow_atlas.atlas.statistics import Contrast, Effect, effect, paired

CHOICE = "from the peak, chosen on the other seeds' validation curves,"
OWN_CHOICE = "from the peak, chosen on the one seed's own validation curve and so biased upwards,"


def leave_one_out_peaks(validation: np.ndarray) -> np.ndarray:
    """For each seed, the milestone (n,) that is best on average over the other seeds' curves.

    The earliest of equals. A single seed has no others: its own curve chooses.
    """
    if len(validation) == 1:
        return np.asarray(validation.argmax(axis=1))
    others = validation.sum(axis=0) - validation
    # Sums of the same counts in another order differ in the last digits: still equals.
    return np.asarray(others.round(9).argmax(axis=1))


def at_peak(
    validation: np.ndarray, correct: np.ndarray, weights: np.ndarray, what: str
) -> Contrast:
    """A weighted sum of each seed's test accuracies, with weights that depend on its peak.

    value_s = sum_e w[s, p_-s, e] 100 accuracy_s(e), where p_-s is the peak chosen without seed s.

    The values of different seeds are dependent, since each seed helps to choose the others' peaks.
    So the study is estimated anew without each seed, choice of the peaks included; from that comes
    the interval (`statistics.jackknife_variance`). If all choices agree, this is the t interval of
    the paired differences.

    Args:
        validation: (n, milestones).
        correct: bits (n, milestones, images).
        weights: row p holds the weights if p is the peak, (milestones, milestones); or such a
            table for each seed, (n, milestones, milestones).
        what: the sum in words, with its unit.

    Raises:
        ValueError: the arrays do not fit each other.
    """
    n, milestones, _ = correct.shape
    if validation.shape != (n, milestones):
        raise ValueError(
            f"{what}: validation curves of shape {validation.shape} for test bits of {n} seeds and "
            f"{milestones} milestones; give the same seeds and milestones to both"
        )
    table = np.broadcast_to(weights, (n, milestones, milestones))
    # What seed s would show if p were the peak.
    readings = 100 * np.einsum("spe,se->sp", table, correct.mean(axis=2))
    peaks, seeds = leave_one_out_peaks(validation), np.arange(n)
    images = 100 * np.einsum("se,sei->si", table[seeds, peaks], correct.astype(float))
    if n == 1:
        return Contrast(what, images, np.full(1, np.nan))
    left_out = np.empty(n)
    for seed in seeds:
        others = seeds != seed
        chosen = leave_one_out_peaks(validation[others])
        left_out[seed] = readings[seeds[others], chosen].mean()
    return Contrast(what, images, left_out)


def drop(validation: np.ndarray, correct: np.ndarray) -> Contrast:
    """Test accuracy at the peak minus that at the last milestone, in percentage points.

    Shapes and errors as in `at_peak`. What it estimates is the loss from the milestones that this
    study's validation curves choose: at most the loss from the best milestone of all, for which
    there is `drop_from_best`.
    """
    last = validation.shape[1] - 1
    what = f"drop in test top-1 (points) {_choice(validation)} to the last milestone"
    return at_peak(validation, correct, drop_weights(last + 1, last), what)


def drop_from_best(validation: np.ndarray, correct: np.ndarray) -> Effect:
    """The drop, with an interval for the loss from the milestone that is best in the population.

    Seeds and images may fail to show which milestone that is. Those chosen are at most as good, so
    the drop's lower bound holds for the best one, too. The upper bound is the highest of those of
    accuracy(e) - accuracy(end) at all fixed milestones e, of which one is the best. So "all choices
    are the end" is no proof that nothing is lost: the upper bound says how much may be.

    Shapes and errors as in `at_peak`.
    """
    return _drop_until(validation, correct, validation.shape[1] - 1)


def drop_weights(milestones: int, until: int) -> np.ndarray:
    """Accuracy at the peak minus that at milestone `until`; 0 if the peak comes not before it.

    Returns:
        (milestones, milestones), row p for a peak at p; as `at_peak` takes them.
    """
    unit = np.eye(milestones)
    before = np.arange(milestones)[:, None] < until
    return np.where(before, unit - unit[until], 0)


def area_lost(epochs: np.ndarray, validation: np.ndarray, correct: np.ndarray) -> Contrast:
    """Area between the level of the peak and the curve after it, in percentage points x epochs.

    Trapezoids over epochs, not over their logarithm: an epoch costs the same whenever it is run,
    epoch 0 needs no exception, and divided by the epochs left after the peak it is the mean loss
    of somebody who stops at a random time. The long late stretches decide it, as they do the bill.

    Args:
        epochs: the milestones (milestones,), rising.
        validation, correct: as in `at_peak`, whose errors it raises.
    """
    what = f"area lost after the peak (points x epochs), {_choice(validation)} by trapezoids"
    return at_peak(validation, correct, area_weights(epochs), what)


def area_weights(epochs: np.ndarray) -> np.ndarray:
    """Trapezoids of (accuracy at the peak - accuracy) from the peak on.

    Returns:
        (milestones, milestones), row p for a peak at p; as `at_peak` takes them.
    """
    milestones = len(epochs)
    unit, widths = np.eye(milestones), np.diff(epochs)
    rows = np.zeros((milestones, milestones))
    for peak in range(milestones):
        for k in range(peak, milestones - 1):
            rows[peak] += widths[k] * (unit[peak] - (unit[k] + unit[k + 1]) / 2)
    return rows


def onset(epochs: np.ndarray, validation: np.ndarray, correct: np.ndarray) -> Effect:
    """The first milestone after the peak from which on accuracy is below that of the peak.

    The interval inverts those of the drops to each milestone, as `drop_from_best` has them. `high`
    is the first milestone from which on the drop's lower bound is above 0: by then overfitting is
    shown. `low` is the first from which on its upper bound is above 0: before, it is excluded.
    `estimate` goes by the drops themselves. Infinite: not up to the last milestone. The intervals
    that are inverted hold for each milestone by itself, not for all at once.

    Args:
        epochs: the milestones (milestones,), rising.
        validation, correct: as in `at_peak`, whose errors it raises.

    Returns:
        An effect in epochs.
    """
    drops = [_drop_until(validation, correct, until) for until in range(len(epochs))]
    estimate = _from_on(epochs, [found.estimate > 0 for found in drops])
    low = _from_on(epochs, [found.high > 0 for found in drops])
    high = _from_on(epochs, [found.low > 0 for found in drops])
    if len(validation) == 1:
        low = high = float("nan")
    last = drops[-1]
    method = f"onset (epoch), by inversion for each milestone of the {last.method}"
    return Effect(estimate, low, high, last.n, last.df, method)


def _drop_until(validation: np.ndarray, correct: np.ndarray, until: int) -> Effect:
    """`drop_from_best` to any milestone, from the peak if that comes before it."""
    milestones = validation.shape[1]
    what = f"drop in test top-1 (points) {_choice(validation)} to milestone {until + 1}"
    found = effect(
        at_peak(validation, correct, drop_weights(milestones, until), f"{what} of {milestones}")
    )
    if found.n == 1:
        return found
    fixed = [effect(paired(correct[:, e], correct[:, until], "")).high for e in range(until)]
    return replace(
        found,
        high=max([found.high, *fixed]),
        method=f"{found.method}; upper bound: the highest of all fixed milestones",
    )


def _from_on(epochs: np.ndarray, holds: Sequence[bool]) -> float:
    """The first epoch from which on the condition holds to the end; infinite if there is none."""
    fails = np.flatnonzero(~np.array(holds))
    first = fails[-1] + 1 if len(fails) else 0
    return float(epochs[first]) if first < len(epochs) else float("inf")


def _choice(validation: np.ndarray) -> str:
    return CHOICE if len(validation) > 1 else OWN_CHOICE
