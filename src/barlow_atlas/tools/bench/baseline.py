"""The plain rival: the same training and the same kNN, written the usual way.

PIL images go one by one through torchvision's transforms, in as many workers as there are cores,
on one core in none; the network keeps torch's default layout and float32 and sees one view after
the other; the losses hold every d x d matrix, and kNN votes through one-hot labels, both as the
methods' published small-data code does. It computes what the package computes, from the same
initial weights: tests/unit/tools/test_bench.py compares losses, gradients and scores.
"""

import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor
from torch.nn.functional import normalize, one_hot
from torch.utils.data import DataLoader, Dataset

from barlow_atlas.nn.networks import build
from barlow_atlas.nn.optim import learning_rate
from barlow_atlas.nn.randomness import generator
from barlow_atlas.objectives.barlow_twins import BarlowTwins
from barlow_atlas.objectives.mixed_barlow_twins import MixedBarlowTwins
from barlow_atlas.settings.augmentation import Augmentation
from barlow_atlas.settings.training import Adam
from barlow_atlas.study.models import Run
from barlow_atlas.tools.bench.timing import phases, seconds, taking

QUERIES = 512
"""kNN queries a batch."""
WORKERS = "a worker for each core, on one core none"
"""How many the `loader` has, as records tell it."""


def transform(view: Augmentation, run: Run) -> Any:
    """The view of one PIL image, (3, size, size): torchvision's transforms with their meaning."""
    if view.blur_p or view.solarise_p:
        raise ValueError("the plain rival knows the small data sets' recipes: no blur, no solarise")
    kinds = torchvision.transforms
    crop = [
        kinds.RandomResizedCrop(
            run.image_size,
            scale=view.crop_scale,
            ratio=view.crop_ratio,
            interpolation=kinds.InterpolationMode(view.interpolation),
        )
    ]
    if view.flip_p:
        crop.append(kinds.RandomHorizontalFlip(view.flip_p))
    colour: list[Any] = []
    if view.jitter_p:
        jitter = kinds.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)
        colour.append(kinds.RandomApply([jitter], p=view.jitter_p))
    if view.grayscale_p:
        colour.append(kinds.RandomGrayscale(view.grayscale_p))
    drawn = colour + crop if view.crop_last else crop + colour
    as_tensor = [kinds.ToTensor(), kinds.Normalize(run.recipe.mean, run.recipe.std)]
    return kinds.Compose(drawn + as_tensor)


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Two views of each image, from stored images uint8 (n, 3, H, W)."""

    def __init__(self, run: Run, images: np.ndarray) -> None:
        self.images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        self.transforms = [transform(view, run) for view in (run.recipe.view_a, run.recipe.view_b)]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        from PIL import Image

        image = Image.fromarray(self.images[index])
        first, second = (each(image) for each in self.transforms)
        return first, second


def loader(run: Run, images: np.ndarray, device: torch.device) -> DataLoader[Any]:
    """Shuffled batches of pairs of views, made by as many workers as there are cores.

    On one core by none: a worker there is slower, as the two wait for one another.
    """
    count = len(os.sched_getaffinity(0))
    workers = 0 if count == 1 else count
    return DataLoader(
        Pairs(run, images),
        batch_size=run.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        generator=generator(run.seed, "shuffle"),
    )


class PlainViews:
    """Pairs of views of batches, made the plain way."""

    def __init__(self, run: Run, images: np.ndarray, device: torch.device) -> None:
        self.run = run
        self.device = device
        self.loader = loader(run, images, device)
        self.endless: Iterator[object] = self.steps()

    def steps(self) -> Iterator[object]:
        """Brings each pair to the device, epoch after epoch without an end."""
        while True:
            for views in self.loader:
                yield [view.to(self.device, non_blocking=True) for view in views]

    def take(self, count: int) -> float:
        """Seconds of the next `count` steps."""
        return seconds(taking(self.endless, count), self.device)


class Rival(PlainViews):
    """A run of Barlow Twins or Mixed Barlow Twins that is trained the plain way."""

    def __init__(self, run: Run, images: np.ndarray, device: torch.device) -> None:
        if not isinstance(run.settings, BarlowTwins) or not isinstance(run.optimizer, Adam):
            raise ValueError(f"the plain rival trains BT and MIX by Adam, not {run.name}")
        run = run.model_copy(update={"precision": "float32", "compiled": False})
        super().__init__(run, images, device)
        self.network = build(run.architecture, generator(run.seed, "weights"))
        for parameter in self.network.parameters():
            parameter.data = parameter.data.contiguous()
        self.network.to(device)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), weight_decay=run.optimizer.weight_decay
        )

    def steps(self) -> Iterator[Tensor]:
        """Trains without an end, yielding the loss of each step."""
        self.network.train()
        for epoch in range(sys.maxsize):
            for step, views in enumerate(self.loader):
                rate = learning_rate(self.run, epoch, step, len(self.loader))
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                view_a, view_b = (view.to(self.device, non_blocking=True) for view in views)
                loss = self._loss(view_a, view_b)
                self.optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                yield loss.detach()

    def phases(self, count: int) -> dict[str, float]:
        """Seconds a step of each phase, over the next `count` steps."""
        return phases(self.endless, self.network, self.optimizer, self.device, count)

    def weights(self) -> dict[str, np.ndarray]:
        """The network's state, by name."""
        return {name: value.cpu().numpy() for name, value in self.network.state_dict().items()}

    def _loss(self, view_a: Tensor, view_b: Tensor) -> Tensor:
        settings = self.run.settings
        assert isinstance(settings, BarlowTwins)  # as its construction demands
        z_a, z_b = (standardised(self.network(view)) for view in (view_a, view_b))
        if not isinstance(settings, MixedBarlowTwins):
            return twin_loss(settings, z_a, z_b)
        alpha = float(np.random.default_rng().uniform())
        partner = torch.randperm(len(view_a), device=self.device)
        z_m = standardised(self.network(alpha * view_a + (1 - alpha) * view_b[partner]))
        return mixed_loss(settings, z_a, z_b, z_m, alpha, partner)


