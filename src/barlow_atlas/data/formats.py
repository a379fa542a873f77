"""Readers of the official formats: from verified files to uint8 images and int64 labels.

Each reader asks `allocate(part, count)` for an array (count, 3, S, S) of uint8 and fills it, so
that large parts go to disk image by image and are never held in memory.
"""

import hashlib
import pickle
import posixpath
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from barlow_atlas.data.catalog import DataSet, Layout, Part
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.pictures import stored
from barlow_atlas.data.reading import (
    REPORT_EVERY,
    Allocate,
    Decoded,
    FolderTree,
    Images,
    Reader,
    Tree,
    ZipTree,
    naming,
    official_files,
    open_image,
    origin,
    required,
)
from barlow_atlas.data.selection import Index, draw_test
from barlow_atlas.data.sources import Report
from barlow_atlas.data.survey import (
    ANNOTATIONS,
    IMAGE_ENDINGS,
    ByClass,
    annotated,
    check_classes,
    skipped_told,
    survey,
)
from barlow_atlas.data.target_formats import TARGET_READERS, squash
from barlow_atlas.data.tree import refuse, shown
from barlow_atlas.data.vissl_formats import VISSL_READERS

# The 1,797 images (values 0 to 16) followed by their labels, as bytes. The split refers to their
# order, so another edition of the file must not pass unnoticed.
_DIGITS_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
_STL10_CLASSES = (
    *("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
)
_STL10_CHUNK = 1_000


def decode(data_set: DataSet, place: Path | None, allocate: Allocate, report: Report) -> Decoded:
    """Read all parts of a data set into the arrays that `allocate` gives.

    `place` is the verified archive or folder (None where there is none to look up). Raises
    DataError if the content is not what the data set's facts say.
    """
    if data_set.layout == "digits":
        return _decode_digits(data_set, allocate)
    if data_set.layout == "class-folders":
        return _decode_folders(data_set, allocate, report)
    if place is None:
        raise DataError(f"{data_set.title}: no files were given to read.")
    with naming(data_set, place):
        return _READERS[data_set.layout](data_set, place, allocate, report)


def _decode_digits(data_set: DataSet, allocate: Allocate) -> Decoded:
    # Loading scikit-learn takes a second that no other data set needs.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    digest = hashlib.sha256(images.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest()
    if digest != _DIGITS_SHA256:
        raise DataError(
            f"the digits in the installed scikit-learn are not the known ones: expected sha256 "
            f"{_DIGITS_SHA256}, found {digest}. Install a released scikit-learn of the versions "
            "that pyproject.toml names."
        )
    scaled = np.round(images * (255 / 16)).astype(np.uint8)
    side = required(data_set.image_size)
    stored_images = np.stack([squash(Image.fromarray(i).convert("RGB"), side) for i in scaled])
    is_test = np.zeros(len(labels), dtype=bool)
    is_test[draw_test(labels, required(data_set.test_share), data_set.split_seed)] = True
    parts: tuple[tuple[Part, NDArray[np.bool_]], ...] = (("train", ~is_test), ("test", is_test))
    for part, members in parts:
        allocate(part, int(members.sum()))[:] = stored_images[members]
    return Decoded(
        class_names=tuple(map(str, bunch.target_names)),
        labels={part: labels[members] for part, members in parts},
        source=data_set.source,
    )


def _decode_cifar(data_set: DataSet, place: Path, allocate: Allocate, report: Report) -> Decoded:
    batches: dict[str, dict[str, Any]] = {}
    for name, stream in official_files(data_set, place):
        # The checksum was compared before: nobody else's pickle gets here.
        batches[name] = pickle.load(stream, encoding="latin1")
        report(f"{data_set.title}: read {name}")
    labels: dict[Part, Index] = {}
    names: tuple[str, ...] = ()
    for file in data_set.files:
        if file.part == "names":
            meta = batches[file.name]
            names = tuple(meta["fine_label_names" if "fine_label_names" in meta else "label_names"])
    for part in ("train", "test"):
        ours = [batches[file.name] for file in data_set.files if file.part == part]
        pixels = np.concatenate([batch["data"] for batch in ours])
        batch_labels = [
            batch["fine_labels" if "fine_labels" in batch else "labels"] for batch in ours
        ]
        labels[part] = np.concatenate(batch_labels).astype(np.int64)
        side = required(data_set.image_size)
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (3 * side * side,):
            raise DataError(
                f"{data_set.title}: the {part} batches hold {pixels.dtype} rows of shape "
                f"{pixels.shape[1:]}, expected uint8 rows of {3 * side * side:,} values."
            )
        allocate(part, len(pixels))[:] = pixels.reshape(-1, 3, side, side)
    return Decoded(class_names=names, labels=labels, source=data_set.source)


def _decode_stl10(data_set: DataSet, place: Path, allocate: Allocate, report: Report) -> Decoded:
    labels: dict[Part, Index] = {}
    counts = required(data_set.counts)
    parts: dict[str, Part] = {
        f.name: f.part for f in data_set.files if f.part != "names" and f.part != "all"
    }
    for name, stream in official_files(data_set, place):
        part = parts[name]
        count = getattr(counts, part)
        if name.endswith("_y.bin"):
            # Classes are numbered from 1 in the files.
            labels[part] = np.frombuffer(stream.read(), dtype=np.uint8).astype(np.int64) - 1
        else:
            _read_columns(stream, allocate(part, count), f"{data_set.title}: {name}")
        report(f"{data_set.title}: read {name}")
    return Decoded(class_names=_STL10_CLASSES, labels=labels, source=data_set.source)


def _read_columns(stream: IO[bytes], images: Images, what: str) -> None:
    """Fill `images` (N, 3, H, W) from bytes that run down the columns: (N, 3, W, H)."""
    count, channels, side, _ = images.shape
    size = channels * side * side
    for start in range(0, count, _STL10_CHUNK):
        n = min(_STL10_CHUNK, count - start)
        chunk = stream.read(n * size)
        if len(chunk) != n * size:
            raise DataError(
                f"{what} is truncated: expected {count:,} images of {size:,} bytes, found "
                f"{start + len(chunk) // size:,}. Replace it by the official file."
            )
        columns = np.frombuffer(chunk, dtype=np.uint8).reshape(n, channels, side, side)
        images[start : start + n] = columns.transpose(0, 1, 3, 2)
    if stream.read(1):
        raise DataError(f"{what} is too long: expected {count:,} images of {size:,} bytes.")


def _decode_tiny(data_set: DataSet, place: Path, allocate: Allocate, report: Report) -> Decoded:
    if place.is_dir():
        return _decode_tiny_tree(data_set, place, FolderTree(place), allocate, report)
    with zipfile.ZipFile(place) as archive:
        tree = ZipTree(archive, required(data_set.archive).folder)
        return _decode_tiny_tree(data_set, place, tree, allocate, report)


def _decode_tiny_tree(
    data_set: DataSet, place: Path, tree: Tree, allocate: Allocate, report: Report
) -> Decoded:
    images = [name for name in tree.names if _is_image(name)]
    in_train, in_val = _class_folders(images, "train"), _class_folders(images, "val")
    told = annotated(images, tree.names, place, lambda: tree.read(ANNOTATIONS).decode())
    listing: dict[Part, ByClass] = {"train": in_train, "test": told or in_val}
    _check_whole(data_set, place, listing)
    size = required(data_set.image_size)

    def pixels(name: str) -> Images:
        image = open_image(tree.read(name), f"{place}: {name}")
        if image.size != (size, size):
            raise DataError(
                f"{place}: {name} has {image.width} x {image.height} pixels, expected {size} x "
                f"{size}. It is not the official image: unpack the official archive again."
            )
        return np.asarray(image).transpose(2, 0, 1)

    return Decoded(
        class_names=tuple(sorted(listing["train"])),
        labels=_read_images(data_set, listing, pixels, allocate, report),
        source=origin(data_set, place),
    )


def _decode_folders(data_set: DataSet, allocate: Allocate, report: Report) -> Decoded:
    place = Path(required(data_set.path)).expanduser()
    folders = survey(data_set.title, place)
    if folders.skipped:
        report(f"{data_set.title}: left out in {place}: {skipped_told(folders.skipped)}")

    def pixels(name: str) -> Images:
        return stored(place / name, f"{place}: {shown(name)}", required(data_set.image_size))

    return Decoded(
        class_names=tuple(sorted(folders.images["train"])),
        labels=_read_images(data_set, folders.images, pixels, allocate, report),
        source=data_set.source,
        survey=folders,
    )


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_ENDINGS) and not posixpath.basename(name).startswith(".")


