"""The papers' claims: what each of them says in numbers, and which studies test it.

`params/claims.yaml` is a `Claims`. A claim says that an effect lies in a set of values. It expands
to one `Entry` of the ledger for each study, comparison, embedding width and probe it speaks of.

Planning imports this module, so it loads neither torch nor numpy.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from barlow_atlas.errors import AtlasError, not_allowed
from barlow_atlas.settings.frozen import NAME, Frozen
from barlow_atlas.study.models import Run, Study

Name = Annotated[str, StringConstraints(pattern=rf"^{NAME.pattern}$")]
Words = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
Holds = Literal["above", "not above", "not below", "within"]
Role = Literal["paper", "stand-in", "example"]
Over = Literal["embedding_dim", "batch_size"]
SignalName = Literal["effective_rank", "feature_std"]

UNITS = {
    "drop_from_best": "points",
    "gain": "points",
    "difference_last": "points",
    "difference_drop_from_best": "points",
    "trend_last": "points per doubling",
    "trend_drop_from_best": "points per doubling",
    "agreement": "rho",
    "effective_rank": "dimensions",
    "feature_std": "share of even spread",
}
"""What each test, or the signal that it reads, is measured in."""


class ClaimError(AtlasError):
    """Claims that cannot be used; the message names file, claim, value and what is allowed."""


class Setting(Frozen):
    """What a study is to the papers' claims."""

    role: Role = Field(
        description="paper: data and settings of the paper; stand-in: the paper's question at "
        "another size; example: shows how the ledger reads"
    )
    note: Words = Field(description="in what it differs from the papers")


def claimed_set(holds: Holds, smallest: float) -> tuple[float, float]:
    """Ends of the set of effects that a claim names, which do not belong to it; may be infinite.

    Args:
        smallest: smallest effect of interest.
    """
    infinity = float("inf")
    return {
        "above": (smallest, infinity),
        "not above": (-infinity, smallest),
        "not below": (-smallest, infinity),
        "within": (-smallest, smallest),
    }[holds]


class _Claim(Frozen):
    id: Name
    text: Words = Field(description="the claim in one sentence")
    source: Words = Field(description="paper, and where in it")
    studies: Names
    holds: Holds = Field(description="in which set of values the effect is said to lie")
    smallest: float = Field(
        ge=0, description="smallest effect of interest in the test's unit: the set ends there"
    )
    why: Words = Field(description="why this smallest effect")

    @model_validator(mode="after")
    def _something_is_within(self) -> "_Claim":
        if self.holds == "within" and self.smallest == 0:
            raise ValueError("no effect is within 0: give a smallest effect above 0")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """Those of `claimed_set`."""
        return claimed_set(self.holds, self.smallest)


class OneLine(_Claim):
    """How far accuracy falls after its peak, or gains over that of the untrained network."""

    test: Literal["drop_from_best", "gain"]
    method: str
    probes: Names = Field(description="such as linear, or knn k=200 T=0.5")


class TwoLines(_Claim):
    """Accuracy at the last milestone, or the fall after the peak: a method's minus another's."""

    test: Literal["difference_last", "difference_drop_from_best"]
    method: str
    against: Names
    probes: Names


class Trend(_Claim):
    """Slope of the last accuracy, or of the fall, per doubling of a setting of these methods."""

    test: Literal["trend_last", "trend_drop_from_best"]
    methods: Names
    over: Over
    probes: Names


class Agreement(_Claim):
    """Rank correlation of two probes along the milestones of a run."""

    test: Literal["agreement"]
    method: str
    probes: Annotated[tuple[str, str], Field(strict=False)]


class Signal(_Claim):
    """A label-free signal of held-out images at the last milestone, of what the objective sees."""

    test: Literal["signal_last"]
    method: str
    signal: SignalName


Claim = OneLine | TwoLines | Trend | Agreement | Signal
TESTS: dict[str, type[_Claim]] = {
    "drop_from_best": OneLine,
    "gain": OneLine,
    "difference_last": TwoLines,
    "difference_drop_from_best": TwoLines,
    "trend_last": Trend,
    "trend_drop_from_best": Trend,
    "agreement": Agreement,
    "signal_last": Signal,
}


class Claims(Frozen):
    """The claims of the papers, and what each study that tests them is to these papers."""

    studies: dict[str, Setting]
    claims: Annotated[
        tuple[Annotated[Claim, Field(discriminator="test")], ...],
        Field(min_length=1, strict=False),
    ]

    @field_validator("claims")
    @classmethod
    def _no_repetition(cls, value: tuple[Claim, ...]) -> tuple[Claim, ...]:
        _refuse_repetition("claim", (claim.id for claim in value))
        return value

    @model_validator(mode="after")
    def _studies_have_a_setting(self) -> "Claims":
        tested = {study for claim in self.claims for study in claim.studies}
        for study in sorted(tested - set(self.studies)):
            raise ValueError(f"studies lacks {study!r}: say what it is to the papers")
        for study in sorted(set(self.studies) - tested):
            raise ValueError(f"studies.{study}: no claim is tested on it; leave it out")
        return self


