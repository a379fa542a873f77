"""What the operators of a cluster and its other users do, on a real Slurm."""

from __future__ import annotations

import csv
import json
import os
import pickle
import shlex
import shutil
import signal
import time
from pathlib import Path

import pytest
from loopback_slurm import LoopbackSlurm
from slurm_workflow import ARGUMENTS, JOBS_END_WITHIN_S, Workflow
from submitit_project import PATIENCE_S, SOURCES, read_until, wait_for


@pytest.fixture(scope="module")
def limits(slurm: LoopbackSlurm) -> None:
    """The account `small` may have 3 jobs in the queue, a user of the QOS `narrow` one."""
    for command in (
        "add account small description=small organization=test",
        "add user root account=small MaxSubmitJobs=3",
        "add qos narrow MaxSubmitJobsPerUser=1",
        "modify user where name=root set qos+=narrow",
    ):
        slurm.run("sacctmgr", "--immediate", *command.split())


def test_limits_of_submitted_jobs_are_waited_for(workflow: Workflow, limits: None) -> None:
    """Arrays are no longer than MaxArraySize either, which is 6 here."""
    workflow.write(
        """
        rule all:
            input: expand("a{i}", i=range(8)), expand("b{i}", i=range(2))
        rule a:
            output: "a{i}"
            resources: slurm_account="small", mem_mb=100
            shell: "echo run >> runs; touch {output}"
        rule b:
            output: "b{i}"
            resources: qos="narrow", mem_mb=100
            shell: "echo run >> runs; touch {output}"
        """
    )
    status, output = workflow.finish("n6")
    assert status == 0, output
    assert workflow.count("runs") == 10
    for limit in ("AssocMaxSubmitJobLimit", "QOSMaxSubmitJobPerUserLimit"):
        assert output.count(f"Slurm takes no more jobs just now ({limit})") == 1


def test_more_jobs_than_an_array_may_hold(workflow: Workflow) -> None:
    workflow.write(
        """
        rule all:
            input: expand("{i}.txt", i=range(8))
        rule part:
            output: "{i}.txt"
            resources: mem_mb=100
            shell: "echo $SLURM_ARRAY_JOB_ID > {output}"
        """
    )
    status, output = workflow.finish("n6")
    assert status == 0, output
    arrays = [path.read_text() for path in workflow.folder.glob("?.txt")]
    assert sorted(map(arrays.count, set(arrays))) == [2, 6]


def test_inside_of_a_slurm_job(workflow: Workflow) -> None:
    workflow.write(
        """
        rule one:
            output: "one.txt"
            threads: 2
            shell: "echo $SLURM_CPUS_PER_TASK ${{SLURM_MEM_PER_CPU:-none}} > {output}"
        """
    )
    command = shlex.join(workflow.command(*ARGUMENTS, "--default-resources", "mem_mb=200"))
    go = workflow.folder / "go.sh"
    go.write_text(f"#!/bin/bash\nexport PYTHONPATH={SOURCES}\n{command}; echo status $?\n")
    workflow.slurm.run(
        *("sbatch", "--partition=low", "--nodelist=n6", "--mem-per-cpu=300", "--output=said"),
        *(f"--chdir={workflow.folder}", str(go)),
    )
    said = workflow.folder / "said"
    wait_for(lambda: said.exists() and "status " in said.read_text(), "Snakemake in a job")
    assert "status 0" in said.read_text(), said.read_text()
    assert (workflow.folder / "one.txt").read_text() == "2 none\n"
    assert said.read_text().count("Snakemake runs inside of a Slurm job") == 1


