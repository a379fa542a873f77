"""Results carried over a change of code that is meant to change no number.

`prove` makes some milestones of a study again with today's code, and compares weights, training
metrics, signals and answers with what the study's records say, or with what the code of a commit
gives on this machine. If all agree, the results of the old code count as made by today's
(`store/adoptions.py`); if one does not, nothing is adopted.
"""

import dataclasses
import datetime
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file

from barlow_atlas.atlas.records import Content, Record, Stretch, current, metrics_in
from barlow_atlas.atomic import write_atomically
from barlow_atlas.data.prepared import MANIFEST, load, sha256_of
from barlow_atlas.nn.devices import device_for
from barlow_atlas.probes.packing import unpack, unpack_correlations
from barlow_atlas.steps.import_weights import import_weights
from barlow_atlas.steps.pretrain import pretraining_images, pretraining_labels, segment
from barlow_atlas.steps.probe import asked
from barlow_atlas.store.adoptions import (
    Adoption,
    AdoptionError,
    Proof,
    Repetition,
    adoptions,
    adoptions_file,
    standing,
    to_json,
)
from barlow_atlas.store.provenance import made_by
from barlow_atlas.store.snapshot import SnapshotError, read_manifest_of, read_state
from barlow_atlas.study.models import ForeignRun, Run, Study
from barlow_atlas.study.paths import (
    COOLED,
    DATA,
    manifest_file,
    milestone_path,
    of_run,
    probe_file,
    probed_milestone,
    training_file,
)
from barlow_atlas.training.segment import Monitor, pretrain_together
from barlow_atlas.workflow import dvc_stages
from barlow_atlas.workflow.sources import probing_code, training_code

Say = Callable[[str], None]


class Change(NamedTuple):
    """Code that made results of a study, and today's in its place."""

    code: str
    old: str
    new: str


@dataclass(frozen=True)
class Candidate:
    """A milestone that can be made again, and what would be met by it."""

    run: Run | ForeignRun
    epoch: int
    trained_from: int
    changes: tuple[Change, ...]

    @property
    def epochs(self) -> int:
        """What it costs."""
        return self.epoch - self.trained_from

    @property
    def meets(self) -> set[object]:
        width = "width", self.run.embedding_dim
        return {("method", self.run.method), width, *self.changes}


@dataclass(frozen=True)
class Made:
    """A milestone and all training before it, as far as it is told."""

    content: Content
    metrics: Mapping[int, Mapping[str, float]]
    """Training metrics by epoch; those of a branch that anneals follow the trunk's."""
    checkpoint: Path | None
    """Its manifest, beside which the weights lie."""


def prove(
    name: str,
    study: Study,
    count: int,
    tolerance: float,
    commit: str | None,
    device: str | None,
    say: Say,
) -> None:
    """Makes `count` milestones again and, if they agree, adopts the results of the old code.

    They are drawn so that each method, each width and each code that made results is met, the
    cheapest first: those that follow on a stored training state, else the earliest.

    Args:
        name: of the study.
        tolerance: relative difference up to which values count as the same; 0: equal bits.
        commit: git commit whose code is run here for comparison; it must be the code that the
            results name. None: they are compared with the results themselves, which only the same
            kind of machine gives again to the bit.

    Raises:
        AdoptionError: a milestone that does not agree, with the first difference; nothing that
            could be made again; too few milestones to meet all code.
    """
    records = {run.name: current(name, study, run) for run in study.runs()}
    changes = _changes(name, study, records)
    if not changes:
        say(f"{name}: all results here count as made by today's code; nothing to prove")
        return
    drawn = draw(candidates(name, study, records, changes), changes, count)
    repetitions = []
    with TemporaryDirectory() as folder, _reference(name, commit, Path(folder)) as other:
        for number, candidate in enumerate(drawn, start=1):
            run, epoch = candidate.run, candidate.epoch
            again = _make(name, study, candidate, Path(folder) / str(number), device)
            if other is None:
                known = _stored(name, run, epoch, records[run.name])
            else:
                known = _made_by_commit(other, name, study, candidate)
            repetition = compare(candidate, known, again, tolerance)
            repetitions.append(repetition)
            say(
                f"{number} of {len(drawn)}: {run.name}, epoch {epoch}, trained "
                f"{_origin(candidate.trained_from)}: {repetition.compared} values agree, largest "
                f"difference {repetition.largest_difference:.2g}"
            )
    against = f"the code of {commit} on the same machine" if commit else "the stored results"
    proof = Proof(against=against, tolerance=tolerance, repetitions=tuple(repetitions))
    _adopt(name, changes, say, proof=proof)


def accept(name: str, study: Study, reason: str, say: Say) -> None:
    """Adopts the results of other code without proof; it is shown wherever they are."""
    records = {run.name: current(name, study, run) for run in study.runs()}
    changes = _changes(name, study, records)
    if not changes:
        say(f"{name}: all results here count as made by today's code; nothing to accept")
        return
    _adopt(name, changes, say, reason=reason)


