"""What becomes of jobs in unusual folders and groups."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

from slurm_stand_in import submission
from snakemake_executor_plugin_submitit.executor import Executor, identity_of
from snakemake_executor_plugin_submitit.local import LocalCluster, _Running
from snakemake_executor_plugin_submitit.submission import Outcome
from submitit_project import wait_for


def test_what_a_group_makes_for_itself_is_no_input() -> None:
    """It is there or not, as far as the group has got."""

    def one(name: str, inputs: list[str]) -> SimpleNamespace:
        rule = SimpleNamespace(name=name, script=None, notebook=None, wrapper=None)
        return SimpleNamespace(
            rule=rule,
            wildcards_dict={},
            input=inputs,
            output=[f"{name}.out"],
            shellcmd="",
            params=[],
        )

    jobs = [one("a", ["source"]), one("b", ["a.out", "source"])]
    for job in jobs:
        job.rule.run_func_src = "code"
    group = SimpleNamespace(is_group=lambda: True, jobs=jobs)
    assert identity_of(group).inputs == ("source",)


def test_a_log_that_cannot_be_deleted_stays(tmp_path: Path) -> None:
    """As another user's, for which a folder stands here."""
    job = submission(tmp_path)
    job.info.external_jobid = "7"
    assert job.log is not None
    job.log.mkdir(parents=True)
    executor = MagicMock()
    Executor._report(executor, job, Outcome(True))
    executor.report_job_success.assert_called_once_with(job.info)


def test_a_local_job_leaves_the_result_of_a_running_one_in_the_same_folder(tmp_path: Path) -> None:
    """Those of one group have one folder."""
    local = LocalCluster(2, 120, print)
    running, starting = submission(tmp_path, name="a"), submission(tmp_path, name="b")
    running.info.external_jobid = "1"
    running.folder.mkdir()
    for job_id in ("1", "2"):
        (running.folder / f"{job_id}_0_result.pkl").write_bytes(pickle.dumps(("success", None)))
    local._running[running] = _Running(SimpleNamespace(job_id="1", done=lambda: False), 1, ())
    assert local.step([running, starting], False) == {}
    assert (running.folder / "1_0_result.pkl").exists()
    assert not (running.folder / "2_0_result.pkl").exists()
    local._running[running].job.done = lambda: True
    assert local.step([running, starting], False)[running].succeeded
    wait_for(lambda: starting in local.step([starting], False), "the other job")