class LineName(NamedTuple):
    """What an entry needs of a study: a line of the map, or for a signal, that of any probe."""

    method: str
    embedding_dim: int
    probe: str = ""
    variant: str = ""

    @property
    def run(self) -> str:
        """The run in words; imported weights have no width."""
        return f"{self.method} at width {self.embedding_dim}" if self.embedding_dim else self.method


@dataclass(frozen=True)
class Entry:
    """One row of the ledger: a claim about some lines of one study.

    Attributes:
        id: such as `mix-not-worse/cifar10/knn`, or with more parts where a claim has several; of
            several variants of a probe with theirs, as `.../transfer dtd`.
        seeds: those that the study plans for all of its lines.
        lines: in the order that the test takes them.
    """

    id: str
    claim: Claim
    study: str
    setting: Setting
    seeds: tuple[int, ...]
    lines: tuple[LineName, ...]

    @property
    def unit(self) -> str:
        """What the effect and its smallest size are measured in."""
        claim = self.claim
        return UNITS[claim.signal if isinstance(claim, Signal) else claim.test]

    @property
    def compared(self) -> str:
        """The methods in words, such as `bt minus mix` or `n128 to n4096`."""
        first, *others = dict.fromkeys((line.method, line.embedding_dim) for line in self.lines)
        if isinstance(self.claim, Trend):
            return f"{first[0]} to {others[-1][0]}" if others[-1][0] != first[0] else first[0]
        return " minus ".join(method for method, _ in (first, *others))

    @property
    def widths(self) -> str:
        """Embedding widths of its lines, such as `1024` or `128 to 4096`; empty without any."""
        widths = sorted({line.embedding_dim for line in self.lines if line.embedding_dim})
        ends = dict.fromkeys((*widths[:1], *widths[-1:]))
        return " to ".join(str(width) for width in ends)

    @property
    def seen_by(self) -> str:
        """The probes, or the signal."""
        if isinstance(self.claim, Signal):
            return self.claim.signal
        probes = dict.fromkeys(f"{line.probe} {line.variant}" for line in self.lines)
        return " with ".join(probes)


def load_claims(path: Path) -> Claims:
    """Reads and checks a file of claims; whether they fit their studies, `entries` checks.

    Raises:
        ClaimError: with one line for each thing that is wrong.
    """
    try:
        content = YAML(typ="safe", pure=True).load(path)
    except FileNotFoundError as error:
        raise ClaimError(f"{path} does not exist; it lists the claims of the ledger") from error
    except YAMLError as error:
        raise ClaimError(f"{path} is not valid YAML: {error}") from error
    try:
        return Claims.model_validate(content)
    except ValidationError as error:
        faults = [f"{path}: {_explain(detail, content)}" for detail in error.errors()]
        raise ClaimError("\n".join(faults)) from error


def entries(claims: Claims, studies: Mapping[str, Study]) -> list[Entry]:
    """The rows of the ledger, in the order of the claims and their studies.

    Args:
        studies: all studies there are, by name.

    Raises:
        ClaimError: a claim names what its study has not, with the nearest right name; a line for
            each such claim and study.
    """
    rows: list[Entry] = []
    faults = []
    for claim in claims.claims:
        for name in claim.studies:
            try:
                study = studies[_known("study", name, studies)]
                rows += _expand(claim, name, study, claims.studies[name])
            except ValueError as error:
                faults.append(f"claim {claim.id}, study {name}: {error}")
    if faults:
        raise ClaimError("\n".join(faults))
    return rows


def _expand(claim: Claim, name: str, study: Study, setting: Setting) -> list[Entry]:
    """A claim's entries for one study; raises ValueError."""
    cases = [
        ("/".join(part for part in (claim.id, name, *parts) if part), lines)
        for parts, lines in _cases(claim, study)
    ]
    _refuse_repetition("entry", (identity for identity, _ in cases))
    planned: dict[tuple[str, int], list[int]] = {}
    for run in study.runs():
        planned.setdefault((run.method, run.embedding_dim or 0), []).append(run.seed)
    return [
        Entry(key, claim, name, setting, _common(planned, lines), lines) for key, lines in cases
    ]


def _common(
    planned: Mapping[tuple[str, int], Sequence[int]], lines: Sequence[LineName]
) -> tuple[int, ...]:
    """The seeds that are planned for all of these lines."""
    first, *others = (planned[line.method, line.embedding_dim] for line in lines)
    return tuple(seed for seed in first if all(seed in seeds for seeds in others))


