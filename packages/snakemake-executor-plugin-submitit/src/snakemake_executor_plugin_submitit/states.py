"""What a Slurm state means for a job that has left no result.  Pure functions and one table.

==================================  ==========================================================
any other state, also an unknown    the job lives; a requeued one is PENDING again
``INTERRUPTED``                     not the job's fault: it is submitted again
the rest of ``ENDED``               the job has failed, and :func:`explain` says why
==================================  ==========================================================
"""

from __future__ import annotations

from snakemake_executor_plugin_submitit.resources import Request

# Not a state of Slurm: neither squeue nor sacct knows the job.
LOST = "LOST"

# Ended by Slurm for reasons of its own.  Where Slurm may, it requeues such a job by itself.
INTERRUPTED = frozenset({"PREEMPTED", "NODE_FAIL", "BOOT_FAIL"})

# Those of INTERRUPTED after which the job's nodes are better avoided.
NODE_FAILED = frozenset({"NODE_FAIL", "BOOT_FAIL"})

# States in which a job will not run again, unless Slurm requeues it.
ENDED = INTERRUPTED | {
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "LAUNCH_FAILED",
    "OUT_OF_MEMORY",
    "RECONFIG_FAIL",
    "REVOKED",
    "TIMEOUT",
    LOST,
}


def explain(state: str, request: Request, lost_after_s: float) -> str:
    """Why a job failed that ended in ``state`` and left no result, and what to do about it."""
    if state == "OUT_OF_MEMORY":
        return out_of_memory(request)
    if state == "CANCELLED":
        return "it was cancelled from outside Snakemake (Slurm state CANCELLED), as by scancel"
    if state in ("TIMEOUT", "DEADLINE"):
        return (
            f"it did not stop before its time limit of {request.runtime_min} min (Slurm state "
            f"{state}); give its rule a longer `runtime`, or more time to save by "
            "`--submitit-signal-delay`"
        )
    if state == LOST:
        return (
            f"it vanished: neither squeue nor sacct has known it for {lost_after_s / 60:.0f} min "
            "(`--submitit-lost-after`) and it left no result"
        )
    return f"Slurm ended it with state {state} and it left no result"


def out_of_memory(request: Request) -> str:
    return (
        f"it needed more memory than {request.memory} (Slurm state OUT_OF_MEMORY); give its rule "
        f"more, as by `--set-resources {request.rule}:mem_mb=...`"
    )
