"""Backbones with their stems, projectors, and how views pass through them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from barlow_atlas.errors import AtlasError
from barlow_atlas.nn import processes
from barlow_atlas.nn.norms import (
    PerView,
    PerViewBatchNorm1d,
    PerViewBatchNorm2d,
    move_to_mean,
    moved_apart,
    of_each_view,
)
from barlow_atlas.nn.processes import whole
from barlow_atlas.settings.training import Architecture, Backbone, Precision, Projector


class Network(nn.Module):
    """What is pre-trained: images (N, 3, H, W) -> features (N, f) -> embeddings (N, d).

    In training the N images of a step may be spread over processes, each with n of them. A pass
    takes a process' own images and gives the embeddings of the whole batch, unless it says
    otherwise, and its batch norms have the statistics of the whole batch, or each equal part of it
    has its own (`take_parts`).

    A linear classifier of the features may lie beside the projector. It takes no part in a pass: it
    is trained apart (`training.online`).

    With precision "bfloat16" convolutions and products run in that type, on weights that stay in
    float32; batch-norm statistics and the embeddings that come out are float32 in any case.
    """

    parts = 1
    """Of the batch, each with batch-norm statistics of its own."""
    accumulates = False
    """Whether a part that passes keeps nothing for the backward pass, in which it passes again. So
    the gradients of all embeddings are known before the activations of a part are."""
    compiled = False
    features: list[Tensor] | None = None
    """Where there is a list: what the backbone gives in training, a pass after the other, (n, f) of
    each view, detached."""

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        precision: Precision = "float32",
        classifier: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector
        self.precision = precision
        self.classifier = classifier
        for norm in self._norms():
            norm.of_own_rows = True

    def _norms(self) -> list[PerView]:
        return [module for module in self.modules() if isinstance(module, PerView)]

    def forward(self, images: Tensor) -> Tensor:
        return whole(self.own_rows(images))

    def own_rows(self, images: Tensor) -> Tensor:
        """Embeddings (n, d) of a process' own images (n, 3, H, W) only."""
        return self._by_parts(self._embedded, images)

    def _embedded(self, images: Tensor) -> Tensor:
        with self._in_precision(images):
            embeddings: Tensor = self.projector(self._features(images))
        return embeddings.to(images.dtype)

    def _features(self, images: Tensor) -> Tensor:
        features: Tensor = self.backbone(images)
        if self.features is not None and self.training:
            self.features.append(features.detach())
        return features

    def take_parts(self, count: int) -> None:
        """Gives each of `count` equal parts of the batch batch-norm statistics of its own."""
        self.parts = count
        for norm in self._norms():
            norm.of_own_rows = count == 1

    def _by_parts(self, embedded: Callable[..., Tensor], *views: Tensor) -> Tensor:
        """Own rows (V n, d) of V views (n, 3, H, W), by one pass of all, or one of each part.

        The running statistics move to the mean of where the parts would have moved them.
        """
        if self.parts == 1 or not self.training:
            return embedded(*views)
        count = self.parts // processes.count()
        norms = self._norms()
        rows, moved = [], []
        for part in zip(*(view.chunk(count) for view in views), strict=True):
            with moved_apart(norms) as statistics:
                if self.accumulates and count > 1:
                    passed = checkpoint(
                        embedded,
                        *part,
                        use_reentrant=False,
                        preserve_rng_state=False,  # nothing is drawn in a pass
                        context_fn=lambda: (nullcontext(), moved_apart(norms)),
                    )
                else:
                    passed = embedded(*part)
            moved.append(statistics)
            rows.append(passed.chunk(len(views)))
        move_to_mean(norms, moved)
        return torch.cat([torch.cat(view) for view in zip(*rows, strict=True)])

    def _in_precision(self, images: Tensor) -> AbstractContextManager[Any]:
        kind = images.device.type
        # torch's meta device, on which work is counted, knows no autocast.
        if self.precision == "float32" or kind == "meta":
            return nullcontext()
        return torch.autocast(kind, torch.bfloat16)

    def each(self, *views: Tensor) -> tuple[Tensor, ...]:
        """Embeddings (N, d) of each of several views (n, 3, H, W), with statistics of its own."""
        return tuple(whole(rows) for rows in self.own_rows_of_each(*views))

    def own_rows_of_each(self, *views: Tensor) -> tuple[Tensor, ...]:
        """Embeddings (n, d) of each of several views (n, 3, H, W), with statistics of its own.

        On a GPU the views pass in one batch: a third of the kernels, each of a size that fills the
        device. On a CPU one batch of all is slower than the views one by one, by a tenth
        (ResNet-18, three views of 64 images).
        """
        if views[0].device.type != "cuda":
            return tuple(self.own_rows(view) for view in views)
        return self.in_one_batch(*views)

    def together(self, *views: Tensor) -> Tensor:
        """Embeddings (V N, d) of V views (n, 3, H, W), one below the other.

        The backbone takes statistics of each view, the projector of all, as in the code of SimCLR's
        and W-MSE's authors.
        """

        def embedded(*views: Tensor) -> Tensor:
            with self._in_precision(views[0]):
                features = torch.cat([self._features(view) for view in views])
                embeddings: Tensor = self.projector(features)
            return embeddings.to(views[0].dtype)

        return _whole_of_each(self._by_parts(embedded, *views), len(views))

    def as_one_view(self, *views: Tensor) -> Tensor:
        """As `together`, with statistics of all views in the backbone as well."""

        def embedded(*views: Tensor) -> Tensor:
            return self._embedded(torch.cat(views))

        return _whole_of_each(self._by_parts(embedded, *views), len(views))

    def compile_parts(self, mode: str = "default") -> None:
        """Compiles the passes through backbone and projector; names of weights stay as they are.

        For GPUs: on the CPUs tried, the compiled passes were slower than torch's own (docs).
        """
        self.compiled = True
        for part in (self.backbone, self.projector):
            part.compile(dynamic=False, mode=mode)
        for norm in self._norms():
            norm.leave_uncompiled()

    def in_one_batch(self, *views: Tensor) -> tuple[Tensor, ...]:
        """As `own_rows_of_each`, by one forward pass."""

        def embedded(*views: Tensor) -> Tensor:
            with of_each_view(self._norms(), len(views), self.compiled):
                return self._embedded(torch.cat(views))

        return self._by_parts(embedded, *views).chunk(len(views))


