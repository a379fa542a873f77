"""Official data sets that are stored as their files are: where images lie, and what is in each.

An archive is only asked where an image begins and ends: a tar archive, or a zip archive that does
not compress them, as VOC's and COCO's are. Those of Places205 and iNaturalist are compressed as a
whole, so they must lie unpacked.
"""

import posixpath
import struct
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from barlow_atlas.data.catalog import DataSet, Part
from barlow_atlas.data.entries import Entry
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.listing import Listing
from barlow_atlas.data.object_formats import VOC_FOLDER, Annotated, coco_part, voc_part
from barlow_atlas.data.objects import Objects
from barlow_atlas.data.reading import members, naming
from barlow_atlas.data.sources import to_unpack
from barlow_atlas.data.survey import Survey, some
from barlow_atlas.data.tree import State
from barlow_atlas.data.vissl_formats import HERE, held, told_by_lists, told_source

_LOCAL_HEADER = struct.Struct("<26xHH")
"""Of a file in a zip archive: it ends with the lengths of the name and of the rest behind it."""


class Held(NamedTuple):
    """Images of a part with their objects, and the folder or archive that holds them."""

    part: Part
    place: Path
    folder: str
    """Within an archive, below which the names of the images are."""
    annotated: Annotated


class _Span(NamedTuple):
    file: str
    offset: int
    size: int


def official_listing(data_set: DataSet, place: Path) -> Listing:
    """All images of an official data set that is stored as its files are, in their lists' order.

    Args:
        place: the folder that holds the verified official files, or what they unpack to.

    Raises:
        DataError: something is missing, or is not as the authors published it.
    """
    with_objects = data_set.layout in ("voc-objects", "coco-objects")
    return (annotated_listing if with_objects else classified_listing)(data_set, place)


def classified_listing(data_set: DataSet, place: Path) -> Listing:
    """All images of Places205 or iNaturalist, each of one class.

    Raises:
        DataError: something is missing, or is not as the authors published it; or the images are
            not unpacked.
    """
    told = told_by_lists(data_set, place)
    with naming(data_set, place):
        if (packed := to_unpack(data_set, place)) is not None:
            raise DataError(f"{data_set.title}: {packed}.")
        names = {part: [item.name for item in listed] for part, listed in told.listing.items()}
        spans = _spans_in_folder(place, [name for those in names.values() for name in those])
        entries = {
            part: [Entry(item.name, *spans[item.name], item.label) for item in listed]
            for part, listed in told.listing.items()
        }
    return Listing(
        place=place,
        classes=told.classes,
        entries=entries,
        survey=Survey(place, {}, {name: _state(place / name) for name in spans}, Counter()),
        turned=False,
        source=told_source(data_set, place),
    )


def annotated_listing(data_set: DataSet, place: Path) -> Listing:
    """All images of a data set with objects, file by file, each in the order of its lists.

    Args:
        place: the folder that holds the verified official files, or what they unpack to.

    Raises:
        DataError: something is missing, or is not as the authors published it.
    """
    with naming(data_set, place):
        read = _voc if data_set.layout == "voc-objects" else _coco
        parts = list(read(data_set, place))
        classes = {one.annotated.classes for one in parts}
        if len(classes) != 1:
            raise DataError(
                f"{place}: its annotations of training and test images have not the same classes. "
                "Replace them by the official files."
            )
        entries: dict[Part, list[Entry]] = {"train": [], "test": []}
        objects: dict[Part, list[Objects]] = {"train": [], "test": []}
        for one in parts:
            spans = _spans(one)
            # Labels follow from the objects.
            entries[one.part] += [Entry(k, *spans[k], label=-1) for k in one.annotated.names]
            objects[one.part] += one.annotated.objects
    files = dict.fromkeys(entry.file for those in entries.values() for entry in those)
    return Listing(
        place=place,
        classes=classes.pop(),
        entries=entries,
        survey=Survey(place, {}, {name: _state(place / name) for name in files}, Counter()),
        turned=False,
        source=told_source(data_set, place),
        objects=objects,
    )


def _voc(data_set: DataSet, place: Path) -> Iterator[Held]:
    """Each archive is of a year, and of trainval or test."""
    for file in data_set.files:
        part: Part = "test" if file.part == "test" else "train"
        year = int(file.name.removesuffix(".tar")[-len("2007") :])
        holder = held(place, file)
        images = voc_part(holder, year, "test" if part == "test" else "trainval")
        yield Held(part, holder, VOC_FOLDER, images)


def _coco(data_set: DataSet, place: Path) -> Iterator[Held]:
    """The images of two archives, and a third one with annotations of both."""
    *pictures, annotations = data_set.files
    for file in pictures:
        folder = file.name.removesuffix(".zip")
        inside = f"annotations/instances_{folder}.json"
        for name, stream in members(held(place, annotations), HERE, [inside]):
            images = coco_part(stream.read(), f"{place}: {name}")
        names = tuple(f"{folder}/{name}" for name in images.names)
        part: Part = "test" if file.part == "test" else "train"
        yield Held(part, held(place, file), HERE, images._replace(names=names))


def _spans(images: Held) -> dict[str, _Span]:
    """Where the bytes of each image lie, by its name."""
    holder, names = images.place, images.annotated.names
    if holder.is_dir():
        return _spans_in_folder(holder, names)
    if holder.suffix == ".zip":
        there = _zip_spans(holder, set(names))
    else:
        with tarfile.open(holder, "r:") as tar:
            there = {
                posixpath.relpath(member.name, images.folder): _Span(
                    holder.name, member.offset_data, member.size
                )
                for member in tar
                if member.isfile()
            }
    return _whole(holder, names, there)


def _spans_in_folder(folder: Path, names: Sequence[str]) -> dict[str, _Span]:
    files = {name: folder / name for name in names}
    there = {k: _Span(k, 0, file.stat().st_size) for k, file in files.items() if file.is_file()}
    return _whole(folder, names, there)


def _whole(holder: Path, names: Sequence[str], there: dict[str, _Span]) -> dict[str, _Span]:
    """What is there, if it is all that is named."""
    if missing := [name for name in names if name not in there]:
        raise DataError(
            f"{holder} lacks {len(missing):,} of {len(names):,} listed images: "
            f"{some(missing)}. Replace it by the official archive, or unpack that again."
        )
    return there


def _zip_spans(holder: Path, names: set[str]) -> dict[str, _Span]:
    spans: dict[str, _Span] = {}
    with zipfile.ZipFile(holder) as archive, holder.open("rb") as file:
        for member in archive.infolist():
            if member.filename not in names:
                continue
            if member.compress_type != zipfile.ZIP_STORED:
                raise DataError(
                    f"{holder} compresses {member.filename}, where images are read as they lie in "
                    f"it: unpack it in {holder.parent} and move the archive away."
                )
            file.seek(member.header_offset)
            lengths = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            begins = member.header_offset + _LOCAL_HEADER.size + sum(lengths)
            spans[member.filename] = _Span(holder.name, begins, member.file_size)
    return spans


def _state(file: Path) -> State:
    status = file.stat()
    return State(status.st_size, status.st_mtime_ns)


def size_faults(
    entries: Sequence[Entry], objects: Sequence[Objects], sizes: Sequence[Sequence[int]]
) -> Iterator[str]:
    """Which images have another height and width than their annotation says.

    Args:
        sizes: height and width of each image, pixels.
    """
    for entry, told, (height, width) in zip(entries, objects, sizes, strict=True):
        if (told.height, told.width) != (height, width):
            yield (
                f"{entry.name} has {height} x {width} pixels, its annotation says "
                f"{told.height} x {told.width}"
            )
