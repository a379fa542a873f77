"""Overfitting statistics: known answers on constructed curves, real bits, simulated studies."""

import re
import sys
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from demo_results import RECORDED, milestone_of
from scipy import stats

from barlow_atlas.atlas.curves import mean_curves
from barlow_atlas.atlas.frames import probe_table, signal_table
from barlow_atlas.atlas.label_free import (
    SENSES,
    goodness,
    rank_correlation,
    stopping_milestones,
    stopping_rule,
)
from barlow_atlas.atlas.overfitting import (
    area_lost,
    drop,
    drop_from_best,
    fixed_drops,
    from_best,
    leave_one_out_peaks,
    loss,
    mean_peak,
    onset,
    peak,
)
from barlow_atlas.atlas.statistics import (
    Effect,
    combine,
    cut,
    delete_one_means,
    effect,
    holm,
    image_variance,
    jackknife_variance,
    level,
    paired,
    sign_flip_p,
    slope_weights,
    these_networks,
    these_two_networks_p,
    verdict,
)
from barlow_atlas.probes.packing import unpack

sys.path.append("benchmarks")
from statistics_coverage import GRID, SHAPES, SIMULATIONS, Cell, draw_study, simulate, solve_shares

Z = 1.959963984540054
T2 = 4.302652729911275  # 97.5 % quantile of t with 2 degrees of freedom
HOLD = ("drop holds", "from best holds", "difference holds", "area holds", "onset holds")
EPOCHS = np.array([0, 5, 10, 25, 50, 100])


def bits(percent: np.ndarray, images: int = 100) -> np.ndarray:
    """Bits (..., images) with exactly these accuracies: the first images are right."""
    return np.arange(images) < np.round(np.asarray(percent) * images / 100)[..., None]


def scattered(rng: np.random.Generator, percent: np.ndarray, images: int = 400) -> np.ndarray:
    return rng.random((*np.shape(percent), images)) < np.asarray(percent)[..., None] / 100


@pytest.fixture(scope="module")
def demo() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Validation curves in percent and test bits of the demo's kNN probe (k = 200), by method."""
    found = {}
    for method in ("bt", "mix"):
        validation, test = [], []
        for seed, epoch in product((1, 2, 3), EPOCHS):
            run = f"{method}-d256-e100-clean-s{seed}"
            content = milestone_of(run, epoch)
            for result in content["results"]:
                if result["settings"].get("k") == 200 and result["split"] == "test":
                    test.append(unpack(result["correct"], result["count"]))
                elif result["settings"].get("k") == 200:
                    validation.append(result["top1"])
        found[method] = np.array(validation).reshape(3, 6), np.array(test).reshape(3, 6, -1)
    return found


def test_the_peak_of_a_seed_is_chosen_by_the_others() -> None:
    validation = np.array([[9.0, 1, 0], [0, 5, 4], [0, 3, 6]])
    # Others' sums: (0, 8, 10), (9, 4, 6), (9, 6, 4).
    assert leave_one_out_peaks(validation).tolist() == [2, 0, 0]
    # Equal sums, whose last digits differ: the earliest.
    tied = np.array([[0.0, 0.0], [0.1, 0.3], [0.2, 0.2], [0.3, 0.1]])
    assert leave_one_out_peaks(tied)[0] == 0
    assert leave_one_out_peaks(tied[:, ::-1])[0] == 0


