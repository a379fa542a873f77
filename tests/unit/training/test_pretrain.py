"""The loop: deterministic, resumable at any step, and clear when it cannot go on."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segments import pretrain_segment

from barlow_atlas.settings.training import Trunk
from barlow_atlas.store import snapshot
from barlow_atlas.store.lock import LockError
from barlow_atlas.store.snapshot import SnapshotError
from barlow_atlas.study.models import Run
from barlow_atlas.training import segment as pretrain
from barlow_atlas.training.loop import PretrainError
from barlow_atlas.training.segment import Interrupted, Monitor, Segment

CPU = torch.device("cpu")
NEVER = 1e9


def segment(folder: Path, run: Run, parent: int | None, until: int, cooldown: int = 0) -> Segment:
    return Segment(
        study="tiny",
        run=run,
        parent=parent,
        until=until,
        cooldown=cooldown,
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
    assert any("training again from the seed" in line for line in monitor.said)


@pytest.mark.parametrize("damage", ["cut", "exchanged"])
def test_a_damaged_parent_state_is_set_aside(
    damage: str, undisturbed: Any, tmp_path: Path, tiny_run: Run, images: np.ndarray
) -> None:
    train_chain(tmp_path, tiny_run, images, (0, 2))
    state = tmp_path / "checkpoints/epoch_0002.state"
    other = tmp_path / "checkpoints/epoch_0000.state"
    state.write_bytes(state.read_bytes()[:-5] if damage == "cut" else other.read_bytes())
    monitor = Stopper(-1)
    found = pretrain_segment(segment(tmp_path, tiny_run, 2, 4), images, CPU, NEVER, monitor)
    assert found.lineage == undisturbed[0].lineage
    assert "set aside as epoch_0002.state.damaged" in monitor.said[0]
    assert state.with_name("epoch_0002.state.damaged").exists()


class Meddler(Monitor):
    """Does something during the first step."""

    def __init__(self, meddle: Callable[[], Any]) -> None:
        self.meddle: Callable[[], Any] | None = meddle

    def step(self, progress: pretrain.Progress) -> None:
        if self.meddle:
            self.meddle()
        self.meddle = None


@pytest.mark.parametrize("what", ["another history", "gone"])
def test_a_parent_that_changes_during_training_is_refused(
    what: str, tmp_path: Path, tiny_run: Run, images: np.ndarray
) -> None:
    train_chain(tmp_path, tiny_run, images, (0,))
    train_chain(tmp_path / "other", tiny_run, images, (0,))
    path = tmp_path / "checkpoints/epoch_0000.json"

    def exchange() -> None:
        path.unlink()
        if what == "another history":
            other = segment(tmp_path, tiny_run, None, 0)
            other = dataclasses.replace(other, data_sha256="other", resume=tmp_path / "elsewhere")
            pretrain_segment(other, images, CPU, NEVER, Monitor())

    last = segment(tmp_path, tiny_run, 0, 1)
    with pytest.raises(SnapshotError, match="changed during training"):
        pretrain_segment(last, images, CPU, NEVER, Meddler(exchange))
    assert not list((tmp_path / "checkpoints").glob("epoch_0001.*"))


def test_a_second_trainer_is_refused(tmp_path: Path, tiny_run: Run, images: np.ndarray) -> None:
    train_chain(tmp_path, tiny_run, images, (0,))
    last = segment(tmp_path, tiny_run, 0, 1)
    second = Meddler(lambda: pretrain_segment(last, images, CPU, NEVER, Monitor()))
    with pytest.raises(LockError, match="another trainer holds"):
        pretrain_segment(last, images, CPU, NEVER, second)
    assert list(last.resume.iterdir()) == []


def test_stop_is_heard_while_another_trainer_is_awaited(
    tmp_path: Path, tiny_run: Run, images: np.ndarray
) -> None:
    train_chain(tmp_path, tiny_run, images, (0,))
    last = segment(tmp_path, tiny_run, 0, 1)
    (last.resume / "holder_000001.json").touch()
    with pytest.raises(Interrupted, match="before it began"):
        pretrain_segment(last, images, CPU, NEVER, Stopper(0))


def test_rests_of_a_killed_writer_are_removed(
    tmp_path: Path, tiny_run: Run, images: np.ndarray
) -> None:
    first = segment(tmp_path, tiny_run, None, 0)
    rests = [
        first.checkpoints / ".epoch_0000.safetensors.ab.tmp",
        first.training / ".epoch_0000.jsonl.ab.tmp",
        first.resume / ".step_000000000001.state.ab.tmp",
    ]
    for rest in rests:
        rest.parent.mkdir(parents=True, exist_ok=True)
        rest.write_bytes(b"half")
    pretrain_segment(first, images, CPU, NEVER, Monitor())
    assert not [rest for rest in rests if rest.exists()]


@pytest.mark.parametrize("stopped_after", [None, 3, 8])
def test_a_chain_that_cannot_be_repeated_is_refused(
    stopped_after: int | None, tmp_path: Path, tiny_run: Run, images: np.ndarray
) -> None:
    """Also if it is stopped on the way to its parent, or at the parent's epoch."""
    train_chain(tmp_path, tiny_run, images, (0, 2))
    (tmp_path / "checkpoints/epoch_0002.state").unlink()
    last, others = segment(tmp_path, tiny_run, 2, 4), images[::-1]
    if stopped_after is not None:
        with pytest.raises(Interrupted):
            pretrain_segment(last, others, CPU, NEVER, Stopper(stopped_after))
    with pytest.raises(SnapshotError, match="did not lead to the weights of epoch 2"):
        pretrain_segment(last, others, CPU, NEVER, Monitor())


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
    good = tmp_path / "checkpoints/epoch_0000.json"
    assert snapshot.read_weights(good, snapshot.read_manifest(good))


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
        ("width: 16", "width: 8"),
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.fixture(scope="module")
def trunk_run(tiny_run: Run) -> Run:
    schedule = Trunk(name="trunk", base_lr=0.01, warmup_epochs=1, cooldown_epochs=2)
    return tiny_run.model_copy(update={"schedule": schedule, "epochs": None})


