"""The study's two questions and their answers in words, from effects alone.

A sentence with a number is made of one row of effects.csv, whole: estimate, interval and seeds turn
together or not at all. `Finding.source` says of which.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from barlow_atlas.atlas.frames import ACCURACIES, LINE
from barlow_atlas.report.text import MINUS, probe_order, probe_words

NEGLIGIBLE = 0.5
"""Percentage points: a fall whose upper bound lies below is called none. Claims have their own."""
NAMED = 4
"""Lines whose last accuracies are told by name; of more, the lowest and the highest."""

Kind = Literal[
    "falls",
    "no fall",
    "inconclusive",
    "one seed",
    "no peak",
    "unfinished",
    "higher",
    "lower",
    "differ",
    "alike",
]
Row = dict[Hashable, object]
Key = tuple[object, ...]
"""What finds a row of effects.csv: statistic, against, and the columns of `frames.LINE`."""
GAP = "\N{NO-BREAK SPACE}"
FULL_NAMES = {"bt": "Barlow Twins", "mix": "Mixed Barlow Twins"}
BARLOW, MIXED = "barlow_twins", "mixed_barlow_twins"
OBJECTIVES = {BARLOW: "Barlow Twins", MIXED: "Mixed Barlow Twins"}
FALLS = "Does {} fall after its peak?"
ENDS_HIGHER = "Does Mixed Barlow Twins end higher?"


@dataclass(frozen=True)
class Measured:
    """A row of effects.csv as sentences take it."""

    estimate: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, row: Mapping[Hashable, object]) -> Measured:
        """The numbers of a row; without an interval, `low` and `high` are NaN."""
        estimate, low, high = (_number(row[name]) for name in ("estimate", "low", "high"))
        return cls(estimate, low, high, int(_number(row["n"])))

    @property
    def turned(self) -> Measured:
        """The same effect seen from the other side: minus all of it."""
        return Measured(-self.estimate, -self.high, -self.low, self.n)

    @property
    def bounded(self) -> bool:
        """Whether it has an interval."""
        return not np.isnan(self.low)

    @property
    def upright(self) -> Measured:
        """The effect from the side on which its estimate is not negative."""
        return self.turned if self.estimate < 0 else self

    @property
    def size(self) -> str:
        """Such as "0.20 points"."""
        return f"{points(self.estimate)} points"

    @property
    def interval(self) -> str:
        """Such as " (95 % interval 0.10 to 0.30, n = 6)"; for one seed nothing."""
        if not self.bounded:
            return ""
        bounds = f"{points(self.low)} to {points(self.high)}"
        return f" (95{GAP}% interval {bounds}, n{GAP}={GAP}{self.n})"


@dataclass(frozen=True)
class Finding:
    """One sentence and what it amounts to.

    Attributes:
        method: that it is about; of two, the first.
        objective: what this minimises, the first word of `objective`.
        effect: its numbers; None where it has none.
        source: which row of effects.csv they are.
    """

    kind: Kind
    text: str
    method: str = ""
    objective: str = ""
    effect: Measured | None = None
    source: Key = ()


@dataclass(frozen=True)
class ProbeFindings:
    """What one probe says.

    Attributes:
        lines: about the fall of each line.
        pairs: about Mixed Barlow Twins beside Barlow Twins at each width, at the end.
        more: since when lines fall, and the falls of pairs beside each other.
        ends: the lines that have ended by name, and their last accuracies in percent.
    """

    probe: str
    lines: tuple[Finding, ...]
    pairs: tuple[Finding, ...]
    more: tuple[Finding, ...] = ()
    ends: tuple[tuple[str, float], ...] = ()

    @property
    def all(self) -> tuple[Finding, ...]:
        """In the order in which they are read."""
        return self.lines + self.pairs + self.more


@dataclass(frozen=True)
class Verdict:
    """A question, its answer in a word, and by how much.

    Attributes:
        findings: what that rests on.
        variants: the same of lines that are the method with another setting.
    """

    question: str
    word: str
    text: str
    findings: tuple[Finding, ...] = ()
    variants: tuple[Finding, ...] = ()

    @property
    def answer(self) -> str:
        """Such as "No: at most 0.14 points; 1 of 8 variants falls: bt-long, by 1.30 points."."""
        fell = [one for one in self.variants if one.kind == "falls" and one.effect]
        if not fell:
            return f"{self.word}: {self.text}."
        of = f"{len(fell)} of {len(self.variants)} variants {'fall' if fell[1:] else 'falls'}"
        names = ", ".join(dict.fromkeys(one.method for one in fell))
        sizes = _sizes([one.effect for one in fell if one.effect])
        return f"{self.word}: {self.text}; {of}: {names}, by {sizes}."


@dataclass(frozen=True)
class Answer:
    """A study's verdicts by its main probe, what they rest on, and what all probes say.

    Attributes:
        ends: the last accuracies by the main probe, such as "Barlow Twins ends at 98.33 %, Mixed
            Barlow Twins at 98.42 %"; empty if no line has ended.
    """

    verdicts: tuple[Verdict, ...]
    rests_on: str
    probes: tuple[ProbeFindings, ...]
    ends: str = ""


def answer(curves: pd.DataFrame, effects: pd.DataFrame) -> Answer:
    """Does accuracy fall past its peak, and does mixing end higher?

    Args:
        curves: columns of curves.csv, of one study.
        effects: columns of effects.csv, of the same study.
    """
    # An average precision is of all images together and has no effects.
    accuracies = curves[curves["metric"].isin(ACCURACIES)]
    probes = tuple(
        _probe_findings(str(probe), str(variant), rows, effects)
        for (probe, variant), rows in sorted(
            accuracies.groupby(["probe", "variant"], sort=False),
            key=lambda item: probe_order(item[0][0]),
        )
    )
    if not probes:
        why = "no milestone has been probed" if curves.empty else "no probe tells an accuracy"
        nothing = Verdict(FALLS.format("accuracy"), "No answer yet", why)
        return Answer((nothing,), "", ())
    main = probes[0]
    asks_both = {_objective(text) for text in curves["objective"]} >= set(OBJECTIVES)
    verdicts = (fall_verdict(main.lines), *([end_verdict(main.pairs)] if asks_both else []))
    return Answer(verdicts, _rests_on(main.probe, verdicts), probes, _ends(main.ends))


def fall_verdict(lines: Sequence[Finding]) -> Verdict:
    """Whether accuracy falls: of Barlow Twins, or of all lines where no line is one.

    Of the lines whose objective it is, those that bear its name go first: the others are its
    variants, of which it is told how many fall.
    """
    of_objective = [finding for finding in lines if finding.objective == BARLOW]
    asked, variants = _by_name(of_objective or lines, OBJECTIVES[BARLOW])
    question = FALLS.format(OBJECTIVES[BARLOW] if of_objective else "accuracy")
    return Verdict(question, *_fallen(asked), asked, variants)


def _by_name(
    findings: Sequence[Finding], name: str
) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """Those of the method that bears its objective's name, and the others; else all, and none."""
    named = tuple(finding for finding in findings if finding.method == name)
    others = tuple(finding for finding in findings if finding.method != name)
    return (named, others) if named else (others, ())