def test_drop_on_a_known_curve() -> None:
    """All agree on the peak: the t interval of the paired differences, by hand."""
    validation = np.array([[60.0, 80, 70]] * 3)
    test = np.array([[50.0, 75, 70], [52, 78, 71], [51, 75, 66]])  # drops 5, 7, 9
    correct = bits(test)
    found = effect(drop(validation, correct))
    assert found.estimate == pytest.approx(7)
    # s = 2; per image (points): right at the peak only, in 0 to 3 of the seeds.
    of_image = 100 * np.array([c.mean(axis=0) for c in (correct[:, 1], correct[:, 2])])
    spread = (of_image[0] - of_image[1]).var(ddof=1)
    rest = 0.0
    x = 100.0 * (correct[:, 1].astype(float) - correct[:, 2])
    for s, i in product(range(3), range(100)):
        rest += (x[s, i] - x[s].mean() - x[:, i].mean() + x.mean()) ** 2 / (2 * 99)
    half = np.hypot(T2 * 2 / 3**0.5, Z * ((spread - rest / 3) / 100) ** 0.5)
    assert (found.low, found.high) == pytest.approx((7 - half, 7 + half))
    assert (found.n, found.df) == (3, 2)
    assert "new seeds and new test images" in found.method


def test_no_seed_chooses_the_peak_that_its_own_drop_is_read_at() -> None:
    rng = np.random.default_rng(1)
    validation, correct = rng.normal(70, 2, (4, 5)), scattered(rng, np.full((4, 5), 70.0))
    before = drop(validation, correct).values
    for seed in range(4):
        changed = validation.copy()
        changed[seed] = rng.permutation(changed[seed])
        after = drop(changed, correct).values
        assert after[seed] == before[seed]


def test_choosing_on_the_same_curve_is_biased_and_choosing_on_others_is_not() -> None:
    """200 studies of flat curves: the winner's curse, and its absence."""
    rng = np.random.default_rng(2)
    flat, shares = np.full(6, 75.0), solve_shares(0.5)
    same, other = [], []
    for _ in range(200):
        validation, correct = draw_study(rng, flat, 3, shares)
        other.append(drop(validation, correct).values.mean())
        curve = 100 * correct.mean(axis=2)
        same.append((curve.max(axis=1) - curve[:, -1]).mean())
    error = np.std(other, ddof=1) / 200**0.5
    assert np.mean(same) > 1
    assert abs(np.mean(other)) < 4 * error < 0.5


def test_curves_that_only_rise_lose_nothing() -> None:
    validation = np.tile([50.0, 60, 70], (3, 1))
    found = effect(drop(validation, bits(np.add(validation, [[0], [1], [2]]))))
    assert (found.estimate, found.low, found.high) == (0, 0, 0)


def test_the_loss_from_the_best_milestone_is_bounded_by_all_milestones() -> None:
    rng = np.random.default_rng(8)
    validation, correct = rng.normal(70, 2, (4, 5)), scattered(rng, np.full((4, 5), 70.0))
    chosen, best = effect(drop(validation, correct)), drop_from_best(validation, correct)
    ends = [effect(paired(correct[:, e], correct[:, -1], "")) for e in range(5)]
    assert (best.estimate, best.low) == (chosen.estimate, chosen.low)
    assert best.high == max(chosen.high, *(end.high for end in ends))
    assert best.high > chosen.high
    rising = np.tile([50.0, 69.9, 70], (3, 1))
    unsure = drop_from_best(rising, scattered(rng, rising))
    assert unsure.low == 0 < unsure.high
    # The chosen milestone is surely worse than the end; the best one cannot be.
    misled = np.tile([50.0, 80, 70], (3, 1)), bits(np.array([[50.0, 60, 90]] * 3))
    assert effect(drop(*misled)).high < 0
    assert drop_from_best(*misled).high == 0


def outermost(
    lines: list[tuple[np.ndarray, np.ndarray]], weights: list[float]
) -> tuple[float, float]:
    """The bounds of `from_best`, from all combinations of milestones."""
    found = []
    for side in (-1, 1):
        readings = [
            [drop(*line), *(fixed_drops(line[1]) if side * weight > 0 else [])]
            for line, weight in zip(lines, weights, strict=True)
        ]
        both = [effect(combine(picked, weights, "")) for picked in product(*readings)]
        found.append([min(one.low for one in both), max(one.high for one in both)])
    return found[0][0], found[1][1]


