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

Every file appears whole or not at all, and survives a power cut once it is there. It is written
and read a tensor at a time, so that neither takes memory for a second copy. A manifest's
`lineage` hashes the run, the code, the data, the weights and the parent's lineage, so that a state
or a milestone that belongs to another history is never continued.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as save_safetensors
from torch import Tensor

from barlow_atlas.atomic import remove_temporaries as remove_temporaries
from barlow_atlas.atomic import replacing
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
    content = hashlib.sha256()
    with replacing(milestone_path(folder, epoch, ".safetensors")) as file:
        for piece in _weights_file(weights):
            content.update(piece)
            file.write(piece)
    weights_sha256 = content.hexdigest()
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
    if state is not None:
        write_state(milestone_path(folder, epoch, ".state"), manifest.lineage, state)
    text = manifest.model_dump_json(indent=2) + "\n"
    write_atomically(milestone_path(folder, epoch, ".json"), text.encode())
    return manifest


def _weights_file(weights: dict[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The weights in the safetensors format, piece by piece: bit for bit what the library writes.

    It writes a file by itself, too, but says of a full disk nothing that a program understands.
    """
    without_content = save_safetensors({name: each.new_empty(0) for name, each in weights.items()})
    # In the order of the file, each with its type.
    header = json.loads(without_content[8 : 8 + int.from_bytes(without_content[:8], "little")])
    end = 0
    for name, described in header.items():
        begin, end = end, end + weights[name].nbytes
        described |= {"shape": list(weights[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in header:
        values = weights[name].detach().cpu().contiguous().flatten()
        yield values.view(torch.uint8).numpy().data


def weights_hash(weights: dict[str, Tensor]) -> str:
    """The sha256 that a milestone of these weights would carry."""
    content = hashlib.sha256()
    for piece in _weights_file(weights):
        content.update(piece)
    return content.hexdigest()


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
    tensors: dict[str, Tensor] | None = None
    try:
        with contextlib.suppress(SafetensorError):  # then its hash is not the manifest's
            tensors = load_file(weights, backend="pread")
        # After it was read: had it been exchanged meanwhile, this would be another one's.
        with weights.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise SnapshotError(
            f"{weights} is not here, though its manifest is. If it was shared, "
            f"`dvc pull {weights.parent}` brings it; else delete the manifest and run the study "
            "again"
        ) from error
    except OSError as error:
        raise SnapshotError(f"cannot read {weights}: {error.strerror}") from error
    if tensors is None or digest != manifest.weights_sha256:
        raise SnapshotError(
            f"{weights} is damaged: sha256 {digest[:12]}, its manifest says "
            f"{manifest.weights_sha256[:12]}. Delete both and run the study again"
        )
    return tensors


def write_state(path: Path, lineage: str, state: dict[str, Any]) -> None:
    """Stores a training state that belongs to the history `lineage`."""
    with replacing(path) as file:
        file.write(STATE_HEADER + bytes(DIGEST_LENGTH))
        try:
            torch.save({"lineage": lineage, **state}, file)
        except RuntimeError as error:
            # After a failed write torch still ends its archive, and complains of that.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.seek(len(STATE_HEADER) + DIGEST_LENGTH)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(len(STATE_HEADER))
        file.write(digest.encode())


def read_state(path: Path) -> dict[str, Any]:
    """A stored training state, with its `lineage`; no code from the file is executed.

    Raises:
        SnapshotError: if the file is missing or damaged.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(STATE_HEADER)) != STATE_HEADER:
                size = path.stat().st_size
                raise SnapshotError(f"{path} is no training state of this version ({size:,} bytes)")
            digest = file.read(DIGEST_LENGTH).decode(errors="replace")
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise SnapshotError(f"{path} is damaged: its sha256 is not the one it carries")
            file.seek(len(STATE_HEADER) + DIGEST_LENGTH)
            state: dict[str, Any] = torch.load(file, weights_only=True)
            return state
    except OSError as error:
        raise SnapshotError(f"cannot read {path}: {error.strerror}") from error


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