def _class_folders(images: list[str], split: str) -> ByClass:
    """The images of each folder `<split>/<class>/`, at any depth below it."""
    by_class: ByClass = {}
    for name in images:
        parts = name.split("/")
        if len(parts) > 2 and parts[0] == split:
            by_class.setdefault(parts[1], []).append(name)
    return by_class


def _check_whole(data_set: DataSet, place: Path, listing: dict[Part, ByClass]) -> None:
    """Raise DataError unless every class has exactly its share of the official counts."""
    classes = required(data_set.classes)
    counts = required(data_set.counts)
    wrong = []
    for part, by_class in listing.items():
        each = getattr(counts, part) // classes
        sizes = {len(names) for names in by_class.values()}
        if len(by_class) != classes or sizes != {each}:
            span = f"{min(sizes):,} to {max(sizes):,}" if sizes else "no"
            wrong.append(
                f"{part}: expected {classes} classes of {each:,} images, found {len(by_class)} "
                f"classes of {span} images"
            )
    if wrong:
        raise DataError(
            f"{place} is not the whole of {data_set.title}. {'; '.join(wrong)}. A subset is "
            "another, smaller problem: use it under its own name as class folders, "
            f"data: {{name: {data_set.name}-subset, path: {place}, "
            f"stored_size: {data_set.image_size}}}. For {data_set.title} itself, put the official "
            "archive into the raw folder or a mirror."
        )
    check_classes(data_set.title, place, listing["train"], listing["test"])


