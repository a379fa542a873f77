"""A milestone that another study has trained, taken as it is."""

from barlow_atlas.atomic import write_atomically
from barlow_atlas.store.snapshot import read_manifest_of, read_weights
from barlow_atlas.study.errors import StudyError
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import manifest_file


def take_milestone(name: str, study: Study, run_name: str, epoch: int) -> None:
    """Copies a milestone, once it is found whole; its manifest goes on naming who trained it.

    Raises:
        StudyError: the study takes no milestones of another, or has no such run.
        SnapshotError: the other study's milestone is missing, damaged or has other parameters.
    """
    run = study.run(run_name)
    if study.milestones_from is None:
        raise StudyError(f"{name} takes no milestones of another study: see `pretrain`")
    theirs = manifest_file(study.milestones_from, run.name, epoch)
    manifest = read_manifest_of(theirs, run)
    read_weights(theirs, manifest)
    destination = manifest_file(name, run.name, epoch)
    for suffix in (".safetensors", ".json"):  # the manifest last: it makes them a milestone
        write_atomically(destination.with_suffix(suffix), theirs.with_suffix(suffix).read_bytes())
