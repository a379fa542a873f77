"""What only a GPU can show: nothing in a step waits for it, streams and graphs change nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from segments import segments, whole

from barlow_atlas.data.batches import Streamed, images_for
from barlow_atlas.study.models import Run
from barlow_atlas.training.loop import initial_state, train
from barlow_atlas.training.segment import Monitor, pretrain_together

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
STEPS = 8


@pytest.fixture(scope="module")
def images(digits: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return digits[0][:320]


@contextmanager
def no_waiting() -> Iterator[None]:
    """Every wait of the host for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def losses(run: Run, images: np.ndarray, device: str) -> list[float]:
    state = initial_state(run, torch.device(device))
    steps = train(run, state, images_for(whole(images), torch.device(device)), until=2)
    return [progress.terms["loss"].item() for progress in steps]


@pytest.mark.parametrize("streamed", [False, True])
def test_the_host_never_waits_within_an_epoch(
    streamed: bool, tiny_run: Run, images: np.ndarray
) -> None:
    device = torch.device("cuda")
    source = Streamed(whole(images), device) if streamed else images_for(whole(images), device)
    steps = train(tiny_run, initial_state(tiny_run, device), source, until=2)
    next(steps)  # images, kernels and the optimizer's state are there after it
    with no_waiting():
        for _ in range(STEPS):
            next(steps)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("precision", "error"), [("float32", 0.01), ("bfloat16", 0.1)])
def test_training_goes_the_way_it_goes_on_a_cpu(
    compiled: bool, precision: str, error: float, tiny_run: Run, images: np.ndarray
) -> None:
    fast = tiny_run.model_copy(update={"precision": precision, "compiled": compiled})
    assert losses(fast, images, "cuda") == pytest.approx(losses(tiny_run, images, "cpu"), rel=error)


def test_seeds_on_streams_of_their_own_become_what_they_become_alone(
    tmp_path: Path, tiny_run: Run, images: np.ndarray
) -> None:
    def trained(folder: Path, *seeds: int) -> list[list[float]]:
        for parent, until in ((None, 0), (0, 2)):
            found = segments(folder, tiny_run, parent, until, seeds)
            watching = [Monitor() for _ in seeds]
            pretrain_together(found, whole(images), torch.device("cuda"), 1e9, watching)
        files = (folder / f"training/s{seed}/epoch_0002.jsonl" for seed in seeds)
        return [
            [json.loads(line)["loss"] for line in file.read_text().splitlines()] for file in files
        ]

    together = trained(tmp_path / "together", 1, 2)
    alone = [*trained(tmp_path / "alone", 1), *trained(tmp_path / "alone", 2)]
    np.testing.assert_allclose(together, alone, rtol=0.01)
