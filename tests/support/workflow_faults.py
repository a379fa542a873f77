"""What can happen to Snakemake around a trainer, on one machine. As in trainer_faults.py."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from fresh_clone import Clone, source_path
from row import Row
from workspace import CHANGES, STUDY, Workspace, wait_for

EPOCHS = 60
"""Long enough that Snakemake, which looks at its jobs now and then, is met while one runs."""
RUN = f"mix-d64-e{EPOCHS}-clean-s1"
PARENT = 4


@dataclass
class Workflow:
    """A clone in which Snakemake trains one run."""

    folder: Path

    @property
    def results(self) -> Workspace:
        return Workspace(self.folder, RUN)

    @property
    def output(self) -> Path:
        return self.folder / "snakemake.out"

    @property
    def trainer_log(self) -> Path:
        return self.folder / f"logs/{STUDY}/pretrain/{RUN}/epoch_{EPOCHS:04d}.log"

    def copy(self, folder: Path) -> "Workflow":
        return Workflow(shutil.copytree(self.folder, folder, symlinks=True))

    def start(self, *arguments: str, until: int = EPOCHS) -> subprocess.Popen[bytes]:
        target = f"results/{STUDY}/checkpoints/{RUN}/epoch_{until:04d}.json"
        command = ["snakemake", "--profile", "profiles/local", "--config", f"study={STUDY}"]
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        settings = {"PATH": programs, "PYTHONPATH": source_path(self.folder)}
        with self.output.open("ab") as file:
            return subprocess.Popen(
                [*command, *arguments, "--", target],
                cwd=self.folder,
                env=os.environ | settings,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def finish(self, until: int = EPOCHS) -> None:
        assert self.start(until=until).wait() == 0, self.output.read_text()[-5000:]

    def start_and_wait(self) -> tuple[subprocess.Popen[bytes], float]:
        """Snakemake while its last segment trains, and since when (by time.monotonic)."""
        outer = self.start()
        wait_for(lambda: self._trains() or outer.poll() is not None)
        assert outer.poll() is None, self.output.read_text()[-5000:]
        return outer, time.monotonic()

    def _trains(self) -> bool:
        return self.trainer_log.exists() and "continues at" in self.trainer_log.read_text()

    def finished_jobs(self) -> int:
        """How often Snakemake said that a segment is done, in all its lives here."""
        said = self.output.read_text()
        return said.count("done: Training ")

    def trainers(self) -> list[psutil.Process]:
        """The processes that train here."""
        return [process for process, line in self._commands().items() if "barlow_atlas" in line[:3]]

    def _commands(self) -> dict[psutil.Process, list[str]]:
        """The processes that run here, with their command lines; one that just ends has none."""
        commands = {}
        for process in psutil.process_iter():
            try:
                if process.cwd() == str(self.folder):
                    commands[process] = process.cmdline()
            except psutil.Error:
                continue
        return commands

    def inner(self) -> psutil.Process:
        """The Snakemake that runs inside the job."""
        (found,) = (p for p, line in self._commands().items() if {"--mode", "remote"} <= set(line))
        return found


@dataclass(frozen=True)
class Workflows:
    """A clone whose Snakemake has trained up to the parent, and one that has finished."""

    started: Workflow
    finished: Workflow

    @classmethod
    def make(cls, folder: Path) -> "Workflows":
        clone = Clone(folder / "started")
        changes = [
            (before, after.replace("12", str(EPOCHS)))
            for before, after in CHANGES
            if not before.startswith("milestones:")
        ]
        milestones = ("milestones: [0, 5, 10, 25, 50, 100]", f"milestones: [0, {PARENT}, {EPOCHS}]")
        clone.write_study(STUDY, "demo", *changes, milestones)
        started = Workflow(clone.folder)
        started.finish(until=PARENT)
        started.output.unlink()
        finished = started.copy(folder / "finished")
        finished.finish()
        return cls(started, finished)


def _row(
    workflows: Workflows, workflow: Workflow, fault: str, happened: str, lost: float = 0.0
) -> Row:
    return Row(
        fault,
        happened,
        round(lost, 2),
        f"{lost:.1f} s of a segment" if lost else "nothing",
        workflow.results.content() == workflows.finished.results.content(),
    )


def outer_killed(workflows: Workflows, folder: Path) -> Row:
    workflow = workflows.started.copy(folder)
    outer, _ = workflow.start_and_wait()
    outer.kill()
    outer.wait()
    # On this machine a job does not outlive its Snakemake: the trainer saves and leaves.
    wait_for(lambda: not workflow.trainers())
    stopped = _message(workflow, "stopped at")
    workflow.finish()
    continued = _message(workflow, "continues at")
    assert stopped.split(";")[0].removeprefix("stopped at ") == continued.removeprefix(
        "continues at "
    )
    assert workflow.finished_jobs() == 1
    text = "the trainer saved and left; the same command went on from there"
    return _row(workflows, workflow, "outer snakemake killed with -9", text)


def inner_killed(workflows: Workflows, folder: Path) -> Row:
    workflow = workflows.started.copy(folder)
    outer, began = workflow.start_and_wait()
    time.sleep(2.0)
    workflow.inner().kill()
    lost = time.monotonic() - began
    assert outer.wait() != 0
    wait_for(lambda: not workflow.trainers())
    workflow.finish()
    assert workflow.finished_jobs() == 1
    text = "the job failed, its trainer was ended; the segment began anew, as no state was due yet"
    return _row(workflows, workflow, "inner snakemake killed with -9", text, lost)


def two_users(workflows: Workflows, folder: Path) -> Row:
    workflow = workflows.started.copy(folder)
    first, _ = workflow.start_and_wait()
    second = workflow.start()
    assert second.wait() != 0
    assert first.wait() == 0
    assert "is being worked on by process" in workflow.output.read_text()
    assert workflow.finished_jobs() == 1
    text = "the second was refused and told who works on the study; the first was not disturbed"
    return _row(workflows, workflow, "two users start a study in one folder", text)


def two_clones(workflows: Workflows, folder: Path) -> Row:
    workflow = workflows.started.copy(folder)
    other = workflow.copy(folder.with_name("other"))
    shutil.rmtree(other.folder / "results")
    (other.folder / "results").symlink_to(workflow.folder / "results")
    first, _ = workflow.start_and_wait()
    second = other.start()
    assert second.wait() != 0
    assert first.wait() == 0, workflow.output.read_text()[-5000:]
    assert "another trainer holds" in other.output.read_text()
    other.finish()
    assert workflow.finished_jobs() == 1
    assert other.finished_jobs() == 0
    text = "the second's trainer was refused and told who trains; later it found all done"
    return _row(workflows, workflow, "two users, two clones, one results folder", text)


def _message(workflow: Workflow, begin: str) -> str:
    """The trainer's last message that begins so, in the log of its last segment."""
    messages = []
    for line in workflow.trainer_log.read_text().splitlines():
        row = json.loads(line)
        messages += [row["message"]] if row.get("message", "").startswith(begin) else []
    return str(messages[-1]).split(" (")[0]
