"""From files of images to shards of their bytes: every image decoded once, on several cores.

A shard is a function of its images alone. So a preparation that was ended goes on with the shards
that are missing, and gives the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import PlainSerializer, PlainValidator, TypeAdapter

from barlow_atlas.atomic import write_atomically, writing
from barlow_atlas.data.catalog import Part
from barlow_atlas.data.decodable import LONGEST_SIDE, is_plain, is_whole
from barlow_atlas.data.entries import Entry, contents
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.listing import Listing
from barlow_atlas.data.originals import INDEX, Originals, shard_name
from barlow_atlas.data.pictures import (
    MOST_BYTES,
    MOST_PIXELS,
    ORIENTATION,
    decoded,
    opaque,
    upright,
)
from barlow_atlas.data.selection import Index
from barlow_atlas.data.sources import Report
from barlow_atlas.data.tree import shown
from barlow_atlas.settings.frozen import Frozen

SHARD_BYTES = 1 << 30
_FORMAT = 1
"""Of what is stored: another one makes all shards anew."""


_LIST = TypeAdapter(list[int])


def _as_array(given: object) -> NDArray[np.int64]:
    numbers = given if isinstance(given, np.ndarray) else _LIST.validate_python(given)
    return np.array(numbers, dtype=np.int64)


Numbers = Annotated[
    NDArray[np.int64], PlainValidator(_as_array), PlainSerializer(np.ndarray.tolist)
]
"""A list of whole numbers in JSON, held in a quarter of the list's memory."""


class Fault(Frozen):
    """An image that cannot be decoded."""

    name: str
    why: str


class ShardRecord(Frozen):
    """What is known of a written shard, in a file beside it until the data set is whole.

    Attributes:
        digest: sha256 of what it is made of: names, places, sizes and times of its images.
        kept: places among its entries of the images that it holds, in their order.
        lengths: bytes of each; `crc32`, `heights` and `widths` likewise.
    """

    digest: str
    sha256: str
    kept: Numbers
    lengths: Numbers
    crc32: Numbers
    heights: Numbers
    widths: Numbers
    faults: tuple[Fault, ...]

    @property
    def size(self) -> int:
        """Of the shard, bytes: none if none of its images can be decoded."""
        return int(self.lengths.sum())


class Shard(NamedTuple):
    """A shard to be written, and the images that go into it."""

    part: Part
    number: int
    entries: Sequence[Entry]
    place: Path
    """The folder that the entries' files lie in."""
    turned: bool
    digest: str

    @property
    def name(self) -> str:
        return shard_name(self.part, self.number)


def shards_of(listing: Listing, most: int) -> Iterator[Shard]:
    """The listed images in shards of at most `most` bytes, or of one larger image."""
    for part, entries in listing.entries.items():
        first, size, number = 0, 0, 0
        for k, entry in enumerate(entries):
            if k > first and size + entry.size > most:
                yield _shard(listing, part, number, entries[first:k])
                first, size, number = k, 0, number + 1
            size += entry.size
        yield _shard(listing, part, number, entries[first:])


def _shard(listing: Listing, part: Part, number: int, entries: Sequence[Entry]) -> Shard:
    told = hashlib.sha256(f"{_FORMAT} {listing.turned}\n".encode())
    for entry in entries:
        time = listing.survey.states[entry.file].time
        told.update(os.fsencode(f"{entry.name}\0{entry.offset}\0{entry.size}\0{time}\n"))
    return Shard(part, number, entries, listing.place, listing.turned, told.hexdigest())


def write_shards(
    shards: Sequence[Shard], folder: Path, records: Path, cores: int, report: Report
) -> list[ShardRecord]:
    """Writes what is missing of the shards into a folder, and returns the records of all.

    Args:
        records: the folder of their records, which tell what is whole.
        cores: threads that write a shard each.

    Raises:
        DataError: a file cannot be read.
        WriteError: the folders cannot be written.
    """
    with writing(folder):
        for each in (folder, records):
            each.mkdir(parents=True, exist_ok=True)
        wanted = {shard.name for shard in shards}
        for path in folder.iterdir():
            if path.name not in wanted:  # of another choice of images, or half written
                path.unlink()
    known = {shard.name: _read_record(folder, records, shard) for shard in shards}
    missing = [shard for shard in shards if known[shard.name] is None]
    if len(missing) < len(shards):
        report(f"{len(shards) - len(missing)} of {len(shards)} shards are there already")
    done, total = 0, sum(len(shard.entries) for shard in missing)
    # Threads suffice: decoding and hashing leave Python's lock to others.
    with ThreadPoolExecutor(cores, "shards") as pool:
        try:
            jobs = {pool.submit(write_shard, shard, folder, records): shard for shard in missing}
            for job in as_completed(jobs):
                known[jobs[job].name] = job.result()
                done += len(jobs[job].entries)
                report(f"{jobs[job].name}: {done:,} of {total:,} images decoded and stored")
        finally:
            pool.shutdown(cancel_futures=True)
    return [record for shard in shards if (record := known[shard.name]) is not None]


