"""Signals heard at once, in threads, whatever the main thread does.

Python runs the handler of a signal in the main thread, between two of its instructions.  Where that
one waits for a lock, as Snakemake's does most of the time, and the kernel has given the signal to
another thread, or gives it a moment before the wait begins, the handler has to wait as well: for
ever, if all jobs are held.  And an exception that a handler raises is raised anywhere: Snakemake
drops it where it just prints a line.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping

from snakemake_executor_plugin_submitit.submission import block_sigint

_END = 0  # no signal has this number


class Hearing:
    """Calls ``reactions[signum]()`` for each signal, in a thread of its own, until :meth:`end`.

    To be made in the main thread, the only one that Python lets handle signals.  A reaction may
    take its time and any lock.
    """

    def __init__(self, reactions: Mapping[int, Callable[[], object]]) -> None:
        self._reactions = reactions
        self._received, self._told = os.pipe()
        os.set_blocking(self._told, False)
        # Python's C code writes a signal's number there in whichever thread has got it.
        self._told_before = signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
        self._handlers_before = {
            signum: signal.signal(signum, lambda signum, frame: None) for signum in reactions
        }
        threading.Thread(target=self._hear, name="signals", daemon=True).start()

    def _hear(self) -> None:
        block_sigint()
        while (number := os.read(self._received, 1)[0]) != _END:
            if (reaction := self._reactions.get(number)) is not None:
                threading.Thread(target=reaction, daemon=True).start()
        os.close(self._received)

    def end(self) -> None:
        """Gives the signals back to those who handled them before; in the main thread as well.

        Once: Snakemake shuts its executor down again where it cannot print that it has done so.
        """
        if not self._handlers_before:
            return
        while self._handlers_before:
            signal.signal(*self._handlers_before.popitem())
        signal.set_wakeup_fd(self._told_before)
        os.write(self._told, bytes([_END]))
        os.close(self._told)
