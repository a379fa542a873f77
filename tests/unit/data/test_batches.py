"""Batches from files are those from memory, whatever parts they come in."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from barlow_atlas.data.batches import AHEAD, Resident, Streamed, images_for
from barlow_atlas.data.image_set import ImageSet

CPU = torch.device("cpu")


@pytest.fixture
def arrays(tmp_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Two memory-mapped arrays of images, every one different."""
    draws = np.random.default_rng(0)
    found = []
    for name, count in (("a", 50), ("b", 30)):
        path = tmp_path / f"{name}.npy"
        np.save(path, draws.integers(0, 256, (count, 3, 4, 6), dtype=np.uint8))
        found.append(np.load(path, mmap_mode="r"))
    return found[0], found[1]


@pytest.fixture
def images(arrays: tuple[np.ndarray, np.ndarray]) -> ImageSet:
    first, second = arrays
    return ImageSet(((first, np.arange(5, 45)), (second, np.array([3, 7, 29]))))


def everything(images: ImageSet) -> np.ndarray:
    return np.concatenate([array[rows] for array, rows in images.parts])


def test_rows_of_several_arrays_are_one_set(images: ImageSet) -> None:
    assert len(images) == 43
    assert images.shape == (43, 3, 4, 6)
    assert images.nbytes == everything(images).nbytes
    places = np.array([42, 0, 39, 40, 0, 41])
    out = np.empty((6, 3, 4, 6), dtype=np.uint8)
    images.take(places, out)
    np.testing.assert_array_equal(out, everything(images)[places])
    np.testing.assert_array_equal(images[places], everything(images)[places])
    np.testing.assert_array_equal(images[38:], everything(images)[38:])


def test_streamed_batches_are_the_resident_ones(images: ImageSet) -> None:
    order = torch.randperm(43, generator=torch.Generator().manual_seed(0))
    places = order.split(8)
    resident = Resident(torch.from_numpy(everything(images)))
    streamed = Streamed(images, CPU)
    assert len(resident) == len(streamed) == 43
    pairs = list(zip(resident.batches(places), streamed.batches(places), strict=True))
    assert [len(batch) for batch, _ in pairs] == [8, 8, 8, 8, 8, 3]
    for one, other in pairs:
        assert torch.equal(one, other)
    assert list(streamed.batches([])) == list(resident.batches([])) == []


def test_no_more_than_some_batches_are_brought_ahead(images: ImageSet) -> None:
    asked = []

    def places() -> object:
        for start in range(20):
            asked.append(start)
            yield torch.arange(start, start + 2)

    batches = Streamed(images, CPU).batches(places())  # type: ignore[arg-type]
    next(batches)
    assert len(asked) == AHEAD + 1
    batches.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("images")]


def test_an_error_while_reading_reaches_the_training(images: ImageSet) -> None:
    with pytest.raises(IndexError):
        list(Streamed(images, CPU).batches([torch.tensor([43])]))


def test_on_a_cpu_images_stay_in_their_files(images: ImageSet) -> None:
    assert isinstance(images_for(images, CPU), Streamed)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_both_ways_give_the_same(images: ImageSet) -> None:
    device = torch.device("cuda")
    places = torch.randperm(43).split(8)
    resident = images_for(images, device)
    assert isinstance(resident, Resident)
    for one, other in zip(
        resident.batches(places), Streamed(images, device).batches(places), strict=True
    ):
        assert torch.equal(one, other)
