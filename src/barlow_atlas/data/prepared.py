"""A prepared data set on disk: the manifest and the memory-mapped arrays beside it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from barlow_atlas.data.choice import Protocol
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.selection import Index, Selection, select
from barlow_atlas.settings.frozen import Frozen

MANIFEST = "manifest.json"


class ArrayFile(Frozen):
    """One .npy file."""

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

    `channel_mean` and `channel_std` (R, G, B) are those of all training images, scale 0 to 1.
    """

    format: Literal[1] = 1
    name: str
    title: str
    image_size: int
    classes: tuple[str, ...]
    train: Subset
    test: Subset
    unlabeled: Subset | None
    validation: HoldOut
    channel_mean: tuple[float, float, float]
    channel_std: tuple[float, float, float]
    source: str
    licence: str
    files: dict[str, ArrayFile]

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"


@dataclass(frozen=True)
class Prepared:
    """The arrays of a data set, memory-mapped and read-only.

    Images are uint8 (N, 3, H, W), labels int64 (N,); `validation_index` (N_val,) holds sorted
    indices into the train part.
    """

    manifest: Manifest
    train_images: NDArray[np.uint8]
    train_labels: Index
    test_images: NDArray[np.uint8]
    test_labels: Index
    unlabeled_images: NDArray[np.uint8] | None
    validation_index: Index

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


def load(folder: Path, verify: bool = False) -> Prepared:
    """Open what `prepare` wrote into `folder`.

    Compares every file's size, shape and dtype with the manifest; with `verify` its sha256 as
    well, which reads everything. Raises DataError that names the file.
    """
    manifest = _read_manifest(folder)
    arrays = {name: _open(folder / name, file, verify) for name, file in manifest.files.items()}
    needed = {f"{field}.npy" for field in Prepared.__dataclass_fields__} - {"manifest.npy"}
    missing = needed - arrays.keys()
    if manifest.unlabeled is None:
        missing.discard("unlabeled_images.npy")
    if missing:
        raise DataError(
            f"{folder / MANIFEST} does not list {', '.join(sorted(missing))}. {_PREPARE_AGAIN}"
        )
    return Prepared(
        manifest=manifest,
        train_images=arrays["train_images.npy"],
        train_labels=arrays["train_labels.npy"],
        test_images=arrays["test_images.npy"],
        test_labels=arrays["test_labels.npy"],
        unlabeled_images=arrays.get("unlabeled_images.npy"),
        validation_index=arrays["validation_index.npy"],
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
    def wrong(what: str, wanted: object, found: object) -> DataError:
        return DataError(
            f"{path} is damaged: {what} should be {wanted} by the manifest and is {found}. "
            f"{_PREPARE_AGAIN}"
        )

    if not path.is_file():
        raise DataError(f"{path} is missing, though the manifest lists it. {_PREPARE_AGAIN}")
    if (size := path.stat().st_size) != expected.size:
        raise wrong("its size in bytes", expected.size, size)
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r")
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
