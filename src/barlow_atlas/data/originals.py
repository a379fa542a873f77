"""Images as their files have them: shards of concatenated bytes, and any image by its number."""

import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from barlow_atlas.data.errors import DataError
from barlow_atlas.data.selection import Index

INDEX = ("offsets", "crc32", "heights_and_widths")
"""What is stored beside the shards of a part, as `<part>_<name>.npy`."""


def shard_name(part: str, number: int) -> str:
    """Such as `train_00042.shard`; the shards of a part are numbered from 0."""
    return f"{part}_{number:05d}.shard"


@dataclass(frozen=True)
class Originals:
    """The encoded images of one part of a data set; memory-mapped and read-only.

    Attributes:
        name: of their data set and part, for messages.
        shards: bytes, uint8 (m,) each. No image lies in two of them.
        offsets: int64 (n + 1,): image i is bytes offsets[i] to offsets[i + 1] of all shards, one
            after another.
        crc32: uint32 (n,), of each image's bytes.
        heights_and_widths: int32 (n, 2), of the decoded images, pixels.
    """

    name: str
    shards: Sequence[NDArray[np.uint8]]
    offsets: NDArray[np.int64]
    crc32: NDArray[np.uint32]
    heights_and_widths: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.crc32)

    @cached_property
    def _ends(self) -> Index:
        """Where each shard ends among the bytes of all (shards,)."""
        return np.cumsum([len(shard) for shard in self.shards], dtype=np.int64)

    def encoded(self, number: int) -> NDArray[np.uint8]:
        """A copy of an image's file, a whole JPEG or PNG.

        Raises:
            DataError: its bytes are no longer those that were stored.
        """
        first, last = self.offsets[number : number + 2].tolist()
        shard = int(np.searchsorted(self._ends, first, side="right"))
        before = int(self._ends[shard - 1]) if shard else 0
        content = np.array(self.shards[shard][first - before : last - before])
        crc32 = zlib.crc32(content.data)
        if crc32 != self.crc32[number]:
            raise DataError(
                f"{self.name}: image {number} is damaged in its shard {shard}: its crc32 should be "
                f"{int(self.crc32[number])} and is {crc32}. Prepare the data set "
                "again, or fetch the prepared folder with `dvc pull`."
            )
        return content


@dataclass(frozen=True)
class OriginalSet:
    """Chosen images of several parts, one part after another; nothing is read or copied.

    Attributes:
        parts: encoded images, each with the numbers of its chosen ones (n,).
    """

    parts: tuple[tuple[Originals, Index], ...]

    def __len__(self) -> int:
        return sum(len(rows) for _, rows in self.parts)

    def __getitem__(self, places: slice | Index) -> "OriginalSet":
        """The set of the images at `places` of this one."""
        if isinstance(places, slice):
            places = np.arange(len(self))[places]
        ends = np.cumsum([len(rows) for _, rows in self.parts])
        parts = []
        for k, group in itertools.groupby(places, lambda p: int(np.searchsorted(ends, p, "right"))):
            part, rows = self.parts[k]
            parts.append((part, rows[np.array(list(group)) - (ends[k] - len(rows))]))
        return OriginalSet(tuple(parts))

    def encoded(self, place: int) -> NDArray[np.uint8]:
        """The file of the image at a place of the whole set; see `Originals.encoded`."""
        for part, rows in self.parts:
            if place < len(rows):
                return part.encoded(int(rows[place]))
            place -= len(rows)
        raise IndexError(f"places must lie in [0, {len(self)})")

    def sizes(self, places: Index) -> NDArray[np.int64]:
        """Height and width, pixels, of the images at `places` (n,): (n, 2)."""
        sizes = np.empty((len(places), 2), dtype=np.int64)
        first = 0
        for part, rows in self.parts:
            mask = (places >= first) & (places < first + len(rows))
            sizes[mask] = part.heights_and_widths[rows[places[mask] - first]]
            first += len(rows)
        return sizes