def _read_record(folder: Path, records: Path, shard: Shard) -> ShardRecord | None:
    """The record of a shard that is whole and made of the same images; else None."""
    path = folder / shard.name
    try:
        record = ShardRecord.model_validate_json((records / shard.name).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    whole = path.is_file() and path.stat().st_size == record.size
    return record if whole and record.digest == shard.digest else None


def write_shard(shard: Shard, folder: Path, records: Path) -> ShardRecord:
    """Writes a shard, then its record, without which it does not count."""
    measured: list[tuple[int, int, int, int, int]] = []
    faults: list[Fault] = []
    told = hashlib.sha256()
    path = folder / shard.name
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path), temporary.open("wb") as out:
        for k, (entry, content) in enumerate(contents(shard.place, shard.entries)):
            try:
                content, height, width = checked(content, shown(entry.name), shard.turned)
            except DataError as error:
                faults.append(Fault(name=shown(entry.name), why=str(error)))
                continue
            out.write(content)
            told.update(content)
            measured.append((k, len(content), zlib.crc32(content), height, width))
        out.flush()
        os.fsync(out.fileno())
        temporary.replace(path)
    kept, lengths, crc32, heights, widths = np.array(measured, dtype=np.int64).reshape(-1, 5).T
    record = ShardRecord(
        digest=shard.digest,
        sha256=told.hexdigest(),
        kept=kept,
        lengths=lengths,
        crc32=crc32,
        heights=heights,
        widths=widths,
        faults=tuple(faults),
    )
    write_atomically(records / shard.name, record.model_dump_json().encode())
    return record


def checked(content: bytes, what: str, turned: bool) -> tuple[bytes, int, int]:
    """The bytes that an image is stored as, and its height and width.

    They are the file's own where torchvision's decoder gives the pixels of `pictures.stored`'s
    rules; where not (CMYK, transparency, another format, an orientation in the file), a PNG of
    those pixels. What the file's name says of its format is not looked at.

    Raises:
        DataError: it cannot be decoded.
    """
    size = _size(content, turned)
    if size is not None:
        return content, *size

    def pixels(image: Image.Image) -> tuple[Image.Image, bool]:
        if max(image.size) > LONGEST_SIDE:
            raise ValueError(f"a side of at most {LONGEST_SIDE:,} pixels is read")
        right = opaque(upright(image) if turned else image)
        return right, image.format == "PNG" and is_plain(image, content, right)

    image, plain = decoded(io.BytesIO(content), what, len(content), 1, pixels)
    if not plain:
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=6)
        content = buffer.getvalue()
    return content, image.height, image.width


def _size(content: bytes, turned: bool) -> tuple[int, int] | None:
    """Height and width of a whole JPEG in grey or colour that is shown as it is; else None."""
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            width, height = image.size
            exif = turned and "exif" in image.info
            if exif and image.getexif().get(ORIENTATION, 1) != 1:
                return None
            small = width * height <= MOST_PIXELS and len(content) <= MOST_BYTES
            if not small or image.mode not in ("L", "RGB"):
                return None
            return (height, width) if is_whole(image, content) else None
    except Exception:  # whatever a damaged file makes them raise: the slow way says what it is
        return None


class PartIndex(NamedTuple):
    """What is kept of a part, over all of its shards."""

    kept: Index
    """Places of the kept images among those that were listed (n,)."""
    labels: Index
    offsets: NDArray[np.int64]
    crc32: NDArray[np.uint32]
    heights_and_widths: NDArray[np.int32]
    shards: tuple[str, ...]
    """Those that hold images."""
    part: Part

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is stored beside the shards, by name."""
        names = ("labels", *INDEX)
        return {name: getattr(self, name) for name in names}

    def opened(self, title: str, folder: Path) -> Originals:
        """The part's images, of which the shards lie in `folder`."""
        shards = [np.memmap(folder / name, mode="r") for name in self.shards]
        index = {name: getattr(self, name) for name in INDEX}
        return Originals(f"{title}, {self.part}", shards, **index)


def part_index(part: Part, shards: Sequence[Shard], records: Sequence[ShardRecord]) -> PartIndex:
    """The index of a part, from all shards of a data set and their records."""
    kept: list[NDArray[np.int64]] = []
    labels: list[NDArray[np.int64]] = []
    part_shards, before = [], 0
    for shard, record in zip(shards, records, strict=True):
        if shard.part != part:
            continue
        kept.append(before + record.kept)
        labels.append(np.array([each.label for each in shard.entries], dtype=np.int64)[record.kept])
        part_shards.append((shard, record))
        before += len(shard.entries)

    def joined(values: Callable[[ShardRecord], NDArray[np.int64]]) -> NDArray[np.int64]:
        return np.concatenate([values(record) for _, record in part_shards])

    sizes = [joined(lambda record: record.heights), joined(lambda record: record.widths)]
    return PartIndex(
        kept=np.concatenate(kept),
        labels=np.concatenate(labels),
        offsets=np.concatenate([[0], joined(lambda record: record.lengths).cumsum()]),
        crc32=joined(lambda record: record.crc32).astype(np.uint32),
        heights_and_widths=np.stack(sizes, axis=1).astype(np.int32),
        shards=tuple(shard.name for shard, record in part_shards if record.size),
        part=part,
    )


def repeated_files(train: Originals, test: Originals) -> int:
    """How many of the images `test` have the bytes of one of `train`."""
    keys = [part.crc32 + (np.diff(part.offsets) << 32) for part in (train, test)]
    order = np.argsort(keys[0], kind="stable")
    first, last = (np.searchsorted(keys[0][order], keys[1], side) for side in ("left", "right"))
    repetitions = 0
    for number in np.flatnonzero(first < last).tolist():
        content = test.encoded(number)
        alike = order[first[number] : last[number]].tolist()
        repetitions += any(np.array_equal(train.encoded(k), content) for k in alike)
    return repetitions
