"""Readers of what VISSL's evaluations transfer to: VOC07's classes, Places205, iNaturalist 2018.

As with the other targets, images are squashed to a square; those of the last two are also stored as
their files have them. Official archives are read where they are, or, if they are unpacked beside,
what they unpack to.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from barlow_atlas.data.catalog import VOC_CLASSES, DataSet, Layout, OfficialFile, Part
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.objects import ABSENT, PRESENT, UNCERTAIN
from barlow_atlas.data.reading import Allocate, Decoded, Reader, naming, required, texts
from barlow_atlas.data.selection import Index
from barlow_atlas.data.sources import Report
from barlow_atlas.data.survey import some
from barlow_atlas.data.target_formats import (
    Listed,
    Listing,
    read_listed,
    rows_of,
    whole_number,
)

HERE = "."
"""The folder that archives of Places205 and iNaturalist begin with."""
_PLACES_IMAGES = "data/vision/torralba/deeplearning/images256"
_PLACES_LISTS: dict[Part, str] = {
    "train": "trainvalsplit_places205/train_places205.csv",
    "test": "trainvalsplit_places205/val_places205.csv",
}
_VOC_SETS: dict[str, str] = {"train": "trainval", "test": "test"}


def held(place: Path, file: OfficialFile) -> Path:
    """Where the content of an official file is read: it, else the folder it is unpacked in."""
    packed = place / file.name
    return packed if packed.exists() else place


def told_source(data_set: DataSet, place: Path) -> str:
    """The source in words, with how far each official file could be verified."""
    how = [f"{file.name} {_verified(place, file)}" for file in data_set.files]
    return f"{data_set.source}; {', '.join(how)}"


def _verified(place: Path, file: OfficialFile) -> str:
    if held(place, file) == place:
        return "unpacked, so not verified"
    return "verified by its md5" if file.md5 else "not verified, as no checksum is published"


def _decode_voc(data_set: DataSet, place: Path, allocate: Allocate, report: Report) -> Decoded:
    """VOC2007/ImageSets/Main/<class>_<set>.txt lists every image with 1, 0 (difficult) or -1."""
    folder = required(data_set.official_folder)
    labels: dict[Part, Index] = {}
    for file in data_set.files:
        part: Part = "train" if file.part == "train" else "test"
        holder = held(place, file)
        names = {
            each: f"VOC2007/ImageSets/Main/{each}_{_VOC_SETS[part]}.txt" for each in VOC_CLASSES
        }
        content = texts(holder, folder, list(names.values()))
        images, labels[part] = image_sets({each: content[names[each]] for each in names}, holder)
        listing: Listing = {part: [Listed(f"VOC2007/JPEGImages/{k}.jpg", 0) for k in images]}
        read_listed(data_set, holder, folder, listing, allocate, report)
    return Decoded(VOC_CLASSES, labels, told_source(data_set, place))


def image_sets(lists: Mapping[str, str], place: Path) -> tuple[list[str], Index]:
    """The images of VOC's lists, one text a class, and their labels (images, classes).

    Raises:
        DataError: the lists are not of the same images, or hold other values.
    """
    tables = {name: rows_of(text, 2, f"{place}: {name}") for name, text in lists.items()}
    first, *_ = tables
    images = [image for image, _ in tables[first]]
    for name, rows in tables.items():
        if [image for image, _ in rows] != images:
            raise DataError(
                f"{place}: the lists of {first} and {name} do not name the same images in the same "
                "order. Unpack the official archive again."
            )
    labels = np.array(
        [[whole_number(value, f"{place}: {name}") for _, value in tables[name]] for name in lists],
        dtype=np.int64,
    ).T
    strange = set(np.unique(labels).tolist()) - {PRESENT, UNCERTAIN, ABSENT}
    if strange:
        raise DataError(
            f"{place}: its lists of classes hold {some(sorted(map(str, strange)))}, where 1, 0 and "
            "-1 are known. Unpack the official archive again."
        )
    return images, labels


class Told(NamedTuple):
    """What official lists tell: the images of each part, and the names of their classes."""

    listing: Listing
    classes: tuple[str, ...]


def _places(data_set: DataSet, place: Path) -> Told:
    """<set>_places205.csv lists `<folder>/<file> <label>`, such as `a/attic/0.jpg 14`."""
    _, lists = data_set.files
    content = texts(held(place, lists), HERE, list(_PLACES_LISTS.values()))
    folders: dict[int, str] = {}
    listing: Listing = {}
    for part, name in _PLACES_LISTS.items():
        listing[part] = list(_listed_places(content[name], name, folders))
    if sorted(folders) != list(range(len(folders))):
        raise DataError(
            f"{place}: the split lists name the classes {some(list(map(str, sorted(folders))))}, "
            "which do not count from 0. Replace them by the official lists."
        )
    return Told(listing, tuple(folders[label] for label in sorted(folders)))


def _listed_places(text: str, name: str, folders: dict[int, str]) -> Iterator[Listed]:
    """The images of a split list; `folders` gathers the folder of each class."""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        path, _, told = line.strip().rpartition(" ")
        label = whole_number(told, f"{name}, line {number}")
        folder = path.rpartition("/")[0]
        if folders.setdefault(label, folder) != folder:
            raise DataError(
                f"{name}, line {number}: class {label} is {folders[label]} elsewhere, and "
                f"{folder or 'no folder'} here. Replace it by the official list."
            )
        yield Listed(f"{_PLACES_IMAGES}/{path}", label)


def _inaturalist(data_set: DataSet, place: Path) -> Told:
    """<set>2018.json has images, annotations (image, category) and categories."""
    _, *annotated = data_set.files
    listing: Listing = {}
    names: list[tuple[int, str]] = []
    for file in annotated:
        part: Part = "train" if file.part == "train" else "test"
        inside = file.name.removesuffix(".tar.gz")
        told = _parsed(texts(held(place, file), HERE, [inside])[inside], f"{place}: {inside}")
        known = sorted((each["id"], str(each["name"])) for each in told["categories"])
        if names and known != names:
            raise DataError(
                f"{place}: {inside} has other categories than the file before. Replace both by the "
                "official files."
            )
        names = known
        listing[part] = _annotated(told, [number for number, _ in names], f"{place}: {inside}")
    return Told(listing, tuple(name for _, name in names))


def _parsed(text: str, what: str) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{what} is no JSON: {error}. Replace it by the official file.") from error
    return told


def _annotated(told: Mapping[str, Any], categories: list[int], what: str) -> list[Listed]:
    """The images of a file in its order, each with the place of its one category."""
    label_of = {number: label for label, number in enumerate(categories)}
    of_image = {each["image_id"]: each["category_id"] for each in told["annotations"]}
    images = told["images"]
    if len(told["annotations"]) != len(images) or of_image.keys() != {one["id"] for one in images}:
        raise DataError(
            f"{what}: expected one annotation of each of its {len(images):,} images, found "
            f"{len(told['annotations']):,} of {len(of_image):,}. Replace it by the official file."
        )
    return [Listed(str(one["file_name"]), label_of[of_image[one["id"]]]) for one in images]


def told_by_lists(data_set: DataSet, place: Path) -> Told:
    """All images of Places205 or iNaturalist, by the official lists in `place`.

    Raises:
        DataError: the lists are missing, or are not as the authors published them.
    """
    with naming(data_set, place):
        return _LISTS[data_set.layout](data_set, place)


def _decode_listed(data_set: DataSet, place: Path, allocate: Allocate, report: Report) -> Decoded:
    told, (images, *_) = told_by_lists(data_set, place), data_set.files
    labels = read_listed(data_set, held(place, images), HERE, told.listing, allocate, report)
    return Decoded(told.classes, labels, told_source(data_set, place))


_LISTS: dict[Layout, Callable[[DataSet, Path], Told]] = {
    "places205": _places,
    "inaturalist": _inaturalist,
}
VISSL_READERS: dict[Layout, Reader] = {
    "voc-classes": _decode_voc,
    **dict.fromkeys(_LISTS, _decode_listed),
}
