"""Jobs of several tasks on a real Slurm: 2 nodes with 2 tasks each.

The scenarios run beside each other, each on nodes of its own.  TASKS_REPEATED=N makes each N times.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from loopback_slurm import LoopbackSlurm
from slurm_workflow import ARGUMENTS, Workflow
from submitit_project import wait_for

REPEATED = range(int(os.environ.get("TASKS_REPEATED", "1")))

# Ranks tell where they are.  On a signal all of them save, and rank 0 alone leaves with a status
# that is not 0, as another one would have Slurm end its peers before they have saved.
TRAINER = """
import os, pathlib, signal, sys, time
rank = os.environ["SLURM_PROCID"]
with open(f"signals.{rank}", "a") as file:
    file.write("run\\n")
told = []
def note(signum, frame):
    told.append(signum)
    with open(f"signals.{rank}", "a") as file:
        file.write(signal.Signals(signum).name + "\\n")
signal.signal(signal.SIGUSR2, note)
signal.signal(signal.SIGTERM, note)
if pathlib.Path(f"saved.{rank}").exists():
    sys.exit(0)
pathlib.Path(f"ready.{rank}").touch()
while not told:
    time.sleep(0.1)
pathlib.Path(f"saved.{rank}").touch()
deadline = time.time() + 15
while len(list(pathlib.Path().glob("saved.*"))) < 4 and time.time() < deadline:
    time.sleep(0.1)
