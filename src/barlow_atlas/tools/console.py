"""What is said of studies that run: a line a job, and how far all is: on a terminal in a table that
stays below, else in a line a minute.
"""

import contextlib
import json
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import rich.console
from rich.live import Live as LiveTable
from rich.progress_bar import ProgressBar
from rich.table import Table

from barlow_atlas.errors import AtlasError
from barlow_atlas.report.text import duration
from barlow_atlas.study.file import find_studies, load_study, study_file
from barlow_atlas.study.models import ForeignRun, Run, Study
from barlow_atlas.study.paths import PARAMS, RESULTS, of_run, probe_file, probed_milestone
from barlow_atlas.tools.watch.live import Live

SECONDS_BETWEEN_LINES = 60.0
SECONDS_BETWEEN_TABLES = 2.0
ROWS = 16
"""Runs that a table on a terminal has room for; of more, those that are being worked on."""


@dataclass(frozen=True)
class Row:
    """How far a run is."""

    run: str
    done: int
    total: int
    """Milestones probed, and in all."""
    epoch: int | None = None
    """The last milestone probed."""
    top1: float | None = None
    """Its test accuracy in percent, by the study's last probe."""
    loss: float | None = None
    """Mean of the last epoch that is stored."""


class Console:
    """Follows studies and says how far they are, until it is closed.

    Args:
        stream: where it says so.
    """

    def __init__(self, stream: TextIO) -> None:
        self._rich = rich.console.Console(file=stream, highlight=False, soft_wrap=True)
        self._studies: dict[str, Live] = {}
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._table: LiveTable | None = None

    def follow(self, study: str) -> None:
        """From now on a study's progress is told."""
        if study not in self._studies:
            with contextlib.suppress(AtlasError):
                self._studies[study] = Live(study, load_study(study_file(PARAMS, study)))
        if self._thread is None and self._studies:
            self._thread = threading.Thread(target=self._tell, daemon=True)
            self._thread.start()

    def say(self, text: str) -> None:
        """A message, above the table if there is one."""
        self._rich.print(text, markup=False)

    def done(self, message: str) -> None:
        """A job is done: a line of its own."""
        if message:
            self.say(f"{time.strftime('%H:%M:%S')}  done: {message}")

    def close(self) -> None:
        """Ends the table, until a study is followed again; what was said stays.

        Who configures logging closes all handlers, as submitit does when it is imported.
        """
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        self._thread, self._closed = None, threading.Event()

    def _tell(self) -> None:
        if not self._rich.is_terminal:
            closed = self._closed
            while not closed.wait(SECONDS_BETWEEN_LINES):
                for live in tuple(self._studies.values()):
                    self.say(f"{time.strftime('%H:%M:%S')}  {in_a_line(live.status())}")
            return
        with LiveTable(console=self._rich, transient=True, auto_refresh=False) as table:
            wait, closed = 0.0, self._closed
            while not closed.wait(wait):
                begin = time.monotonic()
                tables = [as_table(live) for live in tuple(self._studies.values())]
                table.update(rich.console.Group(*tables), refresh=True)
                # Where many files make looking slow, it is done less often.
                wait = max(SECONDS_BETWEEN_TABLES, 10 * (time.monotonic() - begin))


def in_a_line(status: Mapping[str, Any]) -> str:
    """A study's status, as `Live.status` gives it.

    Such as "demo: 28 of 77 jobs done, 2 running, about 3 min left: Training ...".
    """
    parts = [f"{status['study']}: {status['done']} of {status['total']} jobs done"]
    parts += [f"{status[what]} {what}" for what in ("running", "failed") if status[what]]
    if status["seconds_left"] is not None:
        parts.append(f"about {_about(status['seconds_left'])} left")
    now = ""
    if status["running_now"]:
        losses = status["losses_now"][0]
        now = f": {status['running_now'][0]}" + (f" (loss {losses[-1]:.4g})" if losses else "")
    return ", ".join(parts) + now


