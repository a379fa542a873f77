"""Slurm as a cluster: sbatch, one question for all states at a bounded rate, one scancel."""

from __future__ import annotations

import os
import shlex
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_submitit.backlog import Backlog
from snakemake_executor_plugin_submitit.call import (
    NO_SUCH_NODES,
    TRY_EVERY_S,
    Answer,
    Cancelled,
    Patience,
    compress,
    inherited,
    limit_in,
    scancel,
    user_name,
)
from snakemake_executor_plugin_submitit.efficiency import write_report
from snakemake_executor_plugin_submitit.ledger import Entry, Ledger
from snakemake_executor_plugin_submitit.partitions import fitting_partition
from snakemake_executor_plugin_submitit.resources import (
    Request,
    overriding_variables,
    save_grace_s,
    slurm_parameters,
)
from snakemake_executor_plugin_submitit.site import Site
from snakemake_executor_plugin_submitit.states import (
    ENDED,
    INTERRUPTED,
    NODE_FAILED,
    explain,
    out_of_memory,
    waits_for,
)
from snakemake_executor_plugin_submitit.submission import (
    TOO_MANY_CONTINUATIONS,
    Outcome,
    Submission,
    awaited_result,
    block_sigint,
    continuations_left,
    remove_pickles,
    result_file,
)
from snakemake_executor_plugin_submitit.takeover import Placement, TakeOver, is_foreign
from snakemake_executor_plugin_submitit.watch import Seen, StateWatch

# sbatch calls at the same time; each takes 0.05 s on an idle cluster and seconds on a busy one.
_SUBMITTERS = 4
# Seconds that the report of a failure waits for Slurm's word on it (out of memory, for instance).
_STATE_WAIT_S = 15.0
# Seconds that Snakemake's main thread waits for what the cluster says of itself.
_FACTS_WITHIN_S = 2.0
# Seconds that one answer of scontrol may take.
_ANSWER_WITHIN_S = 60.0


@dataclass(frozen=True)
class SlurmSettings:
    """The plugin's settings for Slurm; ``ExecutorSettings`` says what they mean."""

    signal_delay_s: int
    status_interval_s: float
    array_limit: int
    lost_after_s: float
    controller_timeout_s: float
    jobname_prefix: str = ""
    partitions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    efficiency_report: Path | None = None


