"""Workflows on the loopback Slurm."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from loopback_slurm import SEARCH_PATH, LoopbackSlurm
from submitit_project import Project

# All else is given by the rules.
ARGUMENTS = ("--submitit-cluster", "slurm", "--jobs", "10", "--cores", "8")

# Seconds in which cancelled jobs have ended, of which Slurm waits some before it kills them.
JOBS_END_WITHIN_S = 60

PARTITIONS = {"n1": "low", "n2": "low", "n6": "low", "n3": "lost", "n[4-5]": "frail"}


def default_resources(nodes: str) -> tuple[str, ...]:
    """For jobs on one node, or on any of several."""
    where = [f"slurm_partition={PARTITIONS[nodes]}"]
    if "[" not in nodes:
        where.append(f"slurm_extra='--nodelist={nodes}'")
    return ("--default-resources", "runtime=10", "mem_mb=200", *where)


class Workflow(Project):
    """A folder with a Snakefile, run on the cluster."""

    def __init__(self, folder: Path, slurm: LoopbackSlurm) -> None:
        super().__init__(folder, dict(slurm.environment))
        self.slurm = slurm

    def on(self, node: str, *arguments: str) -> subprocess.Popen[str]:
        return self.start(*ARGUMENTS, *arguments, *default_resources(node))

    def restart(self, node: str, *arguments: str) -> subprocess.Popen[str]:
        """As a user does after a crash."""
        status, output = self.run("--unlock")
        assert status == 0, output
        return self.on(node, "--rerun-incomplete", *arguments)

    def wrap(self, name: str, script: str) -> None:
        """Has Snakemake and its jobs find ``script`` as one of Slurm's programs, $REAL in it."""
        real = shutil.which(name, path=SEARCH_PATH)
        program = self.folder / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/bash\nREAL={real}\n{script}\n")
        program.chmod(0o755)
        self.environment["PATH"] = f"{program.parent}{os.pathsep}{SEARCH_PATH}"

    def count(self, name: str) -> int:
        """How many lines a job has added to the file ``name``."""
        path = self.folder / name
        return len(path.read_text().splitlines()) if path.exists() else 0

    def finish(self, node: str, *arguments: str) -> tuple[int, str]:
        return self.run(*ARGUMENTS, *arguments, *default_resources(node))

    def job_ids(self) -> list[str]:
        """Of the jobs in the queue or running, by the folder that they work in."""
        listed = self.slurm.run("squeue", "--array", "--noheader", "--format=%i|%Z").splitlines()
        return [line.partition("|")[0] for line in listed if line.endswith(f"|{self.folder}")]
