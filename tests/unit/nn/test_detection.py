"""Detectors: the papers' networks and schedules, and that one learns."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from process_group import by_processes
from torch import Tensor, nn

from barlow_atlas.data.objects import Found, Objects
from barlow_atlas.nn import processes
from barlow_atlas.nn.detection import (
    Target,
    detector,
    found_in,
    rate,
    settle_norms,
    sgd,
    stages,
    target_of,
    train,
)
from barlow_atlas.nn.detector_parts import Chosen
from barlow_atlas.nn.networks import build_backbone
from barlow_atlas.nn.norms import PerViewBatchNorm2d
from barlow_atlas.nn.randomness import generator
from barlow_atlas.probes.average_precision import voc_metrics
from barlow_atlas.settings.detection import (
    COCO_1X,
    COCO_C4,
    SMALL,
    VOC_24K,
    Detector,
    DetectorTraining,
)
from barlow_atlas.settings.training import Backbone

SIDE = 64
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
RESNET50 = Backbone(name="resnet50", stem="7x7-maxpool")
NARROW = Backbone(name="small", stem="3x3", width=16)


def made(settings: Detector, backbone: Backbone = NARROW, classes: int = 10) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, _ = build_backbone(backbone)
    return detector(settings, network, classes, MEAN, STD, generator(0, "detector"))


def weights_of(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def composites(digits: tuple[np.ndarray, np.ndarray]) -> Iterator[tuple[Tensor, Objects]]:
    """Four images of 64 pixels, each a grey slope with three handwritten digits pasted on it.

    Digits are enlarged from 8 to 16 or 24 pixels; a mask is where there is ink.
    """
    images, numbers = digits
    corners = [((2, 4), (36, 6), (18, 36)), ((6, 30), (34, 34), (20, 2))]
    for k in range(4):
        canvas = np.tile(np.linspace(90, 140, SIDE), (SIDE, 1)) + 3 * k
        boxes, outlines = [], []
        for i, (x, y) in enumerate(corners[k % 2]):
            scale = 2 + (i + k) % 2
            glyph = np.kron(images[3 * k + i, 0], np.ones((scale, scale)))
            canvas[y : y + 8 * scale, x : x + 8 * scale] = glyph
            box = (x, y, x + 8 * scale, y + 8 * scale)
            boxes.append(box)
            left, upper, right, lower = box
            outlines.append([[left, upper, right, upper, right, lower, left, lower]])
        array = np.array(boxes, dtype=np.float64)
        objects = Objects(
            height=SIDE,
            width=SIDE,
            boxes=array,
            labels=numbers[3 * k : 3 * k + 3],
            difficult=np.zeros(3, bool),
            crowd=np.zeros(3, bool),
            areas=np.prod(array[:, 2:] - array[:, :2], axis=1),
            outlines=tuple(outlines),
        )
        yield torch.tensor(canvas / 255, dtype=torch.float32).expand(3, -1, -1).clone(), objects


# Networks


def test_c4_is_the_backbone_cut_before_its_fourth_stage() -> None:
    """On whole images, trunk and fourth stage together give the backbone's features."""
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for settings in (NARROW, Backbone(name="resnet18", stem="7x7-maxpool")):
        backbone, _ = build_backbone(settings)
        backbone.eval()
        trunk, fourth = stages(backbone)
        with torch.inference_mode():
            torch.testing.assert_close(fourth(trunk(images)).mean((2, 3)), backbone(images))


def test_the_papers_networks_have_their_size() -> None:
    """Counted by hand: ResNet-50, proposals from 15 anchors a place, 20 classes and background."""
    resnet = 23_508_032
    proposals = 1024 * 1024 * 9 + 1024 + (1024 + 1) * 15 * (1 + 4)
    boxes = (2048 + 1) * 21 * (1 + 4)
    mask = 2048 * 256 * 4 + 256 + (256 + 1) * 21
    plain = Detector(extra_norm=False)
    faster = made(plain, RESNET50, classes=20)
    masked = made(plain.model_copy(update={"masks": True}), RESNET50, classes=20)
    assert weights_of(faster) == resnet + proposals + boxes
    assert weights_of(masked) == resnet + proposals + boxes + mask
    extra = made(Detector(), RESNET50, classes=20)
    assert weights_of(extra) == weights_of(faster) + 2 * 2048
    assert isinstance(extra.roi_heads.box_head.layers[1], PerViewBatchNorm2d)
    # Nothing is frozen, the stride is in the 3 x 3 convolution, and the features' step is 16.
    assert all(weight.requires_grad for weight in extra.parameters())
    assert extra.roi_heads.box_head.layers[0][0].conv2.stride == (2, 2)
    with torch.inference_mode():
        assert extra.eval().backbone(torch.zeros(1, 3, 64, 96)).shape == (1, 1024, 4, 6)


