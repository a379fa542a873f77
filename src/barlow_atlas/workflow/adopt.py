"""Makes results that came from elsewhere, by `dvc pull` or `dvc checkout`, known to Snakemake.

Snakemake keeps records of what it made here and from what. Without a record it goes by the files'
times, which a pull sets at random: whole chains would be trained again, and a changed parameter
would not be noticed. So what is here is compared with the study, the code and the data:

- what they would give now is recorded, as if it had been made here;
- what they would not, and Snakemake does not know, is dated back, so that it is made again.

Milestones and probe files are judged by what they say of themselves. What they do not say, which
code probed for instance, is judged by what has changed since DVC recorded the results.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from barlow_atlas.errors import AtlasError
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import RESULTS
from barlow_atlas.workflow import dvc_stages, sources
from barlow_atlas.workflow.jobs import Job, jobs_of, read_json, stale_milestones
from barlow_atlas.workflow.private import SnakemakeRecords

LONG_AGO = (1.0, 1.0)
"""Access and modification time of what has to be made again."""


class AdoptError(AtlasError):
    """Snakemake could not record what is here."""


def adopt(name: str, study: Study, say: Callable[[str], None]) -> None:
    """Records with Snakemake what is up to date, and dates back what is not.

    Raises:
        AdoptError: if Snakemake refuses, since it is running here for instance.
    """
    jobs = jobs_of(name, study)
    here = [job for job in jobs if job.file.is_file()]
    sound, foul = _judge(name, study, here, stale_milestones(name, jobs))
    records = SnakemakeRecords()
    unknown = {job.file for job in here if not _knows(records, job)}
    for job in foul:
        # A milestone says itself what it is; of another file the record may know better.
        if job.file in unknown or job.rule in _MILESTONES:
            records.forget(job.file)
            os.utime(job.file, LONG_AGO)
    new = sound & unknown
    if new:
        waited_for = {file for job in here if job.file in sound for file in job.after}
        _record(name, sorted(new - waited_for) or sorted(new))
    say(
        f"{name}: of {len(jobs)} jobs, the results of {len(here)} are here and those of "
        f"{len(sound)} up to date, {len(new)} of them new to Snakemake"
    )
    judged = sound | {job.file for job in foul}
    for images in (job.file for job in here if job.rule == "prepare_data"):
        if images in unknown - judged:
            stage = dvc_stages.dvc_file(f"data/{images.parent.name}")
            say(
                f"  of {images.parent} neither DVC nor Snakemake has a record, so what was made "
                f"from it is left as it is. `dvc repro {stage}` makes one; then adopt again"
            )


_MILESTONES = ("pretrain", "cool_down", "import_weights")


def _judge(
    name: str, study: Study, here: list[Job], stale: dict[Path, str]
) -> tuple[set[Path], list[Job]]:
    """Of the files that are here: those up to date with all behind them; the jobs to do again."""
    changed = dvc_stages.changes(name)
    sound: set[Path] = set()
    foul = []
    for job in here:  # each after those that it waits for, whose fate it shares
        if sound.issuperset(job.after):
            holds = _holds(job, name, study, changed, stale)
            if holds:
                sound.add(job.file)
            elif holds is False:
                foul.append(job)
    # Snakemake records a job's files together, so what is trained together counts together.
    whole: set[Path] = set()
    for job in here:
        if {job.file, *job.makes} <= sound and whole.issuperset(job.after):
            whole.add(job.file)
    return whole, foul


def _holds(
    job: Job, name: str, study: Study, changed: set[str] | None, stale: dict[Path, str]
) -> bool | None:
    """Whether a file is what its job would make now of the files that the job waits for.

    None if only DVC could tell and has recorded nothing.
    """
    if job.rule in _MILESTONES:
        return job.file not in stale and _is_intact(job.file)
    if job.rule == "prepare_data":
        changed = dvc_stages.changes(f"data/{job.file.parent.name}")
        return None if changed is None else not changed
    if job.rule == "probe":
        weights = read_json(job.file).get("checkpoint", {}).get("lineage")
        if weights != read_json(job.after[0]).get("lineage"):
            return False
    if changed is None:
        return None
    if job.rule == "probe":
        asked = sources.watched("probe", study.probes.kinds())
        code = {*dvc_stages.relative({*asked, *dvc_stages.RESOLVE_RUNS})}
        return f"{RESULTS / name / 'probes'}" not in changed and not any(
            change in code or change.endswith(":probes") for change in changed
        )
    # Tables and figures take seconds: any change makes them again.
    return not changed - {f"{RESULTS / name / 'checkpoints'}"}


def _is_intact(manifest: Path) -> bool:
    """Whether a manifest's lineage follows from its content."""
    from barlow_atlas.store.snapshot import SnapshotError, read_manifest

    try:
        read_manifest(manifest)
    except SnapshotError:
        return False
    return True


def _knows(records: SnakemakeRecords, job: Job) -> bool:
    """Whether Snakemake has made this very file, from the files that its job now waits for.

    Not so of a file that lay here before, or of a segment that was trained with other seeds.
    """
    record = records.of(job.file)
    if record is None or record.ended != job.file.stat().st_mtime:
        return False
    trained_from = {file for file in record.made_from if file.parts[0] == "results"}
    return job.rule != "pretrain" or trained_from == set(job.after)


def _record(name: str, targets: list[Path]) -> None:
    """Lets Snakemake record these files and all behind them as made of what is here now."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--touch", "--forceall", "--cores", "1"),
            *("--config", f"study={name}", "--", *map(str, targets)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise AdoptError(f"Snakemake could not record what is here. It said:\n{said}")
