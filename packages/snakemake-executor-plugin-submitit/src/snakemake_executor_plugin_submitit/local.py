"""This machine as a cluster: its cores and GPUs are the queue."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_submitit.job import STRAGGLERS_S, TERM_GRACE_S
from snakemake_executor_plugin_submitit.resources import Request, save_grace_s, signal_delay_s
from snakemake_executor_plugin_submitit.submission import (
    Outcome,
    Submission,
    awaited_result,
    continuations_left,
    for_submitit,
    remove_pickles,
    result_file,
    shell_job,
)
from snakemake_executor_plugin_submitit.tasks import TASKS

# submitit's local executor needs a time limit, in minutes; a job without `runtime` has a year.
_NO_LIMIT_MIN = 365 * 24 * 60
# submitit's process around a local job starts it so often, each time at its time limit, and ends.
_RUNS_OF_A_CONTROLLER = 6
# In the environment of all processes of a job's command: which job they are of.
_MARK = "SNAKEMAKE_SUBMITIT_LOCAL_JOB"


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them.

    Those in CUDA_VISIBLE_DEVICES if it is set, else those that nvidia-smi lists.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return listed.stdout.split()


@dataclass(frozen=True)
class Free:
    """What no running job uses."""

    cores: int
    gpus: tuple[str, ...]


def choose_startable(waiting: Sequence[tuple[int, int]], free: Free) -> list[int]:
    """Positions in ``waiting``, pairs of (cores, GPUs) in order, that may start now.

    A job that waits for cores holds back those behind it, or it might wait for ever; a job that
    waits for a GPU holds back nobody, or the cores would be idle for as long as a GPU is busy.
    """
    cores, gpus = free.cores, len(free.gpus)
    chosen = []
    for position, (wanted_cores, wanted_gpus) in enumerate(waiting):
        if wanted_gpus > gpus:
            continue
        if wanted_cores > cores:
            break
        chosen.append(position)
        cores -= wanted_cores
        gpus -= wanted_gpus
    return chosen


def mark_of(outputs: Sequence[str]) -> str:
    """The value of the mark of the job that makes ``outputs``, the same at each start of it."""
    text = "\0".join([str(Path.cwd()), *outputs])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def marked_processes(mark: str) -> list[int]:
    """The living processes of the job with that mark.  None on a system without /proc."""
    wanted = f"{_MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # Empty for a zombie.
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue  # it has ended, or belongs to somebody else
    return found


@dataclass
class _Running:
    job: Any  # submitit.LocalJob
    cores: int
    gpus: tuple[str, ...]


class LocalCluster:
    """Starts a job when its threads fit into the free cores and its GPUs into the free GPUs.

    A job sees exactly the GPUs that it asked for.  On a machine without any GPU a request for some
    is fulfilled with none, and ``warn`` is told so once.

    A job ends with this process.  If the process around its command is killed, or both are, the
    command's processes are found by their mark and stopped before the job counts as ended, and
    before it starts again.
    """

    # Looking costs one system call a job; the end of a job is noticed this much later at worst.
    poll_seconds: ClassVar[float] = 0.1

    def __init__(self, cores: int, signal_delay: int, warn: Callable[[str], None]) -> None:
        self._cores = cores
        self._signal_delay = signal_delay
        self._warn = warn
        self._gpus: tuple[str, ...] | None = None  # looked up when the first job asks for one
        self._running: dict[Submission, _Running] = {}
        self._stopping_since: dict[str, float] = {}  # by mark
        self._lock = threading.Lock()
        self._cancelled = False

    def check(self, request: Request) -> None:
        if request.nodes > 1:
            raise WorkflowError(
                f"Rule {request.rule}: resource nodes={request.nodes} cannot be used; expected 1 "
                "with `--submitit-cluster local`, which is this machine alone."
            )
        if request.gpus_per_node == 0:
            return
        if self._gpus is None:
            self._gpus = tuple(visible_gpus())
            if not self._gpus:
                self._warn(
                    "This machine shows no GPU (neither CUDA_VISIBLE_DEVICES nor nvidia-smi names "
                    "one): jobs that ask for a GPU run on the CPU."
                )
        if self._gpus and request.gpus_per_node > len(self._gpus):
            raise WorkflowError(
                f"Rule {request.rule}: resource gpu={request.gpus_per_node} cannot be used; "
                f"expected {len(self._gpus)} at most, as this machine shows the GPUs "
                f"{','.join(self._gpus)}. Give its rule a smaller `gpu`."
            )

    def accept(self, submissions: list[Submission]) -> None:
        """Nothing: they wait until :meth:`step` finds room for them."""

    def cores_for(self, threads: int) -> int:
        return min(threads, self._cores)

    def step(self, submissions: list[Submission], stopping: bool) -> dict[Submission, Outcome]:
        with self._lock:
            if self._cancelled:
                return {}
            outcomes = self._collect()
            waiting = [s for s in submissions if s.info.external_jobid is None]
            if stopping:
                return outcomes | {s: Outcome(False, dropped=True) for s in waiting}
            return outcomes | self._start(sorted(waiting, key=lambda s: -s.priority))

    def cancel(self) -> None:
        """Sends SIGTERM to all jobs, which save and stop, and waits for them."""
        with self._lock:
            self._cancelled = True
            jobs = [running.job for running in self._running.values()]
        deadline = time.monotonic() + TERM_GRACE_S + STRAGGLERS_S
        while (alive := [job for job in jobs if not job.done()]) and time.monotonic() < deadline:
            # Repeated, as a job that is just starting may not handle the first one yet.  (submitit
            # would send SIGINT, which jobs do not get: see `block_sigint`.)
            for job in alive:
                os.kill(int(job.job_id), signal.SIGTERM)
            for _ in range(20):
                if all(job.done() for job in alive):
                    break
                time.sleep(0.1)
        if alive:
            pids = ", ".join(job.job_id for job in alive)
            self._warn(f"These processes did not end after SIGTERM, please kill them: {pids}")

    def close(self) -> None:
        """Nothing stays open."""

    def _collect(self) -> dict[Submission, Outcome]:
        """The outcomes of the jobs that have ended; their cores and GPUs are free again."""
        outcomes = {}
        for submission, running in list(self._running.items()):
            if not running.job.done():
                continue
            if os.path.exists(result_file(submission)):
                outcome = awaited_result(submission)
                if outcome is None:
                    continue
            elif not self._is_gone(submission):
                continue
            else:
                outcome = self._ended_without_result(submission)
            del self._running[submission]
            if outcome is not None:
                remove_pickles(submission, outcome.succeeded)
                outcomes[submission] = outcome
        return outcomes

    def _ended_without_result(self, submission: Submission) -> Outcome | None:
        """The outcome, or None if the job is to be started again."""
        left = continuations_left(submission)
        if submission.continuations - left < _RUNS_OF_A_CONTROLLER:
            return Outcome(False, "it was killed from outside, perhaps for lack of memory")
        remove_pickles(submission, succeeded=False)
        submission.continuations = left
        submission.note = f"goes on after process {submission.info.external_jobid}"
        submission.info.external_jobid = None
        return None

    def _is_gone(self, submission: Submission) -> bool:
        """Whether no process of the job's command is left.

        Those that are get SIGTERM, and SIGKILL if they are still there after the usual grace.
        """
        mark = mark_of(submission.identity.outputs)
        processes = marked_processes(mark)
        if not processes:
            self._stopping_since.pop(mark, None)
            return True
        since = self._stopping_since.get(mark)
        if since is None:
            self._stopping_since[mark] = time.monotonic()
            pids = ", ".join(map(str, processes))
            self._warn(
                f"Stopping what is left of an earlier run of {submission.request.rule}: {pids}"
            )
        elif time.monotonic() - since < TERM_GRACE_S:
            return False
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if since is None else signal.SIGKILL)
        return False

    def _start(self, waiting: list[Submission]) -> dict[Submission, Outcome]:
        """Starts what fits; returns the jobs that could not be started, with the reason."""
        taken = list(self._running.values())
        in_use = {gpu for running in taken for gpu in running.gpus}
        gpus = tuple(gpu for gpu in self._gpus or () if gpu not in in_use)
        free = Free(self._cores - sum(running.cores for running in taken), gpus)
        wanted = [(self._cores_of(s.request), self._gpus_of(s.request)) for s in waiting]
        failed = {}
        for position in choose_startable(wanted, free):
            submission, (cores, n_gpus) = waiting[position], wanted[position]
            if not self._is_gone(submission):
                continue  # what an earlier start left is being stopped
            given, gpus = gpus[:n_gpus], gpus[n_gpus:]
            try:
                job = self._launch(submission, given)
            except Exception as error:  # whatever it is, it concerns this job only
                failed[submission] = Outcome(False, f"it could not be started: {error!r}")
                continue
            submission.info.external_jobid = job.job_id
            self._running[submission] = _Running(job, cores, given)
        return failed

    def _cores_of(self, request: Request) -> int:
        return min(request.cpus_per_node, self._cores)

    def _gpus_of(self, request: Request) -> int:
        return request.gpus_per_node if self._gpus else 0

    def _launch(self, submission: Submission, gpus: Sequence[str]) -> Any:
        import submitit

        executor = submitit.LocalExecutor(
            for_submitit(submission.folder), max_num_timeout=submission.continuations
        )
        limit_min = submission.request.runtime_min or _NO_LIMIT_MIN
        delay_s = signal_delay_s(self._signal_delay, limit_min)
        executor.update_parameters(
            timeout_min=limit_min, signal_delay_s=delay_s, stderr_to_stdout=True
        )
        # Process ids come again: a result of an earlier process is none of this job.  Others that
        # run may have the same folder, as those of a group have.
        running = {each.job.job_id for each in self._running.values()}
        for stale in submission.folder.glob("*_result.pkl"):
            if stale.name.partition("_")[0] not in running:
                stale.unlink(missing_ok=True)
        # submitit would number GPUs from 0 in every job.
        variables = {
            "CUDA_VISIBLE_DEVICES": ",".join(gpus),
            _MARK: mark_of(submission.identity.outputs),
            TASKS: str(submission.request.all_tasks),
        }
        words = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
        command = f"export {words}; {submission.command}"
        return executor.submit(shell_job(command, save_grace_s(delay_s), os.getpid()))
