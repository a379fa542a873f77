"""What Slurm says about jobs: one question for all of them, at a bounded rate, in a thread.

squeue is asked first.  It is right about living jobs: accounting may call a job ended that is being
requeued, or running long after its end was lost.  sacct is asked about those jobs that squeue does
not call alive, which it forgets after minutes.  A cluster without accounting has squeue only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from snakemake_executor_plugin_submitit.call import call, user_name
from snakemake_executor_plugin_submitit.states import ENDED, INTERRUPTED, LOST, WAITING

# Seconds after which an ended job without a result is believed to have none.  The result of a
# successful one may take a while to appear through a shared file system, and Slurm may take a while
# to requeue an interrupted one.
_SETTLE_S = 5.0
_SETTLE_COMPLETED_S = 60.0
_SETTLE_INTERRUPTED_S = 30.0
# Least seconds between two questions when the reason of a failure is waited for.
_URGENT_S = 4.0
_ANSWER_WITHIN_S = 60.0


@dataclass(frozen=True)
class Seen:
    """A job's state in Slurm's words, and the nodes it has or had (as Slurm lists them).

    ``reason``: why it waits, if it does.
    """

    state: str
    nodes: str = ""
    reason: str = ""


def parse_sacct(text: str) -> dict[str, Seen]:
    """By job id, from ``sacct --parsable2 --noheader --format=JobID,State,NodeList``.

    A job is called OUT_OF_MEMORY if one of its steps was: Slurm itself says FAILED then.
    """
    jobs: dict[str, Seen] = {}
    oom: set[str] = set()
    for line in text.splitlines():
        identifier, _, rest = line.partition("|")
        state, _, nodes = rest.partition("|")
        job_id, is_step, _ = identifier.partition(".")
        word = _state_word(state)
        if word == "OUT_OF_MEMORY":
            oom.add(job_id)
        if not is_step and word:
            jobs[job_id] = Seen(word, _node_list(nodes))
    return {
        job_id: Seen("OUT_OF_MEMORY", seen.nodes) if job_id in oom and seen.state in ENDED else seen
        for job_id, seen in jobs.items()
    }


def parse_squeue(text: str) -> dict[str, Seen]:
    """By job id, from ``squeue --array --noheader --format=%i|%T|%N|%r``."""
    parts = (line.split("|", 3) for line in text.splitlines() if line.count("|") > 2)
    return {
        job_id: Seen(_state_word(state), _node_list(nodes), reason.strip().replace("_", " "))
        for job_id, state, nodes, reason in parts
    }


def _state_word(text: str) -> str:
    """ "CANCELLED by 1000" and "OUT_OF_ME+" as one plain word."""
    word = (text.split() or [""])[0].rstrip("+")
    return "OUT_OF_MEMORY" if word.startswith("OUT_OF_ME") else word


def _node_list(text: str) -> str:
    return "" if text.strip() in ("None assigned", "(null)") else text.strip()


@dataclass
class _Known:
    """Times are of ``time.monotonic()``, at the answers of Slurm."""

    seen: Seen | None = None
    ended_at: float | None = None
    unknown_at: float | None = None  # of the first of the answers that did not know the job
    unknown_until: float = 0.0  # and of the last
    same_since: float = 0.0  # of the first of the answers that told what the last one did
    same_until: float = 0.0  # and of the last


class StateWatch:
    """The states of all jobs of a workflow.

    ``interval_s`` is the least number of seconds between two questions, ``lost_after_s`` for how
    long Slurm must not know a job before it counts as lost.  ``warn`` is told when Slurm stops
    answering; nothing is concluded from silence.
    """

    def __init__(self, interval_s: float, lost_after_s: float, warn: Callable[[str], None]) -> None:
        self.users = {user_name()}  # whose jobs are asked about
        self._interval_s = interval_s
        self._lost_after_s = lost_after_s
        self._warn = warn
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()
        self._asking = False
        self._asked_at = time.monotonic()
        self._urgent = False
        self._silent = False
        self._accounting = True

    def refresh(self, job_ids: Sequence[str]) -> None:
        """Asks about ``job_ids`` in a thread of its own, if it is time to.  Returns at once."""
        with self._lock:
            since = time.monotonic() - self._asked_at
            due = since >= (min(_URGENT_S, self._interval_s) if self._urgent else self._interval_s)
            if not job_ids or self._asking or not due:
                return
            self._asking = True
            self._urgent = False
        threading.Thread(target=self._refresh, args=(list(job_ids),), daemon=True).start()

    def hurry(self) -> None:
        """Makes the next question come within seconds."""
        with self._lock:
            self._urgent = True

    def ask(self, job_ids: Sequence[str]) -> bool:
        """Asks about ``job_ids`` now; False if squeue did not answer."""
        queued = self._query_squeue()
        if queued is None:
            return False
        alive = {job_id for job_id, seen in queued.items() if seen.state not in ENDED}
        accounted = self._query_sacct([i for i in job_ids if i not in alive])
        with self._lock:
            self._note(job_ids, queued, accounted)
        return True

    def state(self, job_id: str) -> str | None:
        """The last state heard, in Slurm's words; None if the last answer did not know the job."""
        with self._lock:
            known = self._known.get(job_id, _Known())
            return None if known.seen is None or known.unknown_at else known.seen.state

    def waiting(self, job_id: str) -> tuple[str, float] | None:
        """The reason for which the job waits to be started, and the seconds that Slurm has told it.

        None if the job does not wait, as far as is known.
        """
        with self._lock:
            known = self._known.get(job_id, _Known())
            if known.seen is None or known.unknown_at or known.seen.state not in WAITING:
                return None
            return known.seen.reason, known.same_until - known.same_since

    def ended(self, job_id: str) -> Seen | None:
        """How the job ended, if it will not leave a result any more; None while it may."""
        now = time.monotonic()
        with self._lock:
            known = self._known.get(job_id, _Known())
            if known.unknown_at is not None:
                lost = known.unknown_until - known.unknown_at > self._lost_after_s
                return Seen(LOST) if lost else None
            if known.seen is None or known.ended_at is None:
                return None
            settled = now - known.ended_at > _settle_s(known.seen.state)
            return known.seen if settled else None

    def _refresh(self, job_ids: list[str]) -> None:
        try:
            self.ask(job_ids)
        finally:
            with self._lock:
                self._asking = False
                self._asked_at = time.monotonic()

    def _note(
        self, job_ids: Iterable[str], queued: Mapping[str, Seen], accounted: Mapping[str, Seen]
    ) -> None:
        now = time.monotonic()
        for job_id in job_ids:
            known = self._known.setdefault(job_id, _Known())
            seen = queued.get(job_id)
            if seen is None or seen.state in ENDED:
                told = accounted.get(job_id)
                # sacct knows more about an end (whether a step was out of memory), but what it
                # calls alive and no queue has is not.
                seen = told if told is not None and told.state in ENDED else seen
            if seen is None and known.ended_at is not None:
                continue  # Slurm forgets what has ended; as it ended it stays
            if seen is None:
                known.unknown_at = known.unknown_at or now
                known.unknown_until = now
                continue
            known.same_since = known.same_since if seen == known.seen else now
            known.same_until = now
            known.seen = seen
            known.unknown_at = None
            if seen.state not in ENDED:
                known.ended_at = None
            elif known.ended_at is None:
                known.ended_at = now

    def _query_sacct(self, job_ids: list[str]) -> dict[str, Seen]:
        if not self._accounting or not job_ids:
            return {}
        # All tasks of an array in one word.
        words = sorted({job_id.partition("_")[0] for job_id in job_ids})
        command = ["sacct", "--parsable2", "--noheader", "--format=JobID,State,NodeList"]
        command.append("--allusers")
        answer = call([*command, f"--jobs={','.join(words)}"], _ANSWER_WITHIN_S)
        if answer.stdout is None and "disabled" in answer.complaint:
            self._accounting = False  # "Slurm accounting storage is disabled": for good
        return parse_sacct(answer.stdout or "")

    def _query_squeue(self) -> dict[str, Seen] | None:
        """None if squeue does not answer."""
        answer = call(
            [
                *("squeue", f"--user={','.join(sorted(self.users))}", "--states=all"),
                *("--array", "--noheader", "--format=%i|%T|%N|%r"),
            ],
            _ANSWER_WITHIN_S,
        )
        silent = answer.stdout is None
        if silent and not self._silent:
            self._warn(
                f"Slurm does not answer: {answer.complaint}\nJobs go on; their results are "
                "still noticed, their states are not until Slurm answers again."
            )
        self._silent = silent
        return None if answer.stdout is None else parse_squeue(answer.stdout)


def _settle_s(state: str) -> float:
    if state in INTERRUPTED:
        return _SETTLE_INTERRUPTED_S
    return _SETTLE_COMPLETED_S if state == "COMPLETED" else _SETTLE_S
