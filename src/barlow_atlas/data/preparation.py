"""From official files to a folder of arrays or shards, written aside, then renamed into place."""

import errno
import hashlib
import io
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from barlow_atlas.atomic import replace_folder, sync_tree, write_atomically, writing
from barlow_atlas.data.annotated import official_listing, size_faults
from barlow_atlas.data.catalog import DataSet, Part
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.formats import decode
from barlow_atlas.data.listing import Listing, listing_of
from barlow_atlas.data.objects import PRESENT, Objects, annotations, presence
from barlow_atlas.data.prepared import (
    LABEL_LISTS,
    MANIFEST,
    OBJECTS,
    ArrayFile,
    HoldOut,
    LabelLists,
    Manifest,
    Subset,
    labelled_file,
    sha256_of,
)
from barlow_atlas.data.reading import Decoded, Images, required
from barlow_atlas.data.selection import Index, draw_validation
from barlow_atlas.data.sharding import (
    SHARD_BYTES,
    PartIndex,
    part_index,
    repeated_files,
    shards_of,
    write_shards,
)
from barlow_atlas.data.sources import Report, locate
from barlow_atlas.data.survey import SOURCES, skipped_told
from barlow_atlas.data.tree import refuse

_STATISTICS_CHUNK = 1_000
_BLOCK = 1 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

MOST_CORES = 16
"""Threads that write shards, at most: a login node is shared."""

Triple = tuple[float, float, float]
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
    """Write the arrays or shards and the manifest of a data set into the folder `destination`.

    Official files are looked up in `raw`, then in `mirrors`, then downloaded (see
    `sources.locate`). The folder appears whole or not at all: on any failure what was there before
    stays as it was. `report` receives a line at every step.

    Raises:
        DataError: the files cannot be had, or are not what they should be.
        WriteError: the folder cannot be written.
    """
    destination = destination.resolve()
    side = data_set.image_size
    place = locate(data_set, raw, mirrors, report) if data_set.official_folder else None
    if side is None:
        listing = (
            official_listing(data_set, place)
            if place
            else listing_of(data_set, Path(required(data_set.path)).expanduser())
        )
        return _prepare_originals(data_set, listing, destination, report)
    with _replacement(destination, report) as folder:
        images: dict[Part, _OnDisk] = {}

        def allocate(part: Part, count: int) -> Images:
            shape = (count, 3, side, side)
            images[part] = _new_array(folder / f"{part}_images.npy", shape)
            return images[part]

        decoded = decode(data_set, place, allocate, report)
        _check_counts(data_set, images, decoded)
        strata = rarest_class(decoded.labels["train"])
        validation = draw_validation(strata, data_set.validation_share, data_set.split_seed)
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
        statistics = channel_statistics(images["train"])
        files = _files(folder, arrays)
        manifest = _describe(data_set, decoded, images, validation, statistics, files)
        if decoded.survey:
            sources = decoded.survey.sources(repeated)
            write_atomically(folder / SOURCES, (sources.model_dump_json(indent=2) + "\n").encode())
        write_atomically(folder / MANIFEST, manifest.to_json().encode())
    counts = ", ".join(f"{len(array):,} {part}" for part, array in images.items())
    report(f"{data_set.title}: prepared ({counts}, of train {len(validation):,} validation)")
    return manifest


def _prepare_originals(
    data_set: DataSet, listing: Listing, destination: Path, report: Report
) -> Manifest:
    """`prepare` for images that are stored as their files have them.

    Whole shards are kept when the preparation is ended, and the next one goes on from them.
    """
    title = data_set.title
    if listing.survey.skipped:
        report(f"{title}: left out in {listing.place}: {skipped_told(listing.survey.skipped)}")
    aside = destination.parent
    folder, records = (aside / f".{destination.name}.{what}" for what in ("shards", "records"))
    shards = list(shards_of(listing, SHARD_BYTES))
    cores = min(MOST_CORES, len(os.sched_getaffinity(0)))
    written = write_shards(shards, folder, records, cores, report)
    faults = [fault for record in written for fault in record.faults]
    if data_set.unreadable == "refuse":
        refuse(
            f"{title}: {len(faults):,} of its images cannot be used:",
            [fault.why for fault in faults],
            "Replace or remove them, or leave them out with `unreadable: skip` under the study's "
            "`data`. Then start the same command again.",
        )
    parts = list(listing.entries)
    index = {part: part_index(part, shards, written) for part in parts}
    objects = {part: _objects(listing, part, index[part]) for part in listing.objects}
    for part, annotated in objects.items():
        index[part] = index[part]._replace(labels=presence(annotated, len(listing.classes)))
    images = {part: index[part].opened(title, folder) for part in parts}
    decoded = Decoded(listing.classes, {part: index[part].labels for part in parts}, listing.source)
    _check_counts(data_set, images, decoded)
    strata = rarest_class(decoded.labels["train"])
    validation = draw_validation(strata, data_set.validation_share, data_set.split_seed)
    small = {f"{part}_{name}": a for part in parts for name, a in index[part].arrays.items()}
    for part, annotated in objects.items():
        stored = annotations(annotated)
        columns: tuple[NDArray[Any], ...] = (stored.lines, stored.ends)
        small |= {f"{part}_{name}": a for name, a in zip(OBJECTS, columns, strict=True)}
    small["validation_index"] = validation
    repeated = repeated_files(images["train"], images["test"])
    if repeated:
        report(f"{title}: {repeated:,} test images have the bytes of a training image")
    with writing(folder):
        for name, array in small.items():
            write_atomically(folder / f"{name}.npy", _npy(array))
        files = {
            shard.name: ArrayFile(
                shape=(record.size,),
                dtype="uint8",
                size=record.size,
                sha256=record.sha256,
            )
            for shard, record in zip(shards, written, strict=True)
            if record.size
        }
        manifest = _describe(
            data_set, decoded, images, validation, (None, None), files | _files(folder, small)
        ).model_copy(update={"skipped": tuple(fault.name for fault in faults)})
        sources = listing.survey.sources(repeated)
        write_atomically(folder / SOURCES, (sources.model_dump_json(indent=2) + "\n").encode())
        _write_label_lists(folder, listing, index["train"])
        write_atomically(folder / MANIFEST, manifest.to_json().encode())
        for shard, record in zip(shards, written, strict=True):
            if not record.size:
                (folder / shard.name).unlink()
        replace_folder(folder, destination)
    shutil.rmtree(records, ignore_errors=True)
    told = ", ".join(f"{len(each):,} {part}" for part, each in images.items())
    skipped = f", {len(faults):,} that cannot be decoded left out" if faults else ""
    report(f"{title}: prepared ({told}, of train {len(validation):,} validation{skipped})")
    return manifest


