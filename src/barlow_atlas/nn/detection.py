"""Detectors on a pre-trained backbone, from torchvision's parts.

C4 as He et al.'s MoCo has it (arXiv:1911.05722, appendix; detectron2's `Res5ROIHeadsExtraNorm`):
the backbone's first three stages see the image, the fourth sees each region and is followed by one
more batch norm. Nothing is frozen, and batch norm takes the statistics of the batch.

Several processes may train a detector, each with its own images of every batch (`nn/processes.py`):
what comes out does not depend on how many they are, but for rounding.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from barlow_atlas.data.objects import Found, Objects
from barlow_atlas.data.selection import Index
from barlow_atlas.nn import processes
from barlow_atlas.nn.networks import initialised_from
from barlow_atlas.nn.norms import PerView, PerViewBatchNorm2d
from barlow_atlas.settings.detection import Detector, DetectorTraining

if TYPE_CHECKING:
    from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

RATIOS = (0.5, 1.0, 2.0)
"""Height to width of anchors."""
BEFORE_SUPPRESSION = 6
"""As many times more proposals are looked at before overlapping ones are removed."""
POOLED = 14
"""Pixels a side of a region of C4, before the fourth stage halves it."""
ANCHORS_CHOSEN = 256
"""Of an image, that proposals are learnt from."""
POSITIVE = {"anchors": 0.5, "regions": 0.25}
"""The share of what is chosen that is positive, at most."""
UNFILLED = 64
"""Pixels a side of an image that all stages halve without rest."""
MOMENTUM = 0.9
NORM_BATCHES = 200
"""Of which batch norms take the statistics for evaluation: detectron2's PRECISE_BN, as in MoCo's
configuration of C4."""

Target = dict[str, Tensor]
"""torchvision's: `boxes` (n, 4), `labels` (n,) from 1, and with masks `masks` uint8 (n, H, W)."""
Batches = Callable[[int], tuple[list[Tensor], list[Target]]]
"""Images and targets of an iteration, a process' own."""
Draws = Callable[[int, int], torch.Generator]
"""Of an iteration and of a place in its batch: the size of the image there is drawn with it, and
anchors and regions in it."""


def detector(
    settings: Detector,
    backbone: nn.Module,
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    generator: torch.Generator,
) -> GeneralizedRCNN:
    """torchvision's detector on a backbone, whose modules become its own.

    In training mode it takes images, a list of (3, H, W) between 0 and 1, and a `Target` of each,
    and gives its losses by name; in evaluation mode it takes images and gives `boxes`, `labels`
    from 1, `scores` and `masks` of each.

    Args:
        backbone: as `networks.build_backbone` makes it.
        classes: without the background.
        mean, std: of the channels, by which images are normalised.
        generator: draws the new weights.

    Raises:
        ValueError: a feature pyramid of the backbone `small`, which has no named stages.
    """
    # Here, since their import takes as long as torch's own.
    from torchvision.models.detection import FasterRCNN, MaskRCNN

    from barlow_atlas.nn.detector_parts import Chosen, Head, MapsOfMasks, SizedTogether

    for norm in backbone.modules():
        if isinstance(norm, PerView):
            norm.of_own_rows = True
    common: dict[str, Any] = {
        "num_classes": None,
        "rpn_pre_nms_top_n_train": BEFORE_SUPPRESSION * settings.proposals,
        "rpn_pre_nms_top_n_test": BEFORE_SUPPRESSION * settings.test_proposals,
        "rpn_post_nms_top_n_train": settings.proposals,
        "rpn_post_nms_top_n_test": settings.test_proposals,
    }
    with initialised_from(generator):
        parts = (_c4 if settings.form == "c4" else _pyramid)(settings, backbone, classes)
        kind = MaskRCNN if settings.masks else FasterRCNN
        model = kind(**common, **parts)
    sizes = settings.short_sides, settings.long_side
    model.transform = SizedTogether(*sizes, list(mean), list(std))
    model.rpn.fg_bg_sampler = Chosen(ANCHORS_CHOSEN, POSITIVE["anchors"])
    heads = model.roi_heads
    heads.fg_bg_sampler = Chosen(settings.regions, POSITIVE["regions"])
    pools = [heads.box_roi_pool, *([heads.mask_roi_pool] if settings.masks else [])]
    if settings.masks and isinstance(heads.box_head, Head):
        heads.mask_roi_pool = MapsOfMasks(heads.mask_roi_pool, heads.box_head, heads.fg_bg_sampler)
    model.to(next(backbone.parameters()).device)
    _fix_scales(model.backbone, pools)
    return model.train()


