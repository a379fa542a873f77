"""A real Slurm for the tests of this folder, and the helpers for running workflows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The helpers that the executor's tests on one machine use too.
sys.path.insert(0, str(Path(__file__).parents[1] / "executor"))

from loopback_slurm import LoopbackSlurm, require_packages


@pytest.fixture(scope="session")
def slurm() -> Iterator[LoopbackSlurm]:
    require_packages()
    cluster = LoopbackSlurm()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
