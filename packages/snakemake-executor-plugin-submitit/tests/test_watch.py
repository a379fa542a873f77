"""What is made of the answers of sacct and squeue, and of the states of jobs."""

from __future__ import annotations

import pytest
from snakemake_executor_plugin_submitit import watch
from snakemake_executor_plugin_submitit.call import compress, is_passing
from snakemake_executor_plugin_submitit.resources import read_request
from snakemake_executor_plugin_submitit.states import (
    ENDED,
    INTERRUPTED,
    LOST,
    explain,
    out_of_memory,
)
from snakemake_executor_plugin_submitit.watch import Seen, StateWatch, parse_sacct, parse_squeue


@pytest.mark.parametrize(
    ("text", "states"),
    [
        ("", {}),
        (
            "1|RUNNING|n1\n1.batch|RUNNING|n1\n2|PENDING|None assigned\n",
            {"1": Seen("RUNNING", "n1"), "2": Seen("PENDING")},
        ),
        ("1|CANCELLED by 1000|n1\n", {"1": Seen("CANCELLED", "n1")}),
        ("1|FAILED|n1\n1.0|OUT_OF_MEMORY|n1\n", {"1": Seen("OUT_OF_MEMORY", "n1")}),
        ("1|OUT_OF_ME+|n1\n", {"1": Seen("OUT_OF_MEMORY", "n1")}),
        # An earlier run of a job that runs again.
        ("1|RUNNING|n1\n1.0|OUT_OF_MEMORY|n2\n", {"1": Seen("RUNNING", "n1")}),
        # Tasks of an array, one of them out of memory.
        (
            "7_0|FAILED|n1\n7_0.0|OUT_OF_MEMORY|n1\n7_1|NODE_FAIL|n[2-3]\n",
            {"7_0": Seen("OUT_OF_MEMORY", "n1"), "7_1": Seen("NODE_FAIL", "n[2-3]")},
        ),
    ],
)
def test_parse_sacct(text: str, states: dict[str, Seen]) -> None:
    assert parse_sacct(text) == states


def test_parse_squeue() -> None:
    found = parse_squeue("7|RUNNING|n1|None\n8_2|PENDING||launch_failed_requeued_held\n\n")
    assert found == {
        "7": Seen("RUNNING", "n1", "None"),
        "8_2": Seen("PENDING", reason="launch failed requeued held"),
    }


@pytest.mark.parametrize(
    ("accounted", "queued", "state", "ending"),
    [
        ("RUNNING", "RUNNING", "RUNNING", None),
        ("RUNNING", None, None, LOST),  # accounting missed its end
        ("CANCELLED", "CANCELLED", "CANCELLED", "CANCELLED"),
        ("CANCELLED", None, "CANCELLED", "CANCELLED"),
        (None, "TIMEOUT", "TIMEOUT", "TIMEOUT"),
        ("OUT_OF_MEMORY", "FAILED", "OUT_OF_MEMORY", "OUT_OF_MEMORY"),
        # Requeued: accounting is behind.
        ("FAILED", "PENDING", "PENDING", None),
        ("CANCELLED", "COMPLETING", "COMPLETING", None),
        ("PREEMPTED", "PENDING", "PENDING", None),
        ("NODE_FAIL", "REQUEUED", "REQUEUED", None),
        # Not requeued.
        ("PREEMPTED", "PREEMPTED", "PREEMPTED", "PREEMPTED"),
        ("NODE_FAIL", None, "NODE_FAIL", "NODE_FAIL"),
        ("COMPLETED", "COMPLETED", "COMPLETED", "COMPLETED"),
        ("RUNNING", "PREEMPTED", "PREEMPTED", "PREEMPTED"),  # accounting is behind
        (None, None, None, LOST),
    ],
)
def test_a_job_without_a_result_is_given_up_when_slurm_has_ended_or_forgotten_it(
    monkeypatch: pytest.MonkeyPatch,
    accounted: str | None,
    queued: str | None,
    state: str | None,
    ending: str | None,
) -> None:
    monkeypatch.setattr(watch, "_settle_s", lambda state: -1.0)
    states = StateWatch(interval_s=30, lost_after_s=-1, warn=print)
    assert states.ended("1") is None
    states._note(
        ["1"],
        {"1": Seen(queued)} if queued else {},
        {"1": Seen(accounted)} if accounted else {},
    )
    assert states.state("1") == state
    found = states.ended("1")
    assert (found and found.state) == ending


