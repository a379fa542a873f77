"""Which jobs of a study run and which have failed, from the files that running jobs leave.

Nobody is asked, neither Snakemake nor Slurm. What the executor leaves (docs/executor.md):

==============================================  ==================================================
`.snakemake/atlas/studies/<study>/wanted`        what the Snakemake that runs was started to make
`.snakemake/submitit/*.json`                     Slurm jobs whose end has not been reported
`logs/submitit/<rule>/<wildcards>/`              `<id>_submitted.pkl` from the start of a job of
                                                 this machine to its end, `<id>_0_log.out` from its
                                                 start on, `<id>_0_result.pkl` at its end
`logs/<study>/<rule>/<run>/epoch_0100.log`       what the job's step says
==============================================  ==================================================
"""

import functools
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from barlow_atlas.study.models import Run
from barlow_atlas.workflow.jobs import Job, rule_of, runs_of, stem_of, step_file
from barlow_atlas.workflow.turns import wanted_file

# The executor's modules are imported where a job is looked at: they take long.
LEDGER = Path(".snakemake/submitit")
SUBMISSIONS = Path("logs/submitit")
SUBMITTED = "_submitted.pkl"
TAIL_BYTES = 16384
LINES_SHOWN = 12
VERBS = {
    "prepare_data": "Preparing",
    "pretrain": "Training",
    "cool_down": "Cooling down",
    "import_weights": "Importing",
    "take_milestone": "Taking",
    "probe": "Probing",
}


@dataclass(frozen=True)
class Running:
    """A job that runs, and how far its step says to be."""

    job: Job
    epoch: int | None = None
    """The epoch that is being trained; None where the step says none."""
    seconds_left: float | None = None
    losses: tuple[float, ...] = ()
    """What the step's last lines of progress say, oldest first."""

    def __str__(self) -> str:
        """Such as `Training bt-d256-e100-clean-s1 to epoch 100, now in epoch 63`."""
        to = {"pretrain": "to", "cool_down": "from"}.get(self.job.rule, "at")
        text = f"{VERBS[self.job.rule]} {', '.join(runs_of(self.job))} {to} epoch {self.job.epoch}"
        return text if self.epoch is None else f"{text}, now in epoch {self.epoch}"


@dataclass(frozen=True)
class Failed:
    """A job that has failed, what its step said last, and what tries it again."""

    job: Job
    said: tuple[str, ...]
    command: str

    def __str__(self) -> str:
        """Such as `probe bt-d256-e100-clean-s1 at epoch 50`."""
        return f"{self.job.rule} {', '.join(runs_of(self.job))} at epoch {self.job.epoch}"


@dataclass(frozen=True)
class Activity:
    """What happens to a study's jobs."""

    running: tuple[Running, ...] = ()
    failed: tuple[Failed, ...] = ()


def activity(name: str, pending: Sequence[Job]) -> Activity:
    """What happens to jobs that are not done, as `jobs.submissions` gives them.

    A job of this machine counts as running while its process lives; a Slurm job until its end is
    reported, once it has a log. One has failed if the last thing in its log is that its command
    did, other than by a signal to stop, and it was not submitted again since.
    """
    slurm = dict(_slurm_jobs())
    known = _folders()
    since = max(wanted(name).values(), default=0.0)
    running, failed = [], []
    for job in pending:
        if job.run is None:
            continue
        if job.file in slurm:
            if slurm[job.file].is_file():
                running.append(_running(name, job))
            continue
        folder = folder_of(name, job)
        files = files_in([folder] if folder in known else [])
        logs = [file for file in files if file.name.endswith("_0_log.out")]
        log = max(logs, key=lambda file: files[file].st_mtime, default=None)
        if any(file.name.endswith(SUBMITTED) and _lives(file, files) for file in files):
            running.append(_running(name, job))
        elif log and files[log].st_mtime >= since and _says_failed(log):
            failed.append(_failed(name, job, log))
    return Activity(tuple(running), tuple(failed))


def wanted(name: str) -> dict[Path, float]:
    """What a Snakemake that runs a study here is to make, with the time of its start."""
    told = wanted_file(name)
    with suppress(OSError):
        return dict.fromkeys(map(Path, told.read_text().splitlines()), told.stat().st_mtime)
    return {}


def snakemake_lives() -> bool:
    """Whether a Snakemake runs in this folder on this machine; a killed one leaves word of what
    it was to make.

    Where processes cannot be seen, that word is believed.
    """
    if not Path("/proc/self/cwd").exists():
        return True
    folder = Path.cwd()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with suppress(OSError):
            command = (process / "cmdline").read_bytes().split(b"\0")
            if (process / "cwd").resolve() == folder and any(
                word.rpartition(b"/")[2] == b"snakemake" for word in command
            ):
                return True
    return False


