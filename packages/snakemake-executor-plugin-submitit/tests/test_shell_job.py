"""The wrapper around a job's command: its status, its signals and its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import submitit
from snakemake_executor_plugin_submitit import job as job_module
from snakemake_executor_plugin_submitit.job import CommandFailed, ShellJob
from submitit_project import PATIENCE_S, SOURCES, processes_with, wait_for, write_trainer

Start = Callable[..., "subprocess.Popen[str]"]

# Seconds of a job: until it is warned, which is time to start on a busy machine, and until its end.
WARNED_AFTER_S = 10
LIMIT_S = 20
# Within which its command is to end once it is warned.
GRACE_S = 8.0


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test's processes carry the name of its folder in their command lines."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trainer(folder: Path, save_s: float = 0.0) -> str:
    """The trainer below two shells, as a rule's command is."""
    script = write_trainer(folder, save_s)
    return f"bash -c '{sys.executable} {script}; exit $?'; exit $?"


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the wrapper in a process of its own, where it owns the signals."""
    code = (
        "import sys; from snakemake_executor_plugin_submitit import job\n"
        "job.TERM_GRACE_S = 1.0\n"
        "job.ShellJob(sys.argv[1], 5.0)()"
    )
    started = []

    def start(command: str, **environment: str) -> subprocess.Popen[str]:
        wrapper = subprocess.Popen(
            [sys.executable, "-c", code, command],
            env=os.environ | {"PYTHONPATH": str(SOURCES)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(wrapper)
        return wrapper

    yield start
    for wrapper in started:
        wrapper.kill()
        wrapper.wait()


def run_with_time_limit(folder: Path, command: str, grace_s: float = GRACE_S) -> Any:
    """Runs it through submitit's local executor, which warns by SIGUSR2."""
    cloudpickle.register_pickle_by_value(job_module)
    executor = submitit.LocalExecutor(folder / "submitit")
    executor.update_parameters(
        timeout_min=LIMIT_S / 60, signal_delay_s=LIMIT_S - WARNED_AFTER_S, stderr_to_stdout=True
    )
    job = executor.submit(ShellJob(command, grace_s))
    wait_for(job.done, "the end of the job")
    return job


def test_success(folder: Path) -> None:
    ShellJob("echo done > out", 1.0)()
    assert (folder / "out").read_text() == "done\n"


@pytest.mark.parametrize(
    ("command", "message"),
    [("exit 3", "ended with status 3"), ("kill -KILL $$", "was killed by SIGKILL")],
)
def test_failure_says_how_it_ended(command: str, message: str) -> None:
    with pytest.raises(CommandFailed, match=message):
        ShellJob(command, 1.0)()


@pytest.mark.parametrize("status", [0, 1])
def test_no_process_of_the_group_stays_behind(folder: Path, start: Start, status: int) -> None:
    marker = folder / "straggler"
    command = f"bash -c 'exec -a {marker} sleep 300' & sleep 0.5; exit {status}"
    wrapper = start(command)
    wait_for(lambda: len(processes_with(f"{marker} 300")) == 1, "the background process")
    wrapper.communicate(timeout=PATIENCE_S)
    assert (wrapper.returncode == 0) == (status == 0)
    assert processes_with(f"{marker} 300") == []


def test_time_limit_saves_and_continues(folder: Path) -> None:
    job = run_with_time_limit(folder, trainer(folder, save_s=0.5))
    assert job.paths.result_pickle.exists(), job.stdout()
    assert job.exception() is None, job.stdout()
    assert (folder / "state").read_text() == "SIGUSR2"
    assert (folder / "runs").read_text() == "run\n" * 2
    assert processes_with(str(folder / "trainer.py")) == []


def test_time_limit_while_the_command_still_starts(folder: Path) -> None:
    """The signal waits until it is caught: when it comes nobody does yet."""
    command = f"[ -e state ] || sleep {WARNED_AFTER_S + 1}; {trainer(folder, save_s=0.5)}"
    job = run_with_time_limit(folder, command)
    assert job.exception() is None, job.stdout()
    assert (folder / "state").read_text() == "SIGUSR2"
    assert (folder / "runs").read_text() == "run\n" * 2


def test_time_limit_of_srun(folder: Path) -> None:
    """It waits for signals instead of catching them, and hands them on."""
    (folder / "waits.py").write_text(
        "import signal\n"
        "open('/proc/self/comm', 'w').write('srun')\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})\n"
        "signal.sigwait({signal.SIGUSR2})\n"
        "open('state', 'w').close()\n"
        "raise SystemExit(1)\n"
    )
    command = f"echo run >> runs; [ -e state ] || exec {sys.executable} waits.py"
    job = run_with_time_limit(folder, command)
    assert job.exception() is None, job.stdout()
    assert (folder / "runs").read_text() == "run\n" * 2


