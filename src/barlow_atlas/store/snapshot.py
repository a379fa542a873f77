"""The one owner of checkpoint files: how they are written, verified, found and removed.

A milestone of a run is three files in `results/<study>/checkpoints/<run>/`:

    epoch_0100.safetensors   the network's weights and buffers, published
    epoch_0100.json          the manifest, which names the weights' sha256 and the chain behind it
    epoch_0100.state         what training goes on from; of the last two milestones only, so that
                             the newest segment can be trained again

Under the schedule `trunk` each milestone has an annealed branch, stored in the same form but
without a state in the folder `cooled/` beside it; the trunk keeps the states of all milestones,
since branches and later segments start from them.

Between milestones the trainer keeps private states of the same form in `results/resume/`.

Every file appears whole or not at all, and survives a power cut once it is there. A manifest's
`lineage` hashes the run, the code, the data, the weights and the parent's lineage, so that a state
or a milestone that belongs to another history is never continued.
"""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from barlow_atlas.atomic import remove_temporaries as remove_temporaries
from barlow_atlas.atomic import write_atomically as write_atomically
from barlow_atlas.errors import AtlasError
from barlow_atlas.settings.frozen import Frozen
from barlow_atlas.study.lineage import lineage as lineage
from barlow_atlas.study.models import ForeignRun, Run
from barlow_atlas.study.paths import COOLED, milestone_path

STATE_HEADER = b"barlow-atlas state 1\n"
DIGEST_LENGTH = 64


class SnapshotError(AtlasError):
    """A checkpoint file that is missing, damaged, foreign or cannot be written."""


class Manifest(Frozen):
    """What one milestone is and how it was made; stored beside its weights."""

    format: int = 1
    study: str
    run: Run | ForeignRun
    epoch: int
    cooldown_epochs: int
    weights_sha256: str
    data_sha256: str
    sources_sha256: str
    parent: str | None
    lineage: str
    made_by: dict[str, Any]


def set_aside(path: Path, why: SnapshotError, say: Callable[[str], None]) -> None:
    """Renames a file that cannot be used to `*.damaged`, where it does no harm, and says so."""
    if not path.exists():
        say(str(why))
        return
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    say(f"{why}; set aside as {aside.name}")


def write_milestone(
    folder: Path,
    *,
    study: str,
    run: Run | ForeignRun,
    epoch: int,
    parent: Manifest | None,
    weights: dict[str, Tensor],
    state: dict[str, Any] | None,
    data_sha256: str,
    sources_sha256: str,
    made_by: dict[str, Any],
    cooldown_epochs: int = 0,
) -> Manifest:
    """Stores weights, state if any and, last of all, the manifest that makes them a milestone."""
    payload = _weights_file(weights)
    weights_sha256 = hashlib.sha256(payload).hexdigest()
    before = parent.lineage if parent else None
    manifest = Manifest(
        study=study,
        run=run,
        epoch=epoch,
        cooldown_epochs=cooldown_epochs,
        weights_sha256=weights_sha256,
        data_sha256=data_sha256,
        sources_sha256=sources_sha256,
        parent=before,
        lineage=lineage(run, epoch, weights_sha256, data_sha256, sources_sha256, before),
        made_by=made_by,
    )
    write_atomically(milestone_path(folder, epoch, ".safetensors"), payload)
    if state is not None:
        write_state(milestone_path(folder, epoch, ".state"), manifest.lineage, state)
    text = manifest.model_dump_json(indent=2) + "\n"
    write_atomically(milestone_path(folder, epoch, ".json"), text.encode())
    return manifest


def _weights_file(weights: dict[str, Tensor]) -> bytes:
    return save_safetensors({name: t.detach().cpu().contiguous() for name, t in weights.items()})


def weights_hash(weights: dict[str, Tensor]) -> str:
    """The sha256 that a milestone of these weights would carry."""
    return hashlib.sha256(_weights_file(weights)).hexdigest()


def read_manifest(path: Path) -> Manifest:
    """Reads a milestone's manifest and checks that its lineage follows from its content.

    Raises:
        SnapshotError: if it is missing, damaged, edited, or another milestone's.
    """
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise SnapshotError(f"no manifest at {path}; pre-train this milestone first") from error
    except OSError as error:
        raise SnapshotError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise SnapshotError(
            f"{path} is no manifest of this version ({key + ': ' if key else ''}{first['msg']}). "
            "Delete it and run the study again"
        ) from error
    expected = lineage(
        manifest.run,
        manifest.epoch,
        manifest.weights_sha256,
        manifest.data_sha256,
        manifest.sources_sha256,
        manifest.parent,
    )
    if manifest.lineage != expected:
        raise SnapshotError(
            f"{path} contradicts itself: lineage {manifest.lineage[:12]}, but its content gives "
            f"{expected[:12]}. It was edited or damaged; delete it and run the study again"
        )
    branch = bool(manifest.cooldown_epochs)
    place = milestone_path(path.parent, manifest.epoch, path.suffix)
    if path != place or branch != (path.parent.name == COOLED):
        kind = "the cooled branch of epoch" if branch else "epoch"
        raise SnapshotError(
            f"{path} is the manifest of {kind} {manifest.epoch}: files were exchanged. Delete it "
            "and run the study again"
        )
    return manifest


