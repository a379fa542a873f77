"""A study's effects as tidy tables: levels, losses, differences, trends, label-free signals.

Lines in, frames out; the numbers are those of `statistics`, `overfitting` and `label_free`.
docs/statistics.md says what each statistic is and about whom its interval speaks.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from barlow_atlas.atlas import label_free as signals
from barlow_atlas.atlas import overfitting
from barlow_atlas.atlas.curves import highest
from barlow_atlas.atlas.frames import LINE
from barlow_atlas.atlas.lines import Line, Named, Precision
from barlow_atlas.atlas.statistics import (
    Contrast,
    Effect,
    combine,
    cut,
    effect,
    level,
    over_seeds,
    paired,
    sign_flip_p,
    slope_weights,
    these_networks,
    these_two_networks_p,
)

EFFECTS = (
    *("statistic", "unit", *LINE, "against"),
    *("estimate", "low", "high", "n", "df", "p", "how"),
)
LOSSES = (*LINE, "epoch", "after_peak", "estimate", "low", "high", "n")
LABEL_FREE = (
    *(*LINE, "signal", "space", "split", "statistic"),
    *("estimate", "low", "high", "n", "df", "how"),
)
TYPES = {
    **dict.fromkeys(("embedding_dim", "epochs", "epoch", "place", "n", "df"), int),
    **dict.fromkeys(("estimate", "low", "high", "p"), float),
    "after_peak": bool,
}
BASELINE = "barlow_twins"
"""The objective that others are compared with: a difference above 0 is in their favour."""
DECIMALS = 9
"""Digits that are kept: what comes behind them is rounding, which differs between machines."""
FACTORS = ("factor", "place", "level", *LINE)
SETTINGS = (
    *("embedding_dim", "settings.lambda_reg", "settings.lambda_bt"),
    *("batch_size", "data.fraction", "epochs"),
    *("backbone.width", "schedule.base_lr", "optimizer.weight_decay"),
)
"""Settings that a trend is taken over, where lines differ in nothing else: keys of a run."""
UNORDERED = ("recipe", "schedule")
"""Settings without an order, over which no trend is taken: recipes, and shapes of a schedule at
equal peak rate and length."""
AS_GIVEN = ("drops", "epoch_cosine")
"""Schedules whose rate does not depend on the batch size."""
Row = dict[str, Any]
Kind = TypeVar("Kind", bound=Named)
Answering = TypeVar("Answering", bound=Line | Precision)
Precisely = tuple[Effect, np.ndarray]
"""An effect on average precision, and the seeds' values (n,) that it is the mean of."""


def effects(lines: Sequence[Line], precisions: Sequence[Precision] = ()) -> pd.DataFrame:
    """Every effect of a study, a row each, columns `EFFECTS`; see docs/statistics.md, "Tables".

    Rows are ordered by what they say, not by the order of `lines`: first those of each line, then
    differences between methods, then trends; last those of average precisions.
    """
    ordered = in_order(lines)
    of_lines = [row for line in ordered for row in _of_line(line)]
    of_precisions = _of_precisions(in_order(precisions))
    rows = [*of_lines, *_differences(ordered), *_trends(ordered), *of_precisions]
    return typed(rows, EFFECTS)


def losses(lines: Sequence[Line]) -> pd.DataFrame:
    """Accuracy lost against the peak (points) at every milestone, a row each, columns `LOSSES`.

    `after_peak` says whether the milestone comes after the peak of the mean validation curve.
    Lines without a peak have no rows.
    """
    return typed([row for line in in_order(lines) for row in _losses_of(line)], LOSSES)


def factors(lines: Sequence[Line]) -> pd.DataFrame:
    """Which lines differ in one setting and in nothing else, a row each, columns `FACTORS`.

    `factor` is the setting's name, `level` what the line has; of settings without an order, its
    method's name. Lines that differ in nothing but the factor have the same `place`, and stand in
    the order of their levels. A line can have rows in several factors.
    """
    rows = [
        {"factor": setting.split(".")[-1], "place": place, **_names(line)}
        | {"level": f"{value:g}" if setting in SETTINGS else line.method}
        for setting in (*SETTINGS, *UNORDERED)
        for place, group in enumerate(_differing_in(setting, in_order(lines)))
        for value, line in group.items()
    ]
    return typed(rows, FACTORS)


