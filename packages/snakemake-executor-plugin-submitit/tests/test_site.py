"""What a cluster says of itself: limits, partitions, the environment of a job around."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from snakemake_executor_plugin_submitit import efficiency
from snakemake_executor_plugin_submitit.call import (
    Answer,
    call,
    environment,
    inherited,
)
from snakemake_executor_plugin_submitit.efficiency import parse_usage, write_report
from snakemake_executor_plugin_submitit.partitions import fitting_partition, read_partitions
from snakemake_executor_plugin_submitit.resources import read_request
from snakemake_executor_plugin_submitit.site import RUNTIME_MIN, Site
from snakemake_executor_plugin_submitit.states import waits_for
from snakemake_interface_common.exceptions import WorkflowError

CONFIG = """Configuration data as of 2026-11-28T16:00:00
ClusterName             = here
MaxArraySize            = 1001
PrivateData             = accounts,jobs
"""
PARTITIONS = """PartitionName=short Default=YES DefaultTime=00:30:01 MaxTime=02:00:00
PartitionName=long Default=NO DefaultTime=NONE MaxTime=3-00:00:00
PartitionName=free Default=NO DefaultTime=NONE MaxTime=UNLIMITED
"""


def answer(command: list[str]) -> str | None:
    return CONFIG if command[-1] == "config" else PARTITIONS


def test_facts() -> None:
    site = Site(answer)
    assert (site.name, site.max_array_size, site.hides_jobs) == ("here", 1001, True)
    silent = Site(lambda command: None)
    assert (silent.name, silent.max_array_size, silent.hides_jobs) == (None, None, False)


@pytest.mark.parametrize(
    ("partitions", "limit", "origin"),
    [
        (None, 31, "DefaultTime of partition short"),
        ("long", 3 * 24 * 60, "MaxTime of partition long"),
        ("long,short", 31, "DefaultTime of partition short"),
        ("free", RUNTIME_MIN, "this executor's default"),
        ("unknown", RUNTIME_MIN, "this executor's default"),
    ],
)
def test_the_time_limit_of_a_job_that_asks_for_none(
    partitions: str | None, limit: int, origin: str
) -> None:
    assert Site(answer).runtime_min(partitions) == (limit, origin)


def test_what_an_outer_job_left_is_taken_out_and_nothing_else() -> None:
    outside = {"SBATCH_ACCOUNT": "mine", "SLURM_CONF": "/etc/slurm.conf", "HOME": "/"}
    assert environment(outside) == outside
    inside = outside | {"SLURM_JOB_ID": "7", "SLURM_MEM_PER_CPU": "300", "SRUN_DEBUG": "3"}
    assert environment(inside) == {"SLURM_CONF": "/etc/slurm.conf", "HOME": "/"}
    assert len(inherited(inside)) == 4
    gpus = {"CUDA_VISIBLE_DEVICES": "0"}
    assert environment(outside | gpus) == outside | gpus
    assert "CUDA_VISIBLE_DEVICES" not in environment(inside | gpus)
    assert environment(outside, without=["SBATCH_ACCOUNT"]).keys() == {"SLURM_CONF", "HOME"}


def test_programs_may_say_anything() -> None:
    said = call(["printf", r"k\xfcche"], 60).stdout
    assert said == "k\N{REPLACEMENT CHARACTER}che"


@pytest.mark.parametrize(
    ("reason", "hopeless", "of_several"),
    [
        ("Priority", None, None),
        ("Resources", None, None),
        ("BeginTime", None, None),
        ("AssocMaxJobsLimit", None, None),  # of running jobs: its turn comes
        ("JobHeldUser", False, False),
        ("job requeued in held state", False, False),
        ("PartitionDown", False, False),
        ("PartitionNodeLimit", False, False),  # or its nodes are down
        ("job requeued in special exit state", False, False),
        ("ReqNodeNotAvail, UnavailableNodes:n3", False, False),
        ("AssocGrpCPUMinutesLimit", False, False),
        ("DependencyNeverSatisfied", True, True),
        ("BadConstraints", True, True),
        ("PartitionTimeLimit", True, False),
        ("AccountNotAllowed", True, False),
        ("QOSMaxWallDurationPerJobLimit", True, False),
        ("launch failed requeued held", True, True),
    ],
)
def test_why_a_job_waits(reason: str, hopeless: bool | None, of_several: bool | None) -> None:
    """Of a job that may go to several partitions Slurm gives the reason of one."""
    for partition, expected in (("low", hopeless), (None, hopeless), ("low,high", of_several)):
        wait = waits_for(reason, partition)
        assert (None if wait is None else wait.hopeless) == expected


def test_what_differs_from_answer_to_answer_is_no_other_reason() -> None:
    kinds = {
        wait.kind
        for nodes in ("n3", "n[3-4]")
        if (wait := waits_for(f"ReqNodeNotAvail, UnavailableNodes:{nodes}", "low"))
    }
    assert kinds == {"ReqNodeNotAvail"}


def test_usage() -> None:
    text = (
        "7_0|COMPLETED|10|2|1|00:15.500||200M|\n"
        "7_0.batch|COMPLETED|10|2|1|00:01.000|cpu=2,mem=200M,node=1||50000K\n"
        "7_0.0|COMPLETED|9|2|1|00:14.500|cpu=2,mem=200M,node=1||100M\n"
        "8|CANCELLED by 0|3600|4|2|1-00:00:01||1Gc|\n"
    )
    found = parse_usage(text)
    assert (found["7_0"].cpu_s, found["7_0"].asked_mib, found["7_0"].used_mib) == (15.5, 200, 100)
    eight = found["8"]
    assert (eight.state, eight.elapsed_s, eight.cpus, eight.cpu_s) == ("CANCELLED", 3600, 4, 86401)
    assert (eight.asked_mib, eight.used_mib) == (4096, 0)


@pytest.mark.parametrize(
    ("given", "asked", "mib"),
    [
        ("billing=1,cpu=1,mem=200M,node=1", "200M", 200),
        # What slurmdbd 22.05 tells of a job that ended before it had noted its start.
        ("billing=1,cpu=1,mem=200M,node=1", "16?", 200),
        ("billing=1,cpu=1,mem=200M,node=1", "0", 200),
        ("cpu=4,mem=2.50G,node=2", "0", 2560),  # --mem=0: all that the nodes have
        ("cpu=4,gres/gpu=1,node=2", "1Gn", 2048),
        ("", "300M", 300),
        ("", "0", 0),
    ],
)
def test_the_memory_that_was_set_aside(given: str, asked: str, mib: float) -> None:
    (usage,) = parse_usage(f"7|COMPLETED|10|4|2|00:15.500|{given}|{asked}|\n").values()
    assert usage.asked_mib == mib


def test_a_report_waits_for_the_end_of_a_job_to_be_accounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = ["", "7|RUNNING|4|1|1|00:00||200M|\n", "7|COMPLETED|5|1|1|00:04||?|\n"]
    monkeypatch.setattr(efficiency, "call", lambda *_: Answer(answers.pop(0)))
    monkeypatch.setattr(efficiency, "_ASK_AGAIN_S", 0.0)
    assert write_report(tmp_path / "report.csv", {"7": "one"}) == 1
    (row,) = csv.DictReader((tmp_path / "report.csv").open())
    assert (row["state"], row["elapsed_s"], row["cpu_s"]) == ("COMPLETED", "5", "4.0")
    assert row["memory_asked_mib"] == ""  # not known
    assert answers == []


LIMITS = """
partitions:
  gpu: {max_runtime: 1d, max_gpu: 2, available_gpu_models: [a100]}
  long: {max_runtime: 3-00:00:00, max_threads: 8}
  short: {max_runtime: "120", max_mem_mb: 4000}
  elsewhere: {cluster: other}