def test_masks_are_told_from_what_boxes_are_told_from(
    digits: tuple[np.ndarray, np.ndarray],
) -> None:
    """In training by one pass, as in detectron2: of the positive regions, in their order."""
    model = made(FEWER.model_copy(update={"masks": True}))
    examples = [(image, target_of(objects, True)) for image, objects in composites(digits)]
    seen: dict[str, list[Tensor]] = {"stage": [], "head": [], "masks": []}
    heads = model.roi_heads
    for name, part in (
        ("stage", heads.box_head.layers),
        ("head", heads.box_predictor),
        ("masks", heads.mask_predictor),
    ):
        part.register_forward_hook(lambda _, given, told, name=name: seen[name].append(given[0]))
    trained(model, FEW.model_copy(update={"iterations": 1}), examples)
    (regions,), (features,), (maps,) = seen.values()
    assert len(features) == len(regions)
    positive = heads.fg_bg_sampler.positive
    assert 0 < int(positive.sum()) < len(positive) == len(regions)
    assert torch.equal(maps.mean((2, 3)), features[positive])
    # What boxes and masks are told from has one set of weights, which the state has once.
    names = [name for name in model.state_dict() if name.startswith("roi_heads.mask")]
    assert all(name.startswith("roi_heads.mask_predictor.") for name in names)


def test_what_is_chosen_is_torchvisions_share() -> None:
    """As `BalancedPositiveNegativeSampler`: as many of each kind; marks are of the right ones."""
    from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

    labels = [
        torch.cat([torch.full((n,), value) for n, value in zip(counts, (-1, 0, 2), strict=True)])
        for counts in ((3, 40, 30), (0, 2, 30), (5, 50, 1), (0, 3, 0))
    ]
    chosen = Chosen(16, 0.25)
    chosen.generators = [torch.Generator().manual_seed(k) for k in range(4)]
    told = chosen(labels)
    theirs = BalancedPositiveNegativeSampler(16, 0.25)(labels)
    for ours, other in zip(told, theirs, strict=True):
        assert [int(one.sum()) for one in ours] == [int(one.sum()) for one in other]
    for label, positive, negative in zip(labels, *told, strict=True):
        assert (label[positive.bool()] > 0).all()
        assert (label[negative.bool()] == 0).all()
    assert chosen.positive.tolist() == [
        value > 0
        for label, positive, negative in zip(labels, *told, strict=True)
        for value in label[(positive | negative).bool()].tolist()
    ]
    # An image's choice follows from its own generator alone.
    chosen.generators = [torch.Generator().manual_seed(2)]
    assert torch.equal(chosen(labels[2:3])[1][0], told[1][2])


