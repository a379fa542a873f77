"""Slurm as a cluster: sbatch, one question for all states at a bounded rate, one scancel."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar

from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_submitit.resources import (
    save_grace_s,
    slurm_parameters,
)
from snakemake_executor_plugin_submitit.submission import (
    TIME_LIMIT_REQUEUES,
    Outcome,
    Submission,
    block_sigint,
    read_result,
    remove_pickles,
    result_file,
    submit,
)
from snakemake_executor_plugin_submitit.watch import ENDED, StateWatch

# sbatch calls at the same time; each takes 0.05 s on an idle cluster and seconds on a busy one.
_SUBMITTERS = 4
# Seconds that the report of a failure waits for Slurm's word on it (out of memory, for instance).
_STATE_WAIT_S = 15.0
_SCANCEL_TIMEOUT_S = 120.0


class SlurmCluster:
    """Jobs are submitted by sbatch as they come; Slurm is the queue."""

    # Looking costs one `stat` a job on the shared file system.
    poll_seconds: ClassVar[float] = 2.0

    def __init__(
        self, signal_delay: int, status_interval: int, warn: Callable[[str], None]
    ) -> None:
        for program in ("sbatch", "srun", "squeue", "scancel"):
            if shutil.which(program) is None:
                raise WorkflowError(
                    f"`--submitit-cluster slurm` needs Slurm's program {program!r}, which is not "
                    "on the PATH. Start Snakemake on a node from which jobs can be submitted, or "
                    "use `--submitit-cluster local`."
                )
        self._signal_delay = signal_delay
        self._warn = warn
        self._watch = StateWatch(status_interval, warn)
        self._pool = ThreadPoolExecutor(_SUBMITTERS, "sbatch", initializer=block_sigint)
        self._sbatch: dict[Submission, Future[str]] = {}  # its result is the job id
        self._failed: dict[Submission, tuple[float, Outcome]] = {}  # waits for Slurm's word
        self._lock = threading.Lock()
        self._cancelled = False

    def accept(self, submission: Submission) -> None:
        """Starts sbatch, in a thread."""
        name = submission.folder.name
        parameters = slurm_parameters(submission.request, name, self._signal_delay)
        self._sbatch[submission] = self._pool.submit(self._submit, submission, parameters)

    def cores_for(self, threads: int) -> int:
        return threads

    def step(self, submissions: list[Submission], stopping: bool) -> dict[Submission, Outcome]:
        with self._lock:
            if self._cancelled:
                return {}
            outcomes = {}
            for submission in submissions:
                if submission.info.external_jobid is None:
                    outcome = self._submitted(submission)
                else:
                    outcome = self._look(submission, submission.info.external_jobid)
                if outcome is not None:
                    outcomes[submission] = outcome
            unended = [s for s in submissions if s not in outcomes]
            self._watch.refresh([s.info.external_jobid for s in unended if s.info.external_jobid])
            for submission in outcomes:
                self._sbatch.pop(submission, None)
            return outcomes

    def cancel(self) -> None:
        """One scancel for all.  Slurm sends SIGTERM, and SIGKILL after its KillWait."""
        with self._lock:
            self._cancelled = True
        # An sbatch in progress is waited for, because its job would stay behind otherwise.
        self._pool.shutdown(wait=True, cancel_futures=True)
        done = [f for f in self._sbatch.values() if not f.cancelled() and f.exception() is None]
        if not done:
            return
        command = ["scancel", *(future.result() for future in done)]
        try:
            subprocess.run(
                command, capture_output=True, text=True, timeout=_SCANCEL_TIMEOUT_S, check=True
            )
        except subprocess.SubprocessError as error:
            complaint = getattr(error, "stderr", None) or error
            self._warn(f"Jobs may still run: {' '.join(command)}: {complaint}")

    def _submitted(self, submission: Submission) -> Outcome | None:
        """Notes the job id when sbatch has ended; its refusal is the outcome of the job."""
        future = self._sbatch[submission]
        if not future.done():
            return None
        error = future.exception()
        if error is not None:
            return Outcome(False, f"sbatch refused it: {str(error).strip()}")
        submission.info.external_jobid = future.result()
        return None

    def _submit(self, submission: Submission, parameters: dict[str, Any]) -> str:
        import submitit

        executor = submitit.AutoExecutor(
            submission.folder, cluster="slurm", slurm_max_num_timeout=TIME_LIMIT_REQUEUES
        )
        executor.update_parameters(**parameters)
        grace_s = save_grace_s(parameters["slurm_signal_delay_s"])
        return str(submit(executor, submission.command, grace_s).job_id)

    def _look(self, submission: Submission, job_id: str) -> Outcome | None:
        """How the job ended, or None while it has not or while Slurm's word is waited for."""
        if submission not in self._failed:
            if not result_file(submission).exists():
                reason = self._watch.ended(job_id)
                if reason is None:
                    return None
                remove_pickles(submission, succeeded=False)
                return Outcome(False, reason)
            outcome = read_result(submission)
            remove_pickles(submission, outcome.succeeded)
            if outcome.succeeded:
                return outcome
            self._failed[submission] = (time.monotonic(), outcome)
            self._watch.hurry()
        since, outcome = self._failed[submission]
        state = self._watch.state(job_id)
        if state not in ENDED and time.monotonic() - since < _STATE_WAIT_S:
            self._watch.hurry()
            return None
        del self._failed[submission]
        return Outcome(False, f"{outcome.reason} (Slurm state {state or 'unknown'})")
