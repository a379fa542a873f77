"""Training end to end: against the plain rival, against ceilings, and split into phases."""

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn.functional import conv2d
from torch.utils.flop_counter import FlopCounterMode

from barlow_atlas.data.batches import images_for
from barlow_atlas.data.image_set import ImageSet
from barlow_atlas.study.models import Run
from barlow_atlas.tools.bench.apart import Apart
from barlow_atlas.tools.bench.baseline import WORKERS, Rival
from barlow_atlas.tools.bench.images import DEMO_IMAGES, cifar10, comparison, demo, digits, noise
from barlow_atlas.tools.bench.records import Record, alone, beside, more, not_measured
from barlow_atlas.tools.bench.timing import (
    PHASES,
    by_turns,
    clocks_by_turns,
    cores,
    on_cores,
    phases,
    seconds,
    taking,
)
from barlow_atlas.training.loop import Progress, State, initial_state, train

CIFAR10_IMAGES = 50_000
NO_GPU = "no GPU here"


def trained(run: Run, images: np.ndarray, device: torch.device) -> tuple[State, Iterator[Progress]]:
    """A fresh state and the endless steps of its training, from images uint8 (n, 3, H, W)."""
    state = initial_state(run, device)
    source = images_for(ImageSet(((images, np.arange(len(images))),)), device)
    return state, train(run, state, source, until=sys.maxsize)


def passes(run: Run) -> int:
    """Views a step sends through the network."""
    return 3 if run.settings.objective == "mixed_barlow_twins" else 2


def network_alone(run: Run, device: torch.device) -> Iterator[None]:
    """Forward and backward passes of the run's network on resident random batches, one a view.

    The ceiling of a training step: no views drawn, no objective, no optimizer.
    """
    network = initial_state(run, device).network.train()
    shape = (run.batch_size, 3, run.image_size, run.image_size)
    views = [torch.randn(shape, device=device) for _ in range(passes(run))]
    gradient = torch.randn(run.batch_size, run.embedding_dim, device=device)
    while True:
        if run.compiled:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        embeddings = network.each(*views)
        network.zero_grad()
        torch.autograd.backward(embeddings, [gradient] * len(views))
        yield


def convolution(device: torch.device) -> tuple[Callable[[], object], float]:
    """A convolution with its gradients, of a shape that suits any machine, and its FLOPs."""
    n, channels, side = 64, 128, 16
    x = torch.randn(n, channels, side, side, device=device)
    w = torch.randn(channels, channels, 3, 3, device=device)
    x, w = (each.to(memory_format=torch.channels_last).requires_grad_() for each in (x, w))
    gradient = torch.randn_like(x)

    def once() -> object:
        return torch.autograd.grad(conv2d(x, w, padding=1), (x, w), gradient)

    return once, 3 * 2.0 * n * side**2 * 9 * channels**2


def against_plain(
    name: str,
    run: Run,
    images: np.ndarray,
    device: torch.device,
    on: int,
    rounds: int,
    target: float,
) -> Iterator[Record]:
    """Epochs of a run by turns: ours, the plain rival's, the network alone; then the phases.

    Args:
        on: how many cores each has.
    """
    steps = len(images) // run.batch_size
    with on_cores(on), Apart(partial(Rival, run, images, device)) as rival:
        endless = [trained(run, images, device)[1], network_alone(run, device)]
        if device.type == "cuda":  # AVX2, which steps on a CPU use, knows no bfloat16
            in_bfloat16 = run.model_copy(update={"precision": "bfloat16"})
            endless.append(trained(in_bfloat16, images, device)[1])
        clocks = [partial(seconds, taking(each, steps), device) for each in endless]
        clocks.insert(1, partial(rival.call, "take", steps))
        times = clocks_by_turns(clocks, rounds)
        # A compiled network has no hooks to watch.
        state, eager = trained(run.model_copy(update={"compiled": False}), images, device)
        split = [
            phases(eager, state.network, state.optimizer, device, steps),
            rival.call("phases", steps),
        ]
        taken = cores()
    speed, plain, ceiling, *in_bfloat16_too = (steps * run.batch_size / each for each in times)
    about = (
        f"{run.method}, {run.backbone.name}, {run.image_size} x {run.image_size}, "
        f"N={run.batch_size}, d={run.embedding_dim}, {run.precision}, epochs of {steps} steps, "
        f"{taken}"
    )
    yardstick = f"yardstick: the plain rival in a process of its own, with {WORKERS}"
    yield more(f"{name}/training", "images/s", (speed, plain), f"{about}; {yardstick}", target)
    for speed_in_bfloat16 in in_bfloat16_too:
        yield more(
            f"{name}/training in bfloat16",
            "images/s",
            (speed_in_bfloat16, plain),
            f"{about}, but ours with `precision: bfloat16`; {yardstick}",
        )
    yield more(
        f"{name}/beside the network alone",
        "images/s",
        (speed, ceiling),
        f"{about}; yardstick: forward and backward passes of the same network on a resident batch",
        0.8 if device.type == "cuda" else None,
    )
    for phase in PHASES:
        both = [1000 * each[phase] for each in split]
        yield beside(f"{name}/{phase}", "ms/step", both, f"{about}, not compiled; {yardstick}")


