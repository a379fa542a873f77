"""What a real Slurm does to a run that trains: the faults of benchmarks/faults.md that need one.

Each fault disturbs one segment of a small study in a folder of its own; all go on side by side, as
a requeued job waits.  The trainer is the atlas's own, started so that its steps can be counted and
last a second each while the file `slow` is there: the fault meets it in the middle however busy the
machine is.  With FAULT_ROWS=FILE, what was measured is added to FILE, a JSON line a fault.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from threading import Event, Lock

import pytest
from fresh_clone import Clone, source_path
from loopback_slurm import LoopbackSlurm
from row import Row
from submitit_project import wait_for
from workspace import CHANGES, STUDY, Workspace

EPOCHS = 24
RUN = f"mix-d64-e{EPOCHS}-clean-s1"
TARGET = f"results/{STUDY}/checkpoints/{RUN}/epoch_{{epoch:04d}}.json"
PRETRAIN = ("pretrain", "--study", STUDY, "--run", RUN, "--until", str(EPOCHS))
STUDY_CHANGES = (
    *(pair for pair in CHANGES if not pair[0].startswith(("milestones:", "\nepochs"))),
    ("\nepochs: 100", f"\nepochs: {EPOCHS}"),
    ("milestones: [0, 5, 10, 25, 50, 100]", f"milestones: [0, {EPOCHS}]"),
    ("pretrain: {mem_mb: 2000, runtime: 30}", "pretrain: {mem_mb: 700, runtime: 20}"),
)
SAVE_EVERY_S = 5
# All lives of the trainer write to one log, a line a step; the numbers are not touched.
TRAINER = f"""
import os, sys, time
from pathlib import Path
with open("trainer.log", "ab") as file:
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
from barlow_atlas.training import console
from barlow_atlas.__main__ import main
step = console.SegmentMonitor.step
def slow_step(self, progress):
    step(self, progress)
    until = time.monotonic() + 1.0
    while Path("slow").exists() and time.monotonic() < until and not self.stop_requested():
        time.sleep(0.05)
console.SECONDS_BETWEEN_LINES = -1.0
console.SegmentMonitor.step = slow_step
sys.exit(main([*sys.argv[1:], "--save-every", "{SAVE_EVERY_S}"]))
"""
# Generous: ten trainers, each with a Snakemake outside and one inside, on two cores.
PATIENCE_S = 600


@dataclass
class Cluster:
    """What the faults share."""

    slurm: LoopbackSlurm
    quiet: Lock = field(default_factory=Lock)
    """Whoever holds it asks Slurm something, or has taken the controller away."""
    restarted: Event = field(default_factory=Event)
    """The controller's restart comes first: Slurm drains nodes on which steps end without it."""
    begun: set[Path] = field(default_factory=set)
    """Where a trainer has been at work: without the controller none could begin."""


@dataclass
class Life:
    """What a trainer did from its start to its end; steps are counted from the seed on."""

    begin: int
    end: int
    stopped: str = ""
    """The trainer's own words, if it had time for them."""


