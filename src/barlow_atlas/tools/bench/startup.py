"""From the start of a job to its first training step, in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ruamel.yaml import YAML

from barlow_atlas.tools.bench.records import BenchError, Record, alone, more
from barlow_atlas.workflow.sources import PACKAGE

ROOT = PACKAGE.parents[1]
COPIED = ("Snakefile", "workflow", "profiles", "src", "params", "pyproject.toml", "environment.yml")
RUN = "bt-d256-e100-clean-s1"
PATIENCE_S = 1800
"""After which a program hangs: none takes so long, on a busy machine either."""


class Copy:
    """A copy of the repository in which the demo's first epoch is a milestone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            source = ROOT / name
            if not source.exists():
                raise BenchError(
                    f"{source} is missing: job start-up is measured in a checkout of the "
                    "repository. Clone it, or leave `startup` and `planning` out by --only"
                )
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, folder / name, symlinks=True, ignore=ignored)
            else:
                shutil.copy2(source, folder / name)
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        source_path = str(folder / "src")
        self.environment = os.environ | {"PATH": programs, "PYTHONPATH": source_path}

    def write_demo(self, name: str, seeds: int, milestones: Sequence[int]) -> None:
        """The demo's study with other seeds, from 1, and milestones; each of them a job."""
        study = YAML().load(self.folder / "params/demo.yaml")
        study["seeds"] = list(range(1, seeds + 1))
        study["milestones"] = list(milestones)
        study["seeds_together"] = study["milestones_together"] = 1
        with (self.folder / f"params/{name}.yaml").open("w") as file:
            YAML().dump(study, file)

    def start(self, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Starts a command in the copy; what it says goes into a file."""
        with log.open("wb") as said:
            return subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=said, stderr=said
            )

    def run(self, *command: str) -> float:
        """Seconds of a command, which must succeed."""
        log = self.folder / "said"
        began = time.perf_counter()
        if self.start(command, log).wait(PATIENCE_S):
            raise BenchError(f"{' '.join(command)} failed:\n{log.read_text()[-2000:]}")
        return time.perf_counter() - began


@contextmanager
def copied() -> Iterator[Copy]:
    """A copy that is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield Copy(Path(folder))


def job_command(copy: Copy, target: str) -> str:
    """The shell command of the job that makes a file, as the executor hands it to submitit.

    It is read from submitit's own file while the job runs.
    """
    from submitit.core.utils import DelayedSubmission

    outer = ("snakemake", "--profile", "profiles/local", target)
    process = copy.start(outer, copy.folder / "outer")
    command = ""
    while process.poll() is None:
        for file in copy.folder.glob("logs/submitit/**/*_submitted.pkl"):
            try:
                job: Any = DelayedSubmission.load(file).function
            except (OSError, EOFError):  # not yet whole, or gone again
                continue
            command = job.command
        time.sleep(0.02)
    if process.returncode or not command:
        said = (copy.folder / "outer").read_text()[-2000:]
        raise BenchError(f"Snakemake did not run the job of {target}:\n{said}")
    # The outer Snakemake's folder for this, which the inner one waits for, went with it.
    for folder in re.findall(r"\.snakemake/tmp\.\w+", command):
        (copy.folder / folder).mkdir()
    return command


def until_first_epoch(copy: Copy, command: Sequence[str], log: Path) -> float:
    """Seconds from the start of a command to the first training line in a log."""
    log.unlink(missing_ok=True)
    began = time.perf_counter()
    process = copy.start(command, copy.folder / "said")
    reached = None
    while reached is None and process.poll() is None:
        if log.is_file() and '"step"' in log.read_text():
            reached = time.perf_counter() - began
        time.sleep(0.005)
    if process.wait(PATIENCE_S) or reached is None:
        said = (copy.folder / "said").read_text()[-2000:]
        raise BenchError(f"{' '.join(command)} did not train:\n{said}")
    return reached


def records(device: torch.device, rounds: int = 5) -> Iterator[Record]:
    """A local job of the demo: its inner Snakemake, its imports, its first epoch of 8 steps."""
    with copied() as copy:
        copy.write_demo("demo", seeds=3, milestones=[0, 1, 5, 10, 25, 50, 100])
        folder = f"results/demo/checkpoints/{RUN}"
        copy.run("snakemake", "--profile", "profiles/local", f"{folder}/epoch_0000.json")
        job = ("bash", "-c", job_command(copy, f"{folder}/epoch_0001.json"))
        step = (sys.executable, "-m", "barlow_atlas", "pretrain", "--study", "demo", "--run", RUN)
        log = copy.folder / f"logs/demo/pretrain/{RUN}/epoch_0001.log"
        program = ("bash", "-c", f'"$@" > {log} 2>&1', "job", *step, "--until", "1")
        imports = "import barlow_atlas.training.console, barlow_atlas.steps.pretrain"
        end = "import os; os._exit(0)"  # what a program does at its end is not its start
        times = [
            (
                until_first_epoch(copy, job, log),
                until_first_epoch(copy, program, log),
                copy.run(sys.executable, "-c", f"{imports}; {end}"),
                copy.run(sys.executable, "-c", f"import torch; {end}"),
            )
            for _ in range(rounds)
        ]
    whole, alone_, imported, torch_only = np.quantile(times, 0.25, axis=0).tolist()
    cores = len(os.sched_getaffinity(0))
    about = f"a local job of the demo on {cores} cores, to the end of its first 8 steps"
    yield alone("startup/job", "s", whole, about, at_most=6)
    yield more(
        "startup/torch's import in it",
        "s",
        (torch_only, whole),
        f"{about}; yardstick: the whole, of which `import torch` alone is the share",
    )
    parts = {
        "inner Snakemake": whole - alone_,
        "imports": imported,
        "reading, first steps": alone_ - imported,
    }
    for name, spent in parts.items():
        yield alone(f"startup/{name}", "s", spent, f"part of {about}")
