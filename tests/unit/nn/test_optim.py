"""Rates that no golden file has, and what the optimizers make of the parameters."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from barlow_atlas.nn.optim import (
    LARS,
    build_optimizer,
    cooldown,
    learning_rate,
    peak_rate,
    set_learning_rate,
    warmup,
    warmup_cosine,
)
from barlow_atlas.settings import training as settings

TRUNK = settings.Trunk(name="trunk", base_lr=0.02, warmup_epochs=4, cooldown_epochs=5)


def trunk_rate(epoch: int, step: int = 0, cooldown_from: int | None = None) -> float:
    run = SimpleNamespace(schedule=TRUNK, batch_size=512, epochs=None)
    return learning_rate(run, epoch, step, 10, cooldown_from)


def test_a_trunk_rises_and_then_stays() -> None:
    assert trunk_rate(0) == 0
    assert trunk_rate(1, 5) == pytest.approx(0.04 * 1.5 / 4)
    assert trunk_rate(4) == trunk_rate(10_000, 9) == 0.04


def test_a_branch_begins_at_the_trunks_rate_and_falls_on_a_line() -> None:
    assert trunk_rate(20, 0, cooldown_from=20) == trunk_rate(20)
    assert trunk_rate(22, 5, cooldown_from=20) == pytest.approx(0.04 * (1 + 0.001) / 2)
    assert trunk_rate(25, 0, cooldown_from=20) == pytest.approx(0.04 * 0.001)
    assert trunk_rate(26, 0, cooldown_from=20) == pytest.approx(0.04 * 0.001)


def test_a_branch_within_the_warm_up_begins_at_the_rate_reached() -> None:
    assert trunk_rate(2, 0, cooldown_from=2) == pytest.approx(trunk_rate(2))
    assert trunk_rate(3, 0, cooldown_from=2) < trunk_rate(2)


def test_no_warm_up_starts_at_the_peak() -> None:
    assert warmup(0, 0) == warmup_cosine(0, 0, 10) == 1
    assert warmup_cosine(10, 0, 10) == pytest.approx(0.001)
    assert cooldown(0, 3) == 1


def test_solo_learns_rate_rises_to_the_last_step_of_the_warm_up_and_ends_at_zero() -> None:
    """LinearWarmupCosineAnnealingLR of lightning-bolts, stepped at every batch."""
    schedule = settings.StepCosine(name="step_cosine", base_lr=0.4, warmup_epochs=2, start_lr=3e-5)
    run = SimpleNamespace(schedule=schedule, batch_size=256, epochs=10)
    rates = [learning_rate(run, epoch, step, 5) for epoch in range(10) for step in range(5)]
    rising = [3e-5 + step * (0.4 - 3e-5) / 9 for step in range(10)]
    falling = [0.2 * (1 + math.cos(math.pi * step / 40)) for step in range(40)]
    assert rates == pytest.approx(rising + falling)


@pytest.mark.parametrize(
    ("schedule", "peak"),
    [
        (settings.MixCosine(name="mix_cosine", base_lr=0.3), 0.6),
        (settings.BTCosine(name="bt_cosine", base_lr=0.3), 0.6),
        (settings.StepCosine(name="step_cosine", base_lr=0.3), 0.6),
        (TRUNK, 0.04),
        (settings.EpochCosine(name="epoch_cosine", base_lr=0.3), 0.3),
        (settings.Drops(name="drops", base_lr=0.3, factor=0.1, at=(-5,)), 0.3),
    ],
)
def test_the_peak_is_the_largest_rate(schedule: settings.Schedule, peak: float) -> None:
    run = SimpleNamespace(schedule=schedule, batch_size=512, epochs=40)
    rates = [learning_rate(run, epoch, step, 5) for epoch in range(40) for step in range(5)]
    assert peak_rate(run) == pytest.approx(peak)
    assert max(rates) == pytest.approx(peak, rel=1e-3)


# A network, and a method's parts: a predictor that is trained, a target that is not.
NETWORK = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
PREDICTOR, TARGET = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)
PARTS = nn.ModuleList([PREDICTOR, TARGET])
ADAM = settings.Adam(name="adam", weight_decay=0.1)
SGD = settings.SGD(name="sgd", weight_decay=0.1, momentum=0.5)
LARS_SETTINGS = settings.LARS(name="lars", weight_decay=0.1, bias_lr_ratio=0.024)


@pytest.mark.parametrize("chosen", [ADAM, SGD, LARS_SETTINGS], ids=lambda chosen: chosen.name)
def test_every_trained_parameter_gets_its_rate(chosen: settings.Optimizer) -> None:
    optimizer = build_optimizer(chosen, NETWORK, PARTS, PREDICTOR.parameters())
    set_learning_rate(optimizer, rate=1.0, peak=10.0)
    rates = {
        parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]
    }
    for module, rate in ((NETWORK, 1.0), (PREDICTOR, 10.0)):
        for parameter in module.parameters():
            scale = 0.024 if chosen.name == "lars" and parameter.ndim == 1 else 1.0
            assert rates.pop(parameter) == pytest.approx(rate * scale)
    assert not rates, "a parameter without a gradient is not optimized"


def test_the_optimizers_are_those_that_were_asked_for() -> None:
    for chosen, kind in ((ADAM, torch.optim.Adam), (SGD, torch.optim.SGD), (LARS_SETTINGS, LARS)):
        optimizer = build_optimizer(chosen, NETWORK, PARTS)
        assert type(optimizer) is kind
        assert {group["weight_decay"] for group in optimizer.param_groups} == {0.1}
    assert build_optimizer(SGD, NETWORK, PARTS).param_groups[0]["momentum"] == 0.5
    assert len(build_optimizer(ADAM, NETWORK, PARTS).param_groups) == 1


def lars(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = build_optimizer(LARS_SETTINGS, model, nn.Module())
    set_learning_rate(optimizer, 0.5, 0.5)
    return optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: torch.Tensor) -> None:
    optimizer.zero_grad()
    model(inputs).square().sum().backward()
    optimizer.step()


def test_lars_goes_on_from_its_state_to_the_bit() -> None:
    torch.manual_seed(0)
    batches = torch.randn(4, 8, 3)
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer = lars(model)
    for inputs in batches[:2]:
        step(model, optimizer, inputs)
    other.load_state_dict(model.state_dict())
    resumed = lars(other)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for inputs in batches[2:]:
        step(model, optimizer, inputs)
        step(other, resumed, inputs)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def plain_clipped_lars(
    weight: torch.Tensor, gradients: list[torch.Tensor], rate: float
) -> torch.Tensor:
    """solo-learn's LARS of one weight, written out: decay 0.1, eta 0.02, momentum 0.9."""
    momentum = torch.zeros_like(weight)
    for gradient in gradients:
        length, slope = weight.norm().item(), gradient.norm().item()
        update = gradient
        if length and slope:
            adapted = 0.02 * length / (slope + 0.1 * length + 1e-8)
            update = (gradient + 0.1 * weight) * min(adapted / rate, 1)
        momentum = 0.9 * momentum + update
        weight = weight - rate * momentum
    return weight