def _cases(claim: Claim, study: Study) -> Iterator[tuple[list[str], tuple[LineName, ...]]]:
    """What tells an entry from the study's others, and its lines."""
    groups = list(_groups(claim, study))
    if isinstance(claim, Signal):
        for parts, trained in groups:
            yield parts, tuple(LineName(*line) for line in trained)
        return
    probes = [_probe(text, study) for text in claim.probes]
    kinds = Counter(kind for kind, _ in set(probes))
    for parts, trained in groups:
        if isinstance(claim, Agreement):
            yield parts, tuple(LineName(*trained[0], *probe) for probe in probes)
        else:
            for probe in probes:
                seen = probe[0] if kinds[probe[0]] == 1 else " ".join(probe)
                yield [*parts, seen], tuple(LineName(*line, *probe) for line in trained)


def _groups(claim: Claim, study: Study) -> Iterator[tuple[list[str], list[tuple[str, int]]]]:
    """The methods at their widths that a test takes together."""
    widths: dict[str, list[int]] = {}
    for run in study.runs():
        of_method = widths.setdefault(run.method, [])
        if (run.embedding_dim or 0) not in of_method:
            of_method.append(run.embedding_dim or 0)
    if isinstance(claim, Trend):
        methods = [_known("method", method, widths) for method in claim.methods]
        _check_trend(claim, study)
        yield [], [(method, width) for method in methods for width in widths[method]]
        return
    method_widths = widths[_known("method", claim.method, widths)]
    for other in claim.against if isinstance(claim, TwoLines) else [claim.method]:
        other_widths = widths[_known("method", other, widths)]
        if method_widths != other_widths and not len(method_widths) == len(other_widths) == 1:
            raise ValueError(
                f"{claim.method} has the widths {method_widths} and {other} {other_widths}: "
                "expected the same, or one of each"
            )
        several = isinstance(claim, TwoLines) and len(claim.against) > 1
        for width, other_width in zip(method_widths, other_widths, strict=True):
            parts = [other if several else "", f"d{width}" if len(method_widths) > 1 else ""]
            pair = dict.fromkeys([(claim.method, width), (other, other_width)])
            yield parts, list(pair)


def _check_trend(claim: Trend, study: Study) -> None:
    runs = [run for run in study.runs() if run.method in claim.methods and isinstance(run, Run)]
    values = sorted({getattr(run, claim.over) for run in runs})
    if len(values) < 2:
        raise ValueError(
            f"a trend over {claim.over} needs two different values, these methods have {values}"
        )


def _probe(text: str, study: Study) -> tuple[str, str]:
    """The probe and variant that a claim's text means; raises ValueError."""
    asked = study.probes.variants()
    names = [" ".join(probe) for probe in asked]
    meant = [probe for probe in asked if text in (probe[0], " ".join(probe))]
    if len(meant) > 1:
        raise ValueError(f"{text!r} means several probes; say which: {', '.join(names)}")
    if not meant:
        raise not_allowed("probe", text, [*names, *{kind for kind, _ in asked}])
    return meant[0]


def _known(kind: str, name: str, known: Iterable[str]) -> str:
    """The name, if it is known; else ValueError with the nearest."""
    names = list(known)
    if name not in names:
        raise not_allowed(kind, name, names)
    return name


def _refuse_repetition(kind: str, names: Iterable[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{kind} {twice[0]!r} is there twice: give each its own name")


def _explain(detail: Any, content: Any) -> str:
    """One pydantic error as: claim, key, value, what is allowed, nearest name."""
    location = detail["loc"]
    model = _model_at(location)
    keys = [str(key) for key in location if key not in TESTS]
    if location[:1] == ("claims",) and len(location) > 1:
        claim = content["claims"][location[1]]
        named = claim.get("id") if isinstance(claim, dict) else None
        keys[:2] = [f"claim {named or f'number {location[1] + 1}'}"]
    where = ".".join(keys) or "claims"
    if detail["type"] == "extra_forbidden":
        return f"{where}: {not_allowed('parameter', keys[-1], list(model.model_fields))}"
    if detail["type"] == "missing":
        return f"{where} is missing."
    if detail["type"] == "union_tag_not_found":
        return f"{where}.test is missing; one of {', '.join(TESTS)}."
    if detail["type"] == "union_tag_invalid":
        return f"{where}.test: {not_allowed('test', detail['ctx']['tag'], list(TESTS))}"
    message = detail["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(detail["input"], dict | list) else f" = {detail['input']!r}"
    return f"{where}{shown}: {message}"


def _model_at(location: tuple[int | str, ...]) -> type[Frozen]:
    """The model whose parameters stand at pydantic's `loc`."""
    if location[:1] == ("studies",):
        return Setting
    return next((TESTS[str(part)] for part in location if part in TESTS), Claims)
