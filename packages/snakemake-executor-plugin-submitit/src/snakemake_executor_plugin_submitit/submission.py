"""One Snakemake job on its way through submitit, and the files that it leaves behind."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import re
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from snakemake_executor_plugin_submitit import job as job_module
from snakemake_executor_plugin_submitit.ledger import Identity
from snakemake_executor_plugin_submitit.private import timeouts_left
from snakemake_executor_plugin_submitit.resources import Request

TOO_MANY_CONTINUATIONS = (
    "it was interrupted (by its time limit, a preemption or the failure of a node) more often than "
    "`--submitit-max-continuations` allows"
)
# Seconds for which a result that the file system does not give is looked for again.
_READABLE_WITHIN_S = 300.0
# Longest name of a log folder; file systems allow 255 bytes, and submitit adds file names to it.
_LONGEST_NAME = 100
# How much of a failed job's log is repeated in Snakemake's output.
_TAIL_LINES = 40
_TAIL_BYTES = 64 * 1024
_TASK_FAILED = re.compile(r"srun: error: \S+: tasks? \S+: (Exited with exit code|[A-Z])")


@dataclass(eq=False)
class Submission:
    """A job that Snakemake handed over: first waiting, then (with ``external_jobid``) submitted."""

    info: SubmittedJobInfo
    request: Request
    identity: Identity
    name: str  # of rule and wildcards, for people
    command: str
    folder: Path  # of the log and of submitit's files
    rule_folder: Path  # the same for the jobs of an array
    continuations: int  # how often it may still be started again to go on
    priority: int = 0
    forced: bool = False  # whether it is to run although its outputs are there
    owner: str = ""  # who submitted it, if it is not ours to cancel: another user's, or elsewhere
    note: str = ""  # what is special about how it came to run, for people
    unreadable_since: float | None = None  # of time.monotonic(): its result is there, as it seems

    @property
    def log(self) -> Path | None:
        """The file with all output of the job, once it is submitted."""
        if self.info.external_jobid is None:
            return None
        return self.folder / f"{self.info.external_jobid}_0_log.out"


@dataclass(frozen=True)
class Outcome:
    """How a job ended.  ``reason`` is for people, empty when it succeeded."""

    succeeded: bool
    reason: str = ""
    dropped: bool = False  # never started, because the workflow is being stopped
    to_continue: bool = False  # it saved its state, but Slurm was not able to requeue it


class Cluster(Protocol):
    """A place where jobs run.  Only :meth:`step` and :meth:`cancel` may take long.

    ``poll_seconds`` is the pause between two calls of :meth:`step`.
    """

    poll_seconds: ClassVar[float]

    def check(self, request: Request) -> None:
        """Raises ``WorkflowError`` for a request that this place can never fulfil."""

    def accept(self, submissions: list[Submission]) -> None:
        """Takes over jobs that are ready at the same time, in Snakemake's main thread."""

    def cores_for(self, threads: int) -> int:
        """The number of cores that a job with so many ``threads`` may use at once."""

    def step(self, submissions: list[Submission], stopping: bool) -> dict[Submission, Outcome]:
        """Starts what can be started now, starts again what was interrupted, and returns the jobs
        that have ended.

        Called again and again, in one thread, with all jobs that have not been returned yet.
        With ``stopping``, jobs that have not been started may be returned as dropped.
        """

    def cancel(self) -> None:
        """Ends all jobs, and returns when they have ended or are sure to."""

    def close(self) -> None:
        """Called once, after the last :meth:`step`."""


