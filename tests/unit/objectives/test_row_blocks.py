"""One process' share of the objectives: what it holds, and that it never holds d x d numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, distributed
from torch.utils._python_dispatch import TorchDispatchMode

from barlow_atlas.nn import processes
from barlow_atlas.objectives.barlow_twins import BarlowTwins
from barlow_atlas.objectives.mixed_barlow_twins import MixedBarlowTwins
from barlow_atlas.tools.bench.timing import peak_memory

N, D = 128, 1024
"""An eighth of 1024 x 8192: the same shares in units of N d."""
CPU = torch.device("cpu")


@pytest.fixture
def shared_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """This process is one of several, whose rows are all like its own."""
    count: int = request.param

    def all_gather(found: list[Tensor], x: Tensor) -> None:
        for rows in found:
            rows.copy_(x)

    def unanswered(*_: Any, **__: Any) -> None:
        pass

    monkeypatch.setattr(processes, "count", lambda: count)
    monkeypatch.setattr(distributed, "all_gather", all_gather)
    monkeypatch.setattr(distributed, "all_to_all_single", lambda out, x, *_: out.copy_(x))
    monkeypatch.setattr(distributed, "all_reduce", unanswered)
    monkeypatch.setattr(distributed, "broadcast", unanswered)
    return count


def own_embeddings(count: int) -> list[Tensor]:
    draws = torch.Generator().manual_seed(0)
    return [torch.randn(N // count, D, generator=draws, requires_grad=True) for _ in range(3)]


def mixed(z_a: Tensor, z_b: Tensor, z_m: Tensor) -> Tensor:
    method = MixedBarlowTwins(
        objective="mixed_barlow_twins",
        lambda_bt=0.005,
        lambda_reg=1.0,
        l2_normalise=False,
        convention="imagenet",
    )
    # Each process asks itself for its own rows, in another order.
    n = len(z_a)
    partner = torch.cat([torch.arange(n).roll(1) + first for first in range(0, N, n)])
    a, b, m = (method.prepare(z) for z in (z_a, z_b, z_m))
    return method.mixed_terms(a, b, m, 0.3, partner)["loss"]


def twins(z_a: Tensor, z_b: Tensor, _: Tensor) -> Tensor:
    method = BarlowTwins(objective="barlow_twins", lambda_bt=0.005, l2_normalise=False)
    return method.twin_terms(method.prepare(z_a), method.prepare(z_b))["loss"]


@pytest.mark.parametrize(("shared_by", "bound"), [(1, 13), (8, 7)], indirect=["shared_by"])
def test_memory_of_the_mixing_objective(shared_by: int, bound: float) -> None:
    z = own_embeddings(shared_by)

    def step() -> tuple[Tensor, ...]:
        return torch.autograd.grad(mixed(*z), z)

    step()
    assert peak_memory(step, CPU) <= bound * N * D * 4


class Largest(TorchDispatchMode):
    """Notes the most elements that a tensor had which an operation made."""

    elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, math.prod(tensor.shape))
        return made


@pytest.mark.parametrize("objective", [mixed, twins])
@pytest.mark.parametrize("shared_by", [1, 8], indirect=True)
def test_no_d_by_d_matrix(objective: Any, shared_by: int) -> None:
    with Largest() as largest:
        objective(*own_embeddings(shared_by)).backward()
    assert largest.elements == N * D < D * D