class ClusterFull(Exception):
    """Slurm did not take jobs because of a limit, the message, that ending jobs make room under."""


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
        # Jobs on their way to Slurm.
        self._placing: dict[Submission, Future[dict[Submission, Placement]]] = {}
        self._placed: dict[Submission, str] = {}
        self._failed: dict[Submission, tuple[float, Outcome]] = {}  # waits for Slurm's word
        self._bad_nodes: tuple[str, ...] = ()  # as Slurm lists them
        self._patience = Patience(warn, settings.controller_timeout_s)
        self._site = Site(lambda command: self._patience.ask(command, _ANSWER_WITHIN_S).stdout)
        self._max_array_size = self._pool.submit(lambda: self._site.max_array_size)
        self._backlog = Backlog(warn)
        self._take_over = TakeOver(ledger, self._watch, self._site, self._patience, warn)
        self._told: set[str] = set()  # what is to be said once
        self._scancel_at = 0.0  # of time.monotonic(): when it may be called again
        self._hopeless: dict[str, str] = {}  # why, by job id; they are being cancelled
        self._stopping = False
        self._given_back: set[str] = set()  # cancelled before they started, as all is stopping
        self._rules: dict[str, str] = {}  # by job id, of jobs that have ended
        self._lock = threading.Lock()
        if ledger.is_alone():
            ledger.remove_rests()
        if left := inherited(os.environ):
            self._tell_once(
                "Snakemake runs inside of a Slurm job, whose variables are not for its own jobs; "
                f"left out: {', '.join(sorted(left))}."
            )

    def check(self, request: Request) -> None:
        """Raises if no partition of the file takes the job; all else only Slurm knows."""
        self._in_partition(request)

    def accept(self, submissions: list[Submission]) -> None:
        """Starts sbatch, in threads; jobs of an earlier Snakemake are looked for first."""
        known: list[Submission] = []
        fresh: list[Submission] = []
        for submission in submissions:
            submission.request = self._in_partition(submission.request)
            earlier = self._ledger.inherited(submission.identity.outputs)
            (known if earlier else fresh).append(submission)
        with self._lock:
            if known:
                self._place(known, self._take_over)
            self._submit_in_arrays(self._backlog.keep(fresh))

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
                    self._backlog.ended(submission.request)
                    self._rules[job_id] = submission.request.rule
            self._look_at_waiting()
            if stopping:
                dropped = self._backlog.give_back()
                outcomes |= {s: Outcome(False, dropped=True) for s in dropped}
                self._give_back()
            else:
                self._submit_in_arrays(self._backlog.due())
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
            earlier = {s: self._ledger.inherited(s.identity.outputs) for s in handed_over}
            ids = {job_id for s, job_id in self._placed.items() if not s.owner}
            ids |= {e.job_id for found in earlier.values() for e in found if self._is_ours(e)}
            answer = scancel(ids) if ids else Answer("")
            if answer.stdout is None:
                self._warn(
                    f"Jobs may still run, as scancel failed: {answer.complaint}\n"
                    f"To end them: scancel {shlex.join(compress(ids))}"
                )
                return
            for submission, found in earlier.items():
                if not submission.owner and all(map(self._is_ours, found)):
                    self._ledger.forget(submission.identity.outputs)

    def _is_ours(self, entry: Entry) -> bool:
        """Whether the job is of this user and on this cluster; False if Slurm is silent on that."""
        try:
            return not is_foreign(entry) and self._take_over.is_here(entry)
        except (Cancelled, WorkflowError):
            return False

    def close(self) -> None:
        """Tidies up at the end of the workflow.

        Jobs that have ended while no Snakemake watched and whose outputs are all that is needed are
        never asked for again, so nobody else removes what they left. Where another Snakemake works
        in the same folder they may be that one's, and stay for a later one.
        """
        self._pool.shutdown(wait=True)
        for entry in self._ledger.unclaimed() if self._ledger.is_alone() else ():
            self._take_over.drop_if_ended(entry)
        if self._settings.efficiency_report is not None and self._rules:
            try:
                write_report(self._settings.efficiency_report, self._rules)
            except WorkflowError as error:
                self._warn(str(error))

    # Submission -------------------------------------------------------------------------------

    def _in_partition(self, request: Request) -> Request:
        """The request with a partition of the file of partitions, if it names none itself.

        Raises ``WorkflowError`` if it fits into none.
        """
        if request.partition is not None or not self._settings.partitions:
            return request
        partition = fitting_partition(request, self._settings.partitions)
        if partition is None:
            raise WorkflowError(
                f"Rule {request.rule} fits into no partition of `--submitit-partition-config`: "
                f"it asks for {request}. Ask for less, or name one as `slurm_partition`."
            )
        return replace(request, partition=partition)

    def _completed(self, request: Request) -> Request:
        """The request with a time limit, if it names none, as the cluster has it.

        Raises ``WorkflowError`` if it is for another cluster, or if Slurm does not answer.
        """
        if request.cluster is not None and request.cluster != (name := self._site.name):
            raise WorkflowError(
                f"Rule {request.rule}: resource cluster={request.cluster!r} cannot be used; "
                f"expected {name!r} or none, as jobs go to this machine's cluster alone."
            )
        if request.runtime_min is None:
            limit, origin = self._site.runtime_min(request.partition)
            self._tell_once(
                f"Rules without the resource `runtime` get {limit} min ({origin}). To set it: "
                "`default-resources: [runtime=...]` in the profile, or in the rule."
            )
            request = replace(request, runtime_min=limit)
        return request

    def _array_limit(self) -> int:
        limit = self._settings.array_limit
        try:
            size = self._max_array_size.result(timeout=_FACTS_WITHIN_S)
        except (TimeoutError, WorkflowError, Cancelled):
            size = None  # what is too long is divided when sbatch refuses it
        return limit if size is None else min(limit, max(1, size))

    def _submit_in_arrays(self, submissions: Sequence[Submission]) -> None:
        """Jobs of one rule that ask for the same are one call of sbatch."""
        alike: dict[str, list[Submission]] = {}
        for submission in submissions:
            alike.setdefault(str(submission.request), []).append(submission)
        limit = self._array_limit() if len(submissions) > 1 else 1
        for group in alike.values():
            for start in range(0, len(group), limit):
                self._place(group[start : start + limit], self._submit)

    def _place(
        self,
        batch: list[Submission],
        how: Callable[[list[Submission]], dict[Submission, Placement]],
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
        refused: dict[Future[dict[Submission, Placement]], list[Submission]] = defaultdict(list)
        for submission, future in list(self._placing.items()):
            if not future.done():
                continue
            del self._placing[submission]
            if future.cancelled() or isinstance(future.exception(), Cancelled):
                continue
            error = future.exception()
            if isinstance(error, ClusterFull):
                refused[future].append(submission)
                continue
            self._backlog.settled(submission)
            placement = future.result()[submission] if error is None else error
            if placement is None:
                again.append(submission)
            elif isinstance(placement, str):
                submission.info.external_jobid = placement
                self._placed[submission] = placement
            else:
                outcomes[submission] = Outcome(False, str(placement))
        for future, batch in refused.items():
            self._backlog.refused(batch, str(future.exception()))
        self._submit_in_arrays(self._backlog.keep(again))
        return outcomes

    def _submit(self, batch: list[Submission]) -> dict[Submission, Placement]:
        """Calls sbatch, again and again for a while if Slurm does not answer.

        Raises :class:`ClusterFull`, or ``WorkflowError`` for jobs that Slurm refuses.
        """
        from snakemake_executor_plugin_submitit.sbatch import SbatchFailed, submit

        first = batch[0]
        if len(batch) > 1:
            # One script, so one folder for all; the wildcards of each are on top of its log.
            for submission in batch:
                submission.folder = submission.rule_folder
        request = self._completed(first.request)
        for submission in batch:
            submission.request = request
        cluster = self._site.name or ""

        def record(position: int, job_id: str) -> None:
            folder, outputs = str(batch[position].folder), batch[position].identity.outputs
            fingerprint = fingerprints[position]
            self._ledger.record(Entry(job_id, folder, outputs, fingerprint, user_name(), cluster))

        fingerprints = [submission.identity.fingerprint() for submission in batch]
        # Of several nodes nobody knows which one has failed, and there may not be others enough.
        avoided = self._bad_nodes if request.nodes == 1 else ()
        deadline = self._patience.deadline()
        while True:
            parameters = self._parameters(batch, avoided)
            overriding = overriding_variables(parameters, os.environ)
            if overriding:
                self._tell_once(
                    "sbatch would follow these variables rather than what rules ask for; left out: "
                    f"{', '.join(sorted(overriding))}."
                )
            try:
                with self._ledger.submitting(first.folder) as unique:
                    ids = submit(
                        [submission.command for submission in batch],
                        first.folder,
                        parameters,
                        first.continuations,
                        save_grace_s(parameters["signal_delay_s"]),
                        unique,
                        overriding,
                        record,
                    )
                return dict(zip(batch, ids, strict=True))
            except SbatchFailed as error:
                if limit := limit_in(str(error)):
                    raise ClusterFull(limit) from error
                if avoided and NO_SUCH_NODES in str(error):
                    avoided = ()  # rather on one that has failed than nowhere
                    continue
                complaint = f"sbatch refused it: {error}"
                if len(batch) > 1:
                    complaint += f" (an array of {len(batch)} jobs; `--submitit-array-limit` "
                    complaint += "makes arrays smaller)"
                if not error.passing:
                    raise WorkflowError(complaint) from error
                self._patience.wait(deadline, complaint)

    def _parameters(self, batch: Sequence[Submission], avoided: Sequence[str]) -> dict[str, Any]:
        """What submitit is asked for, for jobs of equal requests; ``avoided`` are nodes."""
        first = batch[0]
        parameters = slurm_parameters(first.request, self._settings.signal_delay_s, avoided)
        name = first.request.rule if len(batch) > 1 else first.name
        parameters["job_name"] = f"{self._settings.jobname_prefix}{name}"
        parameters["comment"] = f"{len(batch)} x {name}" if len(batch) > 1 else name
        return parameters

    # Jobs that are with Slurm -----------------------------------------------------------------

    def _look_at_waiting(self) -> None:
        """Says once why jobs wait for more than their turn, and cancels those that never start."""
        hopeless = {}
        for submission, job_id in self._placed.items():
            reason, seconds = self._watch.waiting(job_id) or ("", 0.0)
            wait = waits_for(reason, submission.request.partition)
            if wait is None or job_id in self._hopeless:
                continue
            if not wait.hopeless or submission.owner:
                self._tell_once(
                    f"Slurm job {job_id} of rule {submission.request.rule} waits "
                    f"({reason}): {wait.advice}.",
                    about=wait.kind,
                )
            elif seconds > self._settings.lost_after_s:  # before that it may only be for now
                hopeless[job_id] = f"it can never start ({reason}): {wait.advice}; it was cancelled"
        if hopeless and self._end_waiting(hopeless):
            self._hopeless |= hopeless

    def _give_back(self) -> None:
        """Cancels jobs that have not started: Snakemake is stopping and waits for running ones."""
        waiting = [
            job_id
            for submission, job_id in self._placed.items()
            if job_id not in self._given_back
            and not submission.owner
            and self._watch.waiting(job_id) is not None
        ]
        if waiting and self._end_waiting(waiting, "--state=PENDING"):
            self._given_back.update(waiting)
        if not self._stopping or self._given_back.intersection(self._placed.values()):
            self._watch.hurry()
        self._stopping = True

    def _end_waiting(self, job_ids: Iterable[str], *options: str) -> bool:
        """Whether Slurm was told to cancel the jobs; if not, it is to be tried at a later look."""
        if time.monotonic() < self._scancel_at:
            return False
        answer = scancel(job_ids, *options)
        if answer.stdout is None:
            self._scancel_at = time.monotonic() + TRY_EVERY_S
            self._tell_once(
                f"Jobs that wait could not be cancelled: {answer.complaint}\n"
                f"Trying again every {TRY_EVERY_S:.0f} s.",
                about="scancel",
            )
            return False
        self._watch.hurry()
        return True

    def _tell_once(self, words: str, about: str = "") -> None:
        """Says ``words``, unless the same has been said, or others about the same."""
        if (about or words) not in self._told:
            self._told.add(about or words)
            self._warn(words)

    def _look(self, submission: Submission, job_id: str) -> Outcome | None:
        """How the job ended, or None while it has not or while Slurm's word is waited for."""
        if submission not in self._failed:
            if not os.path.exists(result_file(submission)):
                ending = self._watch.ended(job_id)
                return None if ending is None else self._ended(submission, job_id, ending)
            outcome = awaited_result(submission)
            if outcome is None:
                return None
            if outcome.to_continue:
                # submitit has counted it in the pickle, if it takes it for a time limit.
                left = min(continuations_left(submission), submission.continuations - 1)
                return self._submit_again(submission, job_id, "could not be requeued", left)
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
        if ending.state in INTERRUPTED and job_id not in self._hopeless:
            if ending.state in NODE_FAILED and ending.nodes and submission.request.nodes == 1:
                self._bad_nodes = tuple(dict.fromkeys([*self._bad_nodes, ending.nodes]))
            left = continuations_left(submission) - 1
            return self._submit_again(submission, job_id, f"ended as {ending.state}", left)
        remove_pickles(submission, succeeded=False)
        if job_id in self._given_back:
            return Outcome(False, dropped=True)
        if job_id in self._hopeless:
            return Outcome(False, self._hopeless[job_id])
        return Outcome(
            False, explain(ending.state, submission.request, self._settings.lost_after_s)
        )

    def _submit_again(
        self, submission: Submission, job_id: str, why: str, left: int
    ) -> Outcome | None:
        """None, or the outcome of a job of which no continuations are ``left``."""
        remove_pickles(submission, succeeded=False)
        if left < 0:
            return Outcome(False, f"{TOO_MANY_CONTINUATIONS} (Slurm job {job_id} {why})")
        self._rules[job_id] = submission.request.rule
        submission.continuations = left
        submission.note = f"goes on after job {job_id} {why}"
        submission.owner = ""
        submission.info.external_jobid = None
        del self._placed[submission]
        self._place([submission], partial(self._continue, job_id))
        return None

    def _continue(self, job_id: str, batch: list[Submission]) -> dict[Submission, Placement]:
        # Should Slurm be about to requeue it after all, it must not run beside the next one.
        deadline = self._patience.deadline()
        while (answer := scancel([job_id])).passing:
            self._patience.wait(
                deadline, f"Slurm job {job_id} could not be cancelled: {answer.complaint}"
            )
        return self._submit(batch)