def _whole_of_each(embeddings: Tensor, views: int) -> Tensor:
    """Own rows (V n, d) of V views, one below the other, to those of the batch, (V N, d)."""
    if processes.count() == 1:
        return embeddings
    return torch.cat([whole(rows) for rows in embeddings.chunk(views)])


def build(settings: Architecture, generator: torch.Generator) -> Network:
    """The network with torch's default initialisation, drawn from `generator`.

    Without a projector, as of foreign weights, the embeddings are the features. A classifier beside
    it requires no gradient, so that no optimizer of the network takes it.

    The weights are laid out channels last, which convolutions then keep to: 2.5 times faster on a
    CPU at 16 x 16 pixels and width 16, and what tensor cores want.
    """
    with initialised_from(generator):
        backbone, features = build_backbone(settings.backbone)
        projector: nn.Module = nn.Identity()
        if settings.projector is not None:
            layers = projector_layers(features, settings.projector, settings.embedding_dim)
            projector = nn.Sequential(*layers)
        classifier = None
        if settings.classes is not None:  # drawn last: the rest is the same without it
            classifier = nn.Linear(features, settings.classes).requires_grad_(False)
        network = Network(backbone, projector, settings.precision, classifier)
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
    if settings.timm is not None:
        from barlow_atlas.nn import timm_models

        network, features = timm_models.build(settings.timm, settings.options or {})
        if settings.stem != "own":
            _change_stem(network, settings)
        return network, features
    # Here, since its import takes as long as torch's own, in each of a study's many jobs.
    from torchvision import models

    resnet = getattr(models, settings.name)(
        weights=None,
        zero_init_residual=settings.zero_init_residual,
        norm_layer=PerViewBatchNorm2d,
    )
    features = resnet.fc.in_features
    resnet.fc = nn.Identity()
    if settings.stem != "7x7-maxpool":
        _change_stem(resnet, settings)
    return resnet, features


def _change_stem(resnet: nn.Module, settings: Backbone) -> None:
    """Gives a ResNet the stem for small images: a 3x3 convolution, with or without max-pool.

    Raises:
        AtlasError: a network whose stem is another one.
    """
    first, pool = (getattr(resnet, name, None) for name in ("conv1", "maxpool"))
    if not isinstance(first, nn.Conv2d) or first.kernel_size != (7, 7) or pool is None:
        raise AtlasError(
            f"{settings.name} does not begin with a 7x7 convolution and a max-pool, which the stem "
            f"{settings.stem} would replace: give `stem: own`"
        )
    padding = 2 if settings.stem == "3x3-pad2" else 1
    resnet.conv1 = nn.Conv2d(
        3, first.out_channels, kernel_size=3, stride=1, padding=padding, bias=False
    )
    if not settings.stem.endswith("maxpool"):
        resnet.maxpool = nn.Identity()


def small(stem: str, width: int) -> tuple[nn.Module, int]:
    """A ResNet-10 of narrow stages: one basic block each of w, 2w, 4w and 8w channels."""
    first: list[nn.Module] = [
        nn.Conv2d(3, width, kernel_size=3, stride=1, padding=1, bias=False)
        if stem != "7x7-maxpool"
        else nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False),
        PerViewBatchNorm2d(width),
        nn.ReLU(inplace=True),
    ]
    if stem != "3x3":
        first.append(nn.MaxPool2d(kernel_size=3, stride=2, padding=1))
    channels = [width, width, 2 * width, 4 * width, 8 * width]
    stages = [_stage(before, after) for before, after in pairwise(channels)]
    return nn.Sequential(*first, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 8 * width


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut (He et al. 2016); torchvision's, value for value.

    Images (N, before, H, W) -> (N, after, H / stride, W / stride).
    """

    def __init__(self, before: int, after: int, stride: int, shortcut: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = PerViewBatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = PerViewBatchNorm2d(after)
        self.downsample = shortcut

    def forward(self, images: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(images)))))
        inner += images if self.downsample is None else self.downsample(images)
        result: Tensor = self.relu(inner)
        return result


def _stage(before: int, after: int) -> nn.Module:
    """One basic block; where the channels double, the resolution halves."""
    if before == after:
        return BasicBlock(before, after, stride=1, shortcut=None)
    shortcut = nn.Sequential(
        nn.Conv2d(before, after, kernel_size=1, stride=2, bias=False), PerViewBatchNorm2d(after)
    )
    return BasicBlock(before, after, stride=2, shortcut=shortcut)


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
            yield PerViewBatchNorm1d(after)
        yield nn.ReLU(inplace=True)
    yield nn.Linear(widths[-1], embedding_dim, bias=settings.output_bias)
    if settings.output_norm != "none":
        yield PerViewBatchNorm1d(embedding_dim, affine=settings.output_norm == "affine")
