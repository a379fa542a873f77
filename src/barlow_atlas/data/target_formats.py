"""Readers of the transfer targets: official files -> images squashed to one size, and labels.

Which images and labels belong together is that of Mixed Barlow Twins' transfer_datasets/; as there,
an image is resized to a square without regard to its proportions, by PIL's bilinear filter (which
averages over all pixels it leaves out).
"""

import gzip
import struct
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from barlow_atlas.data.catalog import DataSet, Layout, Part
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.reading import (
    REPORT_EVERY,
    Allocate,
    Decoded,
    FolderTree,
    Reader,
    ZipTree,
    members,
    official_files,
    open_image,
    origin,
    required,
    texts,
)
from barlow_atlas.data.selection import Index, draw_shuffled
from barlow_atlas.data.sources import Report
from barlow_atlas.data.survey import some

_IDX_HEADER = 4
_IDX_UINT8 = 8
_IDX_CLASSES = {
    "MNIST/raw": tuple(map(str, range(10))),
    "FashionMNIST/raw": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Listed:
    """One image of a part: the file's name in its folder, its class, and what is cut out of it.

    `box` is (left, upper, right, lower) in pixels; None takes the whole image.
    """

    name: str
    label: int
    box: Box | None = None


Listing = dict[Part, list[Listed]]


def squash(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """An RGB image of any proportions as (3, size, size)."""
    resized = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized).transpose(2, 0, 1)


def read_listed(
    data_set: DataSet,
    place: Path,
    folder: str,
    listing: Listing,
    allocate: Allocate,
    report: Report,
) -> dict[Part, Index]:
    """Fill all parts from the listed files of a folder or archive; the labels of each part (N,)."""
    images = {part: allocate(part, len(listed)) for part, listed in listing.items()}
    wanted = {
        item.name: (item, images[part], row)
        for part, listed in listing.items()
        for row, item in enumerate(listed)
    }
    total = sum(map(len, listing.values()))
    if len(wanted) != total:
        raise DataError(
            f"{place}: its lists name {total:,} images, but only {len(wanted):,} different ones. "
            "They are not the official lists: unpack the official archive again."
        )
    for done, (name, stream) in enumerate(members(place, folder, wanted), 1):
        item, array, row = wanted[name]
        image = open_image(stream.read(), f"{place}: {name}")
        if item.box:
            image = image.crop(item.box)
        array[row] = squash(image, required(data_set.image_size))
        if done % REPORT_EVERY == 0:
            report(f"{data_set.title}: {done:,} of {total:,} images")
    return {
        part: np.array([item.label for item in listed], dtype=np.int64)
        for part, listed in listing.items()
    }


def rows_of(text: str, fields: int, what: str) -> list[list[str]]:
    """The lines of a list, split at blanks into `fields` fields; the last one may hold blanks."""
    rows = [line.split(maxsplit=fields - 1) for line in text.splitlines() if line.strip()]
    for number, row in enumerate(rows, 1):
        if len(row) != fields:
            raise DataError(
                f"{what}, line {number}: expected {fields} fields, found {len(row)} "
                f"({' '.join(row)!r}). Replace it by the official file."
            )
    return rows


def whole_number(text: str, what: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise DataError(
            f"{what}: expected a whole number, found {text!r}. Replace it by the official file."
        ) from error


def _numbered(names: Collection[str]) -> dict[str, int]:
    """The class of each name: its place in the alphabet."""
    return {name: label for label, name in enumerate(sorted(set(names)))}


def _decode_dtd(data_set: DataSet, place: Path, allocate: Allocate, report: Report) -> Decoded:
    """labels/<part>1.txt lists images/<class>/<file>."""
    lists: dict[Part, tuple[str, ...]] = {
        "train": ("labels/train1.txt", "labels/val1.txt"),
        "test": ("labels/test1.txt",),
    }
    folder = required(data_set.official_folder)
    content = texts(place, folder, [name for names in lists.values() for name in names])
    files = {
        part: [row[0] for name in names for row in rows_of(content[name], 1, f"{place}: {name}")]
        for part, names in lists.items()
    }
    classes = _numbered([file.partition("/")[0] for listed in files.values() for file in listed])
    listing: Listing = {
        part: [Listed(f"images/{file}", classes[file.partition("/")[0]]) for file in listed]
        for part, listed in files.items()
    }
    labels = read_listed(data_set, place, folder, listing, allocate, report)
    return Decoded(tuple(classes), labels, origin(data_set, place))


def _decode_idx(data_set: DataSet, place: Path, allocate: Allocate, report: Report) -> Decoded:
    """MNIST's format: gzip of a header with the shape, then bytes."""
    parts: dict[str, Part] = {f.name: f.part for f in data_set.files if f.part in ("train", "test")}
    labels: dict[Part, Index] = {}
    for name, stream in official_files(data_set, place):
        array = idx_array(gzip.decompress(stream.read()), f"{place}: {name}")
        part = parts[name]
        if array.ndim == 1:
            labels[part] = array.astype(np.int64)
        else:
            images = allocate(part, len(array))
            size = 2 * (required(data_set.image_size),)
            for row, grey in enumerate(array):
                resized = Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR)
                images[row] = np.asarray(resized)
        report(f"{data_set.title}: read {name}")
    names = _IDX_CLASSES[required(data_set.official_folder)]
    return Decoded(names, labels, origin(data_set, place))


def idx_array(content: bytes, what: str) -> NDArray[np.uint8]:
    """The array of an IDX file of bytes: two zeros, the type, the number of dimensions, the shape
    as big-endian 32-bit numbers, then the values.
    """
    dimensions = content[3] if len(content) >= _IDX_HEADER else 0
    start = _IDX_HEADER * (1 + dimensions)
    if content[:3] != bytes((0, 0, _IDX_UINT8)) or dimensions not in (1, 3) or len(content) < start:
        raise DataError(
            f"{what} is not an IDX file of bytes in 1 or 3 dimensions: it begins with "
            f"{content[:4].hex(' ')}. Replace it by the official file."
        )
    shape = struct.unpack(f">{dimensions}I", content[_IDX_HEADER:start])
    values = np.frombuffer(content, dtype=np.uint8, offset=start)
    if values.size != np.prod(shape):
        raise DataError(
            f"{what}: expected {np.prod(shape):,} values of shape {shape}, found {values.size:,}. "
            "Replace it by the official file."
        )
    return values.reshape(shape)


def _decode_cub(data_set: DataSet, place: Path, allocate: Allocate, report: Report) -> Decoded:
    """Lists of `<image id> <value>`: file, class from 1, whether it is trained on; all images."""
    names = ("classes.txt", "images.txt", "image_class_labels.txt", "train_test_split.txt")
    folder = required(data_set.official_folder)
    content = texts(place, folder, names)
    table = {name: dict(rows_of(content[name], 2, f"{place}: {name}")) for name in names}
    files, classes, split = (table[name] for name in names[1:])
    if not files.keys() == classes.keys() == split.keys():
        odd = (files.keys() ^ classes.keys()) | (files.keys() ^ split.keys())
        raise DataError(
            f"{place}: {', '.join(names[1:])} do not list the same images: {some(sorted(odd))} "
            "are not in all of them. Unpack the official archive again."
        )
    listing: Listing = {"train": [], "test": []}
    for number, file in files.items():
        part: Part = "train" if split[number] == "1" else "test"
        label = (
            whole_number(classes[number], f"{place}: image_class_labels.txt, image {number}") - 1
        )
        listing[part].append(Listed(f"images/{file}", label))
    labels = read_listed(data_set, place, folder, listing, allocate, report)
    return Decoded(tuple(table["classes.txt"].values()), labels, origin(data_set, place))


def _decode_aircraft(data_set: DataSet, place: Path, allocate: Allocate, report: Report) -> Decoded:
    """data/images_variant_<part>.txt lists `<image> <variant>`, images_box.txt the boxes.

    A box is (xmin, ymin, xmax, ymax) counted from 1; as in the reference it is used as if counted
    from 0, so the cut is one pixel to the right and down.
    """
    lists: dict[Part, str] = {
        "train": "data/images_variant_trainval.txt",
        "test": "data/images_variant_test.txt",
    }
    boxes_name = "data/images_box.txt"
    folder = required(data_set.official_folder)
    content = texts(place, folder, [*lists.values(), boxes_name])
    boxes: dict[str, Box] = {}
    for image, *numbers in rows_of(content[boxes_name], 5, f"{place}: {boxes_name}"):
        left, upper, right, lower = (whole_number(n, f"{place}: {boxes_name}") for n in numbers)
        boxes[image] = (left, upper, right, lower)
    rows = {part: rows_of(content[name], 2, f"{place}: {name}") for part, name in lists.items()}
    variants = _numbered([variant for listed in rows.values() for _, variant in listed])
    images = [image for listed in rows.values() for image, _ in listed]
    if unboxed := sorted(set(images) - boxes.keys()):
        raise DataError(
            f"{place}: {boxes_name} has no bounding box of {some(unboxed)}. Unpack the official "
            "archive again."
        )
    listing: Listing = {
        part: sorted(
            (
                Listed(f"data/images/{image}.jpg", variants[variant], boxes[image])
                for image, variant in listed
            ),
            key=lambda item: (item.label, item.name),
        )
        for part, listed in rows.items()
    }
    labels = read_listed(data_set, place, folder, listing, allocate, report)
    return Decoded(tuple(variants), labels, origin(data_set, place))


def _decode_flowers(data_set: DataSet, place: Path, allocate: Allocate, report: Report) -> Decoded:
    """imagelabels.mat holds the class, from 1, of jpg/image_00001.jpg and so on."""
    images, labels_file = (file.name for file in data_set.files)
    labels = _mat_labels(place / labels_file)
    # The reference draws class by class in the order in which the classes first appear.
    by_class: dict[int, list[str]] = {}
    for number, label in enumerate(labels.tolist(), 1):
        by_class.setdefault(label - 1, []).append(f"image_{number:05d}.jpg")
    listing = _drawn(by_class, required(data_set.test_share))
    part_labels = read_listed(data_set, place / images, "jpg", listing, allocate, report)
    names = tuple(str(number) for number in range(1, required(data_set.classes) + 1))
    return Decoded(names, part_labels, origin(data_set, place))


def _mat_labels(path: Path) -> NDArray[Any]:
    """The classes (N,), counted from 1, of a MATLAB file's 1 x N array `labels`."""
    # Loading scipy.io takes a while that no other data set needs.
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        labels: NDArray[Any] = loadmat(path)["labels"].ravel().astype(np.int64)
    except (MatReadError, ValueError, TypeError, NotImplementedError) as error:
        raise DataError(
            f"{path} is not a readable MATLAB file with an array `labels`: {error}. Replace it by "
            "the official file."
        ) from error
    return labels


def _decode_gtsdb(data_set: DataSet, place: Path, allocate: Allocate, report: Report) -> Decoded:
    """Folders 00/ to 42/ of crops beside the 900 whole images, which are not used."""
    folder = required(data_set.official_folder)
    if place.is_dir():
        names = FolderTree(place).names
    else:
        with zipfile.ZipFile(place) as archive:
            names = ZipTree(archive, folder).names
    classes = tuple(f"{label:02d}" for label in range(required(data_set.classes)))
    by_class = {
        label: [n for n in names if n.startswith(f"{name}/") and n.endswith(".ppm")]
        for label, name in enumerate(classes)
    }
    empty = [name for label, name in enumerate(classes) if not by_class[label]]
    if empty:
        raise DataError(
            f"{place}: expected crops (*.ppm) of {len(classes)} classes in the folders "
            f"{classes[0]}/ to {classes[-1]}/, found none in {some(empty)}. Replace it by the "
            "official archive."
        )
    listing = _drawn(by_class, required(data_set.test_share))
    labels = read_listed(data_set, place, folder, listing, allocate, report)
    return Decoded(classes, labels, origin(data_set, place))


def _drawn(by_class: Mapping[int, Sequence[str]], test_share: float) -> Listing:
    """The reference's random split of each class, both parts sorted by class and name.

    The draw depends on the order of the classes in `by_class` and of the names in a class.
    """
    trained = draw_shuffled([len(names) for names in by_class.values()], 1 - test_share)
    listing: Listing = {"train": [], "test": []}
    for (label, names), places in zip(by_class.items(), trained, strict=True):
        chosen = set(places.tolist())
        for place, name in enumerate(names):
            listing["train" if place in chosen else "test"].append(Listed(name, label))
    return {
        part: sorted(listed, key=lambda item: (item.label, item.name))
        for part, listed in listing.items()
    }


TARGET_READERS: dict[Layout, Reader] = {
    "dtd": _decode_dtd,
    "idx": _decode_idx,
    "cub": _decode_cub,
    "flowers": _decode_flowers,
    "gtsdb": _decode_gtsdb,
    "aircraft": _decode_aircraft,
}