@pytest.mark.parametrize("weights", [[1, -1], [1, 0, -1], slope_weights([64, 128, 1024])], ids=str)
def test_bounds_of_combined_losses_are_the_outermost(weights: list[float]) -> None:
    rng = np.random.default_rng(11)
    for _ in range(10):
        lines = [
            (rng.normal(70, 1, (4, 5)), scattered(rng, np.full((4, 5), 70.0), 100)) for _ in weights
        ]
        drops = [drop(*line) for line in lines]
        fixed = [fixed_drops(correct) for _, correct in lines]
        found = from_best(drops, fixed, weights, "combined")
        plain = effect(combine(drops, weights, "combined"))
        low, high = outermost(lines, weights)
        assert found.estimate == plain.estimate
        assert low <= found.low <= plain.low
        assert plain.high <= found.high <= high
        if weights == [1, -1]:
            assert (found.low, found.high) == pytest.approx((low, high))


def test_bounds_of_combined_losses_hold_the_losses_from_the_best_milestones() -> None:
    """200 studies of a shallow fall beside a rise, whose best milestones are often not chosen."""
    rng, shares = np.random.default_rng(12), solve_shares(0.5)
    curves = SHAPES["shallow"] + SHAPES["rising"]
    truth, held = max(SHAPES["shallow"]) - SHAPES["shallow"][-1], 0
    for _ in range(200):
        validation, correct = draw_study(rng, np.array(curves), 5, shares)
        lines = [(validation[:, part], correct[:, part]) for part in (slice(6), slice(6, 12))]
        fixed = [fixed_drops(answers) for _, answers in lines]
        found = from_best([drop(*line) for line in lines], fixed, [1, -1], "difference")
        held += found.low <= truth <= found.high
    assert held >= stats.binom.ppf(0.001, 200, 0.95)


def test_accuracy_at_the_peak_and_losses_against_it() -> None:
    validation = np.array([[9.0, 1, 0], [0, 5, 4], [0, 3, 6]])  # peaks 2, 0, 0
    test = np.array([[58.0, 76, 70], [60, 78, 71], [62, 80, 69]])
    assert peak(validation, bits(test)).values == pytest.approx([70, 60, 62])
    lost = [loss(validation, bits(test), e).values for e in range(3)]
    assert lost == pytest.approx(np.array([[12, 0, 0], [-6, -18, -18], [0, -11, -7]]))
    assert mean_peak(validation) == 2  # sums 9, 9, 10
    assert mean_peak(np.array([[0.1, 0.3], [0.2, 0.2], [0.3, 0.1]])) == 0


def test_an_interval_is_cut_to_what_is_possible() -> None:
    found = cut(Effect(99, 97, 101, 3, 2, "accuracy"), 0, 100)
    assert (found.estimate, found.low, found.high, found.method) == (99, 97, 100, "accuracy")
    without = cut(effect(level(bits(np.array([99.0])), "accuracy")), 0, 100)
    assert np.isnan([without.low, without.high]).all()
    assert without.estimate == 99


def test_area_lost_on_a_known_curve() -> None:
    epochs, test = np.array([10, 20, 40]), np.array([[80.0, 70, 60], [80, 60, 60], [80, 74, 68]])
    found = area_lost(epochs, test, bits(test))
    # (0 + 10) / 2 10 + (10 + 20) / 2 20, and so on.
    assert found.values == pytest.approx([350, 500, 210])
    lost = 80 - test
    assert found.values == pytest.approx(np.trapezoid(lost, epochs, axis=1))
    assert effect(found).estimate == pytest.approx(1060 / 3)
    # From the peak on only: what comes before it does not count.
    later = np.hstack([[[10.0]] * 3, test])
    longer = area_lost(np.array([0, 10, 20, 40]), later, bits(later))
    assert longer.values == pytest.approx(found.values)


