"""The study's question and its answer in words, from effects alone."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from barlow_atlas.atlas.curves import peak_epoch
from barlow_atlas.atlas.frames import LINE
from barlow_atlas.report.page.curve import probe_order
from barlow_atlas.report.text import MINUS

NEGLIGIBLE = 0.5
"""Percentage points: a fall whose upper bound lies below is called none. Claims have their own."""

Kind = Literal[
    "falls", "no fall", "inconclusive", "one seed", "no peak", "unfinished", "differ", "alike"
]
Row = dict[Hashable, object]
GAP = "\N{NO-BREAK SPACE}"
FULL_NAMES = {"bt": "Barlow Twins", "mix": "Mixed Barlow Twins"}
OBJECTIVES = {"barlow_twins": "Barlow Twins", "mixed_barlow_twins": "Mixed Barlow Twins"}


@dataclass(frozen=True)
class Finding:
    """One sentence, what it amounts to, and the method that it is about (empty for two)."""

    kind: Kind
    text: str
    method: str = ""


@dataclass(frozen=True)
class ProbeFindings:
    """What one probe says about every line, then about Barlow Twins beside Mixed Barlow Twins."""

    probe: str
    lines: tuple[Finding, ...]
    pairs: tuple[Finding, ...]


@dataclass(frozen=True)
class Answer:
    """The question, the answer in a sentence, and for each probe (the main one first) why."""

    question: str
    headline: str
    probes: tuple[ProbeFindings, ...]


def answer(curves: pd.DataFrame, effects: pd.DataFrame) -> Answer:
    """Does accuracy fall past its peak, and less so with mixing?

    Args:
        curves: columns of curves.csv, of one study.
        effects: columns of effects.csv, of the same study.
    """
    probes = tuple(
        _probe_findings(str(probe), str(variant), rows, effects)
        for (probe, variant), rows in sorted(
            curves.groupby(["probe", "variant"]), key=lambda item: probe_order(item[0][0])
        )
    )
    return Answer(
        question(curves),
        headline(probes[0]) if probes else "No answer yet: no milestone has been probed.",
        probes,
    )


def overall(answers: Sequence[Answer]) -> Answer:
    """The answer over all studies, each by its main probe."""
    mains = [answer.probes[0] for answer in answers if answer.probes]
    falling = sum(any(line.kind == "falls" for line in main.lines) for main in mains)
    methods = tuple(
        _over_studies(method, [kinds for main in mains if (kinds := _kinds(main, method))])
        for method in OBJECTIVES.values()
        if any(_kinds(main, method) for main in mains)
    )
    return Answer(
        "Do Barlow Twins get worse when trained past their peak, and does mixing prevent it?",
        f"Accuracy is shown to fall past its peak in {falling} of {_studies(len(mains))}."
        if mains
        else "No answer yet: no study but examples has results.",
        (ProbeFindings("All studies, each by its main probe", methods, ()),) if methods else (),
    )


def _over_studies(method: str, studies: Sequence[set[Kind]]) -> Finding:
    falls = sum("falls" in kinds for kinds in studies)
    steady = sum(kinds == {"no fall"} for kinds in studies)
    kind: Kind = "falls" if falls else "no fall" if steady == len(studies) else "inconclusive"
    return Finding(
        kind,
        f"{method}: a fall is shown in {falls} of {_studies(len(studies))}, excluded in {steady} "
        f"(above {NEGLIGIBLE} points), not settled in {len(studies) - falls - steady}.",
        method,
    )


def _kinds(of_probe: ProbeFindings, method: str) -> set[Kind]:
    return {line.kind for line in of_probe.lines if line.method == method}


def _studies(number: int) -> str:
    return f"{number} {'study' if number == 1 else 'studies'}"


def question(curves: pd.DataFrame) -> str:
    """What this study can ask, by the objectives that it trains with."""
    objectives = {_objective(text) for text in curves["objective"]}
    if objectives >= set(OBJECTIVES):
        return "Do Barlow Twins get worse when trained past their peak, and does mixing prevent it?"
    for name, told in OBJECTIVES.items():
        if name in objectives:
            return f"Does the accuracy of {told} fall when trained past its peak?"
    return "Does accuracy fall when training goes on past its peak?"


def headline(of_probe: ProbeFindings) -> str:
    """The lines' findings in one sentence, which never says more than they do."""
    kinds = [finding.kind for finding in of_probe.lines]
    of_method: dict[str, list[Kind]] = {}
    for finding in of_probe.lines:
        of_method.setdefault(finding.method, []).append(finding.kind)
    falling = [
        _some(method, of_lines.count("falls"), len(of_lines))
        for method, of_lines in of_method.items()
        if "falls" in of_lines
    ]
    steady = [method for method, of_lines in of_method.items() if set(of_lines) == {"no fall"}]
    if falling and steady:
        return (
            f"Accuracy falls past its peak with {_listed(falling)}, and by no more than "
            f"{NEGLIGIBLE} points with {_listed(steady)}."
        )
    if falling:
        return f"Accuracy falls past its peak with {_listed(falling)}."
    if len(steady) == len(of_method):
        return f"No: accuracy falls by no more than {NEGLIGIBLE} points past its peak."
    if "inconclusive" in kinds or steady:
        return "Not settled: no fall is shown, and none is ruled out."
    if "one seed" in kinds:
        return "Not settled: one seed has no interval, so nothing follows from it."
    if "no peak" in kinds:
        return "Not asked: without validation images no peak can be chosen."
    return "No answer yet: no run is finished."