def _read_images(
    data_set: DataSet,
    listing: dict[Part, ByClass],
    pixels: Callable[[str], Images],
    allocate: Allocate,
    report: Report,
) -> dict[Part, Index]:
    """Fill all parts class by class, in the order of the file names; the labels of each (N,).

    All layouts keep the images of a class in one folder, so they give the same order. Raises one
    DataError that lists all images of which `pixels` raises one.
    """
    labels: dict[Part, Index] = {}
    faults: list[str] = []
    for part, by_class in listing.items():
        ordered = [
            (label, name)
            for label, key in enumerate(sorted(by_class))
            for name in sorted(by_class[key])
        ]
        images = allocate(part, len(ordered))
        for i, (_, name) in enumerate(ordered):
            try:
                images[i] = pixels(name)
            except DataError as error:
                faults.append(str(error))
            if (i + 1) % REPORT_EVERY == 0:
                report(f"{data_set.title}: {i + 1:,} of {len(ordered):,} {part} images")
        labels[part] = np.array([label for label, _ in ordered], dtype=np.int64)
    refuse(
        f"{data_set.title}: {len(faults):,} of its images cannot be used:",
        faults,
        "Replace or remove them, then start the same command again.",
    )
    return labels


_READERS: dict[Layout, Reader] = {
    **TARGET_READERS,
    **VISSL_READERS,
    "cifar": _decode_cifar,
    "stl10": _decode_stl10,
    "tiny-imagenet": _decode_tiny,
}
