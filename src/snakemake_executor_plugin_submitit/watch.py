"""What Slurm says about jobs: one question for all of them, at a bounded rate, in a thread.

squeue and sacct are asked together.  squeue is right about living jobs: accounting may call a job
ended that is being requeued, or running long after its end was lost.  sacct knows the jobs that
squeue has forgotten.  A cluster without accounting has squeue only, which forgets after minutes.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

# Slurm's job states in which a job will not run again.  Any other state, also one of a later
# Slurm, means that the job lives: PREEMPTED and NODE_FAIL jobs are requeued where that is allowed,
# and one that is not will be unknown to Slurm at some time.
ENDED = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "LAUNCH_FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "RECONFIG_FAIL",
        "REVOKED",
        "TIMEOUT",
    }
)
# Seconds after which an ended job without a result is believed to have none.  The result of a
# successful one may take a while to appear through a shared file system.
_SETTLE_S = 5.0
_SETTLE_COMPLETED_S = 60.0
# Seconds after which a job that neither sacct nor squeue knows is taken for lost.
_VANISHED_S = 300.0
# Least seconds between two questions when the reason of a failure is waited for.
_URGENT_S = 4.0
_ANSWER_WITHIN_S = 60.0


def parse_sacct(text: str) -> dict[str, str]:
    """States by job id, from ``sacct --parsable2 --noheader --format=JobID,State``.

    A job is called OUT_OF_MEMORY if one of its steps was: Slurm itself says FAILED then.
    """
    states: dict[str, str] = {}
    oom: set[str] = set()
    for line in text.splitlines():
        identifier, _, state = line.partition("|")
        job_id, is_step, _ = identifier.partition(".")
        word = _state_word(state)
        if word == "OUT_OF_MEMORY":
            oom.add(job_id)
        if not is_step and word:
            states[job_id] = word
    return {i: "OUT_OF_MEMORY" if i in oom and s in ENDED else s for i, s in states.items()}


def parse_squeue(text: str) -> dict[str, str]:
    """States by job id, from ``squeue --noheader --format=%i|%T``."""
    pairs = (line.partition("|") for line in text.splitlines())
    return {job_id: _state_word(state) for job_id, _, state in pairs if _state_word(state)}


def _state_word(text: str) -> str:
    """ "CANCELLED by 1000" and "OUT_OF_ME+" as one plain word."""
    word = (text.split() or [""])[0].rstrip("+")
    return "OUT_OF_MEMORY" if word.startswith("OUT_OF_ME") else word


@dataclass
class _Known:
    """Times are of ``time.monotonic()``; they start with the first answer of that kind."""

    state: str | None = None
    ended_at: float | None = None
    unknown_at: float | None = None


class StateWatch:
    """The states of all jobs of a workflow.

    ``interval_s`` is the least number of seconds between two questions.  ``warn`` is told when
    Slurm stops answering.
    """

    def __init__(self, interval_s: float, warn: Callable[[str], None]) -> None:
        self._interval_s = interval_s
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
        threading.Thread(target=self._ask, args=(list(job_ids),), daemon=True).start()

    def hurry(self) -> None:
        """Makes the next question come within seconds."""
        with self._lock:
            self._urgent = True

    def state(self, job_id: str) -> str | None:
        """The last state heard, in Slurm's words."""
        with self._lock:
            return self._known[job_id].state if job_id in self._known else None

    def ended(self, job_id: str) -> str | None:
        """Why the job will not leave a result any more, or None while it may."""
        now = time.monotonic()
        with self._lock:
            known = self._known.get(job_id, _Known())
            if known.ended_at is not None:
                settle = _SETTLE_COMPLETED_S if known.state == "COMPLETED" else _SETTLE_S
                if now - known.ended_at > settle:
                    return f"Slurm ended it with state {known.state} and it left no result"
            if known.unknown_at is not None and now - known.unknown_at > _VANISHED_S:
                return (
                    f"it vanished: neither sacct nor squeue has known it for {_VANISHED_S:.0f} s "
                    f"(last state: {known.state or 'none'}) and it left no result"
                )
        return None

    def _ask(self, job_ids: list[str]) -> None:
        try:
            accounted = self._query_sacct(job_ids)
            queued = self._query_squeue()
            with self._lock:
                self._note(job_ids, accounted, queued)
        finally:
            with self._lock:
                self._asking = False
                self._asked_at = time.monotonic()

    def _note(
        self, job_ids: Iterable[str], accounted: Mapping[str, str], queued: Mapping[str, str] | None
    ) -> None:
        now = time.monotonic()
        for job_id in job_ids:
            known = self._known.setdefault(job_id, _Known())
            state = (queued or {}).get(job_id)
            if state is None:
                state = accounted.get(job_id)
                if queued is not None and state not in ENDED:
                    state = None  # it may be called running, but no queue has it
            if state is None:
                # Without squeue's word a job that sacct does not know may well be alive.
                if queued is not None and known.unknown_at is None:
                    known.unknown_at = now
                continue
            known.state = state
            known.unknown_at = None
            if state not in ENDED:
                known.ended_at = None
            elif known.ended_at is None:
                known.ended_at = now

    def _query_sacct(self, job_ids: list[str]) -> dict[str, str]:
        if not self._accounting:
            return {}
        command = ["sacct", "--parsable2", "--noheader", "--format=JobID,State"]
        answer = _run([*command, f"--jobs={','.join(job_ids)}"])
        if answer.stdout is None and "disabled" in answer.complaint:
            self._accounting = False  # "Slurm accounting storage is disabled": for good
        return parse_sacct(answer.stdout or "")

    def _query_squeue(self) -> dict[str, str] | None:
        """None if squeue does not answer."""
        answer = _run(["squeue", "--me", "--states=all", "--noheader", "--format=%i|%T"])
        silent = answer.stdout is None
        if silent and not self._silent:
            self._warn(
                f"Slurm does not answer: {answer.complaint}\nJobs go on; their results are "
                "still noticed, their states are not until Slurm answers again."
            )
        self._silent = silent
        return None if answer.stdout is None else parse_squeue(answer.stdout)


@dataclass(frozen=True)
class _Answer:
    stdout: str | None  # None: no answer, and `complaint` says why
    complaint: str = ""


def _run(command: list[str]) -> _Answer:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_ANSWER_WITHIN_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return _Answer(None, str(error))
    if done.returncode != 0:
        return _Answer(None, f"{command[0]} ended with {done.returncode}: {done.stderr.strip()}")
    return _Answer(done.stdout)