def demo_records(
    device: torch.device, images: int = DEMO_IMAGES, rounds: int = 9
) -> Iterator[Record]:
    """The demo's training of BT and MIX, on as many cores as its study has threads."""
    shown = digits()[0][:images]
    for method in ("bt", "mix"):
        run = demo(method)
        yield from against_plain(
            f"demo/{method}", run, shown, device, run.threads, rounds, target=3
        )


def resnet18_records(device: torch.device, rounds: int = 2, **changes: Any) -> Iterator[Record]:
    """ResNet-18 trained by MIX on images of CIFAR-10's size, on all cores."""
    every_core = len(os.sched_getaffinity(0))
    gpu = device.type == "cuda"
    run = cifar10("mix", **changes)
    steps = 40 if gpu else 1
    images = noise(steps * run.batch_size, run.image_size)
    target = 6 if gpu else 1.2
    compared = against_plain("resnet18", run, images, device, every_core, rounds, target)
    training = next(compared)
    speed = training.ours
    assert speed is not None
    yield training
    yield from compared
    once, flops = convolution(device)
    with on_cores(every_core):
        (spent,) = by_turns((once,), device, 5)
        taken = cores()
    _, step = trained(run, images, device)
    with FlopCounterMode(display=False) as counted:
        next(step)
    used = counted.get_total_flops() / run.batch_size * speed
    yield more(
        "resnet18/arithmetic",
        "GFLOP/s",
        (used / 1e9, flops / spent / 1e9),
        f"convolutions and matrix products of a step over its whole time, {taken}; yardstick: one "
        "convolution of 128 channels with its gradients",
    )
    if gpu:
        minutes = 1000 * CIFAR10_IMAGES / speed / 60
        told = f"1000 epochs of {CIFAR10_IMAGES} images at the images/s above"
        yield alone("resnet18/1000 epochs", "min", minutes, told, at_most=90)
    else:
        yield not_measured("resnet18/training on a GPU", "images/s", 6, NO_GPU)
        yield not_measured("resnet18/beside the network alone on a GPU", "images/s", 0.8, NO_GPU)
        yield not_measured("resnet18/1000 epochs on one H200", "min", 90, NO_GPU)


def methods_records(
    device: torch.device, images: int = DEMO_IMAGES, rounds: int = 5
) -> Iterator[Record]:
    """Every method of the comparison, with the demo's images and network."""
    shown = digits()[0][:images]
    base = demo("bt")
    torch.set_num_threads(base.threads)
    steps = len(shown) // base.batch_size
    for method in comparison():
        run = base.model_copy(
            update={
                "method": method.method,
                "settings": method.settings,
                "optimizer": method.optimizer,
                "schedule": method.schedule,
                "epochs": method.epochs,
                "embedding_dim": min(method.embedding_dim, base.embedding_dim),
            }
        )
        state, ours = trained(run, shown, device)
        contestants = [taking(each, steps) for each in (ours, network_alone(run, device))]
        times = by_turns(contestants, device, rounds)
        split = phases(ours, state.network, state.optimizer, device, steps)
        yield more(
            f"methods/{run.method}",
            "images/s",
            [steps * run.batch_size / spent for spent in times],
            f"the demo's images and network, N={run.batch_size}, at most {base.embedding_dim} "
            f"dimensions, {cores()}; yardstick: forward and backward passes of its views alone",
        )
        for phase in PHASES:
            told = "of the same; what a method computes beside its network counts as its objective"
            yield alone(f"methods/{run.method}: {phase}", "ms/step", 1000 * split[phase], told)
