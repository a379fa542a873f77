"""The loop: deterministic, resumable at any step, and clear when it cannot go on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from barlow_atlas import pretrain, snapshot
from barlow_atlas.pretrain import Interrupted, Monitor, PretrainError, Segment, pretrain_segment
from barlow_atlas.snapshot import SnapshotError
from barlow_atlas.study import Run

CPU = torch.device("cpu")
NEVER = 1e9


def segment(folder: Path, run: Run, parent: int | None, until: int) -> Segment:
    return Segment(
        study="tiny",
        run=run,
        parent=parent,
        until=until,
        checkpoints=folder / "checkpoints",
        training=folder / "training",
        resume=folder / "resume",
        data_sha256="data",
        sources_sha256="sources",
    )


def train_chain(
    folder: Path,
    run: Run,
    images: np.ndarray,
    milestones: tuple[int, ...],
    monitor: Monitor | None = None,
    save_every: float = NEVER,
) -> snapshot.Manifest:
    parents = (None, *milestones)
    for parent, until in zip(parents, milestones, strict=False):
        last = pretrain_segment(
            segment(folder, run, parent, until), images, CPU, save_every, monitor or Monitor()
        )
    return last


class Stopper(Monitor):
    """Asks to stop after a number of steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)

    def step(self, progress: pretrain.Progress) -> None:
        self.left -= 1

    def stop_requested(self) -> bool:
        return self.left == 0


@pytest.fixture(scope="module")
def images(digits: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return digits[0][:150]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_run: Run, images: np.ndarray) -> Any:
    folder = tmp_path_factory.mktemp("undisturbed")
    last = train_chain(folder, tiny_run, images, (0, 2, 4))
    return last, (folder / "training/epoch_0004.jsonl").read_text()


def test_the_same_run_twice_is_the_same(
    undisturbed: Any, tmp_path: Path, tiny_run: Run, images: np.ndarray
) -> None:
    again = train_chain(tmp_path, tiny_run, images, (0, 2, 4))
    assert again.lineage == undisturbed[0].lineage
    assert (tmp_path / "training/epoch_0004.jsonl").read_text() == undisturbed[1]


def test_another_seed_or_setting_is_another_history(
    undisturbed: Any, tmp_path: Path, tiny_run: Run, images: np.ndarray
) -> None:
    other = tiny_run.model_copy(update={"seed": 2})
    found = train_chain(tmp_path, other, images, (0, 2, 4))
    assert found.weights_sha256 != undisturbed[0].weights_sha256


def test_milestones_do_not_change_the_weights(
    undisturbed: Any, tmp_path: Path, tiny_run: Run, images: np.ndarray
) -> None:
    found = train_chain(tmp_path, tiny_run, images, (0, 1, 4))
    assert found.weights_sha256 == undisturbed[0].weights_sha256


@pytest.mark.parametrize("steps", range(1, 8))
def test_stopping_at_any_step_changes_nothing(
    steps: int, undisturbed: Any, tmp_path: Path, tiny_run: Run, images: np.ndarray
) -> None:
    train_chain(tmp_path, tiny_run, images, (0, 2))
    last = segment(tmp_path, tiny_run, 2, 4)
    with pytest.raises(Interrupted, match="state saved"):
        pretrain_segment(last, images, CPU, NEVER, Stopper(steps))
    resumed = Stopper(-1)
    found = pretrain_segment(last, images, CPU, NEVER, resumed)
    assert found.lineage == undisturbed[0].lineage
    assert (tmp_path / "training/epoch_0004.jsonl").read_text() == undisturbed[1]
    assert any(line.startswith("continues at epoch") for line in resumed.said)


def test_a_lost_parent_state_is_trained_again(
    undisturbed: Any, tmp_path: Path, tiny_run: Run, images: np.ndarray
) -> None:
    train_chain(tmp_path, tiny_run, images, (0, 2))
    (tmp_path / "checkpoints/epoch_0002.state").unlink()
    monitor = Stopper(-1)
    found = pretrain_segment(segment(tmp_path, tiny_run, 2, 4), images, CPU, NEVER, monitor)
    assert found.lineage == undisturbed[0].lineage
    assert (tmp_path / "training/epoch_0004.jsonl").read_text() == undisturbed[1]
    assert "Training again from the seed" in monitor.said[0]


def test_a_chain_that_cannot_be_repeated_is_refused(
    tmp_path: Path, tiny_run: Run, images: np.ndarray
) -> None:
    train_chain(tmp_path, tiny_run, images, (0, 2))
    (tmp_path / "checkpoints/epoch_0002.state").unlink()
    with pytest.raises(SnapshotError, match="did not lead to the weights of epoch 2"):
        pretrain_segment(segment(tmp_path, tiny_run, 2, 4), images[::-1], CPU, NEVER, Monitor())