def _fallen(lines: Sequence[Finding]) -> tuple[str, str]:
    """The answer in a word, and by how much."""
    fell = [finding.effect for finding in lines if finding.kind == "falls" and finding.effect]
    ended = [finding for finding in lines if finding.kind != "unfinished"]
    of = "" if len(ended) == len(lines) else f" ({len(ended)} of {len(lines)} lines have ended)"
    if fell:
        where = "" if len(fell) == len(lines) else f", in {len(fell)} of {len(lines)} lines"
        return f"Yes{where}", f"by {_sizes(fell)}"
    bounds = [finding.effect.high for finding in lines if finding.effect and finding.effect.bounded]
    highest = points(max([*bounds, 0.0]))
    kinds = {finding.kind for finding in ended}
    if kinds == {"no fall"}:
        return "No", f"at most {highest} points{of}"
    if kinds & {"no fall", "inconclusive"}:
        return "Not shown", f"up to {highest} points are not excluded{of}"
    if "one seed" in kinds:
        return "Open", "one seed has no interval, so nothing follows from it"
    if "no peak" in kinds:
        return "Not asked", "without validation images no peak can be chosen"
    return "No answer yet", "no run has ended"


def end_verdict(pairs: Sequence[Finding]) -> Verdict:
    """Whether Mixed Barlow Twins ends above Barlow Twins, its variants apart."""
    asked, _ = _by_name(pairs, OBJECTIVES[MIXED])
    return Verdict(ENDS_HIGHER, *_ended(asked), asked)


