"""The one way to write: what appears is whole or not there, and survives a power cut once it is."""

import contextlib
import errno
import glob
import os
import shutil
import uuid
from collections.abc import Iterator
from io import BufferedRandom
from pathlib import Path

from barlow_atlas.errors import AtlasError

TEMPORARY = ".tmp"
_FULL = "make room on that disk"
_CLOSED = "make the folder writable, or work elsewhere"
_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: "make room below your quota (`quota -s` shows it)",
    errno.EFBIG: "raise the limit on the size of files (`ulimit -f`)",
    errno.EROFS: _CLOSED,
    errno.EACCES: _CLOSED,
    errno.EPERM: _CLOSED,
    errno.EIO: "have the disk looked at (`dmesg` says what it reports)",
}
# A file system that has no such call keeps its names safe in its own way, or not at all.
_NO_SUCH_CALL = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


class WriteError(AtlasError):
    """A file that cannot be written; what was there before is as it was."""


@contextlib.contextmanager
def writing(path: Path, size: int | None = None) -> Iterator[None]:
    """Turns the system's errors in a block that writes `path`, of `size` bytes, into WriteError."""
    try:
        yield
    except OSError as error:
        amount = "" if size is None else f" ({size:,} bytes)"
        remedy = _REMEDIES.get(error.errno or 0, "look at that disk and at the folder's rights")
        raise WriteError(
            f"cannot write {path}{amount}: {error.strerror or error}. What was there before is "
            f"unchanged; {remedy}, then start the same command again"
        ) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that a crash at any moment leaves the old content or the new one.

    Raises:
        WriteError: if the folder cannot be written or is full; the old file is untouched.
    """
    with replacing(path, len(content)) as file:
        file.write(content)


@contextlib.contextmanager
def replacing(path: Path, size: int | None = None) -> Iterator[BufferedRandom]:
    """A new file, of `size` bytes if that is known, to be written bit by bit: `path` once the block
    ends, durable and whole; if it fails, nothing.

    Raises:
        WriteError: if the folder cannot be written or is full; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
    with writing(path, size):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):  # as on a read-only disk: there is nothing then
                temporary.unlink(missing_ok=True)
            raise
        _sync(path.parent)


def sync_tree(folder: Path) -> None:
    """Makes all files and folders below `folder` durable, before it is renamed into place.

    Raises:
        OSError: the disk has not taken them.
    """
    for above, _, names in os.walk(folder):
        for name in names:
            _sync(Path(above, name))
        _sync(Path(above))


def replace_folder(new: Path, folder: Path) -> None:
    """Renames `new` to `folder`, whose old content goes aside and is then deleted.

    Killed between the two renames, the old folder is still there under a hidden name; the next
    one that gets into its place deletes it.

    Raises:
        OSError: it cannot be renamed; the old folder is in its place.
        WriteError: nor can the old folder be renamed back; the message says where it is.
    """
    old = f".{folder.name}.old-"
    if not folder.exists():
        os.rename(new, folder)
    else:
        aside = folder.with_name(f"{old}{uuid.uuid4().hex}")
        os.rename(folder, aside)
        try:
            os.rename(new, folder)
        except OSError as error:
            try:
                os.rename(aside, folder)
            except OSError:
                raise WriteError(
                    f"cannot write {folder}: {error.strerror or error}. What was there before is "
                    f"whole in {aside}: rename it back once that disk can be written"
                ) from error
            raise
    # Also what earlier ones that were killed left. What cannot be deleted is in nobody's way: the
    # result is in its place.
    for aside in folder.parent.glob(f"{glob.escape(old)}*"):
        shutil.rmtree(aside, ignore_errors=True)


def remove_temporaries(folder: Path, stem: str) -> None:
    """Removes what writers of `stem*` left that were killed; the caller is the only writer now."""
    for path in folder.glob(f".{stem}*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Makes a file, or the names in a folder, durable: a file's own fsync covers no rename."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno not in _NO_SUCH_CALL:
            raise
    finally:
        os.close(descriptor)
