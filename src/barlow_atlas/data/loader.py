"""Views of encoded images: decoded, cropped and resized by threads, and brought to the device.

A few batches are on their way while one is computed on. What is held are these and an image for
each thread, however many images there are.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from barlow_atlas.data.originals import OriginalSet

AHEAD = 2
"""Batches that are on their way to the device while one is computed on."""
CHUNKS = 4
"""Parts of a batch for each thread, as images differ in size."""

Show = Callable[[int, Tensor], Sequence[Tensor]]
"""From a row of a batch and its image, uint8 (3, H, W), to its views, uint8 (3, S, S) each."""


@dataclass(frozen=True)
class Request:
    """Views of a batch that are to come.

    Attributes:
        places: of the images in their set, int64 (n,) on the CPU.
        views: how many `show` makes of each image.
        size: S, pixels a side.
    """

    places: Tensor
    show: Show
    views: int
    size: int


Asked = TypeVar("Asked", bound=Request)


class Loader:
    """Encoded images whose views come to a device, in the order in which they are asked for.

    Attributes:
        waited: seconds in which a batch was asked for and not there yet.
        passed: seconds since the first batch was there, while batches were taken.
    """

    def __init__(self, images: OriginalSet, device: torch.device, threads: int) -> None:
        self.images = images
        self.device = device
        self.threads = threads
        self.waited = self.passed = 0.0

    def __len__(self) -> int:
        return len(self.images)

    @property
    def waiting(self) -> float:
        """The share of the time in which batches were waited for.

        Near 0 the device is the slower of the two, well above it decoding is.
        """
        return self.waited / self.passed if self.passed else 0.0

    def batches(self, requests: Iterable[Asked]) -> Iterator[tuple[Asked, Tensor]]:
        """Each request with its views, uint8 (views, n, 3, S, S) on the device.

        Requests are taken from the iterator as batches are begun, `AHEAD` of them beforehand.

        Raises:
            DataError: an image's bytes are no longer those that were stored.
        """
        waiting = iter(requests)
        coming: deque[_Coming[Asked]] = deque()
        began: float | None = None
        # A thread an image: torch is kept from starting others within each of them.
        single = partial(torch.set_num_threads, 1)
        with ThreadPoolExecutor(self.threads, "images", initializer=single) as pool:
            try:
                for request in itertools.islice(waiting, AHEAD):
                    coming.append(self._begin(pool, request))
                while coming:
                    asked = time.monotonic()
                    arrived = coming.popleft()
                    pixels = arrived.result()
                    now = time.monotonic()
                    if began is not None:
                        self.waited += now - asked
                        self.passed += now - began
                    began = now
                    for request in itertools.islice(waiting, 1):
                        coming.append(self._begin(pool, request))
                    yield arrived.request, pixels.to(self.device, non_blocking=True)
            finally:
                pool.shutdown(cancel_futures=True)

    def _begin(self, pool: ThreadPoolExecutor, request: Asked) -> "_Coming[Asked]":
        n = len(request.places)
        shape = (request.views, n, 3, request.size, request.size)
        pinned = self.device.type == "cuda"
        with torch.inference_mode(False):  # threads could not fill a tensor of that mode
            pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
        rows = np.array_split(np.arange(n), min(n, CHUNKS * self.threads))
        parts = [pool.submit(self._fill, request, chunk, pixels) for chunk in rows]
        return _Coming(request, pixels, parts)

    def _fill(self, request: Request, rows: NDArray[np.int64], pixels: Tensor) -> None:
        for row in rows.tolist():
            image = decode(torch.from_numpy(self.images.encoded(int(request.places[row]))))
            for k, view in enumerate(request.show(row, image)):
                pixels[k, row] = view


@dataclass(frozen=True)
class _Coming(Generic[Asked]):
    request: Asked
    pixels: Tensor
    parts: list[Future[None]]

    def result(self) -> Tensor:
        for part in self.parts:
            part.result()
        return self.pixels


def decode(encoded: Tensor) -> Tensor:
    """The image, uint8 (3, H, W), of a whole JPEG or PNG (m,); grey ones get three equal channels.

    Raises:
        RuntimeError: it is none.
    """
    # Loaded with the first image: studies of squares do without, and save the time.
    from torchvision.io import ImageReadMode, decode_image

    image: Tensor = decode_image(encoded, ImageReadMode.RGB)
    return image
