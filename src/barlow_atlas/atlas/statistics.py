"""Effects with intervals over seeds and test images, p-values, and verdicts on claims.

Two things vary: the seed of a network, and the images it is tested on. All seeds of a study are
tested on the same images, so the mean over seeds keeps a part of the images' chance however many
seeds there are. Every interval says which population it speaks about. docs/statistics.md derives
the formulas, benchmarks/statistics.md shows how often the intervals hold the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from barlow_atlas.atlas.curves import CONFIDENCE, t_half_width

Z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
SIGN_FLIP_SEEDS = 6
"""With fewer seeds no outcome reaches 5 %: the smallest two-sided p-value is 2 / 2^n."""
SIGN_FLIPS = 2**16

Verdict = Literal["reproduced", "contradicted", "inconclusive"]


@dataclass(frozen=True)
class Effect:
    """A number with its 95 % interval; `low` and `high` are NaN where there is no interval.

    Attributes:
        n: units of inference, which are seeds unless `method` says otherwise.
        df: degrees of freedom of the t quantile, n - 1.
        method: what was estimated, how, and which population the interval speaks about.
    """

    estimate: float
    low: float
    high: float
    n: int
    df: int
    method: str


@dataclass(frozen=True)
class Contrast:
    """One number a seed, such as the drop from peak to end, in all that its interval needs.

    A contrast is linear in the bits "seed s has image i right", so that contrasts of the same seeds
    and images can be added: see `combine`.

    Attributes:
        what: the number in words, with its unit.
        images: each image's share (n, images); the mean over images is the seed's value.
        left_out: the study's estimate without seed s (n,); for one seed NaN.
    """

    what: str
    images: np.ndarray
    left_out: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """The seeds' values (n,)."""
        return np.asarray(self.images.mean(axis=1))


