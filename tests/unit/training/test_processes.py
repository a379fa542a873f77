"""What several processes compute together is what one computes, for every method."""

from __future__ import annotations

import weakref
from functools import cache
from typing import Any

import pytest
import torch
from process_group import by_processes
from torch import Tensor, nn

from barlow_atlas.nn import processes
from barlow_atlas.nn.networks import Network, initialised_from, projector_layers
from barlow_atlas.nn.norms import PerViewBatchNorm2d
from barlow_atlas.nn.randomness import generator
from barlow_atlas.objectives import METHODS
from barlow_atlas.objectives.base import Moment
from barlow_atlas.settings.training import Projector

N = 16
DTYPES = (torch.float64, torch.float32)
SMALL = {"hidden": [8]}
BT: dict[str, Any] = {"lambda_bt": 0.05}
VARIANT = {"objective": "barlow_twins_variant", **BT}
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "bt": (24, {"objective": "barlow_twins", **BT}),
    "bt-narrow": (6, {"objective": "barlow_twins", **BT, "standardisation": "biased"}),
    "bt-imagenet": (
        24,
        {
            "objective": "barlow_twins",
            **BT,
            "l2_normalise": False,
            "standardisation": "batch_norm",
        },
    ),
    "mix": (24, {"objective": "mixed_barlow_twins", **BT, "lambda_reg": 2.0}),
    "mix-narrow": (6, {"objective": "mixed_barlow_twins", **BT, "lambda_reg": 2.0}),
    "mix-imagenet": (
        24,
        {
            "objective": "mixed_barlow_twins",
            **BT,
            "lambda_reg": 1.0,
            "l2_normalise": False,
            "convention": "imagenet",
        },
    ),
    "bt-of-4-ranks": (
        24,
        {
            "objective": "barlow_twins",
            **BT,
            "l2_normalise": False,
            "standardisation": "batch_norm",
            "ranks": 4,
        },
    ),
    "mix-of-4-ranks": (
        24,
        {
            "objective": "mixed_barlow_twins",
            **BT,
            "lambda_reg": 1.0,
            "l2_normalise": False,
            "convention": "imagenet",
            "ranks": 4,
        },
    ),
    "only-invariance": (24, {**VARIANT, "variant": "only_invariance"}),
    "only-redundancy": (24, {**VARIANT, "variant": "only_redundancy"}),
    "feature": (24, {**VARIANT, "variant": "feature_normalisation", "divide_by_n": False}),
    "covariance": (24, {**VARIANT, "variant": "no_normalisation"}),
    "entropy": (6, {**VARIANT, "variant": "cross_entropy", "temperature": 0.2}),
    "auto": (24, {**VARIANT, "variant": "auto_correlation"}),
    "asymmetric": (
        24,
        {
            "objective": "asymmetric_barlow_twins",
            **BT,
            "stop_gradient": True,
            "predictor": SMALL,
        },
    ),
    "simclr": (6, {"objective": "simclr"}),
    "moco": (6, {"objective": "moco_v2", "queue_length": 2 * N}),
    "moco-symmetric": (6, {"objective": "moco_v2", "queue_length": 2 * N, "symmetric": True}),
    "byol": (6, {"objective": "byol", "predictor": SMALL}),
    "simsiam": (6, {"objective": "simsiam", "predictor": SMALL}),
    "swav": (6, {"objective": "swav", "prototypes": 10, "frozen_prototype_steps": 1}),
    "swav-queue": (
        6,
        {
            "objective": "swav",
            "prototypes": 10,
            "queue_length": N,
            "queue_start_epoch": 0,
            "frozen_prototype_steps": 0,
        },
    ),
    "w-mse": (6, {"objective": "w_mse", "sub_batch": 8, "iterations": 2}),
    "vicreg": (24, {"objective": "vicreg"}),
}
"""Every method, with an embedding wider and narrower than the batch where that matters."""
PARTS = 4
LOCAL = {f"{name} in parts": CASES[name] for name in ("mix", "simclr", "swav", "byol", "moco")}
"""One for each way in which views pass, where each quarter of the batch has its own statistics."""


