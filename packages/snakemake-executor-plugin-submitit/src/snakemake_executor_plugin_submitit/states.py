"""What Slurm's states and reasons mean for a job without a result.  Pure functions and tables.

==================================  ==========================================================
any other state, also an unknown    the job lives; a requeued one is PENDING again
``INTERRUPTED``                     not the job's fault: it is submitted again
the rest of ``ENDED``               the job has failed, and :func:`explain` says why
==================================  ==========================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass

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

# States in which a job waits to be started.
WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"})


@dataclass(frozen=True)
class Wait:
    """Why a job waits for more than its turn, and what can be done about it."""

    kind: str  # how Slurm's reason begins; what follows may differ from answer to answer
    advice: str
    hopeless: bool = False  # it will not start as it is


# Slurm's reasons, by how they begin; what is in no table is the queue's ordinary business.
_HOPELESS = {
    "DependencyNeverSatisfied": "the job that it depends on (`slurm_extra`) has failed",
    "BadConstraints": "no node has what it asks for",
    "InvalidAccount": "its `slurm_account` does not exist any more",
    "InvalidQOS": "its `qos` does not exist any more",
    "JobHoldMaxRequeue": "Slurm has given up starting it",
    "launch failed requeued held": "Slurm could not start it on its node, and holds it",
}
# Those of one partition.  Of a job that may go to several, Slurm shows the reason of the one that
# it has tried last.
_HOPELESS_THERE = {
    "PartitionTimeLimit": "its `runtime` is longer than the partition allows",
    "AccountNotAllowed": "the partition does not allow its `slurm_account`",
    "QOSNotAllowed": "the partition does not allow its `qos`",
}
_NOTABLE = {
    "JobHeldUser": "somebody holds it; `scontrol release JOB` lets it go",
    "JobHeldAdmin": "an administrator holds it",
    "job requeued in held state": "somebody requeued and holds it; `scontrol release JOB`",
    "job requeued in special exit state": (
        "Slurm holds it for the status that it ended with; `scontrol release JOB`"
    ),
    "PartitionNodeLimit": (
        "it asks for more `nodes` than its partition allows, or some of them are down or drained"
    ),
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition takes jobs but starts none",
    "ReqNodeNotAvail": "a node that it needs is not available",
    "ReservationDeleted": "its reservation is gone",
    "QOSUsageThreshold": "its QOS has used up what it may",
}
# A limit for one job that this job is above, and the budget of an account that is used up.
_TOO_LARGE = re.compile(r"(Assoc|QOS)Max\w+Per(Job|Node)\w*")
_USED_UP = re.compile(r"(Assoc|QOS)Grp\w*Minutes\w*")


def waits_for(reason: str, partition: str | None) -> Wait | None:
    """What Slurm's ``reason`` for a waiting job means; None if it is only not its turn yet.

    ``partition`` is what the job asks for, or several with commas.
    """
    only_one = "," not in (partition or "")
    for table, hopeless in ((_HOPELESS, True), (_HOPELESS_THERE, only_one), (_NOTABLE, False)):
        for kind, advice in table.items():
            if reason.startswith(kind):
                return Wait(kind, advice, hopeless)
    if found := _TOO_LARGE.match(reason):  # a QOS may be a partition's
        return Wait(found.group(), "it asks for more than one job may have", hopeless=only_one)
    if found := _USED_UP.match(reason):
        return Wait(found.group(), "its account or QOS has used up its budget")
    return None


def explain(state: str, request: Request, lost_after_s: float) -> str:
    """Why a job failed that ended in ``state`` and left no result, and what to do about it."""
    if state == "OUT_OF_MEMORY":
        return out_of_memory(request)
    if state == "CANCELLED":
        return "it was cancelled from outside Snakemake (Slurm state CANCELLED), as by scancel"
    if state in ("TIMEOUT", "DEADLINE"):
        return (
            f"it did not end before its time limit of {request.runtime_min} min (Slurm state "
            f"{state}); give its rule a longer `runtime`, or more time to save by "
            "`--submitit-signal-delay`"
        )
    if state == LOST:
        return (
            f"it vanished: for {lost_after_s / 60:.0f} min (`--submitit-lost-after`) squeue has "
            "not known it, nor has sacct told how it ended, and it left no result"
        )
    return f"Slurm ended it with state {state} and it left no result"


def out_of_memory(request: Request) -> str:
    resource = "mem_mb" if request.mem_mb_per_cpu is None else "mem_mb_per_cpu"
    return (
        f"it needed more memory than {request.memory} (Slurm state OUT_OF_MEMORY); give its rule a "
        f"larger `{resource}`"
    )
