"""From official files to a folder of uint8 arrays, written aside and then renamed into place."""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from barlow_atlas.data.catalog import DataSet, Part
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.formats import decode
from barlow_atlas.data.prepared import MANIFEST, ArrayFile, HoldOut, Manifest, Subset, sha256_of
from barlow_atlas.data.reading import Decoded, Images
from barlow_atlas.data.selection import Index, draw_validation
from barlow_atlas.data.sources import Report, locate
from barlow_atlas.data.survey import SOURCES

_STATISTICS_CHUNK = 1_000

_OnDisk = np.memmap[Any, np.dtype[np.uint8]]


def _silent(_: str) -> None:
    pass


def prepare(
    data_set: DataSet,
    destination: Path,
    raw: Path,
    mirrors: Sequence[str] = (),
    report: Report = _silent,
) -> Manifest:
    """Write the arrays and the manifest of a data set into the folder `destination`.

    Official files are looked up in `raw`, then in `mirrors`, then downloaded (see
    `sources.locate`). The folder appears whole or not at all: on any failure (DataError, or a full
    disk) what was there before stays as it was. `report` receives a line at every step.
    """
    place = locate(data_set, raw, mirrors, report) if data_set.official_folder else None
    destination = destination.resolve()
    with _replacement(destination, report) as folder:
        images: dict[Part, _OnDisk] = {}

        def allocate(part: Part, count: int) -> Images:
            shape = (count, 3, data_set.image_size, data_set.image_size)
            images[part] = _new_array(folder / f"{part}_images.npy", shape)
            return images[part]

        decoded = decode(data_set, place, allocate, report)
        _check_counts(data_set, images, decoded)
        validation = draw_validation(
            decoded.labels["train"], data_set.validation_share, data_set.split_seed
        )
        small = {f"{part}_labels": labels for part, labels in decoded.labels.items()}
        small["validation_index"] = validation
        for written in images.values():
            written.flush()
        for name, array in small.items():
            np.save(folder / f"{name}.npy", array)
        repeated = duplicates(images["train"], images["test"])
        if repeated:
            report(
                f"{data_set.title}: {repeated:,} of {len(images['test']):,} test images have the "
                "pixels of a training image, as they are stored"
            )
        report(f"{data_set.title}: computing statistics and checksums")
        arrays: dict[str, NDArray[Any]] = {f"{part}_images": a for part, a in images.items()}
        arrays.update(small)
        manifest = _describe(data_set, decoded, images, validation, _files(folder, arrays))
        if decoded.survey:
            sources = decoded.survey.sources(repeated)
            (folder / SOURCES).write_text(sources.model_dump_json(indent=2) + "\n")
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    counts = ", ".join(f"{len(array):,} {part}" for part, array in images.items())
    report(f"{data_set.title}: prepared ({counts}, of train {len(validation):,} validation)")
    return manifest


def _new_array(path: Path, shape: tuple[int, ...]) -> _OnDisk:
    """A uint8 array on disk, written through a memory map: it may be larger than the memory.

    Its space is reserved at once, because a disk that fills up under a memory map kills the
    process with SIGBUS. Raises DataError if there is not enough.
    """
    array: _OnDisk = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    size = path.stat().st_size
    if hasattr(os, "posix_fallocate"):
        try:
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise DataError(
                f"{path.name} needs {size:,} bytes in {path.parent.parent}, where "
                f"{shutil.disk_usage(path.parent).free:,} are free: {error.strerror}. Make room."
            ) from error
    return array


def _check_counts(data_set: DataSet, images: Mapping[Part, Images], decoded: Decoded) -> None:
    """Raise DataError unless images, labels and the catalogue's facts agree."""
    classes = len(decoded.class_names)
    if data_set.classes not in (None, classes):
        raise DataError(
            f"{data_set.title}: expected {data_set.classes} names of classes, found {classes}."
        )
    for part, array in images.items():
        expected = getattr(data_set.counts, part) if data_set.counts else len(array)
        if len(array) != expected:
            raise DataError(
                f"{data_set.title}: expected {expected:,} {part} images, found {len(array):,}."
            )
        if part == "unlabeled":
            continue
        labels = decoded.labels[part]
        if len(labels) != len(array):
            raise DataError(
                f"{data_set.title}: {len(array):,} {part} images have {len(labels):,} labels."
            )
        # A class with a single image cannot be in both parts of a split that is drawn.
        drawn = data_set.test_share is not None
        present = np.concatenate(list(decoded.labels.values())) if drawn else labels
        absent = np.setdiff1d(np.arange(classes), present)
        foreign = np.setdiff1d(labels, np.arange(classes))
        if absent.size or foreign.size:
            raise DataError(
                f"{data_set.title}: expected {part} images of each of the classes 0 to "
                f"{classes - 1}; missing: {absent.tolist()}, unknown: {foreign.tolist()}. "
                "The files are not the official ones: replace them."
            )