def test_a_pyramid_is_of_all_stages() -> None:
    settings = Detector(form="fpn", extra_norm=False, short_sides=(64,), masks=True)
    model = made(settings, Backbone(name="resnet18", stem="7x7-maxpool"), classes=3).eval()
    with torch.inference_mode():
        levels = model.backbone(torch.zeros(1, 3, 64, 64))
        assert [tuple(x.shape[1:]) for x in levels.values()] == [
            (256, side, side) for side in (16, 8, 4, 2, 1)
        ]
        (told,) = model([torch.zeros(3, 64, 64)])
    assert set(told) == {"boxes", "labels", "scores", "masks"}
    with pytest.raises(ValueError, match="with `small` take the form c4"):
        made(settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "fpn"}, "give `extra_norm: false` with fpn"),
        ({"form": "fpn", "extra_norm": False, "anchors": (8, 16)}, "fpn takes 5 anchors"),
        ({"short_sides": (800, 480)}, "short_sides must rise"),
        ({"anchors": ()}, "at least 1"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Detector(**settings)


# Training


def test_the_rate_is_detectron2s() -> None:
    """At its bounds, by hand: VOC rises from a third over 1000 iterations."""
    assert rate(VOC_24K, 0) == pytest.approx(0.0333)
    assert rate(VOC_24K, 500) == pytest.approx(0.1 * (0.333 + 1) / 2)
    assert [rate(VOC_24K, k) for k in (1000, 17_999)] == [0.1, 0.1]
    assert rate(VOC_24K, 18_000) == rate(VOC_24K, 21_999) == pytest.approx(0.01)
    assert rate(VOC_24K, 22_000) == pytest.approx(0.001)
    assert rate(COCO_1X, 0) == pytest.approx(0.03 * 0.001)
    assert rate(COCO_1X, 60_000) == pytest.approx(0.003)
    assert (VOC_24K.iterations, COCO_1X.iterations, COCO_C4.masks) == (24_000, 90_000, True)
    plain = DetectorTraining(iterations=10, learning_rate=0.2, warmup=0)
    assert rate(plain, 0) == 0.2


def test_norms_do_not_decay() -> None:
    model = made(SMALL)
    decayed, plain = sgd(model, VOC_24K).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (1e-4, 0)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(plain["params"]) == 2 * len(norms)
    total = len(plain["params"]) + len(decayed["params"])
    assert total == len(list(model.parameters()))


def test_targets_leave_crowds_and_empty_boxes_out_and_keep_difficult_objects() -> None:
    pytest.importorskip("pycocotools")
    boxes = np.array([[0, 0, 4, 3], [0, 0, 6, 6], [2, 2, 2, 5], [1, 1, 3, 3]], dtype=float)
    image = Objects(
        height=6,
        width=7,
        boxes=boxes,
        labels=np.array([0, 1, 2, 3]),
        difficult=np.array([False, False, False, True]),
        crowd=np.array([False, True, False, False]),
        areas=np.ones(4),
        outlines=([[0, 0, 4, 0, 4, 3, 0, 3]], None, None, [[1, 1, 3, 1, 3, 3, 1, 3]]),
    )
    target = target_of(image, masks=True)
    assert_array_equal(target["labels"], [1, 4])
    assert_array_equal(target["boxes"], boxes[[0, 3]])
    assert_array_equal(target["masks"].sum((1, 2)), [12, 4])
    assert target["masks"][0, :3, :4].all()
    assert "masks" not in target_of(image, masks=False)
    nothing = np.zeros(0)
    empty = Objects(6, 7, boxes[:0], nothing.astype(int), nothing == 1, nothing == 1, nothing)
    assert target_of(empty, masks=False)["boxes"].shape == (0, 4)


def test_what_is_found_counts_classes_from_nought() -> None:
    output = {
        "boxes": torch.tensor([[0.0, 0, 2, 2]]),
        "labels": torch.tensor([3]),
        "scores": torch.tensor([0.5]),
        "masks": torch.tensor([[[[0.5, 0.49], [0.9, 0.0]]]]),
    }
    mask = pytest.importorskip("pycocotools.mask")
    detections = found_in(output)
    assert_array_equal(detections.labels, [2])
    assert detections.masks is not None
    assert_array_equal(mask.decode(detections.masks[0]), [[1, 0], [1, 0]])


FEWER = SMALL.model_copy(update={"proposals": 30, "regions": 16})
FEW = DetectorTraining(iterations=6, learning_rate=0.02, warmup=2, batch_size=4)


def trained(
    model: nn.Module,
    training: DetectorTraining,
    examples: list[tuple[Tensor, Target]],
    optimizer: torch.optim.Optimizer | None = None,
    first: int = 0,
    last: int | None = None,
) -> torch.optim.Optimizer:
    """Trained on all examples in every iteration; until `last`, if it is given."""
    optimizer = optimizer or sgd(model, training)
    images, targets = [x for x, _ in examples], [y for _, y in examples]
    steps = train(
        model,
        optimizer,
        training,
        lambda _: (images, targets),
        lambda iteration, place: generator(0, "detection", iteration, place),
        first,
    )
    for done, _ in steps:
        if done == last:
            break
    return optimizer


def test_an_iteration_is_a_function_of_state_and_number(
    digits: tuple[np.ndarray, np.ndarray],
) -> None:
    """Ended after two iterations and gone on with from what was stored: the same weights."""
    examples = [(image, target_of(objects, False)) for image, objects in composites(digits)]
    whole = made(FEWER)
    trained(whole, FEW, examples)
    ended = made(FEWER)
    state = trained(ended, FEW, examples, last=2).state_dict()
    gone_on = made(FEWER)
    gone_on.load_state_dict(ended.state_dict())
    torch.manual_seed(99)  # what else was drawn does not matter
    optimizer = sgd(gone_on, FEW)
    optimizer.load_state_dict(state)
    trained(gone_on, FEW, examples, optimizer, first=2)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, gone_on.state_dict()[name]), name


