"""Several seeds in one program: each becomes what it becomes alone, and none loses by others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from segments import segments, whole

from barlow_atlas.atomic import WriteError
from barlow_atlas.store import snapshot
from barlow_atlas.study.models import Run
from barlow_atlas.training.loop import PretrainError, Progress
from barlow_atlas.training.segment import Interrupted, Monitor, Segment, pretrain_together

CPU = torch.device("cpu")
NEVER = 1e9
SEEDS = (1, 2, 3)


def together(found: list[Segment], images: np.ndarray, *monitors: Monitor) -> list[str]:
    watching = monitors or [Monitor() for _ in found]
    manifests = pretrain_together(found, whole(images), CPU, NEVER, list(watching))
    return [manifest.lineage for manifest in manifests]


@pytest.fixture(scope="module")
def images(digits: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return digits[0][:150]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny_run: Run, images: np.ndarray) -> list[str]:
    """Lineages at epoch 3, which hash the weights, of seeds trained one at a time."""
    folder = tmp_path_factory.mktemp("alone")
    found = []
    for seed in SEEDS:
        together(segments(folder, tiny_run, None, 0, (seed,)), images)
        found += together(segments(folder, tiny_run, 0, 3, (seed,)), images)
    return found


class Counter(Monitor):
    """Counts steps; asks to stop after some of them."""

    def __init__(self, stop_after: int = -1) -> None:
        self.steps = 0
        self.stop_after = stop_after
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)

    def step(self, progress: Progress) -> None:
        self.steps += 1

    def stop_requested(self) -> bool:
        return self.steps == self.stop_after


def test_each_seed_becomes_what_it_becomes_alone(
    tmp_path: Path, tiny_run: Run, images: np.ndarray, alone: list[str]
) -> None:
    together(segments(tmp_path, tiny_run, None, 0), images)
    assert together(segments(tmp_path, tiny_run, 0, 3), images) == alone
    assert len(set(alone)) == len(SEEDS)


def test_parts_that_pass_one_after_another_train_the_same_run(
    tmp_path: Path, tiny_run: Run, images: np.ndarray
) -> None:
    local = tiny_run.model_copy(update={"local_statistics": 4})
    manifests = []
    for accumulate in (False, True):
        folder = tmp_path / str(accumulate)
        for parent, until in ((None, 0), (0, 1)):
            (segment,) = segments(folder, local, parent, until, (1,))
            segment = replace(segment, accumulate=accumulate)
            manifests += pretrain_together([segment], whole(images), CPU, NEVER, [Monitor()])
    _, at_once, _, accumulated = manifests
    assert at_once.lineage == accumulated.lineage  # which hashes the weights
    assert "accumulated" not in at_once.made_by
    assert accumulated.made_by["accumulated"]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_stop_keeps_what_all_have_done(
    place: int, tmp_path: Path, tiny_run: Run, images: np.ndarray, alone: list[str]
) -> None:
    together(segments(tmp_path, tiny_run, None, 0), images)
    monitors = [Counter(5 if seed == place else -1) for seed in range(3)]
    with pytest.raises(Interrupted, match="state saved"):
        together(segments(tmp_path, tiny_run, 0, 3), images, *monitors)
    before = [monitor.steps for monitor in monitors]
    assert max(before) == 5
    again = [Counter() for _ in SEEDS]
    assert together(segments(tmp_path, tiny_run, 0, 3), images, *again) == alone
    total = 3 * (len(images) // tiny_run.batch_size)
    assert [first + monitor.steps for first, monitor in zip(before, again, strict=True)] == [
        total
    ] * 3


def test_one_that_is_ahead_waits_and_loses_nothing(
    tmp_path: Path, tiny_run: Run, images: np.ndarray, alone: list[str]
) -> None:
    """One seed is at its end while another is stopped: neither has a milestone, both a state."""
    together(segments(tmp_path, tiny_run, None, 0), images)
    (ahead,) = segments(tmp_path, tiny_run, 0, 3, (1,))
    with pytest.raises(Interrupted):
        together([ahead], images, Counter(10))
    stopped = [Counter(), Counter(8), Counter()]
    with pytest.raises(Interrupted):
        together(segments(tmp_path, tiny_run, 0, 3), images, *stopped)
    assert stopped[0].steps == 2
    assert not list(tmp_path.rglob("epoch_0003.json"))
    again = [Counter() for _ in SEEDS]
    assert together(segments(tmp_path, tiny_run, 0, 3), images, *again) == alone
    assert again[0].steps == 0


def test_one_that_fails_lets_the_others_save(
    tmp_path: Path, tiny_run: Run, images: np.ndarray, alone: list[str]
) -> None:
    together(segments(tmp_path, tiny_run, None, 0), images)
    first, second, third = segments(tmp_path, tiny_run, 0, 3)

    class Breaker(Counter):
        """Fails at its sixth step."""

        def step(self, progress: Progress) -> None:
            super().step(progress)
            if self.steps == 6:
                raise PretrainError("the loss is not finite")

    with pytest.raises(PretrainError, match="not finite"):
        together([first, second, third], images, Counter(), Breaker(), Counter())
    assert sorted(path.parent.name for path in tmp_path.glob("resume/*/*.state")) == ["s1", "s3"]
    again = [Counter() for _ in SEEDS]
    assert together([first, second, third], images, *again) == alone
    assert [monitor.steps for monitor in again] == [6, 12, 7]


def test_a_state_that_cannot_be_saved_does_not_keep_others_from_it(
    tmp_path: Path, tiny_run: Run, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    together(segments(tmp_path, tiny_run, None, 0), images)
    real = snapshot.ResumeFolder.write

    def write(self: snapshot.ResumeFolder, *arguments: object) -> None:
        if self.folder.name == "s2":
            raise snapshot.SnapshotError("cannot write: no space left on device")
        real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(snapshot.ResumeFolder, "write", write)
    with pytest.raises(snapshot.SnapshotError, match="no space"):
        together(segments(tmp_path, tiny_run, 0, 3), images, Counter(4), Counter(), Counter())
    assert sorted(path.parent.name for path in tmp_path.glob("resume/*/*.state")) == ["s1", "s3"]


def test_milestones_that_cannot_all_be_stored_cost_no_training(
    tmp_path: Path, tiny_run: Run, images: np.ndarray, alone: list[str]
) -> None:
    """Of a job that failed, Snakemake removes the milestones that were stored, too."""
    together(segments(tmp_path, tiny_run, None, 0), images)
    in_the_way = tmp_path / "training/s2/epoch_0003.jsonl"
    in_the_way.mkdir(parents=True)
    with pytest.raises(WriteError, match="cannot write"):
        together(segments(tmp_path, tiny_run, 0, 3), images)
    stored = list(tmp_path.glob("*/s1/epoch_0003.*"))
    assert {file.suffix for file in stored} == {".jsonl", ".json", ".safetensors", ".state"}
    for file in stored:
        file.unlink()
    in_the_way.rmdir()
    again = [Counter() for _ in SEEDS]
    assert together(segments(tmp_path, tiny_run, 0, 3), images, *again) == alone
    assert [monitor.steps for monitor in again] == [0, 0, 0]
    assert not list(tmp_path.glob("resume/*/*.state"))