def test_jobs_that_cannot_start_are_said_and_the_hopeless_fail(workflow: Workflow) -> None:
    failed = workflow.slurm.run(
        *("sbatch", "--parsable", "--partition=low", "--mem=100", "--output=/dev/null"),
        "--wrap=exit 1",
    ).strip()
    workflow.write(
        f"""
        rule all:
            input: "held", "after", "long", "down"
        rule held:
            output: "held"
            resources: slurm_extra="-H"
            shell: "touch {{output}}"
        rule after:
            output: "after"
            resources: slurm_extra="-d afterok:{failed}"
            shell: "touch {{output}}"
        rule long:
            output: "long"
            resources: runtime=100
            shell: "touch {{output}}"
        rule down:
            output: "down"
            resources: slurm_partition="frail", slurm_extra="--nodelist=n4"
            shell: "touch {{output}}"
        """
    )
    workflow.slurm.run("scontrol", "update", "PartitionName=frail", "State=DOWN")
    try:
        process = workflow.on(
            *("n6", "--keep-going", "--submitit-status-interval", "3"),
            *("--submitit-lost-after", "1"),
        )
        said = ""
        for _ in range(2):
            said += read_until(process, "it can never start")
        if "waits (PartitionDown)" not in said:
            said += read_until(process, "waits (PartitionDown)")
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        rest, _ = process.communicate(timeout=PATIENCE_S)
        assert time.monotonic() - began < 60  # held, the job waits for ever
    finally:
        workflow.slurm.run("scontrol", "update", "PartitionName=frail", "State=UP")
    said += rest
    assert "rule after failed: it can never start (DependencyNeverSatisfied)" in said
    assert "rule long failed: it can never start (PartitionTimeLimit)" in said
    for reason in ("JobHeldUser", "PartitionDown"):
        assert said.count(f"waits ({reason})") == 1
    assert "was not started, as the workflow is stopping" in said
    assert workflow.job_ids() == []


def test_a_job_of_two_partitions_waits_although_one_never_takes_it(workflow: Workflow) -> None:
    """The other one is full."""
    workflow.write(
        """
        rule one:
            output: "one.txt"
            resources: slurm_partition="frail,low", runtime=100
            shell: "touch {output}"
        """
    )
    workflow.slurm.run("scontrol", "update", "PartitionName=frail", "MaxTime=200")
    full = workflow.slurm.run(
        *("sbatch", "--parsable", "--partition=frail", "--nodes=2", "--exclusive"),
        *("--output=/dev/null", "--wrap=sleep 600"),
    ).strip()
    try:
        process = workflow.start(
            *(*ARGUMENTS, "--submitit-status-interval", "3"), "--default-resources", "mem_mb=200"
        )
        said = read_until(process, "waits (PartitionTimeLimit)")
        workflow.slurm.run("scancel", full)
        rest, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        workflow.slurm.run("scontrol", "update", "PartitionName=frail", "MaxTime=60")
    assert process.returncode == 0, said + rest


def test_variables_of_sbatch_do_not_override_rules(workflow: Workflow) -> None:
    workflow.write(
        """
        rule one:
            output: "one.txt"
            shell: "scontrol show job $SLURM_JOB_ID > {output}"
        """
    )
    workflow.environment |= {"SBATCH_PARTITION": "frail", "SBATCH_MEM_PER_CPU": "50"}
    workflow.environment |= {"SBATCH_ARRAY_INX": "0-2", "SBATCH_WCKEY": "mine"}
    status, output = workflow.finish("n6")
    assert status == 0, output
    job = (workflow.folder / "one.txt").read_text()
    assert "Partition=low" in job
    assert "MinMemoryNode=200M" in job
    assert "ArrayJobId" not in job
    assert output.count("left out: SBATCH_ARRAY_INX, SBATCH_MEM_PER_CPU, SBATCH_PARTITION.") == 1


def test_a_rule_without_a_time_limit_gets_the_partitions(workflow: Workflow) -> None:
    workflow.write(
        """
        rule all:
            input: "1", "2"
        rule plain:
            output: "{i}"
            shell: "scontrol show job $SLURM_JOB_ID > {output}"
        """
    )
    status, output = workflow.run(*ARGUMENTS, "--default-resources", "mem_mb=100")
    assert status == 0, output
    assert "TimeLimit=01:00:00" in (workflow.folder / "1").read_text()
    assert output.count("get 60 min (MaxTime of partition low)") == 1


HELD = """
    rule one:
        output: "one.txt"
        params: {number}
        resources: slurm_extra="--begin=now+3600"
        shell: "echo {number} > {{output}}"
    """


