"""That Snakemake and submitit still have what `private` takes from them."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import submitit
from snakemake.resources import Resource, Resources
from snakemake.rules import Rule
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake_executor_plugin_submitit import private
from submitit.core.utils import DelayedSubmission


@pytest.fixture
def scheduler() -> Any:
    """Snakemake's own, of which only what its handlers touch is made up."""
    made = JobScheduler.__new__(JobScheduler)
    made._lock = nullcontext()
    made._open_jobs = threading.Semaphore(0)
    made.workflow = MagicMock()
    made.running, made.failed = MagicMock(), set()
    made.get_executor = made._free_resources = MagicMock()
    assert not private.is_stopping(made, keep_going=False)
    return made


def test_a_failed_job_stops_snakemake_unless_it_keeps_going(scheduler: Any) -> None:
    scheduler._handle_error(MagicMock(restart_times=0, attempt=1), postprocess_job=False)
    assert private.is_stopping(scheduler, keep_going=False)
    assert not private.is_stopping(scheduler, keep_going=True)


def test_a_signal_stops_snakemake(scheduler: Any) -> None:
    scheduler.exit_gracefully()
    assert private.is_stopping(scheduler, keep_going=True)


@pytest.mark.parametrize(("threads", "declared"), [(8, 8), (lambda wildcards: 8, 0)])
def test_a_rule_declares_its_threads(threads: Any, declared: int) -> None:
    limits = SimpleNamespace(max_threads=None)
    workflow = SimpleNamespace(
        sourcecache=None,
        modifier=None,
        async_run=None,
        resource_settings=limits,
        global_resources=Resources({"_cores": Resource("_cores", 2)}),
    )
    rule = Rule("trained", workflow, 1, "Snakefile")
    rule.resources = Resources({"_cores": Resource("_cores", threads)})
    assert private.declared_threads(rule) == declared
    # A job of it has what `--cores 2` leaves.
    assert rule.expand_resources({}, [], attempt=1)["_cores"] == 2


def test_submitit_writes_a_script_and_counts_timeouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where there is a Slurm.
    monkeypatch.setattr(submitit.SlurmExecutor, "affinity", classmethod(lambda cls: 2))
    executor = submitit.SlurmExecutor(tmp_path, max_num_timeout=3)
    executor.update_parameters(time=60)
    text = private.script_text(executor, "unique")
    assert "#SBATCH --time=60" in text
    assert "submitit.core._submit" in text
    pickle = tmp_path / "1_submitted.pkl"
    delayed = DelayedSubmission(print)
    delayed.set_timeout(60, 3)
    delayed.dump(pickle)
    assert private.timeouts_left(pickle) == 3
