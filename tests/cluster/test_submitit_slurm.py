"""Workflows through the plugin on a real Slurm.

What takes minutes (the time limit, a preemption, a cancellation found by asking Slurm) is started
first, in threads, and looked at last.  It has the node n2, or leaves enough of n1.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from loopback_slurm import KILL_WAIT_S, LoopbackSlurm
from submitit_project import Project, wait_for, write_trainer

# All else is given by the rules.
ARGUMENTS = ("--submitit-cluster", "slurm", "--jobs", "10", "--cores", "8")


def default_resources(node: str) -> tuple[str, ...]:
    return ("--default-resources", "runtime=10", "mem_mb=200", f"slurm_extra='--nodelist={node}'")


class Workflow(Project):
    """A folder with a Snakefile, run on the cluster."""

    def __init__(self, folder: Path, slurm: LoopbackSlurm) -> None:
        super().__init__(folder, dict(slurm.environment))
        self.slurm = slurm

    def on(self, node: str, *arguments: str) -> subprocess.Popen[str]:
        return self.start(*ARGUMENTS, *arguments, *default_resources(node))

    def finish(self, node: str, *arguments: str) -> tuple[int, str]:
        return self.run(*ARGUMENTS, *arguments, *default_resources(node))

    def job_ids(self) -> list[str]:
        """Of the jobs in the queue or running, by the folder that they work in."""
        listed = self.slurm.run("squeue", "--noheader", "--format=%i|%Z").splitlines()
        return [line.partition("|")[0] for line in listed if line.endswith(f"|{self.folder}")]


@pytest.fixture
def workflow(tmp_path: Path, slurm: LoopbackSlurm, scenarios: object) -> Workflow:
    return Workflow(tmp_path, slurm)


@dataclass
class Ending:
    """How a scenario ended."""

    workflow: Workflow
    status: int
    output: str
    seconds: float  # from the event to the end of Snakemake
    job: str = ""  # what scontrol says about the job


TRAINING = """
    rule train:
        output: "model.txt"
        resources: runtime={runtime}
        shell: "{python} trainer.py && touch {{output}}"
    """


def time_limit(workflow: Workflow) -> Ending:
    write_trainer(workflow.folder, save_s=1.0)
    workflow.write(TRAINING.format(python=sys.executable, runtime=2))
    started = time.monotonic()
    process = workflow.on("n1", "--submitit-signal-delay", "30")
    return _ending(workflow, process, started)


def preemption(workflow: Workflow) -> Ending:
    write_trainer(workflow.folder, save_s=1.0)
    workflow.write(TRAINING.format(python=sys.executable, runtime=10))
    process = workflow.on("n2")
    wait_for((workflow.folder / "ready").exists, 60, "the trainer")
    started = time.monotonic()
    workflow.slurm.run(
        *("sbatch", "--partition=high", "--nodelist=n2", "--cpus-per-task=4"),
        *("--output=/dev/null", "--wrap=sleep 2"),
    )
    return _ending(workflow, process, started)


def cancellation(workflow: Workflow) -> Ending:
    workflow.write(
        """
        rule slow:
            output: "x.txt"
            shell: "echo it has begun; touch ready; sleep 600"
        """
    )
    process = workflow.on("n1")
    wait_for((workflow.folder / "ready").exists, 60, "the job")
    started = time.monotonic()
    workflow.slurm.run("scancel", *workflow.job_ids())
    return _ending(workflow, process, started)


def _ending(workflow: Workflow, process: subprocess.Popen[str], started: float) -> Ending:
    wait_for(lambda: workflow.job_ids() or process.poll() is not None, 60, "a job")
    ids = workflow.job_ids()
    output, _ = process.communicate(timeout=300)
    job = workflow.slurm.run("scontrol", "show", "job", ids[0]) if ids else ""
    return Ending(workflow, process.returncode, output, time.monotonic() - started, job)


@pytest.fixture(scope="session")
def scenarios(
    slurm: LoopbackSlurm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Callable[[Workflow], Ending], Future[Ending]]]:
    functions = (time_limit, preemption, cancellation)
    with ThreadPoolExecutor(len(functions)) as pool:
        yield {
            each: pool.submit(each, Workflow(tmp_path_factory.mktemp(each.__name__), slurm))
            for each in functions
        }


def test_slurm_gets_what_the_rule_asks_for(workflow: Workflow) -> None:
    workflow.write(
        """
        rule all:
            input: "full.txt", "plain.txt"
        rule full:
            output: "full.txt"
            threads: 2
            resources:
                mem_mb=300, runtime=7, gpu=1, slurm_partition="high",
                slurm_extra="--nodelist=n1 --comment=atlas",
            shell:
                "scontrol show job $SLURM_JOB_ID > {output};"
                " echo step=$SLURM_CPUS_PER_TASK gpus=$CUDA_VISIBLE_DEVICES threads={threads}"
                " >> {output}"
        rule plain:
            output: "plain.txt"
            shell: "scontrol show job $SLURM_JOB_ID > {output}"
        """
    )
    status, output = workflow.finish("n1")
    assert status == 0, output
    full = (workflow.folder / "full.txt").read_text()
    for expected in (
        *("CPUs/Task=2", "MinMemoryNode=300M", "TimeLimit=00:07:00", "TresPerNode=gres:gpu:1"),
        *("Partition=high", "Requeue=1", "Comment=atlas", "JobName=full", "NumNodes=1 NumCPUs=2"),
    ):
        assert expected in full
    assert full.splitlines()[-1] in [f"step=2 gpus={gpu} threads=2" for gpu in (0, 1)]
    plain = (workflow.folder / "plain.txt").read_text()
    assert "CPUs/Task=1" in plain
    assert "Partition=low" in plain
    job_id = full.split()[0].removeprefix("JobId=")
    fields = "--format=State,AllocTRES"
    accounted = workflow.slurm.run("sacct", "-X", "-P", "-n", "-j", job_id, fields).strip()
    state, _, tres = accounted.partition("|")
    assert state == "COMPLETED"
    assert {"cpu=2", "gres/gpu=1", "mem=300M"} <= set(tres.split(","))
    # Readable logs, and none of submitit's other files.
    logs = workflow.logs()
    assert sorted(log.parent.name for log in logs) == ["full", "plain"]
    files = [p for p in (workflow.folder / "logs").rglob("*") if not p.is_dir()]
    assert sorted(files) == logs


def test_failure_is_reported_with_reason_and_last_lines(workflow: Workflow) -> None:
    workflow.write(
        """
        rule bad:
            output: "x.txt"
            shell: "echo the very reason >&2; exit 7"
        """
    )
    status, output = workflow.finish("n1")
    assert status != 0
    assert "failed: the command ended with status 1 (Slurm state FAILED)." in output
    assert "  | the very reason" in output
    assert str(workflow.logs()[0].relative_to(workflow.folder)) in output


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ("slurm_partition='nowhere'", "invalid partition"),
        ("mem_mb=0", "resource mem_mb=0 cannot be used"),
    ],
)
def test_a_job_that_cannot_be_submitted_is_reported(
    workflow: Workflow, resources: str, expected: str
) -> None:
    workflow.write(
        f"""
        rule bad:
            output: "x.txt"
            resources: {resources}
            shell: "touch {{output}}"
        """
    )
    status, output = workflow.finish("n1")
    assert status != 0
    assert expected in output


def test_ctrl_c_cancels_all_jobs(workflow: Workflow) -> None:
    workflow.write(
        """
        rule all:
            input: "1.txt", "2.txt", "3.txt"
        rule slow:
            output: "{i}.txt"
            shell: "touch started{wildcards.i}; sleep 600"
        """
    )
    process = workflow.on("n1")
    wait_for(lambda: list(workflow.folder.glob("started*")), 60, "a job")
    wait_for(lambda: len(workflow.job_ids()) == 3, 30, "three submitted jobs")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0, output
    wait_for(lambda: not workflow.job_ids(), KILL_WAIT_S + 15, "the end of the Slurm jobs")


def test_group_job(workflow: Workflow) -> None:
    workflow.write(
        """
        rule b:
            input: "a.txt"
            output: "b.txt"
            group: "pair"
            resources: runtime=3
            shell: "scontrol show job $SLURM_JOB_ID > {output}"
        rule a:
            output: "a.txt"
            group: "pair"
            resources: runtime=4
            shell: "touch {output}"
        """
    )
    status, output = workflow.finish("n1")
    assert status == 0, output
    assert "TimeLimit=00:07:00" in (workflow.folder / "b.txt").read_text()
    assert len(workflow.logs()) == 1


def test_without_sacct_squeue_tells_of_a_cancelled_job(workflow: Workflow, tmp_path: Path) -> None:
    """A cluster without accounting: all programs are on the PATH but sacct."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for folder in ("/usr/bin", "/bin", "/usr/local/bin"):
        for program in Path(folder).iterdir():
            link = programs / program.name
            if program.name != "sacct" and not link.is_symlink():
                link.symlink_to(program)
    workflow.environment["PATH"] = str(programs)
    workflow.write(
        """
        rule slow:
            output: "x.txt"
            shell: "touch ready; sleep 600"
        """
    )
    process = workflow.on("n1", "--submitit-status-interval", "3")
    wait_for((workflow.folder / "ready").exists, 60, "the job")
    workflow.slurm.run("scancel", *workflow.job_ids())
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Slurm ended it with state CANCELLED" in output