def standardised(z: Tensor) -> Tensor:
    """Embeddings (N, d) of length 1, then each dimension to mean 0 and variance 1."""
    z = normalize(z, dim=1)
    return (z - z.mean(dim=0)) / z.std(dim=0)


def twin_loss(settings: BarlowTwins, z_a: Tensor, z_b: Tensor) -> Tensor:
    """Barlow Twins from standardised embeddings (N, d), with its d x d matrix."""
    matrix = z_a.T @ z_b / len(z_a)
    diagonal = torch.diagonal(matrix)
    off_diagonal = matrix.pow(2).sum() - diagonal.pow(2).sum()
    return (diagonal - 1).pow(2).sum() + settings.lambda_bt * off_diagonal


def mixed_loss(
    settings: MixedBarlowTwins,
    z_a: Tensor,
    z_b: Tensor,
    z_m: Tensor,
    alpha: float,
    partner: Tensor,
) -> Tensor:
    """Mixed Barlow Twins from standardised embeddings (N, d): a d x d matrix for each product."""
    n = len(z_a)
    mixing = torch.zeros((), device=z_a.device)
    for z in (z_a, z_b):
        correlation = z_m.T @ z / n
        wanted = alpha * (z_a.T @ z) / n + (1 - alpha) * (z_b[partner].T @ z) / n
        mixing = mixing + (correlation - wanted).pow(2).sum()
    return twin_loss(settings, z_a, z_b) + settings.lambda_reg * settings.lambda_bt * mixing


@torch.inference_mode()
def one_hot_scores(
    memory: Tensor, labels: Tensor, queries: Tensor, k: int, temperature: float, classes: int
) -> Tensor:
    """kNN class scores (q, classes) of features (M, f) and (q, f): one-hot votes, summed."""
    memory = normalize(memory, dim=1).T.contiguous()
    scores = []
    for batch in queries.split(QUERIES):  # type: ignore[no-untyped-call]
        closeness, rows = (normalize(batch, dim=1) @ memory).topk(k, dim=1)
        votes = one_hot(labels[rows], classes).float()
        scores.append((votes * (closeness / temperature).exp()[:, :, None]).sum(dim=1))
    return torch.cat(scores)
