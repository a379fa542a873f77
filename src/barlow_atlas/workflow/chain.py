"""Is what is stored of a run whole? Walks its milestones from the last one back to the seed."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch

from barlow_atlas.store import snapshot
from barlow_atlas.store.adoptions import adopted_by, standing
from barlow_atlas.store.provenance import LIBRARIES
from barlow_atlas.store.snapshot import Manifest, SnapshotError
from barlow_atlas.study.models import ForeignRun, Run
from barlow_atlas.study.paths import COOLED, milestone_path, of_run
from barlow_atlas.training.loop import initial_state
from barlow_atlas.workflow.sources import training_code

Condition = Literal["whole", "not here", "damaged"]
ORDER: tuple[Condition, ...] = ("whole", "not here", "damaged")
"""From good to bad; a milestone is as bad as the worst observation of it."""


@dataclass(frozen=True)
class Observation:
    """Something about a milestone; one that is `whole` is a remark."""

    condition: Condition
    text: str


@dataclass(frozen=True)
class Link:
    """A milestone of the chain, or the branch that anneals it, and what was observed of it."""

    name: str
    observations: tuple[Observation, ...]

    @property
    def condition(self) -> Condition:
        return max((each.condition for each in self.observations), key=ORDER.index, default="whole")

    def __str__(self) -> str:
        texts = "; ".join(each.text for each in self.observations)
        return f"{self.name:<18} {self.condition:<9} {texts}".rstrip()


def walk(study: str, run: Run | ForeignRun, milestones: tuple[int, ...]) -> list[Link]:
    """Every milestone of a run, the last one first, each followed by its branch if it has one.

    A missing file is "not here": it may lie elsewhere, in DVC's store or in git. A milestone that
    has no later one counts as not yet made and is left out.
    """
    checkpoints = of_run("checkpoints", study, run.name)
    training = of_run("training", study, run.name)
    made = [epoch for epoch in milestones if _is_there(checkpoints, epoch)]
    links = []
    for epoch in reversed([epoch for epoch in milestones if made and epoch <= made[-1]]):
        before = [other for other in made if other < epoch]
        parent = before[-1] if before and isinstance(run, Run) else None
        links.append(_link(study, checkpoints, training, run, epoch, parent))
        if isinstance(run, Run) and run.cooldown_epochs and epoch:
            links += _branch(study, checkpoints, training, run, epoch)
    return links


def summary(links: list[Link]) -> str:
    """All links in a line."""
    worst = max((link.condition for link in links), key=ORDER.index)
    count = sum(link.condition == worst for link in links)
    if worst == "damaged":
        return f"damaged: {count} of {len(links)} milestones; what to do is said above"
    if worst == "not here":
        return f"incomplete: {count} of {len(links)} milestones; all that is here is right"
    return f"whole: {len(links)} milestones"


def _is_there(folder: Path, epoch: int) -> bool:
    """Whether anything of a milestone is: its manifest alone may have been lost."""
    return any(milestone_path(folder, epoch, end).exists() for end in (".json", ".safetensors"))


def _link(
    study: str,
    checkpoints: Path,
    training: Path,
    run: Run | ForeignRun,
    epoch: int,
    parent: int | None,
) -> Link:
    """A milestone of the trunk, or of foreign weights."""
    name = f"epoch {epoch}"
    path = milestone_path(checkpoints, epoch, ".json")
    manifest, faults = _manifest(path, run)
    if manifest is None:
        return Link(name, faults)
    observations = [*_weights(path, manifest), *_state(path, manifest)]
    observations += _code(study, run, manifest)
    if isinstance(run, Run):
        observations += _parentage(checkpoints, run, manifest, parent)
        if parent is not None:
            metrics = milestone_path(training, epoch, ".jsonl")
            observations += _metrics(metrics, range(parent + 1, epoch + 1))
    return Link(name, tuple(observations))


def _branch(study: str, checkpoints: Path, training: Path, run: Run, epoch: int) -> Iterator[Link]:
    """The annealed branch of a milestone; none if it has not been made."""
    if not _is_there(checkpoints / COOLED, epoch):
        return
    path = milestone_path(checkpoints / COOLED, epoch, ".json")
    manifest, faults = _manifest(path, run)
    observations = list(faults)
    if manifest is not None:
        observations += [*_weights(path, manifest), *_parentage(checkpoints, run, manifest, epoch)]
        observations += _code(study, run, manifest)
        metrics = milestone_path(training / COOLED, epoch, ".jsonl")
        observations += _metrics(metrics, range(epoch + 1, epoch + manifest.cooldown_epochs + 1))
    yield Link(f"epoch {epoch} cooled", tuple(observations))


def _manifest(path: Path, run: Run | ForeignRun) -> tuple[Manifest | None, tuple[Observation, ...]]:
    if not path.exists():
        hint = f"no manifest {path.name}: `dvc pull {path.parent}`"
        return None, (Observation("not here", hint),)
    try:
        return snapshot.read_manifest_of(path, run), ()
    except SnapshotError as error:
        return None, (Observation("damaged", str(error)),)


def _weights(path: Path, manifest: Manifest) -> Iterator[Observation]:
    weights = path.with_suffix(".safetensors")
    if not weights.exists():
        yield Observation("not here", f"weights: `dvc pull {weights.parent}`")
        return
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest == manifest.weights_sha256:
        yield Observation("whole", f"weights {digest[:12]}")
    else:
        yield Observation(
            "damaged",
            f"{weights} has sha256 {digest[:12]}, its manifest says "
            f"{manifest.weights_sha256[:12]}: delete it, then `dvc pull` it or run the study again",
        )


def _code(study: str, run: Run | ForeignRun, manifest: Manifest) -> Iterator[Observation]:
    """Where the milestone is not by today's code: whether it counts as such, and by what."""
    made_by, today = manifest.sources_sha256, training_code(run)
    if standing(study, made_by) != standing(study, today):
        yield Observation("whole", "made by other code than today's")
    elif made_by != today:
        for entry in adopted_by(study, made_by):
            yield Observation("whole", f"made by earlier code; {entry}")


