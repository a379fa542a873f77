"""What can happen to a trainer and its files. Each fault is a function: it disturbs a run, checks
what the trainer promises, lets the run finish, and returns a row of the table.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from row import Row
from workspace import MILESTONES, STUDY, Stages, Workspace, ended, wait_for

PARENT, LAST = MILESTONES[-2:]


class NotPossibleHere(Exception):
    """This machine does not let the fault be made; the message says why."""


def row(stages: Stages, workspace: Workspace, fault: str, happened: str) -> Row:
    """The row of a run that has finished after a fault."""
    steps = workspace.repeated_steps()
    epochs = {tuple(step) for step in workspace.steps()}
    assert len(epochs) == len(set(stages.finished.steps())), "a step was never trained"
    assert not workspace.temporaries(), workspace.temporaries()
    return Row(
        fault,
        happened,
        round(steps * stages.finished.seconds_per_step(), 2),
        f"{steps} step{'s' * (steps != 1)}" if steps else "nothing",
        workspace.content() == stages.finished.content(),
    )


def killed_at_random(stages: Stages, folder: Path, kills: int, save_every: float) -> Row:
    """Lives of random length until the run is whole, again and again."""
    chance = random.Random(f"{kills} {save_every}")
    done = inside = runs = repeated = 0
    equal = True
    while done < kills:
        workspace = stages.fresh.copy(folder / f"{save_every}-{runs}")
        runs += 1
        whole = False
        while not whole:
            process = workspace.start(save_every)
            # Beyond the last kill that is asked for, the run is left to finish.
            process.join(chance.uniform(0, stages.life) if done < kills else None)
            whole = process.exitcode is not None
            if whole:
                assert process.exitcode == 0, workspace.said()[-3000:]
                continue
            process.kill()
            process.join()
            done += 1
            inside += bool(workspace.temporaries())
        found = row(stages, workspace, "", "")
        equal &= found.equal
        repeated += workspace.repeated_steps()
        shutil.rmtree(workspace.folder)
    saving = "saving after every step" if save_every == 0 else f"saving every {save_every} s"
    return Row(
        f"SIGKILL at {kills} random moments, {saving}",
        f"{runs} runs; {inside} kills hit in the middle of writing a file; each next start went on "
        "from the newest state",
        round(repeated * stages.finished.seconds_per_step(), 2),
        f"{repeated} steps in all",
        equal,
    )


def signalled(stages: Stages, folder: Path, number: signal.Signals) -> Row:
    workspace = stages.started.copy(folder)
    process = workspace.start_and_wait(1)
    os.kill(process.pid or 0, number)
    assert ended(process) == 75
    assert "state saved" in workspace.said()
    workspace.finish()
    text = "saved and left with status 75; the same command went on"
    return row(stages, workspace, f"{number.name} during training", text)


def _truncate(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _flip(path: Path, other: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _empty(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def _swap(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


DAMAGES: dict[str, Callable[[Path, Path], None]] = {
    "truncated": _truncate,
    "bit-flipped": _flip,
    "empty": _empty,
    "swapped": _swap,
}


def resume_state(stages: Stages, folder: Path, damage: str) -> Row:
    workspace = stages.started.copy(folder)
    workspace.kill(3)
    before, newest = workspace.states()[-2:]
    DAMAGES[damage](newest, workspace.checkpoints / f"epoch_{PARENT:04d}.state")
    workspace.finish()
    said = workspace.said()
    assert newest.name in said
    if damage == "swapped":
        assert "belongs to another history" in said
        text = "named and removed as another history's; the state before it used"
    else:
        assert newest.with_name(f"{newest.name}.damaged").exists()
        text = "named and set aside; the state before it used"
    assert f"step_{_total(workspace):012d}.state" == before.name
    return row(stages, workspace, f"newest resume state {damage}", text)


def _total(workspace: Workspace) -> int:
    """The steps done where the trainer last said that it continues."""
    text = workspace.said().rpartition("continues at epoch ")[2]
    epoch, step = text.partition('"')[0].split(", step ")
    per_epoch = max(step for _, step in workspace.steps())
    return int(epoch) * per_epoch + int(step)


def milestone_state(stages: Stages, folder: Path, damage: str) -> Row:
    workspace = stages.started.copy(folder)
    state = workspace.checkpoints / f"epoch_{PARENT:04d}.state"
    DAMAGES[damage](state, workspace.checkpoints / "epoch_0000.state")
    workspace.finish()
    assert state.with_name(f"{state.name}.damaged").exists()
    assert "training again from the seed" in workspace.said()
    text = "named and set aside; trained again from the seed, which led to the stored weights"
    return row(stages, workspace, f"state of the parent milestone {damage}", text)


def weights(stages: Stages, folder: Path, damage: str) -> Row:
    workspace = stages.finished.copy(folder)
    path = workspace.checkpoints / f"epoch_{LAST:04d}.safetensors"
    DAMAGES[damage](path, workspace.checkpoints / f"epoch_{PARENT:04d}.safetensors")
    _must_be_found(workspace, path.name)
    path.unlink()
    path.with_suffix(".json").unlink()
    workspace.finish()
    text = "`checkpoint verify` names it; deleted, the segment was trained again"
    return row(stages, workspace, f"weights of a milestone {damage}", text)


def manifest(stages: Stages, folder: Path, damage: str) -> Row:
    workspace = stages.started.copy(folder)
    path = workspace.checkpoints / f"epoch_{PARENT:04d}.json"
    DAMAGES[damage](path, workspace.checkpoints / "epoch_0000.json")
    assert ended(workspace.start()) == 1
    assert path.name in workspace.said()
    assert not (workspace.checkpoints / f"epoch_{LAST:04d}.json").exists()
    _must_be_found(workspace, path.name)
    path.unlink()
    workspace.finish()
    text = "the next segment refuses it by name; deleted, its own segment was trained again"
    return row(stages, workspace, f"manifest of the parent milestone {damage}", text)


def _must_be_found(workspace: Workspace, name: str) -> None:
    status, said = workspace.verify()
    assert status == 1, said
    assert "damaged" in said
    assert name in said


@contextlib.contextmanager
def small_disk(place: Path, size: int) -> Iterator[Callable[..., None]]:
    """A disk of `size` bytes over a folder, with the folder's content; yields its remounting."""
    kept = shutil.copytree(place, place.with_name(f"{place.name}.kept"))

    def mount(*options: str) -> bool:
        command = ["mount", "-t", "tmpfs", *options, "tmpfs", str(place)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    if not mount("-o", f"size={size}"):
        shutil.rmtree(kept)
        raise NotPossibleHere("mounting a small disk needs root")
    try:
        shutil.copytree(kept, place, dirs_exist_ok=True)
        yield lambda option: wait_for(lambda: mount("-o", f"remount,{option}"))
        shutil.copytree(place, kept, dirs_exist_ok=True)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=False)
    shutil.rmtree(place)
    kept.rename(place)


