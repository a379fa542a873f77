"""One process at a time: who holds a folder, such as a run's own, and whether it still lives.

The holder is a file `holder_<n>.json`, created exclusively, which shared file systems do rightly
where they may not do flock. Whoever finds a dead holder creates number n + 1: of several that find
it, one succeeds. The number is the fence: a trainer that was taken for dead finds the higher one
before it stores anything, and stops.

Whether a holder lives is known at once for a process of this machine, and for an earlier start of
this Slurm job. Any other must give a sign of life within a lease: it touches its file, and whoever
asks watches the file change. Clocks of two machines are never compared.
"""

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from pydantic import ValidationError

from barlow_atlas.errors import AtlasError
from barlow_atlas.settings.frozen import Frozen

HEARTBEAT = 10.0
"""Seconds between two signs of life."""
LEASE = 60.0
"""Seconds of silence after which a holder of unknown fate is dead; several heartbeats may fail."""
POLL = 1.0


class LockError(AtlasError):
    """A folder that another process holds, or holds by now; the message says who."""


class Holder(Frozen):
    """Who holds a folder, as the file says."""

    token: str
    host: str
    machine: str
    process: int
    process_start: str | None
    slurm_job: str | None
    slurm_restarts: int
    since: str

    def __str__(self) -> str:
        job = f" (Slurm job {self.slurm_job})" if self.slurm_job else ""
        return f"process {self.process} on {self.host}{job} since {self.since}"


class HeldError(LockError):
    """A folder that another process holds now.

    Attributes:
        holder: who holds it, for a message.
    """

    def __init__(self, folder: Path, holder: str) -> None:
        super().__init__(
            f"another trainer holds {folder}: {holder}. Two never share a run: wait for that one "
            "or stop it, then start the same command again"
        )
        self.holder = holder


def this_process() -> Holder:
    """The holder that this process would be."""
    job = os.environ.get("SLURM_JOB_ID")
    cluster = os.environ.get("SLURM_CLUSTER_NAME")
    return Holder(
        token=uuid.uuid4().hex,
        host=socket.gethostname(),
        machine=_machine(),
        process=os.getpid(),
        process_start=_process_start(os.getpid()),
        slurm_job=f"{job} of {cluster}" if job and cluster else job,
        slurm_restarts=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        since=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    )


def _machine() -> str:
    """What process numbers are unique within: a boot of a machine, and a container on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _process_start(process: int) -> str | None:
    """When the process started, in the kernel's ticks; None where that is not to be seen."""
    try:
        # After the name in parentheses, which may hold anything: state (3rd), start (22nd field).
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "ended" if fields[0] in "ZX" else fields[19]


def lives(holder: Holder, asking: Holder) -> bool | None:
    """Whether the holder still trains; None if only its signs of life can tell."""
    same_job = holder.slurm_job is not None and holder.slurm_job == asking.slurm_job
    if same_job and holder.slurm_restarts < asking.slurm_restarts:
        return False  # Slurm starts a job again when it has ended
    if holder.machine != asking.machine:
        return None
    try:
        os.kill(holder.process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    start = _process_start(holder.process)
    # A number is given again after a while: only the start tells the process.
    return None if start is None else start == holder.process_start


class RunLock:
    """Holds a folder against other processes while it is entered.

    Args:
        say: is told of a holder that was found dead.
        pause: waits for a number of seconds, and may raise to give up waiting.
    """

    def __init__(
        self,
        folder: Path,
        say: Callable[[str], None],
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.folder = folder
        self._say = say
        self._pause = pause
        self._me = this_process()
        self._ended = threading.Event()

    def __enter__(self) -> "RunLock":
        """Raises HeldError if another holds the folder, LockError if the folder takes no files."""
        try:
            self.path = self._acquire()
        except OSError as error:
            raise LockError(
                f"cannot write into {self.folder}, where this run keeps its private states: "
                f"{error.strerror}. Make it a writable folder with room, then start the same "
                "command again"
            ) from error
        threading.Thread(target=self._live, args=(self.path,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):
            if self._is_mine(self.path):
                self.path.unlink()

    def check(self) -> None:
        """Raises LockError if this process holds the folder no longer: it must store nothing."""
        newest = self._newest()
        if newest is None:
            raise LockError(
                f"{self.path} was removed while this run was trained, and what else was in its "
                "folder perhaps too; nothing more is stored. Start the same command again: it goes "
                "on from what is left"
            )
        if not self._is_mine(newest):
            raise LockError(
                f"{self.folder} was taken over by {_read(newest) or 'another trainer'}, which "
                f"heard nothing of this one for {LEASE:.0f} s; this one stops and stores nothing"
            )

    def _acquire(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        while True:
            newest = self._newest()
            if newest is not None:
                self._must_be_dead(newest)
            number = 1 + (int(newest.stem.partition("_")[2]) if newest else 0)
            mine = self.folder / f"holder_{number:06d}.json"
            try:
                _create(mine, self._me)
            except FileExistsError:
                continue  # another was faster: ask again
            for old in self._holders()[:-1]:
                old.unlink(missing_ok=True)
            return mine

    def _holders(self) -> list[Path]:
        return sorted(self.folder.glob("holder_*.json"))

    def _newest(self) -> Path | None:
        return next(reversed(self._holders()), None)

    def _is_mine(self, path: Path) -> bool:
        holder = _read(path)
        return holder is not None and holder.token == self._me.token

    def _must_be_dead(self, path: Path) -> None:
        """Raises LockError unless the holder is dead or leaves."""
        holder = _read(path)
        if holder is None and path.exists():
            self._pause(POLL)  # it is just being written, or its writer was killed
            holder = _read(path)
        if not path.exists():
            return
        alive = lives(holder, self._me) if holder else None
        if alive is None:
            alive = self._hears(path)
        name = holder or "a process that did not come to say who it is"
        if alive:
            raise HeldError(self.folder, str(name))
        self._say(f"{self.folder} was held by {name}, which is dead: taken over")

    def _hears(self, path: Path) -> bool:
        """Whether the holder gives a sign of life; what was silent long enough is not awaited."""
        first = _last_sign(path)
        silence = _now_in(self.folder) - first if first is not None else LEASE
        # A sign from the future tells nothing: the clock was set, or the file touched.
        left = LEASE - max(silence, 0.0)
        while left > 0:
            self._pause(POLL)
            left -= POLL
            sign = _last_sign(path)
            if sign is None:
                return False
            if sign != first:
                return True
        return False

    def _live(self, path: Path) -> None:
        while not self._ended.wait(HEARTBEAT):
            # A folder that is gone or full is noticed where something is stored: see check.
            with contextlib.suppress(OSError):
                os.utime(path)


def _create(path: Path, holder: Holder) -> None:
    """Makes the holder's file, or raises FileExistsError; leaves none that is not whole."""
    try:
        with path.open("x") as file:
            file.write(holder.model_dump_json(indent=1) + "\n")
    except FileExistsError:
        raise
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _read(path: Path) -> Holder | None:
    """The holder in the file; None if it is gone, not yet written or not to be read."""
    try:
        return Holder.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _last_sign(path: Path) -> float | None:
    """Time of the last sign of life, by the clock of the file system; None if the file is gone."""
    try:
        with path.open("rb") as file:  # opening asks a file server anew, looking alone may not
            return os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None


def _now_in(folder: Path) -> float:
    """The time by the clock that gives files in the folder their times."""
    probe = folder / f".clock.{uuid.uuid4().hex}.tmp"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