def _some(method: str, fallen: int, lines: int) -> str:
    return method if fallen == lines else f"{method} (in {fallen} of {lines} lines)"


def _listed(names: Sequence[str]) -> str:
    """Up to three names; of more their number."""
    if len(names) > 3:
        return f"{len(names)} methods"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _probe_findings(
    probe: str, variant: str, curves: pd.DataFrame, effects: pd.DataFrame
) -> ProbeFindings:
    of_probe = effects[(effects["probe"] == probe) & (effects["variant"] == variant)]
    rows = {
        (row["statistic"], _against(row), *(row[name] for name in LINE)): row
        for row in of_probe.to_dict("records")
    }
    names = line_names(curves)
    fallen = tuple(
        replace(
            _fall(name, line, curves[_of_line(curves, line)], rows), method=name.partition(" (")[0]
        )
        for line, name in names.items()
    )
    pairs = [
        _pair(row, rows, names)
        for row in of_probe[of_probe["statistic"] == "difference_last"].to_dict("records")
        if _is_the_question(row, curves)
    ]
    told = f"{probe} probe, {variant}" if probe != "knn" else f"kNN, {variant}"
    return ProbeFindings(told, fallen, tuple(finding for pair in pairs for finding in pair))


def line_names(curves: pd.DataFrame) -> dict[tuple[object, ...], str]:
    """The lines of one probe, each with the shortest name that tells it from the others."""
    lines = curves[[*LINE]].drop_duplicates().sort_values([*LINE], ignore_index=True)
    telling = [
        (column, words)
        for column, words in (("embedding_dim", f"d{GAP}={GAP}{{}}"), ("epochs", "{} epochs"))
        if lines.groupby("method")[column].nunique().max() > 1
    ]
    if lines["protocol"].nunique() > 1:
        telling.append(("protocol", "protocol {}"))
    names = {}
    for row in lines.to_dict("records"):
        method = str(row["method"])
        known = OBJECTIVES.get(_objective(str(row["objective"])))
        name = known if known is not None and FULL_NAMES.get(method) == known else method
        details = ", ".join(words.format(row[column]) for column, words in telling if row[column])
        line = tuple(row[column] for column in LINE)
        names[line] = f"{name} ({details})" if details else name
    return names


def _fall(
    name: str,
    line: tuple[object, ...],
    curves: pd.DataFrame,
    rows: dict[tuple[object, ...], Row],
) -> Finding:
    """Whether one line falls past its peak."""
    last = rows.get(("last", "", *line))
    if last is None:
        return Finding("unfinished", f"{name}: no run has reached its last milestone yet.")
    validation = curves[(curves["split"] == "validation") & (curves["metric"] == "top1")]
    # Of the same estimate; its upper bound holds for the best milestone of all, too.
    drop = rows.get(("drop_from_best", "", *line))
    if drop is None or validation.empty:
        return Finding("no peak", f"{name}: {_without_peak(last, rows.get(('gain', '', *line)))}")
    peak = peak_epoch(validation)
    end = int(curves["epoch"].max())
    estimate, low, high = (_number(drop[name]) for name in ("estimate", "low", "high"))
    still_best = estimate == 0 and peak == end
    told = (
        f"{name} is best at its last milestone, epoch {end}"
        if still_best
        else _lost(name, estimate, peak, end)
    )
    if np.isnan(low):
        return Finding(
            "one seed",
            f"{told} (one seed: no interval, since the spread between seeds cannot be seen "
            "from one; its peak is chosen on its own curve, which flatters the peak).",
        )
    if low > 0:
        onset = rows.get(("onset", "", *line))
        shown = _number(onset["high"]) if onset is not None else float("inf")
        since = f"; shown from epoch {shown:.0f} on" if np.isfinite(shown) else ""
        return Finding("falls", f"{told} {interval(drop)}{since}.")
    excluded = high < NEGLIGIBLE
    size = f"{'more than' if excluded else 'up to'} {points(max(high, 0))} points"
    fall = f"a fall of {size} is {'' if excluded else 'not '}excluded"
    text = (
        f"{told}; {fall} (95{GAP}% interval, {seeds(drop)})."
        if still_best
        else f"{told} {interval(drop)}: {fall}."
    )
    return Finding("no fall" if excluded else "inconclusive", text)


