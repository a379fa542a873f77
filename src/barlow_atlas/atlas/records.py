"""The record of a run: all that is kept of it, a file of JSON lines that lies in git.

Its first line is the run and what many milestones say alike. Then come a line for each stretch of
training between two milestones, its metrics as columns over the epochs, and a line a milestone:
which checkpoint it is and what the probes found.

Jobs write a file a stretch and a file a milestone; `current` joins them with the record that is
here, so that a clone, which has the record alone, can go on. What nothing reads is left out: single
answers on images other than the test's, and correlation matrices but those of the first milestone
and the last, of the first seed. Imports neither torch nor pandas.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from barlow_atlas.errors import AtlasError
from barlow_atlas.study.models import ForeignRun, Run, Study
from barlow_atlas.study.paths import (
    manifest_file,
    probe_file,
    probed_milestone,
    record_file,
    training_file,
)

FORMAT = 2
DIGITS = ".9g"
"""Of training metrics: as many as tell any two float32 apart."""
SAID_ONCE = ("settings", "libraries", "asked", "code", "data_sha256", "sources_sha256")
"""Keys of what many milestones share: the first line holds it, the others say where there."""

OF_WEIGHTS = ("weights_sha256", "data_sha256")
"""Keys of a checkpoint by which it is the same, whoever made it."""

Content = dict[str, Any]
"""What the probes found at a milestone: a probe file, parsed."""
Metrics = dict[str, list[float]]
"""Training metrics of a stretch: a column each, an entry an epoch; `epoch` is one of them."""


class RecordError(AtlasError):
    """A record, or a file that belongs into one, that cannot be read."""


class Stretch(NamedTuple):
    """Training from the milestone before to `until`; `cooled`: the annealed branch from there."""

    until: int
    cooled: bool = False


@dataclass(frozen=True)
class Record:
    """What is kept of a run.

    Attributes:
        run: its parameters, as all of its milestones have them.
        training: metrics by stretch, in order.
        milestones: by epoch, in order.
    """

    run: Content
    training: Mapping[Stretch, Metrics] = field(default_factory=dict)
    milestones: Mapping[int, Content] = field(default_factory=dict)


def recorded(study: str, run: Run | ForeignRun) -> Record:
    """The record of a run as it lies here; an empty one if there is none.

    Raises:
        RecordError: it is damaged, or of another format or run.
    """
    file = record_file(study, run.name)
    if not file.is_file():
        return Record(run.model_dump(mode="json"))
    return decoded(file.read_bytes(), study, run)


def decoded(content: bytes, study: str, run: Run | ForeignRun) -> Record:
    """What `encoded` was given: the record of a run in its file, here or in a commit.

    Raises:
        RecordError: it is damaged, or of another format or run.
    """
    file = record_file(study, run.name)
    try:
        first, *others = (json.loads(line) for line in content.decode().splitlines())
        if (first["format"], first["study"], first["name"]) != (FORMAT, study, run.name):
            raise RecordError(
                f"{file} is of {first['name']} in {first['study']}, format {first['format']}; "
                f"expected {run.name} in {study}, format {FORMAT}. `git checkout {file}`"
            )
        said = first.pop("said_once")
        named = {key: value for key, value in first.items() if key != "format"}
        return Record(
            first["run"],
            {
                Stretch(line["until"], line["cooled"]): line["metrics"]
                for line in others
                if "until" in line
            },
            {
                line["epoch"]: named | _spelled_out(line, said)
                for line in others
                if "until" not in line
            },
        )
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise RecordError(f"{file} is damaged ({error!r}). `git checkout {file}`") from error


def current(name: str, study: Study, run: Run | ForeignRun) -> Record:
    """The record of a run as it is now: what its jobs' files say, else what was recorded.

    A milestone counts only if it is of the checkpoint that is here, where one is. What is of other
    parameters no longer counts once there is a result of the run's own.

    Raises:
        RecordError: the record or a job's file is damaged.
    """
    epochs = study.milestones_of(run)
    known = recorded(name, run)
    probed = [
        _read(file, json.loads)
        for epoch in epochs
        if (file := probe_file(name, run, epoch)).is_file()
    ]
    there = [*known.milestones.values(), *probed]
    parameters = _parameters(run, there)
    milestones = {
        content["epoch"]: content
        for content in there
        if content["run"] == parameters and _is_of_what_is_here(content, name, run)
    }
    ordered = {epoch: milestones[epoch] for epoch in epochs if epoch in milestones}
    # The figure of correlations shows a line's lowest seed; imported weights have the first.
    shown = {*list(ordered)[:1], *list(ordered)[-1:]} if run.seed <= study.seeds[0] else set()
    training = known.training if known.run == parameters else {}
    return Record(
        parameters,
        {
            stretch: columns
            for stretch, columns in sorted({**training, **_trained(name, run, epochs)}.items())
            if stretch.until in epochs
        },
        {epoch: _slim(content, epoch in shown) for epoch, content in ordered.items()},
    )


def _parameters(run: Run | ForeignRun, there: Sequence[Content]) -> Content:
    """Those of the run if any result has them, else those of the last result that is there."""
    parameters = run.model_dump(mode="json")
    of_results = [content["run"] for content in there]
    return parameters if parameters in of_results or not of_results else of_results[-1]


def _is_of_what_is_here(content: Content, name: str, run: Run | ForeignRun) -> bool:
    """Whether a milestone is of the checkpoint that is here, if one is: of the same weights."""
    manifest = probed_milestone(name, run, content["epoch"])
    if not manifest.is_file():
        return True
    snapshot, checkpoint = _read(manifest, json.loads), content["checkpoint"]
    same_weights = all(checkpoint.get(key) == snapshot.get(key, "unknown") for key in OF_WEIGHTS)
    return same_weights or bool(checkpoint.get("lineage") == snapshot.get("lineage"))


def same_numbers(first: Record, second: Record) -> bool:
    """Whether two records say the same of the same weights, whoever made them, when and where."""
    return bool(numbers(first) == numbers(second))


def numbers(record: Record) -> Any:
    """All of a record that is measured, in order, and what of; without code, machine, seconds."""
    measured = ("asked", "results", "signals")
    return (
        record.run,
        list(record.training.items()),
        [
            (
                epoch,
                {key: content.get(key) for key in measured},
                {key: content["checkpoint"].get(key) for key in OF_WEIGHTS},
            )
            for epoch, content in record.milestones.items()
        ],
    )


def _trained(name: str, run: Run | ForeignRun, epochs: Sequence[int]) -> dict[Stretch, Metrics]:
    """The training metrics that lie here as jobs wrote them."""
    return {
        stretch: metrics_in(file)
        for epoch in epochs
        for stretch in (Stretch(epoch), Stretch(epoch, cooled=True))
        if (file := training_file(name, run.name, *stretch)).is_file()
    }


def encoded(study: str, name: str, record: Record) -> bytes:
    """The file of a record; the same record gives the same bytes."""
    said: list[Content] = []
    named = ("study", "name", "run")
    lines = [
        *(
            {"until": until, "cooled": cooled, "metrics": columns}
            for (until, cooled), columns in record.training.items()
        ),
        *(
            _referring({key: content[key] for key in content if key not in named}, said)
            for content in record.milestones.values()
        ),
    ]
    first = {"format": FORMAT, "study": study, "name": name, "run": record.run, "said_once": said}
    return b"".join(
        json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in (first, *lines)
    )


class JobFile(NamedTuple):
    """A file as the job of a milestone would have written it."""

    path: Path
    content: bytes
    checkpoint: Path
    """The manifest of the checkpoint that it is of."""
    lineage: str | None
    """Of that checkpoint; None where the record does not say it."""


def job_files(study: str, run: Run | ForeignRun, record: Record) -> Iterator[JobFile]:
    """The files of a run's jobs, as far as the record holds them."""
    for stretch, columns in record.training.items():
        rows = zip(*columns.values(), strict=True)
        lines = [json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows]
        path = training_file(study, run.name, *stretch)
        checkpoint = manifest_file(study, run.name, *stretch)
        yield JobFile(path, "".join(lines).encode(), checkpoint, None)
    for epoch, content in record.milestones.items():
        path, checkpoint = probe_file(study, run, epoch), probed_milestone(study, run, epoch)
        text = json.dumps(content, indent=1) + "\n"
        yield JobFile(path, text.encode(), checkpoint, content["checkpoint"].get("lineage"))