def test_every_method_is_tried() -> None:
    assert {settings["objective"] for _, settings in CASES.values()} == set(METHODS)


def smooth_network(d: int) -> Network:
    """A convolution and a projector; without kinks, on either side of which rounding may fall."""
    with initialised_from(generator(0, "weights")):
        backbone = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2), PerViewBatchNorm2d(4), nn.GELU(), nn.Flatten()
        )
        layers = projector_layers(36, Projector(hidden=(12,)), d)
        smooth = (nn.GELU() if isinstance(layer, nn.ReLU) else layer for layer in layers)
        return Network(backbone, nn.Sequential(*smooth))


def steps_of(
    name: str,
    dtype: torch.dtype,
    steps: int,
    rate: float,
    parts_of_batch: int = 1,
    accumulates: bool = False,
) -> dict[str, Tensor]:
    """Losses, gradients and buffers of steps of a small network on own rows, and its weights."""
    d, given = {**CASES, **LOCAL}[name]
    method = METHODS[given["objective"]].model_validate(given)
    network = smooth_network(d).to(dtype)
    network.take_parts(PARTS if name in LOCAL else parts_of_batch)
    with initialised_from(generator(0, "parts")):
        parts = method.parts(network, d).to(dtype)
    network.accumulates = accumulates
    both = nn.ModuleDict({"network": network, "parts": parts})
    gradients = processes.SummedGradients(both.parameters())
    trained = [parameter for parameter in both.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, rate, momentum=0.9)
    found = {}
    for step in range(steps):
        draws = torch.Generator().manual_seed(step)
        base = torch.randn(N, 3, 8, 8, generator=draws, dtype=torch.float64)
        noise = torch.randn(2, N, 3, 8, 8, generator=draws, dtype=torch.float64)
        views = (base + noise).to(dtype)[:, processes.own_rows(N)]
        moment = Moment(0, step, steps, 2, draws)
        terms = method.terms(network, parts, *views, moment)
        both.zero_grad()
        processes.own_share(terms["loss"]).backward()
        gradients.wait()
        optimizer.step()
        method.after_step(network, parts, moment)
        found |= {f"{step} {term}": value.detach() for term, value in terms.items()}
        found |= {
            f"{step} gradient {key}": parameter.grad.clone()
            for key, parameter in both.named_parameters()
            if parameter.grad is not None
        }
    weights = {f"weight {key}": value.detach() for key, value in both.named_parameters()}
    return found | weights | {f"buffer {key}": value for key, value in both.named_buffers()}


def two_steps(name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """At a rate of 0, so that the second step's gradients differ by one rounding only.

    Parts of the batch are accumulated wherever a process of several has more than one.
    """
    return steps_of(name, dtype, 2, 0.0, accumulates=processes.count() > 1)


def losses(name: str) -> Tensor:
    """Of twenty steps."""
    found = steps_of(name, torch.float32, 20, 0.002)
    return torch.stack([found[f"{step} loss"] for step in range(20)])


def all_of_it() -> tuple[dict[tuple[str, torch.dtype], dict[str, Tensor]], dict[str, Tensor]]:
    steps = {(name, dtype): two_steps(name, dtype) for name in CASES | LOCAL for dtype in DTYPES}
    return steps, {name: losses(name) for name in CASES}


@cache
def found_by(count: int) -> list[Any]:
    return by_processes(count, all_of_it)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES | LOCAL)
def test_losses_gradients_and_statistics(name: str, dtype: torch.dtype, count: int) -> None:
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    # In float32 one process rounds too: what is right is told by float64.
    expected = two_steps(name, torch.float64)
    everyone = [steps[name, dtype] for steps, _ in found_by(count)]
    for key, value in everyone[0].items():
        for other in everyone:
            assert torch.equal(value, other[key]), f"{key}: replicas differ"
    assert everyone[0].keys() == expected.keys()
    steps = {key.split(" ")[0] for key in expected}
    for step in steps:
        own = [key for key in expected if key.startswith(f"{step} gradient")]
        if own:
            right, got = (
                torch.cat([each[key].double().flatten() for key in own])
                for each in (expected, everyone[0])
            )
            assert (got - right).norm() <= tolerance * right.norm()
    for key in expected:
        if "gradient" not in key:
            torch.testing.assert_close(
                everyone[0][key].double(),
                expected[key].double(),
                rtol=tolerance,
                atol=tolerance,
                msg=lambda text, key=key: f"{key}: {text}",
            )


