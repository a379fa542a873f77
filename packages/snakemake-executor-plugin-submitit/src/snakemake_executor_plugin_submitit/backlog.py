"""Jobs that the cluster does not take yet, because a limit of submitted jobs is reached.

Limits hold for an account, a QOS or a partition, so each combination of them waits in a line of its
own.  How many jobs there is room for nobody tells: a line finds out, by halving what was refused,
doubling what was taken, and trying again when jobs of this workflow have ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from snakemake_executor_plugin_submitit.call import ARRAY_TOO_LONG
from snakemake_executor_plugin_submitit.resources import Request
from snakemake_executor_plugin_submitit.submission import Submission

# Seconds between two tries while no job of this workflow ends: others make room as well.
TRY_AGAIN_S = 30.0


@dataclass
class _Line:
    waiting: list[Submission] = field(default_factory=list)
    trying: set[Submission] = field(default_factory=set)
    room: int = 1
    try_at: float = 0.0  # of time.monotonic()


class Backlog:
    """``warn`` is told of each limit once."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._lines: dict[tuple[str | None, ...], _Line] = {}
        self._told: set[str] = set()

    def keep(self, submissions: list[Submission]) -> list[Submission]:
        """Puts those whose line is waiting at its end; returns the others."""
        others = []
        for submission in submissions:
            line = self._lines.get(_limited_by(submission.request))
            if line is None:
                others.append(submission)
            else:
                line.waiting.append(submission)
        return others

    def refused(self, batch: list[Submission], limit: str) -> None:
        """The cluster did not take ``batch``, all of one line, because of ``limit``."""
        key = _limited_by(batch[0].request)
        line = self._lines.setdefault(key, _Line())
        line.trying.difference_update(batch)
        line.waiting[:0] = batch
        line.room = max(1, len(batch) // 2)
        line.try_at = time.monotonic() + (0 if len(batch) > 1 else TRY_AGAIN_S)
        if limit not in self._told and limit != ARRAY_TOO_LONG:
            self._told.add(limit)
            self._warn(
                f"Slurm takes no more jobs just now ({limit}): {len(line.waiting)} jobs are kept "
                "here and submitted as jobs end."
            )

    def settled(self, submission: Submission) -> None:
        """The cluster took the job, or refused it for good."""
        for key, line in list(self._lines.items()):
            if submission in line.trying:
                line.trying.remove(submission)
                if not line.trying:
                    line.room *= 2
                    line.try_at = 0.0
            if not line.trying and not line.waiting:
                del self._lines[key]

    def ended(self, request: Request) -> None:
        """A job has ended, which makes room for another one."""
        for key, line in self._lines.items():
            if key == _limited_by(request):
                line.try_at = 0.0

    def due(self) -> list[Submission]:
        """Jobs to be tried now; :meth:`refused` or :meth:`settled` is to be called for each."""
        found = []
        for line in self._lines.values():
            if line.trying or time.monotonic() < line.try_at:
                continue
            batch, line.waiting = line.waiting[: line.room], line.waiting[line.room :]
            line.trying.update(batch)
            found += batch
        return found

    def give_back(self) -> list[Submission]:
        """All jobs that wait here, which are forgotten."""
        waiting = [submission for line in self._lines.values() for submission in line.waiting]
        for line in self._lines.values():
            line.waiting = []
        return waiting


def _limited_by(request: Request) -> tuple[str | None, ...]:
    return (request.account, request.qos, request.partition)