def test_a_job_cancelled_from_outside_is_noticed_within_about_a_minute(
    scenarios: dict[Callable[[Workflow], Ending], Future[Ending]],
) -> None:
    ending = scenarios[cancellation].result()
    assert ending.status != 0
    assert "Slurm ended it with state CANCELLED and it left no result" in ending.output
    assert "  | it has begun" in ending.output
    assert ending.seconds < 75


def test_a_preempted_job_saves_is_requeued_and_finishes(
    scenarios: dict[Callable[[Workflow], Ending], Future[Ending]],
) -> None:
    ending = scenarios[preemption].result()
    folder = ending.workflow.folder
    assert ending.status == 0, ending.output
    assert (folder / "state").read_text() == "SIGTERM"
    assert (folder / "runs").read_text() == "run\n" * 2
    assert "Restarts=1" in ending.job


def test_a_job_at_its_time_limit_saves_is_requeued_and_finishes(
    scenarios: dict[Callable[[Workflow], Ending], Future[Ending]],
) -> None:
    ending = scenarios[time_limit].result()
    folder = ending.workflow.folder
    assert ending.status == 0, ending.output
    assert (folder / "state").read_text() == "SIGUSR2"
    assert (folder / "runs").read_text() == "run\n" * 2
    assert "Restarts=1" in ending.job
    assert (folder / "model.txt").exists()
