"""A prepared data set on disk: the manifest and the memory-mapped files beside it."""

import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from barlow_atlas.data.choice import Protocol
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.image_set import ImageSet
from barlow_atlas.data.objects import Annotations
from barlow_atlas.data.originals import INDEX, Originals, OriginalSet, shard_name
from barlow_atlas.data.selection import Index, Selection, select
from barlow_atlas.settings.frozen import Frozen

MANIFEST = "manifest.json"
OBJECTS = ("object_lines", "object_ends")
"""What is stored of the objects of a part, as `<part>_<name>.npy`: see `objects.Annotations`."""
LABEL_LISTS = "label_lists.json"


class ArrayFile(Frozen):
    """One .npy file, or a shard: bytes without a header."""

    shape: tuple[int, ...]
    dtype: str
    size: int
    sha256: str


class Subset(Frozen):
    """A set of images and, where they are labelled, how many there are of each class."""

    images: int
    per_class: tuple[int, ...] | None


class HoldOut(Frozen):
    """How the validation images were drawn from the train part, which contains them."""

    images: int
    per_class: tuple[int, ...]
    share: float
    seed: int


class Manifest(Frozen):
    """What `manifest.json` says; the same bytes on every machine for the same images.

    `image_size` is that of the stored squares, pixels a side; None where images are stored as
    their files have them. `channel_mean` and `channel_std` (R, G, B) are those of all training
    images, scale 0 to 1; of originals they are not computed. `skipped` names the images that were
    left out, as the study said, since they cannot be decoded.
    """

    format: Literal[1] = 1
    name: str
    title: str
    image_size: int | None
    classes: tuple[str, ...]
    train: Subset
    test: Subset
    unlabeled: Subset | None
    validation: HoldOut
    channel_mean: tuple[float, float, float] | None
    channel_std: tuple[float, float, float] | None
    source: str
    licence: str
    skipped: tuple[str, ...] = Field((), exclude_if=lambda skipped: not skipped)
    files: dict[str, ArrayFile]

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"


class LabelLists(Frozen):
    """What `label_lists.json` says, if there are any: the file of each list, `labelled_<name>.npy`.

    Not in the manifest: networks that were trained without a list have seen the same images.
    """

    format: Literal[1] = 1
    files: dict[str, ArrayFile]

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def of(cls, folder: Path) -> "LabelLists":
        """Those of a prepared folder. Raises DataError if what it says of them is damaged."""
        try:
            return cls.model_validate_json((folder / LABEL_LISTS).read_bytes())
        except FileNotFoundError:
            return cls(files={})
        except ValidationError as error:
            raise DataError(
                f"{folder / LABEL_LISTS} is damaged: {error}. {_PREPARE_AGAIN}"
            ) from error


StoredImages = NDArray[np.uint8] | Originals
"""Squares, uint8 (N, 3, H, W), or encoded images."""


@dataclass(frozen=True)
class Prepared:
    """The files of a data set, memory-mapped and read-only.

    Labels are int64 (N,); `validation_index` (N_val,) holds sorted indices into the train part, and
    so does each of `label_lists`: the published choices of labels for semi-supervised evaluation.
    Objects are there where they are annotated; labels are then (N, classes), as `objects.presence`
    has them.
    """

    manifest: Manifest
    train_images: StoredImages
    train_labels: Index
    test_images: StoredImages
    test_labels: Index
    unlabeled_images: StoredImages | None
    validation_index: Index
    label_lists: dict[str, Index]
    train_objects: Annotations | None = None
    test_objects: Annotations | None = None

    def select(self, protocol: Protocol, fraction: float) -> Selection:
        """Which images a run sees under its protocol and fraction; see `selection.select`."""
        return select(
            self.train_labels,
            self.validation_index,
            protocol=protocol,
            fraction=fraction,
            seed=self.manifest.validation.seed,
            test_count=len(self.test_labels),
            unlabeled_count=0 if self.unlabeled_images is None else len(self.unlabeled_images),
        )