def _state(path: Path, manifest: Manifest) -> Iterator[Observation]:
    """A state is private and may be gone; one that is there must be right."""
    state = path.with_suffix(".state")
    if not state.exists():
        return
    try:
        if snapshot.read_state(state)["lineage"] != manifest.lineage:
            raise SnapshotError(f"{state} does not belong to the manifest beside it")
    except SnapshotError as error:
        yield Observation("damaged", f"{error}: delete it, a later segment does without")


def _parentage(
    checkpoints: Path, run: Run, manifest: Manifest, parent: int | None
) -> Iterator[Observation]:
    """Whether the milestone follows from the one before it; the first one from the seed."""
    if parent is None:
        if manifest.parent is not None:
            text = f"follows from {manifest.parent[:12]}, of which nothing is here"
            yield Observation("not here", f"{text}: `dvc pull {checkpoints}`")
        else:
            yield _seed(run, manifest)
        return
    path = milestone_path(checkpoints, parent, ".json")
    before, _ = _manifest(path, run)
    if before is None:
        yield Observation("not here", f"no valid epoch {parent} to follow from")
    elif manifest.parent == before.lineage:
        yield Observation("whole", f"follows from epoch {parent}")
    else:
        claimed = (manifest.parent or "the seed")[:12]
        yield Observation(
            "damaged",
            f"follows from {claimed}, but epoch {parent} here is {before.lineage[:12]} (a checkout "
            "of other results?): check out one version of both, or run the study again",
        )


def _seed(run: Run, manifest: Manifest) -> Observation:
    """Whether the seed gives the first milestone's weights, which it must on the same libraries."""
    network = initial_state(run, torch.device("cpu")).network
    if snapshot.weights_hash(network.state_dict()) == manifest.weights_sha256:
        return Observation("whole", f"follows from seed {run.seed}")
    libraries = {name: version(name) for name in LIBRARIES}
    text = f"seed {run.seed} gives other weights"
    if manifest.made_by.get("libraries") == libraries:
        return Observation("damaged", f"{text} with the same libraries")
    return Observation("whole", f"{text} here, with other libraries than it was made with")


def _metrics(path: Path, epochs: range) -> Iterator[Observation]:
    """The training metrics must name every epoch of the segment once, in order."""
    try:
        rows = [json.loads(line)["epoch"] for line in path.read_text().splitlines()]
    except FileNotFoundError:
        yield Observation(
            "not here",
            f"metrics: {path} (`python -m barlow_atlas adopt` takes it from the run's record)",
        )
        return
    except (ValueError, KeyError, TypeError) as error:
        yield Observation("damaged", f"{path} is no list of epochs: {error}")
        return
    if rows == list(epochs):
        yield Observation("whole", f"epochs {epochs[0]} to {epochs[-1]} once each")
    else:
        yield Observation("damaged", f"{path} has epochs {rows}, expected {list(epochs)}")