def _about(seconds: float) -> str:
    """A time that is estimated, in no more digits than are known of it."""
    return duration(float(f"{seconds:.1g}" if seconds < 120 else 60 * max(2, round(seconds / 60))))


def as_table(live: Live) -> Table:
    """A study's status on a terminal: a bar for each run, and below it what the line says."""
    status = live.status()
    rows = list(progress(live.name, live.study, live.study.runs(), live.pending()))
    if len(rows) > ROWS:
        said = " ".join(status["running_now"])
        rows = [row for row in rows if row.run in said][:ROWS]
    grid = Table.grid(padding=(0, 2))
    for row in rows:
        grid.add_row(row.run, ProgressBar(row.total, row.done, width=24), *cells(row))
    below = Table.grid()
    below.add_row(grid)
    below.add_row(in_a_line(status))
    return below


def started() -> list[str]:
    """Studies of which something is here, results that git holds among them."""
    folders = (RESULTS / name for name in find_studies(PARAMS))
    return [
        folder.relative_to(RESULTS).as_posix()
        for folder in folders
        if any((folder / kind).is_dir() for kind in ("runs", "checkpoints"))
    ]


def describe(name: str, study: Study) -> Iterable[str]:
    """How far a study is: in a line, by unfinished run, and what failed jobs said."""
    live = Live(name, study)
    status, pending = live.status(), live.pending()
    yield in_a_line(status)
    if absent := without_weights(name, study, pending):
        makers = " ".join(filter(None, (study.milestones_from, name)))
        yield (
            f"  of {absent} recorded milestones the weights are not here: `dvc pull "
            f"{RESULTS / name / 'checkpoints'}` brings them where they were shared, "
            f"`atlas run {makers}` makes them"
        )
    for row in progress(name, study, study.runs(), pending):
        if row.done < row.total:
            told = ", ".join(filter(None, cells(row)))
            yield f"  {row.run}: {row.done} of {row.total} milestones" + (told and f", {told}")
    for failed in status["failed_now"]:
        yield f"  failed: {failed['name']}"
        yield from (f"    {line}" for line in failed["said"])
        yield f"    to try again: {failed['command']}"


def without_weights(name: str, study: Study, pending: AbstractSet[Path]) -> int:
    """The number of milestones that are probed, such as by records in git, and lie elsewhere."""
    return sum(
        probe_file(name, run, epoch) not in pending
        and not probed_milestone(name, run, epoch).with_suffix(".safetensors").is_file()
        for run in study.runs()
        for epoch in study.milestones_of(run)
    )


def cells(row: Row) -> tuple[str, str, str]:
    """What is known of a run: its last probed epoch, accuracy and loss."""
    return (
        "" if row.epoch is None else f"epoch {row.epoch}",
        "" if row.top1 is None else f"{row.top1:.1f} %",
        "" if row.loss is None else f"loss {row.loss:.4g}",
    )


def progress(
    name: str, study: Study, runs: Sequence[Run | ForeignRun], pending: Iterable[Path]
) -> Iterable[Row]:
    """How far runs are.

    Args:
        pending: files of the jobs that are still to run.
    """
    waiting = set(pending)
    for run in runs:
        files = {epoch: probe_file(name, run, epoch) for epoch in study.milestones_of(run)}
        epochs = [epoch for epoch, file in files.items() if file not in waiting and file.is_file()]
        done = sum(file not in waiting for file in files.values())
        last = epochs[-1] if epochs else None
        top1 = None if last is None else _top1(files[last])
        yield Row(run.name, done, len(files), last, top1, _loss(name, run.name))


def _top1(file: Path) -> float | None:
    """Of the last probe in a file that tells an accuracy on test images."""
    with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
        results = json.loads(file.read_bytes())["results"]
        tested = [one for one in results if one["split"] == "test" and "top1" in one]
        return float(tested[-1]["top1"])
    return None


def _loss(name: str, run: str) -> float | None:
    """Of the last epoch whose metrics are stored."""
    with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
        last = sorted(of_run("training", name, run).glob("*.jsonl"))[-1]
        return float(json.loads(last.read_text().splitlines()[-1])["loss"])
    return None
