"""Which jobs are on their way, on disk, for an outer Snakemake that is killed and started again.

Snakemake's own marker cannot serve: a job overwrites the id in it as soon as it starts.  So each
job submitted to Slurm has one small file here, until its end has been reported.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

# Files up to this size are compared by content, as Snakemake does by default; others by size and
# modification time.
_COMPARED_BY_CONTENT = 1_000_000


@dataclass(frozen=True)
class Identity:
    """What makes a job the same job at another start of the workflow.

    ``outputs`` names it; ``text`` (shell command, parameters, code) and the state of ``inputs``
    tell whether it still is to compute the same.  Resources do not count.
    """

    outputs: tuple[str, ...]
    text: str
    inputs: tuple[str, ...]

    def fingerprint(self) -> str:
        """A digest of all; reads small input files."""
        states = [_state_of_file(path) for path in self.inputs]
        return _digest(json.dumps([self.outputs, self.text, self.inputs, states]))


@dataclass(frozen=True)
class Entry:
    """A job that was submitted and whose end has not been reported."""

    job_id: str
    folder: str  # of its log and its result
    outputs: tuple[str, ...]
    fingerprint: str
    # Empty in entries of earlier versions: who submitted it, and the name of its cluster.
    user: str = ""
    cluster: str = ""


class Ledger:
    """A folder with one JSON file a job, written atomically.

    Only what an earlier Snakemake left is ever read, once, at the start.  Beside it, while
    sbatch is called, the name of the files that the call needs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._in_use: IO[str] | None = None
        self._inherited = list(_read_all(folder))
        self._by_output: dict[str, list[Entry]] = {}
        for entry in self._inherited:
            for output in entry.outputs:
                self._by_output.setdefault(output, []).append(entry)

    def inherited(self, outputs: Sequence[str]) -> list[Entry]:
        """The jobs of an earlier Snakemake that make any of ``outputs``.

        More than one, or one with other outputs, if jobs are grouped in another way by now.
        """
        found = [entry for output in outputs for entry in self._by_output.get(output, ())]
        return list(dict.fromkeys(found))

    def record(self, entry: Entry) -> None:
        """Writes or replaces the entry.  It survives the death of this process and machine."""
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self.file(entry.outputs)
        temporary = file.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("w") as stream:
            json.dump(asdict(entry), stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)  # others that work in this folder must find the job
        temporary.replace(file)

    def forget(self, outputs: Sequence[str]) -> None:
        """Removes the entry of a job whose end has been dealt with, and what overlaps with it."""
        for entry in self.inherited(outputs):
            for output in entry.outputs:
                self._by_output.pop(output, None)
            _remove(self.file(entry.outputs))
        _remove(self.file(outputs))

    @contextlib.contextmanager
    def submitting(self, folder: Path) -> Iterator[str]:
        """A name, unique, for the files that a call of sbatch needs in ``folder``.

        It is on disk until the call is over, so that another start can remove the files.
        """
        unique = uuid.uuid4().hex
        self._folder.mkdir(parents=True, exist_ok=True)
        note = self._folder / f"{unique}.submitting"
        note.write_text(str(folder))
        try:
            yield unique
        finally:
            note.unlink(missing_ok=True)

    def is_alone(self) -> bool:
        """Whether no other Snakemake works with this folder; from now on others know of this one.

        They do until this process ends, however it ends: what tells them is a lock of the kernel,
        on a file that stays.
        """
        if self._in_use is None:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            self._in_use = self._folder.with_name(f"{self._folder.name}.in-use").open("a")
        try:
            fcntl.flock(self._in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            with contextlib.suppress(OSError):  # a file system without locks: never alone
                fcntl.flock(self._in_use, fcntl.LOCK_SH)
        return True

    def remove_rests(self) -> None:
        """Removes the files of calls of sbatch in which an earlier Snakemake was killed."""
        for note in self._folder.glob("*.submitting"):
            with contextlib.suppress(OSError):
                for left in Path(note.read_text()).glob(f"{note.stem}*"):
                    _remove(left)
            _remove(note)

    def unclaimed(self) -> list[Entry]:
        """The inherited entries that no job of this Snakemake has taken over or replaced."""
        return [e for e in self._inherited if self._by_output.get(e.outputs[0]) is not None]

    def file(self, outputs: Sequence[str]) -> Path:
        """The entry of the job that makes ``outputs``."""
        return self._folder / f"{_digest(json.dumps(list(outputs)))[:32]}.json"


def _remove(file: Path) -> None:
    """If it can be: it may be another user's, and what stays does no harm but to be looked at."""
    with contextlib.suppress(OSError):
        file.unlink()


def _read_all(folder: Path) -> list[Entry]:
    entries = []
    for file in sorted(folder.glob("*.json")):
        # One that cannot be read was not written by `record`.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            data = json.loads(file.read_text())
            entries.append(Entry(**{**data, "outputs": tuple(data["outputs"])}))
    return entries


def _state_of_file(path: str) -> str:
    try:
        found = os.stat(path)
    except OSError:
        return "missing"
    if os.path.isdir(path):
        return "folder"  # its time changes with files that are none of the job's
    if found.st_size > _COMPARED_BY_CONTENT:
        return f"{found.st_size} bytes of {found.st_mtime_ns}"
    return _content_digest(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=10_000)
def _content_digest(path: str, size: int, mtime_ns: int) -> str:
    """Size and time are there for the cache: many jobs share the same sources."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return "unreadable"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