def _write_label_lists(folder: Path, listing: Listing, train: PartIndex) -> None:
    """Which of the stored training images each published list of labels names."""
    if not listing.labelled:
        return
    names = [listing.entries["train"][k].base_name for k in train.kept.tolist()]
    files = {}
    for name, labelled in listing.labelled.items():
        path = folder / labelled_file(name)
        places = np.flatnonzero([each in labelled for each in names])
        write_atomically(path, _npy(places))
        files[name] = _described(path, places)
    write_atomically(folder / LABEL_LISTS, LabelLists(files=files).to_json().encode())


def _objects(listing: Listing, part: Part, index: PartIndex) -> list[Objects]:
    """What is annotated in each stored image of a part.

    Raises:
        DataError: an image has not the size that its annotation says.
    """
    kept = index.kept.tolist()
    entries = [listing.entries[part][k] for k in kept]
    objects = [listing.objects[part][k] for k in kept]
    refuse(
        f"{listing.place}: images and annotations do not fit together:",
        list(size_faults(entries, objects, index.heights_and_widths.tolist())),
        "Replace both by the official files.",
    )
    return objects


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


def _check_counts(data_set: DataSet, images: Mapping[Part, Sized], decoded: Decoded) -> None:
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
        if labels.ndim == 2:
            _check_presence(data_set, part, labels, classes)
            continue
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


def _check_presence(data_set: DataSet, part: Part, labels: Index, classes: int) -> None:
    """Raise DataError unless each class is present in some image of labels (N, classes)."""
    counts = np.count_nonzero(labels == PRESENT, axis=0)
    if len(counts) != classes or not counts.all():
        raise DataError(
            f"{data_set.title}: expected {part} images of each of {classes} classes; missing: "
            f"{np.flatnonzero(counts == 0).tolist()}. The files are not the official ones: replace "
            "them."
        )


def rarest_class(labels: Index) -> Index:
    """A class (N,) of each image to stratify by: its own, or the rarest of those present in it.

    Args:
        labels: classes (N,), or of images with several (N, classes), see `objects.presence`.
    """
    if labels.ndim == 1:
        return labels
    present = labels == PRESENT
    rarest: Index = np.where(present, present.sum(axis=0), len(labels) + 1).argmin(axis=1)
    return rarest


def _describe(
    data_set: DataSet,
    decoded: Decoded,
    images: Mapping[Part, Sized],
    validation: Index,
    statistics: tuple[Triple | None, Triple | None],
    files: dict[str, ArrayFile],
) -> Manifest:
    classes = len(decoded.class_names)

    def per_class(labels: Index) -> tuple[int, ...]:
        if labels.ndim == 2:
            return tuple(np.count_nonzero(labels == PRESENT, axis=0).tolist())
        return tuple(np.bincount(labels, minlength=classes).tolist())

    def labelled(part: Part) -> Subset:
        return Subset(images=len(images[part]), per_class=per_class(decoded.labels[part]))

    mean, std = statistics
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
        f"{name}.npy": _described(folder / f"{name}.npy", array)
        for name, array in sorted(arrays.items())
    }


def _described(file: Path, array: NDArray[Any]) -> ArrayFile:
    return ArrayFile(
        shape=array.shape,
        dtype=str(array.dtype),
        size=file.stat().st_size,
        sha256=sha256_of(file),
    )


def duplicates(train: Images, test: Images) -> int:
    """How many of the images `test` (N, 3, H, W) have the pixels of one of `train`, by hash."""
    known = {_hash(image) for image in train}
    return sum(_hash(image) in known for image in test)


def _hash(image: Images) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


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
