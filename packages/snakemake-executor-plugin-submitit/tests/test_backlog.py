"""Jobs that the cluster does not take yet."""

from __future__ import annotations

from pathlib import Path

import pytest
from snakemake_executor_plugin_submitit import backlog
from snakemake_executor_plugin_submitit.backlog import Backlog
from snakemake_executor_plugin_submitit.call import ARRAY_TOO_LONG, limit_in
from snakemake_executor_plugin_submitit.ledger import Identity
from snakemake_executor_plugin_submitit.resources import read_request
from snakemake_executor_plugin_submitit.submission import Submission
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

LIMIT = "AssocMaxSubmitJobLimit"


def jobs(number: int, resource: str = "slurm_account", value: str = "mine") -> list[Submission]:
    request = read_request("train", 1, {resource: value})
    return [
        Submission(
            info=SubmittedJobInfo(None),
            request=request,
            identity=Identity((f"{value}{i}",), "", ()),
            name="train",
            command="true",
            folder=Path("logs"),
            rule_folder=Path("logs"),
            continuations=1,
        )
        for i in range(number)
    ]


@pytest.mark.parametrize(("number", "limit"), [(10, 6), (7, 1), (1000, 400), (5, 5)])
def test_all_jobs_get_their_turn_in_order_and_never_more_than_the_limit(
    number: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "TRY_AGAIN_S", 3600.0)
    said: list[str] = []
    line = Backlog(said.append)
    waiting = jobs(number)
    queued: list[Submission] = []
    done: list[Submission] = []
    calls = 0

    def submit(batch: list[Submission]) -> None:
        nonlocal calls
        calls += 1
        if len(queued) + len(batch) > limit:
            line.refused(batch, LIMIT)
        else:
            queued.extend(batch)
            for job in batch:
                line.settled(job)

    submit(line.keep(waiting))
    while len(done) < number:
        while batch := line.due():
            submit(batch)
        ended = queued.pop(0)
        done.append(ended)
        line.ended(ended.request)
    assert done == waiting
    assert len(said) == (number > limit)
    assert calls < 4 * number + 20
    assert line.keep(jobs(1)) != []  # nothing waits any more


@pytest.mark.parametrize("resource", ["slurm_account", "qos", "slurm_partition"])
def test_jobs_under_another_limit_do_not_wait(resource: str) -> None:
    line = Backlog(lambda words: None)
    mine, theirs = jobs(1, resource), jobs(1, resource, "other")
    line.refused(mine, LIMIT)
    assert line.keep([*jobs(1, resource), *theirs]) == theirs
    assert line.due() == []  # it was refused just now
    line.ended(theirs[0].request)
    assert line.due() == []
    line.ended(mine[0].request)
    assert line.due() == mine
    assert len(line.give_back()) == 1


def test_an_array_that_is_too_long_is_divided_without_a_word() -> None:
    said: list[str] = []
    line = Backlog(said.append)
    batch = jobs(9)
    line.refused(batch, ARRAY_TOO_LONG)
    assert line.due() == batch[:4]
    assert said == []


@pytest.mark.parametrize(
    ("complaint", "limit"),
    [
        (
            "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: "
            "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
            "AssocMaxSubmitJobLimit",
        ),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit", "QOSMaxSubmitJobPerUserLimit"),
        ("sbatch: error: QOSGrpSubmitJobsLimit", "QOSGrpSubmitJobsLimit"),
        ("sbatch: error: AssocGrpSubmitJobsLimit", "AssocGrpSubmitJobsLimit"),
        (
            "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying.\n"
            "sbatch: error: Batch job submission failed: Resource temporarily unavailable",
            "temporarily unable to accept job",
        ),
        ("sbatch: error: Invalid job array specification", ARRAY_TOO_LONG),
        ("sbatch: error: AssocMaxWallDurationPerJobLimit", ""),
        ("sbatch: error: invalid partition specified: nowhere", ""),
    ],
)
def test_which_refusals_are_for_now(complaint: str, limit: str) -> None:
    assert limit_in(complaint) == limit
