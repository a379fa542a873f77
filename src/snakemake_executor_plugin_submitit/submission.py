"""One Snakemake job on its way through submitit, and the files that it leaves behind."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from snakemake_executor_plugin_submitit import job as job_module
from snakemake_executor_plugin_submitit.resources import Request

# How often a job may be started again at its time limit; submitit's default of 3 is too few for a
# long training, and a bound is needed for one that makes no progress.
TIME_LIMIT_REQUEUES = 100
# Longest name of a log folder; file systems allow 255 bytes, and submitit adds file names to it.
_LONGEST_NAME = 100
# How much of a failed job's log is repeated in Snakemake's output.
_TAIL_LINES = 40
_TAIL_BYTES = 64 * 1024


@dataclass(eq=False)
class Submission:
    """A job that Snakemake handed over: first waiting, then (with ``external_jobid``) submitted."""

    info: SubmittedJobInfo
    request: Request
    command: str
    folder: Path
    priority: int = 0

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


class Cluster(Protocol):
    """A place where jobs run.  Only :meth:`step` and :meth:`cancel` may take long.

    ``poll_seconds`` is the pause between two calls of :meth:`step`.
    """

    poll_seconds: ClassVar[float]

    def accept(self, submission: Submission) -> None:
        """Takes a job over, in Snakemake's main thread.

        Raises ``WorkflowError`` for a request that this place can never fulfil.
        """

    def cores_for(self, threads: int) -> int:
        """The number of cores that a job with so many ``threads`` may use at once."""

    def step(self, submissions: list[Submission], stopping: bool) -> dict[Submission, Outcome]:
        """Starts what can be started now and returns the jobs that have ended.

        Called again and again, in one thread, with all jobs that have not been returned yet.
        With ``stopping``, jobs that have not been started may be returned as dropped.
        """

    def cancel(self) -> None:
        """Ends all jobs, and returns when they have ended or are sure to."""


def block_sigint() -> None:
    """Keeps Ctrl-C, which a terminal sends to everything in the foreground, from child processes.

    To be called in each thread that starts some; they inherit its mask.  Jobs are stopped by
    :meth:`Cluster.cancel`, with time to save; a SIGINT on top of that would have submitit kill them
    after a second, and would end an sbatch whose job is known to Slurm but not yet to us.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


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


def submit(executor: Any, command: str, grace_s: float) -> Any:
    """Submits ``command`` through a submitit executor and returns submitit's job.

    The callable is pickled by value: the job's Python may not find this package (it is found
    through the working directory or PYTHONPATH at times), and need not spend time importing it.
    """
    import cloudpickle

    cloudpickle.register_pickle_by_value(job_module)
    return executor.submit(job_module.ShellJob(command, grace_s))


def result_file(submission: Submission) -> Path:
    """The file whose appearance tells that the job has ended by itself."""
    return submission.folder / f"{submission.info.external_jobid}_0_result.pkl"


def read_result(submission: Submission) -> Outcome:
    """What the job itself left as its result; the file must exist."""
    file = result_file(submission)
    try:
        kind, value = pickle.loads(file.read_bytes())
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        return Outcome(succeeded=False, reason=f"its result {file} cannot be read: {error!r}")
    if kind == "success":
        return Outcome(succeeded=True)
    # `value` is a traceback, the last line of which is "module.CommandFailed: message".
    last = str(value).strip().splitlines()[-1]
    return Outcome(succeeded=False, reason=last.partition("CommandFailed: ")[2] or last)


def remove_pickles(submission: Submission, succeeded: bool) -> None:
    """Removes submitit's files of an ended job but its log.

    A failed job also keeps its sbatch script, which can be submitted again by hand.
    """
    job_id = submission.info.external_jobid
    endings = ["submitted.pkl", "0_result.pkl"] + (["submission.sh"] if succeeded else [])
    for ending in endings:
        (submission.folder / f"{job_id}_{ending}").unlink(missing_ok=True)
    # submitit leaves a link of a random name to each sbatch script.
    for link in submission.folder.glob(".submission_file_*.sh"):
        with contextlib.suppress(OSError):
            if link.readlink().name == f"{job_id}_submission.sh":
                link.unlink()


def log_tail(log: Path) -> str:
    """The last lines of a job's log, without what submitit adds below them.

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
    return "\n".join(lines[-_TAIL_LINES:])