def _lost(name: str, estimate: float, peak: int, end: int) -> str:
    verb, size = ("loses", estimate) if estimate >= 0 else ("gains", -estimate)
    if peak == end:
        return f"{name} {verb} {points(size)} points from the peaks that its seeds choose"
    return f"{name} {verb} {points(size)} points after its peak at epoch {peak}"


def _without_peak(last: Row, gain: Row | None) -> str:
    reached = f"{points(_number(last['estimate']))} % at the last milestone"
    gained = (
        f", {points(_number(gain['estimate']))} points above the untrained network"
        if gain is not None
        else ""
    )
    return (
        f"{reached}{gained}; without validation images no peak can be chosen but on the test "
        "images, which would show a fall where there is none."
    )


def _pair(
    row: Row, rows: dict[tuple[object, ...], Row], names: dict[tuple[object, ...], str]
) -> list[Finding]:
    """One line beside another, at the end and in their falls."""
    line = tuple(row[name] for name in LINE)
    first = names.get(line, str(row["method"]))
    second = next(
        (
            name
            for other, name in names.items()
            if other[1] == row["against"] and other[3:] == line[3:] and other[0] == line[0]
        ),
        _against(row),
    )
    findings = [_difference(row, first, second, "ends {} points above {}", "end")]
    drop = rows.get(("difference_drop_from_best", _against(row), *line))
    if drop is not None and any(_number(drop[name]) != 0 for name in ("estimate", "low", "high")):
        findings.append(_difference(drop, first, second, "loses {} points more than {}", "fall"))
    return findings


def _difference(row: Row, first: str, second: str, words: str, verb: str) -> Finding:
    """`first` minus `second` in words, the larger one named first."""
    estimate, low, high = (_number(row[name]) for name in ("estimate", "low", "high"))
    if estimate < 0:
        first, second, low, high = second, first, -high, -low
    size = points(abs(estimate))
    told = f"{first} {words.format(size, second)}"
    if size == points(0):
        told = f"{first} and {second} {verb} alike on average"
    if np.isnan(low):
        return Finding("one seed", f"{told} (one seed: no interval).")
    told = f"{told} {interval({**row, 'low': low, 'high': high})}"
    if low > 0 or high < 0:
        return Finding("differ", f"{told}.")
    if max(-low, high) < NEGLIGIBLE:
        return Finding("alike", f"{told}: any difference is below {NEGLIGIBLE} points.")
    return Finding("inconclusive", f"{told}.")


def _is_the_question(row: Row, curves: pd.DataFrame) -> bool:
    """Barlow Twins beside Mixed Barlow Twins, whichever comes first."""
    against = curves.loc[curves["method"] == row["against"], "objective"]
    pair = {_objective(str(row["objective"])), *(_objective(text) for text in against)}
    return pair == set(OBJECTIVES)


def interval(row: Row) -> str:
    """Such as "(95 % interval 0.10 to 0.30, n = 6)"."""
    low, high = (points(_number(row[name])) for name in ("low", "high"))
    return f"(95{GAP}% interval {low} to {high}, {seeds(row)})"


def seeds(row: Row) -> str:
    """Such as "n = 6"; a column with gaps holds the number as a float."""
    return f"n{GAP}={GAP}{int(_number(row['n']))}"


def points(value: float) -> str:
    """Two decimals, a true minus sign, and no negative zero."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", MINUS)


def _of_line(curves: pd.DataFrame, line: tuple[object, ...]) -> pd.Series[bool]:
    return (curves[[*LINE]] == pd.Series(line, index=[*LINE])).all(axis=1)


def _objective(text: str) -> str:
    return text.partition(" ")[0]


def _against(row: Row) -> str:
    return "" if pd.isna(row["against"]) else str(row["against"])  # type: ignore[call-overload]


def _number(value: object) -> float:
    return float(value)  # type: ignore[arg-type]