def test_onset_on_a_known_curve() -> None:
    rng = np.random.default_rng(3)
    curve = np.array([60.0, 70, 80, 80, 70, 60])
    correct = scattered(rng, np.tile(curve, (5, 1)), 4000)
    found = onset(EPOCHS, np.tile(curve, (5, 1)), correct)
    # The peak is at 10, its equal at 25 is never told from it, 50 always.
    assert found.low in (25, 50)
    assert found.high == 50
    assert found.low <= found.estimate <= found.high
    flat = onset(EPOCHS, np.full((5, 6), 70.0), scattered(rng, np.full((5, 6), 70.0)))
    assert flat.high == np.inf
    assert "by inversion" in flat.method


def test_a_dip_that_recovers_is_no_onset() -> None:
    curve = np.tile([60.0, 80, 40, 80], (3, 1))
    found = onset(np.array([0, 1, 2, 3]), curve, bits(curve))
    assert (found.estimate, found.low, found.high) == (np.inf, np.inf, np.inf)


def test_trend_per_doubling() -> None:
    """Drops of a + b log2(d), with a b for each seed."""
    widths, slopes = [64, 256, 1024], np.array([1.0, 2, 3])
    drops = [5 + slopes * np.log2(width / 64) for width in widths]
    contrasts = [paired(bits(60 + d), bits(np.full(3, 60.0)), "drop") for d in drops]
    found = combine(contrasts, slope_weights(widths), "drop by width")
    assert found.values == pytest.approx(slopes)
    fitted = np.polyfit(np.log2(widths), np.array(drops), 1)[0]
    assert found.values == pytest.approx(fitted)
    assert jackknife_variance(found.left_out) == pytest.approx(slopes.var(ddof=1) / 3)
    with pytest.raises(ValueError, match="above 0, here are"):
        slope_weights([0, 1, 4])
    with pytest.raises(ValueError, match="two different"):
        slope_weights([4, 4, 4])


def test_one_network_in_three_copies_has_the_interval_of_its_images() -> None:
    """Without spread over seeds all chance is the images'; z over images, whatever n is."""
    rng = np.random.default_rng(4)
    first, second = (np.tile(scattered(rng, 70.0), (3, 1)) for _ in range(2))
    found = effect(paired(first, second, "difference"))
    x = 100 * (first[0].astype(float) - second[0])
    assert found.high - found.estimate == pytest.approx(Z * x.std(ddof=1) / 20)


def test_image_variance_is_recovered() -> None:
    """Crossed effects of variance 4 (images) and 9 (rest): 4 / 50, and no negative variance."""
    rng = np.random.default_rng(5)
    found = []
    for _ in range(2000):
        x = rng.normal(0, 3, (3, 1)) + rng.normal(0, 2, (1, 50)) + rng.normal(0, 3, (3, 50))
        found.append(image_variance(x))
    assert np.mean(found) == pytest.approx(4 / 50, rel=0.03)
    assert image_variance(np.array([[1.0, 2, 3], [3.0, 2, 1]])) == 0
    with pytest.raises(ValueError, match="at least two seeds"):
        image_variance(np.ones((1, 10)))


def test_jackknife_of_a_mean_is_its_variance() -> None:
    values = np.array([1.0, 4, 4, 9])
    assert delete_one_means(values) == pytest.approx([17 / 3, 14 / 3, 14 / 3, 3])
    assert jackknife_variance(delete_one_means(values)) == pytest.approx(values.var(ddof=1) / 4)


def test_jackknife_of_a_drop_chooses_the_peaks_anew() -> None:
    rng = np.random.default_rng(6)
    validation, correct = rng.normal(70, 2, (5, 6)), scattered(rng, np.full((5, 6), 70.0))
    accuracy = 100 * correct.mean(axis=2)

    def estimate(seeds: tuple[int, ...]) -> float:
        drops = []
        for seed in seeds:
            others = [other for other in seeds if other != seed]
            peak = int(validation[others].mean(axis=0).argmax())
            drops.append(accuracy[seed, peak] - accuracy[seed, -1])
        return float(np.mean(drops))

    found = drop(validation, correct)
    assert found.values.mean() == pytest.approx(estimate((0, 1, 2, 3, 4)))
    without = [estimate(seeds) for seeds in combinations(range(5), 4)][::-1]
    assert found.left_out == pytest.approx(without)
    spread = 4 / 5 * np.sum((np.array(without) - np.mean(without)) ** 2)
    half = np.hypot(stats.t.ppf(0.975, 4) * spread**0.5, Z * image_variance(found.images) ** 0.5)
    assert effect(found).high - effect(found).estimate == pytest.approx(half)


