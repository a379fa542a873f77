"""One trainer holds a run; a dead one is told from one that lives, without comparing clocks."""

import errno
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from barlow_atlas.store import lock
from barlow_atlas.store.lock import LEASE, POLL, Holder, LockError, RunLock, lives, this_process


def nobody_waits(seconds: float) -> None:
    raise AssertionError("waited")


def held(folder: Path, **changes: object) -> Path:
    """The file of a holder like this process, with something changed."""
    holder = this_process().model_dump() | changes
    path = folder / "holder_000001.json"
    path.write_text(json.dumps(holder))
    return path


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_second_trainer_is_refused_and_told_who_holds(tmp_path: Path) -> None:
    with RunLock(tmp_path, print, nobody_waits) as first:
        first.check()
        with pytest.raises(LockError) as refusal, RunLock(tmp_path, print, nobody_waits):
            pass
        first.check()
    assert f"process {os.getpid()} on {this_process().host}" in str(refusal.value)
    assert "since 20" in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_the_slurm_job_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "big")
    with RunLock(tmp_path, print):
        monkeypatch.setenv("SLURM_JOB_ID", "18")
        with pytest.raises(LockError, match="Slurm job 17 of big"), RunLock(tmp_path, print):
            pass


def test_a_dead_process_of_this_machine_is_taken_over_at_once(tmp_path: Path) -> None:
    held(tmp_path, process=ended_process(), token="other")
    said: list[str] = []
    with RunLock(tmp_path, said.append, nobody_waits) as mine:
        mine.check()
        assert [path.name for path in tmp_path.iterdir()] == ["holder_000002.json"]
    assert "which is dead: taken over" in said[0]


def test_a_process_number_that_was_given_again_is_not_the_holder(tmp_path: Path) -> None:
    held(tmp_path, process_start="1", token="other")
    with RunLock(tmp_path, print, nobody_waits):
        pass


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"process_start": "1"}, False),
        ({"machine": "another"}, None),
        ({"machine": "another", "slurm_job": "7 of big"}, False),
        ({"machine": "another", "slurm_job": "7 of big", "slurm_restarts": 1}, None),
        ({"machine": "another", "slurm_job": "8 of big"}, None),
    ],
)
def test_whether_a_holder_lives(changes: dict[str, object], expected: bool | None) -> None:
    me = this_process()
    asking = me.model_copy(update={"slurm_job": "7 of big", "slurm_restarts": 1})
    assert lives(me.model_copy(update=changes), asking) is expected


def age(path: Path, seconds: float) -> None:
    moment = time.time() - seconds
    os.utime(path, (moment, moment))


@pytest.mark.parametrize(
    ("silent_s", "waited_s"), [(LEASE + 1, 0), (LEASE / 2, LEASE / 2), (-86400, LEASE)]
)
def test_silence_elsewhere_is_awaited_for_one_lease(
    silent_s: float, waited_s: float, tmp_path: Path
) -> None:
    """A sign of life that lies in the future, by a wrong clock, does not hold a run for ever."""
    age(held(tmp_path, machine="another", token="other"), silent_s)
    waited: list[float] = []
    with RunLock(tmp_path, print, waited.append):
        pass
    assert sum(waited) == pytest.approx(waited_s, abs=2 * POLL)


def test_a_sign_of_life_elsewhere_refuses(tmp_path: Path) -> None:
    path = held(tmp_path, machine="another", host="n1", token="other")
    age(path, 5)
    with (
        pytest.raises(LockError, match=r"process \d+ on n1"),
        RunLock(tmp_path, print, lambda seconds: os.utime(path)),
    ):
        pass
    assert path.exists()


def test_a_holder_that_leaves_while_awaited_gives_way(tmp_path: Path) -> None:
    path = held(tmp_path, machine="another", token="other")
    with RunLock(tmp_path, print, lambda seconds: path.unlink(missing_ok=True)) as mine:
        mine.check()


def test_a_holder_file_that_was_not_written_to_its_end_is_awaited(tmp_path: Path) -> None:
    path = tmp_path / "holder_000001.json"
    path.touch()
    waited: list[float] = []
    with RunLock(tmp_path, print, waited.append):
        pass
    assert sum(waited) == pytest.approx(LEASE, abs=2 * POLL)


def test_a_trainer_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT", 0.01)
    with RunLock(tmp_path, print) as mine:
        age(mine.path, 1000)
        deadline = time.monotonic() + 20
        while mine.path.stat().st_mtime < time.time() - 500:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_one_that_was_taken_for_dead_finds_out_before_it_stores(tmp_path: Path) -> None:
    with RunLock(tmp_path, print) as first:
        slept = json.loads(first.path.read_text()) | {"machine": "another"}
        first.path.write_text(json.dumps(slept))
        age(first.path, LEASE + 1)
        with RunLock(tmp_path, print, nobody_waits) as second:
            second.check()
            with pytest.raises(LockError, match="was taken over by process"):
                first.check()
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_vanished_is_noticed(tmp_path: Path) -> None:
    with RunLock(tmp_path / "run", print) as mine:
        (tmp_path / "run").rename(tmp_path / "gone")
        with pytest.raises(LockError, match="was removed while this run was trained"):
            mine.check()


def test_a_folder_that_takes_no_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(LockError, match=r"cannot write into .*file/run.*Not a directory"),
        RunLock(tmp_path / "file/run", print),
    ):
        pass


def test_a_disk_without_room_is_named_and_left_without_a_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS says when a file is closed that a quota is used up."""

    class Closing(io.StringIO):
        def close(self) -> None:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    def opened(path: Path, mode: str) -> io.StringIO:
        path.touch(exist_ok=False)
        return Closing()

    taken = RunLock(tmp_path, print)
    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(LockError, match=r"quota exceeded\. Make it a writable folder with room"):
        taken.__enter__()
    assert list(tmp_path.iterdir()) == []


def test_of_many_that_find_a_dead_holder_one_succeeds(tmp_path: Path) -> None:
    held(tmp_path, process=ended_process(), token="other")
    start, done = threading.Barrier(8), threading.Barrier(8)
    outcomes: list[bool] = []

    def compete() -> None:
        start.wait()
        try:
            with RunLock(tmp_path, lambda line: None):
                outcomes.append(True)
                done.wait()
        except LockError:
            outcomes.append(False)
            done.wait()

    threads = [threading.Thread(target=compete) for _ in range(8)]
    run_all(threads, threading.Thread.start)
    run_all(threads, threading.Thread.join)
    assert sorted(outcomes) == [False] * 7 + [True]


def run_all(threads: list[threading.Thread], call: Callable[[threading.Thread], None]) -> None:
    for thread in threads:
        call(thread)


def test_a_holder_says_who_it_is() -> None:
    holder = this_process().model_copy(update={"host": "n1", "process": 7, "since": "noon"})
    assert str(holder) == "process 7 on n1 since noon"
    assert Holder.model_validate_json(holder.model_dump_json()) == holder
