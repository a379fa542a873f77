"""Several studies at once in one clone: what is shared is made once, what is one's own alone."""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from barlow_atlas.store.lock import this_process
from barlow_atlas.study.paths import LOCKS
from barlow_atlas.workflow.turns import RunningError, hold_study, in_turn, once


@pytest.fixture(autouse=True)
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_study_is_worked_on_by_one_process_and_others_beside_it() -> None:
    with contextlib.ExitStack() as held, contextlib.ExitStack() as others:
        hold_study("ablations/bt-loss", held, print)
        hold_study("demo", held, print)
        with pytest.raises(RunningError) as refused:
            hold_study("demo", others, print)
        assert f"demo is being worked on by process {os.getpid()}" in str(refused.value)
        assert "atlas status demo" in str(refused.value)
    with contextlib.ExitStack() as held:
        hold_study("demo", held, print)


def test_a_study_of_a_run_that_was_killed_is_free_at_once() -> None:
    dead = this_process().model_copy(update={"process": 2**22 + 1, "token": "other"})
    file = LOCKS / "studies/demo/holder_000001.json"
    file.parent.mkdir(parents=True)
    file.write_text(dead.model_dump_json())
    said: list[str] = []
    begin = time.monotonic()
    with contextlib.ExitStack() as held:
        hold_study("demo", held, said.append)
    assert time.monotonic() - begin < 5
    assert "is dead: taken over" in said[0]


def _write(name: str, facts: str, begun: Callable[[], object] = lambda: None) -> None:
    """One that adds its name to what is made."""

    def make() -> None:
        begun()
        with Path("made").open("a") as file:
            file.write(f"{name}\n")

    once("data/digits", facts, Path("made"), print, make)


def _beside(facts: str) -> list[str]:
    """What two make of which the second asks while the first is at work."""
    begun, may_end = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait()

    first = threading.Thread(target=_write, args=("first", "facts", work))
    first.start()
    begun.wait()
    threading.Timer(0.2, may_end.set).start()
    _write("second", facts)
    first.join()
    return Path("made").read_text().split()


def test_images_are_prepared_once_for_studies_that_start_together() -> None:
    assert _beside("facts") == ["first"]


def test_other_images_of_the_same_name_are_not_taken_for_ones_own() -> None:
    assert _beside("other facts") == ["first", "second"]


def test_what_is_asked_for_again_later_is_made_again() -> None:
    for _ in range(2):
        _write("again", "facts")
    assert Path("made").read_text().split() == ["again", "again"]


def test_who_waits_is_told_for_whom() -> None:
    said: list[str] = []
    with contextlib.ExitStack() as held:
        held.enter_context(in_turn("ledger", print))

        def say(line: str) -> None:
            said.append(line)
            held.close()

        with in_turn("ledger", say) as waited:
            assert waited
    [line] = said
    assert line.startswith(f"waiting for ledger, which process {os.getpid()} on ")
