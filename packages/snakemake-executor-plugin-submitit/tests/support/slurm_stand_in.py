"""Stand-ins for Slurm's programs, which say what a test wants, and jobs for them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from snakemake_executor_plugin_submitit import call
from snakemake_executor_plugin_submitit.ledger import Identity
from snakemake_executor_plugin_submitit.resources import read_request
from snakemake_executor_plugin_submitit.slurm import SlurmSettings
from snakemake_executor_plugin_submitit.submission import Submission
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

SETTINGS = SlurmSettings(
    signal_delay_s=120,
    status_interval_s=30,
    array_limit=9,
    lost_after_s=300,
    controller_timeout_s=600,
)
# scontrol's answers to both questions of the plugin.
FACTS = """if [ "$2" = config ]; then echo 'ClusterName = here'; else
echo 'PartitionName=low Default=YES DefaultTime=NONE MaxTime=00:30:00'; fi"""
SILENT = "echo 'Unable to contact slurm controller' >&2; exit 1"


def submission(
    folder: Path, *, name: str = "out", forced: bool = False, **resources: object
) -> Submission:
    """A job that makes the file ``name``."""
    return Submission(
        info=SubmittedJobInfo(None),
        request=read_request("train", 1, {"runtime": 60} | resources),
        identity=Identity((str(folder / name),), "text", ()),
        name="train",
        command="true",
        folder=folder / "logs",
        rule_folder=folder / "logs",
        continuations=10,
        forced=forced,
    )


class Programs:
    """On the PATH; but for scontrol none answers until :meth:`say` has given it a script."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder / "bin"
        self._folder.mkdir()
        for name in ("sbatch", "srun", "squeue", "sacct", "scancel", "scontrol"):
            self.say(name, FACTS if name == "scontrol" else SILENT)
        monkeypatch.setenv("PATH", f"{self._folder}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setattr(call, "TRY_EVERY_S", 0.1)

    def say(self, name: str, script: str) -> None:
        calls = self._folder / f"{name}.calls"
        # Replaced, as a program that runs cannot be written.
        new = self._folder / "new"
        new.write_text(f'#!/bin/bash\necho "$*" >> {calls}\n{script}\n')
        new.chmod(0o755)
        new.replace(self._folder / name)

    def calls(self, name: str) -> list[str]:
        """The arguments of all calls."""
        calls = self._folder / f"{name}.calls"
        return calls.read_text().splitlines() if calls.exists() else []