def label_free(lines: Sequence[Line]) -> pd.DataFrame:
    """What each label-free signal tells of a line's test accuracy, columns `LABEL_FREE`.

    A row for the rank correlation and for each outcome of the stopping rule. Left out is what is
    not defined: a signal that in some seed has no value or the same one at all milestones, the rank
    correlation with an accuracy that never changes, the peak without validation images.
    """
    rows = [row for line in in_order(lines) for row in _label_free_of(line)]
    return typed(rows, LABEL_FREE)


def in_order(lines: Iterable[Kind]) -> list[Kind]:
    """The lines sorted by what names them."""
    return sorted(lines, key=lambda line: tuple(_names(line).values()))


def has_peak(line: Line) -> bool:
    """Whether a peak can be chosen: on validation images, among at least two milestones."""
    return line.validation is not None and len(line.milestones) > 1


def last(line: Line) -> Contrast:
    """Test accuracy at the line's own last milestone, in percent."""
    return level(line.correct[:, -1], "test top-1 (percent) at the last milestone")


def best_on_test(line: Line) -> Contrast:
    """Each seed's highest test accuracy along its milestones, in percent.

    What the papers' code for small data calls best: chosen on the images that it is read on, so it
    lies above any accuracy that is chosen without them, the more so the more milestones there are.
    """
    places = highest(line.correct.mean(axis=2))
    best = line.correct[np.arange(len(places)), places]
    return level(best, "test top-1 (percent) at the milestone that is best on these test images")


def gain(line: Line) -> Contrast:
    """Test accuracy at the last milestone minus that at the first, epoch 0, in points."""
    what = "gain in test top-1 (points), last milestone minus untrained network"
    return paired(line.correct[:, -1], line.correct[:, 0], what)


def drop(line: Line) -> Contrast:
    """`overfitting.drop` of a line that has a peak."""
    return overfitting.drop(_validation(line), line.correct)


def at_ends(lines: Sequence[Precision], weights: Sequence[float], what: str) -> Precisely:
    """A weighted sum of average precisions at the lines' last milestones, and the seeds' values.

    The interval is of new seeds on these images, since it is no sum over images.

    Args:
        lines: of the same seeds.
        what: is added to what is summed, in words.
    """
    pairs = zip(weights, lines, strict=True)
    values = np.sum([weight * line.values[:, -1] for weight, line in pairs], axis=0)
    told = f"test {lines[0].metric} (percent) at the last milestone{what}"
    low, high = (0, 100) if len(lines) == 1 else (-np.inf, np.inf)
    return over_seeds(values, told, low, high), values


def precision_gain(line: Precision) -> Precisely:
    """An average precision at the last milestone minus that at the first, epoch 0, in points."""
    values = line.values[:, -1] - line.values[:, 0]
    what = f"gain in test {line.metric} (points), last milestone minus untrained network"
    return over_seeds(values, what, -np.inf, np.inf), values


def with_seeds(line: Answering, seeds: Sequence[int]) -> Answering:
    """The line as if it had only these of its seeds."""
    rows = [line.seeds.index(seed) for seed in seeds]
    if isinstance(line, Precision):
        return replace(line, seeds=tuple(seeds), values=line.values[rows])
    return replace(
        line,
        seeds=tuple(seeds),
        validation=None if line.validation is None else line.validation[rows],
        correct=line.correct[rows],
        signals={key: values[rows] for key, values in line.signals.items()},
    )


