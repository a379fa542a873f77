"""Batches of images on the training device: resident there, or streamed from their files."""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from barlow_atlas.data.image_set import ImageSet
from barlow_atlas.data.loader import AHEAD, Loader
from barlow_atlas.data.originals import OriginalSet

RESIDENT_SHARE = 0.5
"""Of a GPU's free memory, what images may take up for good."""


class Resident:
    """All images in the device's memory, uint8 (n, 3, H, W); shared by all who read them."""

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.device = images.device

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, places: Iterable[Tensor]) -> Iterator[Tensor]:
        """For each of `places`, int64 (N,) on the CPU, its images, uint8 (N, 3, H, W)."""
        places = list(places)
        if places:
            # One transfer for all, not one that the host waits for at every step.
            indices = torch.cat(places).to(self.device)
            sizes = [len(batch) for batch in places]
            for chosen in indices.split(sizes):  # type: ignore[no-untyped-call]
                yield self.images[chosen]


class Streamed:
    """Images that stay in their files; a thread brings the next batches while one is computed on.

    On a CPU the system's cache of the files is the memory they are in. On a GPU batches pass
    through pinned memory on a stream of their own.
    """

    def __init__(self, images: ImageSet, device: torch.device) -> None:
        self.images = images
        self.device = device
        self.copies: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self.copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, places: Iterable[Tensor]) -> Iterator[Tensor]:
        """For each of `places`, int64 (N,) on the CPU, its images, uint8 (N, 3, H, W)."""
        waiting = iter(places)
        coming: deque[Future[tuple[Tensor, torch.cuda.Event | None]]] = deque()
        with ThreadPoolExecutor(1, "images") as thread:
            for chosen in itertools.islice(waiting, AHEAD):
                coming.append(thread.submit(self._bring, chosen))
            while coming:
                batch, arrived = coming.popleft().result()
                for chosen in itertools.islice(waiting, 1):
                    coming.append(thread.submit(self._bring, chosen))
                if arrived is not None:
                    present = torch.cuda.current_stream(self.device)
                    present.wait_event(arrived)
                    batch.record_stream(present)
                yield batch

    def _bring(self, places: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        """A batch on the device, and on a GPU the event that says it is there."""
        shape = (len(places), *self.images.shape[1:])
        pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=self.copies is not None)
        self.images.take(places.numpy(), pixels.numpy())
        if self.copies is None:
            return pixels, None
        with torch.cuda.stream(self.copies):
            return pixels.to(self.device, non_blocking=True), self.copies.record_event()


Images = Resident | Streamed | Loader
"""Where a training loop gets its images from."""


def images_for(images: ImageSet | OriginalSet, device: torch.device) -> Images:
    """Squares resident on a GPU that has the room, else streamed; encoded images decoded."""
    if isinstance(images, OriginalSet):
        return Loader(images, device, torch.get_num_threads())
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if images.nbytes <= RESIDENT_SHARE * free:
            return Resident(torch.from_numpy(images[:]).to(device))
    return Streamed(images, device)
