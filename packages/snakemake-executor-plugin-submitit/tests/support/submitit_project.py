"""Runs tiny workflows through the plugin, with a real Snakemake in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "src"

# Seconds for whatever is not timed itself: enough on a machine that has much else to do, and fewer
# than the jobs of the tests sleep that are to be ended.
PATIENCE_S = 240


# A stand-in for the trainer: saves its state and exits with 75 on SIGUSR2 or SIGTERM, goes on from
# the state when it is started again, and then ends well.
TRAINER = """
import pathlib, signal, sys, time
state, runs = pathlib.Path("state"), pathlib.Path("runs")
with runs.open("a") as file:
    file.write("run\\n")
if state.exists():
    sys.exit(0)
def save(signum, frame):
    time.sleep({save_s})
    state.write_text(signal.Signals(signum).name)
    sys.exit(75)
signal.signal(signal.SIGUSR2, save)
signal.signal(signal.SIGTERM, save)
pathlib.Path("ready").touch()
time.sleep(600)
"""


def write_trainer(folder: Path, save_s: float = 0.0) -> Path:
    """``trainer.py`` in ``folder``, whose saving takes ``save_s`` seconds."""
    script = folder / "trainer.py"
    script.write_text(TRAINER.format(save_s=save_s))
    return script


def processes_with(marker: str) -> list[str]:
    """Command lines of the living processes that have ``marker`` in them."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or folder.name == str(os.getpid()):
            continue
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended meanwhile
        if marker in words:  # the command line of a zombie is empty
            found.append(f"{folder.name}: {words}")
    return found


def wait_for(condition: Callable[[], object], what: str, seconds: float = PATIENCE_S) -> None:
    """Returns when ``condition()`` is true; fails the test after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:.0f} s in vain: {what}")
        time.sleep(0.1)


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """The lines of its output up to the first with ``words``.

    Fails the test if there is none, also after ``PATIENCE_S``, when the process is killed.
    """
    assert process.stdout is not None
    seen = ""
    late = threading.Timer(PATIENCE_S, process.kill)
    late.start()
    try:
        for line in process.stdout:
            seen += line
            if words in line:
                return seen
    finally:
        late.cancel()
    pytest.fail(f"{words!r} is not in the output:\n{seen}")


@dataclass
class Project:
    """A folder with a Snakefile."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def write(self, snakefile: str) -> None:
        (self.folder / "Snakefile").write_text(textwrap.dedent(snakefile))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "snakemake", "--executor", "submitit", *arguments]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Snakemake in a session of its own, so that the group can be sent signals."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(SOURCES)} | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, seconds: float = 2 * PATIENCE_S) -> tuple[int, str]:
        """Exit status and all output."""
        process = self.start(*arguments)
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            pytest.fail(f"snakemake did not end within {seconds:.0f} s; its output:\n{output}")
        return process.returncode, output

    def logs(self, under: str = "logs/submitit") -> list[Path]:
        return sorted((self.folder / under).rglob("*_log.out"))
