"""Learning rates along training, as pure functions, and the optimizers they drive."""

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from barlow_atlas.settings import training

FLOOR = 0.001
"""Where Barlow Twins' cosine ends, and with it a trunk's cool-down, as a share of the peak."""


class Scheduled(Protocol):
    """What of a run decides its learning rates."""

    @property
    def schedule(self) -> training.Schedule: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def epochs(self) -> int | None: ...


def peak_rate(run: Scheduled) -> float:
    """The rate from which the schedule's shape is a share: linear in the batch where it says so."""
    schedule = run.schedule
    if isinstance(schedule, training.EpochCosine | training.Drops):
        return schedule.base_lr
    return schedule.base_lr * run.batch_size / 256


def learning_rate(
    run: Scheduled, epoch: int, step: int, steps_per_epoch: int, cooldown_from: int | None = None
) -> float:
    """The rate of step `step` (from 0) of epoch `epoch` (from 0) of a run's pre-training.

    Args:
        cooldown_from: on a branch that anneals a trunk, the epoch at which it left the trunk.
    """
    schedule, peak = run.schedule, peak_rate(run)
    place = epoch + step / steps_per_epoch
    if isinstance(schedule, training.Trunk):
        if cooldown_from is None:
            return peak * warmup(place, schedule.warmup_epochs)
        reached = peak * warmup(cooldown_from, schedule.warmup_epochs)
        return reached * cooldown(place - cooldown_from, schedule.cooldown_epochs)
    assert run.epochs is not None  # every schedule but the trunk has an end
    match schedule:
        case training.MixCosine():
            return peak * warmup_cosine(place + 1, schedule.warmup_epochs, run.epochs)
        case training.BTCosine():
            return peak * warmup_cosine(place, schedule.warmup_epochs, run.epochs)
        case training.StepCosine():
            done = epoch * steps_per_epoch + step
            rising = schedule.warmup_epochs * steps_per_epoch
            if done < rising:
                risen = done / max(1, rising - 1)
                return schedule.start_lr + (peak - schedule.start_lr) * risen
            return peak * half_cosine(done - rising, run.epochs * steps_per_epoch - rising)
        case training.EpochCosine():
            return peak * half_cosine(epoch, run.epochs)
        case training.Drops():
            done = epoch * steps_per_epoch + step
            if done < schedule.warmup_steps:
                return peak * (done + 1) / schedule.warmup_steps
            at = drop_epochs(schedule, run.epochs, steps_per_epoch)
            return peak * drops(epoch, at, schedule.factor)


def warmup(place: float, length: float) -> float:
    """Linear from 0 at the start to 1 at `length`, and 1 from there on."""
    return place / length if place < length else 1.0


def half_cosine(place: float, total: float) -> float:
    """Half a cosine, from 1 at place 0 to 0 at `total` (Loshchilov and Hutter, arXiv:1608.03983).

    With whole epochs as `place`: MoCo v2's and SimSiam's pre-training, Barlow Twins' linear and
    semi-supervised evaluation.
    """
    return (1 + math.cos(math.pi * place / total)) / 2


def warmup_cosine(place: float, length: float, total: float, floor: float = FLOOR) -> float:
    """Linear from 0 to 1 over the warm-up, then half a cosine down to `floor` at `total`.

    Barlow Twins' schedule (code main.py, adjust_learning_rate), also VICReg's. Mixed Barlow Twins'
    small-data code counts epochs from 1, so that its `place` is one epoch ahead: training starts at
    1/length of the peak and the last epoch lies just past the cosine's end.

    Args:
        place: position in training, in epochs.
        length, total: of the warm-up and of the whole schedule, in epochs.
    """
    if place < length:
        return warmup(place, length)
    cosine = half_cosine(place - length, total - length)
    return cosine + floor * (1 - cosine)


def cooldown(place: float, length: float, floor: float = FLOOR) -> float:
    """Linear from 1 to `floor` over `length` (Zhai et al., 2022, arXiv:2106.04560, section 3.5).

    After a constant rate it reaches what a cosine of the same budget does (Haegele et al., 2024,
    arXiv:2405.18392).

    Args:
        place: epochs since the cool-down began.
    """
    return 1 - (1 - floor) * min(1.0, place / length)


def drops(epoch: int, at: Iterable[int], factor: float) -> float:
    """1, multiplied by `factor` at each of the epochs `at` (finished epochs).

    Mixed Barlow Twins' "step" schedule (0.2 at 50 and 25 epochs before the end) and its transfer
    probe (0.1 at 60 and 80), MoCo v1 (0.1 at 120 and 160).
    """
    return float(factor ** sum(epoch >= place for place in at))


def drop_epochs(schedule: training.Drops, epochs: int, steps_per_epoch: int) -> list[int]:
    """The epochs at which the rate drops.

    As in the references' code a drop is an event: one that lies before the start never happens, and
    one inside the warm-up is undone, since the warm-up sets the rate anew.
    """
    places = (place if place >= 0 else epochs + place for place in schedule.at)
    first = schedule.warmup_steps
    return [place for place in places if place >= 0 and place * steps_per_epoch >= first]