def full_disk_for_states(stages: Stages, folder: Path) -> Row:
    workspace = stages.started.copy(folder)
    size = (workspace.checkpoints / f"epoch_{PARENT:04d}.state").stat().st_size
    workspace.resume.mkdir(parents=True, exist_ok=True)
    with small_disk(workspace.resume, int(2.5 * size)) as remount:
        assert ended(workspace.start(0.0)) == 1
        assert "No space left on device" in workspace.said()
        assert len(workspace.states()) == 2
        assert not workspace.temporaries()
        remount(f"size={10 * size}")
        workspace.finish()
    text = "failed once and said why; both states whole, no rest; with room it went on"
    return row(stages, workspace, "disk full while a state is saved", text)


def full_disk_for_milestone(stages: Stages, folder: Path) -> Row:
    workspace = stages.started.copy(folder)
    place = workspace.checkpoints
    used = sum(-(-path.stat().st_size // 4096) * 4096 for path in place.iterdir())
    size = (place / f"epoch_{PARENT:04d}.safetensors").stat().st_size
    with small_disk(place, used + size // 2) as remount:
        assert ended(workspace.start()) == 1
        assert "No space left on device" in workspace.said()
        assert not list(place.glob(f"epoch_{LAST:04d}.*"))
        assert not workspace.temporaries()
        remount("size=20m")
        workspace.finish()
    text = "failed once and said why; earlier milestones whole, no rest; with room it went on"
    return row(stages, workspace, "disk full while a milestone is stored", text)


def read_only_disk(stages: Stages, folder: Path) -> Row:
    workspace = stages.started.copy(folder)
    workspace.resume.mkdir(parents=True, exist_ok=True)
    with small_disk(workspace.resume, 20_000_000) as remount:
        process = workspace.start_and_wait(1)
        remount("ro")
        assert ended(process) == 1
        assert "Read-only file system" in workspace.said()
        again = ended(workspace.start())
        assert again == 1
        remount("rw")
        workspace.finish()
    text = "failed once and said why, at once when started again; writable, it went on"
    return row(stages, workspace, "folder becomes read-only during training", text)


def vanished_resume_folder(stages: Stages, folder: Path) -> Row:
    workspace = stages.started.copy(folder)
    process = workspace.start_and_wait(2)
    workspace.resume.rename(folder / "gone")
    assert ended(process) == 1
    assert "was removed while this run was trained" in workspace.said()
    assert not (workspace.checkpoints / f"epoch_{LAST:04d}.json").exists()
    workspace.finish()
    text = "failed once and said why, stored nothing; the segment began anew from its parent"
    return row(stages, workspace, "folder of the resume states vanishes during training", text)


def vanished_checkpoints(stages: Stages, folder: Path) -> Row:
    workspace = stages.started.copy(folder)
    process = workspace.start_and_wait(2)
    workspace.checkpoints.rename(folder / "gone")
    assert ended(process) == 1
    assert "the parent changed during training" in workspace.said()
    assert not workspace.checkpoints.exists()
    (folder / "gone").rename(workspace.checkpoints)
    workspace.finish()
    text = "failed once and said why, left no chain with a gap; brought back, it went on"
    return row(stages, workspace, "folder of the milestones vanishes during training", text)


def two_trainers(stages: Stages, folder: Path) -> Row:
    workspace = stages.started.copy(folder)
    first = workspace.start_and_wait(1)
    second = workspace.start()
    assert ended(second) == 1
    assert f"another trainer holds results/resume/{STUDY}" in workspace.said()
    assert f"process {first.pid} on " in workspace.said()
    assert ended(first) == 0
    text = "the second was refused and told who trains; the first was not disturbed"
    return row(stages, workspace, "two trainers of one run", text)


def silent_holder_elsewhere(stages: Stages, folder: Path) -> Row:
    workspace = stages.started.copy(folder)
    workspace.kill()
    (holder,) = workspace.resume.glob("holder_*.json")
    text = json.loads(holder.read_text()) | {"machine": "another", "host": "another"}
    holder.write_text(json.dumps(text))
    os.utime(holder, (time.time() - 300, time.time() - 300))
    workspace.finish()
    assert "on another since" in workspace.said()
    assert "which is dead: taken over" in workspace.said()
    text = "its silence of 5 minutes was longer than the lease: taken over at once"
    return row(stages, workspace, "trainer on another machine died without a word", text)


def clock_skew(stages: Stages, folder: Path) -> Row:
    workspace = stages.started.copy(folder)
    workspace.kill()
    moment = time.time() + 86400
    for number, path in enumerate(sorted((workspace.folder / "results").rglob("*"))):
        # Half of the files from tomorrow, half from long ago.
        os.utime(path, (moment, moment) if number % 2 else (0, 0))
    workspace.finish()
    text = "states are found by step and content, never by time"
    return row(stages, workspace, "file times of tomorrow and of 1970", text)


def checkout_during_training(stages: Stages, folder: Path) -> Row:
    """Two versions of the data and all that follows, in DVC; one is trained on, one comes back."""
    workspace = stages.started.copy(folder / "work")
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def call(*command: str) -> None:
        done = subprocess.run(
            command,
            cwd=workspace.folder,
            env=os.environ | {"PATH": programs, "DVC_NO_ANALYTICS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    tracked = ("results/data/digits", f"results/{STUDY}/checkpoints")

    def commit(name: str) -> None:
        call("dvc", "add", "--quiet", *tracked)
        call("git", "add", "--all", ".")
        author = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        call("git", *author, "commit", "--quiet", f"--message={name}")
        call("git", "tag", name)

    (workspace.folder / ".gitignore").write_text("trainer.log\nresults/resume\n")
    call("git", "init", "--quiet")
    call("dvc", "init", "--quiet")
    commit("first")
    # Another version of the data: the same arrays, so that both versions train as fast.
    description = workspace.folder / "results/data/digits/manifest.json"
    content = description.read_text()
    description.unlink()
    description.write_text(f"{content}\n")
    shutil.rmtree(workspace.checkpoints)
    assert ended(workspace.start(until=PARENT)) == 0, workspace.said()
    commit("second")
    workspace.log.unlink()
    shutil.copyfile(stages.started.log, workspace.log)
    other = workspace.start(until=LAST)
    wait_for(lambda: bool(workspace.states()))
    other.kill()
    other.join()
    trained = len(workspace.steps())
    call("git", "checkout", "--quiet", "first")
    call("dvc", "checkout", "--quiet")
    workspace.finish()
    assert "belongs to another history" in workspace.said()
    text = "the other version's state was refused and removed; trained on from the parent here"
    assert trained
    return row(stages, workspace, "DVC checkout of another commit between two starts", text)


def exchange_during_training(stages: Stages, folder: Path) -> Row:
    """As a checkout does it while the trainer runs: the parent is another one when it ends."""
    workspace = stages.started.copy(folder)
    path = workspace.checkpoints / f"epoch_{PARENT:04d}.json"
    kept = path.read_bytes()
    process = workspace.start_and_wait(1)
    from barlow_atlas.store import snapshot

    found = snapshot.read_manifest(path)
    other = found.model_copy(update={"data_sha256": "another"})
    parts = (other.run, other.epoch, other.weights_sha256, "another", other.sources_sha256)
    other = other.model_copy(update={"lineage": snapshot.lineage(*parts, other.parent)})
    snapshot.write_atomically(path, other.model_dump_json().encode())
    assert ended(process) == 1
    assert "changed during training" in workspace.said()
    assert not list(workspace.checkpoints.glob(f"epoch_{LAST:04d}.*"))
    path.write_bytes(kept)
    workspace.finish()
    text = "refused at the end, nothing stored beside the wrong parent; brought back, it went on"
    return row(stages, workspace, "checkout of another history while training", text)