def read_manifest_of(path: Path, run: Run | ForeignRun) -> Manifest:
    """The manifest at `path`, which must be of `run`.

    Raises:
        SnapshotError: as `read_manifest`, and if it belongs to a run with other parameters.
    """
    manifest = read_manifest(path)
    if manifest.run != run:
        raise SnapshotError(
            f"{path} belongs to a run with other parameters than the study now gives to "
            f"{run.name}. Start the study through Snakemake, which makes it anew"
        )
    return manifest


def read_weights(path: Path, manifest: Manifest) -> dict[str, Tensor]:
    """The weights of the milestone whose manifest lies at `path`; the hash is verified.

    Raises:
        SnapshotError: if the file is missing or the weights are not the manifest's.
    """
    weights = path.with_suffix(".safetensors")
    try:
        payload = weights.read_bytes()
    except FileNotFoundError as error:
        raise SnapshotError(
            f"{weights} is not here, though its manifest is. If it was shared, "
            f"`dvc pull {weights.parent}` brings it; else delete the manifest and run the study "
            "again"
        ) from error
    except OSError as error:
        raise SnapshotError(f"cannot read {weights}: {error.strerror}") from error
    digest = hashlib.sha256(payload).hexdigest()
    if digest != manifest.weights_sha256:
        raise SnapshotError(
            f"{weights} is damaged: sha256 {digest[:12]}, its manifest says "
            f"{manifest.weights_sha256[:12]}. Delete both and run the study again"
        )
    return load_safetensors(payload)


def write_state(path: Path, lineage: str, state: dict[str, Any]) -> None:
    """Stores a training state that belongs to the history `lineage`."""
    buffer = io.BytesIO()
    torch.save({"lineage": lineage, **state}, buffer)
    payload = buffer.getvalue()
    digest = hashlib.sha256(payload).hexdigest().encode()
    write_atomically(path, STATE_HEADER + digest + payload)


def read_state(path: Path) -> dict[str, Any]:
    """A stored training state, with its `lineage`; no code from the file is executed.

    Raises:
        SnapshotError: if the file is missing or damaged.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SnapshotError(f"cannot read {path}: {error.strerror}") from error
    start = len(STATE_HEADER) + DIGEST_LENGTH
    digest = content[len(STATE_HEADER) : start].decode(errors="replace")
    if not content.startswith(STATE_HEADER):
        raise SnapshotError(f"{path} is no training state of this version ({len(content):,} bytes)")
    if hashlib.sha256(content[start:]).hexdigest() != digest:
        raise SnapshotError(f"{path} is damaged: its sha256 is not the one it carries")
    state: dict[str, Any] = torch.load(io.BytesIO(content[start:]), weights_only=True)
    return state


def prune_states(folder: Path, keep: tuple[int, ...]) -> None:
    """Removes the training states of all milestones but those at the epochs `keep`."""
    kept = {milestone_path(folder, epoch, ".state") for epoch in keep}
    for path in folder.glob("epoch_*.state"):
        if path not in kept:
            path.unlink(missing_ok=True)


class ResumeFolder:
    """The private states of one segment of one run, newest last; two are kept."""

    KEEP = 2

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _states(self) -> list[Path]:
        return sorted(self.folder.glob("step_*.state"))

    def write(self, lineage: str, total_steps: int, state: dict[str, Any]) -> None:
        """Stores the state after `total_steps` steps of the run and drops the oldest ones."""
        write_state(self.folder / f"step_{total_steps:012d}.state", lineage, state)
        for old in self._states()[: -self.KEEP]:
            old.unlink(missing_ok=True)

    def newest(self, lineage: str, report: Callable[[str], None]) -> dict[str, Any] | None:
        """The newest valid state of this history, if there is one.

        A damaged file is set aside; one of another history is removed, since the run, the code or
        the data have changed since. Each gives `report` a line.
        """
        for path in reversed(self._states()):
            try:
                state = read_state(path)
            except SnapshotError as error:
                set_aside(path, error, report)
                continue
            if state["lineage"] == lineage:
                return state
            path.unlink()
            report(f"{path} belongs to another history (run, code or data changed); removed")
        return None

    def clear(self) -> None:
        """Removes the states of a segment that is whole."""
        for path in self._states():
            path.unlink(missing_ok=True)
