"""The objectives alone: terms and gradients, against explicit d x d matrices."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from barlow_atlas.nn.randomness import generator
from barlow_atlas.objectives.barlow_twins import BarlowTwins
from barlow_atlas.objectives.base import Moment
from barlow_atlas.objectives.mixed_barlow_twins import MixedBarlowTwins
from barlow_atlas.tools.bench import baseline
from barlow_atlas.tools.bench.images import cifar10
from barlow_atlas.tools.bench.records import Record, faster, fewer
from barlow_atlas.tools.bench.timing import by_turns, cores, peak_memory
from barlow_atlas.tools.costs import MEGABYTE

TARGETS = {1024: 5.0, 8192: 15.0}
"""For widths d of the embeddings: how many times faster than with d x d matrices."""


class Given(nn.Module):
    """A network that has already computed the embeddings of the views, in the order of calls."""

    def __init__(self, embeddings: Sequence[Tensor]) -> None:
        super().__init__()
        self.embeddings = list(embeddings)

    def forward(self, view: Tensor) -> Tensor:
        return self.embeddings.pop(0)

    def own_rows_of_each(self, *views: Tensor) -> tuple[Tensor, ...]:
        return tuple(self(view) for view in views)


def contestants(
    settings: BarlowTwins, n: int, d: int, device: torch.device
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Our and the explicit loss with its gradients, of the same N embeddings of d dimensions.

    Both return the loss and the gradients (views, N, d), behind one another in one vector.
    """
    draws = generator(0, "bench")
    embeddings = torch.randn(3, n, d, generator=draws).to(device)
    view = torch.zeros(n, 1, device=device)

    def moment() -> Moment:
        return Moment(0, 0, 1, 1, generator(0, "method"))

    def leaves() -> list[Tensor]:
        count = 3 if isinstance(settings, MixedBarlowTwins) else 2
        return [z.clone().requires_grad_() for z in embeddings[:count]]

    def finished(loss: Tensor, of: list[Tensor]) -> Tensor:
        gradients = torch.autograd.grad(loss, of)
        return torch.cat([loss.detach()[None], *(g.flatten() for g in gradients)])

    def ours() -> Tensor:
        given = leaves()
        network: Any = Given(given)
        terms = settings.terms(network, nn.Module(), view, view, moment())
        return finished(terms["loss"], given)

    def explicit() -> Tensor:
        given = leaves()
        z_a, z_b, *rest = (baseline.standardised(z) for z in given)
        if isinstance(settings, MixedBarlowTwins):
            alpha, partner = mixture(n, moment().draws)
            loss = baseline.mixed_loss(settings, z_a, z_b, rest[0], alpha, partner.to(device))
        else:
            loss = baseline.twin_loss(settings, z_a, z_b)
        return finished(loss, given)

    return ours, explicit


def mixture(n: int, draws: torch.Generator) -> tuple[float, Tensor]:
    """The share of view A and the partners (N,) as `MixedBarlowTwins.terms` draws them."""
    alpha = torch.rand((), generator=draws).item()
    return alpha, torch.randperm(n, generator=draws)


def records(
    device: torch.device,
    n: int = 256,
    widths: Sequence[int] = (1024, 8192),
    rounds: int = 3,
) -> Iterator[Record]:
    """Seconds and memory of loss and gradients of MIX and BT, N embeddings of d dimensions."""
    for method in ("mix", "bt"):
        settings = cifar10(method).settings
        assert isinstance(settings, BarlowTwins)
        for d in widths:
            ours, explicit = contestants(settings, n, d, device)
            about = (
                f"loss and gradients of {n} embeddings a view, {cores()}; "
                "yardstick: explicit d x d matrices"
            )
            times = by_turns((ours, explicit), device, rounds)
            yield faster(f"objective/{method} d={d}", times, about, TARGETS.get(d))
            first, second = (peak_memory(each, device) / MEGABYTE for each in (ours, explicit))
            yield fewer(f"objective/{method} d={d} memory", "MB", (first, second), about)