def _adopt(
    name: str,
    changes: Mapping[str, Sequence[Change]],
    say: Say,
    proof: Proof | None = None,
    reason: str | None = None,
) -> None:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    different = dict.fromkeys(change for of_run in changes.values() for change in of_run)
    new = [
        Adoption(
            code=change.code,
            old=change.old,
            new=change.new,
            date=today,
            made_by=made_by("cpu", 0.0),
            proof=proof,
            reason=reason,
        )
        for change in different
    ]
    write_atomically(adoptions_file(name), to_json((*adoptions(name), *new)))
    adoptions.cache_clear()
    standing.cache_clear()
    for entry in new:
        say(f"adopted {entry}")
    refreshed = dvc_stages.refresh(name)
    say(
        f"{adoptions_file(name)} says so"
        + (f", and {dvc_stages.dvc_file(name).with_suffix('.lock')}" if refreshed else "")
        + ": commit it with the change of code"
    )


def _changes(
    name: str, study: Study, records: Mapping[str, Record]
) -> dict[str, tuple[Change, ...]]:
    """For each run with results of other code than today's, that code.

    What another study trained is its own to prove.
    """
    changes_by_run = {}
    for run in study.runs():
        training = "import_weights" if isinstance(run, ForeignRun) else run.settings.objective
        changes = {
            Change(code, old, new)
            for content in records[run.name].milestones.values()
            for code, old, new in (
                (
                    f"training {training}",
                    content["checkpoint"]["sources_sha256"],
                    training_code(run),
                ),
                ("probing", content["probed"]["sources_sha256"], probing_code(study)),
            )
            if standing(name, old) != standing(name, new)
            and not (study.milestones_from and code.startswith("training"))
        }
        if changes:
            changes_by_run[run.name] = tuple(sorted(changes))
    return changes_by_run


def candidates(
    name: str,
    study: Study,
    records: Mapping[str, Record],
    changes: Mapping[str, Sequence[Change]],
) -> list[Candidate]:
    """The milestones that can be made again, untrained networks left out."""
    milestones = []
    for run in study.runs():
        if run.name not in changes:
            continue
        for epoch, content in records[run.name].milestones.items():
            made_of = {
                content["checkpoint"]["sources_sha256"],
                content["probed"]["sources_sha256"],
            }
            met = tuple(change for change in changes[run.name] if change.old in made_of)
            if isinstance(run, ForeignRun) or study.milestones_from:
                milestones.append(Candidate(run, epoch, epoch, met))
            elif epoch:
                milestones.append(Candidate(run, epoch, _start(name, study, run, epoch), met))
    return milestones


def _start(name: str, study: Study, run: Run, epoch: int) -> int:
    """The milestone before, if what training goes on from is stored and sound; else the seed."""
    parent = study.parent(epoch) or 0
    manifest = milestone_path(of_run("checkpoints", name, run.name), parent, ".json")
    try:
        stored = read_manifest_of(manifest, run)
        sound = read_state(manifest.with_suffix(".state"))["lineage"] == stored.lineage
    except SnapshotError:
        return 0
    return parent if sound else 0


def draw(
    milestones: Sequence[Candidate], changes: Mapping[str, Sequence[Change]], count: int
) -> list[Candidate]:
    """`count` candidates: first those that meet most of what has not been met, the cheapest first.

    Once all is met, runs that have been drawn least come next.

    Raises:
        AdoptionError: `count` are too few, or there is code whose results cannot be made again.
    """
    left, drawn = list(milestones), list[Candidate]()
    unmet: set[object] = set().union(*(candidate.meets for candidate in milestones))
    every = {change for of_run in changes.values() for change in of_run}
    beyond = every - unmet
    if beyond:
        names = ", ".join(sorted({change.code for change in beyond}))
        raise AdoptionError(
            f"nothing trained is here of the results of {names}: train it, or adopt with --accept"
        )
    needed = 0
    while left and len(drawn) < max(count, needed):
        times = [each.run.name for each in drawn]
        best = min(
            left,
            key=lambda each: (-len(each.meets & unmet), times.count(each.run.name), each.epochs),
        )
        left.remove(best)
        drawn.append(best)
        unmet -= best.meets
        needed = len(drawn) + bool(unmet)
    if len(drawn) > count:
        raise AdoptionError(
            f"{count} milestones cannot meet each method, width and code: give at least "
            f"{len(drawn)}"
        )
    return drawn


def _origin(trained_from: int) -> str:
    return f"from epoch {trained_from}" if trained_from else "from the seed"