def test_a_bootstrap_over_three_seeds_is_too_narrow() -> None:
    """Percentile intervals for a mean of 0; t intervals beside them."""
    rng = np.random.default_rng(9)
    x = rng.normal(size=(2000, 3))
    means = rng.choice(x, (3, 999), axis=1).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975), axis=1)
    assert 0.7 < ((low <= 0) & (high >= 0)).mean() < 0.8
    half = T2 * x.std(axis=1, ddof=1) / 3**0.5
    assert (abs(x.mean(axis=1)) <= half).mean() > 0.94


def test_one_seed_has_no_interval_and_says_why() -> None:
    curve = np.array([[60.0, 80, 70]])
    correct = bits(curve)
    epochs = np.array([0, 1, 2])
    found = effect(drop(curve, correct))
    assert found.estimate == pytest.approx(10)
    assert "own validation curve and so biased upwards" in found.method
    for single in (
        found,
        drop_from_best(curve, correct),
        effect(area_lost(epochs, curve, correct)),
        onset(epochs, curve, correct),
        rank_correlation("rankme", curve, curve),
    ):
        assert np.isnan(single.low)
        assert np.isnan(single.high)
        assert (single.n, single.df) == (1, 0)
        assert "one seed, no interval" in single.method
        assert verdict(single, 1, np.inf) == "inconclusive"


def test_a_statement_about_these_networks_is_over_images() -> None:
    rng = np.random.default_rng(7)
    first, second = scattered(rng, np.array([80.0, 82])), scattered(rng, np.array([75.0, 76]))
    found = these_networks(paired(first, second, "difference"))
    of_image = 50.0 * (first.astype(int) - second.astype(int)).sum(axis=0)
    expected = stats.ttest_1samp(of_image, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.n, found.df) == (400, 399)
    assert "these 2 networks" in found.method


def test_mcnemar() -> None:
    first = np.array([1] * 8 + [0] * 2 + [1] * 20, dtype=bool)
    second = np.array([0] * 8 + [1] * 2 + [1] * 20, dtype=bool)
    # 2 or fewer of 10 fair coins: (1 + 10 + 45) / 1024, on both sides.
    assert these_two_networks_p(first, second) == pytest.approx(2 * 56 / 1024)
    assert these_two_networks_p(first, first) == 1


@pytest.mark.parametrize("n", [6, 7, 10])
def test_sign_flips_are_all_counted(n: int) -> None:
    values = np.random.default_rng(n).normal(0.6, 1, n)
    flipped = [abs(np.dot(signs, values)) for signs in product((-1, 1), repeat=n)]
    expected = np.mean(np.array(flipped) >= abs(values.sum()) - 1e-9)
    assert sign_flip_p(values) == pytest.approx(expected)


def test_sign_flips_need_six_seeds() -> None:
    assert sign_flip_p(np.arange(1.0, 7)) == pytest.approx(2 / 64)
    assert np.isnan(sign_flip_p(np.arange(1.0, 6)))


def test_holm() -> None:
    adjusted = holm(np.array([0.01, np.nan, 0.04, 0.03, 0.005, 0.9]))
    assert adjusted == pytest.approx([0.04, np.nan, 0.09, 0.09, 0.025, 0.9], nan_ok=True)
    assert holm(np.array([0.6, 0.7])).tolist() == [1, 1]


INF = np.inf
ABOVE, NOT_ABOVE, NOT_BELOW, WITHIN = (1, INF), (-INF, 1), (-1, INF), (-1, 1)
"""The sets that the four kinds of claims are about, with a smallest effect of interest of 1."""


