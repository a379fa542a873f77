"""A folder in which a small run is trained, disturbed, and compared with an undisturbed one."""

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from barlow_atlas import __main__
from barlow_atlas.nn import detector_parts
from barlow_atlas.steps import prepare_data, pretrain, probe
from barlow_atlas.training import console
from barlow_atlas.workflow import chain

ROOT = Path(__file__).parents[2]
STUDY = "small"
RUN = "mix-d64-e12-clean-s1"
MILESTONES = (0, 4, 12)
CHANGES = (
    ("width: 16", "width: 8"),
    ("seeds_together: 3", "seeds_together: 1"),
    ("milestones_together: 3", "milestones_together: 1"),
    ("embedding_dims: [256]", "embedding_dims: [64]"),
    ("seeds: [1, 2, 3]", "seeds: [1]"),
    ("\nepochs: 100", "\nepochs: 12"),
    ("warmup_epochs: 10", "warmup_epochs: 2"),
    ("milestones: [0, 5, 10, 25, 50, 100]", f"milestones: {list(MILESTONES)}"),
)
OFTEN = 0.05
"""Seconds between saved states, where a fault waits for some of them."""
DEADLINE = 120.0

# Children start as copies of a process that has torch loaded: a life is a second, not four. The
# server passes over a name that it cannot import; the modules themselves are named, therefore.
PROCESSES = multiprocessing.get_context("forkserver")
LOADED = (__main__, chain, console, detector_parts, prepare_data, pretrain, probe, psutil)
PROCESSES.set_forkserver_preload([module.__name__ for module in LOADED])


def nothing() -> None:
    """No change."""


def _step(folder: Path, commands: list[list[str]], log: Path, change: Callable[[], None]) -> None:
    """What a child does: steps of the command line, one after the other, up to a failing one."""
    os.chdir(folder)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    console.SECONDS_BETWEEN_LINES = -1.0  # a line a step: what was trained can be counted
    change()
    for command in commands:
        status = __main__.main(command)
        if status:
            os._exit(status)


@dataclass
class Workspace:
    """A folder with a study file, its data, and a run at some point of its life."""

    folder: Path
    run_name: str = RUN
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.folder / "trainer.log"

    def copy(self, folder: Path) -> "Workspace":
        shutil.copytree(self.folder, folder, symlinks=True)
        return Workspace(folder)

    @property
    def checkpoints(self) -> Path:
        return self.folder / f"results/{STUDY}/checkpoints/{self.run_name}"

    @property
    def training(self) -> Path:
        return self.folder / f"results/{STUDY}/training/{self.run_name}"

    @property
    def resume(self) -> Path:
        return self.folder / f"results/resume/{STUDY}/{self.run_name}"

    def states(self) -> list[Path]:
        return sorted(self.resume.glob("step_*.state"))

    def temporaries(self) -> list[Path]:
        return list((self.folder / "results").rglob(".*.tmp"))

    def start(self, save_every: float = OFTEN, until: int = MILESTONES[-1]) -> BaseProcess:
        """A trainer of every milestone that is not there yet."""
        wanted = [epoch for epoch in MILESTONES if epoch <= until]
        missing = [
            epoch for epoch in wanted if not (self.checkpoints / f"epoch_{epoch:04d}.json").exists()
        ]
        options = ["--study", STUDY, "--run", RUN, "--save-every", str(save_every)]
        return self.run(*(["pretrain", *options, "--until", str(epoch)] for epoch in missing))

    def run(self, *commands: list[str], change: Callable[[], None] = nothing) -> BaseProcess:
        """Steps of the command line in a process of their own, after a change of its code."""
        given = self.folder, list(commands), self.log, change
        process = PROCESSES.Process(target=_step, args=given)
        process.start()
        return process

    def finish(self, save_every: float = OFTEN) -> None:
        """Trains what is missing; the trainer must succeed."""
        status = ended(self.start(save_every))
        assert status == 0, self.said()[-3000:]

    def start_and_wait(self, count: int = 2, save_every: float = OFTEN) -> BaseProcess:
        """A trainer that has saved at least `count` states of its own and still runs."""
        before = {path.name for path in self.states()}
        process = self.start(save_every)
        seen: set[str] = set()

        def saved() -> bool:
            assert process.exitcode is None, "the trainer ended before it could be disturbed"
            seen.update({path.name for path in self.states()} - before)
            return len(seen) >= count

        wait_for(saved)
        return process

    def kill(self, count: int = 2) -> None:
        """A trainer that dies in the middle."""
        process = self.start_and_wait(count)
        process.kill()
        process.join()

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def steps(self) -> list[tuple[int, int]]:
        """Every (epoch, step) that was trained, in order, repeated ones too."""
        found = []
        for line in self.said().splitlines():
            try:
                row = json.loads(line)
                found.append((row["epoch"], row["step"]))
            except (ValueError, KeyError, TypeError):
                continue  # a message, or a line cut by a kill
        return found

    def repeated_steps(self) -> int:
        steps = self.steps()
        return len(steps) - len(set(steps))

    def verify(self) -> tuple[int, str]:
        """`checkpoint verify`: its exit status and what it said."""
        before = len(self.said())
        status = ended(self.run(["checkpoint", "verify", RUN, "--study", STUDY]))
        return status, self.said()[before:]

    def seconds_per_step(self) -> float:
        """Of training, in an undisturbed life; from the manifest of the last milestone."""
        manifest = json.loads((self.checkpoints / f"epoch_{MILESTONES[-1]:04d}.json").read_text())
        epochs = MILESTONES[-1] - MILESTONES[-2]
        last = [step for epoch, step in self.steps() if epoch == MILESTONES[-1]]
        seconds: float = manifest["made_by"]["seconds"] / (epochs * max(last))
        return seconds

    def content(self) -> dict[str, bytes]:
        """What must not depend on any disturbance: weights, lineage and metrics."""
        files = [*self.checkpoints.glob("*.safetensors"), *self.training.glob("*.jsonl")]
        lineage = {
            path.name: json.loads(path.read_text())["lineage"].encode()
            for path in self.checkpoints.glob("*.json")
        }
        return {path.name: path.read_bytes() for path in files} | lineage


@dataclass(frozen=True)
class Stages:
    """The run at three points of its life, to be copied: data only, two milestones, all three."""

    fresh: Workspace
    started: Workspace
    finished: Workspace
    life: float  # seconds that an undisturbed trainer takes, a state saved after every step

    @classmethod
    def make(cls, folder: Path) -> "Stages":
        fresh = Workspace(folder / "fresh")
        (fresh.folder / "params").mkdir(parents=True)
        text = (ROOT / "params/demo.yaml").read_text()
        for before, after in CHANGES:
            assert text.count(before) == 1, before
            text = text.replace(before, after)
        (fresh.folder / f"params/{STUDY}.yaml").write_text(text)
        status = ended(fresh.run(["prepare-data", "--study", STUDY]))
        assert status == 0, fresh.said()
        started = fresh.copy(folder / "started")
        assert ended(started.start(until=MILESTONES[-2])) == 0, started.said()
        finished = started.copy(folder / "finished")
        finished.finish(save_every=1e9)
        saving = fresh.copy(folder / "saving")
        begin = time.monotonic()
        saving.finish(save_every=0.0)
        life = time.monotonic() - begin
        assert saving.content() == finished.content()
        return cls(fresh, started, finished, life)


def ended(process: BaseProcess) -> int:
    """The exit status of a process that ends by itself."""
    process.join(DEADLINE)
    assert process.exitcode is not None, "still running"
    return process.exitcode


def wait_for(true: Callable[[], bool], seconds: float = DEADLINE) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.001)
