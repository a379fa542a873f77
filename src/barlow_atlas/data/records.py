"""TFRecord files of `tf.train.Example`, as TensorFlow Datasets writes them: where their values lie.

Nothing but where each value begins and ends is read, so that images stay in their files. Sources:
https://www.tensorflow.org/tutorials/load_data/tfrecord,
https://protobuf.dev/programming-guides/encoding/.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from barlow_atlas.data.errors import DataError

_LENGTH, _CHECKSUM = 8, 4
"""Bytes around a record: length and its checksum before it, its own checksum behind it."""
_KEY, _VALUE = 1, 2


class Span(NamedTuple):
    """Where a value begins and ends in its file."""

    first: int
    last: int


def records(path: Path) -> Iterator[tuple[mmap.mmap, dict[str, Span]]]:
    """For each example of a file: the file's bytes, and where each feature's first value lies.

    Raises:
        DataError: it is no whole file of that kind.
    """
    if not path.stat().st_size:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        place = 0
        try:
            while place < len(data):
                first = place + _LENGTH + _CHECKSUM
                last = first + int.from_bytes(data[place : place + _LENGTH], "little")
                place = last + _CHECKSUM
                if place > len(data):
                    raise ValueError("its last record is cut off")
                yield data, _features(data, Span(first, last))
        except (ValueError, IndexError, KeyError) as error:
            raise DataError(
                f"{path} is no whole file of TensorFlow examples: {error}. Fetch it again."
            ) from error


def whole_number(data: mmap.mmap, place: int) -> tuple[int, int]:
    """The number that begins at a place (a varint), and where it ends."""
    number = shift = 0
    while True:
        byte = data[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return (number - (1 << 64) if number >> 63 else number), place


def _features(data: mmap.mmap, example: Span) -> dict[str, Span]:
    """Example.features.feature, each with its list of bytes, floats or whole numbers."""
    spans = {}
    for _, features in _fields(data, example):
        for _, entry in _fields(data, features):
            parts = dict(_fields(data, entry))
            for _, values in _fields(data, parts[_VALUE]):
                first = next(_fields(data, values), None)
                if first:
                    spans[data[slice(*parts[_KEY])].decode()] = first[1]
    return spans


def _fields(data: mmap.mmap, message: Span) -> Iterator[tuple[int, Span]]:
    """Number and content of each field of a message."""
    place = message.first
    while place < message.last:
        tag, first = whole_number(data, place)
        match tag & 7:
            case 0:  # a varint
                place = whole_number(data, first)[1]
            case 1:
                place = first + 8
            case 2:  # bytes, a message, or packed numbers
                length, first = whole_number(data, first)
                place = first + length
            case 5:
                place = first + 4
            case other:
                raise ValueError(f"a field of kind {other} at byte {place:,}")
        if not first <= place <= message.last:
            raise ValueError(f"a field of {place - first:,} bytes at byte {first:,}")
        yield tag >> 3, Span(first, place)