@dataclass
class Training:
    """A folder in which Snakemake has one segment trained on Slurm."""

    folder: Path
    cluster: Cluster
    arguments: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    workspace: Workspace = field(init=False)

    def __post_init__(self) -> None:
        self.workspace = Workspace(self.folder, RUN)

    def on(self, partition: str, node: str = "", *arguments: str) -> None:
        """Starts Snakemake, whose job may go to one node only, if one is named."""
        where = [f"slurm_partition={partition}"]
        where += [f"slurm_extra='--nodelist={node}'"] if node else []
        self.arguments = ("--default-resources", "mem_mb=700", *where, *arguments)
        self.start()

    def start(self, *arguments: str) -> None:
        """Starts Snakemake, again with the command of before."""
        with (self.folder / "snakemake.out").open("ab") as file:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "snakemake", "--profile", "profiles/slurm"),
                    *("--submitit-status-interval", "5", "--config", f"study={STUDY}"),
                    *(*self.arguments, *arguments, "--", TARGET.format(epoch=EPOCHS)),
                ],
                cwd=self.folder,
                env=os.environ | environment(self.folder, self.cluster.slurm),
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def ended(self) -> int:
        """The exit status of Snakemake, which ends by itself."""
        assert self.process is not None
        return self.process.wait(timeout=PATIENCE_S)

    def output(self) -> str:
        return (self.folder / "snakemake.out").read_text(errors="replace")

    def wait_until_said(self, words: str) -> None:
        self._wait(lambda: words in self.output(), f"{words!r} of Snakemake")

    def wait_for_training(self) -> str:
        """The job that trains, when the fault may come: some steps after a saved state."""
        self.wait_for_steps()
        self.wait_for_restart()
        (job,) = self.jobs()
        return job

    def wait_for_steps(self) -> None:
        # Every 5 s a state, every second a step: 8 steps are a state and some more.
        self._wait(
            lambda: self.workspace.states() and len(self.workspace.steps()) >= 8, "the trainer"
        )
        self.cluster.begun.add(self.folder)

    def wait_for_restart(self) -> None:
        assert self.cluster.restarted.wait(PATIENCE_S), "the controller is not back"

    def wait_until_stopped(self) -> None:
        self._wait(lambda: "stopped at" in self.workspace.said(), "the trainer's last words")

    def _wait(self, condition: Callable[[], object], what: str) -> None:
        def true_or_over() -> object:
            assert self.process is not None
            return condition() or self.process.poll() is not None

        wait_for(true_or_over, what, PATIENCE_S)
        assert condition(), f"Snakemake ended without {what}:\n{self.output()[-5000:]}"

    def ask(self, *command: str) -> str:
        with self.cluster.quiet:
            return self.cluster.slurm.run(*command)

    def jobs(self) -> list[str]:
        """Those of this folder that wait or run."""
        lines = self.ask("squeue", "--noheader", "--format=%i|%Z").splitlines()
        return [line.split("|")[0] for line in lines if line.endswith(f"|{self.folder}")]

    def preempt(self, node: str) -> None:
        self.ask(
            *("sbatch", "--partition=high", f"--nodelist={node}", "--cpus-per-task=4"),
            *("--mem=100", "--output=/dev/null", "--wrap=sleep 2"),
        )

    def hurry(self) -> None:
        """From now on steps are not held up."""
        (self.folder / "slow").unlink()

    def finish(self) -> None:
        assert self.ended() == 0, self.output()[-5000:]

    def lives(self) -> list[Life]:
        """All trainers that were at work here, one after the other, as their log tells."""
        found: list[Life] = []
        for line in self.workspace.said().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # cut by a kill, or a traceback
            message = row.get("message", "")
            if continued := re.match(r"continues at epoch (\d+), step (\d+)", message):
                epoch, step = map(int, continued.groups())
                found.append(Life(8 * epoch + step, 8 * epoch + step))
            elif message.startswith("stopped at"):
                found[-1].stopped = message
            elif "step" in row:
                assert row["of"] == 8
                # Another trainer beside this one would write other steps in between.
                assert 8 * (row["epoch"] - 1) + row["step"] == found[-1].end + 1, line
                found[-1].end += 1
        assert found[-1].end == 8 * EPOCHS
        return found

    def close(self) -> None:
        """Leaves nothing behind on the cluster, whatever has gone wrong."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if jobs := self.jobs():
            self.ask("scancel", *jobs)


def environment(folder: Path, slurm: LoopbackSlurm) -> dict[str, str]:
    return {**slurm.environment, "PYTHONPATH": source_path(folder)}


def preemption(training: Training, cluster: Cluster) -> tuple[str, str]:
    training.on("low", "n2")
    job = training.wait_for_training()
    training.preempt("n2")
    training.wait_until_stopped()
    training.hurry()
    training.finish()
    assert "Restarts=1" in training.ask("scontrol", "show", "job", job)
    return "pre-emption, PreemptMode=REQUEUE", "saved; Slurm requeued the job, which went on"


def preemption_by_cancelling(training: Training, cluster: Cluster) -> tuple[str, str]:
    training.on("lost", "n3")
    training.wait_for_training()
    training.preempt("n3")
    training.wait_until_stopped()
    training.hurry()
    training.finish()
    assert "ended as PREEMPTED" in training.output()
    return "pre-emption, PreemptMode=CANCEL", "saved; the plugin submitted it again, it went on"


def time_limit(training: Training, cluster: Cluster) -> tuple[str, str]:
    # The signal, 90 to 150 s after the start, must find a trainer that handles it: before that it
    # is ignored, and starting one took 105 s on a machine with a load of 30.
    limit = ("--set-resources", "pretrain:runtime=3", "--submitit-signal-delay", "30")
    training.wait_for_restart()
    training.on("low", "n1", *limit)
    training.wait_until_stopped()
    (job,) = training.jobs()
    training.hurry()
    training.finish()
    assert training.lives()[0].stopped.endswith(f"({signal.SIGUSR2.name})")
    assert re.search("Restarts=[1-9]", training.ask("scontrol", "show", "job", job))
    return "time limit of a job", "saved before it; requeued itself and went on"


def scancel(training: Training, cluster: Cluster) -> tuple[str, str]:
    training.on("low", "n1")
    job = training.wait_for_training()
    training.ask("scancel", job)
    assert training.ended() != 0
    assert "cancelled from outside Snakemake (Slurm state CANCELLED)" in training.output()
    training.hurry()
    training.start()
    training.finish()
    text = 'the job failed as "cancelled from outside"; the same command went on from the state'
    return "scancel by somebody else", text


def node_down(training: Training, cluster: Cluster) -> tuple[str, str]:
    training.on("frail")
    job = training.wait_for_training()
    node = training.ask("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip()
    with cluster.quiet:
        cluster.slurm.lose_node(node)
    try:
        training.hurry()
        training.finish()
        shown = training.ask("scontrol", "show", "job", job)
        assert "Restarts=1" in shown
        assert re.findall(r"\bNodeList=(\S+)", shown) not in ([], [node])
    finally:
        cluster.slurm.bring_back_node(node)
    return "node down", "Slurm requeued the job; on another node it went on from the newest state"


def controller_restart(training: Training, cluster: Cluster) -> tuple[str, str]:
    training.on("low", "n6")
    training.wait_for_steps()
    # All but the one whose time limit is near only after this.
    wait_for(lambda: len(cluster.begun) >= len(FAULTS) - 1, "all trainers", PATIENCE_S)
    with cluster.quiet:
        cluster.slurm.stop_daemon("slurmctld")
        try:
            training.wait_until_said("Slurm does not answer")
        finally:
            cluster.slurm.start_daemon("slurmctld")
        cluster.slurm.run("squeue")  # waits for it
    cluster.restarted.set()
    training.hurry()
    training.finish()
    return "slurmctld restart", "said that Slurm did not answer, and waited; the job ran on"


def accounting_down(training: Training, cluster: Cluster) -> tuple[str, str]:
    training.on("low", "n6")
    training.wait_for_training()
    cluster.slurm.stop_daemon("slurmdbd")
    try:
        training.hurry()
        training.finish()
    finally:
        cluster.slurm.start_daemon("slurmdbd")
    return "slurmdbd down", "the job ran on, and its end was noticed as always"


def outer_killed(training: Training, cluster: Cluster) -> tuple[str, str]:
    training.on("low", "n6")
    job = training.wait_for_training()
    assert training.process is not None
    training.process.kill()
    training.process.wait()
    training.start()
    training.wait_until_said("submitted by an earlier start")
    assert training.jobs() == [job]
    training.hurry()
    training.finish()
    text = "the job ran on; the same command took it over"
    return "outer snakemake killed with -9, on Slurm", text


def logs_deleted(training: Training, cluster: Cluster) -> tuple[str, str]:
    training.on("low", "n6")
    training.wait_for_training()
    shutil.rmtree(training.folder / "logs/submitit")
    training.hurry()
    training.finish()
    return "folder of the logs deleted, on Slurm", "the job ran on, and its end was noticed"


def held(training: Training, cluster: Cluster) -> tuple[str, str]:
    training.on("low", "n1")
    job = training.wait_for_training()
    training.ask("scontrol", "requeuehold", job)
    training.wait_until_said("waits (job requeued in held state)")
    training.hurry()
    training.ask("scontrol", "release", job)
    training.finish()
    return "requeued and held by somebody", "said that it is held; released, it went on"


Fault = Callable[[Training, Cluster], tuple[str, str]]
ONCE, TWICE = range(1, 2), range(2, 3)
# A busy machine may reach the time limit again.
TWICE_OR_MORE = range(2, 20)
# How often a trainer is at work; and whether it surely can save before it must leave.
FAULTS: dict[Fault, tuple[range, bool]] = {
    preemption: (TWICE, True),
    preemption_by_cancelling: (TWICE, True),
    time_limit: (TWICE_OR_MORE, True),
    scancel: (TWICE, False),  # 5 s until SIGKILL may be too few on a busy machine
    node_down: (TWICE, False),
    controller_restart: (ONCE, True),
    accounting_down: (ONCE, True),
    outer_killed: (ONCE, True),
    logs_deleted: (ONCE, True),
    held: (TWICE, False),  # as scancel does
}


@dataclass
class Started:
    """A folder in which the segment's parent is there, and one in which the segment is too."""

    folder: Path
    reference: Workspace

    def seconds_per_step(self) -> float:
        manifest = self.reference.folder / TARGET.format(epoch=EPOCHS)
        seconds: float = json.loads(manifest.read_text())["made_by"]["seconds"]
        return seconds / (8 * EPOCHS)