def test_a_job_of_another_user_is_found_named_and_not_submitted_again(workflow: Workflow) -> None:
    workflow.write(HELD.format(number=1))
    process = workflow.on("n6")
    read_until(process, "runs as")
    process.kill()
    process.wait()
    (mine,) = workflow.job_ids()
    (entry,) = (workflow.folder / ".snakemake/submitit").glob("*.json")
    workflow.slurm.run("scancel", mine)
    workflow.slurm.run("sacctmgr", "--immediate", "add", "user", "nobody", "account=root")
    theirs = workflow.slurm.run(
        *("sbatch", "--parsable", "--uid=nobody", "--partition=low", "--hold", "--chdir=/tmp"),
        *("--mem=100", "--output=/dev/null", "--wrap=true"),
    ).strip()
    noted = json.loads(entry.read_text())
    assert noted["user"] == "root"
    entry.write_text(json.dumps(noted | {"user": "nobody", "job_id": theirs}))
    # They compute something else than is wanted.
    workflow.write(HELD.format(number=2))
    process = workflow.restart("n6")
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0
    assert f"as Slurm job {theirs} of user nobody makes the same outputs" in output
    assert workflow.job_ids() == []
    # They compute what is wanted.
    workflow.write(HELD.format(number=1))
    process = workflow.restart("n6")
    read_until(process, f"runs as {theirs} (submitted by an earlier start of user nobody)")
    (workflow.folder / "one.txt").write_text("1\n")
    result = Path(noted["folder"]) / f"{theirs}_0_result.pkl"
    result.with_suffix(".new").write_bytes(pickle.dumps(("success", None)))
    result.with_suffix(".new").rename(result)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    assert workflow.job_ids() == []
    workflow.slurm.run("scancel", theirs)


def test_resources_of_the_other_executor(workflow: Workflow) -> None:
    workflow.slurm.run(
        *("scontrol", "create", "reservation", "ReservationName=mine", "StartTime=now"),
        *("Duration=60", "Nodes=n6", "Users=root", "Flags=ignore_jobs"),
    )
    workflow.write(
        """
        rule all:
            input: "full.1", "elsewhere", "parsable"
        rule full:
            output: "full.{i}"
            resources:
                tasks=1, cpus_per_task=2, reservation="mine", slurm_partition="low,high",
                cluster="loopback", slurm_extra="-x n1"
            shell: "scontrol show job $SLURM_JOB_ID > {output}"
        rule elsewhere:
            output: "elsewhere"
            resources: cluster="other"
            shell: "touch {output}"
        rule parsable:
            output: "parsable"
            resources: slurm_extra="--parsable"
            shell: "touch {output}"
        """
    )
    try:
        status, output = workflow.finish("n6", "--keep-going", "--submitit-jobname-prefix", "me-")
    finally:
        workflow.slurm.run("scontrol", "delete", "ReservationName=mine")
    assert status != 0
    full = (workflow.folder / "full.1").read_text()
    for expected in (
        *("CPUs/Task=2", "Reservation=mine", "ExcNodeList=n1", "JobName=me-full:i=1"),
        *("Comment=full:i=1", "NumNodes=1 NumCPUs=2"),
    ):
        assert expected in full
    assert "resource cluster='other' cannot be used; expected 'loopback'" in output
    assert "expected no --parsable, but it left to the plugin" in output
    assert not (workflow.folder / "parsable").exists()


def test_logs_that_are_deleted_meanwhile_cost_nothing(workflow: Workflow) -> None:
    workflow.write(
        """
        rule one:
            output: "one.txt"
            shell: "echo run >> runs; while [ ! -e go ]; do sleep 0.2; done; touch {output}"
        """
    )
    report = "report/efficiency.csv"
    process = workflow.on("n6", "--submitit-efficiency-report", report)
    wait_for((workflow.folder / "runs").exists, "the job")
    shutil.rmtree(workflow.folder / "logs")
    (workflow.folder / "go").touch()
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    assert workflow.count("runs") == 1
    (row,) = csv.DictReader((workflow.folder / report).open())
    assert row["rule"] == "one"
    assert row["state"] == "COMPLETED"
    assert row["cpus"] == "1"
    assert row["memory_asked_mib"] == "200"
    # Slurm tells the time that has passed in whole seconds, CPU time in milliseconds.
    assert 0 < float(row["cpu_s"]) <= 1.1 * (float(row["elapsed_s"]) + 1)
    elapsed = float(row["elapsed_s"])
    told = pytest.approx(float(row["cpu_s"]) / elapsed, abs=0.05 / elapsed + 0.0005)
    assert float(row["cpu_efficiency"]) == told  # CPU time is told in tenths of a second


