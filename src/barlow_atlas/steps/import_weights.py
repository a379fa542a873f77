"""Foreign weights as a milestone."""

from collections.abc import Callable
from pathlib import Path

from barlow_atlas.data.prepared import MANIFEST, sha256_of
from barlow_atlas.store.foreign import read_foreign
from barlow_atlas.store.provenance import made_by
from barlow_atlas.store.snapshot import write_milestone
from barlow_atlas.study.errors import StudyError
from barlow_atlas.study.models import Run, Study
from barlow_atlas.study.paths import DATA, of_run
from barlow_atlas.workflow.sources import fingerprint


def import_weights(
    name: str,
    study: Study,
    run_name: str,
    epoch: int,
    say: Callable[[str], None],
    checkpoints: Path | None = None,
) -> None:
    """Turns foreign weights that a study names into a milestone; no code in the file is run.

    Args:
        checkpoints: the folder of the milestone, if it is not the run's.

    Raises:
        StudyError: the run is trained, or has no file for that epoch.
        ForeignError: a file that cannot be read as weights of the study's network.
    """
    run = study.run(run_name)
    if isinstance(run, Run):
        raise StudyError(f"{run_name} is trained, not imported: see `pretrain`")
    files = study.foreign[run.method].files
    if epoch not in files:
        raise StudyError(f"foreign.{run.method}.files has no epoch {epoch}: {list(files)}")
    foreign = read_foreign(Path(files[epoch]).expanduser(), run.layout, run.backbone, run.weights)
    left_out = f"{len(foreign.dropped)} tensors left out: {', '.join(foreign.dropped[:20])}"
    say(left_out + (" ..." if len(foreign.dropped) > 20 else ""))
    origin = {"file": files[epoch], "file_sha256": foreign.sha256}
    write_milestone(
        checkpoints or of_run("checkpoints", name, run.name),
        study=name,
        run=run,
        epoch=epoch,
        parent=None,
        weights=foreign.weights,
        state=None,
        data_sha256=sha256_of(DATA / run.data.name / MANIFEST),
        sources_sha256=fingerprint("import_weights"),
        made_by=made_by("cpu", 0.0) | origin,
    )
