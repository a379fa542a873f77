"""Files that appear whole or not at all, and survive a power cut once they are there."""

import contextlib
import os
import uuid
from pathlib import Path

from barlow_atlas.errors import AtlasError

TEMPORARY = ".tmp"


class WriteError(AtlasError):
    """A file that cannot be written."""


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that a crash at any moment leaves the old content or the new one.

    Raises:
        WriteError: if the folder cannot be written or is full; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):  # as on a read-only disk: there is nothing then
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise WriteError(
            f"cannot write {path} ({len(content):,} bytes): {error.strerror}. What was there "
            "before is unchanged; make room or make the folder writable, then start the same "
            "command again"
        ) from error


def remove_temporaries(folder: Path, stem: str) -> None:
    """Removes what writers of `stem*` left that were killed; the caller is the only writer now."""
    for path in folder.glob(f".{stem}*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Makes a rename in the folder durable; the file's own fsync does not cover its name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
