"""What the readers of official formats share: containers of files, images, and their result."""

import io
import pickle
import posixpath
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from barlow_atlas.data.catalog import DataSet, Part
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.pictures import decoded
from barlow_atlas.data.prepared import sha256_of
from barlow_atlas.data.selection import Index
from barlow_atlas.data.sources import Report
from barlow_atlas.data.survey import Survey, some
from barlow_atlas.data.tree import read_tree, refuse

Images = NDArray[np.uint8]
Allocate = Callable[[Part, int], Images]

REPORT_EVERY = 10_000

_Fact = TypeVar("_Fact")


@dataclass(frozen=True)
class Decoded:
    """What a reader knows besides the images: names of the classes, labels of each part.

    Labels are classes (N,), or, where an image may have several, (N, classes); see
    `objects.presence`.
    """

    class_names: tuple[str, ...]
    labels: dict[Part, Index]
    source: str
    survey: Survey | None = None
    """Of class folders: the files that were read, and what was left out."""


Reader = Callable[[DataSet, Path, Allocate, Report], Decoded]


@contextmanager
def naming(data_set: DataSet, place: Path) -> Iterator[None]:
    """Turn the errors of damaged or foreign containers into a DataError that names the place."""
    try:
        yield
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        pickle.UnpicklingError,
        EOFError,
        KeyError,
        UnicodeDecodeError,
        OSError,
    ) as error:
        raise DataError(
            f"{place} cannot be read as {data_set.title}: {type(error).__name__}: {error}. It is "
            "truncated or has another format than the official one: replace it by the official "
            "file."
        ) from error


def official_files(data_set: DataSet, place: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each official file in the verified folder or archive; see `members`."""
    return members(place, required(data_set.official_folder), [f.name for f in data_set.files])


def members(place: Path, folder: str, names: Collection[str]) -> Iterator[tuple[str, IO[bytes]]]:
    """The named files of a folder, or of `folder` in a zip or tar archive; '/' between parts.

    Files of a tar come in the archive's own order, so that gigabytes are unpacked once, in
    passing, and never to disk; all others in the order of `names`. Raises DataError, at the end,
    if some are not there.
    """
    missing = dict.fromkeys(names)
    if place.is_dir():
        for name in names:
            if (place / name).is_file():
                del missing[name]
                with (place / name).open("rb") as stream:
                    yield name, stream
    elif place.suffix == ".zip":
        with zipfile.ZipFile(place) as archive:
            inside = set(archive.namelist())
            for name in names:
                whole = posixpath.normpath(f"{folder}/{name}")
                if whole in inside:
                    del missing[name]
                    with archive.open(whole) as stream:
                        yield name, stream
    else:
        with tarfile.open(place, "r|*") as tar:
            for member in tar:
                name = posixpath.relpath(member.name, folder)
                content = tar.extractfile(member) if name in missing else None
                if content is not None:
                    del missing[name]
                    yield name, content
    if missing:
        inside_of = "" if place.is_dir() else f"{folder}/"
        raise DataError(
            f"{place} has another layout than the official one: expected {len(names):,} files in "
            f"it, such as {inside_of}{next(iter(names))}; not found: {some(list(missing))}. "
            "Replace it by the official archive."
        )


def texts(place: Path, folder: str, names: Collection[str]) -> dict[str, str]:
    """The content of small text files, by their names."""
    return {name: stream.read().decode() for name, stream in members(place, folder, names)}


def origin(data_set: DataSet, place: Path) -> str:
    """The source in words, with how far what was read from `place` could be verified."""
    if data_set.archive is None:
        return data_set.source
    if place.is_dir():
        how = "from single files, for which there are no official checksums"
    elif data_set.archive.md5:
        how = "from the archive, verified by its md5"
    else:
        how = (
            "from the archive, of which no checksum is published; the one that was read has "
            f"sha256 {sha256_of(place)}"
        )
    return f"{data_set.source}; {how}"


class Tree(Protocol):
    """Files below a folder, wherever they are: sorted names relative to it, '/' between parts."""

    names: list[str]

    def read(self, name: str) -> bytes: ...


class FolderTree:
    """Raises DataError where something below the folder cannot be read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        tree = read_tree(root)
        refuse(f"not all that lies in {root} can be read:", tree.faults, "Unpack it again.")
        self.names = sorted(tree.files)

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()


class ZipTree:
    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        self.prefix = f"{folder}/"
        self.zip = archive
        inside = (name for name in archive.namelist() if name.startswith(self.prefix))
        self.names = sorted(n.removeprefix(self.prefix) for n in inside if not n.endswith("/"))

    def read(self, name: str) -> bytes:
        return self.zip.read(self.prefix + name)


def open_image(content: bytes, what: str) -> Image.Image:
    """A picture of an official data set in RGB, as its files have it: neither turned nor blended.

    Raises:
        DataError: as `pictures.decoded`.
    """
    return decoded(io.BytesIO(content), what, len(content), 0, lambda image: image.convert("RGB"))


def required(fact: _Fact | None) -> _Fact:
    """A fact that every data set of this layout has in the catalogue."""
    if fact is None:
        raise DataError("the data set's facts lack what its layout needs")
    return fact