def paired(first: np.ndarray, second: np.ndarray, what: str) -> Contrast:
    """`first` - `second` in percentage points, seed by seed and image by image.

    Args:
        first, second: correctness bits (n, images); row s of both belongs to seed s, column i to
            test image i.
        what: the difference in words.

    Raises:
        ValueError: the two differ in shape.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"{what}: correctness bits of shape {first.shape} and {second.shape} cannot be paired; "
            "give the same seeds and the same test images to both"
        )
    images = 100.0 * (first.astype(float) - second)
    return Contrast(what, images, delete_one_means(images.mean(axis=1)))


def level(correct: np.ndarray, what: str) -> Contrast:
    """Accuracy in percent, seed by seed and image by image.

    Args:
        correct: correctness bits (n, images).
        what: the accuracy in words.
    """
    return paired(correct, np.zeros_like(correct), what)


def delete_one_means(values: np.ndarray) -> np.ndarray:
    """The mean (n,) of the other values (n,) for each; NaN if there is only one."""
    n = len(values)
    return (values.sum() - values) / (n - 1) if n > 1 else np.full(n, np.nan)


def combine(contrasts: Sequence[Contrast], weights: Sequence[float], what: str) -> Contrast:
    """sum_k w_k contrast_k, paired by seed and image: a difference of drops, a slope.

    Raises:
        ValueError: the contrasts differ in shape.
    """
    shapes = {contrast.images.shape for contrast in contrasts}
    if len(shapes) != 1:
        raise ValueError(
            f"{what}: contrasts of shapes (seeds, images) {sorted(shapes)} cannot be combined; "
            "take the seeds that all of them have, and one test set"
        )
    pairs = list(zip(weights, contrasts, strict=True))
    return Contrast(
        what,
        np.sum([weight * contrast.images for weight, contrast in pairs], axis=0),
        np.sum([weight * contrast.left_out for weight, contrast in pairs], axis=0),
    )


def slope_weights(settings: Sequence[float]) -> list[float]:
    """Weights with which `combine` makes of contrasts their least-squares slope per doubling.

    w_k = (x_k - mean x) / sum_k (x_k - mean x)^2 with x = log2(setting): of the embedding width,
    lambda_reg, the data fraction or the number of epochs, a contrast for each.

    Raises:
        ValueError: fewer than two different settings, or one that is not positive.
    """
    if min(settings) <= 0 or len(set(settings)) < 2:
        raise ValueError(
            "a slope per doubling needs at least two different settings above 0, here are "
            f"{list(settings)}; compare a setting of 0 by itself, with `combine`"
        )
    x = np.log2(settings)
    centred = x - x.mean()
    return list(centred / (centred**2).sum())


def effect(contrast: Contrast) -> Effect:
    """Mean over seeds, with an interval for new seeds *and* new test images.

    The half widths of the two sources of chance add in quadrature:

        half^2 = t_{n-1}^2 V_seeds + z^2 V_images

    V_seeds is the jackknife's variance (`jackknife_variance`), which for plain paired differences
    is s^2 / n; V_images is what the shared test images add (`image_variance`). Without the one or
    the other this is the t interval over seeds, or the z interval over images. In between it is
    wider than an interval with Welch and Satterthwaite's df, whose df would themselves be guessed
    from as few as three seeds.

    One seed has no interval: how far apart seeds lie cannot be seen from one.
    """
    n, count = contrast.images.shape
    estimate = float(contrast.values.mean())
    if n < 2:
        return without_interval(estimate, contrast.what)
    over_seeds = t_half_width((n * jackknife_variance(contrast.left_out)) ** 0.5, n)
    over_images = Z * image_variance(contrast.images) ** 0.5
    half = float(np.hypot(over_seeds, over_images))
    return Effect(
        estimate,
        estimate - half,
        estimate + half,
        n,
        n - 1,
        f"{contrast.what}; new seeds and new test images: jackknife t over {n} seeds "
        f"(df {n - 1}) and z over {count} shared test images, in quadrature",
    )


def cut(uncut: Effect, lowest: float, highest: float) -> Effect:
    """The effect with its interval cut to the values that are possible, such as 0 to 100 %."""
    low, high = np.clip([uncut.low, uncut.high], lowest, highest)
    return replace(uncut, low=float(low), high=float(high))


def over_seeds(values: np.ndarray, what: str, lowest: float, highest: float) -> Effect:
    """Mean and t interval, cut to what is possible, of a number (n,) that each seed has by itself.

    For numbers that are no sums over test images, such as rank correlations: the interval speaks
    about new seeds on these images.

    Args:
        lowest, highest: between which the number lies.
    """
    n, estimate = len(values), float(values.mean())
    if n < 2:
        return without_interval(estimate, what)
    half = t_half_width(float(values.std(ddof=1)), n)
    method = f"{what}; new seeds on these images: t over {n} seeds (df {n - 1})"
    uncut = Effect(estimate, estimate - half, estimate + half, n, n - 1, method)
    return cut(uncut, lowest, highest)


def without_interval(estimate: float, what: str) -> Effect:
    """The effect of a single seed, which has no interval and says why."""
    why = "one seed, no interval: the spread between seeds cannot be seen from one"
    return Effect(estimate, float("nan"), float("nan"), 1, 0, f"{what}; {why}")


def jackknife_variance(left_out: np.ndarray) -> float:
    """(n - 1) / n sum_s (T_-s - mean T_-)^2 of the estimates T_-s without seed s (n,).

    For a mean it is s^2 / n. For any other symmetric statistic, such as a drop whose peak is chosen
    on the other seeds, its expectation is not below the variance (at n - 1 seeds, scaled to n as
    for a mean): Efron and Stein, Annals of Statistics 9 (1981) 586-596.
    """
    n = len(left_out)
    return float((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())


def image_variance(images: np.ndarray) -> float:
    """What the choice of test images adds to the variance of the mean over seeds.

    x_si = mean + seed_s + image_i + rest_si, all random and crossed, as in a two-way analysis of
    variance (Searle, Casella and McCulloch, Variance Components, 1992, ch. 4). The variance over
    images of the mean over seeds, divided by their number, holds image_i and rest_si. The rest is
    in the spread between seeds already and is taken off; what would be below 0 is 0.

    Args:
        images: x (n, images), at least two of each.

    Returns:
        An estimate of var(image_i) / images, in squared units of x.

    Raises:
        ValueError: fewer than two seeds or images.
    """
    n, count = images.shape
    if min(n, count) < 2:
        raise ValueError(
            f"the image variance needs at least two seeds and two images, here are {n} and {count}"
        )
    of_image = images.mean(axis=0)
    rest = images - images.mean(axis=1, keepdims=True) - of_image + of_image.mean()
    of_rest = (rest**2).sum() / ((n - 1) * (count - 1)) / n
    return float(max(0.0, of_image.var(ddof=1) - of_rest) / count)


def these_networks(contrast: Contrast) -> Effect:
    """The same mean as a statement about these networks alone, on new test images.

    t interval over images of the mean over networks. It says nothing about other seeds, and is the
    only interval that a single network has.
    """
    of_image = contrast.images.mean(axis=0)
    count = len(of_image)
    half = t_half_width(float(of_image.std(ddof=1)), count)
    estimate = float(of_image.mean())
    return Effect(
        estimate,
        estimate - half,
        estimate + half,
        count,
        count - 1,
        f"{contrast.what}; these {len(contrast.images)} networks on new test images, nothing about "
        f"other seeds: t over {count} images (df {count - 1})",
    )


def these_two_networks_p(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided exact p-value that these two networks are equally accurate on new test images.

    McNemar's test (Psychometrika 12 (1947) 153-157) in its exact form: among the images that only
    one of them has right, each is equally often the one; binomial. It says nothing about seeds.

    Args:
        first, second: correctness bits (images,).
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second).pvalue)


def sign_flip_p(values: np.ndarray) -> float:
    """Two-sided p-value that the seeds' values (n,) lie symmetrically around 0 (Fisher, 1935).

    All 2^n ways of giving signs to the values, up to 16 seeds; 65,536 drawn ones beyond. It speaks
    about new seeds on *these* test images. NaN below six seeds, where it cannot reach 5 %.
    """
    if len(values) < SIGN_FLIP_SEEDS:
        return float("nan")
    test = stats.permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        n_resamples=SIGN_FLIPS,
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values (m,), valid for any dependence between the tests.

    The k-th smallest becomes the largest of (m - j + 1) p_(j) over j <= k, at most 1 (Holm,
    Scandinavian Journal of Statistics 6 (1979) 65-70). NaN, a claim that has no test, stays NaN
    and does not count in m.
    """
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p)[: np.isfinite(p).sum()]  # NaN is sorted to the end
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(factors * p[order]))
    return adjusted


