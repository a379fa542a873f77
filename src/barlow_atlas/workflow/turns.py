"""What one process at a time works on in a clone: a study, the images of a data set, the ledger.

So several studies run beside each other in one clone, however they were started. Snakemake's own
lock is not used (`nolock` in profiles/default): the run that ends first deletes those of all
others, and that of a run that was killed stays and has to be taken away by hand.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from barlow_atlas.atomic import write_atomically
from barlow_atlas.errors import AtlasError
from barlow_atlas.store.lock import HeldError, RunLock
from barlow_atlas.study.paths import LOCKS

POLL = 1.0
"""Seconds between two looks at whether a turn has come."""

Say = Callable[[str], None]


class RunningError(AtlasError):
    """A study that another process works on."""


def hold_study(name: str, held: contextlib.ExitStack, say: Say) -> None:
    """Keeps a study from other processes until `held` is closed.

    Args:
        say: is told of an earlier process that has died.

    Raises:
        RunningError: another process works on it.
        LockError: the folder of locks cannot be written.
    """
    try:
        held.enter_context(RunLock(LOCKS / "studies" / name, say))
    except HeldError as error:
        raise RunningError(
            f"{name} is being worked on by {error.holder}. Wait for it (`atlas status {name}` says "
            "how far it is) or stop it, then start the same command again. Other studies can run "
            "beside it"
        ) from error


def wanted_file(name: str) -> Path:
    """What a Snakemake that runs a study was started to make, a path a line, while it runs."""
    return LOCKS / "studies" / name / "wanted"


def tell_wanted(name: str, files: Iterable[str], held: contextlib.ExitStack) -> None:
    """Tells others what is to be made of a study that is held, until `held` is closed."""
    told = wanted_file(name)
    write_atomically(told, "".join(f"{file}\n" for file in files).encode())
    held.callback(told.unlink, missing_ok=True)


@contextlib.contextmanager
def in_turn(what: str, say: Say) -> Iterator[bool]:
    """Holds what all studies share, once whoever else holds it has left it.

    Args:
        what: such as `ledger`.
        say: is told for whom it waits.

    Yields:
        Whether it had to wait.

    Raises:
        LockError: the folder of locks cannot be written.
    """
    waited = False
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(RunLock(LOCKS / what, say))
                break
            except HeldError as error:
                if not waited:
                    say(f"waiting for {what}, which {error.holder} works on")
                waited = True
                time.sleep(POLL)
        yield waited


def once(what: str, facts: str, made: Path, say: Say, make: Callable[[], None]) -> None:
    """Makes what several studies need, unless another process makes the same right now.

    Args:
        what: its name among the locks.
        facts: all that decides it.
        made: a file that is there when it is made.
        say: is told for whom it waits.
        make: makes it; raises what it likes.

    Raises:
        LockError: the folder of locks cannot be written.
    """
    note = LOCKS / what / "made.json"
    with in_turn(what, say) as waited:
        if waited and made.is_file() and note.is_file() and note.read_text() == facts:
            say(f"{made} was made meanwhile, of the same facts")
            return
        note.unlink(missing_ok=True)
        make()
        write_atomically(note, facts.encode())