def _ended(pairs: Sequence[Finding]) -> tuple[str, str]:
    effects = {
        kind: [pair.effect for pair in pairs if pair.kind == kind and pair.effect]
        for kind in ("higher", "lower", "alike", "inconclusive")
    }
    higher, lower = effects["higher"], effects["lower"]
    if higher and lower:
        return "It depends", f"in {len(higher)} of {len(pairs)} lines higher, in {len(lower)} lower"
    if higher:
        where = "" if len(higher) == len(pairs) else f", in {len(higher)} of {len(pairs)} lines"
        return f"Yes{where}", f"by {_sizes(higher)}"
    if lower:
        where = "" if len(lower) == len(pairs) else f", in {len(lower)} of {len(pairs)} lines"
        return "No", f"it ends lower{where}, by {_sizes([one.turned for one in lower])}"
    if effects["inconclusive"]:
        every = [*effects["inconclusive"], *effects["alike"]]
        low, high = min(one.low for one in every), max(one.high for one in every)
        return "Not shown", f"it ends between {points(low)} and {points(high)} points higher"
    if effects["alike"]:
        return "No", f"any difference is below {NEGLIGIBLE} points"
    if pairs:
        return "Open", "one seed has no interval, so nothing follows from it"
    return "No answer yet", "no pair of runs has ended"


def _sizes(effects: Sequence[Measured]) -> str:
    """One effect with its interval; of several the least and the largest."""
    if len(effects) == 1:
        (one,) = effects
        return f"{points(one.estimate)} points, {interval_of(one)}"
    sizes = sorted(one.estimate for one in effects)
    return f"{points(sizes[0])} to {points(sizes[-1])} points"


def interval_of(effect: Measured) -> str:
    """Such as "interval 4.14 to 6.15"."""
    return f"interval {points(effect.low)} to {points(effect.high)}"


def _ends(ends: Sequence[tuple[str, float]]) -> str:
    """The last accuracies of lines."""
    if len(ends) > NAMED:
        levels = sorted(level for _, level in ends)
        return f"{len(ends)} lines end at {points(levels[0])} to {points(levels[-1])}{GAP}%"
    return ", ".join(
        f"{name}{'' if place else ' ends'} at {points(level)}{GAP}%"
        for place, (name, level) in enumerate(ends)
    )


def _rests_on(probe: str, verdicts: Sequence[Verdict]) -> str:
    """How many seeds and which probe the verdicts are of."""
    counts = sorted({f.effect.n for verdict in verdicts for f in verdict.findings if f.effect})
    if not counts:
        return probe
    number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{number} {'seed' if counts[-1] == 1 else 'seeds'} a line, {probe}"


def overall(answers: Sequence[Answer], networks: int = 0) -> tuple[Verdict, ...]:
    """Both questions over all studies, each answered by its main probe.

    Args:
        networks: sets of them that the studies ask, where these are fewer.
    """
    verdicts = [verdict for answer in answers for verdict in answer.verdicts if answer.probes]
    asked = (FALLS.format(OBJECTIVES[BARLOW]), ENDS_HIGHER)
    return tuple(
        Verdict(
            question,
            *_over(same, networks),
            tuple(finding for verdict in same for finding in verdict.findings),
            tuple(finding for verdict in same for finding in verdict.variants),
        )
        for question in asked
        if (same := [verdict for verdict in verdicts if verdict.question == question])
    ) or (Verdict(asked[0], "No answer yet", "no study but examples has results"),)


