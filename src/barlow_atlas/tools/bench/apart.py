"""A contestant in a process of its own, which computes only when it is asked."""

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from barlow_atlas.tools.bench.records import BenchError


class Apart:
    """An object in a spawned process, whose methods are called over a pipe.

    What this process sets for itself (devices.py) and keeps in memory does not reach it; the cores
    that this process is confined to do. With the workers it starts it is a process group, which is
    stopped except while it answers, so that work done ahead is neither a gift to it nor a burden on
    others, and killed at the end. Ctrl-C on a terminal reaches only this process.
    """

    def __init__(self, make: Callable[[], object]) -> None:
        spawned = multiprocessing.get_context("spawn")
        self._pipe, self._theirs = spawned.Pipe()
        # For what its workers leave behind when they are killed.
        self._folder = tempfile.TemporaryDirectory()
        arguments = (self._theirs, self._folder.name, make)
        # Not a daemon: those may have no workers.
        self._process = spawned.Process(target=_serve, args=arguments, daemon=False)

    def __enter__(self) -> Self:
        self._process.start()
        self._theirs.close()
        return self

    def call(self, method: str, *arguments: object) -> Any:
        """What the object's method returns.

        Raises:
            BenchError: the process has ended, most likely by an error, which it has printed.
        """
        try:
            self._pipe.send((method, arguments))
            self._signal(signal.SIGCONT)
            # Its workers have inherited its end of the pipe, which therefore need not close.
            while not self._pipe.poll(1):
                if not self._process.is_alive():
                    raise EOFError
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            raise BenchError(
                f"the contestant's process ended with status {self._process.exitcode} instead of "
                f"answering `{method}`: its error is above; -9 without one is a lack of memory"
            ) from error
        self._signal(signal.SIGSTOP)
        return answer

    def processor_seconds(self) -> float:
        """What the processes of its group have used since their start."""
        ticks = 0
        for file in Path("/proc").glob("[0-9]*/stat"):
            with suppress(FileNotFoundError, ProcessLookupError):
                # After the program's name in brackets: state, parent, group, ...
                told = file.read_text().rpartition(")")[2].split()
                if int(told[2]) == self._process.pid:
                    ticks += int(told[11]) + int(told[12])  # user's and system's
        return ticks / os.sysconf("SC_CLK_TCK")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._signal(signal.SIGKILL)
        self._process.kill()  # if it ends before it has a group
        self._process.join()
        self._pipe.close()
        self._folder.cleanup()

    def _signal(self, number: signal.Signals) -> None:
        """To the process and its workers."""
        assert self._process.pid is not None  # it has been started
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def _serve(pipe: Connection, folder: str, make: Callable[[], object]) -> None:
    """Answers until the other end is closed; temporary files go into the folder."""
    os.setpgid(0, 0)
    tempfile.tempdir = folder
    # A spawned process would spawn its workers, too: they start as in any program.
    multiprocessing.set_start_method(None, force=True)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    contestant = make()
    with suppress(EOFError):
        while True:
            method, arguments = pipe.recv()
            pipe.send(getattr(contestant, method)(*arguments))