def tail(log: Path) -> list[str]:
    """The last lines of a log; the first of them may be cut off. Empty if there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def files_in(folders: Iterable[Path]) -> dict[Path, os.stat_result]:
    """What some folders hold; one that is not there holds nothing."""
    stats = {}
    for folder in folders:
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                with suppress(OSError):
                    stats[folder / entry.name] = entry.stat()
    return stats


def _slurm_jobs() -> Iterator[tuple[Path, Path]]:
    """Files that Slurm jobs make whose end has not been reported, with the log of the job."""
    if not LEDGER.is_dir():
        return
    from snakemake_executor_plugin_submitit.ledger import Ledger

    for entry in Ledger(LEDGER).unclaimed():
        log = Path(entry.folder) / f"{entry.job_id}_0_log.out"
        if not log.with_name(f"{entry.job_id}_0_result.pkl").exists():
            yield from ((Path(output), log) for output in entry.outputs)


def _folders() -> set[Path]:
    """The folders of single submissions."""
    return {folder for rule in files_in([SUBMISSIONS]) for folder in files_in([rule])}


def folder_of(name: str, job: Job) -> Path:
    """Where the executor puts a job's files; it is there once the job was submitted."""
    first, *_ = runs_of(job)
    told = [f"stem={stem_of(job)}"] if job.makes else [f"run={first}", f"epoch={job.epoch:04d}"]
    return _folder(rule_of(name, job), f"study={name}", *told)


@functools.cache
def _folder(rule: str, *wildcards: str) -> Path:
    """As the executor makes it of a rule and its wildcards."""
    from snakemake_executor_plugin_submitit.submission import log_folder

    folder = log_folder(SUBMISSIONS, rule, dict(each.split("=", 1) for each in wildcards))
    return SUBMISSIONS / folder.parent.name / folder.name


def _lives(submitted: Path, beside: Collection[Path]) -> bool:
    """Whether a job of this machine runs; its id is that of the process around its command."""
    from snakemake_executor_plugin_submitit.job import process_lives

    job_id = submitted.name.removesuffix(SUBMITTED)
    if not job_id.isdigit() or submitted.with_name(f"{job_id}_0_result.pkl") in beside:
        return False
    try:
        command = Path(f"/proc/{job_id}/cmdline").read_bytes()
    except OSError:
        return not Path("/proc/self").exists() and process_lives(int(job_id))
    # Process ids come again: it must be the one that was started for this folder.
    return os.fsencode(submitted.parent.name) in command and process_lives(int(job_id))


def _says_failed(log: Path) -> bool:
    """Whether a job's log ends with the failure of its command, other than by being stopped."""
    last = (tail(log) or [""])[-1]
    return "CommandFailed" in last and not last.endswith("after SIGTERM")


def _failed(name: str, job: Job, log: Path) -> Failed:
    """With the last lines of the step's own log, or of the submission's where it has none."""
    said = tail(step_file(name, job, ".log")) or tail(log)
    command = f"snakemake --profile profiles/local --config study={name} -- {job.file}"
    return Failed(job, tuple(said[-LINES_SHOWN:]), command)


def _running(name: str, job: Job) -> Running:
    """With what the last lines of progress in the step's log say."""
    told = [_object(line) for line in tail(step_file(name, job, ".log"))]
    progress = [one for one in told if "epoch" in one]
    if not progress:
        return Running(job)
    # Seeds that are trained in turn each speak for themselves.
    alone = len(runs_of(job)) == 1
    losses = [float(one["loss"]) for one in progress if "loss" in one] if alone else []
    return Running(job, int(progress[-1]["epoch"]), _seconds_left(job, progress[-1]), tuple(losses))


def _seconds_left(job: Job, told: Mapping[str, Any]) -> float | None:
    """Until a job has trained all its milestones, at the pace that a line of progress tells.

    Seeds that are trained in turn each tell a pace that the others' turns are part of.
    """
    if not isinstance(job.run, Run) or not told.get("images_per_second"):
        return None
    end = job.epoch + (job.epochs if job.rule == "cool_down" else 0)
    steps = (end - told["epoch"] + 1) * told["of"] - told["step"]
    return float(steps * job.run.batch_size / told["images_per_second"])


def _object(line: str) -> dict[str, Any]:
    """A line's JSON object; an empty one if it holds none."""
    with suppress(ValueError):
        value = json.loads(line)
        return value if isinstance(value, dict) else {}
    return {}