def _of_line(line: Line) -> Iterator[Row]:
    """The rows of one line by itself."""
    correct = line.correct
    if line.milestones[0] == 0:
        first = level(correct[:, 0], "test top-1 (percent) of the untrained network")
        yield _row("first", "%", line, _level(first))
        yield _row("gain", "points", line, _tested(gain(line)))
    yield _row("last", "%", line, _level(last(line)))
    if has_peak(line):
        curves = _validation(line), correct
        from_best = overfitting.drop_from_best(*curves)
        area = overfitting.area_lost(line.milestones, *curves)
        onset = overfitting.onset(line.milestones, *curves)
        tested = _tested(drop(line))
        yield _row("peak", "%", line, _level(overfitting.peak(*curves)))
        yield _row("drop", "points", line, tested)
        # It is above 0 where the drop is: one hypothesis, one p-value.
        yield _row("drop_from_best", "points", line, tested | _numbers(from_best))
        yield _row("area_lost", "points x epochs", line, _tested(area))
        yield _row("onset", "epoch", line, _numbers(onset))
    if line.protocol == "reference" and len(line.milestones) > 1:
        yield _row("best_on_test", "%", line, _level(best_on_test(line)))


def _differences(ordered: Sequence[Line]) -> Iterator[Row]:
    """Method minus method, of lines that are each other's neighbours (`_pairs`).

    Barlow Twins is what others are held against: it is the one that is taken off.
    """
    for one, other in _pairs(ordered):
        what = f"{one.method} minus {other.method}"
        for statistic, numbers in _compared([one, other], [1, -1], what):
            yield _row(f"difference_{statistic}", "points", one, numbers, other.method)
        yield from _these_networks(one, other)


def _pairs(ordered: Sequence[Kind]) -> Iterator[tuple[Kind, Kind]]:
    """Each two lines that agree in all names but the method's, the baseline second.

    A trunk is as long as it was trained, so that it is compared with schedules of that length. Left
    out are two that a third line stands between, which differs from either in fewer settings than
    they do from each other: what parts them would be several settings at once (the relative
    neighbourhood graph of Toussaint, Pattern Recognition 12, 1980).
    """
    free = {"method", "objective", "epochs"}
    groups: dict[tuple[Any, ...], list[Kind]] = defaultdict(list)
    for line in ordered:
        named = [value for key, value in _names(line).items() if key not in free]
        groups[*named, _length(line)].append(line)
    for group in groups.values():
        group.sort(key=_is_baseline)
        apart = [[_settings_apart(one, other) for other in group] for one in group]
        for one, other in combinations(range(len(group)), 2):
            if not any(
                max(apart[one][third], apart[third][other]) < apart[one][other]
                for third in range(len(group))
            ):
                yield group[one], group[other]


def _settings_apart(one: Named, other: Named) -> int:
    """In how many settings the runs of two lines differ, lengths and names apart."""
    first, second = _settings(one), _settings(other)
    return sum(first.get(name) != second.get(name) for name in first.keys() | second.keys())


def _settings(line: Named) -> Row:
    """A run's settings by name; of a schedule its shape and its peak rate, one each."""
    settings = {name: value for name, value in line.run.items() if name not in ("method", "epochs")}
    if schedule := settings.get("schedule"):
        shape = {name: value for name, value in schedule.items() if name != "base_lr"}
        rate = peak_rate(schedule, settings["batch_size"])
        settings |= {"schedule": shape, "peak_rate": rate}
    return settings


def _of_precisions(ordered: Sequence[Precision]) -> Iterator[Row]:
    """The rows of average precisions: of each line by itself, then method minus method."""
    for line in ordered:
        if line.milestones[0] == 0:
            what = f"test {line.metric} (percent) of the untrained network"
            yield _row("first", "%", line, _numbers(over_seeds(line.values[:, 0], what, 0, 100)))
            yield _row("gain", "points", line, _probable(precision_gain(line)))
        end, _ = at_ends([line], [1], "")
        yield _row("last", "%", line, _numbers(end))
    for pair in _pairs(ordered):
        if seeds := _shared_seeds(pair):
            one, other = (with_seeds(line, seeds) for line in pair)
            what = f", {one.method} minus {other.method}, paired by seed"
            numbers = _probable(at_ends([one, other], [1, -1], what))
            yield _row("difference_last", "points", one, numbers, other.method)


