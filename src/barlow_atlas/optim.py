"""Learning rates along training, as pure functions, and the optimizers they drive."""

import math

import torch
from torch import nn

from barlow_atlas.study import Optimizer, Run


def learning_rate(run: Run, epoch: int, step: int, steps_per_epoch: int) -> float:
    """The rate of step `step` (from 0) of epoch `epoch` (from 0) of a run's pre-training."""
    schedule = run.schedule
    if schedule.name == "mix_cosine":
        peak = schedule.base_lr * run.batch_size / 256
        place = (epoch + 1) + step / steps_per_epoch
        return peak * warmup_cosine(place, schedule.warmup_epochs, run.epochs)
    return schedule.base_lr * two_drops(epoch, run.epochs)


def warmup_cosine(place: float, warmup: float, total: float, floor: float = 0.001) -> float:
    """Linear from 0 to 1 over `warmup`, then half a cosine down to `floor` at `total`.

    Barlow Twins' schedule (code main.py, adjust_learning_rate). Mixed Barlow Twins' small-data
    code counts epochs from 1, so that its `place` is one epoch ahead: training starts at 1/warmup
    of the peak and the last epoch lies just past the cosine's end.

    Args:
        place: position in training, in epochs.
        warmup, total: length of the warm-up and of the whole schedule, in epochs.
    """
    if place < warmup:
        return place / warmup
    cosine = (1 + math.cos(math.pi * (place - warmup) / (total - warmup))) / 2
    return cosine + floor * (1 - cosine)


def two_drops(epoch: int, total: int) -> float:
    """1, then 0.2 from 50 epochs and 0.04 from 25 epochs before the end (Mixed Barlow Twins)."""
    return 0.2 ** ((epoch >= total - 50) + (epoch >= total - 25))


def exponential(epoch: int, total: int, final: float) -> float:
    """Falls by one factor an epoch, from 1 towards `final` after `total` (the linear probe's)."""
    return float(final ** (epoch / total))


def build_optimizer(settings: Optimizer, network: nn.Module) -> torch.optim.Optimizer:
    """The optimizer over all parameters; its rate is set by the loop before every step."""
    return torch.optim.Adam(network.parameters(), lr=0.0, weight_decay=settings.weight_decay)