def _over(verdicts: Sequence[Verdict], networks: int) -> tuple[str, str]:
    """One study's answer as it is; of several, how many say what."""
    if len(verdicts) == 1:
        return verdicts[0].word, verdicts[0].text
    of = f"of {len(verdicts)} studies"
    if 0 < networks < len(verdicts):
        of += f" ({networks} {'sets' if networks > 1 else 'set'} of networks)"
    shown = {word: [v for v in verdicts if v.word.startswith(word)] for word in ("Yes", "No")}
    shown["No"] = [verdict for verdict in shown["No"] if verdict.word == "No"]
    if shown["Yes"]:
        falls = [
            finding.effect
            for verdict in shown["Yes"]
            for finding in verdict.findings
            if finding.kind in ("falls", "higher") and finding.effect
        ]
        return f"Yes, in {len(shown['Yes'])} {of}", f"by {_sizes(falls)}"
    if len(shown["No"]) == len(verdicts):
        if verdicts[0].question == ENDS_HIGHER:
            return "No", f"in none {of}"
        bounds = [f.effect.high for v in verdicts for f in v.findings if f.effect]
        return "No", f"at most {points(max([*bounds, 0.0]))} points, in {len(verdicts)} {of}"
    open_ones = len(verdicts) - len(shown["No"])
    return "Not shown", f"excluded in {len(shown['No'])} {of}, open in {open_ones}"


def _probe_findings(
    probe: str, variant: str, curves: pd.DataFrame, effects: pd.DataFrame
) -> ProbeFindings:
    of_probe = effects[(effects["probe"] == probe) & (effects["variant"] == variant)]
    rows = {_key(row): row for row in of_probe.to_dict("records")}
    names = line_names(curves)
    validated = curves[curves["split"] == "validation"]
    with_peak = set(validated[[*LINE]].itertuples(index=False, name=None))
    lines = tuple(_fall(name, line, rows, line in with_peak) for line, name in names.items())
    fallen = {finding.source[2:] for finding in lines if finding.kind == "falls"}
    onsets = [_onset(names[line], rows["onset", "", *line]) for line in names if line in fallen]
    pairs: list[Finding] = []
    falls: list[Finding] = []
    for key, row in rows.items():
        if key[0] == "difference_last" and _is_the_question(row, curves):
            pairs.append(_end(row, names))
            falls += _falls_beside(rows.get(("difference_drop_from_best", *key[1:])), names)
    more = (*(one for one in onsets if one is not None), *falls)
    ends = tuple(
        (name, Measured.of(rows["last", "", *line]).estimate)
        for line, name in names.items()
        if ("last", "", *line) in rows
    )
    return ProbeFindings(probe_words(probe, variant), lines, tuple(pairs), more, ends)


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
        name = method_name(str(row["method"]), str(row["objective"]))
        details = ", ".join(words.format(row[column]) for column, words in telling if row[column])
        line = tuple(row[column] for column in LINE)
        names[line] = f"{name} ({details})" if details else name
    return names


def method_name(method: str, objective: str) -> str:
    """A method's full name, if it has one and minimises what that says; else its own."""
    known = OBJECTIVES.get(_objective(objective))
    return known if known is not None and FULL_NAMES.get(method) == known else method


def _fall(name: str, line: tuple[object, ...], rows: Mapping[Key, Row], has_peak: bool) -> Finding:
    """Whether one line falls from its peak to its end."""
    objective = _objective(str(line[LINE.index("objective")]))
    about: dict[str, Any] = {"method": _method(name), "objective": objective}
    last = rows.get(("last", "", *line))
    if last is None:
        told = f"{name}: no run has reached its last milestone yet."
        return Finding("unfinished", told, **about)
    # Of the same estimate as the drop; its upper bound holds for the best milestone of all, too.
    row = rows.get(("drop_from_best", "", *line))
    if row is None or not has_peak:
        level = Measured.of(last)
        return Finding(
            "no peak",
            f"{name} ends at {points(level.estimate)}{GAP}%{level.interval}; without validation "
            "images no peak can be chosen but on the test images, which would show a fall where "
            "there is none.",
            **about,
            effect=level,
            source=_key(last),
        )
    drop = Measured.of(row)
    verb = "gains" if drop.estimate < 0 else "loses"
    told = f"From peak to end, {name} {verb} {drop.upright.size}{drop.upright.interval}"
    if not drop.bounded:
        kind: Kind = "one seed"
        told += (
            " (one seed: no interval, since the spread between seeds cannot be seen from one; its "
            "peak is chosen on its own curve, which flatters the peak)"
        )
    elif drop.high < NEGLIGIBLE:
        kind = "no fall"
        told += f": a fall of more than {points(max(drop.high, 0))} points is excluded"
    elif drop.low > 0:
        kind = "falls"
    else:
        kind = "inconclusive"
        told += f": a fall of up to {points(drop.high)} points is not excluded"
    return Finding(kind, f"{told}.", **about, effect=drop, source=_key(row))