sys.exit(75 if rank == "0" else 0)
"""
TRAINING = """
    rule train:
        output: "model.txt"
        resources: nodes=2, tasks_per_node=2, runtime={runtime}, mpi="srun"
        shell: "{{resources.mpi}} python3 trainer.py && touch {{output}}"
    """


@dataclass
class Ending:
    workflow: Workflow
    status: int
    output: str
    seconds: float = 0.0


def run(workflow: Workflow, *arguments: str, nodes: str) -> Ending:
    where = (f"slurm_partition={'high' if nodes == 'n3,n6' else 'low'}", "mem_mb=300")
    began = time.monotonic()
    status, output = workflow.run(
        *(*ARGUMENTS, "--submitit-status-interval", "5", *arguments),
        *("--default-resources", *where, f"slurm_extra='--nodelist={nodes}'"),
        seconds=600,
    )
    return Ending(workflow, status, output, time.monotonic() - began)


def time_limit(workflow: Workflow) -> Ending:
    (workflow.folder / "trainer.py").write_text(TRAINER)
    # Of the 3 min Slurm may take one: the trainers have a minute and a half to start.
    workflow.write(TRAINING.format(runtime=3))
    return run(workflow, "--submitit-signal-delay", "30", nodes="n3,n6")


def preemption(workflow: Workflow) -> Ending:
    (workflow.folder / "trainer.py").write_text(TRAINER)
    workflow.write(TRAINING.format(runtime=10))
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(run, workflow, nodes="n1,n2")
        wait_for(lambda: len(list(workflow.folder.glob("ready.*"))) == 4, "the trainers")
        workflow.slurm.run(
            *("sbatch", "--partition=high", "--nodelist=n1", "--cpus-per-task=4", "--mem=100"),
            *("--output=/dev/null", "--wrap=sleep 2"),
        )
        return ending.result()


@pytest.fixture(scope="module")
def scenarios(
    slurm: LoopbackSlurm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[Callable[[Workflow], Ending], int], Future[Ending]]]:
    with ThreadPoolExecutor(2) as pool:
        yield {
            (each, attempt): pool.submit(
                each, Workflow(tmp_path_factory.mktemp(each.__name__), slurm)
            )
            for attempt in REPEATED
            for each in (time_limit, preemption)
        }


@pytest.mark.parametrize("attempt", REPEATED)
def test_plain_srun_and_mpi_reach_the_whole_allocation(
    workflow: Workflow, scenarios: object, attempt: int
) -> None:
    rank = "echo $SLURM_PROCID $SLURM_NTASKS $SLURMD_NODENAME $SLURM_CPUS_PER_TASK"
    workflow.write(
        f"""
        rule all:
            input: "mpi", "plain", "once"
        rule mpi:
            output: "mpi"
            threads: 2
            resources: tasks=2, nodes=2, mpi="srun --cpus-per-task=1"
            shell:
                "{{resources.mpi}} bash -c '{rank}' > {{output}};"
                " echo $SLURM_NNODES >> {{output}}"
        rule plain:
            output: "plain"
            resources: nodes=2, tasks_per_node=2
            shell: "srun bash -c '{rank}' > {{output}}"
        rule once:
            output: "once"
            resources: nodes=2, tasks_per_node=2
            shell: "echo $SLURM_NTASKS $SLURM_NNODES >> {{output}}"
        """
    )
    ending = run_on_frail(workflow)
    assert ending.status == 0, ending.output
    plain = sorted((workflow.folder / "plain").read_text().split("\n")[:-1])
    assert plain == ["0 4 n4 1", "1 4 n4 1", "2 4 n5 1", "3 4 n5 1"]
    *ranks, nodes = (workflow.folder / "mpi").read_text().split("\n")[:-1]
    assert sorted(ranks) == ["0 2 n4 1", "1 2 n5 1"]
    assert nodes == "2"
    assert (workflow.folder / "once").read_text() == "4 2\n"


def run_on_frail(workflow: Workflow) -> Ending:
    status, output = workflow.run(
        *(*ARGUMENTS, "--submitit-status-interval", "5", "--default-resources"),
        *("slurm_partition=frail", "mem_mb=300", "runtime=10"),
    )
    return Ending(workflow, status, output)


@pytest.mark.parametrize("attempt", REPEATED)
def test_one_failing_task_ends_the_job_with_its_own_error(
    workflow: Workflow, scenarios: object, attempt: int
) -> None:
    (workflow.folder / "task.py").write_text(
        "import os, signal, sys, time\n"
        "rank = os.environ['SLURM_PROCID']\n"
        "if rank == '2': time.sleep(3); sys.exit('the very reason')\n"
        "def late(*_): print('a long trace of a peer\\n' * 100, flush=True); os._exit(1)\n"
        "signal.signal(signal.SIGTERM, late)\n"
        "time.sleep(600)\n"
    )
    workflow.write(
        """
        rule bad:
            output: "bad"
            resources: nodes=2, tasks_per_node=2
            shell: "touch began; srun python3 task.py"
        """
    )
    began = time.monotonic()
    ending = run_on_frail(workflow)
    assert time.monotonic() - began < 120  # the tasks would go on for ten minutes
    assert ending.status != 0
    assert "  | the very reason" in ending.output
    started = (workflow.folder / "began").stat().st_mtime
    (log,) = workflow.logs()
    assert log.stat().st_mtime - started < 30


@pytest.mark.parametrize("attempt", REPEATED)
def test_gpus_are_shared_out(workflow: Workflow, slurm: LoopbackSlurm, attempt: int) -> None:
    workflow.write(
        """
        rule gpus:
            output: "gpus"
            resources: gpu=2, tasks_per_gpu=1, slurm_partition="high", runtime=5, mem_mb=100
            shell: "srun bash -c 'echo $SLURM_PROCID $CUDA_VISIBLE_DEVICES' > {output}"
        """
    )
    status, output = workflow.run(*ARGUMENTS)
    assert status == 0, output
    lines = sorted((workflow.folder / "gpus").read_text().split("\n")[:-1])
    assert lines == ["0 0", "1 1"]


@pytest.mark.parametrize("attempt", REPEATED)
@pytest.mark.parametrize(("scenario", "told"), [(time_limit, "SIGUSR2"), (preemption, "SIGTERM")])
def test_all_tasks_save_and_go_on(
    scenarios: dict[tuple[Callable[[Workflow], Ending], int], Future[Ending]],
    scenario: Callable[[Workflow], Ending],
    told: str,
    attempt: int,
) -> None:
    ending = scenarios[scenario, attempt].result()
    assert ending.status == 0, ending.output
    for rank in range(4):
        lives = (ending.workflow.folder / f"signals.{rank}").read_text().split()
        assert lives.count("run") == 2
        first = lives[1]
        assert first == told, lives
        if told == "SIGUSR2":
            assert lives.count("SIGUSR2") == 1
    assert re.search(r"runs as \d+", ending.output)
    assert len(re.findall(r"runs as", ending.output)) == 1
