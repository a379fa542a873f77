"""Several milestones of runs by one job, each as if it had a job of its own.

Snakemake removes all that a job has made which was stopped before its end. So each milestone but
the last is copied where Snakemake does not look, until the job is done.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from barlow_atlas.atomic import write_atomically
from barlow_atlas.data.prepared import sha256_of
from barlow_atlas.steps.pretrain import pretrain
from barlow_atlas.store.snapshot import SnapshotError, lineage, read_manifest, read_weights
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import RESULTS, data_manifest, manifest_file, training_file
from barlow_atlas.workflow.sources import training_code


def pretrain_in_turn(
    name: str,
    study: Study,
    runs: Sequence[str],
    epochs: Sequence[int],
    device: str | None,
    save_every: float,
) -> str | None:
    """Trains runs from milestone to milestone, continuing where the same job was left.

    Args:
        name: of the study.
        runs: names of runs that differ in their seeds at most.
        epochs: milestones, each the next one after that before it.
        save_every: seconds between two saved states.

    Returns:
        Why it stopped before the end, its state saved; None if it is done.

    Raises:
        StudyError: no such runs or milestones, or runs that cannot be trained together.
    """
    *before, last = epochs
    for epoch in before:
        if all(_brought_back(name, study, run, epoch) for run in runs):
            continue
        if stopped := pretrain(name, study, runs, epoch, device, save_every):
            return stopped
        for run in runs:
            _copy(_made(name, run, epoch), _kept(name, run, epoch))
    stopped = pretrain(name, study, runs, last, device, save_every)
    if before and not stopped:  # one of several processes trains a single milestone of such a job
        for run in runs:
            shutil.rmtree(_folder(name, run), ignore_errors=True)
    return stopped


def _folder(name: str, run: str) -> Path:
    return RESULTS / "resume" / name / run / "milestones"


def _made(name: str, run: str, epoch: int) -> list[Path]:
    """What Snakemake knows of a milestone, the manifest last."""
    manifest = manifest_file(name, run, epoch)
    return [training_file(name, run, epoch), manifest.with_suffix(".safetensors"), manifest]


def _kept(name: str, run: str, epoch: int) -> list[Path]:
    """The same where Snakemake does not look."""
    return [_folder(name, run) / file.name for file in _made(name, run, epoch)]


def _copy(files: Sequence[Path], others: Sequence[Path]) -> None:
    for file, other in zip(files, others, strict=True):
        write_atomically(other, file.read_bytes())


def _brought_back(name: str, study: Study, run: str, epoch: int) -> bool:
    """Whether a milestone was kept that training would lead to now, and is in its place again."""
    *_, manifest = kept = _kept(name, run, epoch)
    if not manifest.is_file() or not _would_be_made(name, study, run, epoch, manifest):
        return False
    _copy(kept, _made(name, run, epoch))
    return True


def _would_be_made(name: str, study: Study, run: str, epoch: int, kept: Path) -> bool:
    """Whether a milestone is whole, and of this run, code, data and parent."""
    known, before = study.run(run), study.parent(epoch)
    try:
        manifest = read_manifest(kept)
        read_weights(kept, manifest)
        parent = None if before is None else read_manifest(manifest_file(name, run, before)).lineage
    except SnapshotError:
        return False
    data, code = sha256_of(data_manifest(known.data.name)), training_code(known)
    made = lineage(known, epoch, manifest.weights_sha256, data, code, parent)
    return manifest.lineage == made
