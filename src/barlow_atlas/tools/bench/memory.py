"""Peak memory of training, against a bound that is counted and not measured."""

import os
from collections.abc import Iterator

import torch

from barlow_atlas.study.models import Run
from barlow_atlas.tools.bench.images import cifar10, demo
from barlow_atlas.tools.bench.records import Record, fewer
from barlow_atlas.tools.bench.timing import peak_memory
from barlow_atlas.tools.costs import MEGABYTE
from barlow_atlas.tools.footprint import footprint, kept_for_backward
from barlow_atlas.tools.measure import training

TEMPORARIES = 3
"""How many of the largest tensor may be there besides what is kept: an operation's gradient in
and out, and the one that it is added to or brought into another layout."""


def peak_and_bound(run: Run, device: torch.device) -> tuple[int, int]:
    """Bytes that training on 8 batches takes at most, from nothing through two steps, and may take.

    The bound: images, weights with optimizer state, gradients, the activations kept for the
    backward pass, and `TEMPORARIES` of the largest tensor.
    """

    def two_steps() -> object:
        state, steps = training(run, run.image_size, device)
        next(steps)
        next(steps)
        return state

    peak = peak_memory(two_steps, device)
    state, steps = training(run, run.image_size, device)
    next(steps)
    activations = kept_for_backward(state, lambda: next(steps))
    gradients = [parameter.nbytes for parameter in state.network.parameters()]
    images = 8 * run.batch_size * 3 * run.image_size**2
    kept = images + footprint(run).state + footprint(run).weights + sum(activations)
    return peak, kept + TEMPORARIES * max(*activations, *gradients)


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