@pytest.mark.parametrize(
    ("low", "high", "claimed", "expected"),
    [
        (1.1, 3, ABOVE, "reproduced"),
        (0.2, 3, ABOVE, "inconclusive"),  # above 0, but perhaps too small to matter
        (-0.2, 3, ABOVE, "inconclusive"),
        (-0.2, 0.9, ABOVE, "contradicted"),  # holds 0, and nothing that matters
        (0.2, 0.9, ABOVE, "contradicted"),
        (-3, -0.2, ABOVE, "contradicted"),
        (-3, 0.9, NOT_ABOVE, "reproduced"),
        (0.2, 0.9, NOT_ABOVE, "reproduced"),
        (-0.2, 0.2, NOT_ABOVE, "reproduced"),
        (0.2, 3, NOT_ABOVE, "inconclusive"),
        (-3, 3, NOT_ABOVE, "inconclusive"),
        (1.1, 3, NOT_ABOVE, "contradicted"),
        (-0.9, 3, NOT_BELOW, "reproduced"),
        (-3, 0.2, NOT_BELOW, "inconclusive"),
        (-3, -1.1, NOT_BELOW, "contradicted"),
        (-0.9, 0.9, WITHIN, "reproduced"),
        (0.1, 0.9, WITHIN, "reproduced"),
        (-0.9, 1.1, WITHIN, "inconclusive"),
        (-1.1, 0.9, WITHIN, "inconclusive"),
        (-3, 3, WITHIN, "inconclusive"),
        (1.1, 3, WITHIN, "contradicted"),
        (-3, -1.1, WITHIN, "contradicted"),
        # Its ends do not belong to the claimed set, those of the interval to the interval.
        (1, 3, ABOVE, "inconclusive"),
        (-3, 1, ABOVE, "contradicted"),
        (1, 1, ABOVE, "contradicted"),
        (1, 3, NOT_ABOVE, "contradicted"),
        (-3, 1, NOT_ABOVE, "inconclusive"),
        (-1, 1, WITHIN, "inconclusive"),
        (1, 3, WITHIN, "contradicted"),
        (0, 0, ABOVE, "contradicted"),
        (0, 0, WITHIN, "reproduced"),
        # An onset may be infinite: never up to the last milestone.
        (50, INF, ABOVE, "reproduced"),
        (INF, INF, ABOVE, "reproduced"),
        (INF, INF, (400, INF), "reproduced"),
        (100, INF, (400, INF), "inconclusive"),
        (50, 100, (400, INF), "contradicted"),
        (INF, INF, (-INF, 400), "contradicted"),
        (INF, INF, WITHIN, "contradicted"),
        (-INF, -INF, (-INF, 400), "reproduced"),
        (-INF, INF, WITHIN, "inconclusive"),
        (-INF, INF, (-INF, INF), "reproduced"),
        # No interval, or half of one.
        (np.nan, np.nan, ABOVE, "inconclusive"),
        (np.nan, np.nan, (-INF, INF), "inconclusive"),
        (np.nan, -3, ABOVE, "inconclusive"),
    ],
)
def test_verdict(low: float, high: float, claimed: tuple[float, float], expected: str) -> None:
    assert verdict(Effect((low + high) / 2, low, high, 5, 4, ""), *claimed) == expected
    # The mirrored claim about the mirrored effect is the same claim.
    lowest, highest = claimed
    mirrored = Effect(-(low + high) / 2, -high, -low, 5, 4, "")
    assert verdict(mirrored, -highest, -lowest) == expected


def test_a_claim_and_its_denial_never_hold_both() -> None:
    """Of x > 1 and x < 1, at most one is reproduced, and then the other is contradicted."""
    bounds = (-INF, -2, -1, -0.5, 0, 0.5, 1, 2, INF)
    for low, high in [pair for pair in product(bounds, repeat=2) if pair[0] <= pair[1]]:
        found = Effect(low, low, high, 5, 4, "")
        said = {verdict(found, *ABOVE), verdict(found, *NOT_ABOVE)}
        if low == high == 1:
            assert said == {"contradicted"}  # neither above nor below
        elif 1 in (low, high):
            assert said == {"contradicted", "inconclusive"}
        else:
            assert said in ({"reproduced", "contradicted"}, {"inconclusive"})