def _probable(precisely: Precisely) -> Row:
    """As `_tested`."""
    measured, values = precisely
    return {**_numbers(measured), "p": sign_flip_p(values)}


def _is_baseline(line: Named) -> bool:
    return line.objective.partition(" ")[0] == BASELINE


def _these_networks(one: Line, other: Line) -> Iterator[Row]:
    """The difference of the last accuracies as a statement about these networks alone.

    It is all that can be said with one seed, and then McNemar's test goes with it.
    """
    seeds = _shared_seeds([one, other])
    if not seeds:
        return
    first, second = (with_seeds(line, seeds).correct[:, -1] for line in (one, other))
    what = f"{last(one).what}, {one.method} minus {other.method}"
    numbers = _numbers(these_networks(paired(first, second, what)))
    p = these_two_networks_p(first[0], second[0]) if len(seeds) == 1 else np.nan
    statistic = "difference_last_these_networks"
    yield _row(statistic, "points", one, {**numbers, "p": p}, other.method)


def _trends(ordered: Sequence[Line]) -> Iterator[Row]:
    """Slopes per doubling of a setting, of lines whose runs differ in nothing else."""
    for setting in SETTINGS:
        for group in _differing_in(setting, ordered):
            positive = {value: line for value, line in group.items() if value > 0}
            if len(positive) > 1:
                yield from _trend(setting, positive)


def _differing_in(setting: str, ordered: Sequence[Line]) -> Iterator[dict[Any, Line]]:
    """Lines whose runs differ in a setting and in nothing else, by its value: sets of several."""
    groups: dict[tuple[str, ...], dict[Any, Line]] = defaultdict(dict)
    for line in ordered:
        value, rest = _taken(line, setting)
        if value is not None:
            place = line.study, line.probe, line.variant, line.setting, rest
            groups[place].setdefault(value, line)  # two names of one run are one run
    for group in groups.values():
        if len(group) > 1:
            yield dict(sorted(group.items())) if setting in SETTINGS else group


def _trend(setting: str, lines: Mapping[float, Line]) -> Iterator[Row]:
    """The rows of one trend, whose lines stand at their values of the setting."""
    group, name = list(lines.values()), setting.split(".")[-1]
    against = f"{name}: {', '.join(f'{value:g}' for value in lines)}"
    methods = " + ".join(dict.fromkeys(line.method for line in group))
    what = f"slope per doubling of {against}"
    for statistic, numbers in _compared(group, slope_weights(list(lines)), what):
        row = _row(f"trend_{statistic}", "points per doubling", group[0], numbers, against)
        yield row | {"method": methods}


def _compared(
    lines: Sequence[Line], weights: Sequence[float], what: str
) -> Iterator[tuple[str, Row]]:
    """Weighted sums over lines, with the seeds that all of them have; nothing without such a seed.

    Yields:
        What is summed, and its numbers.
    """
    seeds = _shared_seeds(lines)
    if not seeds:
        return
    what += f", paired by seed ({', '.join(map(str, seeds))})"
    if lacking := sorted({seed for line in lines for seed in line.seeds} - set(seeds)):
        what += f", without seeds that not all have ({', '.join(map(str, lacking))})"
    lines = [with_seeds(line, seeds) for line in lines]
    ends = [last(line) for line in lines]
    yield "last", _tested(combine(ends, weights, f"{ends[0].what}, {what}"))
    if all(has_peak(line) for line in lines):
        drops = [drop(line) for line in lines]
        tested = _tested(combine(drops, weights, f"{drops[0].what}, {what}"))
        fixed = [overfitting.fixed_drops(line.correct) for line in lines]
        from_best = overfitting.from_best(drops, fixed, weights, f"{drops[0].what}, {what}")
        yield "drop", tested
        yield "drop_from_best", tested | _numbers(from_best)


def _shared_seeds(lines: Sequence[Named]) -> list[int]:
    return sorted(set.intersection(*(set(line.seeds) for line in lines)))


