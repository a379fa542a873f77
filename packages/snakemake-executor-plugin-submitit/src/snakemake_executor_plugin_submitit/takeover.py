"""Jobs of an earlier Snakemake that was killed: those that still do what is wanted are taken over.

See :class:`TakeOver`; what is left of the others is cleared away first, so that no job runs twice
and no two of the same run beside each other.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_submitit.call import Patience, compress, scancel, user_name
from snakemake_executor_plugin_submitit.ledger import Entry, Ledger
from snakemake_executor_plugin_submitit.site import Site
from snakemake_executor_plugin_submitit.states import ENDED, INTERRUPTED
from snakemake_executor_plugin_submitit.submission import Submission, read_result, remove_files
from snakemake_executor_plugin_submitit.watch import StateWatch

# What became of a job on its way to Slurm: its id, None if it is to be submitted yet, or why not.
Placement = str | WorkflowError | None

# Seconds between two looks at whether a cancelled job has ended.
_ENDING_POLL_S = 2.0


class TakeOver:
    """Called with jobs that Snakemake wants and that the ledger knows from before."""

    def __init__(
        self,
        ledger: Ledger,
        watch: StateWatch,
        site: Site,
        patience: Patience,
        warn: Callable[[str], None],
    ) -> None:
        self._site = site
        self._ledger = ledger
        self._watch = watch
        self._patience = patience
        self._warn = warn
        self._started_at = time.time()

    def __call__(self, batch: list[Submission]) -> dict[Submission, Placement]:
        """The ids of the jobs that are taken over.

        None for a job to be submitted: the earlier one was to do something else and has been
        cancelled, or it has failed.  A ``WorkflowError`` for one that another user's job stands in
        the way of, or one on another cluster.  Raises ``WorkflowError`` if Slurm does not tell or
        does not end a job, and ``Cancelled``.
        """
        entries = {s: self._ledger.inherited(s.identity.outputs) for s in batch}
        here = [e for found in entries.values() for e in found if self.is_here(e)]
        self._watch.users.update(e.user for e in here if e.user)
        self._ask_until_answered(list(dict.fromkeys(e.job_id for e in here)))
        taken: dict[Submission, Placement] = {}
        unwanted = []
        for submission, found in entries.items():
            obstacle = next(filter(None, map(self._obstacle, found)), None)
            if len(found) == 1 and self.is_wanted(submission, found[0]):
                taken[submission] = found[0].job_id
                submission.folder = Path(found[0].folder)
                submission.note = "submitted by an earlier start"
                if is_foreign(found[0]):
                    submission.note += f" of user {found[0].user}"
                if is_foreign(found[0]) or not self.is_here(found[0]):
                    submission.owner = found[0].user
            elif obstacle is not None:
                taken[submission] = obstacle
            else:
                taken[submission] = None
                unwanted += [entry.job_id for entry in found if self._lives(entry)]
        if unwanted:
            self._end(unwanted)
        for submission, found in entries.items():
            if taken[submission] is None:
                for entry in found:
                    self._drop(entry)
        return taken

    def is_here(self, entry: Entry) -> bool:
        """Whether the job is on this cluster, whose Slurm can tell of it.  Raises as ``Site``."""
        return not entry.cluster or entry.cluster == self._site.name

    def is_wanted(self, submission: Submission, entry: Entry) -> bool:
        """Whether the job of ``entry`` is or will be what ``submission`` asks for."""
        if entry.outputs != submission.identity.outputs:
            return False
        if entry.fingerprint != submission.identity.fingerprint():
            return False
        result = _result_of(entry)
        if not os.path.exists(result):
            # It goes on or will be started again; a completed one may show its result late.
            state = self._state(entry)
            return self._lives(entry) or state in INTERRUPTED or state == "COMPLETED"
        try:
            succeeded = read_result(result).succeeded
        except OSError:
            return False
        if not succeeded or not all(map(os.path.exists, entry.outputs)):
            return False
        # Snakemake forces what it found incomplete, but that may have been completed just now.
        return not submission.forced or result.stat().st_mtime > self._started_at

    def _obstacle(self, entry: Entry) -> WorkflowError | None:
        """Set if a job that is not ours to cancel still makes, or may make, our outputs."""
        job = f"it was not submitted, as Slurm job {entry.job_id}"
        file = self._ledger.file(entry.outputs)
        has_ended = os.path.exists(_result_of(entry))
        if not self.is_here(entry) and not has_ended:
            return WorkflowError(
                f"{job} of cluster {entry.cluster} may make the same outputs, and this is "
                f"{self._site.name}. Go on there, or, if that job has ended, delete {file}"
            )
        if not is_foreign(entry):
            return None
        job += f" of user {entry.user}"
        if self._lives(entry):
            return WorkflowError(
                f"{job} makes the same outputs from other code, parameters or inputs. Wait for it, "
                f"or ask {entry.user}: scancel {entry.job_id}"
            )
        if self._state(entry) is None and not has_ended and self._site.hides_jobs:
            return WorkflowError(
                f"{job} may make the same outputs, and this Slurm does not show other users' jobs "
                f"(PrivateData). Ask {entry.user}; if it has ended, delete {file}"
            )
        return None

    def drop_if_ended(self, entry: Entry) -> None:
        """Clears away a job that has left its result and that nobody asks for any more."""
        if os.path.exists(_result_of(entry)):
            self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        remove_files(Path(entry.folder), entry.job_id, script=True)
        self._ledger.forget(entry.outputs)

    def _state(self, entry: Entry) -> str | None:
        """As Slurm tells it; a job of the same number on another cluster is another job."""
        return self._watch.state(entry.job_id) if self.is_here(entry) else None

    def _lives(self, entry: Entry) -> bool:
        return _is_alive(self._state(entry))

    def _end(self, job_ids: list[str]) -> None:
        """Cancels jobs and returns when none of them lives."""
        self._warn(
            f"Slurm jobs {' '.join(compress(job_ids))} of an earlier start were to do something "
            "else than is wanted now (other code, parameters, inputs or groups): cancelling them."
        )
        deadline = self._patience.deadline()
        answer = scancel(job_ids)
        while True:
            self._ask_until_answered(job_ids)
            alive = [job_id for job_id in job_ids if _is_alive(self._watch.state(job_id))]
            if not alive:
                return
            if time.monotonic() > deadline:
                raise WorkflowError(
                    f"it was not submitted, as Slurm jobs {' '.join(compress(alive))} of an "
                    f"earlier start are to be cancelled first and do not end. {answer.complaint}"
                )
            self._patience.pause(_ENDING_POLL_S)
            if answer.passing:
                answer = scancel(alive)

    def _ask_until_answered(self, job_ids: list[str]) -> None:
        deadline = self._patience.deadline()
        while job_ids and not self._watch.ask(job_ids):
            self._patience.wait(deadline, "squeue does not tell about jobs of an earlier start")


def _is_alive(state: str | None) -> bool:
    return state is not None and state not in ENDED


def is_foreign(entry: Entry) -> bool:
    """Whether another user has submitted the job."""
    return entry.user not in ("", user_name())


def _result_of(entry: Entry) -> Path:
    return Path(entry.folder) / f"{entry.job_id}_0_result.pkl"