def _describe(
    data_set: DataSet,
    decoded: Decoded,
    images: Mapping[Part, Images],
    validation: Index,
    files: dict[str, ArrayFile],
) -> Manifest:
    classes = len(decoded.class_names)

    def per_class(labels: Index) -> tuple[int, ...]:
        return tuple(np.bincount(labels, minlength=classes).tolist())

    def labelled(part: Part) -> Subset:
        return Subset(images=len(images[part]), per_class=per_class(decoded.labels[part]))

    mean, std = channel_statistics(images["train"])
    unlabeled = images.get("unlabeled")
    return Manifest(
        name=data_set.name,
        title=data_set.title,
        image_size=data_set.image_size,
        classes=decoded.class_names,
        train=labelled("train"),
        test=labelled("test"),
        unlabeled=None if unlabeled is None else Subset(images=len(unlabeled), per_class=None),
        validation=HoldOut(
            images=len(validation),
            per_class=per_class(decoded.labels["train"][validation]),
            share=data_set.validation_share,
            seed=data_set.split_seed,
        ),
        channel_mean=mean,
        channel_std=std,
        source=decoded.source,
        licence=data_set.licence,
        files=files,
    )


def _files(folder: Path, arrays: dict[str, NDArray[Any]]) -> dict[str, ArrayFile]:
    return {
        f"{name}.npy": ArrayFile(
            shape=array.shape,
            dtype=str(array.dtype),
            size=(folder / f"{name}.npy").stat().st_size,
            sha256=sha256_of(folder / f"{name}.npy"),
        )
        for name, array in sorted(arrays.items())
    }


def duplicates(train: Images, test: Images) -> int:
    """How many of the images `test` (N, 3, H, W) have the pixels of one of `train`, by hash."""
    known = {_hash(image) for image in train}
    return sum(_hash(image) in known for image in test)


def _hash(image: Images) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


Triple = tuple[float, float, float]


def channel_statistics(images: Images) -> tuple[Triple, Triple]:
    """Mean and standard deviation (divisor N) of each channel of (N, 3, H, W), scale 0 to 1.

    Computed from whole-number histograms: the result does not depend on the order of summation.
    """
    histogram = np.zeros((3, 256), dtype=np.int64)
    for start in range(0, len(images), _STATISTICS_CHUNK):
        chunk = images[start : start + _STATISTICS_CHUNK]
        for channel in range(3):
            histogram[channel] += np.bincount(chunk[:, channel].ravel(), minlength=256)
    means, stds = [], []
    for counts in histogram.tolist():
        total = sum(counts)
        first = sum(value * count for value, count in enumerate(counts))
        second = sum(value * value * count for value, count in enumerate(counts))
        means.append(round(first / total / 255, 6))
        stds.append(round(sqrt(second * total - first * first) / total / 255, 6))
    return (means[0], means[1], means[2]), (stds[0], stds[1], stds[2])


@contextmanager
def _replacement(destination: Path, report: Report) -> Iterator[Path]:
    """A new folder beside `destination` that takes its place if the block succeeds.

    Two renames replace an existing folder. Killed between them, the old one is still there under
    its hidden name; killed earlier, it was never touched.
    """
    parent = destination.parent
    parent.mkdir(parents=True, exist_ok=True)
    hidden = f".{destination.name}."
    for leftover in sorted(parent.glob(f"{hidden}*")):
        report(f"{leftover} remains of an interrupted preparation; delete it if none is running")
    token = uuid.uuid4().hex
    staging = parent / f"{hidden}new-{token}"
    staging.mkdir()
    try:
        yield staging
        _swap(staging, destination, parent / f"{hidden}old-{token}")
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _swap(staging: Path, destination: Path, aside: Path) -> None:
    """Rename `staging` to `destination`, whose old content goes `aside` and is then deleted."""
    if not destination.exists():
        os.rename(staging, destination)
        return
    os.rename(destination, aside)
    try:
        os.rename(staging, destination)
    except OSError:
        os.rename(aside, destination)
        raise
    # What cannot be deleted is reported by the next preparation; the result is in its place.
    shutil.rmtree(aside, ignore_errors=True)