def _onset(name: str, row: Row) -> Finding | None:
    """Since when a fall is shown."""
    onset = Measured.of(row)
    if not np.isfinite(onset.high):
        return None
    told = f"{name}: the fall is shown from epoch {onset.high:.0f} on."
    return Finding("falls", told, _method(name), effect=onset, source=_key(row))


def _end(row: Row, names: Mapping[tuple[object, ...], str]) -> Finding:
    """A line's last accuracy beside another's."""
    first, second = _both(row, names)
    effect = Measured.of(row)
    way = "lower" if effect.estimate < 0 else "higher"
    told = f"{first} ends {effect.upright.size} {way} than {second}{_seen(effect)}."
    return Finding(_side(effect), told, _method(first), effect=effect, source=_key(row))


def _falls_beside(row: Row | None, names: Mapping[tuple[object, ...], str]) -> Iterable[Finding]:
    """A line's fall beside another's; nothing where neither is seen to move."""
    if row is None:
        return
    effect = Measured.of(row)
    if not any((effect.estimate, effect.low, effect.high)):
        return
    first, second = _both(row, names)
    way = "less" if effect.estimate < 0 else "more"
    told = f"From peak to end, {first} loses {effect.upright.size} {way} than {second}"
    side = _side(effect)
    kind: Kind = "differ" if side in ("higher", "lower") else side
    text = f"{told}{_seen(effect)}."
    yield Finding(kind, text, _method(first), effect=effect, source=_key(row))


def _seen(effect: Measured) -> str:
    """The interval behind a comparison, or that there is none."""
    return effect.upright.interval or " (one seed: no interval)"


def _side(effect: Measured) -> Kind:
    if not effect.bounded:
        return "one seed"
    if max(-effect.low, effect.high) < NEGLIGIBLE:
        return "alike"
    if effect.low > 0:
        return "higher"
    return "lower" if effect.high < 0 else "inconclusive"


def _both(row: Row, names: Mapping[tuple[object, ...], str]) -> tuple[str, str]:
    """The names of the two lines that a difference is of."""
    line = tuple(row[name] for name in LINE)
    second = next(
        (
            name
            for other, name in names.items()
            if other[1] == row["against"] and other[3:] == line[3:] and other[0] == line[0]
        ),
        _against(row),
    )
    return names.get(line, str(row["method"])), second


def _method(name: str) -> str:
    """Of a line's name: without the details that tell it from the method's others."""
    return name.partition(" (")[0]


def _is_the_question(row: Row, curves: pd.DataFrame) -> bool:
    """Whether it is Mixed Barlow Twins minus Barlow Twins."""
    against = {_objective(text) for text in curves["objective"][curves["method"] == row["against"]]}
    return _objective(str(row["objective"])) == MIXED and against == {BARLOW}


def points(value: float) -> str:
    """Two decimals, a true minus sign, and no negative zero."""
    # Numpy's own numbers round halves otherwise.
    return f"{round(float(value), 2) + 0.0:.2f}".replace("-", MINUS)


def _key(row: Row) -> Key:
    return (row["statistic"], _against(row), *(row[name] for name in LINE))


def _objective(text: str) -> str:
    return text.partition(" ")[0]


def _against(row: Row) -> str:
    return "" if pd.isna(row["against"]) else str(row["against"])  # type: ignore[call-overload]


def _number(value: object) -> float:
    return float(value)  # type: ignore[arg-type]
