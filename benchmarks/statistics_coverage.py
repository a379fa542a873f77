"""Do the intervals of the overfitting statistics hold the truth? Simulated studies tell.

Writes benchmarks/statistics.md, which explains the model and the columns. One core, no options.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import brentq

from barlow_atlas.atlas.curves import t_half_width
from barlow_atlas.atlas.overfitting import (
    area_lost,
    area_weights,
    drop,
    drop_from_best,
    drop_weights,
    fixed_drops,
    from_best,
    leave_one_out_peaks,
    onset,
)
from barlow_atlas.atlas.statistics import Contrast, combine, effect, paired, sign_flip_p

RESULT = Path(__file__).with_name("statistics.md")
LIBRARIES = ("numpy", "scipy", "pandas")
SEEDS = (3, 5, 10)
RATIOS = (0.0, 0.5, 2.0)
EPOCHS = np.array([50, 100, 200, 400, 700, 1000])
# Accuracy in the population of seeds and images at each milestone, in percent.
SHAPES = {
    "flat": (75.0, 75.0, 75.0, 75.0, 75.0, 75.0),
    "rising": (60.0, 66.0, 70.0, 73.0, 74.5, 75.5),
    "falling": (64.0, 72.0, 76.0, 73.0, 72.5, 72.0),
    "shallow": (74.0, 74.5, 75.0, 74.5, 74.0, 73.5),
}
GRID = ("flat", "rising", "falling")
"""Shapes with a clear answer. The shallow fall is there to see what happens without one."""
IMAGES = 1000
"""Of the validation and of the test split each."""
SEED_SD = 0.8
"""Over seeds, of the difference between two milestones' accuracies, in percentage points."""
NOISE = 0.02
"""Share of the latent variance that is drawn anew for each seed, milestone and image."""
SIMULATIONS = 2000
WITHOUT = ("plain t holds", "plain t overfits", "same curve overfits", "sign flip")
"""Columns of what simpler methods say."""
LOWEST_COVERAGE = 0.93
HIGHEST_FALSE_ALARM = 0.05


@dataclass(frozen=True)
class Cell:
    """Studies of one kind; `ratio` is the variance over test sets by that over seeds."""

    shape: str
    seeds: int
    ratio: float


@dataclass(frozen=True)
class Shares:
    """Shares of the latent variance, which is 1."""

    seed: float
    image: float
    image_at_milestone: float
    noise: float


def both_correct(accuracy: float, correlation: float) -> float:
    """P(both correct) of two answers of this accuracy whose latents correlate so: Phi_2(m, m)."""
    m = stats.norm.ppf(accuracy)
    return float(stats.multivariate_normal.cdf([m, m], cov=[[1, correlation], [correlation, 1]]))


def solve_shares(ratio: float, accuracy: float = 0.75) -> Shares:
    """The shares at which the difference of two milestones of this accuracy varies as asked.

    Over seeds its variance is 2 (P(both correct | same seed effect) - accuracy^2), which shall be
    SEED_SD^2. Over test sets it is 2 (P(both correct | same image and milestone) - P(both correct |
    same image)) / IMAGES, which shall be `ratio` times as much.
    """
    over_seeds = (SEED_SD / 100) ** 2

    def seed_excess(share: float) -> float:
        return 2 * (both_correct(accuracy, share) - accuracy**2) - over_seeds

    seed = float(brentq(seed_excess, 0, 0.5, xtol=1e-9))
    of_images = 1 - seed - NOISE
    if ratio == 0:
        return Shares(seed, of_images, 0.0, NOISE)
    at_one_milestone = both_correct(accuracy, of_images)

    def image_excess(share: float) -> float:
        return 2 * (at_one_milestone - both_correct(accuracy, share)) / IMAGES - ratio * over_seeds

    image = float(brentq(image_excess, 0, of_images, xtol=1e-9))
    return Shares(seed, image, of_images - image, NOISE)


def draw_study(
    rng: np.random.Generator, percent: np.ndarray, seeds: int, shares: Shares
) -> tuple[np.ndarray, np.ndarray]:
    """A study's validation curves in percent (n, milestones) and test bits (n, milestones, images).

    Seed s at milestone e has image i right where

        Phi^-1(accuracy(e)) + seed_se + image_i + image_ie + noise_sei > 0,

    the terms normal, of total variance 1: in the population it is right as often as accuracy(e).

    Args:
        percent: the population's accuracies (milestones,), in percent.
    """
    milestones, images = len(percent), 2 * IMAGES

    def normal(share: float, *shape: int) -> np.ndarray:
        return np.float32(share**0.5) * rng.standard_normal(shape, dtype=np.float32)

    latent = normal(shares.noise, seeds, milestones, images)
    latent += normal(shares.seed, seeds, milestones, 1)
    latent += normal(shares.image, images) + normal(shares.image_at_milestone, milestones, images)
    correct = latent > -stats.norm.ppf(percent / 100).astype(np.float32)[:, None]
    return 100 * correct[:, :, :IMAGES].mean(axis=2), correct[:, :, IMAGES:]


