"""Many tiny jobs through this repository's Slurm executor and through Snakemake's own.

Both run on the same real Slurm, which is started on the loopback interface as for the plugin's own
tests (same packages, as root).  The commands do nothing, so all time is overhead.  Prints a
table in Markdown; benchmarks/executor.md has one, and how Snakemake's own executor was installed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "packages/snakemake-executor-plugin-submitit"
sys.path.insert(0, str(PACKAGE / "tests/support"))

from loopback_slurm import LoopbackSlurm  # noqa: E402

PROGRAMS = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo", "sacctmgr", "srun")
SNAKEFILE = """
rule all:
    input: expand("out/{{i}}", i=range({jobs}))
rule tiny:
    output: "out/{{i}}"
    shell: "touch {{output}}"
"""
# Notes the call, and whether it is made inside of a job.  SLURM_CONF is set again: Snakemake's
# own executor removes all such variables.
COUNTER = """#!/bin/sh
export SLURM_CONF={configuration}
echo "{program} ${{SLURM_JOB_ID:+inside}}" >> {calls}
exec {real} "$@"
"""


@dataclass
class Contender:
    name: str
    python: str
    arguments: tuple[str, ...]


@dataclass
class Measured:
    contender: str
    jobs: int
    wall_s: float
    peak_rss_mb: float
    calls: Counter[str]

    def row(self) -> str:
        def count(program: str) -> str:
            outside, inside = self.calls[program], self.calls[f"{program} inside"]
            return f"{outside} + {inside}"

        programs = " | ".join(count(p) for p in ("sbatch", "squeue", "sacct", "scontrol", "srun"))
        per_job = self.wall_s / self.jobs
        return (
            f"| {self.contender} | {self.jobs} | {self.wall_s:.0f} | {per_job:.2f} | {programs} "
            f"| {self.peak_rss_mb:.0f} |"
        )


def counted_programs(folder: Path, calls: Path, slurm: LoopbackSlurm) -> None:
    """Puts a script that counts before each of Slurm's programs."""
    folder.mkdir()
    for program in PROGRAMS:
        script = folder / program
        text = COUNTER.format(
            program=program,
            calls=calls,
            configuration=slurm.environment["SLURM_CONF"],
            real=shutil.which(program, path=slurm.environment["PATH"]),
        )
        script.write_text(text)
        script.chmod(0o755)


def measure(contender: Contender, jobs: int, slurm: LoopbackSlurm, folder: Path) -> Measured:
    """Runs ``jobs`` jobs.  Fails if one of them has not made its file."""
    folder.mkdir()
    (folder / "Snakefile").write_text(SNAKEFILE.format(jobs=jobs))
    calls = folder / "calls"
    calls.touch()
    counted_programs(folder / "bin", calls, slurm)
    environment = os.environ | slurm.environment
    environment["PATH"] = f"{folder / 'bin'}{os.pathsep}{environment['PATH']}"
    environment["PYTHONPATH"] = str(PACKAGE / "src") if contender.name == "submitit" else ""
    command = [contender.python, "-m", "snakemake", *contender.arguments, "--jobs", str(jobs)]
    command += ["--default-resources", "runtime=10", "mem_mb=100", "slurm_partition=low"]
    command += ["slurm_account=root"]
    began = time.monotonic()
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall_s = time.monotonic() - began
    made = len(list((folder / "out").glob("*")))
    if process.returncode != 0 or made != jobs:
        tail = (folder / "output").read_text()[-3000:]
        sys.exit(f"{contender.name}: status {process.returncode}, {made} of {jobs} jobs\n{tail}")
    counted = Counter(line.strip() for line in calls.read_text().splitlines())
    return Measured(contender.name, jobs, wall_s, usage.ru_maxrss / 1024, counted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, nargs="+", default=[200, 1000], help="numbers of jobs")
    parser.add_argument(
        "--official-python",
        help="Python of an environment with snakemake and snakemake-executor-plugin-slurm; "
        "without it that executor is left out",
    )
    parser.add_argument(
        "--official-up-to",
        type=int,
        default=1000,
        metavar="JOBS",
        help="leave Snakemake's own executor out of runs with more jobs than this (default 1000)",
    )
    chosen = parser.parse_args()
    ours = ("--executor", "submitit", "--submitit-cluster", "slurm")
    contenders = [Contender("submitit", sys.executable, ours)]
    if chosen.official_python:
        # Its first look at the jobs is after 40 s by default, which few jobs would pay for.
        theirs = ("--executor", "slurm", "--slurm-init-seconds-before-status-checks", "5")
        contenders.append(Contender("slurm", chosen.official_python, theirs))
    print("| executor | jobs | wall s | s a job | sbatch | squeue | sacct | scontrol | srun | MB |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    slurm = LoopbackSlurm(max_array_size=1001)
    try:
        slurm.start()
        with tempfile.TemporaryDirectory() as folder:
            for jobs in chosen.jobs:
                for contender in contenders:
                    if contender.name != "submitit" and jobs > chosen.official_up_to:
                        continue
                    place = Path(folder) / f"{contender.name}-{jobs}"
                    print(measure(contender, jobs, slurm, place).row(), flush=True)
    finally:
        slurm.stop()


if __name__ == "__main__":
    main()