def _losses_of(line: Line) -> Iterator[Row]:
    if not has_peak(line):
        return
    validation = _validation(line)
    peak = line.milestones[overfitting.mean_peak(validation)]
    for place, epoch in enumerate(line.milestones):
        yield {
            **_names(line),
            "epoch": epoch,
            "after_peak": epoch > peak,
            **_numbers(effect(overfitting.loss(validation, line.correct, place))),
        }


def _label_free_of(line: Line) -> Iterator[Row]:
    accuracy = 100 * line.correct.mean(axis=2)
    for (signal, space, split), values in sorted(line.signals.items()):
        if not all(len(set(seed[~np.isnan(seed)])) > 1 for seed in values):
            continue
        stopping = signals.stopping_rule(signal, values, line.validation, line.correct)
        statistics = {
            "rank_correlation": signals.rank_correlation(signal, values, accuracy),
            "kept": stopping.kept,
            "against_end": stopping.against_end,
            "against_peak": stopping.against_peak,
        }
        of_signal = {**_names(line), "signal": signal, "space": space, "split": split}
        for statistic, one in statistics.items():
            if one is not None and not np.isnan(one.estimate):
                yield {**of_signal, "statistic": statistic, **_numbers(one)}


def _taken(line: Line, setting: str) -> tuple[Any, str]:
    """A setting's value, None if there is none, and all that the run has beside it and its name.

    Of a schedule the value is its shape: its peak and length are what the run has beside it.
    """
    rest = json.loads(json.dumps(line.run))
    del rest["method"]
    *above, key = setting.split(".")
    place = rest
    for name in above:
        place = place.get(name, {})
    value = place.pop(key, None)
    if setting == "schedule" and value is not None:
        rest |= {"peak": peak_rate(value, rest["batch_size"]), "epochs": _length(line)}
        del value["base_lr"]
    shown = json.dumps(value, sort_keys=True) if isinstance(value, dict) else value
    return shown, json.dumps(rest, sort_keys=True)


def peak_rate(schedule: Mapping[str, Any], batch_size: int) -> float:
    """A schedule's highest rate, which is given per 256 images but for `AS_GIVEN`."""
    share = 1.0 if schedule["name"] in AS_GIVEN else batch_size / 256
    return float(schedule["base_lr"] * share)


def _length(line: Named) -> int:
    """The epochs of a line's schedule; of a trunk, which has no end, those that it was trained."""
    return line.epochs or int(line.milestones[-1])


def _row(statistic: str, unit: str, line: Named, numbers: Row, against: str = "") -> Row:
    row = {"statistic": statistic, "unit": unit, **_names(line), "against": against}
    return row | numbers


def _names(line: Named) -> Row:
    return {name: getattr(line, name) for name in LINE}


def _validation(line: Line) -> np.ndarray:
    if line.validation is None:
        raise ValueError(
            f"{line.method}, {line.setting}: protocol {line.protocol} has no validation images and "
            "so no peak; ask `has_peak` first"
        )
    return line.validation


def _level(contrast: Contrast) -> Row:
    """An accuracy. It has no p-value: nobody claims that it is 0."""
    return _numbers(cut(effect(contrast), 0, 100))


def _tested(contrast: Contrast) -> Row:
    """An effect that could be 0, with the p-value that it is."""
    return {**_numbers(effect(contrast)), "p": sign_flip_p(contrast.values)}


def _numbers(measured: Effect) -> Row:
    return {
        "estimate": measured.estimate,
        "low": measured.low,
        "high": measured.high,
        "n": measured.n,
        "df": measured.df,
        "how": measured.method,
    }


def typed(rows: Sequence[Row], columns: Sequence[str]) -> pd.DataFrame:
    """A table whose columns have their types even without rows."""
    frame = pd.DataFrame(list(rows), columns=list(columns))
    frame = frame.astype({name: kind for name, kind in TYPES.items() if name in columns})
    return frame.round(DECIMALS).replace(-0.0, 0.0)