@pytest.mark.parametrize("ends", [(1, 1), (1, -1), (0.0, -0.0), (np.nan, 1), (1, np.nan)])
def test_a_claim_that_nothing_can_meet_is_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="no effect lies above"):
        verdict(Effect(0, -1, 1, 3, 2, ""), *ends)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="same seeds and milestones"):
        drop(np.ones((3, 4)), np.ones((3, 5, 10), dtype=bool))
    with pytest.raises(ValueError, match="cannot be paired"):
        paired(np.ones((3, 5)), np.ones((2, 5)), "difference")
    some = [paired(np.ones((n, 9)), np.zeros((n, 9)), "") for n in (3, 5)]
    with pytest.raises(ValueError, match="cannot be combined"):
        combine(some, [1, -1], "difference")


def test_a_signal_stops_where_it_is_best() -> None:
    low = np.array([[3.0, 1, 1, 2], [np.nan, 5, 4, 9]])
    assert stopping_milestones("bt_loss", low).tolist() == [1, 2]
    assert stopping_milestones("rankme", low).tolist() == [0, 3]
    assert stopping_milestones("alpha_req", np.array([[0.2, 1.3, 0.9, 2]])).tolist() == [2]
    with pytest.raises(ValueError, match="seed number 2 of 2"):
        stopping_milestones("rankme", np.array([[1.0, 2], [np.nan, np.nan]]))
    with pytest.raises(ValueError, match="no sense"):
        goodness("loss", low)


def test_what_a_stopping_rule_keeps() -> None:
    validation = np.tile([60.0, 80, 70], (3, 1))
    test = np.array([[58.0, 76, 70], [60, 78, 71], [62, 80, 69]])
    signal = np.array([[1.0, 2, 3], [1, 3, 2], [3, 2, 1]])  # stops at 2, 1, 0
    found = stopping_rule("rankme", signal, validation, bits(test))
    assert found.kept.estimate == pytest.approx((70 + 78 + 62) / 3)
    assert found.against_end.estimate == pytest.approx((0 + 7 - 7) / 3)
    assert found.against_peak is not None
    assert found.against_peak.estimate == pytest.approx((-6 + 0 - 18) / 3)
    assert found.against_peak.low < found.against_peak.estimate < found.against_peak.high
    without = stopping_rule("rankme", signal, None, bits(test))
    assert without.against_peak is None
    assert (without.kept, without.against_end) == (found.kept, found.against_end)


def test_rank_correlation_is_over_seeds_along_milestones() -> None:
    accuracy = np.array([[1.0, 2, 3, 4], [1, 2, 3, 4], [1, 3, 2, 4]])
    values = np.array([[9.0, 7, 5, 1], [9, 7, 1, 5], [2, 2, 1, 0]])
    ranks = [
        np.corrcoef(stats.rankdata(-v), stats.rankdata(a))[0, 1]
        for v, a in zip(values, accuracy, strict=True)
    ]
    found = rank_correlation("bt_loss", values, accuracy)
    assert found.estimate == pytest.approx(np.mean(ranks))
    half = T2 * np.std(ranks, ddof=1) / 3**0.5
    assert found.low == pytest.approx(max(-1, np.mean(ranks) - half))
    assert found.high == 1
    assert "these images" in found.method
    constant = rank_correlation("dead_dimensions", np.zeros((3, 4)), accuracy)
    assert np.isnan([constant.estimate, constant.low, constant.high]).all()
    assert "undefined in 3 of 3 seeds" in constant.method


def test_every_stored_signal_has_a_sense() -> None:
    signals = signal_table(RECORDED)
    assert set(signals["signal"]) == set(SENSES)
    for name, rows in signals.groupby("signal"):
        assert np.isfinite(goodness(str(name), rows["value"].dropna().to_numpy())).all()


