"""What a step tells whoever watches: a live line on a terminal, JSON lines in a log."""

import json
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from barlow_atlas.nn.processes import leads
from barlow_atlas.training.loop import Progress as Step
from barlow_atlas.training.segment import Monitor, Segment

SECONDS_BETWEEN_LINES = 10.0


def log(**fields: Any) -> None:
    """One JSON line on standard output, with the time in front."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    print(json.dumps({"time": stamp, **fields}), flush=True)


class StopSignals:
    """While active, SIGTERM and SIGUSR2 are remembered instead of ending the process.

    Slurm sends the first at pre-emption; the second comes before the time limit.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR2)

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.signal(number, self._remember) for number in self.SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)


class Board:
    """Shows how segments proceed: losses, learning rate, images per second, time left.

    Of several processes the leading one shows it.
    """

    def __init__(self, segments: Sequence[Segment], signals: StopSignals) -> None:
        self.terminal = sys.stdout.isatty()
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            TimeRemainingColumn(compact=True),
            # Last, and cut off where the terminal is narrow.
            TextColumn("{task.fields[numbers]}", table_column=Column(ratio=1, no_wrap=True)),
            console=Console(),
            disable=not (self.terminal and leads()),
            expand=True,
        )
        self.monitors = [SegmentMonitor(segment, signals, self) for segment in segments]

    def __enter__(self) -> "Board":
        self.bars.start()
        if self.terminal:
            for monitor in self.monitors:
                self.say(f"{monitor.segment.run.name} to epoch {monitor.segment.until}")
        return self

    def __exit__(self, *details: object) -> None:
        self.bars.stop()

    def say(self, line: str) -> None:
        """A line about all of them."""
        for monitor in self.monitors[:1] if self.terminal else self.monitors:
            monitor.say(line)


class SegmentMonitor(Monitor):
    """One segment's line on the board."""

    def __init__(self, segment: Segment, signals: StopSignals, board: Board) -> None:
        self.segment = segment
        self.signals = signals
        self.board = board
        self.started: tuple[float, int] | None = None
        self.said = time.monotonic()
        self.task = board.bars.add_task("", numbers="", total=None)

    def say(self, line: str) -> None:
        if not leads():
            return
        if self.board.terminal:
            self.board.bars.console.print(line)
        else:
            log(run=self.segment.run.name, message=line)

    def stop_requested(self) -> bool:
        return self.signals.received is not None

    def step(self, progress: Step) -> None:
        if not leads():
            return
        done = progress.epoch * progress.steps_per_epoch + progress.step + 1
        total = self.segment.end * progress.steps_per_epoch
        now = time.monotonic()
        if self.started is None:
            self.started = now, done
        last = done == total
        if now - self.said < (0.5 if self.board.terminal else SECONDS_BETWEEN_LINES) and not last:
            return
        self.said = now
        since, first = self.started
        steps_per_second = (done - first) / (now - since) if now > since else 0.0
        speed = steps_per_second * progress.batch_size
        left = (total - done) / steps_per_second if steps_per_second else None
        terms = {name: value.item() for name, value in progress.terms.items()}
        if self.board.terminal:
            numbers = " ".join(f"{name} {value:.4g}" for name, value in terms.items())
            if progress.waiting is not None:
                numbers = f"waits for images {progress.waiting:.0%} {numbers}"
            self.board.bars.update(
                self.task,
                completed=done,
                total=total,
                description=f"epoch {progress.epoch + 1}/{self.segment.end}",
                numbers=f"{speed:,.0f} images/s lr {progress.learning_rate:.1e} {numbers}",
            )
            return
        log(
            run=self.segment.run.name,
            epoch=progress.epoch + 1,
            step=progress.step + 1,
            of=progress.steps_per_epoch,
            **{name: round(value, 6) for name, value in terms.items()},
            learning_rate=progress.learning_rate,
            images_per_second=round(speed, 1),
            seconds_left=None if left is None else round(left, 1),
            **({} if progress.waiting is None else {"waiting_share": round(progress.waiting, 3)}),
        )
