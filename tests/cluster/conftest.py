"""A real Slurm for the tests of this folder, and the helpers for running workflows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from loopback_slurm import LoopbackSlurm, require_packages


@pytest.fixture(scope="module")
def slurm() -> Iterator[LoopbackSlurm]:
    """One for each module, which may run at the same time."""
    require_packages()
    cluster = LoopbackSlurm()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