def block_sigint() -> None:
    """Keeps Ctrl-C, which a terminal sends to everything in the foreground, from child processes.

    To be called in each thread that starts some; they inherit its mask.  Jobs are stopped by
    :meth:`Cluster.cancel`, with time to save; a SIGINT on top of that would have submitit kill them
    after a second, and would end an sbatch whose job is known to Slurm but not yet to us.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def job_name(rule: str, wildcards: Mapping[str, str]) -> str:
    """Rule and wildcards as squeue shows them."""
    values = ",".join(f"{key}={value}" for key, value in wildcards.items())
    return (f"{rule}:{values}" if values else rule)[:_LONGEST_NAME]


def log_folder(base: Path, name: str, wildcards: Mapping[str, str]) -> Path:
    """``<base>/<rule>/<wildcard=value,...>``, free of special characters and not too long."""
    folder = base.absolute() / _safe_name(name)
    if wildcards:
        folder /= _safe_name(",".join(f"{key}={value}" for key, value in wildcards.items()))
    return folder


def _safe_name(text: str) -> str:
    """``text`` itself if it can name a folder, else a readable form made unique by a digest.

    A percent sign is special to submitit and to Slurm, a slash to the file system.
    """
    safe = re.sub(r"[^\w.,=+-]", "_", text, flags=re.ASCII)
    if safe == text and len(text) <= _LONGEST_NAME and text.strip("."):
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{safe[: _LONGEST_NAME - 9]}-{digest}"


def for_submitit(folder: Path) -> Path:
    """``folder`` as submitit can be given it.

    It reads %j, %t, %a and %A in a path as numbers of the job, also in the name of the working
    directory, which every process of a job has a second name for.
    """
    here = Path.cwd()
    if "%" not in str(here) or not folder.is_relative_to(here):
        return folder
    return Path("/proc/self/cwd") / folder.relative_to(here)


def shell_job(command: str, grace_s: float, parent: int | None = None) -> job_module.ShellJob:
    """What submitit is to run, made ready to be pickled.

    It is pickled by value: the job's Python may not find this package (it is found through the
    working directory or PYTHONPATH at times), and need not spend time importing it.
    """
    import cloudpickle

    cloudpickle.register_pickle_by_value(job_module)
    return job_module.ShellJob(command, grace_s, parent)


def continuations_left(submission: Submission) -> int:
    """How often a job that was interrupted may still be started again.

    submitit counts those at a time limit in the job's pickle, on the machine of the job.
    """
    file = submission.folder / f"{submission.info.external_jobid}_submitted.pkl"
    try:
        return timeouts_left(file)
    except Exception:  # whatever a damaged pickle raises
        return submission.continuations


def result_file(submission: Submission) -> Path:
    """The file whose appearance tells that the job has ended by itself."""
    return submission.folder / f"{submission.info.external_jobid}_0_result.pkl"


def awaited_result(submission: Submission) -> Outcome | None:
    """What the job itself left as its result, which has been seen.

    None if the file system does not give it just now; one that it does not for minutes is a
    failure.
    """
    file = result_file(submission)
    try:
        outcome = read_result(file)
    except OSError as error:
        now = time.monotonic()
        if submission.unreadable_since is None:
            submission.unreadable_since = now
        if now - submission.unreadable_since < _READABLE_WITHIN_S:
            return None
        return Outcome(succeeded=False, reason=f"its result {file} cannot be read: {error!r}")
    submission.unreadable_since = None
    return outcome


def read_result(file: Path) -> Outcome:
    """What a job itself left as its result in ``file``.  Raises ``OSError``."""
    content = file.read_bytes()
    try:
        kind, value = pickle.loads(content)
    except (EOFError, pickle.UnpicklingError) as error:
        return Outcome(succeeded=False, reason=f"its result {file} cannot be read: {error!r}")
    if kind == "success":
        return Outcome(succeeded=True)
    # `value` is a traceback, the last line of which is "module.CommandFailed: message".
    last = str(value).strip().splitlines()[-1]
    if "timed-out too many times" in last:  # submitit's words
        return Outcome(succeeded=False, reason=TOO_MANY_CONTINUATIONS)
    if "'scontrol', 'requeue'" in last:  # the command that submitit requeues a job by
        return Outcome(succeeded=False, reason=last, to_continue=True)
    return Outcome(succeeded=False, reason=last.partition("CommandFailed: ")[2] or last)


def remove_pickles(submission: Submission, succeeded: bool) -> None:
    """Removes submitit's files of an ended job but its log.

    A failed job also keeps its sbatch script (if it was none of an array), which shows what was
    asked for.
    """
    remove_files(submission.folder, str(submission.info.external_jobid), script=succeeded)


def remove_files(folder: Path, job_id: str, script: bool) -> None:
    endings = ["submitted.pkl", "0_result.pkl"] + (["submission.sh"] if script else [])
    for ending in endings:
        with contextlib.suppress(OSError):  # of a job that another user submitted, for instance
            (folder / f"{job_id}_{ending}").unlink(missing_ok=True)


def delete_logs(folder: Path, days: int) -> None:
    """Deletes the logs under ``folder`` to which nothing was written for so many days."""
    for log in folder.rglob("*_log.out"):
        with contextlib.suppress(OSError):  # another Snakemake tidies up as well
            if time.time() - log.stat().st_mtime > days * 86400:
                log.unlink()


def log_tail(log: Path) -> str:
    """The last lines of a job's log, without what submitit adds below them.

    If a task has failed, the lines before srun's word of that: what the other tasks, which end for
    it, say afterwards is longer and of no use.
    Empty if there is no log yet, for instance because the job never started.
    """
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = text.partition("\nsubmitit ERROR ")[0].rstrip().splitlines()
    first = next((i for i, line in enumerate(lines) if _TASK_FAILED.match(line)), len(lines))
    return "\n".join(lines[max(0, first + 1 - _TAIL_LINES) : first + 1])
