"""Images of a data set that a step sees, read from their files when they are asked for."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from barlow_atlas.data.selection import Index

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class ImageSet:
    """Chosen rows of arrays of images, one array after another; nothing is copied.

    Attributes:
        parts: arrays uint8 (N, 3, H, W), memory-mapped or not, each with its chosen rows (n,).
    """

    parts: tuple[tuple[Pixels, Index], ...]

    def __len__(self) -> int:
        return sum(len(rows) for _, rows in self.parts)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, 3, H, W)."""
        return (len(self), *self.parts[0][0].shape[1:])

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape))

    def __getitem__(self, places: slice | Index) -> Pixels:
        """A copy of the images at `places` of the whole set, uint8 (n, 3, H, W)."""
        if isinstance(places, slice):
            places = np.arange(len(self))[places]
        images = np.empty((len(places), *self.shape[1:]), dtype=np.uint8)
        self.take(places, images)
        return images

    def take(self, places: Index, out: Pixels) -> None:
        """Copies the images at `places` (n,) into `out` (n, 3, H, W).

        Raises:
            IndexError: there is no such place.
        """
        if np.any((places < 0) | (places >= len(self))):
            raise IndexError(f"places must lie in [0, {len(self)})")
        first = 0
        for array, rows in self.parts:
            mask = (places >= first) & (places < first + len(rows))
            out[mask] = array[rows[places[mask] - first]]
            first += len(rows)
