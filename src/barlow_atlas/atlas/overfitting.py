"""How much accuracy is lost after the peak, and from when on.

Curves are arrays: `validation` (n, milestones), each seed's validation accuracy in any unit, and
`correct` (n, milestones, images), the test images' correctness bits. The peak (`curves.highest`) is
chosen on the one and the loss read on the other, and for each seed on the *other* seeds' curves:
the network that looks best by chance on its own curve would show a drop where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle

import numpy as np

from barlow_atlas.atlas.curves import highest
from barlow_atlas.atlas.statistics import Contrast, Effect, combine, effect, paired

CHOICE = "the peak, chosen on the other seeds' validation curves,"
OWN_CHOICE = "the peak, chosen on the one seed's own validation curve and so biased upwards,"


def leave_one_out_peaks(validation: np.ndarray) -> np.ndarray:
    """For each seed, the milestone (n,) that is best on average over the other seeds' curves.

    A single seed has no others: its own curve chooses.
    """
    if len(validation) == 1:
        return highest(validation)
    return highest(validation.sum(axis=0) - validation)


def mean_peak(validation: np.ndarray) -> int:
    """The milestone where the mean of all seeds' curves is highest.

    To say what comes after the peak. No accuracy is read there: it would be flattered.
    """
    return int(highest(validation.sum(axis=0)))


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


def peak(validation: np.ndarray, correct: np.ndarray) -> Contrast:
    """Test accuracy (percent) at the peak; shapes and errors as in `at_peak`."""
    what = f"test top-1 (percent) at {choice(validation)} read on the seed itself"
    return at_peak(validation, correct, np.eye(validation.shape[1]), what)


def loss(validation: np.ndarray, correct: np.ndarray, milestone: int) -> Contrast:
    """Test accuracy at the peak minus that at any milestone, before or after, in points.

    Shapes and errors as in `at_peak`.
    """
    unit = np.eye(validation.shape[1])
    what = f"loss in test top-1 (points) against {choice(validation)} at this milestone"
    return at_peak(validation, correct, unit - unit[milestone], what)


def drop(validation: np.ndarray, correct: np.ndarray) -> Contrast:
    """Test accuracy at the peak minus that at the last milestone, in percentage points.

    Shapes and errors as in `at_peak`. What it estimates is the loss from the milestones that this
    study's validation curves choose: at most the loss from the best milestone of all, for which
    there is `drop_from_best`.
    """
    last = validation.shape[1] - 1
    what = f"drop in test top-1 (points) from {choice(validation)} to the last milestone"
    return at_peak(validation, correct, drop_weights(last + 1, last), what)


def drop_from_best(validation: np.ndarray, correct: np.ndarray) -> Effect:
    """The drop, with an interval for the loss from the milestone that is best in the population.

    So "all choices are the end" is no proof that nothing is lost: the upper bound says how much may
    be. Shapes and errors as in `at_peak`; the bounds are those of `from_best`.
    """
    chosen = drop(validation, correct)
    return from_best([chosen], [fixed_drops(correct)], [1], chosen.what)


def fixed_drops(correct: np.ndarray) -> list[Contrast]:
    """Test accuracy at each milestone minus that at the last, in points; the last is 0."""
    end, milestones = correct[:, -1], correct.shape[1]
    what = f"drop in test top-1 (points) from milestone {{}} of {milestones} to the last"
    return [paired(correct[:, e], end, what.format(e + 1)) for e in range(milestones)]


def from_best(
    chosen: Sequence[Contrast],
    fixed: Sequence[Sequence[Contrast]],
    weights: Sequence[float],
    what: str,
) -> Effect:
    """sum_k w_k drop_k, with an interval for the drops from the truly best milestones.

    Seeds and images may fail to show which milestone is a line's best. The chosen one is at most
    as good, and one of the fixed ones is the best:

        drop_k(chosen) <= drop_k(best) = drop_k(e) for some fixed e

    So the upper bound is the highest of all that come out if each line of positive weight is read
    from the chosen or from any one fixed milestone; the lower bound the lowest, over the lines of
    negative weight. A single line's lower bound is that of its `drop`.

    Args:
        chosen: each line's `drop`, all of the same seeds and images.
        fixed: each line's `fixed_drops`.
        weights: 1 for one line, 1 and -1 for a difference, `statistics.slope_weights` for a trend.
        what: the sum in words, with its unit.
    """
    summed = effect(combine(chosen, weights, what))
    if summed.n == 1:
        return summed
    low, high = (_outermost(chosen, fixed, weights, side) for side in (-1, 1))
    method = f"{summed.method}; bounds: the outermost of all fixed milestones"
    return replace(summed, low=low, high=high, method=method)


def _outermost(
    chosen: Sequence[Contrast],
    fixed: Sequence[Sequence[Contrast]],
    weights: Sequence[float],
    side: int,
) -> float:
    """The lowest (side -1) or highest (side 1) bound of `from_best`.

    One line's milestone is changed at a time until none leads further out. With one line to change
    that is the outermost of all; with more it may stop a little before.
    """

    def bound(picked: Sequence[Contrast]) -> float:
        summed = effect(combine(picked, weights, ""))
        return side * (summed.high if side > 0 else summed.low)

    picked, free = list(chosen), [k for k, weight in enumerate(weights) if side * weight > 0]
    settled = 0
    for k in cycle(free):
        if settled == len(free):
            break
        trials = [[*picked[:k], other, *picked[k + 1 :]] for other in (picked[k], *fixed[k])]
        further = max(trials, key=bound)
        settled = settled + 1 if further[k] is picked[k] else 1
        picked = further
    return side * bound(picked)


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
    what = f"area lost (points x epochs) after {choice(validation)} by trapezoids"
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
    estimate = _from_on(epochs, [each.estimate > 0 for each in drops])
    low = _from_on(epochs, [each.high > 0 for each in drops])
    high = _from_on(epochs, [each.low > 0 for each in drops])
    if len(validation) == 1:
        low = high = float("nan")
    last = drops[-1]
    method = f"onset (epoch), by inversion for each milestone of the {last.method}"
    return Effect(estimate, low, high, last.n, last.df, method)


def _drop_until(validation: np.ndarray, correct: np.ndarray, until: int) -> Effect:
    """`drop_from_best` to any milestone, from the peak if that comes before it."""
    milestones = validation.shape[1]
    what = f"drop in test top-1 (points) from {choice(validation)} to milestone {until + 1}"
    chosen = at_peak(validation, correct, drop_weights(milestones, until), what)
    return from_best([chosen], [fixed_drops(correct[:, : until + 1])], [1], what)


def _from_on(epochs: np.ndarray, holds: Sequence[bool]) -> float:
    """The first epoch from which on the condition holds to the end; infinite if there is none."""
    fails = np.flatnonzero(~np.array(holds))
    first = fails[-1] + 1 if len(fails) else 0
    return float(epochs[first]) if first < len(epochs) else float("inf")


def choice(validation: np.ndarray) -> str:
    """The peak in words: who chose it."""
    return CHOICE if len(validation) > 1 else OWN_CHOICE
