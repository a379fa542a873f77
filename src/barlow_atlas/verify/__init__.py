"""Our implementation against numbers that the papers' own code computed (golden files).

A golden file holds one topic: seeds and recipes of inputs, parameters, and results. For each case
the inputs are regenerated, our own functions run on them in float64, and everything that the file
says about the results is compared. The format is described in `reference/README.md`; files with
other seeds, sizes and parameters are read alike.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from barlow_atlas.verify.topics import TOPICS, outputs_of
from barlow_atlas.verify.values import Comparison, Mismatch, compare

REFERENCE = Path(__file__).parent / "reference"
FORMAT_VERSION = 1
TOLERANCE = 1e-9
TOLERANCES = {"mix_training_steps": 1e-6}  # a few steps of Adam amplify rounding


@dataclass(frozen=True)
class Outcome:
    """What became of one case, or of a file that has none to compare."""

    file: str
    topic: str
    case: str
    error: float | None = None
    """The worst relative error; None where nothing could be compared."""
    worst: str = ""
    """The output that it belongs to."""
    tolerance: float = TOLERANCE
    problem: str = ""
    """Why nothing, or not everything, could be compared."""

    @property
    def passed(self) -> bool:
        return not self.problem and self.error is not None and self.error <= self.tolerance


def verify(folder: Path = REFERENCE) -> list[Outcome]:
    """Compares every case of every golden file in `folder`; what cannot be compared fails."""
    files = sorted(folder.glob("*.json"))
    if not files:
        return [Outcome(str(folder), "", "", problem="no golden file (*.json) in this folder")]
    return [outcome for file in files for outcome in verify_file(file)]


def verify_file(file: Path) -> Iterator[Outcome]:
    """One outcome for each case of a golden file, or one that says why it cannot be read."""
    topic = ""
    try:
        content = read(file)
        topic = content["topic"]
        if topic not in TOPICS:
            raise Mismatch(f"unknown topic {topic!r}; known: {', '.join(TOPICS)}")
    except Mismatch as problem:
        yield Outcome(file.name, topic, "", problem=str(problem))
        return
    for place, case in enumerate(content["cases"]):
        yield verify_case(file.name, topic, case, place)


def read(file: Path) -> dict[str, Any]:
    """A golden file's content.

    Raises:
        Mismatch: it is no golden file of the known format.
    """
    try:
        content = json.loads(file.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise Mismatch(f"cannot be read as JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("topic"), str):
        raise Mismatch("no golden file: it names no topic")
    if content.get("format_version") != FORMAT_VERSION:
        version = content.get("format_version")
        raise Mismatch(f"format_version {version!r}; known: {FORMAT_VERSION}")
    if not isinstance(content.get("cases"), list) or not content["cases"]:
        raise Mismatch("no golden file: it lists no cases")
    return content


def verify_case(file: str, topic: str, case: Any, place: int = 0) -> Outcome:
    """Computes a case's outputs and compares them. A defect here fails this case only."""
    tolerance = TOLERANCES.get(topic, TOLERANCE)
    name = str(case.get("name", f"case {place}")) if isinstance(case, dict) else f"case {place}"
    try:
        if not isinstance(case, dict) or not case.get("outputs"):
            raise Mismatch("the case lists no outputs")
        comparisons = list(compare(case["outputs"], outputs_of(topic)(case)))
    except Mismatch as mismatch:
        return Outcome(file, topic, name, tolerance=tolerance, problem=str(mismatch))
    except Exception as error:  # whatever a case brings up must not hide the others
        problem = f"{type(error).__name__}: {error}"
        return Outcome(file, topic, name, tolerance=tolerance, problem=problem)
    worst = max(comparisons, key=lambda each: each.error, default=Comparison("", 0.0))
    problem = "; ".join(each.problem for each in comparisons if each.problem)
    return Outcome(file, topic, name, worst.error, worst.place, tolerance, problem)


def table(outcomes: list[Outcome]) -> str:
    """One line for each outcome, then the problems, then a summary."""
    rows = [("topic", "case", "worst error", "result", "worst output")]
    for outcome in outcomes:
        error = "-" if outcome.error is None else f"{outcome.error:.1e}"
        result = "pass" if outcome.passed else "FAIL"
        rows.append((outcome.topic or outcome.file, outcome.case, error, result, outcome.worst))
    problems = [
        f"{outcome.file}: {outcome.case or 'the whole file'}: {outcome.problem}"
        for outcome in outcomes
        if outcome.problem
    ]
    table = tabulate(rows, tablefmt="plain", disable_numparse=True)
    return "\n".join([table, "", *problems, summary(outcomes)])


def summary(outcomes: list[Outcome]) -> str:
    """How many cases passed, in one line."""
    passed = sum(outcome.passed for outcome in outcomes)
    return f"{passed} of {len(outcomes)} cases pass"


def as_json(outcomes: list[Outcome]) -> str:
    """The outcomes as a JSON list; an error that is no finite number is null."""
    rows = []
    for outcome in outcomes:
        finite = outcome.error is not None and math.isfinite(outcome.error)
        error = outcome.error if finite else None
        rows.append(asdict(outcome) | {"error": error, "passed": outcome.passed})
    return json.dumps(rows, indent=1)


def verify_command(golden: Path | None, json_output: bool) -> int:
    """`python -m barlow_atlas verify`: prints the outcomes; 1 if any case fails, else 0."""
    outcomes = verify(golden or REFERENCE)
    print(as_json(outcomes) if json_output else table(outcomes))
    return 0 if all(outcome.passed for outcome in outcomes) else 1
