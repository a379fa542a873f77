"""Workflows through the plugin on a real Slurm.

What takes minutes (the time limit, preemptions, the failure of a node, a Snakemake that is killed
...) is started first, in threads, and looked at last.  Each such scenario has a node of its own, or
leaves enough of n1.  What disturbs all of Slurm (its daemons being restarted) happens when they are
over: a job that requeues itself while the controller is away fails.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import pytest
from loopback_slurm import LoopbackSlurm
from slurm_workflow import JOBS_END_WITHIN_S, Workflow
from submitit_project import PATIENCE_S, read_until, wait_for, write_trainer

# Three times what the longest takes on an idle machine.
SCENARIO_WITHIN_S = 600


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
    # Of the 3 min Slurm may take one: the trainer has a minute and a half to start.
    workflow.write(TRAINING.format(python=sys.executable, runtime=3))
    started = time.monotonic()
    process = workflow.on("n1", "--submitit-signal-delay", "30")
    return _ending(workflow, process, started)


def requeue_failure(workflow: Workflow) -> Ending:
    """At its time limit the job saves, and Slurm refuses to requeue it."""
    write_trainer(workflow.folder, save_s=1.0)
    workflow.write(TRAINING.format(python=sys.executable, runtime=3))
    refusal = 'if [ "$1" = requeue ]; then echo Requeue disabled >&2; exit 1; fi'
    workflow.wrap("scontrol", f'{refusal}; exec $REAL "$@"')
    started = time.monotonic()
    process = workflow.on("n1", "--submitit-signal-delay", "30")
    return _ending(workflow, process, started)


def preemption(workflow: Workflow) -> Ending:
    write_trainer(workflow.folder, save_s=1.0)
    workflow.write(TRAINING.format(python=sys.executable, runtime=10))
    process = workflow.on("n2")
    wait_for((workflow.folder / "ready").exists, "the trainer")
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
    wait_for((workflow.folder / "ready").exists, "the job")
    started = time.monotonic()
    workflow.slurm.run("scancel", *workflow.job_ids())
    return _ending(workflow, process, started)


def preemption_without_requeue(workflow: Workflow) -> Ending:
    write_trainer(workflow.folder, save_s=1.0)
    workflow.write(TRAINING.format(python=sys.executable, runtime=10))
    process = workflow.on("n3", "--submitit-status-interval", "5")
    wait_for((workflow.folder / "ready").exists, "the trainer")
    started = time.monotonic()
    workflow.slurm.run(
        *("sbatch", "--partition=high", "--nodelist=n3", "--cpus-per-task=4"),
        *("--output=/dev/null", "--wrap=sleep 2"),
    )
    return _ending(workflow, process, started)


def node_failure(workflow: Workflow) -> Ending:
    """Two jobs on a node that fails.  Slurm requeues one of them; the other it must not."""
    workflow.write(
        """
        rule all:
            input: "first.txt", "second.txt"
        rule first:
            output: "first.txt"
            shell: "echo $SLURMD_NODENAME >> first.runs; test $(wc -l < first.runs) -gt 1"
                   " || sleep 600; touch {output}"
        rule second:
            output: "second.txt"
            resources: slurm_extra="--no-requeue"
            shell: "echo $SLURMD_NODENAME >> second.runs; test $(wc -l < second.runs) -gt 1"
                   " || sleep 600; touch {output}"
        """
    )
    process = workflow.on("n[4-5]", "--submitit-status-interval", "5")
    both = [workflow.folder / f"{name}.runs" for name in ("first", "second")]
    wait_for(lambda: all(path.exists() for path in both), "both jobs")
    ids = workflow.job_ids()
    started = time.monotonic()
    (node,) = {path.read_text().strip() for path in both}
    workflow.slurm.lose_node(node)
    output, _ = process.communicate(timeout=SCENARIO_WITHIN_S)
    jobs = "".join(workflow.slurm.run("scontrol", "show", "job", each) for each in ids)
    return Ending(workflow, process.returncode, output, time.monotonic() - started, jobs)


OUTLIVED = """
    rule all:
        input:
            expand("{{name}}.txt", name=["early", "meanwhile", "running", "queued", "changed"]),
            expand("array{{i}}.txt", i=range(3)),
    rule early:
        output: "early.txt"
        shell: "echo run >> early.runs; touch {{output}}"
    rule meanwhile:
        output: "meanwhile.txt"
        input: "early.txt"
        shell: "echo run >> meanwhile.runs; touch {{output}};"
               " while [ ! -e go1 ]; do sleep 0.2; done"
    rule running:
        output: "running.txt"
        input: "early.txt"
        shell: "echo run >> running.runs; touch {{output}};"
               " while [ ! -e go2 ]; do sleep 0.2; done"
    rule queued:
        output: "queued.txt"
        input: "early.txt"
        resources: slurm_extra="--nodelist=n6 --begin=now+3600"
        shell: "echo run >> queued.runs; touch {{output}}"
    rule changed:
        output: "changed.txt"
        input: "early.txt"
        shell: "echo run >> changed.runs;"
               " while [ ! -e {go} ]; do sleep 0.2; done; touch {{output}}"
    rule array:
        output: "array{{i}}.txt"
        input: "early.txt"
        resources: mem_mb=100
        shell: "echo run >> array{{wildcards.i}}.runs; "
               "while [ {{wildcards.i}} -gt 0 -a ! -e go2 ]; do sleep 0.2; done; touch {{output}}"
    """
OUTLIVING = ("meanwhile", "running", "changed", "array0", "array1", "array2")


def killed_snakemake(workflow: Workflow) -> Ending:
    """Killed while jobs have run, run, and wait; some end before it is started again."""
    folder = workflow.folder
    workflow.write(OUTLIVED.format(go="never"))
    process = workflow.on("n6")
    wait_for(lambda: all(workflow.count(f"{name}.runs") for name in OUTLIVING), "jobs")
    wait_for(lambda: len(workflow.job_ids()) == 6, "one task of the array to end")
    process.kill()
    process.wait()
    (folder / "go1").touch()
    wait_for(lambda: len(workflow.job_ids()) == 5, "the end of one more job")
    workflow.write(OUTLIVED.format(go="Snakefile"))
    again = workflow.restart("n6")
    started = time.monotonic()
    wait_for(lambda: workflow.count("changed.runs") == 2, "the changed job")
    queued = workflow.slurm.run("squeue", "--name=queued", "--noheader", "--format=%i").strip()
    workflow.slurm.run("scontrol", "update", f"JobId={queued}", "StartTime=now")
    (folder / "go2").touch()
    return _ending(workflow, again, started)


def _ending(workflow: Workflow, process: subprocess.Popen[str], started: float) -> Ending:
    wait_for(lambda: workflow.job_ids() or process.poll() is not None, "a job")
    ids = workflow.job_ids()
    output, _ = process.communicate(timeout=SCENARIO_WITHIN_S)
    job = workflow.slurm.run("scontrol", "show", "job", ids[0]) if ids else ""
    return Ending(workflow, process.returncode, output, time.monotonic() - started, job)


@pytest.fixture(scope="module")
def scenarios(
    slurm: LoopbackSlurm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Callable[[Workflow], Ending], Future[Ending]]]:
    functions = (
        *(time_limit, requeue_failure, preemption, cancellation),
        *(preemption_without_requeue, node_failure, killed_snakemake),
    )
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
    asked = ("sacct", "-X", "-P", "-n", "-j", job_id, "--format=State,AllocTRES")
    # The result of a job may be there before its end is accounted.
    wait_for(lambda: workflow.slurm.run(*asked).startswith("COMPLETED|"), "accounting")
    tres = workflow.slurm.run(*asked).strip().partition("|")[2]
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
    wait_for(lambda: list(workflow.folder.glob("started*")), "a job")
    wait_for(lambda: len(workflow.job_ids()) == 3, "three submitted jobs")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0, output
    wait_for(lambda: not workflow.job_ids(), "the end of the Slurm jobs", JOBS_END_WITHIN_S)


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
    wait_for((workflow.folder / "ready").exists, "the job")
    workflow.slurm.run("scancel", *workflow.job_ids())
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0
    assert "cancelled from outside Snakemake (Slurm state CANCELLED)" in output


def test_jobs_alike_are_one_array_of_which_each_task_is_a_job_of_its_own(
    workflow: Workflow,
) -> None:
    workflow.write(
        """
        rule all:
            input: expand("{i}.txt", i=range(5)), "wide.txt"
        rule part:
            output: "{i,[0-9]}.txt"
            resources: mem_mb=100
            shell: "echo $SLURM_ARRAY_JOB_ID > array{wildcards.i};"
                   " if [ {wildcards.i} = 1 ]; then exit 3; fi;"
                   " if [ {wildcards.i} = 2 ]; then sleep 600; fi; touch {output}"
        rule wide:
            output: "wide.txt"
            resources: mem_mb=100
            shell: "echo ${{SLURM_ARRAY_JOB_ID:-none}} > {output}"
        """
    )
    process = workflow.on("n1", "--keep-going", "--submitit-status-interval", "3")
    wait_for(lambda: len(list(workflow.folder.glob("[0134].txt"))) == 3, "three jobs")
    wait_for(lambda: len(workflow.job_ids()) == 1, "the last job")
    (task,) = workflow.job_ids()
    workflow.slurm.run("scancel", task)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0
    (array,) = {path.read_text().strip() for path in workflow.folder.glob("array*")}
    assert task.startswith(f"{array}_")
    assert (workflow.folder / "wide.txt").read_text() == "none\n"
    assert output.count("failed: the command ended with status 1") == 1
    assert output.count("cancelled from outside Snakemake") == 1
    # Their logs lie in the folder of the rule, and nothing else is left there.
    left = sorted(path.name for path in (workflow.folder / "logs/submitit/part").iterdir())
    assert left == [f"{array}_{i}_0_log.out" for i in range(5)]
    assert not list((workflow.folder / ".snakemake/submitit").iterdir())


def test_arrays_can_be_limited_or_switched_off(workflow: Workflow) -> None:
    workflow.write(
        """
        rule all:
            input: expand("{i}.txt", i=range(3))
        rule part:
            output: "{i}.txt"
            shell: "echo ${{SLURM_ARRAY_JOB_ID:-none}} > {output}"
        """
    )
    status, output = workflow.finish("n1", "--submitit-array-limit", "1")
    assert status == 0, output
    assert {path.read_text() for path in workflow.folder.glob("?.txt")} == {"none\n"}
    status, output = workflow.finish("n1", "--submitit-array-limit", "2", "--forceall")
    assert status == 0, output
    texts = [path.read_text() for path in workflow.folder.glob("?.txt")]
    assert texts.count("none\n") == 1
    assert len(set(texts)) == 2


def test_ctrl_c_cancels_jobs_that_were_taken_over(workflow: Workflow) -> None:
    workflow.write(
        """
        rule all:
            input: expand("{i}.txt", i=range(2))
        rule slow:
            output: "{i}.txt"
            resources: mem_mb=100
            shell: "echo run >> started{wildcards.i}; sleep 600"
        """
    )
    first = workflow.on("n1")
    wait_for(lambda: len(list(workflow.folder.glob("started*"))) == 2, "two jobs")
    first.kill()
    first.wait()
    ids = workflow.job_ids()
    second = workflow.restart("n1")
    for _ in range(2):
        read_until(second, "submitted by an earlier start")
    assert workflow.job_ids() == ids
    second.send_signal(signal.SIGINT)
    second.communicate(timeout=PATIENCE_S)
    wait_for(lambda: not workflow.job_ids(), "the end of the Slurm jobs", JOBS_END_WITHIN_S)
    assert [workflow.count(f"started{i}") for i in range(2)] == [1, 1]
    assert not list((workflow.folder / ".snakemake/submitit").iterdir())


def test_a_controller_that_is_restarted_loses_no_job(
    workflow: Workflow, scenarios: dict[Callable[[Workflow], Ending], Future[Ending]]
) -> None:
    wait(scenarios.values())
    workflow.write(
        """
        rule last:
            input: "first.txt"
            output: "last.txt"
            shell: "echo run >> runs; touch {output}"
        rule first:
            output: "first.txt"
            shell: "echo run >> runs; while [ ! -e go ]; do sleep 0.2; done; touch {output}"
        """
    )
    process = workflow.on("n1", "--submitit-status-interval", "2")
    wait_for((workflow.folder / "runs").exists, "the job")
    workflow.slurm.stop_daemon("slurmctld")
    try:
        seen = read_until(process, "Slurm does not answer")
        # The second job is to be submitted while nobody takes jobs.
        (workflow.folder / "go").touch()
        seen += read_until(process, "Trying again every")
    finally:
        workflow.slurm.start_daemon("slurmctld")
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, seen + output
    assert workflow.count("runs") == 2


def test_without_the_accounting_daemon_squeue_tells_of_a_cancelled_job(workflow: Workflow) -> None:
    workflow.write(
        """
        rule slow:
            output: "x.txt"
            shell: "touch ready; sleep 600"
        """
    )
    workflow.slurm.stop_daemon("slurmdbd")
    try:
        process = workflow.on("n1", "--submitit-status-interval", "3")
        wait_for((workflow.folder / "ready").exists, "the job")
        workflow.slurm.run("scancel", *workflow.job_ids())
        output, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        workflow.slurm.start_daemon("slurmdbd")
    assert process.returncode != 0
    assert "cancelled from outside Snakemake (Slurm state CANCELLED)" in output


def test_a_job_cancelled_from_outside_is_noticed_within_about_a_minute(
    scenarios: dict[Callable[[Workflow], Ending], Future[Ending]],
) -> None:
    ending = scenarios[cancellation].result()
    assert ending.status != 0
    assert "cancelled from outside Snakemake (Slurm state CANCELLED)" in ending.output
    assert "  | it has begun" in ending.output
    assert ending.seconds < 100


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


def test_a_job_that_saved_and_could_not_be_requeued_is_submitted_again_and_finishes(
    scenarios: dict[Callable[[Workflow], Ending], Future[Ending]],
) -> None:
    ending = scenarios[requeue_failure].result()
    folder = ending.workflow.folder
    assert ending.status == 0, ending.output
    assert (folder / "state").read_text() == "SIGUSR2"
    assert (folder / "runs").read_text() == "run\n" * 2
    assert "Restarts=0" in ending.job
    assert "could not be requeued" in ending.output


def test_a_preempted_job_that_slurm_cancels_is_submitted_again_and_finishes(
    scenarios: dict[Callable[[Workflow], Ending], Future[Ending]],
) -> None:
    ending = scenarios[preemption_without_requeue].result()
    folder = ending.workflow.folder
    assert ending.status == 0, ending.output
    assert (folder / "state").read_text() == "SIGTERM"
    assert (folder / "runs").read_text() == "run\n" * 2
    assert "JobState=PREEMPTED" in ending.job
    assert "goes on after job" in ending.output
    assert "ended as PREEMPTED" in ending.output


def test_jobs_of_a_failed_node_go_on_on_another(
    scenarios: dict[Callable[[Workflow], Ending], Future[Ending]],
) -> None:
    ending = scenarios[node_failure].result()
    assert ending.status == 0, ending.output
    for name in ("first", "second"):
        nodes = (ending.workflow.folder / f"{name}.runs").read_text().split()
        assert sorted(nodes) == ["n4", "n5"]
    assert "Restarts=1" in ending.job
    assert "JobState=NODE_FAIL" in ending.job
    assert ending.output.count("ended as NODE_FAIL") == 1


def test_after_snakemake_was_killed_no_job_runs_twice_and_none_is_lost(
    scenarios: dict[Callable[[Workflow], Ending], Future[Ending]],
) -> None:
    ending = scenarios[killed_snakemake].result()
    assert ending.status == 0, ending.output
    once = {"early", "meanwhile", "running", "queued", "array0", "array1", "array2"}
    runs = {name: ending.workflow.count(f"{name}.runs") for name in once | {"changed"}}
    assert runs == dict.fromkeys(once, 1) | {"changed": 2}
    # `running`, `queued` and two tasks of the array; what has ended is not asked for again.
    assert ending.output.count("submitted by an earlier start") == 4
    assert "cancelling them" in ending.output
    assert not list((ending.workflow.folder / ".snakemake/submitit").iterdir())
    left = [p.name for p in (ending.workflow.folder / "logs").rglob("*") if p.is_file()]
    assert all(name.endswith("_log.out") for name in left if not name.endswith("submission.sh"))