def test_a_parent_of_another_run_is_refused(
    tmp_path: Path, tiny_run: Run, images: np.ndarray
) -> None:
    train_chain(tmp_path, tiny_run, images, (0,))
    other = tiny_run.model_copy(update={"batch_size": 16})
    with pytest.raises(SnapshotError, match="other parameters"):
        pretrain_segment(segment(tmp_path, other, 0, 1), images, CPU, NEVER, Monitor())


def test_a_loss_that_is_not_finite_names_its_step(
    tmp_path: Path, tiny_run: Run, images: np.ndarray
) -> None:
    train_chain(tmp_path, tiny_run, images, (0,))
    black = np.zeros_like(images)  # no variance over the batch: the standardisation divides by 0
    with pytest.raises(
        PretrainError,
        match=r"not finite at epoch 1, step 1\. Likely causes.*good.*epoch_0000\.json",
    ):
        pretrain_segment(segment(tmp_path, tiny_run, 0, 1), black, CPU, NEVER, Monitor())
    assert snapshot.read_weights(tmp_path / "checkpoints/epoch_0000.json")


def test_too_few_images_are_refused(tmp_path: Path, tiny_run: Run, images: np.ndarray) -> None:
    with pytest.raises(PretrainError, match="31 images are fewer than one batch of 32"):
        pretrain_segment(segment(tmp_path, tiny_run, None, 0), images[:31], CPU, NEVER, Monitor())


def test_the_history_has_each_epoch_once(undisturbed: Any) -> None:
    rows = [json.loads(line) for line in undisturbed[1].splitlines()]
    assert [row["epoch"] for row in rows] == [3, 4]
    assert set(rows[0]) == {
        "epoch", "learning_rate", "loss", "invariance", "redundancy", "mixing",
    }  # fmt: skip


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder in which the steps' command line runs a small study of its own."""
    (tmp_path / "params").mkdir()
    text = Path("params/demo.yaml").read_text()
    for before, after in (
        ("width: 16", "width: 4"),
        ("\nepochs: 100", "\nepochs: 30"),
        ("milestones: [0, 5, 10, 25, 50, 100]", "milestones: [0, 30]"),
    ):
        assert before in text
        text = text.replace(before, after, 1)
    (tmp_path / "params/small.yaml").write_text(text)
    step(tmp_path, "prepare-data").check_returncode()
    step(tmp_path, "pretrain", "--run", RUN, "--until", "0").check_returncode()
    return tmp_path


RUN = "mix-d256-e30-clean-s1"
SEGMENT = ("--run", RUN, "--until", "30", "--save-every", "0.05")


def command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "barlow_atlas", name, "--study", "small", *arguments]


def step(folder: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(name, *arguments), cwd=folder, capture_output=True, text=True, check=False
    )


def start_until_saved(folder: Path, count: int) -> subprocess.Popen[bytes]:
    """Starts the segment and returns once `count` private states have been seen."""
    process = subprocess.Popen(command("pretrain", *SEGMENT), cwd=folder)
    seen: set[str] = set()
    deadline = time.monotonic() + 60
    while len(seen) < count:
        assert process.poll() is None, "the segment ended before it could be disturbed"
        assert time.monotonic() < deadline
        seen |= {path.name for path in folder.glob(f"results/resume/small/{RUN}/*.state")}
        time.sleep(0.005)
    return process


def weights(folder: Path) -> bytes:
    return (folder / f"results/small/checkpoints/{RUN}/epoch_0030.safetensors").read_bytes()


def test_killed_in_the_middle_the_weights_are_the_same(workspace: Path) -> None:
    step(workspace, "pretrain", *SEGMENT).check_returncode()
    expected = weights(workspace)
    rows = (workspace / f"results/small/training/{RUN}/epoch_0030.jsonl").read_bytes()
    for path in workspace.glob("results/small/*/*/epoch_0030.*"):
        path.unlink()
    for count in (1, 2, 3):
        process = start_until_saved(workspace, count)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not list(workspace.glob("results/small/checkpoints/*/epoch_0030.json"))
    step(workspace, "pretrain", *SEGMENT).check_returncode()
    assert weights(workspace) == expected
    assert (workspace / f"results/small/training/{RUN}/epoch_0030.jsonl").read_bytes() == rows


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_saves_and_asks_to_be_started_again(
    number: signal.Signals, workspace: Path
) -> None:
    process = start_until_saved(workspace, 1)
    process.send_signal(number)
    assert process.wait(timeout=30) == 75
    done = step(workspace, "pretrain", *SEGMENT)
    assert done.returncode == 0
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    assert any("continues at epoch" in line.get("message", "") for line in messages)
    last = messages[-1]
    assert (last["epoch"], last["step"], last["seconds_left"]) == (30, last["of"], 0.0)
    assert last["images_per_second"] > 0
