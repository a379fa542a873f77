"""Signals that the main thread cannot hear, or must not handle itself."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest
from snakemake_executor_plugin_submitit.signals import Hearing


@pytest.fixture
def held() -> threading.Lock:
    """What a reaction needs."""
    return threading.Lock()


@pytest.fixture
def heard(held: threading.Lock) -> Iterator[threading.Event]:
    event = threading.Event()

    def react() -> None:
        with held:
            event.set()

    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    hearing = Hearing({signal.SIGINT: react, signal.SIGTERM: react})
    yield event
    hearing.end()
    hearing.end()
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_another_thread_is_heard_while_this_one_waits(
    heard: threading.Event, signum: signal.Signals
) -> None:
    threading.Timer(0.1, lambda: signal.pthread_kill(threading.get_ident(), signum)).start()
    assert heard.wait(10)


def test_a_reaction_may_wait_for_what_the_main_thread_holds(
    heard: threading.Event, held: threading.Lock
) -> None:
    """Snakemake's takes its scheduler's locks: in the main thread it would wait for ever."""
    with held:
        signal.raise_signal(signal.SIGTERM)
        assert not heard.wait(0.2)
    assert heard.wait(10)


def test_a_second_signal_is_heard_while_the_first_is_dealt_with(held: threading.Lock) -> None:
    times = threading.Semaphore(0)

    def react() -> None:
        times.release()
        with held:
            pass

    hearing = Hearing({signal.SIGINT: react})
    try:
        with held:
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
                assert times.acquire(timeout=10)
    finally:
        hearing.end()
