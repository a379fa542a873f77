"""Slurm as a cluster: sbatch, one question for all states at a bounded rate, one scancel."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_submitit.call import Cancelled, Patience, compress, scancel
from snakemake_executor_plugin_submitit.ledger import Entry, Ledger
from snakemake_executor_plugin_submitit.resources import Request, save_grace_s, slurm_parameters
from snakemake_executor_plugin_submitit.states import (
    ENDED,
    INTERRUPTED,
    NODE_FAILED,
    explain,
    out_of_memory,
)
from snakemake_executor_plugin_submitit.submission import (
    TOO_MANY_CONTINUATIONS,
    Outcome,
    Submission,
    block_sigint,
    continuations_left,
    read_result,
    remove_pickles,
    result_file,
)
from snakemake_executor_plugin_submitit.takeover import TakeOver
from snakemake_executor_plugin_submitit.watch import Seen, StateWatch

# sbatch calls at the same time; each takes 0.05 s on an idle cluster and seconds on a busy one.
_SUBMITTERS = 4
# Seconds that the report of a failure waits for Slurm's word on it (out of memory, for instance).
_STATE_WAIT_S = 15.0


@dataclass(frozen=True)
class SlurmSettings:
    """The plugin's settings for Slurm; ``ExecutorSettings`` says what they mean."""

    signal_delay_s: int
    status_interval_s: float
    array_limit: int
    lost_after_s: float