def _make(name: str, study: Study, candidate: Candidate, folder: Path, device: str | None) -> Made:
    """Makes a milestone again with today's code, below `folder`."""
    run, epoch = candidate.run, candidate.epoch
    checkpoints, training = folder / "checkpoints", folder / "training"
    if isinstance(run, ForeignRun):
        import_weights(name, study, run.name, epoch, lambda _: None, checkpoints)
        checkpoint = milestone_path(checkpoints, epoch, ".json")
        return Made(asked(name, study, run, epoch, checkpoint, device), {}, checkpoint)
    if study.milestones_from:
        checkpoint = manifest_file(name, run.name, epoch)
        return Made(asked(name, study, run, epoch, checkpoint, device), {}, checkpoint)
    data = DATA / run.data.name
    prepared = load(data)
    images, labels = pretraining_images(run, prepared), pretraining_labels(run, prepared)
    place = device_for(device, run.threads)
    stops: list[tuple[int | None, int, int]] = [(candidate.trained_from, epoch, 0)]
    if candidate.trained_from:
        checkpoints.mkdir(parents=True)
        kept = of_run("checkpoints", name, run.name)
        for suffix in (".json", ".safetensors", ".state"):
            file = milestone_path(kept, candidate.trained_from, suffix)
            if file.is_file():
                shutil.copy(file, checkpoints)
    else:
        stops.insert(0, (None, 0, 0))
    if run.cooldown_epochs:
        stops.append((epoch, epoch, run.cooldown_epochs))
    for parent, until, cooldown in stops:
        standard = segment(
            name, run, parent, until, cooldown, sha256_of(data / MANIFEST), training_code(run)
        )
        again = dataclasses.replace(
            standard,
            checkpoints=checkpoints,
            training=training / COOLED if cooldown else training,
            resume=folder / "resume",
        )
        pretrain_together([again], images, place, math.inf, [Monitor()], labels)
    cooled = bool(run.cooldown_epochs)
    checkpoint = milestone_path(checkpoints / COOLED if cooled else checkpoints, epoch, ".json")
    metrics = _by_epoch(
        metrics_in(milestone_path(training / COOLED if branch else training, epoch, ".jsonl"))
        for branch in (False, True)[: 1 + cooled]
    )
    return Made(asked(name, study, run, epoch, checkpoint, device), metrics, checkpoint)


def _stored(name: str, run: Run | ForeignRun, epoch: int, record: Record) -> Made:
    """A milestone as the study's record tells it."""
    checkpoint = probed_milestone(name, run, epoch)
    before = [each for each in record.training if _leads_to(run, each, epoch)]
    metrics = _by_epoch(record.training[each] for each in sorted(before, key=lambda s: s.cooled))
    has_weights = checkpoint.with_suffix(".safetensors").is_file()
    return Made(record.milestones[epoch], metrics, checkpoint if has_weights else None)


def _leads_to(run: Run | ForeignRun, stretch: Stretch, epoch: int) -> bool:
    """Whether a milestone was trained through a stretch: the trunk to it, then its own branch."""
    return stretch.until == epoch if stretch.cooled else stretch.until <= epoch


def _by_epoch(stretches: Iterator[Mapping[str, Sequence[float]]]) -> dict[int, dict[str, float]]:
    metrics: dict[int, dict[str, float]] = {}
    for columns in stretches:
        for row in zip(*columns.values(), strict=True):
            values = dict(zip(columns, row, strict=True))
            metrics[int(values["epoch"])] = values
    return metrics


@contextmanager
def _reference(name: str, commit: str | None, folder: Path) -> Iterator[Path | None]:
    """A checkout of the commit below `folder`, with the data that are here; None without one."""
    if commit is None:
        yield None
        return
    checkout = folder / "commit"
    _git("worktree", "add", "--detach", str(checkout), commit)
    try:
        (checkout / DATA).mkdir(parents=True, exist_ok=True)
        for data_set in DATA.iterdir():
            place = checkout / DATA / data_set.name
            if not place.exists():
                place.symlink_to(data_set.resolve())
        yield checkout
    finally:
        _git("worktree", "remove", "--force", str(checkout))


def _git(*arguments: str) -> None:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise AdoptionError(f"git {' '.join(arguments)} failed: {done.stderr.strip()}")


