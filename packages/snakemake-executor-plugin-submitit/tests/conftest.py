from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from submitit_project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """A job blocks and handles signals for the rest of its process, which is pytest's here.

    Programs that later tests start would inherit the blocked ones and never see them.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
