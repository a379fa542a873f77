"""Readers of the official formats: from verified files to uint8 images and int64 labels.

Each reader asks `allocate(part, count)` for an array (count, 3, S, S) of uint8 and fills it, so
that large parts go to disk image by image and are never held in memory.
"""

import gzip
import hashlib
import pickle
import posixpath
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

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
    Images,
    Reader,
    Tree,
    ZipTree,
    official_files,
    open_image,
    origin,
    required,
    some,
)
from barlow_atlas.data.selection import Index, draw_test
from barlow_atlas.data.sources import Report
from barlow_atlas.data.target_formats import TARGET_READERS

# The 1,797 images (values 0 to 16) followed by their labels, as bytes. The split refers to their
# order, so another edition of the file must not pass unnoticed.
_DIGITS_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
_STL10_CLASSES = (
    *("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
)
_STL10_CHUNK = 1_000
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
_ANNOTATIONS = "val/val_annotations.txt"


def decode(data_set: DataSet, place: Path | None, allocate: Allocate, report: Report) -> Decoded:
    """Read all parts of a data set into the arrays that `allocate` gives.

    `place` is the verified archive or folder (None where there is none to look up). Raises
    DataError if the content is not what the data set's facts say.
    """
    if data_set.layout == "digits":
        return _decode_digits(data_set, allocate)
    if data_set.layout == "class-folders":
        place = Path(data_set.path or "")
        if not place.is_dir():
            raise DataError(
                f"{data_set.title}: expected a folder with train/<class>/ and val/<class>/ (or "
                f"test/<class>/) at {place}, but there is no such folder. Correct `path` in the "
                "study, or put the images there."
            )
    if place is None:
        raise DataError(f"{data_set.title}: no files were given to read.")
    with _reading(data_set, place):
        return _READERS[data_set.layout](data_set, place, allocate, report)


@contextmanager
def _reading(data_set: DataSet, place: Path) -> Iterator[None]:
    """Turn the errors of damaged or foreign containers into a DataError that names the place."""
    try:
        yield
    except (
        tarfile.TarError,
        gzip.BadGzipFile,
        zipfile.BadZipFile,
        zlib.error,
        pickle.UnpicklingError,
        EOFError,
        KeyError,
        UnicodeDecodeError,
    ) as error:
        raise DataError(
            f"{place} cannot be read as {data_set.title}: {type(error).__name__}: {error}. It is "
            "truncated or has another format than the official one: replace it by the official "
            "file."
        ) from error


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
    is_test = np.zeros(len(labels), dtype=bool)
    is_test[draw_test(labels, required(data_set.test_share), data_set.split_seed)] = True
    parts: tuple[tuple[Part, NDArray[np.bool_]], ...] = (("train", ~is_test), ("test", is_test))
    for part, members in parts:
        allocate(part, int(members.sum()))[:] = scaled[members][:, None]
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
        found = [batch["fine_labels" if "fine_labels" in batch else "labels"] for batch in ours]
        labels[part] = np.concatenate(found).astype(np.int64)
        side = data_set.image_size
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
    listing: dict[Part, dict[str, list[str]]] = {
        "train": _class_folders(tree, "train"),
        "test": _annotated(tree, place) or _class_folders(tree, "val"),
    }
    _check_whole(data_set, place, listing)
    labels = {
        part: _read_images(data_set, place, tree, by_class, allocate, part, report, exact=True)
        for part, by_class in listing.items()
    }
    return Decoded(
        class_names=tuple(sorted(listing["train"])),
        labels=labels,
        source=origin(data_set, place),
    )


def _decode_folders(data_set: DataSet, place: Path, allocate: Allocate, report: Report) -> Decoded:
    tree = FolderTree(place)
    train = _class_folders(tree, "train")
    test = _annotated(tree, place)
    if not test:
        held = {split: _class_folders(tree, split) for split in ("val", "test")}
        present = [split for split, by_class in held.items() if by_class]
        if len(present) != 1:
            found = "both" if present else "neither"
            raise DataError(
                f"{data_set.title}: expected labelled test images in either val/<class>/ or "
                f"test/<class>/ below {place}, found {found}. The hold-out for validation is drawn "
                "from train/, so one of the two is enough: move the other away."
            )
        test = held[present[0]]
    _check_classes(data_set, place, train, test)
    labels: dict[Part, Index] = {}
    labels["train"] = _read_images(data_set, place, tree, train, allocate, "train", report)
    labels["test"] = _read_images(data_set, place, tree, test, allocate, "test", report)
    return Decoded(class_names=tuple(sorted(train)), labels=labels, source=data_set.source)


def _is_image(name: str) -> bool:
    # Names that begin with a dot are remains of file managers, not images.
    return name.lower().endswith(_IMAGE_SUFFIXES) and not posixpath.basename(name).startswith(".")


def _class_folders(tree: Tree, split: str) -> dict[str, list[str]]:
    """The images of each folder `<split>/<class>/`, at any depth below it."""
    by_class: dict[str, list[str]] = {}
    for name in tree.names:
        parts = name.split("/")
        if len(parts) > 2 and parts[0] == split and _is_image(name):
            by_class.setdefault(parts[1], []).append(name)
    return by_class


def _annotated(tree: Tree, place: Path) -> dict[str, list[str]]:
    """The images of `val/images/` by the class that Tiny ImageNet's val_annotations.txt tells.

    Empty if the validation images are not laid out like that. Raises DataError if images and
    annotations do not fit together.
    """
    images = {n for n in tree.names if n.startswith("val/images/") and _is_image(n)}
    if not images or _ANNOTATIONS not in tree.names:
        return {}
    by_class: dict[str, list[str]] = {}
    annotated = set()
    for line in tree.read(_ANNOTATIONS).decode().splitlines():
        file, separator, rest = line.partition("\t")
        if separator:
            annotated.add(f"val/images/{file}")
            by_class.setdefault(rest.partition("\t")[0], []).append(f"val/images/{file}")
    if annotated != images:
        odd = sorted(annotated ^ images)
        raise DataError(
            f"{place}: the images in val/images/ are not those in {_ANNOTATIONS}: expected "
            f"{len(annotated):,} images, found {len(images):,}; e.g. {odd[0]} is only in one of "
            "the two. Unpack the official archive again."
        )
    return by_class


def _check_classes(
    data_set: DataSet, place: Path, train: dict[str, list[str]], test: dict[str, list[str]]
) -> None:
    """Every class has training and test images, and there are at least two."""
    if len(train) < 2:
        raise DataError(
            f"{data_set.title}: expected at least two class folders with images in {place}/train, "
            f"found {', '.join(train) or 'none'}."
        )
    missing = sorted(train.keys() - test.keys())
    surplus = sorted(test.keys() - train.keys())
    if missing or surplus:
        text = f"{data_set.title} in {place}: training and test images have not the same classes."
        if missing:
            text += f" Without test images: {some(missing)}."
        if surplus:
            text += f" Without training images: {some(surplus)}."
        if surplus == ["images"]:
            text += (
                f" Images of val/images/ are told apart by {_ANNOTATIONS}, which is not there: "
                "restore it, or sort them into val/<class>/."
            )
        raise DataError(f"{text} Each class needs a folder with images in both.")


def _check_whole(data_set: DataSet, place: Path, listing: dict[Part, dict[str, list[str]]]) -> None:
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
    _check_classes(data_set, place, listing["train"], listing["test"])


def _read_images(
    data_set: DataSet,
    place: Path,
    tree: Tree,
    by_class: dict[str, list[str]],
    allocate: Allocate,
    part: Part,
    report: Report,
    exact: bool = False,
) -> Index:
    """Fill a part class by class, in the order of the file names; returns the labels (N,).

    All layouts keep the images of a class in one folder, so they give the same order. `exact`
    refuses images of another size than the data set's.
    """
    ordered = [
        (label, name)
        for label, key in enumerate(sorted(by_class))
        for name in sorted(by_class[key])
    ]
    images = allocate(part, len(ordered))
    size = data_set.image_size
    for i, (_, name) in enumerate(ordered):
        image = open_image(tree.read(name), f"{place}: {name}")
        if exact and image.size != (size, size):
            raise DataError(
                f"{place}: {name} has {image.width} x {image.height} pixels, expected {size} x "
                f"{size}. It is not the official image: unpack the official archive again."
            )
        images[i] = np.asarray(_square(image, size)).transpose(2, 0, 1)
        if (i + 1) % REPORT_EVERY == 0:
            report(f"{data_set.title}: {i + 1:,} of {len(ordered):,} {part} images")
    return np.array([label for label, _ in ordered], dtype=np.int64)


def _square(image: Image.Image, size: int) -> Image.Image:
    """The centre of an image whose shorter side was resized to `size` (bicubic, antialiased)."""
    width, height = image.size
    if min(width, height) != size:
        scale = size / min(width, height)
        # int() after the product, as torchvision's Resize does it.
        width, height = max(size, int(width * scale)), max(size, int(height * scale))
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


_READERS: dict[Layout, Reader] = {
    **TARGET_READERS,
    "cifar": _decode_cifar,
    "stl10": _decode_stl10,
    "tiny-imagenet": _decode_tiny,
    "class-folders": _decode_folders,
}