def test_an_ended_job_has_time_to_show_its_result_or_to_be_requeued() -> None:
    states = StateWatch(interval_s=30, lost_after_s=300, warn=print)
    for state in ("FAILED", "COMPLETED", "PREEMPTED"):
        states._note(["1"], {"1": Seen(state)}, {})
        assert states.ended("1") is None


def test_silence_of_slurm_does_not_count_towards_the_loss_of_a_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: clock[0])
    states = StateWatch(interval_s=30, lost_after_s=300, warn=print)
    clock[0] = 1.0
    states._note(["1"], {}, {})
    clock[0] = 1000.0  # nothing heard in between
    assert states.ended("1") is None
    states._note(["1"], {"1": Seen("RUNNING")}, {})
    assert states.state("1") == "RUNNING"
    states._note(["1"], {}, {})
    clock[0] = 1301.0
    states._note(["1"], {}, {})
    assert states.ended("1") == Seen(LOST)


def test_an_end_that_was_seen_stands_when_slurm_forgets_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "_settle_s", lambda state: -1.0)
    states = StateWatch(interval_s=30, lost_after_s=-1, warn=print)
    states._note(["1"], {"1": Seen("TIMEOUT", "n1")}, {})
    for _ in range(2):
        states._note(["1"], {}, {})
    assert states.state("1") == "TIMEOUT"
    assert states.ended("1") == Seen("TIMEOUT", "n1")


def test_how_long_a_job_has_waited_for_the_same_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: clock[0])
    states = StateWatch(interval_s=30, lost_after_s=300, warn=print)
    assert states.waiting("1") is None
    told = []
    for clock[0], reason in ((1.0, "Priority"), (31.0, "Resources"), (61.0, "Resources")):
        states._note(["1"], {"1": Seen("PENDING", reason=reason)}, {})
        told.append(states.waiting("1"))
    clock[0] = 1000.0  # silence says nothing
    told.append(states.waiting("1"))
    assert told == [("Priority", 0), ("Resources", 0), ("Resources", 30), ("Resources", 30)]


def test_nothing_is_concluded_while_slurm_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    said: list[str] = []
    states = StateWatch(interval_s=30, lost_after_s=-1, warn=said.append)
    for _ in range(3):
        assert not states.ask(["1"])
    assert states.ended("1") is None
    assert len(said) == 1
    assert "Slurm does not answer" in said[0]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("OUT_OF_MEMORY", ["more memory than the 700 MiB that it asked for", "larger `mem_mb`"]),
        ("CANCELLED", ["cancelled from outside", "scancel"]),
        ("TIMEOUT", ["time limit of 60 min", "longer `runtime`", "--submitit-signal-delay"]),
        (LOST, ["it vanished", "for 5 min", "--submitit-lost-after"]),
        ("FAILED", ["state FAILED", "left no result"]),
        ("COMPLETED", ["state COMPLETED", "left no result"]),
    ],
)
def test_a_failure_says_what_happened_and_what_to_do(state: str, words: list[str]) -> None:
    request = read_request("train", 1, {"runtime": 60, "mem_mb": 700})
    text = explain(state, request, lost_after_s=300)
    for word in words:
        assert word in text
    assert state in ENDED - INTERRUPTED


def test_memory_is_named_as_it_was_asked_for() -> None:
    per_cpu = read_request("train", 2, {"mem_mb_per_cpu": 300, "mem_mb": 1000})
    assert "the 300 MiB a CPU that it asked for" in out_of_memory(per_cpu)
    assert "a larger `mem_mb_per_cpu`" in out_of_memory(per_cpu)  # mem_mb would be ignored
    assert "the partition gives" in out_of_memory(read_request("train", 1, {}))


@pytest.mark.parametrize(
    ("complaint", "passing"),
    [
        ("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", True),
        ("Batch job submission failed: Socket timed out on send/recv operation", True),
        ("sbatch: error: invalid partition specified: nowhere", False),
        ("sbatch: error: Memory specification can not be satisfied", False),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit", False),
    ],
)
def test_complaints_that_pass(complaint: str, passing: bool) -> None:
    assert is_passing(complaint) == passing


def test_compress() -> None:
    assert compress(["5", "7_4", "7_0", "7_1", "8_2"]) == ["5", "7_[0-1,4]", "8_[2]"]
    assert compress([]) == []
