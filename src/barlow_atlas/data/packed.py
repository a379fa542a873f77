"""Images as others packed them: WebDataset shards, TFDS's records, tables of Arrow and Parquet.

All are read where they are, image by image, in the order in which they come.
"""

import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from barlow_atlas.data.catalog import Part
from barlow_atlas.data.entries import Entry
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.records import records, whole_number
from barlow_atlas.data.survey import (
    IMAGE_ENDINGS,
    TABLES,
    TFRECORDS,
    WEBDATASET,
    ByClass,
    Survey,
    check_classes,
    kind_of,
    part_of,
)
from barlow_atlas.data.tables import rows
from barlow_atlas.data.tree import refuse, shown

_NO_LABEL = -1
TFDS_NAMES = "label.labels.txt"
"""Where TFDS keeps the names of the classes, one a line, beside its records."""


class _Pack(NamedTuple):
    """What a file holds."""

    entries: list[Entry]
    """Labelled by the file's own numbers, `_NO_LABEL` where there is none."""
    names: tuple[str, ...]
    """Of the classes; () where they are numbers only."""


def packed_entries(
    title: str, place: Path, packed: Survey
) -> tuple[tuple[str, ...], dict[Part, list[Entry]]]:
    """Names of the classes, and the images of each part, from the packed files of a folder.

    Classes are those with images, in the order of their numbers, which are their names where
    nothing else is told.

    Raises:
        DataError: a file cannot be read or images have no class, all of which are listed; or files
            do not agree on the classes.
    """
    read = _READERS[str(kind_of(min(packed.states)))]
    packs = {name: read(place, name) for name in sorted(packed.states)}
    names = _names(title, place, {name: pack.names for name, pack in packs.items()})
    refuse(
        f"{title}: images in {place} without a class:",
        [
            f"{shown(entry.name)} has {_label_told(entry.label, names)}"
            for pack in packs.values()
            for entry in pack.entries
            if entry.label < 0 or (names and entry.label >= len(names))
        ],
        "Remove them, or move a part without labels away. Then start the same command again.",
    )
    entries: dict[Part, list[Entry]] = {"train": [], "test": []}
    for name, pack in packs.items():
        entries["train" if part_of(name) == "train" else "test"] += pack.entries
    by_class: dict[Part, ByClass] = {"train": {}, "test": {}}
    for part, those in entries.items():
        for entry in those:
            name = names[entry.label] if names else str(entry.label)
            by_class[part].setdefault(name, []).append(entry.name)
    check_classes(title, place, by_class["train"], by_class["test"])
    numbers = sorted({entry.label for entry in entries["train"]})
    new = {number: k for k, number in enumerate(numbers)}
    classes = tuple(names[number] if names else str(number) for number in numbers)
    return classes, {
        part: [entry._replace(label=new[entry.label]) for entry in those]
        for part, those in entries.items()
    }


def _label_told(label: int, names: tuple[str, ...]) -> str:
    return "no label" if label == _NO_LABEL else f"the label {label} of {len(names)} classes"


def _names(title: str, place: Path, of_files: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The classes on which all files agree."""
    first, *others = of_files
    for other in others:
        if of_files[other] != of_files[first]:
            raise DataError(
                f"{title}: {first} and {other} in {place} have other classes, or in another order. "
                "Write them anew from one data set."
            )
    return of_files[first]


def _shard(place: Path, file: str) -> _Pack:
    """Of WebDataset: members that share their names up to the first dot are one sample."""
    images: dict[str, Entry] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(place / file, "r:") as tar:
            for member in filter(tarfile.TarInfo.isfile, tar):
                folder, _, name = member.name.rpartition("/")
                key, _, ending = name.partition(".")
                key = f"{folder}/{key}"
                if ending == "cls":
                    labels[key] = _number(tar, member, place / file)
                elif f".{ending.lower()}" in IMAGE_ENDINGS:
                    inside = f"{file}/{member.name}"
                    if key in images:
                        raise DataError(
                            f"{images[key].name} and {inside} are one sample in {place}, of which "
                            "one image is expected: leave all but one out, or rename them."
                        )
                    images[key] = Entry(inside, file, member.offset_data, member.size, _NO_LABEL)
    except tarfile.TarError as error:
        raise DataError(
            f"{place / file} is no whole, uncompressed tar archive: {error}. Fetch it again, or "
            "decompress it."
        ) from error
    labelled = (image._replace(label=labels.get(key, _NO_LABEL)) for key, image in images.items())
    return _Pack(list(labelled), ())


def _number(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> int:
    content = tar.extractfile(member)
    text = content.read() if content else b""
    try:
        return int(text)
    except ValueError as error:
        raise DataError(
            f"{path}/{member.name} holds {text[:40]!r}; expected the number of a class in digits."
        ) from error


def _records(place: Path, file: str) -> _Pack:
    """Of TFDS: examples with the features image and label, and file_name if there is one."""
    entries = []
    for k, (data, spans) in enumerate(records(place / file)):
        if "image" not in spans:
            raise DataError(
                f"{place / file} has examples without the feature image; they have "
                f"{', '.join(sorted(spans)) or 'none'}. Write them as TFDS writes a data set of "
                "images: with image, an encoded file, and label, a number."
            )
        first, last = spans["image"]
        label = spans.get("label")
        number = whole_number(data, label.first)[0] if label else _NO_LABEL
        name = data[slice(*spans["file_name"])].decode() if "file_name" in spans else f"record {k}"
        entries.append(Entry(f"{file}/{name}", file, first, last - first, number))
    told = (place / file).with_name(TFDS_NAMES)
    names = told.read_text(encoding="utf-8").splitlines() if told.is_file() else ()
    return _Pack(entries, tuple(names))


def _table(place: Path, file: str) -> _Pack:
    told, names = rows(place / file)
    entries = [
        Entry(
            f"{file}/{PurePosixPath(row.path).name if row.path else f'row {k}'}",
            file,
            k,
            row.size,
            _NO_LABEL if row.label is None else row.label,
        )
        for k, row in enumerate(told)
    ]
    return _Pack(entries, names)


_READERS: dict[str, Callable[[Path, str], _Pack]] = {
    WEBDATASET: _shard,
    TFRECORDS: _records,
    TABLES: _table,
}