class SlurmCluster:
    """Jobs are submitted by sbatch as they come; Slurm is the queue."""

    # Looking costs one `stat` a job on the shared file system.
    poll_seconds: ClassVar[float] = 2.0

    def __init__(self, settings: SlurmSettings, ledger: Ledger, warn: Callable[[str], None]):
        for program in ("sbatch", "srun", "squeue", "scancel"):
            if shutil.which(program) is None:
                raise WorkflowError(
                    f"`--submitit-cluster slurm` needs Slurm's program {program!r}, which is not "
                    "on the PATH. Start Snakemake on a node from which jobs can be submitted, or "
                    "use `--submitit-cluster local`."
                )
        self._settings = settings
        self._ledger = ledger
        self._warn = warn
        self._watch = StateWatch(settings.status_interval_s, settings.lost_after_s, warn)
        self._pool = ThreadPoolExecutor(_SUBMITTERS, "sbatch", initializer=block_sigint)
        # Jobs on their way to Slurm.  The result has their ids; None: to be submitted yet.
        self._placing: dict[Submission, Future[dict[Submission, str | None]]] = {}
        self._placed: dict[Submission, str] = {}
        self._failed: dict[Submission, tuple[float, Outcome]] = {}  # waits for Slurm's word
        self._bad_nodes: tuple[str, ...] = ()  # as Slurm lists them
        self._patience = Patience(warn)
        self._take_over = TakeOver(ledger, self._watch, self._patience, warn)
        self._lock = threading.Lock()

    def check(self, request: Request) -> None:
        self._parameters(request)

    def accept(self, submissions: list[Submission]) -> None:
        """Starts sbatch, in threads; jobs of an earlier Snakemake are looked for first."""
        earlier = [s for s in submissions if self._ledger.inherited(s.identity.outputs)]
        with self._lock:
            if earlier:
                self._place(earlier, self._take_over)
            self._submit_in_arrays([s for s in submissions if s not in earlier])

    def cores_for(self, threads: int) -> int:
        return threads

    def step(self, submissions: list[Submission], stopping: bool) -> dict[Submission, Outcome]:
        with self._lock:
            if self._patience.cancelled:
                return {}
            outcomes = self._note_placed()
            for submission in submissions:
                job_id = self._placed.get(submission)
                if job_id is None:
                    continue
                outcome = self._look(submission, job_id)
                if outcome is not None:
                    outcomes[submission] = outcome
                    del self._placed[submission]
                    self._ledger.forget(submission.identity.outputs)
            self._watch.refresh(list(self._placed.values()))
            return outcomes

    def cancel(self) -> None:
        """One scancel for all.  Slurm sends SIGTERM, and SIGKILL after its KillWait."""
        with self._lock:
            self._patience.cancel()
        # An sbatch in progress is waited for, because its job would stay behind otherwise.
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            handed_over = [*self._placing, *self._placed]
            self._note_placed()
            # Those of an earlier start that were not taken over yet are theirs as well.
            earlier = [self._ledger.inherited(s.identity.outputs) for s in handed_over]
            ids = {*self._placed.values(), *(entry.job_id for found in earlier for entry in found)}
            complaint = scancel(ids) if ids else ""
            if complaint:
                self._warn(
                    f"Jobs may still run, as scancel failed: {complaint}\n"
                    f"To end them: scancel {' '.join(compress(ids))}"
                )
                return
            for submission in handed_over:
                self._ledger.forget(submission.identity.outputs)

    def close(self) -> None:
        """Tidies up at the end of the workflow.

        Jobs that have ended while no Snakemake watched and whose outputs are all that is needed are
        never asked for again, so nobody else removes what they left.
        """
        self._pool.shutdown(wait=True)
        for entry in self._ledger.unclaimed():
            self._take_over.drop_if_ended(entry)

    # Submission -------------------------------------------------------------------------------

    def _parameters(self, request: Request) -> dict[str, Any]:
        return slurm_parameters(request, self._settings.signal_delay_s, self._bad_nodes)

    def _submit_in_arrays(self, submissions: Sequence[Submission]) -> None:
        """Jobs of one rule that ask for the same are one call of sbatch."""
        alike: dict[str, list[Submission]] = {}
        for submission in submissions:
            key = f"{submission.request.rule} {self._parameters(submission.request)}"
            alike.setdefault(key, []).append(submission)
        limit = self._settings.array_limit
        for group in alike.values():
            for start in range(0, len(group), limit):
                self._place(group[start : start + limit], self._submit)

    def _place(
        self,
        batch: list[Submission],
        how: Callable[[list[Submission]], dict[Submission, str | None]],
    ) -> None:
        if self._patience.cancelled:
            return
        future = self._pool.submit(how, batch)
        for submission in batch:
            self._placing[submission] = future

    def _note_placed(self) -> dict[Submission, Outcome]:
        """Notes the ids of jobs that Slurm has got by now; its refusal is the outcome of a job."""
        outcomes = {}
        again = []
        for submission, future in list(self._placing.items()):
            if not future.done():
                continue
            del self._placing[submission]
            if future.cancelled() or isinstance(future.exception(), Cancelled):
                continue
            error = future.exception()
            if error is not None:
                outcomes[submission] = Outcome(False, str(error))
                continue
            job_id = future.result()[submission]
            if job_id is None:
                again.append(submission)
            else:
                submission.info.external_jobid = job_id
                self._placed[submission] = job_id
        self._submit_in_arrays(again)
        return outcomes

    def _submit(self, batch: list[Submission]) -> dict[Submission, str | None]:
        """Calls sbatch, again and again for a while if Slurm does not answer."""
        from snakemake_executor_plugin_submitit.sbatch import SbatchFailed, submit

        first = batch[0]
        if len(batch) > 1:
            # One script, so one folder for all; the wildcards of each are on top of its log.
            for submission in batch:
                submission.folder = submission.rule_folder
        parameters = self._parameters(first.request) | {"job_name": first.folder.name}

        def record(position: int, job_id: str) -> None:
            submission = batch[position]
            identity = submission.identity
            self._ledger.record(
                Entry(job_id, str(submission.folder), identity.outputs, fingerprints[position])
            )

        fingerprints = [submission.identity.fingerprint() for submission in batch]
        deadline = self._patience.deadline()
        while True:
            try:
                ids = submit(
                    [submission.command for submission in batch],
                    first.folder,
                    parameters,
                    first.continuations,
                    save_grace_s(parameters["signal_delay_s"]),
                    record,
                )
                return dict(zip(batch, ids, strict=True))
            except SbatchFailed as error:
                complaint = f"sbatch refused it: {error}"
                if len(batch) > 1:
                    complaint += f" (an array of {len(batch)} jobs; `--submitit-array-limit` "
                    complaint += "makes arrays smaller)"
                if not error.passing:
                    raise WorkflowError(complaint) from error
                self._patience.wait(deadline, complaint)

    # Jobs that are with Slurm -----------------------------------------------------------------

    def _look(self, submission: Submission, job_id: str) -> Outcome | None:
        """How the job ended, or None while it has not or while Slurm's word is waited for."""
        if submission not in self._failed:
            file = result_file(submission)
            if not file.exists():
                ending = self._watch.ended(job_id)
                return None if ending is None else self._ended(submission, job_id, ending)
            outcome = read_result(file)
            # In this order: an entry without a result would be waited for at another start.
            self._ledger.forget(submission.identity.outputs)
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
        if state == "OUT_OF_MEMORY":
            return Outcome(False, f"{outcome.reason}; {out_of_memory(submission.request)}")
        return Outcome(False, f"{outcome.reason} (Slurm state {state or 'unknown'})")

    def _ended(self, submission: Submission, job_id: str, ending: Seen) -> Outcome | None:
        """The outcome of a job without a result, or None if it is submitted again."""
        if ending.state not in INTERRUPTED:
            remove_pickles(submission, succeeded=False)
            reason = explain(ending.state, submission.request, self._settings.lost_after_s)
            return Outcome(False, reason)
        left = continuations_left(submission) - 1
        remove_pickles(submission, succeeded=False)
        if left < 0:
            return Outcome(False, f"{TOO_MANY_CONTINUATIONS} (Slurm state {ending.state})")
        if ending.state in NODE_FAILED and ending.nodes:
            self._bad_nodes = tuple(dict.fromkeys([*self._bad_nodes, ending.nodes]))
        submission.continuations = left
        submission.note = f"goes on after job {job_id} ended as {ending.state}"
        submission.info.external_jobid = None
        del self._placed[submission]
        self._place([submission], partial(self._continue, job_id))
        return None

    def _continue(self, job_id: str, batch: list[Submission]) -> dict[Submission, str | None]:
        # Should Slurm be about to requeue it after all, it must not run beside the next one.
        scancel([job_id])
        return self._submit(batch)