def _fix_scales(backbone: nn.Module, pools: Sequence[nn.Module]) -> None:
    """Lets pools see maps of an image that is not filled up.

    torchvision's tell once and for all how much smaller maps are than images, from the first batch:
    wrongly where that is filled up to twice the size of its own images, as by other processes'.
    """
    place = next(backbone.parameters()).device
    backbone.eval()
    with torch.no_grad():
        maps = backbone(torch.zeros((1, 3, UNFILLED, UNFILLED), device=place))
        maps = {"0": maps} if isinstance(maps, Tensor) else maps
        for pool in pools:
            pool(maps, [torch.zeros((1, 4), device=place)], [(UNFILLED, UNFILLED)])


def stages(backbone: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A backbone's layers up to its third stage, and its fourth stage."""
    if isinstance(backbone, nn.Sequential):
        *trunk, last, _, _ = backbone.children()  # pooling and flattening come last
        return nn.Sequential(*trunk), last
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")
    layers = map(backbone.get_submodule, names)
    return nn.Sequential(*layers), backbone.get_submodule("layer4")


class _Trunk(nn.Module):
    """The layers that see whole images, with the number of their channels, as torchvision asks."""

    def __init__(self, layers: nn.Module, channels: int) -> None:
        super().__init__()
        self.layers, self.out_channels = layers, channels

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.layers(images)
        return maps


def _c4(settings: Detector, backbone: nn.Module, classes: int) -> dict[str, Any]:
    """The arguments of torchvision's detectors that make them C4."""
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
    from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
    from torchvision.ops import MultiScaleRoIAlign

    from barlow_atlas.nn.detector_parts import Head, take_regions

    trunk, fourth = stages(backbone)
    before, features = _channels(trunk), _channels(fourth)
    layers = [fourth, PerViewBatchNorm2d(features)] if settings.extra_norm else [fourth]
    head = nn.Sequential(*layers)
    take_regions(head)
    parts: dict[str, Any] = {
        "backbone": _Trunk(trunk, before),
        "rpn_anchor_generator": AnchorGenerator((settings.anchors,), (RATIOS,)),
        "box_roi_pool": MultiScaleRoIAlign(["0"], POOLED, sampling_ratio=0),
        "box_head": Head(head),
        "box_predictor": FastRCNNPredictor(features, classes + 1),
    }
    if settings.masks:
        # Boxes and masks share the head's layers: see `MapsOfMasks`, which takes this one's place.
        parts["mask_roi_pool"] = MultiScaleRoIAlign(["0"], POOLED, sampling_ratio=0)
        parts["mask_head"] = nn.Identity()
        parts["mask_predictor"] = MaskRCNNPredictor(features, 256, classes + 1)
    return parts


def _pyramid(settings: Detector, backbone: nn.Module, classes: int) -> dict[str, Any]:
    """The arguments of torchvision's detectors on a feature pyramid of all four stages."""
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
    from torchvision.ops import MultiScaleRoIAlign
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    if isinstance(backbone, nn.Sequential):
        raise ValueError("a feature pyramid needs a ResNet's stages: with `small` take the form c4")
    names = ["layer1", "layer2", "layer3", "layer4"]
    channels = [_channels(backbone.get_submodule(name)) for name in names]
    pyramid = BackboneWithFPN(
        backbone,
        {name: str(k) for k, name in enumerate(names)},
        channels,
        out_channels=256,
        extra_blocks=LastLevelMaxPool(),
    )
    levels = ["0", "1", "2", "3"]
    sizes = tuple((size,) for size in settings.anchors)
    parts: dict[str, Any] = {
        "backbone": pyramid,
        "rpn_anchor_generator": AnchorGenerator(sizes, (RATIOS,) * len(sizes)),
        "box_roi_pool": MultiScaleRoIAlign(levels, 7, sampling_ratio=0),
        "box_head": TwoMLPHead(256 * 7 * 7, 1024),
        "box_predictor": FastRCNNPredictor(1024, classes + 1),
    }
    if settings.masks:
        parts["mask_roi_pool"] = MultiScaleRoIAlign(levels, 14, sampling_ratio=0)
        parts["mask_head"] = MaskRCNNHeads(256, (256,) * 4, 1)
        parts["mask_predictor"] = MaskRCNNPredictor(256, 256, classes + 1)
    return parts


def _channels(stage: nn.Module) -> int:
    """What comes out of layers whose last batch norm is behind no shortcut of more channels."""
    norms = [each for each in stage.modules() if isinstance(each, nn.BatchNorm2d)]
    return max(norm.num_features for norm in norms)


def target_of(image: Objects, masks: bool) -> Target:
    """What a detector is trained to find in an image: difficult objects too, crowds not, nor boxes
    without area.

    Args:
        masks: whether outlines are drawn, by pycocotools.
    """
    sizes = image.boxes[:, 2:] - image.boxes[:, :2]
    kept = np.flatnonzero(~image.crowd & (sizes > 0).all(axis=1))
    target = {
        "boxes": torch.from_numpy(image.boxes[kept]).float(),
        "labels": torch.from_numpy(image.labels[kept] + 1),
    }
    return target | {"masks": torch.from_numpy(_drawn(image, kept))} if masks else target


def _drawn(image: Objects, kept: Index) -> NDArray[np.uint8]:
    """Masks (n, height, width) of some of an image's objects, which have polygons."""
    from pycocotools import mask

    assert image.outlines is not None
    size = image.height, image.width
    drawn = np.zeros((len(kept), *size), dtype=np.uint8)
    for row, place in zip(drawn, kept, strict=True):
        polygons = mask.frPyObjects(image.outlines[place], *size)
        row[:] = mask.decode(mask.merge(polygons))
    return drawn


def found_in(output: Target) -> Found:
    """What a detector in evaluation mode says of an image; a mask is where it is at least 1/2."""
    masks = run_lengths((output["masks"][:, 0] >= 0.5).cpu().numpy()) if "masks" in output else None
    return Found(
        boxes=output["boxes"].double().cpu().numpy(),
        labels=output["labels"].cpu().numpy() - 1,
        scores=output["scores"].double().cpu().numpy(),
        masks=masks,
    )


def run_lengths(masks: NDArray[np.bool_]) -> tuple[Any, ...]:
    """COCO's run lengths of each of some masks (n, height, width), by pycocotools."""
    from pycocotools import mask

    return tuple(mask.encode(np.asfortranarray(each, dtype=np.uint8)) for each in masks)


def flipped(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """An image (3, H, W) and what is in it, left for right."""
    left, upper, right, lower = target["boxes"].unbind(1)
    width = image.shape[2]
    turned = {name: target[name].flip(2) for name in ("masks",) if name in target}
    boxes = torch.stack([width - right, upper, width - left, lower], dim=1)
    return image.flip(2), target | turned | {"boxes": boxes}


def rate(training: DetectorTraining, iteration: int) -> float:
    """The learning rate of an iteration, counted from 0.

    As detectron2's WarmupMultiStepLR: it rises linearly from `warmup_start` times the rate, and
    falls to a tenth at each of `drops`.
    """
    dropped = training.learning_rate * 0.1 ** bisect.bisect_right(training.drops, iteration)
    if iteration >= training.warmup:
        return dropped
    done = iteration / training.warmup
    return dropped * (training.warmup_start * (1 - done) + done)


def sgd(model: nn.Module, training: DetectorTraining) -> torch.optim.Optimizer:
    """The optimizer of all weights, those of batch norms without decay, as detectron2's default."""
    norms = {
        id(weight)
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d)
        for weight in module.parameters()
    }
    groups: list[dict[str, Any]] = [
        {"params": [w for w in model.parameters() if id(w) not in norms]},
        {"params": [w for w in model.parameters() if id(w) in norms], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        groups, lr=training.learning_rate, momentum=MOMENTUM, weight_decay=training.weight_decay
    )


def train(
    model: GeneralizedRCNN,
    optimizer: torch.optim.Optimizer,
    training: DetectorTraining,
    batches: Batches,
    draws: Draws,
    first: int = 0,
) -> Iterator[tuple[int, dict[str, float]]]:
    """Trains a detector; yields how many iterations are behind it, and the losses of the last.

    An iteration is a function of the weights, the optimizer's state and its number, so that one
    that was ended goes on from both to the same numbers, by any number of processes that divides
    the batch.

    Args:
        first: the iteration to begin with.
    """
    model.train()
    gradients = processes.SummedGradients(model.parameters())
    for iteration in range(first, training.iterations):
        for group in optimizer.param_groups:
            group["lr"] = rate(training, iteration)
        losses = own_shares(model, _losses(model, training, batches, draws, iteration))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(list(losses.values()))
        gradients.wait()
        optimizer.step()
        told = processes.sum_of_all(torch.stack([loss.detach() for loss in losses.values()]).cpu())
        yield iteration + 1, dict(zip(losses, told.tolist(), strict=True))


def _losses(
    model: GeneralizedRCNN,
    training: DetectorTraining,
    batches: Batches,
    draws: Draws,
    iteration: int,
) -> dict[str, Tensor]:
    own = range(training.batch_size)[processes.own_rows(training.batch_size)]
    images, targets = batches(iteration)
    generators = [draws(iteration, place) for place in own]
    for part in (model.transform, model.rpn.fg_bg_sampler, model.roi_heads.fg_bg_sampler):
        part.generators = generators
    losses: dict[str, Tensor] = model(images, targets)
    return losses


def settle_norms(
    model: GeneralizedRCNN, training: DetectorTraining, batches: Batches, draws: Draws
) -> None:
    """Gives batch norms the mean statistics of batches that come after training, for evaluation.

    Of `NORM_BATCHES`, or as many as were trained on. Nothing else is changed. Of one process.
    """
    last = training.iterations + min(NORM_BATCHES, training.iterations)
    one = functools.partial(_losses, model, training, batches, draws)
    update_bn(range(training.iterations, last), _Passes(model, one))


class _Passes(nn.Module):
    """A detector that takes the number of an iteration."""

    def __init__(self, model: nn.Module, one: Callable[[int], dict[str, Tensor]]) -> None:
        super().__init__()
        self.model, self.one = model, one

    def forward(self, iteration: int) -> dict[str, Tensor]:
        return self.one(iteration)


def own_shares(model: GeneralizedRCNN, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a process' own images add to each loss of the whole batch.

    A loss is a mean over anchors, regions or positive regions, of which each process has another
    number.
    """
    if processes.count() == 1:
        return losses
    anchors = len(model.rpn.fg_bg_sampler.positive)
    positive = model.roi_heads.fg_bg_sampler.positive
    counts = {
        "loss_objectness": anchors,
        "loss_rpn_box_reg": anchors,
        "loss_classifier": len(positive),
        "loss_box_reg": len(positive),
        "loss_mask": int(positive.sum()),
    }
    own = torch.tensor([counts[name] for name in losses], dtype=torch.float64)
    shares = own / processes.sum_of_all(own.clone()).clamp(min=1)
    return {
        name: loss * share
        for (name, loss), share in zip(losses.items(), shares.tolist(), strict=True)
    }
