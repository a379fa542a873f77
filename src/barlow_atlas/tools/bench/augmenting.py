"""Views of batches: ours on whole batches, the plain way image by image in workers."""

import os
from collections.abc import Iterator
from functools import partial

import torch

from barlow_atlas.nn import views
from barlow_atlas.nn.randomness import generator
from barlow_atlas.tools.bench.apart import Apart
from barlow_atlas.tools.bench.baseline import WORKERS, PlainViews
from barlow_atlas.tools.bench.images import cifar10, noise
from barlow_atlas.tools.bench.records import Record, faster
from barlow_atlas.tools.bench.timing import clocks_by_turns, cores, on_cores, seconds


def records(
    device: torch.device, batch_size: int = 256, batches: int = 8, rounds: int = 5
) -> Iterator[Record]:
    """Seconds of two views of each image of some batches of CIFAR-10's size.

    The third view of Mixed Barlow Twins is a sum of the two on both sides, and left out.
    """
    run = cifar10("mix", batch_size=batch_size)
    images = noise(batches * batch_size, 32)
    pixels = torch.from_numpy(images).to(device)

    def ours() -> None:
        for step, batch in enumerate(pixels.chunk(batches)):
            for name, view in (("a", run.recipe.view_a), ("b", run.recipe.view_b)):
                parameters = views.draw(view, batch_size, 32, 32, generator(0, name, step))
                views.apply(batch, parameters, view, 32, run.recipe.mean, run.recipe.std)

    for name, on in (("one core", 1), ("all cores", len(os.sched_getaffinity(0)))):
        with on_cores(on), Apart(partial(PlainViews, run, images, device)) as plain:
            clocks = (partial(seconds, ours, device), partial(plain.call, "take", batches))
            times = clocks_by_turns(clocks, rounds)
            about = (
                f"2 views of {batches} batches of {batch_size} images of 32 x 32, recipe "
                f"mix-cifar, {cores()}; yardstick: torchvision's transforms of PIL images in a "
                f"DataLoader with {WORKERS}"
            )
        yield faster(f"views/cifar10, {name}", times, about, target=10)
