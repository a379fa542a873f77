"""What this plugin uses of Snakemake and submitit that they do not promise to keep, and why.

Written for Snakemake 9.27 and submitit 1.5.4; tests/test_private.py fails once a later version
has something else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def is_stopping(scheduler: Any, keep_going: bool) -> bool:
    """Whether Snakemake only waits for running jobs, after an error or a SIGTERM.

    It believes that all jobs handed over are running, so those that wait here for a free core must
    be given back, or it would run the whole list; it tells no executor.
    """
    if getattr(scheduler, "_user_kill", None):
        return True
    return bool(getattr(scheduler, "_errors", False)) and not keep_going


def note_user_request(scheduler: Any) -> None:
    """Has Snakemake end without the words that a job has failed: its user wants it to."""
    scheduler._user_kill = "cancelled"


def declared_threads(rule: Any) -> int:
    """The threads that a rule asks for before `--cores` lowers them; 0 if a function says them.

    A job itself knows its lowered threads only.
    """
    declared = rule.resources["_cores"]
    return 0 if declared.is_evaluable() else int(declared.value)


def script_text(executor: Any, unique: str) -> str:
    """The sbatch script of a submitit.SlurmExecutor with its parameters, named by `unique`.

    submitit's own `submit` would call sbatch at once, before anybody has written the job down.
    """
    command = executor._submitit_command_str
    if not executor.parameters.get("use_srun", True):
        # Slurm signals the batch script's own process, which is to be submitit's then.
        command = f"exec {command}"
    text: str = executor._make_submission_file_text(command, unique)
    return text


def timeouts_left(pickle: Path) -> int:
    """How often submitit may still start a job again, from the pickle in which it counts."""
    from submitit.core.utils import DelayedSubmission

    return int(DelayedSubmission.load(pickle)._timeout_countdown)
