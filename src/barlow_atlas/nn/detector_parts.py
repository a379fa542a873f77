"""Parts of torchvision's detectors as several processes need them, and as detectron2 has them.

Each process has its own images of a batch, and as many regions as are chosen in them. What is drawn
of an image follows from its own generator, so that it depends on no other image; images are filled
up to a size that all processes have in common; norms have the statistics of all their regions.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from barlow_atlas.nn import processes
from barlow_atlas.nn.norms import PerViewBatchNorm2d


class SizedTogether(GeneralizedRCNNTransform):  # type: ignore[misc]
    """torchvision's transform of images: sizes drawn image by image, filled up to those of all."""

    generators: Sequence[torch.Generator] = ()

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[Any, list[dict[str, Tensor]] | None]:
        self._next: Iterator[torch.Generator] = iter(self.generators)
        transformed: tuple[Any, list[dict[str, Tensor]] | None] = super().forward(images, targets)
        return transformed

    def torch_choice(self, k: Sequence[int]) -> int:
        """One of the sizes, for the next image."""
        return k[int(torch.randint(len(k), (), generator=next(self._next)))]

    def max_by_axis(self, the_list: list[list[int]]) -> list[int]:
        """The largest sides of images; in training of those of all processes."""
        sides: list[int] = super().max_by_axis(the_list)
        if self.training:
            sides = processes.gathered(torch.tensor([sides])).amax(0).tolist()
        return sides


class Chosen:
    """torchvision's balanced choice of anchors or regions, drawn for each image by itself.

    Args:
        count: of an image, at most.
        positive_share: of these, at most.
    """

    generators: Sequence[torch.Generator] = ()

    def __init__(self, count: int, positive_share: float) -> None:
        self.count, self.positive_share = count, positive_share
        self._marks: list[tuple[Tensor, Tensor]] = []

    def __call__(self, labels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Marks the positive and the negative that are chosen in each image, uint8 (n,).

        Args:
            labels: of each image, (n,): above 0 is positive, 0 negative, below 0 neither.
        """
        images = zip(labels, self.generators, strict=True)
        self._marks = [self._of_image(each, generator) for each, generator in images]
        positive, negative = zip(*self._marks, strict=True)
        return list(positive), list(negative)

    def _of_image(self, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        most = int(self.count * self.positive_share)
        positive = _some_of(labels >= 1, most, generator)
        negative = _some_of(labels == 0, self.count - int(positive.sum()), generator)
        return positive, negative

    @property
    def positive(self) -> Tensor:
        """Of all that were chosen last, in their order, whether they are positive, bool (n,)."""
        return (
            torch.cat([positive[(positive | negative) > 0] for positive, negative in self._marks])
            > 0
        )


def _some_of(wanted: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Marks at most so many of those that are wanted, uint8 (n,)."""
    places = wanted.nonzero()[:, 0]
    chosen = torch.randperm(len(places), generator=generator)[:most]
    marks = torch.zeros_like(wanted, dtype=torch.uint8)
    marks[places[chosen.to(places.device)]] = 1
    return marks


class NormOfRegions(PerViewBatchNorm2d):
    """Batch norm of regions, of which each process may have another number."""

    of_own_rows = True

    def _over_processes(self, images: Tensor) -> Tensor:
        wide = images.to(torch.promote_types(images.dtype, torch.float32))
        own = torch.tensor(wide.numel() / wide.shape[1], dtype=torch.float64)
        n = float(processes.sum_of_all(own))
        mean = processes.summed(_over_regions(wide)) / n
        centred = wide - mean
        variance = processes.summed(_over_regions(centred.square())) / n
        normalised = centred * (variance + self.eps).rsqrt()
        self._move(mean.detach().flatten(), variance.detach().flatten() * n / (n - 1))
        weight, bias = (each.view(1, -1, 1, 1) for each in (self.weight, self.bias))
        return (normalised * weight + bias).to(images.dtype)

    def _move(self, mean: Tensor, variance: Tensor) -> None:
        """Moves the running statistics, as torch's batch norm does."""
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var), self.momentum)


def _over_regions(x: Tensor) -> Tensor:
    """Sums of x (n, C, h, w) for each channel, (1, C, 1, 1)."""
    return x.sum((0, 2, 3), keepdim=True)


def take_regions(layers: nn.Module) -> None:
    """Makes the norms within layers those of regions; weights and statistics stay."""
    norms = [
        (name, each)
        for name, each in layers.named_modules()
        if isinstance(each, PerViewBatchNorm2d)
    ]
    for name, norm in norms:
        other = NormOfRegions(norm.num_features, norm.eps, norm.momentum)
        other.load_state_dict(norm.state_dict())
        layers.set_submodule(name, other)


class Head(nn.Module):
    """Regions (n, c, h, w) -> their mean over positions behind some layers, (n, f).

    Keeps the maps behind these layers until they are taken, where masks are told from them.
    """

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers
        self.keeps = False
        self._maps: Tensor | None = None

    def forward(self, regions: Tensor) -> Tensor:
        maps: Tensor = self.layers(regions)
        self._maps = maps if self.keeps and self.training else None
        return maps.mean((2, 3))

    def taken(self) -> Tensor:
        """The maps of the last regions, (n, f, h, w), which are kept no longer."""
        maps, self._maps = self._maps, None
        assert maps is not None
        return maps


class MapsOfMasks(nn.Module):
    """What masks are told from, in the place of torchvision's pooling: maps behind a head's layers.

    In training those of the positive regions that boxes were told from, as in detectron2, and no
    second pass of these; so norms see all regions together. In testing those of what was found.

    Args:
        pool: cuts regions out of an image's maps.
        head: of the boxes; its modules stay its own.
        chosen: which regions it saw.
    """

    def __init__(self, pool: nn.Module, head: Head, chosen: Chosen) -> None:
        super().__init__()
        self.pool, self._chosen = pool, chosen
        self._head = [head]  # in a list, so that its weights are not twice in the detector's state
        head.keeps = True

    def forward(self, maps: Any, boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        (head,) = self._head
        if self.training:
            return head.taken()[self._chosen.positive]
        told: Tensor = head.layers(self.pool(maps, boxes, sizes))
        return told
