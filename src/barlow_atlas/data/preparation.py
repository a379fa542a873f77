"""From official files to a folder of uint8 arrays, written aside and then renamed into place."""

import errno
import hashlib
import io
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

from barlow_atlas.atomic import replace_folder, sync_tree, write_atomically, writing
from barlow_atlas.data.catalog import DataSet, Part
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.formats import decode
from barlow_atlas.data.prepared import MANIFEST, ArrayFile, HoldOut, Manifest, Subset, sha256_of
from barlow_atlas.data.reading import Decoded, Images
from barlow_atlas.data.selection import Index, draw_validation
from barlow_atlas.data.sources import Report, locate
from barlow_atlas.data.survey import SOURCES

_STATISTICS_CHUNK = 1_000
_BLOCK = 1 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

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
    `sources.locate`). The folder appears whole or not at all: on any failure what was there before
    stays as it was. `report` receives a line at every step.

    Raises:
        DataError: the files cannot be had, or are not what they should be.
        WriteError: the folder cannot be written.
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
            write_atomically(folder / f"{name}.npy", _npy(array))
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
            write_atomically(folder / SOURCES, (sources.model_dump_json(indent=2) + "\n").encode())
        write_atomically(folder / MANIFEST, manifest.to_json().encode())
    counts = ", ".join(f"{len(array):,} {part}" for part, array in images.items())
    report(f"{data_set.title}: prepared ({counts}, of train {len(validation):,} validation)")
    return manifest


def _new_array(path: Path, shape: tuple[int, ...]) -> _OnDisk:
    """A uint8 array on disk, written through a memory map: it may be larger than the memory.

    It has its room at once, because a disk that fills up under a memory map kills the process with
    SIGBUS. Raises WriteError if there is not enough.
    """
    size = int(np.prod(shape))
    with writing(path, size):
        array: _OnDisk = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, array.offset + size)
            except OSError as error:
                if error.errno in _NO_ROOM:
                    raise
                # This file system cannot reserve; what was written has its room.
                file.seek(array.offset)
                for start in range(0, size, _BLOCK):
                    file.write(bytes(min(_BLOCK, size - start)))
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


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


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
    """A new folder beside `destination` that takes its place if the block succeeds."""
    parent = destination.parent
    hidden = f".{destination.name}."
    with writing(destination):
        parent.mkdir(parents=True, exist_ok=True)
        for leftover in sorted(parent.glob(f"{hidden}*")):
            report(
                f"{leftover} remains of an interrupted preparation; delete it if none is running"
            )
        staging = parent / f"{hidden}new-{uuid.uuid4().hex}"
        try:
            staging.mkdir()
            yield staging
            sync_tree(staging)
            replace_folder(staging, destination)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