def verdict(measured: Effect, lowest: float, highest: float) -> Verdict:
    """What an interval says about the claim that an effect x has lowest < x < highest.

        reproduced: the whole interval lies in the claimed set
        contradicted: the whole interval lies outside it
        inconclusive: everything else, and every effect without an interval

    The claimed set ends at the smallest effect of interest and not at 0, so an interval that merely
    holds 0 contradicts nothing, and one that merely excludes 0 reproduces nothing (Lakens, Social
    Psychological and Personality Science 8 (2017) 355-362: equivalence tests).

    Args:
        lowest, highest: ends of the claimed set, in the effect's unit, which do not belong to it.
            An infinite one is no limit: an onset of infinity is later than any epoch.

    Raises:
        ValueError: nothing lies between the ends, or one of them is NaN.
    """
    if not lowest < highest:
        raise ValueError(
            f"no effect lies above {lowest} and below {highest}; give the lower end first, and to "
            "a claim of equivalence a smallest effect of interest above 0"
        )
    if np.isnan([measured.low, measured.high]).any():
        return "inconclusive"
    above = lowest == -np.inf or measured.low > lowest
    below = highest == np.inf or measured.high < highest
    if above and below:
        return "reproduced"
    outside = measured.high <= lowest or measured.low >= highest
    return "contradicted" if outside else "inconclusive"