def test_weights_of_virtual_ranks_get_their_share_of_the_gradient() -> None:
    whole, shared = (
        steps_of(name, torch.float64, 1, 0.0) for name in ("bt-imagenet", "bt-of-4-ranks")
    )
    for key, value in whole.items():
        share = 4 if "gradient" in key or key == "0 loss" else 1
        torch.testing.assert_close(shared[key] * share, value)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("name", CASES)
def test_losses_of_twenty_steps(name: str, count: int) -> None:
    for _, curves in found_by(count):
        torch.testing.assert_close(curves[name], losses(name), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_accumulation_changes_nothing(name: str) -> None:
    at_once, accumulated = (
        steps_of(name, torch.float64, 3, 0.002, PARTS, accumulates) for accumulates in (False, True)
    )
    assert at_once.keys() == accumulated.keys()
    for key, value in at_once.items():
        assert (accumulated[key] - value).double().norm() <= 1e-10 * value.double().norm(), key


def test_each_part_has_statistics_of_its_own() -> None:
    network, plain = smooth_network(6), smooth_network(6)
    network.take_parts(PARTS)
    views = torch.randn(2, N, 3, 8, 8)
    passed = network.each(*views)
    stood = {key: value.clone() for key, value in plain.named_buffers()}
    for view, rows in zip(views, passed, strict=True):
        moved = []
        for images, part in zip(view.chunk(PARTS), rows.chunk(PARTS), strict=True):
            plain.load_state_dict(stood, strict=False)
            assert torch.equal(plain(images), part)
            moved.append({key: value.clone() for key, value in plain.named_buffers()})
        stood = {key: torch.stack([one[key].double() for one in moved]).mean(0) for key in stood}
    for key, value in network.named_buffers():
        torch.testing.assert_close(value.double(), stood[key].double(), msg=key)
    assert network.get_buffer("backbone.1.num_batches_tracked") == len(views)
    assert not torch.allclose(plain.train().own_rows(views[0]), passed[0], atol=0.1)


@pytest.mark.parametrize("views", [2, 3])
def test_parts_pass_alike_with_all_views_in_one_batch(views: int) -> None:
    """As on a GPU."""
    one_by_one, at_once = smooth_network(6).double(), smooth_network(6).double()
    for network in (one_by_one, at_once):
        network.take_parts(PARTS)
    at_once.accumulates = True
    images = torch.randn(views, N, 3, 8, 8, dtype=torch.float64)
    expected, given = one_by_one.own_rows_of_each(*images), at_once.in_one_batch(*images)
    for a, b in zip(expected, given, strict=True):
        torch.testing.assert_close(a, b)
    for embeddings in (expected, given):
        torch.stack(embeddings).square().cumsum(1).sum().backward()
    for (key, a), (_, b) in zip(
        one_by_one.named_parameters(), at_once.named_parameters(), strict=True
    ):
        torch.testing.assert_close(a.grad, b.grad, msg=key)
    for (key, a), (_, b) in zip(one_by_one.named_buffers(), at_once.named_buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=key)


@pytest.mark.parametrize("accumulates", [False, True])
def test_the_activations_of_one_part_are_held_at_a_time(accumulates: bool) -> None:
    network = smooth_network(6)
    network.take_parts(PARTS)
    network.accumulates = accumulates
    passed: list[weakref.ref[Tensor]] = []
    held = []

    def note(module: nn.Module, given: Any, result: Tensor) -> None:
        passed.append(weakref.ref(result))
        held.append(sum(one() is not None for one in passed))

    network.backbone[0].register_forward_hook(note)
    z_a, z_b = network.each(*torch.randn(2, N, 3, 8, 8))
    assert len(held) == 2 * PARTS
    (z_a * z_b).sum().backward()
    assert len(held) == (4 if accumulates else 2) * PARTS
    assert max(held) == (1 if accumulates else 2 * PARTS)
