"""Backbones with their stems, and projectors."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

from barlow_atlas.settings import Backbone, Projector
from barlow_atlas.study import ForeignRun, Run
from barlow_atlas.vision import torchvision


class Network(nn.Module):
    """What is pre-trained: images (N, 3, H, W) -> features (N, f) -> embeddings (N, d)."""

    def __init__(self, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def forward(self, images: Tensor) -> Tensor:
        embeddings: Tensor = self.projector(self.backbone(images))
        return embeddings


def build(run: Run | ForeignRun, generator: torch.Generator) -> Network:
    """The run's network with torch's default initialisation, drawn from `generator`.

    Foreign weights have no projector: their embeddings are the features.

    The weights are laid out channels last, which convolutions then keep to: 2.5 times faster on a
    CPU at 16 x 16 pixels and width 16, and what tensor cores want.
    """
    with initialised_from(generator):
        backbone, features = build_backbone(run.backbone)
        projector: nn.Module = nn.Identity()
        if isinstance(run, Run):
            projector = nn.Sequential(*projector_layers(features, run.projector, run.embedding_dim))
    network = Network(backbone, projector)
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


@contextmanager
def initialised_from(generator: torch.Generator) -> Iterator[None]:
    """Modules made inside draw their weights from `generator`; torch's own state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        yield


def build_backbone(settings: Backbone) -> tuple[nn.Module, int]:
    """The backbone without a classifier, and its number of features f."""
    if settings.name == "small":
        assert settings.width is not None  # guaranteed by the settings' own check
        return small(settings.stem, settings.width)
    resnet = getattr(torchvision.models, settings.name)(
        weights=None, zero_init_residual=settings.zero_init_residual
    )
    features = resnet.fc.in_features
    resnet.fc = nn.Identity()
    if settings.stem != "7x7-maxpool":
        padding = 2 if settings.stem == "3x3-pad2" else 1
        resnet.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=padding, bias=False)
    if not settings.stem.endswith("maxpool"):
        resnet.maxpool = nn.Identity()
    return resnet, features


def small(stem: str, width: int) -> tuple[nn.Module, int]:
    """A ResNet-10 of narrow stages: one basic block each of w, 2w, 4w and 8w channels."""
    first: list[nn.Module] = [
        nn.Conv2d(3, width, kernel_size=3, stride=1, padding=1, bias=False)
        if stem != "7x7-maxpool"
        else nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    ]
    if stem != "3x3":
        first.append(nn.MaxPool2d(kernel_size=3, stride=2, padding=1))
    channels = [width, width, 2 * width, 4 * width, 8 * width]
    stages = [_stage(before, after) for before, after in pairwise(channels)]
    return nn.Sequential(*first, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 8 * width


def _stage(before: int, after: int) -> nn.Module:
    """One basic block; where the channels double, the resolution halves."""
    block: type[nn.Module] = torchvision.models.resnet.BasicBlock
    if before == after:
        return block(before, after)
    shortcut = nn.Sequential(
        nn.Conv2d(before, after, kernel_size=1, stride=2, bias=False), nn.BatchNorm2d(after)
    )
    return block(before, after, stride=2, downsample=shortcut)


def projector_layers(features: int, settings: Projector, embedding_dim: int) -> Iterator[nn.Module]:
    """Linear, batch norm and ReLU for each hidden width, then a linear layer, then its norm.

    Mixed Barlow Twins' small-data code has one hidden layer of 512 whatever the embedding's width;
    Barlow Twins has two of 8192 and no bias anywhere (docs/fidelity.md).

    Args:
        features: what the backbone gives, (N, features).
        embedding_dim: d of the embeddings, (N, d).
    """
    widths = [features, *settings.hidden]
    for before, after in pairwise(widths):
        yield nn.Linear(before, after, bias=settings.hidden_bias)
        if settings.batch_norm:
            yield nn.BatchNorm1d(after)
        yield nn.ReLU(inplace=True)
    yield nn.Linear(widths[-1], embedding_dim, bias=settings.output_bias)
    if settings.output_norm != "none":
        yield nn.BatchNorm1d(embedding_dim, affine=settings.output_norm == "affine")
