"""A segment that several processes train: equal to the bit whatever happens to one of them.

PROCESSES_KILLED=N kills a process at N random steps of a run.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from process_group import by_processes
from safetensors.torch import load_file
from segments import segments, whole

from barlow_atlas.nn import processes
from barlow_atlas.study.models import Run
from barlow_atlas.training.loop import PretrainError, Progress
from barlow_atlas.training.segment import Interrupted, Monitor, Segment, pretrain_together

CPU = torch.device("cpu")
KILLS = int(os.environ.get("PROCESSES_KILLED", "5"))
UNTIL = max(3, KILLS // 2)
STEPS = 4 * UNTIL
WITHIN_S = 30.0


class Disturber(Monitor):
    """Does something to one process after a number of steps."""

    def __init__(self, rank: int | None, after: int, what: str) -> None:
        self.left = after if processes.rank() == rank else -1
        self.what = what
        self.stop = False
        self.steps = 0
        self.last = time.monotonic()
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)

    def step(self, progress: Progress) -> None:
        self.steps += 1
        self.last = time.monotonic()
        self.left -= 1
        if self.left == 0 and self.what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        self.stop = self.left == 0 and self.what == "stop"

    def stop_requested(self) -> bool:
        return self.stop


def train(
    folder: Path,
    run: Run,
    images: np.ndarray,
    rank: int | None = None,
    after: int = 0,
    what: str = "",
) -> tuple[str, int, float]:
    """What became of the run: words, how many steps, and seconds since the last one."""
    torch.set_flush_denormal(True)
    monitor = Disturber(rank, after, what)
    try:
        for parent, until in ((None, 0), (0, UNTIL)):
            (segment,) = segments(folder, run, parent, until, (1,))
            if not manifest(segment).exists():
                found = pretrain_together([segment], whole(images), CPU, 0.0, [monitor])
        words = found[0].weights_sha256
    except (processes.PeerLost, processes.Divergence, Interrupted, PretrainError) as error:
        words = f"{type(error).__name__}: {error}"
    return words, monitor.steps, time.monotonic() - monitor.last


def manifest(segment: Segment) -> Path:
    return segment.milestones / f"epoch_{segment.until:04d}.json"


def weights(folder: Path) -> torch.Tensor:
    file = folder / f"checkpoints/s1/epoch_{UNTIL:04d}.safetensors"
    return torch.cat([each.double().flatten() for each in load_file(file).values()])


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def images(digits: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return digits[0][:144]


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, tiny_run: Run, images: np.ndarray
) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("undisturbed")
    (words, steps, _), other = by_processes(2, train, folder, tiny_run, images)
    assert other[:2] == (words, steps) == (words, STEPS)
    return words, folder


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_others_and_nothing_is_lost(
    tmp_path: Path, tiny_run: Run, images: np.ndarray, undisturbed: tuple[str, Path]
) -> None:
    lives = random.Random(0)
    left, folder = STEPS, tmp_path / "killed"
    for kills_to_come in range(KILLS, 0, -1):
        victim = lives.randrange(2)
        after = lives.randint(1, max(1, 2 * left // (kills_to_come + 1)))
        ((words, steps, seconds),) = by_processes(
            2, train, folder, tiny_run, images, victim, after, "kill", killed=(victim,)
        )
        assert words.startswith("PeerLost")
        assert seconds < WITHIN_S
        left -= steps - 1
    shutil.copytree(folder, tmp_path / "alone")
    for words, *_ in by_processes(2, train, folder, tiny_run, images):
        assert words == undisturbed[0]
    words, steps, _ = train(tmp_path / "alone", tiny_run, images)
    assert len(words) == 64
    assert steps < STEPS
    assert relative(weights(tmp_path / "alone"), weights(undisturbed[1])) < 1e-5


@pytest.mark.slow
def test_another_number_of_processes_goes_on(
    tmp_path: Path, tiny_run: Run, images: np.ndarray, undisturbed: tuple[str, Path]
) -> None:
    before = by_processes(2, train, tmp_path, tiny_run, images, 1, 5, "stop")
    assert {words.partition(":")[0] for words, *_ in before} == {"Interrupted"}
    assert {steps for _, steps, _ in before} == {5}
    words, steps, _ = train(tmp_path, tiny_run, images)
    assert steps == STEPS - 5
    assert len(words) == 64
    assert relative(weights(tmp_path), weights(undisturbed[1])) < 1e-5


def diverge(folder: Path, run: Run, images: np.ndarray) -> str:
    """A state whose copy on the second process differs by a bit."""
    state = {"weight": torch.zeros(3), "deep": [{"moment": torch.ones(2)}]}
    if processes.rank() == 1:
        state["deep"][0]["moment"][1] += 1e-7  # type: ignore[index]
    try:
        processes.must_be_equal(state)
    except processes.Divergence as error:
        return str(error)
    return ""


def test_a_divergence_names_process_and_tensor() -> None:
    for words in by_processes(2, diverge, Path(), None, None):
        assert "process 1 of 2 has another deep.0.moment than process 0 (1 tensors" in words


def told() -> object:
    given = {"a": torch.arange(3), "b": [torch.ones(2, dtype=torch.bfloat16), "word", None]}
    return processes.state_of_leader(given if processes.leads() else None)


def test_a_state_is_told_by_the_first_process() -> None:
    first, second = by_processes(2, told)
    assert torch.equal(first["a"], second["a"])
    assert second["b"][0].dtype == torch.bfloat16
    assert torch.equal(first["b"][0], second["b"][0])
    assert second["b"][1:] == ["word", None]


def test_a_batch_that_cannot_be_shared_is_refused(
    tmp_path: Path, tiny_run: Run, images: np.ndarray
) -> None:
    odd = tiny_run.model_copy(update={"batch_size": 33})
    for words, *_ in by_processes(2, train, tmp_path, odd, images):
        assert words.startswith("PretrainError: 2 processes cannot share batch_size 33 evenly")
