"""Training beside other people's programs: lightly's, and whatever commands the user names.

Each round is ours, then theirs; what is told are medians, and of ratios the median of the rounds'.
Once by the clock on the wall and once by the processors', which other programs disturb less.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from barlow_atlas.objectives.barlow_twins import BarlowTwins
from barlow_atlas.objectives.mixed_barlow_twins import MixedBarlowTwins
from barlow_atlas.settings.augmentation import Augmentation
from barlow_atlas.study.models import Run
from barlow_atlas.tools.bench.apart import Apart
from barlow_atlas.tools.bench.baseline import WORKERS, Rival
from barlow_atlas.tools.bench.images import cifar10, demo, noise
from barlow_atlas.tools.bench.records import BenchError, Record, of_rounds
from barlow_atlas.tools.bench.timing import cores, on_cores, seconds, taking
from barlow_atlas.tools.bench.training import trained

Turn = Callable[[], tuple[int, float, float | None]]
"""Trains for a while, and returns images, seconds, and processor seconds where they are known."""


class Lightly(Rival):
    """Barlow Twins as lightly's users write it: its views, in a DataLoader, and its loss.

    Network, projector, optimizer and rates are those of the run.

    Raises:
        BenchError: lightly is not installed, or has no words for the run.
    """

    def __init__(self, run: Run, images: np.ndarray, device: torch.device) -> None:
        try:
            from lightly.loss import BarlowTwinsLoss
        except ImportError as error:
            raise BenchError(
                "lightly is not installed, and is what is to be measured: python -m pip install "
                "'lightly>=1.6,<2'"
            ) from error
        settings = run.settings
        if not isinstance(settings, BarlowTwins) or isinstance(settings, MixedBarlowTwins):
            raise BenchError(f"lightly has Barlow Twins, and not {settings.objective}")
        super().__init__(run, images, device)
        pairs: Any = self.loader.dataset
        pairs.transforms = [
            lightly_view(view, run) for view in (run.recipe.view_a, run.recipe.view_b)
        ]
        self.criterion: Any = BarlowTwinsLoss(lambda_param=settings.lambda_bt)

    def _loss(self, view_a: Tensor, view_b: Tensor) -> Tensor:
        loss: Tensor = self.criterion(self.network(view_a), self.network(view_b))
        return loss


def lightly_view(view: Augmentation, run: Run) -> Any:
    """lightly's transform of one PIL image, with the view's settings.

    Raises:
        BenchError: settings that it has not.
    """
    from lightly.transforms.simclr_transform import SimCLRViewTransform

    known = Augmentation(
        **view.model_dump(include={"crop_scale", "flip_p", "jitter_p", "grayscale_p"}),
        **view.model_dump(include={"brightness", "contrast", "saturation", "hue"}),
    )
    if view != known.model_copy(update={"crop_scale": (view.crop_scale[0], 1.0)}):
        raise BenchError(f"lightly's transform cannot express {view}")
    return SimCLRViewTransform(
        input_size=run.image_size,
        cj_prob=view.jitter_p,
        cj_bright=view.brightness,
        cj_contrast=view.contrast,
        cj_sat=view.saturation,
        cj_hue=view.hue,
        min_scale=view.crop_scale[0],
        random_gray_scale=view.grayscale_p,
        gaussian_blur=0.0,
        hf_prob=view.flip_p,
        normalize={"mean": list(run.recipe.mean), "std": list(run.recipe.std)},
    )


def records(
    device: torch.device,
    commands: Mapping[str, str] | None = None,
    runs: Mapping[str, tuple[Run, int]] | None = None,
    rounds: int = 5,
) -> Iterator[Record]:
    """Training beside lightly and each command, one core for each on a CPU.

    Args:
        commands: programs by the names they are to have; what they find and what they print is
            told in docs/costs.md.
        runs: what is trained by name, and how many steps at a turn.
    """
    for name, (run, steps) in (runs or _runs(device)).items():
        images = noise(steps * run.batch_size, run.image_size)
        with ExitStack() as stack:
            if device.type == "cpu":
                stack.enter_context(on_cores(1))
            taken = cores()
            ours = partial(_own_turn, trained(run, images, device)[1], run, steps, device)
            lightly = stack.enter_context(Apart(partial(Lightly, run, images, device)))
            theirs: dict[str, Turn] = {"lightly": partial(_apart, lightly, run, steps)}
            for label, command in (commands or {}).items():
                theirs[label] = partial(_commanded, label, command, run, steps, device)
            measured = by_rounds([ours, *theirs.values()], rounds)
        about = (
            f"{run.method}, {run.backbone.name}, {run.image_size} x {run.image_size}, "
            f"N={run.batch_size}, d={run.embedding_dim}, {steps} steps a turn, {taken}, medians of "
            f"{rounds} rounds"
        )
        for place, label in enumerate(theirs, start=1):
            pairs = [(turns[0], turns[place]) for turns in measured]
            yield from _compared(
                f"rivals/{name} beside {label}", pairs, f"{about}; {_about(label)}"
            )


def _runs(device: torch.device) -> dict[str, tuple[Run, int]]:
    """The shapes for which users of both would look: small ones, and a ResNet-18 on CIFAR-10."""
    small = cifar10("bt", image_size=16, backbone=demo("bt").backbone)
    gpu = device.type == "cuda"
    return {"small bt": (small, 40 if gpu else 4), "resnet18 bt": (cifar10("bt"), 40 if gpu else 1)}


def by_rounds(turns: Sequence[Turn], rounds: int) -> list[list[tuple[int, float, float | None]]]:
    """What each turn returned, by rounds; one round before is not counted."""
    for turn in turns:
        turn()
    return [[turn() for turn in turns] for _ in range(rounds)]


def _own_turn(
    endless: Iterator[object], run: Run, steps: int, device: torch.device
) -> tuple[int, float, float]:
    before = time.process_time()
    spent = seconds(taking(endless, steps), device)
    return steps * run.batch_size, spent, time.process_time() - before


def _apart(contestant: Apart, run: Run, steps: int) -> tuple[int, float, float]:
    before = contestant.processor_seconds()
    spent = contestant.call("take", steps)
    return steps * run.batch_size, spent, contestant.processor_seconds() - before


def _commanded(
    label: str, command: str, run: Run, steps: int, device: torch.device
) -> tuple[int, float, float | None]:
    """Two numbers, or three, of a command's last line.

    Raises:
        BenchError: the command failed, or its last line is another.
    """
    wanted = {
        "STEPS": steps,
        "BATCH": run.batch_size,
        "SIZE": run.image_size,
        "DIMENSIONS": run.embedding_dim,
        "NETWORK": run.backbone.name,
        "DEVICE": device,
        "THREADS": torch.get_num_threads(),
    }
    told = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, **{f"BENCH_{name}": str(value) for name, value in wanted.items()}},
        capture_output=True,
        text=True,
        check=False,
    )
    last = told.stdout.strip().rpartition("\n")[2]
    try:
        images, spent, *processors = map(float, last.split())
        positive = min(images, spent, *processors) > 0 and len(processors) < 2
    except ValueError:
        positive = False
    if told.returncode or not positive:
        raise BenchError(
            f"the rival {label}, `{command}`, ended with status {told.returncode} and the last "
            f"line {last!r}. Expected: status 0, and a last line of images, seconds and, if you "
            f"like, processor seconds, such as `1024 2.5 2.4`. It said: {told.stderr[-1000:]}"
        )
    return int(images), spent, processors[0] if processors else None


def _about(label: str) -> str:
    if label != "lightly":
        return f"yardstick: the user's command `{label}`"
    from importlib.metadata import version

    return (
        f"yardstick: lightly {version('lightly')} in a process of its own: its views of PIL images "
        f"in a DataLoader with {WORKERS}, its loss, the same network"
    )


def _compared(
    name: str,
    pairs: Sequence[Sequence[tuple[int, float, float | None]]],
    about: str,
) -> Iterator[Record]:
    """By the wall's clock, and by the processors' where both are known."""
    for place, unit in ((1, "images/s"), (2, "images/CPU s")):
        speeds = [
            [turn[0] / spent for turn in pair if (spent := turn[place]) is not None]
            for pair in pairs
        ]
        if all(len(both) == 2 for both in speeds):
            yield of_rounds(f"{name}, {unit}", unit, speeds, about)