def test_a_branch_anneals_a_milestone_and_leaves_the_trunk_alone(
    tmp_path: Path, trunk_run: Run, images: np.ndarray
) -> None:
    train_chain(tmp_path / "bare", trunk_run, images, (0, 2, 4))
    folder = tmp_path / "branched"
    train_chain(folder, trunk_run, images, (0, 2))
    branch = segment(folder, trunk_run, 2, 2, cooldown=2)
    cooled = pretrain_segment(branch, images, CPU, NEVER, Monitor())
    trunk = pretrain_segment(segment(folder, trunk_run, 2, 4), images, CPU, NEVER, Monitor())
    undisturbed = snapshot.read_manifest(tmp_path / "bare/checkpoints/epoch_0004.json")
    assert trunk.lineage == undisturbed.lineage
    parent = snapshot.read_manifest(folder / "checkpoints/epoch_0002.json")
    assert (cooled.epoch, cooled.cooldown_epochs, cooled.parent) == (2, 2, parent.lineage)
    assert cooled.weights_sha256 not in {parent.weights_sha256, trunk.weights_sha256}
    assert snapshot.read_manifest(folder / "checkpoints/cooled/epoch_0002.json") == cooled
    assert not list((folder / "checkpoints/cooled").glob("*.state"))
    states = sorted(path.name for path in (folder / "checkpoints").glob("*.state"))
    assert states == ["epoch_0000.state", "epoch_0002.state", "epoch_0004.state"]


def test_a_branch_falls_linearly_and_the_trunk_stays_at_its_rate(
    tmp_path: Path, trunk_run: Run, images: np.ndarray
) -> None:
    train_chain(tmp_path, trunk_run, images, (0, 2))
    trunk = (tmp_path / "training/epoch_0002.jsonl").read_text().splitlines()
    branch = segment(tmp_path, trunk_run, 2, 2, cooldown=2)
    pretrain_segment(branch, images, CPU, NEVER, Monitor())
    cooled = (tmp_path / "training/epoch_0002.jsonl").read_text().splitlines()
    peak = 0.01 * trunk_run.batch_size / 256
    assert json.loads(trunk[1])["learning_rate"] == pytest.approx(peak)
    rows = [json.loads(line) for line in cooled]
    assert [row["epoch"] for row in rows] == [3, 4]
    # 4 steps an epoch: the last step of each begins 3 and 7 eighths into the branch.
    shares = [row["learning_rate"] / peak for row in rows]
    assert shares == pytest.approx([1 - 0.999 * 3 / 8, 1 - 0.999 * 7 / 8])


@pytest.mark.parametrize("without_state", [False, True])
def test_an_interrupted_branch_ends_as_an_undisturbed_one(
    without_state: bool, tmp_path: Path, trunk_run: Run, images: np.ndarray
) -> None:
    manifests = []
    for name in ("undisturbed", "stopped"):
        train_chain(tmp_path / name, trunk_run, images, (0, 2))
        branch = segment(tmp_path / name, trunk_run, 2, 2, cooldown=2)
        if name == "stopped":
            if without_state:
                (tmp_path / name / "checkpoints/epoch_0002.state").unlink()
            with pytest.raises(Interrupted):
                pretrain_segment(branch, images, CPU, NEVER, Stopper(5))
        manifests.append(pretrain_segment(branch, images, CPU, NEVER, Monitor()))
    assert manifests[0].lineage == manifests[1].lineage
