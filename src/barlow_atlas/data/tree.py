"""What lies below a folder, by real path: every folder once, whatever links lead to it.

Loads no numpy, so that planning can look too.
"""

import os
import stat
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from barlow_atlas.data.errors import DataError

SYSTEM_FOLDERS = (
    *("@eadir", "__macosx", "#recycle", "#snapshot", "$recycle.bin", "lost+found"),
    *("system volume information",),
)
"""What servers, archives and systems keep beside the files of their users; in lower case."""
SHOWN = 20
"""Findings that are listed in a message; the others are counted."""

_Identity = tuple[int, int]


class State(NamedTuple):
    """A file as the file system tells it."""

    size: int
    """Bytes."""
    time: int
    """Of its last change, ns."""


@dataclass
class Tree:
    """Files and folders by their names below `root`, '/' between parts.

    Attributes:
        files: regular files, also those that a link outside of the tree leads to.
        folders: all that were read, empty ones too.
        skipped: how often something was left out, by reason.
        faults: what should be there and cannot be read, in words.
    """

    root: Path
    files: dict[str, State] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    skipped: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def read_tree(root: Path, parts: Collection[str] | None = None) -> Tree:
    """What lies in a folder, or in those of its folders that `parts` names.

    Names that begin with a dot, `SYSTEM_FOLDERS` and what is neither file nor folder are skipped.
    So is a link to what is read anyway; a link to a folder above itself is a fault, as is one that
    leads nowhere.
    """
    tree = Tree(root)
    _Reading(tree, parts).run()
    return tree


class _Reading:
    """One walk; real folders come first, so that a link never takes the place of its target."""

    def __init__(self, tree: Tree, parts: Collection[str] | None) -> None:
        self.tree = tree
        self.parts = parts
        self.read: set[_Identity] = set()
        self.links: list[str] = []

    def run(self) -> None:
        self._folder("")
        to_files = []
        while self.links:
            links, self.links = sorted(self.links), []
            for name in links:
                if not self._followed(name):
                    to_files.append(name)
        for name in to_files:
            self._linked_file(name)

    def _path(self, name: str) -> str:
        return os.path.join(self.tree.root, name)

    def _folder(self, name: str) -> None:
        """Reads a folder and the real folders below it; their links are kept for later."""
        waiting = [name]
        while waiting:
            above = waiting.pop()
            try:
                self.read.add(_identity(os.stat(self._path(above))))
                with os.scandir(self._path(above)) as entries:
                    children = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                self._fault(above, error)
                continue
            self.tree.folders.add(above)
            for entry in children:
                inside = f"{above}/{entry.name}" if above else entry.name
                if self._is_skipped(entry, above):
                    continue
                if entry.is_symlink():
                    self.links.append(inside)
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(inside)
                else:
                    self._file(inside, entry)

    def _is_skipped(self, entry: "os.DirEntry[str]", above: str) -> bool:
        if entry.name.startswith("."):
            kind = "folder" if entry.is_dir(follow_symlinks=False) else "file"
            self.tree.skipped[f"hidden {kind}"] += 1
        elif entry.name.lower() in SYSTEM_FOLDERS:
            self.tree.skipped["system's folder"] += 1
        elif not above and self.parts is not None and entry.name not in self.parts:
            self.tree.skipped[f"beside {', '.join(self.parts)}"] += 1
        else:
            return False
        return True

    def _file(self, name: str, entry: "os.DirEntry[str]") -> None:
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError as error:
            self._fault(name, error)
            return
        if not stat.S_ISREG(status.st_mode):
            self.tree.skipped["no regular file"] += 1
            return
        self.tree.files[name] = State(status.st_size, status.st_mtime_ns)

    def _followed(self, name: str) -> bool:
        """Whether a link was dealt with; else it leads to a file."""
        path = self._path(name)
        try:
            target = os.stat(path)
        except OSError as error:
            self.tree.faults.append(
                f"{shown(name)} is a link to {shown(_target(path))}, which cannot be reached: "
                f"{error.strerror}"
            )
            return True
        if not stat.S_ISDIR(target.st_mode):
            return False
        if _identity(target) in _above(path):
            self.tree.faults.append(
                f"{shown(name)} is a link to a folder above it, {shown(_target(path))}"
            )
        elif _identity(target) in self.read:
            self.tree.skipped["link to what is read anyway"] += 1
        else:
            self._folder(name)
        return True

    @cached_property
    def file_identities(self) -> set[_Identity]:
        """Of the files that no link leads to, once these are all read; few trees ask for them."""
        return {_identity(os.stat(self._path(name))) for name in self.tree.files}

    def _linked_file(self, name: str) -> None:
        target = os.stat(self._path(name))
        if _identity(target) in self.file_identities:
            self.tree.skipped["link to what is read anyway"] += 1
        elif not stat.S_ISREG(target.st_mode):
            self.tree.skipped["no regular file"] += 1
        else:
            self.tree.files[name] = State(target.st_size, target.st_mtime_ns)

    def _fault(self, name: str, error: OSError) -> None:
        self.tree.faults.append(f"{shown(name) or '.'} cannot be read: {error.strerror}")


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino


def _above(link: str) -> set[_Identity]:
    """The real folders that a link lies in."""
    folder = Path(os.path.realpath(os.path.dirname(link)))
    return {_identity(above.stat()) for above in (folder, *folder.parents)}


def _target(link: str) -> str:
    return os.readlink(link)


def shown(name: str) -> str:
    """A file's name as it can be printed: bytes that are no UTF-8, and what would break the line or
    steer the terminal, are written as \\xe9.
    """
    told = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in told)


def refuse(what: str, faults: list[str], advice: str) -> None:
    """Raises one DataError with all faults, of which `SHOWN` are listed, if there are any."""
    if faults:
        raise DataError("\n".join([what, *_listed(faults), advice]))


def _listed(faults: list[str]) -> Iterator[str]:
    yield from (f"  {fault}" for fault in faults[:SHOWN])
    if len(faults) > SHOWN:
        yield f"  and {len(faults) - SHOWN:,} more"
