"""Starting the processes of a run: their places, their signals, and whose error is told."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

from barlow_atlas.errors import EXIT_INTERRUPTED
from barlow_atlas.training import launch
from barlow_atlas.training.launch import LaunchError, ProcessFailed, run_processes

BEGIN = """
import os, signal, sys, time
from pathlib import Path
rank = int(os.environ["BARLOW_ATLAS_RANK"])
Path(f"pid-{rank}").write_text(str(os.getpid()))
"""
JOINED = f"""{BEGIN}
from barlow_atlas.errors import AtlasError
from barlow_atlas.nn import processes
from barlow_atlas.training import launch
"""


def script(text: str, begin: str = BEGIN) -> list[str]:
    return [sys.executable, "-c", begin + textwrap.dedent(text)]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_NNODES", raising=False)


def pids(folder: Path) -> list[int]:
    return [int(file.read_text()) for file in sorted(folder.glob("pid-*"))]


def test_each_process_knows_its_place(tmp_path: Path) -> None:
    told = """
    names = ("PROCESSES", "LOCAL_RANK", "STORE")
    Path(f"place-{rank}").write_text(" ".join(os.environ[f"BARLOW_ATLAS_{n}"] for n in names))
    """
    assert run_processes(script(told), 1, 3) is False
    places = [(tmp_path / f"place-{rank}").read_text().split() for rank in range(3)]
    assert [place[:2] for place in places] == [["3", "0"], ["3", "1"], ["3", "2"]]
    assert len({place[2] for place in places}) == 1
    seat = launch.Seat(1, 3, 1, places[0][2])
    assert launch.seat(seat.variables) == seat
    assert launch.seat({}) is None


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "process 1 of 3 was .* by SIGKILL",
        ),
        ("sys.exit(3)", "process 1 of 3 ended with status 3 before it came to work"),
    ],
)
def test_one_that_ends_takes_the_others_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, message: str
) -> None:
    monkeypatch.setattr(launch, "GRACE_S", 0.2)
    began = time.monotonic()
    waiting = f"""
    if rank == 1:
        while len(list(Path().glob("pid-*"))) < 3: time.sleep(0.01)
        {end}
    time.sleep(60)
    """
    with pytest.raises(ProcessFailed, match=message):
        run_processes(script(waiting), 1, 3)
    assert time.monotonic() - began < 30
    assert len(pids(tmp_path)) == 3
    assert not any(psutil.pid_exists(pid) for pid in pids(tmp_path))


def test_a_signal_reaches_all_even_those_that_do_not_listen_yet(tmp_path: Path) -> None:
    late = f"""
    heard = []
    time.sleep(0.5 * rank)
    signal.signal(signal.SIGUSR2, lambda *_: heard.append(1))
    while not heard: time.sleep(0.01)
    sys.exit({EXIT_INTERRUPTED} if rank == 0 else 0)
    """

    def send() -> None:
        while len(list(tmp_path.glob("pid-*"))) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.getsignal(signal.SIGUSR2)
    sender = threading.Thread(target=send)
    sender.start()
    assert run_processes(script(late), 1, 2) is True
    sender.join()
    assert signal.getsignal(signal.SIGUSR2) == before


def test_several_nodes_need_a_job_that_has_them() -> None:
    with pytest.raises(LaunchError, match="ask for 2 nodes, and this is no Slurm job"):
        run_processes(["true"], 2, 1)


def left(rank: int, text: str, *, follows: bool) -> dict[str, object]:
    return {"rank": rank, "host": "here", "text": text, "follows": follows}


def test_whose_error_is_told() -> None:
    lost = [left(rank, "the others do not answer", follows=True) for rank in (2, 0, 3)]
    own = left(1, "the disk is full", follows=False)
    assert launch._cause((0, 1), [lost[0], own], 4) == "process 1 of 4, on here: the disk is full"
    assert launch._cause((0, 137), lost, 4).startswith("process 1 of 4 was ended from outside, and")
    assert launch._cause((0, 137), lost[:1], 4).startswith("one of 0, 1, 3 was ended from outside")


@pytest.mark.slow
def test_the_error_that_is_told_is_the_cause(capfd: pytest.CaptureFixture[str]) -> None:
    failing = """
    import torch
    with launch.joined(launch.seat(os.environ)):
        if rank == 1:
            raise AtlasError("the disk of process 1 is full")
        processes.sum_of_all(torch.ones(1))
    """
    with pytest.raises(ProcessFailed, match=r"process 1 of 2, on .*: the disk of process 1 is"):
        run_processes(script(failing, JOINED), 1, 2)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_process_that_does_not_come_is_named() -> None:
    missing = """
    if rank == 1:
        time.sleep(60)
    with launch.joined(launch.seat(os.environ), 2.0):
        pass
    """
    with pytest.raises(ProcessFailed, match="of 2 processes, 1 did not come within 2 s"):
        run_processes(script(missing, JOINED), 1, 2)


@pytest.mark.slow
def test_processes_do_not_outlive_who_started_them(tmp_path: Path) -> None:
    staying = """
    signal.signal(signal.SIGTERM, lambda *_: (Path(f"asked-{rank}").touch(), sys.exit(0)))
    launch._stop_with_parent()
    Path(f"ready-{rank}").touch()
    time.sleep(60)
    """
    starter = f"""
    from barlow_atlas.training.launch import run_processes
    run_processes({script(staying, JOINED)!r}, 1, 2)
    """
    started = psutil.Popen([sys.executable, "-c", textwrap.dedent(starter)])
    _await(lambda: len(list(tmp_path.glob("ready-*"))) == 2)
    started.kill()
    started.wait()
    _await(lambda: len(list(tmp_path.glob("asked-*"))) == 2)
    _await(lambda: not any(psutil.pid_exists(pid) for pid in pids(tmp_path)))


def _await(condition: object, within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)