def contents(name: str, study: Study) -> list[Content]:
    """The milestones that are recorded of a study, of those that are planned, as probe files.

    Raises:
        RecordError: as `recorded`.
    """
    results = []
    for run in study.runs():
        milestones = recorded(name, run).milestones
        results += [milestones[epoch] for epoch in study.milestones_of(run) if epoch in milestones]
    return results


def metrics_in(file: Path) -> Metrics:
    """The training metrics that a job wrote.

    Raises:
        RecordError: the file is damaged.
    """
    metrics: Metrics = _read(file, _columns)
    return metrics


def _read(file: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(file.read_text())
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(
            f"{file} cannot be read ({error!r}). Remove it: its job writes it again"
        ) from error


def _columns(text: str) -> Metrics:
    """The columns of training metrics that are JSON lines, one an epoch."""
    rows = [json.loads(line) for line in text.splitlines()]
    names = list(rows[0]) if rows else []
    if any(list(row) != names for row in rows):
        raise ValueError("its lines have different metrics")
    return {name: [_rounded(row[name]) for row in rows] for name in names}


def _rounded(value: float) -> float:
    return float(format(value, DIGITS)) if isinstance(value, float) else value


def _slim(content: Content, is_shown: bool) -> Content:
    """Without what nothing reads; correlations are drawn of some milestones only."""
    return content | {
        "signals": [
            {key: value for key, value in entry.items() if is_shown or key != "correlation"}
            for entry in content["signals"]
        ],
        "results": [
            {
                key: value
                for key, value in entry.items()
                if entry["split"] == "test" or key != "correct"
            }
            for entry in content["results"]
        ],
    }


def _referring(value: Any, said: list[Content]) -> Any:
    """A value in which what is said once stands as its place in `said`, where it is put."""
    if isinstance(value, list):
        return [_referring(each, said) for each in value]
    if not isinstance(value, dict):
        return value
    told = {}
    for key, each in value.items():
        if key in SAID_ONCE:
            if each not in said:
                said.append(each)
            told[key] = said.index(each)
        else:
            told[key] = _referring(each, said)
    return told


def _spelled_out(value: Any, said: Sequence[Content]) -> Any:
    """What `_referring` was given."""
    if isinstance(value, list):
        return [_spelled_out(each, said) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: said[each] if key in SAID_ONCE else _spelled_out(each, said)
        for key, each in value.items()
    }