def simulate(cell: Cell, simulations: int) -> pd.Series:
    """Means of `judge` over so many simulated studies of one kind.

    A second method, whose curve is flat, has networks of its own and the same images.
    """
    rng = np.random.default_rng((list(SHAPES).index(cell.shape), cell.seeds, int(10 * cell.ratio)))
    percent, shares = np.array(SHAPES[cell.shape]), solve_shares(cell.ratio)
    of_both, m = np.concatenate([percent, SHAPES["flat"]]), len(percent)
    judged = []
    for _ in range(simulations):
        validation, correct = draw_study(rng, of_both, cell.seeds, shares)
        flat = drop(validation[:, m:], correct[:, m:]), fixed_drops(correct[:, m:])
        judged.append(judge(percent, validation[:, :m], correct[:, :m], *flat))
    return pd.DataFrame(judged).astype(float).mean()


def judge(
    percent: np.ndarray,
    validation: np.ndarray,
    correct: np.ndarray,
    flat: Contrast,
    flat_fixed: list[Contrast],
) -> dict[str, float]:
    """What one study's intervals say, and whether it is true; keys are columns of the result.

    Args:
        percent: the population's accuracies (milestones,), in percent.
        validation, correct: the study, as `draw_study` gives it.
        flat, flat_fixed: the drop of a second method, which is 0 in the population, from where its
            validation curves choose and from each milestone.
    """
    last = len(percent) - 1
    peaks = leave_one_out_peaks(validation)
    contrast = drop(validation, correct)
    found, area = effect(contrast), effect(area_lost(EPOCHS, validation, correct))
    true_drop = (drop_weights(last + 1, last)[peaks] @ percent).mean()
    true_area = (area_weights(EPOCHS)[peaks] @ percent).mean()
    best_drop = percent.max() - percent[last]
    fall = drop_from_best(validation, correct)
    more = effect(combine([contrast, flat], [1, -1], "difference of the drops"))
    fixed = fixed_drops(correct), flat_fixed
    more_from_best = from_best([contrast, flat], fixed, [1, -1], "difference of the drops")
    began = onset(EPOCHS, validation, correct)
    best = int(percent.argmax())
    true_onset = EPOCHS[best + 1] if percent[last] < percent[best] else np.inf
    plain_low, plain_high = plain_interval(contrast)
    highest = correct.mean(axis=(0, 2)).argmax()
    same_curve = paired(correct[:, highest], correct[:, last], "peak and drop on one curve")
    p = sign_flip_p(contrast.values)
    return {
        "drop holds": holds(found.low, true_drop, found.high),
        "from best holds": holds(fall.low, best_drop, fall.high),
        "difference holds": holds(more.low, true_drop, more.high),
        "from best difference holds": holds(more_from_best.low, best_drop, more_from_best.high),
        "area holds": holds(area.low, true_area, area.high),
        "onset holds": began.low <= true_onset <= began.high,
        "overfits": found.low > 0,
        "overfits more": more.low > 0,
        "width": found.high - found.low,
        "width from best": fall.high - fall.low,
        "plain t holds": holds(plain_low, true_drop, plain_high),
        "plain t overfits": plain_low > 0,
        "same curve overfits": plain_interval(same_curve)[0] > 0,
        "sign flip": np.nan if np.isnan(p) else p <= 0.05,
    }


def plain_interval(contrast: Contrast) -> tuple[float, float]:
    """t interval over the seeds' values, as if they were independent and the images all images."""
    values = contrast.values
    half = t_half_width(float(values.std(ddof=1)), len(values))
    return float(values.mean() - half), float(values.mean() + half)


def holds(low: float, truth: float, high: float) -> bool:
    """Whether the interval holds the truth, but for rounding: both may be exactly 0."""
    return low - 1e-9 <= truth <= high + 1e-9


