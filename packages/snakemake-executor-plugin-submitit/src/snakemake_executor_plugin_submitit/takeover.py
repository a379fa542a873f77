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

    def __call__(self, batch: list[Submission]) -> dict[Submission, str | None]:
        """The ids of the jobs that are taken over.

        None for a job to be submitted: the earlier one was to do something else and has been
        cancelled, or it has failed.  Raises ``WorkflowError`` if Slurm does not tell or does not
        end a job, or it is another user's, and ``Cancelled``.
        """
        entries = {s: self._ledger.inherited(s.identity.outputs) for s in batch}
        ids = list(dict.fromkeys(e.job_id for found in entries.values() for e in found))
        self._watch.users.update(e.user for found in entries.values() for e in found if e.user)
        self._ask_until_answered(ids)
        taken: dict[Submission, str | None] = {}
        unwanted = []
        for submission, found in entries.items():
            if len(found) == 1 and self.is_wanted(submission, found[0]):
                taken[submission] = found[0].job_id
                submission.folder = Path(found[0].folder)
                submission.note = "submitted by an earlier start"
                if is_foreign(found[0]):
                    submission.owner = found[0].user
                    submission.note += f" of user {submission.owner}"
            else:
                for entry in filter(is_foreign, found):
                    self._check_over(entry)
                taken[submission] = None
                unwanted += [entry.job_id for entry in found if self._lives(entry.job_id)]
        if unwanted:
            self._end(unwanted)
        for submission, found in entries.items():
            if taken[submission] is None:
                for entry in found:
                    self._drop(entry)
        return taken

    def is_wanted(self, submission: Submission, entry: Entry) -> bool:
        """Whether the job of ``entry`` is or will be what ``submission`` asks for."""
        if entry.outputs != submission.identity.outputs:
            return False
        if entry.fingerprint != submission.identity.fingerprint():
            return False
        result = _result_of(entry)
        if not result.exists():
            # It goes on or will be started again; a completed one may show its result late.
            state = self._watch.state(entry.job_id)
            return self._lives(entry.job_id) or state in INTERRUPTED or state == "COMPLETED"
        if not read_result(result).succeeded or not all(map(os.path.exists, entry.outputs)):
            return False
        # Snakemake forces what it found incomplete, but that may have been completed just now.
        return not submission.forced or result.stat().st_mtime > self._started_at

    def _check_over(self, entry: Entry) -> None:
        """Raises ``WorkflowError`` if another user's job still makes, or may make, our outputs."""
        job = f"it was not submitted, as Slurm job {entry.job_id} of user {entry.user}"
        if self._lives(entry.job_id):
            raise WorkflowError(
                f"{job} makes the same outputs from other code, parameters or inputs. Wait for it, "
                f"or ask {entry.user}: scancel {entry.job_id}"
            )
        unknown = self._watch.state(entry.job_id) is None and not _result_of(entry).exists()
        if unknown and self._site.hides_jobs:
            raise WorkflowError(
                f"{job} may make the same outputs, and this Slurm does not show other users' jobs "
                f"(PrivateData). Ask {entry.user}; if it has ended, delete "
                f"{self._ledger.file(entry.outputs)}"
            )

    def drop_if_ended(self, entry: Entry) -> None:
        """Clears away a job that has left its result and that nobody asks for any more."""
        if _result_of(entry).exists():
            self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        remove_files(Path(entry.folder), entry.job_id, script=True)
        self._ledger.forget(entry.outputs)

    def _lives(self, job_id: str) -> bool:
        state = self._watch.state(job_id)
        return state is not None and state not in ENDED

    def _end(self, job_ids: list[str]) -> None:
        """Cancels jobs and returns when none of them lives."""
        self._warn(
            f"Slurm jobs {' '.join(compress(job_ids))} of an earlier start were to do something "
            "else than is wanted now (other code, parameters, inputs or groups): cancelling them."
        )
        deadline = self._patience.deadline()
        complaint = scancel(job_ids)
        while True:
            self._ask_until_answered(job_ids)
            alive = [job_id for job_id in job_ids if self._lives(job_id)]
            if not alive:
                return
            if time.monotonic() > deadline:
                raise WorkflowError(
                    f"it was not submitted, as Slurm jobs {' '.join(compress(alive))} of an "
                    f"earlier start are to be cancelled first and do not end. {complaint}"
                )
            self._patience.pause(_ENDING_POLL_S)

    def _ask_until_answered(self, job_ids: list[str]) -> None:
        deadline = self._patience.deadline()
        while not self._watch.ask(job_ids):
            self._patience.wait(deadline, "squeue does not tell about jobs of an earlier start")


def is_foreign(entry: Entry) -> bool:
    """Whether another user has submitted the job."""
    return entry.user not in ("", user_name())


def _result_of(entry: Entry) -> Path:
    return Path(entry.folder) / f"{entry.job_id}_0_result.pkl"
