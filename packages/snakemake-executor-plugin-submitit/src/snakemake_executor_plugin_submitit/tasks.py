"""Starts the tasks of a job: ``python -m snakemake_executor_plugin_submitit.tasks COMMAND ...``

The same words in a rule, or as its resource ``mpi``, serve a cluster and one machine: under Slurm
this is ``srun COMMAND``, else COMMAND runs as many times as the job has tasks, at once, each with
its number in Slurm's variables and with its own share of the job's GPUs.  One task that fails ends
the others; the exit status is that of the first that failed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping

# Set by the plugin for a job on this machine.
TASKS = "SNAKEMAKE_SUBMITIT_TASKS"
# Seconds between SIGTERM and SIGKILL for the others when one task has failed.
_TERM_GRACE_S = 10.0


def variables(task: int, tasks: int, gpus: str) -> dict[str, str]:
    """What task number ``task`` of ``tasks`` has in its environment; ``gpus`` are those of the job.

    GPUs that cannot be shared out evenly are shared by all.
    """
    names = [name for name in gpus.split(",") if name]
    share, rest = divmod(len(names), tasks)
    own = names if rest else names[task * share : (task + 1) * share]
    return {
        "SLURM_PROCID": str(task),
        "SLURM_LOCALID": str(task),
        "SLURM_NODEID": "0",
        "SLURM_NTASKS": str(tasks),
        "SLURM_NNODES": "1",
        "CUDA_VISIBLE_DEVICES": ",".join(own),
    }


def run_tasks(command: list[str], tasks: int, environment: Mapping[str, str]) -> int:
    """Runs all tasks to their end.  SIGUSR2 and SIGTERM reach them as members of this group."""
    signal.signal(signal.SIGTERM, lambda *_: None)
    gpus = environment.get("CUDA_VISIBLE_DEVICES", "")
    running = [
        subprocess.Popen(command, env={**environment, **variables(task, tasks, gpus)})
        for task in range(tasks)
    ]
    failed = 0
    kill_at = float("inf")
    while running:
        for task in running:
            if task.poll() and not failed:
                failed = task.returncode
                kill_at = time.monotonic() + _TERM_GRACE_S
                for other in running:
                    other.terminate()
        running = [task for task in running if task.returncode is None]
        if time.monotonic() > kill_at:
            for task in running:
                task.kill()
        time.sleep(0.05)
    return failed if failed >= 0 else 128 - failed


def main() -> None:
    command = sys.argv[1:]
    if not command:
        sys.exit(f"expected a command: python -m {__spec__.name} COMMAND ...")
    if TASKS in os.environ:
        sys.exit(run_tasks(command, int(os.environ[TASKS]), os.environ))
    os.execvp("srun", ["srun", *command])


if __name__ == "__main__":
    main()