def page(cells: list[Cell], results: pd.DataFrame, minutes: float) -> str:
    """benchmarks/statistics.md."""
    grid = np.array([cell.shape in GRID for cell in cells])
    no_fall = np.array([cell.shape in ("flat", "rising") for cell in cells])
    drops = ["drop holds", "from best holds", "from best difference holds"]
    coverage = results[drops][grid].to_numpy()
    alarms = results["overfits"][no_fall]
    met = coverage.min() >= LOWEST_COVERAGE and alarms.max() <= HIGHEST_FALSE_ALARM
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return f"""# Do the intervals hold the truth?

`python benchmarks/statistics_coverage.py` made this page on {time.strftime("%Y-%m-%d")} in
{minutes:.0f} minutes of CPU time, on one core of {platform.system()} {platform.machine()} with \
{os.cpu_count()} CPU cores; Python {platform.python_version()},
{libraries}.

**{"Yes" if met else "NO"}.** In the {grid.sum()} kinds of studies of the grid \
({", ".join(GRID)}), {SIMULATIONS:,} each, the 95 % intervals
of drops and their differences hold the truth in {100 * coverage.min():.1f} to \
{100 * coverage.max():.1f} % (asked: at least {100 * LOWEST_COVERAGE:.0f} %), and a curve that does
not fall is said to overfit in at most {100 * alarms.max():.1f} % \
(asked: at most {100 * HIGHEST_FALSE_ALARM:.0f} %). The standard error of
a coverage of 95 % is {100 * (0.95 * 0.05 / SIMULATIONS) ** 0.5:.1f} points here.

{table(cells, results.drop(columns=list(WITHOUT)))}

What simpler methods say about the same studies:

{table(cells, results[list(WITHOUT)])}
{EXPLANATION}"""


def table(cells: list[Cell], results: pd.DataFrame) -> str:
    """Shares in percent, widths in points; empty where there is no value."""
    lines = [
        ["curve", "seeds", "images : seeds", *results.columns],
        ["---", *["---:"] * (2 + len(results.columns))],
    ]
    for cell, result in zip(cells, results.to_dict("records"), strict=True):
        shown = [shown_as(str(name), value) for name, value in result.items()]
        lines.append([cell.shape, str(cell.seeds), f"{cell.ratio:g}", *shown])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def shown_as(name: str, value: float) -> str:
    if np.isnan(value):
        return ""
    return f"{value:.2f}" if name.startswith("width") else f"{100 * value:.1f}"


EXPLANATION = f"""
Shares of studies in percent; widths of the intervals in percentage points, means over studies.

| column | says |
|---|---|
| images : seeds | variance of the drop over test sets of {IMAGES:,} images, by that over seeds |
| drop holds | the interval holds the population's drop from the milestones that this study chose |
| from best holds | the interval of `drop_from_best` holds the drop from the best milestone of all |
| difference holds | the interval holds the drop minus that of a second, flat method, same images |
| from best difference holds | the same of the drops from the best milestones of all |
| area holds, onset holds | intervals of the area lost (at the chosen milestones) and of the onset |
| overfits | the drop's lower bound is above 0: a false alarm if flat or rising, power if falling |
| overfits more | the lower bound of that difference is above 0 |
| plain t | t interval over the seeds' drops, without jackknife and without the images |
| same curve | peak chosen on the test curve that the drop is read from; plain t |
| sign flip | p <= 0.05 of the seeds' drops; asks about these test images, so it has no image part |

**The studies.** Probit model with effects of the seed at each milestone, the image, the image at
each milestone, and noise; see `draw_study`. Milestones {", ".join(map(str, EPOCHS))}; validation
and test split {IMAGES:,} images each, shared by the seeds. Over seeds the difference of two
milestones has a standard deviation of {SEED_SD} points; {100 * NOISE:.0f} % of the latent variance
is noise. True accuracies in percent, known exactly:

| curve | {" | ".join(f"epoch {epoch}" for epoch in EPOCHS)} |
|---|{"---:|" * len(EPOCHS)}
{
    chr(10).join(
        f"| {name} | " + " | ".join(f"{x:g}" for x in curve) + " |"
        for name, curve in SHAPES.items()
    )
}

**Two truths.** The drop is read at milestones that the validation curves choose, and its interval
speaks about those. Where the peak is clear they are the best ones. In the shallow curve, which is
not part of the grid, they often are not; `drop_from_best` has the upper bound for that.

**Above 95 %.** The jackknife's variance is not below the true one on average, and above it where
the choice of the peak wavers, as in flat curves. The estimated variance of the images is never
negative. Quadrature is wider than the exact quantile of the sum. Where a rising curve's peak is
the end in all seeds, drop and interval are exactly 0.
"""


def main() -> None:
    began = time.process_time()
    cells = [Cell(*kind) for kind in product(SHAPES, SEEDS, RATIOS)]
    results = []
    for cell in cells:
        results.append(simulate(cell, SIMULATIONS))
        print(cell, flush=True)
    RESULT.write_text(page(cells, pd.DataFrame(results), (time.process_time() - began) / 60))


if __name__ == "__main__":
    main()
