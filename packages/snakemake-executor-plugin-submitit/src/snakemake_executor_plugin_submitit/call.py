"""Calls of Slurm's programs: what they answered, why there is no answer, and waiting for one."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from snakemake_interface_common.exceptions import WorkflowError

# Seconds between two tries to reach a Slurm that does not answer.
TRY_EVERY_S = 10.0
_SCANCEL_WITHIN_S = 120.0

# Words of Slurm's programs for a controller, an accounting daemon or a munged that does not answer
# now but may soon, because it is being restarted or has too much to do.
_PASSING = (
    "connection refused",
    "connection reset",
    "connection timed out",
    "communication connection failure",
    "munge",
    "persistent connection",
    "resource temporarily unavailable",
    "socket timed out",
    "standby mode",
    "transport endpoint",
    "unable to contact slurm controller",
    "zero bytes were transmitted",
)

# sbatch's words for a job that no node would take.
NO_SUCH_NODES = "Requested node configuration is not available"
ARRAY_TOO_LONG = "Invalid job array specification"
# sbatch's words for a limit that ending jobs make room under: of submitted jobs (of an association
# or a QOS, in any of Slurm's forms), and of all jobs that the controller keeps.
_FULL = re.compile(
    r"(Assoc|QOS)(Max|Grp)\w*Submit\w*|temporarily unable to accept job"
    rf"|{ARRAY_TOO_LONG}"
)

# By which Slurm gives a job its GPUs; a job without any would use those of the job around.
_OF_GPUS = {
    *("CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"),
}


@dataclass(frozen=True)
class Answer:
    """``stdout`` is None if the program failed; ``complaint`` then says why.

    ``passing``: a later call may well succeed.
    """

    stdout: str | None
    complaint: str = ""
    passing: bool = False


def call(command: list[str], within_s: float, without: Collection[str] = ()) -> Answer:
    """Runs one of Slurm's programs, for ``within_s`` seconds at most.  Raises nothing.

    ``without`` are variables that it does not get, beside those of an outer job.
    """
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",  # names of users and of jobs may be in any encoding
            timeout=within_s,
            check=False,
            env=environment(os.environ, without),
        )
    except subprocess.TimeoutExpired:
        complaint = f"{command[0]} did not end within {within_s:.0f} s"
        return Answer(None, complaint, passing=True)
    except OSError as error:
        return Answer(None, str(error))
    if done.returncode == 0:
        return Answer(done.stdout)
    words = done.stderr.strip() or f"{command[0]} ended with status {done.returncode}"
    return Answer(None, words, passing=is_passing(words))


def is_passing(complaint: str) -> bool:
    """Whether the words of a Slurm program mean that Slurm does not answer just now."""
    return any(words in complaint.lower() for words in _PASSING)


def user_name() -> str:
    """Who runs this process, as Slurm calls them."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def limit_in(complaint: str) -> str:
    """The limit because of which sbatch did not take jobs now but will, in its words; or empty.

    An array may also be longer than this cluster's arrays can be.
    """
    found = _FULL.search(complaint)
    return "" if found is None else found.group()


def environment(variables: Mapping[str, str], without: Collection[str] = ()) -> dict[str, str]:
    """``variables`` without what an outer job left there, which sbatch and its jobs would read.

    Its memory would contradict theirs, its tasks, nodes and GPUs would become theirs.
    """
    left_out = {*inherited(variables), *without}
    return {name: value for name, value in variables.items() if name not in left_out}


def inherited(variables: Mapping[str, str]) -> list[str]:
    """The names of the variables of the Slurm job in which this process runs, if it does."""
    if "SLURM_JOB_ID" not in variables:
        return []
    of_slurm = (n for n in variables if n.startswith(("SLURM_", "SBATCH_", "SRUN_")))
    return [n for n in (*of_slurm, *_OF_GPUS.intersection(variables)) if n != "SLURM_CONF"]


def scancel(job_ids: Iterable[str], *options: str) -> Answer:
    """Cancels jobs.  That one has ended or is unknown is no failure."""
    return call(["scancel", "--quiet", *options, *compress(job_ids)], _SCANCEL_WITHIN_S)


def compress(job_ids: Iterable[str]) -> list[str]:
    """Tasks of arrays in the short form that Slurm takes: 7_0, 7_1, 7_4 -> 7_[0-1,4]."""
    tasks: dict[str, list[int]] = {}
    plain = []
    for job_id in job_ids:
        base, in_array, task = job_id.partition("_")
        if in_array:
            tasks.setdefault(base, []).append(int(task))
        else:
            plain.append(job_id)
    return plain + [f"{base}_[{_ranges(sorted(numbers))}]" for base, numbers in tasks.items()]


def _ranges(numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


class Cancelled(Exception):
    """The workflow is being cancelled: nothing is submitted any more."""


class Patience:
    """Waiting in the threads that talk to Slurm, which the end of the workflow cuts short.

    ``warn`` is told what is waited for, once.  A Slurm that does not answer is asked again for
    ``try_for_s`` seconds.
    """

    def __init__(self, warn: Callable[[str], None], try_for_s: float) -> None:
        self._warn = warn
        self._try_for_s = try_for_s
        self._cancelled = threading.Event()
        self._last_complaint = ""

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Makes all waiting raise :class:`Cancelled`."""
        self._cancelled.set()

    def deadline(self) -> float:
        """Of tries that begin now."""
        return time.monotonic() + self._try_for_s

    def wait(self, deadline: float, complaint: str) -> None:
        """Waits before another try; raises ``WorkflowError`` after ``deadline``."""
        if time.monotonic() > deadline:
            raise WorkflowError(
                f"{complaint} (tried for {self._try_for_s:.0f} s, `--submitit-controller-timeout`)"
            )
        if complaint != self._last_complaint:
            self._last_complaint = complaint
            self._warn(f"{complaint}\nTrying again every {TRY_EVERY_S:.0f} s.")
        self.pause(TRY_EVERY_S)

    def ask(self, command: list[str], within_s: float) -> Answer:
        """What a program of Slurm's says, which is called again while Slurm does not answer.

        Raises ``WorkflowError`` if it does not for ``try_for_s`` seconds.
        """
        deadline = self.deadline()
        while (answer := call(command, within_s)).passing:
            self.wait(deadline, f"`{shlex.join(command)}` failed: {answer.complaint}")
        return answer

    def pause(self, seconds: float) -> None:
        if self._cancelled.wait(seconds):
            raise Cancelled