@pytest.mark.parametrize(
    ("rate", "scale"),
    [(0.5, 1.0), (1e-4, 1.0), (0.5, 0.0), (0.5, 1e-6)],
    ids=["adapted", "clipped", "no gradient", "tiny gradient"],
)
def test_clipped_lars_is_the_written_out_one(rate: float, scale: float) -> None:
    draws = torch.Generator().manual_seed(1)
    some, zero = nn.Linear(4, 3).double(), nn.Linear(2, 2).double()
    nn.init.zeros_(zero.weight)
    chosen = settings.LARS(
        name="lars", weight_decay=0.1, trust_coefficient=0.02, bias_lr_ratio=1.0, clipped=True
    )
    modules = nn.ModuleList([some, zero])
    optimizer = build_optimizer(chosen, modules, nn.Module())
    set_learning_rate(optimizer, rate, rate)
    starts = {name: each.detach().clone() for name, each in modules.named_parameters()}
    given: dict[str, list[torch.Tensor]] = {name: [] for name in starts}
    for _ in range(3):
        for name, each in modules.named_parameters():
            each.grad = scale * torch.randn(each.shape, generator=draws, dtype=torch.float64)
            given[name].append(each.grad.clone())
        optimizer.step()
    for name, each in modules.named_parameters():
        expected = (
            plain_clipped_lars(starts[name], given[name], rate)
            if each.ndim > 1
            else plain_sgd(starts[name], given[name], rate)
        )
        torch.testing.assert_close(each.detach(), expected, rtol=1e-12, atol=1e-14)


def plain_sgd(parameter: torch.Tensor, gradients: list[torch.Tensor], rate: float) -> torch.Tensor:
    momentum = torch.zeros_like(parameter)
    for gradient in gradients:
        momentum = 0.9 * momentum + gradient
        parameter = parameter - rate * momentum
    return parameter


def test_lars_leaves_a_parameter_without_a_gradient_alone() -> None:
    model = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(3, 2)})
    before = model["unused"].weight.clone()
    step(model["used"], lars(model), torch.ones(1, 3))
    assert torch.equal(model["unused"].weight, before)


def test_lars_step_length_does_not_depend_on_the_loss_scale() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 4)
    moved = []
    for scale in (1.0, 1e4):
        parameter = nn.Parameter(weight.clone())
        optimizer = LARS([parameter], lr=1.0, weight_decay=0.0)
        (scale * parameter.square().sum()).backward()
        optimizer.step()
        moved.append(parameter.detach())
    torch.testing.assert_close(*moved)
    length = (moved[0] - weight).norm().item()
    assert length == pytest.approx(0.001 * weight.norm().item(), rel=1e-3)