def exponential(epoch: int, total: int, final: float) -> float:
    """Falls by one factor an epoch, from 1 towards `final` after `total`.

    Mixed Barlow Twins' linear probe and that of its baselines.
    """
    return float(final ** (epoch / total))


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rates (You, Gitman, Ginsburg, arXiv:1708.03888) in Barlow Twins' form.

    For each weight w with more than one dimension, with decay b and trust coefficient e:

        g <- grad + b w;   g <- g e |w| / |g|  if both norms are positive;
        m <- momentum m + g;   w <- w - lr m.

    Clipped, in solo-learn's form (`solo/utils/lars.py`), which is that of lightning-bolts:

        g <- (grad + b w) min(1, e |w| / (lr (|grad| + b |w| + 1e-8)))  if both norms are positive,

    so that no weight moves faster than plain SGD would move it.

    One-dimensional parameters (biases, batch norm) are neither decayed nor adapted.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float,
        weight_decay: float,
        momentum: float = 0.9,
        trust_coefficient: float = 0.001,
        clipped: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "trust_coefficient": trust_coefficient,
            "clipped": clipped,
        }
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step along the gradients at hand."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            pairs = [(each, each.grad) for each in group["params"] if each.grad is not None]
            for adapted in (True, False):
                chosen = [pair for pair in pairs if (pair[0].ndim > 1) == adapted]
                if chosen:
                    parameters, gradients = (list(column) for column in zip(*chosen, strict=True))
                    adapt = _clipped if group["clipped"] else _adapted
                    updates = adapt(parameters, gradients, group) if adapted else gradients
                    self._move(parameters, updates, group)
        return loss

    def _move(self, parameters: list[Tensor], updates: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if "momentum" not in self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        averages = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_mul_(averages, group["momentum"])
        torch._foreach_add_(averages, updates)
        torch._foreach_add_(parameters, averages, alpha=-group["lr"])


def _adapted(weights: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
    """The gradients with decay, scaled to a length of trust_coefficient |w| each."""
    decayed = list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))
    lengths, steps = (torch.stack(torch._foreach_norm(each)) for each in (weights, decayed))
    trust = group["trust_coefficient"] * lengths / steps
    trust = trust.where((lengths > 0) & (steps > 0), 1.0)
    torch._foreach_mul_(decayed, list(trust.unbind()))
    return decayed


def _clipped(weights: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
    """The gradients with decay, each by its share of the rate, at most 1.

    Where a norm is zero the gradient stays as it is, without decay, as in the source.
    """
    decay = group["weight_decay"]
    lengths, steps = (torch.stack(torch._foreach_norm(each)) for each in (weights, gradients))
    share = group["trust_coefficient"] * lengths / (steps + decay * lengths + 1e-8)
    share = (share / group["lr"]).clamp(max=1.0)
    moving = (lengths > 0) & (steps > 0)
    updates = torch._foreach_mul(weights, list((decay * share * moving).unbind()))
    scaled = torch._foreach_mul(gradients, list(share.where(moving, 1.0).unbind()))
    torch._foreach_add_(updates, scaled)
    return list(updates)


def build_optimizer(
    chosen: training.Optimizer,
    network: nn.Module,
    parts: nn.Module,
    fixed: Iterable[nn.Parameter] = (),
) -> torch.optim.Optimizer:
    """The optimizer over all parameters that are trained; `set_learning_rate` gives it its rates.

    Args:
        parts: the method's own modules.
        fixed: parameters whose rate stays at the peak (SimSiam's predictor).
    """
    ratio = chosen.bias_lr_ratio if isinstance(chosen, training.LARS) else 1.0
    at_peak = {id(parameter) for parameter in fixed}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in itertools.chain(network.parameters(), parts.parameters()):
        if parameter.requires_grad:
            scale = ratio if parameter.ndim <= 1 else 1.0
            groups.setdefault((scale, id(parameter) in at_peak), []).append(parameter)
    listed = [
        {"params": parameters, "lr_scale": scale, "fixed": stays}
        for (scale, stays), parameters in groups.items()
    ]
    decay = chosen.weight_decay
    # One kernel for all parameters; torch's meta device, on which bytes are counted, has none.
    fused = next(network.parameters()).device.type != "meta"
    match chosen:
        case training.Adam():
            return torch.optim.Adam(listed, lr=0.0, weight_decay=decay, fused=fused)
        case training.SGD():
            return torch.optim.SGD(listed, 0.0, chosen.momentum, weight_decay=decay, fused=fused)
        case training.LARS():
            eta = chosen.trust_coefficient
            return LARS(listed, 0.0, decay, chosen.momentum, eta, chosen.clipped)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float, peak: float) -> None:
    """Gives each group its multiple of `rate`, or of `peak` where its rate is constant."""
    for group in optimizer.param_groups:
        group["lr"] = group["lr_scale"] * (peak if group["fixed"] else rate)
