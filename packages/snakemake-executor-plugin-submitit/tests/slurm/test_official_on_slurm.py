"""Snakemake's own tests of an executor, unmodified, on a real Slurm."""

from __future__ import annotations

import pytest
from loopback_slurm import LoopbackSlurm
from snakemake.common.tests import TestWorkflowsLocalStorageBase
from snakemake_executor_plugin_submitit import ExecutorSettings


@pytest.fixture(autouse=True)
def on_slurm(slurm: LoopbackSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process, in which Snakemake runs here, finds the cluster."""
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)


class TestOnSlurm(TestWorkflowsLocalStorageBase):  # type: ignore[misc]
    __test__ = True

    def get_executor(self) -> str:
        return "submitit"

    def get_executor_settings(self) -> ExecutorSettings:
        return ExecutorSettings(cluster="slurm")