def test_the_demo_from_its_table_alone(demo: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Bits and table tell the same; the drop again, by loops over the table."""
    table = probe_table(RECORDED)
    table = table[(table["metric"] == "top1") & (table["variant"].str.startswith("k=200"))]
    for method, (validation, correct) in demo.items():
        rows = table[table["method"] == method]
        curves = {
            (split, seed): part.set_index("epoch")["value"]
            for (split, seed), part in rows.groupby(["split", "seed"])
        }
        drops = []
        for seed in (1, 2, 3):
            others = [curves["validation", other] for other in (1, 2, 3) if other != seed]
            mine = curves["test", seed]
            drops.append(mine[((others[0] + others[1]) / 2).idxmax()] - mine[100])
        found = drop(validation, correct)
        assert found.values == pytest.approx(drops)
        assert effect(found).low <= np.mean(drops) <= effect(found).high


def test_methods_are_compared_seed_by_seed(
    demo: dict[str, tuple[np.ndarray, np.ndarray]],
) -> None:
    """The difference of two drops is paired: not the two intervals put together."""
    bt, mix = (drop(*demo[method]) for method in ("bt", "mix"))
    both = combine([bt, mix], [1, -1], "difference of drops")
    assert both.values == pytest.approx(bt.values - mix.values)
    assert both.left_out == pytest.approx(bt.left_out - mix.left_out)
    ends = paired(demo["bt"][1][:, -1], demo["mix"][1][:, -1], "last milestone, BT minus MIX")
    found = effect(ends)
    seeds = stats.ttest_1samp(ends.values, 0).confidence_interval()
    assert found.low < seeds.low < seeds.high < found.high
    table = mean_curves(probe_table(RECORDED))
    last = table[(table["split"] == "test") & (table["epoch"] == 100)]
    last = last[(last["metric"] == "top1") & last["setting"].str.startswith("k=200")]
    last = last.set_index("method")["mean"]
    assert found.estimate == pytest.approx(last["bt"] - last["mix"], abs=0.001)


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell", [Cell("flat", 3, 2.0), Cell("flat", 10, 2.0), Cell("rising", 5, 0.5)], ids=str
)
def test_intervals_hold_the_truth_in_simulated_studies(cell: Cell) -> None:
    """200 studies: rejects a true coverage of 95 % (5 % alarms) in less than one of 1,000 draws."""
    found = simulate(cell, 200)
    fewest = stats.binom.ppf(0.001, 200, 0.95) / 200
    most = stats.binom.ppf(0.999, 200, 0.05) / 200
    assert found[list(HOLD)].min() >= fewest
    assert found["overfits"] <= most
    # What the jackknife and the images are for.
    if cell.shape == "flat":
        assert found["plain t holds"] < found["drop holds"]
        assert found["same curve overfits"] > most


@pytest.mark.slow
def test_a_fall_is_found() -> None:
    found = simulate(Cell("falling", 10, 0.0), 100)
    assert found["overfits"] > 0.95
    assert found["from best holds"] >= stats.binom.ppf(0.001, 100, 0.95) / 100


def test_the_committed_simulation_is_whole_and_within_its_limits() -> None:
    text = Path("benchmarks/statistics.md").read_text()
    rows = [re.split(r" *\| *", line)[1:-1] for line in text.splitlines()]
    names = next(row for row in rows if row[:2] == ["curve", "seeds"])
    cells = pd.DataFrame([row for row in rows if len(row) == len(names)], columns=names)
    cells = cells[cells["seeds"].isin(["3", "5", "10"]) & cells["curve"].isin(GRID)]
    assert len(cells) == 3 * 3 * 3
    assert f"{SIMULATIONS:,} each" in text
    for column in HOLD:
        assert (cells[column].astype(float) >= 93).all()
    no_fall = cells[cells["curve"] != "falling"]
    assert (no_fall["overfits"].astype(float) <= 5).all()
