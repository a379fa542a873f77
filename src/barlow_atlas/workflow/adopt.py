"""Makes results that came from elsewhere, by `dvc pull` or `dvc checkout`, known to Snakemake.

Snakemake keeps records of what it made here and from what. Without a record it goes by the files'
times, which a pull sets at random: whole chains would be trained again, and a changed parameter
would not be noticed. So what is here is compared with the study, the code and the data:

- what they would give now is recorded, as if it had been made here;
- what they would not, and Snakemake does not know, is dated back, so that it is made again.

Milestones and probe files are judged by what they say of themselves, images by what has changed
since DVC recorded them. A clone has neither probe files nor training metrics: they are written
again from the runs' records. Records, tables and figures take seconds and are left to Snakemake.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from barlow_atlas.atlas.records import job_files, recorded
from barlow_atlas.atomic import write_atomically
from barlow_atlas.errors import AtlasError
from barlow_atlas.store.adoptions import standing
from barlow_atlas.study.models import Run, Study
from barlow_atlas.workflow import dvc_stages
from barlow_atlas.workflow.jobs import (
    MILESTONES,
    Job,
    jobs_of,
    read_json,
    rule_of,
    stale_milestones,
)
from barlow_atlas.workflow.private import SnakemakeRecords
from barlow_atlas.workflow.sources import probing_code

LONG_AGO = (1.0, 1.0)
"""Access and modification time of what has to be made again."""


class AdoptError(AtlasError):
    """Snakemake could not record what is here."""


def adopt(name: str, study: Study, say: Callable[[str], None]) -> None:
    """Records with Snakemake what is up to date, and dates back what is not.

    Raises:
        AdoptError: if Snakemake refuses, since it is running here for instance.
        RecordError: a record is damaged.
    """
    restored = restore(name, study)
    jobs = [job for job in jobs_of(name, study) if job.rule in JUDGED]
    present_jobs = [job for job in jobs if job.file.is_file()]
    sound, foul = _judge(name, study, present_jobs, stale_milestones(name, jobs))
    records = SnakemakeRecords()
    unknown = {job.file for job in present_jobs if not _knows(records, name, job)}
    for job in foul:
        # A milestone says itself what it is; of another file the record may know better.
        if job.file in unknown or job.rule in MILESTONES:
            records.forget(job.file)
            os.utime(job.file, LONG_AGO)
    new = sound & unknown
    if new:
        # With each, Snakemake records what it waits for.
        waited_for = {file for job in present_jobs if job.file in new for file in job.after}
        _record(name, sorted(new - waited_for))
    say(
        f"{name}: of {len(jobs)} jobs, the results of {len(present_jobs)} are here and those of "
        f"{len(sound)} up to date, {len(new)} of them new to Snakemake"
        + (f"; {restored} files were written from the runs' records" if restored else "")
    )
    judged = sound | {job.file for job in foul}
    for images in (job.file for job in present_jobs if job.rule == "prepare_data"):
        if images in unknown - judged:
            stage = dvc_stages.dvc_file(f"data/{images.parent.name}")
            derive = f"`python -m barlow_atlas derive --study {name}` and then "
            say(
                f"  of {images.parent} neither DVC nor Snakemake has a record, so what was made "
                f"from it is left as it is. {'' if stage.is_file() else derive}`dvc repro {stage}` "
                "makes one; then adopt again"
            )


JUDGED = (*MILESTONES, "prepare_data", "probe")
"""Rules whose files may take long to make."""


def restore(name: str, study: Study) -> int:
    """Writes probe files and training metrics that are not here as the runs' records have them.

    Where the checkpoint is here that they are of: without it, it has to be trained and probed
    again anyway. A probe file of another checkpoint is replaced.

    Returns:
        How many files were written.

    Raises:
        RecordError: a record is damaged.
    """
    written = 0
    for run in study.runs():
        for file in job_files(name, run, recorded(name, run)):
            if not file.checkpoint.is_file():
                continue
            is_of_it = file.lineage in (None, read_json(file.checkpoint).get("lineage"))
            if is_of_it and not (file.path.is_file() and _lineage_in(file.path) == file.lineage):
                file.path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(file.path, file.content)
                written += 1
    return written


def _lineage_in(file: Path) -> str | None:
    """The checkpoint that a probe file says to be of; other files say none."""
    lineage: str | None = read_json(file).get("checkpoint", {}).get("lineage")
    return lineage


def _judge(
    name: str, study: Study, jobs: list[Job], stale: dict[Path, str]
) -> tuple[set[Path], list[Job]]:
    """Of the files that are here: those up to date with all behind them; the jobs to do again."""
    sound: set[Path] = set()
    foul = []
    for job in jobs:  # each after those that it waits for, whose fate it shares
        if sound.issuperset(job.after):
            holds = _holds(job, name, study, stale)
            if holds:
                sound.add(job.file)
            elif holds is False:
                foul.append(job)
    # Snakemake records a job's files together, so what is trained together counts together.
    whole: set[Path] = set()
    for job in jobs:
        if {job.file, *job.makes} <= sound and whole.issuperset(job.after):
            whole.add(job.file)
    return whole, foul


def _holds(job: Job, name: str, study: Study, stale: dict[Path, str]) -> bool | None:
    """Whether a file is what its job would make now of the files that the job waits for.

    None of images if DVC has recorded nothing, since only DVC could tell.
    """
    if job.rule in MILESTONES:
        return job.file not in stale and _is_intact(job.file)
    if job.rule == "prepare_data":
        changed = dvc_stages.changes(f"data/{job.file.parent.name}")
        return None if changed is None else not changed
    content = read_json(job.file)
    asked_by = content.get("probed", {}).get("sources_sha256", "")
    return (
        _lineage_in(job.file) == read_json(job.after[0]).get("lineage")
        and standing(name, asked_by) == standing(name, probing_code(study))
        and content.get("asked") == study.probes.model_dump(mode="json")
    )


def _is_intact(manifest: Path) -> bool:
    """Whether a manifest's lineage follows from its content."""
    from barlow_atlas.store.snapshot import SnapshotError, read_manifest

    try:
        read_manifest(manifest)
    except SnapshotError:
        return False
    return True


def _knows(records: SnakemakeRecords, name: str, job: Job) -> bool:
    """Whether Snakemake has made this very file, by the job's rule from the files it now waits for.

    Not so of a file that lay here before, or of what was trained or probed with other seeds or
    milestones.
    """
    record = records.of(job.file)
    if record is None or record.ended != job.file.stat().st_mtime:
        return False
    if job.rule not in ("pretrain", "probe") or not isinstance(job.run, Run):
        return True
    made_from = {file for file in record.made_from if file.parts[0] == "results"}
    waits_for = set(job.after) - set(job.makes)
    return record.rule == rule_of(name, job) and made_from == waits_for


def _record(name: str, targets: list[Path]) -> None:
    """Lets Snakemake record these files and all behind them as made of what is here now."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--touch", "--forceall", "--cores", "1"),
            "--no-hooks",
            *("--config", f"study={name}", "--", *map(str, targets)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise AdoptError(f"Snakemake could not record what is here. It said:\n{said}")