def test_time_limit_of_a_command_that_does_not_save(folder: Path) -> None:
    marker = folder / "deaf"
    job = run_with_time_limit(folder, f"touch runs; exec -a {marker} sleep 300", grace_s=1.0)
    with pytest.raises(Exception, match="longer `runtime`"):
        job.result()
    assert processes_with(f"{marker} 300") == []


def test_a_command_that_ends_well_after_the_signal_is_not_run_again(folder: Path) -> None:
    job = run_with_time_limit(folder, f"echo run >> runs; sleep {WARNED_AFTER_S + 1}; true")
    assert job.exception() is None, job.stdout()
    assert (folder / "runs").read_text() == "run\n"
    assert "CommandFinished" not in job.stdout()


def test_sigusr2_does_not_kill_the_shells(folder: Path, start: Start) -> None:
    """Slurm sends it to every process of the step, not to the wrapper only."""
    wrapper = start("touch ready; sleep 1; sleep 0.5; echo lived")
    wait_for((folder / "ready").exists, "the command")
    time.sleep(0.2)
    for line in processes_with("touch ready; sleep 1"):
        pid = int(line.partition(":")[0])
        if pid != wrapper.pid:
            os.kill(pid, signal.SIGUSR2)
    output, _ = wrapper.communicate(timeout=PATIENCE_S)
    assert output == "lived\n"


def test_sigterm_lets_the_command_save_although_the_shells_die(folder: Path, start: Start) -> None:
    wrapper = start(trainer(folder, save_s=0.5))
    wait_for((folder / "ready").exists, "the trainer")
    wrapper.send_signal(signal.SIGTERM)
    output, _ = wrapper.communicate(timeout=PATIENCE_S)
    assert (folder / "state").read_text() == "SIGTERM"
    assert "after SIGTERM" in output
    assert wrapper.returncode == 1
    assert processes_with(str(folder / "trainer.py")) == []


def test_sigterm_kills_a_command_that_ignores_it(folder: Path, start: Start) -> None:
    marker = folder / "deaf"
    wrapper = start(f"trap '' TERM; touch ready; exec -a {marker} sleep 300")
    wait_for((folder / "ready").exists, "the command")
    wrapper.send_signal(signal.SIGTERM)
    output, _ = wrapper.communicate(timeout=PATIENCE_S)
    assert "was killed by SIGKILL after SIGTERM" in output
    assert processes_with(f"{marker} 300") == []


def test_sigterm_under_slurm_is_left_to_slurm(folder: Path, start: Start) -> None:
    """To fail by itself would rob a preempted job of its requeue."""
    wrapper = start(trainer(folder), SUBMITIT_EXECUTOR="slurm")
    wait_for((folder / "ready").exists, "the trainer")
    wrapper.send_signal(signal.SIGTERM)
    wait_for((folder / "state").exists, "the state")
    # The wrapper has the command among its own arguments.
    wait_for(lambda: len(processes_with(f"{folder}/trainer.py")) == 1, "the trainer's end")
    assert wrapper.stdout is not None
    assert "waiting for Slurm" in wrapper.stdout.readline()
    time.sleep(0.5)
    assert wrapper.poll() is None


def test_the_pickle_needs_no_package(folder: Path) -> None:
    cloudpickle.register_pickle_by_value(job_module)
    (folder / "job.pkl").write_bytes(cloudpickle.dumps(ShellJob("echo ran", 1.0)))
    code = textwrap.dedent(
        """
        import importlib.abc, pickle, sys
        class Forbidden(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name.startswith(("snakemake", "barlow")):
                    raise ImportError(name)
        sys.meta_path.insert(0, Forbidden())
        pickle.load(open("job.pkl", "rb"))()
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.stdout, done.returncode) == ("ran\n", 0), done.stderr


@pytest.mark.parametrize(
    ("told", "preempted"),
    [
        ("StartTime=2026-11-28T16:16:10 PreemptTime=2026-11-28T16:16:18", True),
        # Of an earlier run of the same job.
        ("StartTime=2026-11-28T16:20:10 PreemptTime=2026-11-28T16:16:18", False),
        ("StartTime=2026-11-28T16:16:10 PreemptTime=None", False),
        ("", False),
    ],
)
def test_whether_slurm_is_about_to_take_the_nodes_away(
    told: str, preempted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho JobId=7 {told}\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert job_module._is_preempted() == preempted