def _made_by_commit(checkout: Path, name: str, study: Study, candidate: Candidate) -> Made:
    """A milestone as the code of a commit makes it here, by its own command line.

    Raises:
        AdoptionError: its step fails, or it is not the code that the results name.
    """
    run, epoch = candidate.run, candidate.epoch

    def step(*arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "barlow_atlas", *arguments, "--study", name, "--run", run.name],
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": str((checkout / "src").resolve())},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = (done.stdout + done.stderr).strip().splitlines()[-5:]
            raise AdoptionError(f"{checkout}: {' '.join(arguments)} failed: " + "\n".join(said))

    if isinstance(run, ForeignRun):
        step("import-weights", "--epoch", str(epoch))
    else:
        for until in (each for each in study.milestones_of(run) if each <= epoch):
            step("pretrain", "--until", str(until))
        if run.cooldown_epochs:
            step("cool-down", "--epoch", str(epoch))
    step("probe", "--epoch", str(epoch))
    content = json.loads((checkout / probe_file(name, run, epoch)).read_text())
    if content["run"] != run.model_dump(mode="json"):
        raise AdoptionError(f"at that commit {run.name} of {name} has other parameters")
    codes = content["checkpoint"], content.get("probed", {})
    made_by_it = {each["sources_sha256"] for each in codes if each}
    named = {change.old for change in candidate.changes}
    if not made_by_it & named:
        raise AdoptionError(
            f"the code of that commit did not make these results: it is "
            f"{', '.join(sorted(code[:12] for code in made_by_it))}, they name "
            f"{', '.join(sorted(code[:12] for code in named))}"
        )
    files = (
        checkout / training_file(name, run.name, until, cooled)
        for cooled in (False, True)
        for until in study.milestones_of(run)
        if _leads_to(run, Stretch(until, cooled), epoch)
    )
    metrics = _by_epoch(metrics_in(file) for file in files if file.is_file())
    return Made(content, metrics, checkout / probed_milestone(name, run, epoch))


def compare(candidate: Candidate, known: Made, again: Made, tolerance: float) -> Repetition:
    """How a milestone that was made again agrees with what is known of it.

    Raises:
        AdoptionError: a value that differs by more than `tolerance`, relative.
    """
    first = candidate.trained_from + 1
    expected, given = (dict(_values(made, first, tolerance)) for made in (known, again))
    largest = 0.0
    for place, value in expected.items():
        if place not in given:
            raise _disagreement(candidate, place, value, "nothing")
        difference = _distance(value, given[place])
        if difference > tolerance:
            raise _disagreement(candidate, place, value, given[place])
        largest = max(largest, difference)
    return Repetition(
        run=candidate.run.name,
        epoch=candidate.epoch,
        trained_from=candidate.trained_from,
        compared=len(expected),
        largest_difference=largest,
    )


def _disagreement(candidate: Candidate, place: str, known: object, again: object) -> AdoptionError:
    return AdoptionError(
        f"{candidate.run.name} at epoch {candidate.epoch}, trained "
        f"{_origin(candidate.trained_from)}, does not come out the same; first at {place}: "
        f"{known} then, {again} now. Nothing was adopted. Where another machine or other libraries "
        "made the results, compare with their code run here (--beside COMMIT), or name the "
        "difference that counts as none (--tolerance)"
    )


def _values(made: Made, first: int, tolerance: float) -> Iterator[tuple[str, Any]]:
    """All that is compared of a milestone, training from epoch `first` on before the rest, by
    where it stands."""
    epochs = sorted(epoch for epoch in made.metrics if epoch >= first)
    for epoch in epochs:
        for name, value in made.metrics[epoch].items():
            yield f"training metrics, epoch {epoch}, {name}", value
    content = made.content
    yield "data", content["checkpoint"]["data_sha256"]
    if not tolerance:
        yield "weights", content["checkpoint"]["weights_sha256"]
    elif made.checkpoint is not None:
        for tensor, values in load_file(made.checkpoint.with_suffix(".safetensors")).items():
            yield f"weights, {tensor}", values
    for kind in ("signals", "results"):
        for number, entry in enumerate(content[kind]):
            title = f"{entry.get('probe', entry.get('space'))}, {entry['split']}"
            yield from _leaves(f"{kind} {number} ({title})", entry)


def _leaves(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "correct":
                yield f"{place}, answers", unpack(inner, value["count"])
            elif key == "correlation" and isinstance(inner, dict):
                corner = unpack_correlations(inner["values"], inner["dimensions"])
                yield f"{place}, correlations", corner
            else:
                yield from _leaves(f"{place}, {key}", inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _leaves(f"{place}, {number}", inner)
    else:
        yield place, value


def _distance(a: Any, b: Any) -> float:
    """Relative difference of two values: of arrays that of their norms, of answers the share that
    differs. Of what is no number: 0 or infinite."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.shape == b.shape:
        if a.dtype == bool:
            return float((a != b).mean())
        size = max(np.linalg.norm(a), np.linalg.norm(b))
        return float(np.linalg.norm(a - b) / size) if size else 0.0
    numbers = [isinstance(each, int | float) and not isinstance(each, bool) for each in (a, b)]
    if all(numbers) and a != b and not (math.isnan(a) and math.isnan(b)):
        return abs(a - b) / max(abs(a), abs(b)) if math.isfinite(a - b) else math.inf
    return 0.0 if all(numbers) or (a == b) is True else math.inf
