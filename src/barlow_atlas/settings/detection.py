"""Parameters of detectors and their training, with the published values. Loads no torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from barlow_atlas.settings.frozen import Frozen
from barlow_atlas.settings.training import NotNegative, Positive, PositiveNumber

Sizes = Annotated[tuple[Positive, ...], Field(min_length=1, strict=False)]


PYRAMID_LEVELS = 5


class Detector(Frozen):
    """Faster R-CNN, with `masks` Mask R-CNN, on a pre-trained backbone.

    The defaults are MoCo's C4 (detectron2's Base-RCNN-C4 with one more batch norm), which Barlow
    Twins follows; what torchvision's parts do otherwise is told in docs/objects.md.
    """

    form: Literal["c4", "fpn"] = Field(
        "c4",
        description="c4: regions are cut out of the third stage's output and pass the fourth; fpn: "
        "a feature pyramid of all stages and two fully connected layers, not the papers'",
    )
    masks: bool = Field(False, description="whether a mask of each object is learnt as well")
    extra_norm: bool = Field(True, description="c4: a batch norm behind the fourth stage")
    short_sides: Sizes = Field(
        (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
        description="pixels of an image's shorter side, rising: in training one of them is drawn, "
        "in testing it is the last",
    )
    long_side: Positive = Field(1333, description="pixels of the longer side, at most")
    anchors: Sizes = Field((32, 64, 128, 256, 512), description="pixels a side of a square anchor")
    proposals: Positive = Field(2000, description="that reach the head in training")
    test_proposals: Positive = Field(1000, description="that reach the head in testing")
    regions: Positive = Field(512, description="of an image that the head is trained on")

    @model_validator(mode="after")
    def _parts_fit(self) -> "Detector":
        if list(self.short_sides) != sorted(set(self.short_sides)):
            raise ValueError(f"short_sides must rise: {list(self.short_sides)}")
        if self.form == "fpn" and self.extra_norm:
            raise ValueError("extra_norm belongs to the form c4: give `extra_norm: false` with fpn")
        if self.form == "fpn" and len(self.anchors) != PYRAMID_LEVELS:
            raise ValueError(f"fpn takes {PYRAMID_LEVELS} anchors, one for each of its levels")
        return self


class DetectorTraining(Frozen):
    """SGD with momentum 0.9: a linear warm-up, then drops to a tenth.

    The defaults are Barlow Twins' for VOC07+12 (arXiv:2103.03230, appendix).
    """

    iterations: Positive = 24_000
    batch_size: Positive = 16
    learning_rate: PositiveNumber = 0.1
    drops: Annotated[tuple[Positive, ...], Field(strict=False)] = Field(
        (18_000, 22_000), description="iterations from which on the rate is a tenth, rising"
    )
    warmup: Annotated[int, Field(ge=0)] = Field(1000, description="iterations")
    warmup_start: PositiveNumber = Field(
        0.333, description="share of the learning rate in the first iteration of the warm-up"
    )
    weight_decay: NotNegative = 1e-4

    @model_validator(mode="after")
    def _drops_rise(self) -> "DetectorTraining":
        if list(self.drops) != sorted(set(self.drops)):
            raise ValueError(f"drops must rise: {list(self.drops)}")
        return self


VOC_24K = DetectorTraining()

COCO_1X = DetectorTraining(
    iterations=90_000, learning_rate=0.03, drops=(60_000, 80_000), warmup_start=0.001
)
"""Barlow Twins' rate in detectron2's 1x schedule: COCO train2017."""

COCO_C4 = Detector(masks=True, short_sides=(640, 672, 704, 736, 768, 800))
"""detectron2's Mask R-CNN C4 for COCO, with MoCo's extra norm."""

SMALL = Detector(
    short_sides=(64,),
    long_side=64,
    anchors=(12, 20, 32),
    proposals=100,
    test_proposals=50,
    regions=32,
)
"""For images of 64 pixels on two cores."""