@pytest.fixture(scope="module")
def started(slurm: LoopbackSlurm, tmp_path_factory: pytest.TempPathFactory) -> Started:
    folder = tmp_path_factory.mktemp("faults")
    clone = Clone(folder / "clone")
    clone.write_study(STUDY, "demo", *STUDY_CHANGES)
    (clone.folder / "trainer.py").write_text(TRAINER)
    rules = clone.folder / "workflow/rules/pretrain.smk"
    command = "python -m barlow_atlas pretrain "
    assert rules.read_text().count(command) == 1
    rules.write_text(rules.read_text().replace(command, "python trainer.py pretrain "))
    clone.snakemake("--config", f"study={STUDY}", "--", TARGET.format(epoch=0))
    (clone.folder / "trainer.log").unlink()
    reference = shutil.copytree(clone.folder, folder / "reference", symlinks=True)
    done = subprocess.run(
        [sys.executable, "-m", "barlow_atlas", *PRETRAIN],
        cwd=reference,
        env=os.environ | environment(reference, slurm),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return Started(clone.folder, Workspace(reference, RUN))


@pytest.fixture(scope="module")
def rows(slurm: LoopbackSlurm, started: Started) -> Iterator[dict[Fault, Future[Row]]]:
    cluster = Cluster(slurm)

    def row(fault: Fault) -> Row:
        folder = started.folder.with_name(fault.__name__)
        training = Training(shutil.copytree(started.folder, folder, symlinks=True), cluster)
        (folder / "slow").touch()
        try:
            name, happened = fault(training, cluster)
        finally:
            # Should it have failed, the others need not wait.
            cluster.begun.add(training.folder)
            if fault is controller_restart:
                cluster.restarted.set()
            training.close()
        lives = training.lives()
        times, saves = FAULTS[fault]
        assert len(lives) in times, lives
        repeated = sum(before.end - after.begin for before, after in pairwise(lives))
        # At a second a step, no more than since the newest state.
        assert 0 <= repeated <= (0 if saves else SAVE_EVERY_S + 1), lives
        return Row(
            fault=name,
            happened=happened,
            lost_s=round(repeated * started.seconds_per_step(), 2),
            repeated=f"{repeated} step{'s' * (repeated != 1)}" if repeated else "nothing",
            equal=training.workspace.content() == started.reference.content(),
        )

    with ThreadPoolExecutor(len(FAULTS)) as pool:
        yield {fault: pool.submit(row, fault) for fault in FAULTS}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_training_ends_as_if_nothing_had_happened(
    fault: Fault, rows: dict[Fault, Future[Row]]
) -> None:
    try:
        row = rows[fault].result()
    except (Exception, pytest.fail.Exception) as error:
        first_line = str(error).strip().partition("\n")[0]
        write(Row(fault.__name__, f"BROKEN: {first_line}", 0.0, "", False))
        raise
    write(row)
    assert row.equal, row


def write(row: Row) -> None:
    if file := os.environ.get("FAULT_ROWS"):
        with Path(file).open("a") as lines:
            lines.write(json.dumps(asdict(row)) + "\n")