def slow_sbatch(workflow: Workflow) -> Path:
    """Has sbatch take a long time to return after it has submitted a job."""
    workflow.wrap("sbatch", '$REAL "$@"\ntouch submitted\nsleep ${SLOW:-600}')
    return workflow.folder / "submitted"


ONE = """
    rule one:
        output: "one.txt"
        shell: "echo run >> runs; touch {output}"
    """


def test_an_orphan_ends_soon_and_its_files_go_at_the_next_start(workflow: Workflow) -> None:
    workflow.write(ONE)
    submitted = slow_sbatch(workflow)
    process = workflow.on("n6")
    wait_for(submitted.exists, "sbatch")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not workflow.job_ids(), "the end of the orphan")
    (folder,) = (workflow.folder / "logs/submitit").iterdir()
    (log,) = folder.glob("*_log.out")
    assert "nobody told this job what to do" in log.read_text()
    assert {path.suffix for path in folder.iterdir()} == {".out", ".pkl", ".sh"}
    job = log.name.partition("_")[0]
    asked = ("sacct", "-X", "-n", "-P", f"--jobs={job}", "--format=ElapsedRaw")
    wait_for(lambda: workflow.slurm.run(*asked).strip(), "accounting")
    assert int(workflow.slurm.run(*asked)) <= 15
    del workflow.environment["PATH"]
    workflow.environment.update(workflow.slurm.environment)
    process = workflow.restart("n6")
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    assert {path.suffix for path in folder.iterdir()} == {".out"}
    assert workflow.count("runs") == 1


def test_a_job_waits_for_a_slow_sbatch(workflow: Workflow) -> None:
    workflow.write(ONE)
    workflow.environment["SLOW"] = "20"
    slow_sbatch(workflow)
    status, output = workflow.finish("n6")
    assert status == 0, output
    assert workflow.count("runs") == 1


def test_a_second_ctrl_c_leaves_no_job(workflow: Workflow) -> None:
    workflow.write(ONE)
    workflow.environment["SLOW"] = "6"
    submitted = slow_sbatch(workflow)
    process = workflow.on("n6")
    wait_for(submitted.exists, "sbatch")
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0
    assert "are being cancelled already" in output
    wait_for(lambda: not workflow.job_ids(), "the end of the job", JOBS_END_WITHIN_S)


def test_ctrl_c_leaves_no_job_where_nobody_reads_the_output(workflow: Workflow) -> None:
    """As of `snakemake 2>&1 | tee log`, where tee gets the Ctrl-C as well."""
    workflow.write(HELD.format(number=1))
    process = workflow.on("n6")
    read_until(process, "runs as")
    assert process.stdout is not None
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=PATIENCE_S) != 0
    assert workflow.job_ids() == []


@pytest.mark.parametrize("cluster", ["slurm", "local"])
@pytest.mark.parametrize("name", ["100%t %j it's here", '100%a %A "here"'])
def test_percent_signs_and_quotes_in_paths(
    slurm: LoopbackSlurm, tmp_path: Path, cluster: str, name: str
) -> None:
    """But not both kinds of quotes in one path, which Snakemake itself does not quote rightly."""
    workflow = Workflow(tmp_path / name, slurm)
    workflow.folder.mkdir()
    workflow.write(ONE)
    status, output = workflow.finish("n6", "--submitit-cluster", cluster)
    assert status == 0, output
    (log,) = workflow.logs()
    assert "rule one" in log.read_text()
    assert [path.name for path in log.parent.iterdir()] == [log.name]
