"""A real Slurm for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_slurm import LoopbackSlurm, require_packages
from slurm_workflow import Workflow


@pytest.fixture(scope="module")
def slurm() -> Iterator[LoopbackSlurm]:
    """One for each module: what disturbs all of a Slurm stays there, and several run at once."""
    require_packages()
    cluster = LoopbackSlurm()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def workflow(tmp_path: Path, slurm: LoopbackSlurm) -> Workflow:
    return Workflow(tmp_path, slurm)