def test_norms_are_settled_on_what_comes_after_training(
    digits: tuple[np.ndarray, np.ndarray],
) -> None:
    """Their running statistics are the mean of those of as many batches, of equal weight."""
    examples = [(image, target_of(objects, False)) for image, objects in composites(digits)]
    model = made(FEWER)
    trained(model, FEW, examples)
    weights = {name: weight.clone() for name, weight in model.named_parameters()}
    norm = next(each for each in model.modules() if isinstance(each, nn.BatchNorm2d))
    seen: list[Tensor] = []
    norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    asked: list[int] = []

    def batches(iteration: int) -> tuple[list[Tensor], list[Target]]:
        asked.append(iteration)
        return [x * iteration / 12 for x, _ in examples], [y for _, y in examples]

    settle_norms(
        model, FEW, batches, lambda iteration, place: generator(0, "detection", iteration, place)
    )
    assert asked == [6, 7, 8, 9, 10, 11]
    assert norm.running_mean is not None
    assert norm.running_var is not None
    maps = [each.transpose(0, 1).flatten(1) for each in seen]
    assert torch.allclose(norm.running_mean, torch.stack([x.mean(1) for x in maps]).mean(0))
    assert torch.allclose(norm.running_var, torch.stack([x.var(1) for x in maps]).mean(0))
    assert norm.momentum == 0.1
    assert all(torch.equal(weights[name], weight) for name, weight in model.named_parameters())


UNEQUAL = SMALL.model_copy(
    update={"masks": True, "short_sides": (40, 48, 56), "proposals": 20, "regions": 64}
)
"""Sides are drawn, and images have other numbers of regions, as there are fewer than wanted."""
TOGETHER = DetectorTraining(iterations=3, learning_rate=0.02, warmup=2, batch_size=4)


def unequal() -> Iterator[tuple[Tensor, Target]]:
    """Four images of other sizes, in float64, with other numbers of objects."""
    draws = torch.Generator().manual_seed(0)
    for count, (height, width) in enumerate(((48, 64), (64, 40), (56, 56), (40, 60)), start=1):
        corners = torch.tensor([[4 + 8 * k, 6, 20 + 8 * k, 26] for k in range(count)])
        masks = torch.zeros((count, height, width), dtype=torch.uint8)
        for mask, (left, upper, right, lower) in zip(masks, corners.tolist(), strict=True):
            mask[upper:lower, left:right] = 1
        target = {"boxes": corners.double(), "labels": 1 + torch.arange(count), "masks": masks}
        yield torch.rand((3, height, width), generator=draws, dtype=torch.float64), target


def train_own() -> tuple[dict[str, Tensor], list[dict[str, float]], int]:
    """This process' part of a training: weights, losses of each iteration, its regions."""
    model = made(UNEQUAL).double()
    assigned = model.rpn.assign_targets_to_anchors

    def in_float64(*given: Any) -> tuple[list[Tensor], list[Tensor]]:
        labels, boxes = assigned(*given)
        return [each.double() for each in labels], boxes

    # torchvision has the labels of anchors in float32, and so the loss on them.
    model.rpn.assign_targets_to_anchors = in_float64
    own = list(unequal())[processes.own_rows(TOGETHER.batch_size)]
    images, targets = [image for image, _ in own], [target for _, target in own]
    steps = train(
        model,
        sgd(model, TOGETHER),
        TOGETHER,
        lambda _: (images, targets),
        lambda iteration, place: generator(0, "detection", iteration, place),
    )
    losses = [told for _, told in steps]
    processes.must_be_equal(model.state_dict())
    return model.state_dict(), losses, len(model.roi_heads.fg_bg_sampler.positive)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_train_what_one_does(count: int) -> None:
    """Weights, running statistics and losses, though each has other sizes and other regions."""
    state, losses, regions = train_own()
    found = by_processes(count, train_own)
    numbers = [of_one for *_, of_one in found]
    assert sum(numbers) == regions
    assert len(set(numbers)) > 1, "all have as many regions: nothing unequal was tried"
    for theirs, told, _ in found:
        for name, expected in state.items():
            torch.testing.assert_close(theirs[name], expected, rtol=1e-9, atol=1e-11, msg=name)
        for one, other in zip(told, losses, strict=True):
            assert one == pytest.approx(other, rel=1e-9)


@pytest.mark.slow
def test_a_detector_overfits_four_composites(digits: tuple[np.ndarray, np.ndarray]) -> None:
    """Twelve real digits in four images are found again, by boxes and by masks."""
    pytest.importorskip("pycocotools")
    from barlow_atlas.probes.coco import coco_metrics

    pairs = list(composites(digits))
    examples = [(image, target_of(objects, True)) for image, objects in pairs]
    model = made(FEWER.model_copy(update={"masks": True}))
    training = DetectorTraining(
        iterations=70, learning_rate=0.02, warmup=20, drops=(45,), batch_size=4
    )
    truth = [objects for _, objects in pairs]

    def told() -> list[Found]:
        model.eval()
        with torch.inference_mode():
            return [found_in(each) for each in model([image for image, _ in pairs])]

    before = voc_metrics(truth, told(), 10, "area")
    trained(model, training, examples)
    after = voc_metrics(truth, told(), 10, "area")
    assert before["ap50"] < 10
    assert after["ap50"] >= 90
    assert coco_metrics(truth, told(), 10, "segm")["ap50"] >= 90
