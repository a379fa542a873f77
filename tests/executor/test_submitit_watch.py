"""What is made of the answers of sacct and squeue."""

from __future__ import annotations

import pytest

from snakemake_executor_plugin_submitit import watch
from snakemake_executor_plugin_submitit.watch import StateWatch, parse_sacct, parse_squeue


@pytest.mark.parametrize(
    ("text", "states"),
    [
        ("", {}),
        ("1|RUNNING\n1.batch|RUNNING\n2|PENDING\n", {"1": "RUNNING", "2": "PENDING"}),
        ("1|CANCELLED by 1000\n", {"1": "CANCELLED"}),
        ("1|FAILED\n1.0|OUT_OF_MEMORY\n", {"1": "OUT_OF_MEMORY"}),
        ("1|OUT_OF_ME+\n", {"1": "OUT_OF_MEMORY"}),
        # An earlier run of a job that runs again.
        ("1|RUNNING\n1.0|OUT_OF_MEMORY\n", {"1": "RUNNING"}),
    ],
)
def test_parse_sacct(text: str, states: dict[str, str]) -> None:
    assert parse_sacct(text) == states


def test_parse_squeue() -> None:
    assert parse_squeue("7|RUNNING\n8|PENDING\n\n") == {"7": "RUNNING", "8": "PENDING"}


@pytest.mark.parametrize(
    ("accounted", "queued", "state", "reason"),
    [
        ("RUNNING", "RUNNING", "RUNNING", None),
        ("RUNNING", None, None, "it vanished"),  # accounting missed its end
        ("CANCELLED", "CANCELLED", "CANCELLED", "state CANCELLED and it left no result"),
        ("CANCELLED", None, "CANCELLED", "state CANCELLED and it left no result"),
        (None, "TIMEOUT", "TIMEOUT", "state TIMEOUT and it left no result"),
        # Requeued: accounting is behind.
        ("FAILED", "PENDING", "PENDING", None),
        ("CANCELLED", "COMPLETING", "COMPLETING", None),
        ("PREEMPTED", "PENDING", "PENDING", None),
        (None, None, None, "it vanished"),
    ],
)
def test_a_job_without_a_result_is_given_up_when_slurm_has_ended_or_forgotten_it(
    monkeypatch: pytest.MonkeyPatch,
    accounted: str | None,
    queued: str | None,
    state: str | None,
    reason: str | None,
) -> None:
    for patience in ("_SETTLE_S", "_VANISHED_S"):
        monkeypatch.setattr(watch, patience, -1.0)
    states = StateWatch(interval_s=30, warn=print)
    assert states.ended("1") is None
    states._note(["1"], {"1": accounted} if accounted else {}, {"1": queued} if queued else {})
    assert states.state("1") == state
    found = states.ended("1")
    assert found == reason if reason is None else reason in str(found)


def test_nothing_is_concluded_while_slurm_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_VANISHED_S", -1.0)
    states = StateWatch(interval_s=30, warn=print)
    for accounted in ({}, {"1": "RUNNING"}):
        states._note(["1"], accounted, None)
        assert states.ended("1") is None