"""


@pytest.mark.parametrize(
    ("resources", "partition"),
    [
        ({"runtime": 60}, "short"),
        ({"runtime": 60, "mem_mb": 8000}, "long"),
        ({"runtime": 60, "gpu": 1}, "gpu"),
        ({"runtime": 60, "gpu": 1, "gpu_model": "v100"}, None),
        ({"runtime": 60, "mem_mb": 8000, "cpus_per_task": 9}, "gpu"),
        ({"runtime": 5000}, None),
        ({"runtime": 60, "gpu": 3}, None),
        ({"cluster": "other"}, "elsewhere"),
        ({}, "short"),  # its time limit will be the partition's
    ],
)
def test_the_fitting_partition_that_allows_the_least(
    resources: dict[str, Any], partition: str | None, tmp_path: Path
) -> None:
    (tmp_path / "limits.yaml").write_text(LIMITS)
    request = read_request("train", 1, resources)
    assert fitting_partition(request, read_partitions(tmp_path / "limits.yaml")) == partition


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        *(("60", 60), ('"60"', 60), ("1.5", 1.5), ("90s", 1.5), ("1.5h", 90), ("2w", 20160)),
        *(("2d12h30m", 3630), ("2-12", 3600), ("2-12:30", 3630), ("2-12:30:30", 3630.5)),
        *(('"12:30"', 750), ('"12:30:00"', 750)),
    ],
)
def test_times_as_the_other_executor_reads_them(text: str, minutes: float, tmp_path: Path) -> None:
    (tmp_path / "limits.yaml").write_text(f"partitions: {{a: {{max_runtime: {text}}}}}")
    assert read_partitions(tmp_path / "limits.yaml")["a"]["max_runtime"] == minutes


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("partitions: [a]", "has no partitions"),
        ("partitions: {a: {max_tme: 5}}", "max_tme=5 of partition a cannot be used"),
        ("partitions: {a: {max_runtime: 2-}}", "max_runtime='2-' of partition a cannot be used"),
        ("partitions: {a: {max_gpu: many}}", "max_gpu='many' of partition a cannot be used"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_wrong_file_of_partitions_is_refused(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "limits.yaml").write_text(text)
    with pytest.raises(WorkflowError, match=r"limits\.yaml") as caught:
        read_partitions(tmp_path / "limits.yaml")
    assert complaint in str(caught.value)