def labelled_file(name: str) -> str:
    """Of a list of labels: places among the training images (n,), rising."""
    return f"labelled_{name}.npy"


def chosen(*parts: tuple[StoredImages, Index]) -> ImageSet | OriginalSet:
    """The rows (n,) of each of some parts, as one set; images stay in their files."""
    originals = [(images, rows) for images, rows in parts if isinstance(images, Originals)]
    if originals:
        return OriginalSet(tuple(originals))
    return ImageSet(
        tuple((images, rows) for images, rows in parts if isinstance(images, np.ndarray))
    )


def load(folder: Path, verify: bool = False) -> Prepared:
    """Open what `prepare` wrote into `folder`.

    Compares every file's size, shape and dtype with the manifest; with `verify` its sha256 as
    well, which reads everything. Raises DataError that names the file.
    """
    manifest = _read_manifest(folder)
    arrays = {name: _open(folder / name, file, verify) for name, file in manifest.files.items()}

    def array(name: str) -> NDArray[Any]:
        if f"{name}.npy" not in arrays:
            raise DataError(f"{folder / MANIFEST} does not list {name}.npy. {_PREPARE_AGAIN}")
        return arrays[f"{name}.npy"]

    def images(part: str) -> StoredImages:
        if manifest.image_size is not None:
            return array(f"{part}_images")
        numbers = itertools.count()
        names = itertools.takewhile(arrays.__contains__, (shard_name(part, k) for k in numbers))
        index = {name: array(f"{part}_{name}") for name in INDEX}
        shards = [arrays[name] for name in names]
        return Originals(f"{manifest.title}, {part}", shards, **index)

    def objects(part: str) -> Annotations | None:
        if f"{part}_{OBJECTS[0]}.npy" not in arrays:
            return None
        return Annotations(*(array(f"{part}_{name}") for name in OBJECTS))

    return Prepared(
        manifest=manifest,
        train_images=images("train"),
        train_labels=array("train_labels"),
        test_images=images("test"),
        test_labels=array("test_labels"),
        unlabeled_images=None if manifest.unlabeled is None else images("unlabeled"),
        validation_index=array("validation_index"),
        label_lists={
            name: _open(folder / labelled_file(name), file, verify)
            for name, file in LabelLists.of(folder).files.items()
        },
        train_objects=objects("train"),
        test_objects=objects("test"),
    )


_PREPARE_AGAIN = "Prepare the data set again, or fetch the prepared folder with `dvc pull`."


def _read_manifest(folder: Path) -> Manifest:
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise DataError(
            f"no prepared data set in {folder}: expected {MANIFEST} there. {_PREPARE_AGAIN}"
        ) from error
    except ValidationError as error:
        raise DataError(
            f"{folder / MANIFEST} is damaged or of another format version: {error}. "
            f"{_PREPARE_AGAIN}"
        ) from error


def _open(path: Path, expected: ArrayFile, verify: bool) -> NDArray[Any]:
    def wrong(what: str, wanted: object, value: object) -> DataError:
        return DataError(
            f"{path} is damaged: {what} should be {wanted} by the manifest and is {value}. "
            f"{_PREPARE_AGAIN}"
        )

    if not path.is_file():
        raise DataError(f"{path} is missing, though the manifest lists it. {_PREPARE_AGAIN}")
    if (size := path.stat().st_size) != expected.size:
        raise wrong("its size in bytes", expected.size, size)
    try:
        array: NDArray[Any] = (
            np.load(path, mmap_mode="r") if path.suffix == ".npy" else np.memmap(path, mode="r")
        )
    except (ValueError, EOFError) as error:
        raise wrong("its header", "that of a .npy file", f"unreadable ({error})") from error
    if array.shape != expected.shape:
        raise wrong("its shape", expected.shape, array.shape)
    if str(array.dtype) != expected.dtype:
        raise wrong("its dtype", expected.dtype, array.dtype)
    if verify and (digest := sha256_of(path)) != expected.sha256:
        raise wrong("its sha256", expected.sha256, digest)
    return array


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
