"""All faults that need no cluster, by name."""

import functools
import signal
from collections.abc import Callable
from pathlib import Path

import trainer_faults as trainer
import workflow_faults as workflow
from row import Row
from workspace import Stages

Fault = Callable[[Stages, Path], Row]
WorkflowFault = Callable[[workflow.Workflows, Path], Row]

TRAINER: dict[str, Fault] = {
    "sigterm": functools.partial(trainer.signalled, number=signal.SIGTERM),
    "sigusr2": functools.partial(trainer.signalled, number=signal.SIGUSR2),
    **{
        f"{fault.__name__}-{damage}": functools.partial(fault, damage=damage)
        for fault in (
            trainer.resume_state,
            trainer.milestone_state,
            trainer.weights,
            trainer.manifest,
        )
        for damage in trainer.DAMAGES
    },
    **{
        fault.__name__: fault
        for fault in (
            trainer.full_disk_for_states,
            trainer.full_disk_for_milestone,
            trainer.read_only_disk,
            trainer.vanished_resume_folder,
            trainer.vanished_checkpoints,
            trainer.two_trainers,
            trainer.silent_holder_elsewhere,
            trainer.clock_skew,
            trainer.checkout_during_training,
            trainer.exchange_during_training,
        )
    },
}

WORKFLOW: dict[str, WorkflowFault] = {
    fault.__name__: fault
    for fault in (
        workflow.outer_killed,
        workflow.inner_killed,
        workflow.two_users,
        workflow.two_clones,
    )
}


def kills(count: int) -> dict[str, Fault]:
    """SIGKILL at `count` random moments: half of them while every step is saved."""
    return {
        "sigkill-training": functools.partial(
            trainer.killed_at_random, kills=count - count // 2, save_every=0.1
        ),
        "sigkill-saving": functools.partial(
            trainer.killed_at_random, kills=count // 2, save_every=0.0
        ),
    }


NOTHING_LOST = {"sigterm", "sigusr2", "two_trainers", "outer_killed", "two_users", "two_clones"}
"""Faults that leave the trainer time to save, or never reach it."""


def check(name: str, row: Row) -> None:
    """What is promised whatever happens."""
    assert row.equal, row
    if name in NOTHING_LOST:
        assert row.repeated == "nothing", row
