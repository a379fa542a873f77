"""Peak memory of training, against a bound that is counted and not measured."""

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from barlow_atlas.study.models import Run
from barlow_atlas.tools.bench.images import cifar10, demo
from barlow_atlas.tools.bench.records import Record, fewer
from barlow_atlas.tools.bench.timing import peak_memory
from barlow_atlas.tools.costs import MEGABYTE, footprint, training

TEMPORARIES = 3
"""How many of the largest tensor may be there besides what is kept: an operation's gradient in
and out, and the one that it is added to or brought into another layout."""


class _Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the bytes of the largest tensor that an operation gives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        leaves = (leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        self.bytes = max(self.bytes, *(leaf.untyped_storage().nbytes() for leaf in leaves), 0)
        return result


def peak_and_bound(run: Run, device: torch.device) -> tuple[int, int]:
    """Bytes that training on 8 batches takes at most, from nothing through two steps, and may take.

    The bound: images, weights with optimizer state, gradients, the activations kept for the
    backward pass, and `TEMPORARIES` of a step's largest tensor.
    """
    largest = _Largest()

    def two_steps() -> object:
        state, steps = training(run, run.image_size, device)
        with largest:
            next(steps)
        next(steps)
        return state

    peak = peak_memory(two_steps, device)
    counted = footprint(run, run.image_size)
    images = 8 * run.batch_size * 3 * run.image_size**2
    kept = images + counted.state + counted.weights + counted.activations
    return peak, kept + TEMPORARIES * largest.bytes


def records(device: torch.device) -> Iterator[Record]:
    """The demo's runs and ResNet-18 on images of CIFAR-10's size."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    for name, run in (
        ("demo bt", demo("bt")),
        ("demo mix", demo("mix")),
        ("resnet18 mix N=64", cifar10("mix", batch_size=64)),
    ):
        yield record(f"memory/{name}", run, device)


def record(name: str, run: Run, device: torch.device) -> Record:
    """Two steps of one run."""
    return fewer(
        name,
        "MB",
        [value / MEGABYTE for value in peak_and_bound(run, device)],
        "peak of two steps; yardstick: the bound images + weights and optimizer + gradients + "
        f"activations kept for the backward pass + {TEMPORARIES} times the largest tensor",
        target=1,
    )
