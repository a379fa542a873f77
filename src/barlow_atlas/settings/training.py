"""Parameters of what is trained and how: networks, optimizers, schedules. Loads no torch."""

import re
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from barlow_atlas.errors import not_allowed
from barlow_atlas.settings.frozen import Frozen

Positive = Annotated[int, Field(gt=0)]
PositiveNumber = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Precision = Literal["float32", "bfloat16"]


TIMM = "timm/"
RESNETS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *("wide_resnet50_2", "wide_resnet101_2"),
)
"""torchvision's, by its names."""


class Backbone(Frozen):
    """The encoder whose features are probed."""

    name: str = Field(
        description="a ResNet of torchvision, `small`, or a model of timm as `timm/<model>`",
        json_schema_extra={
            "anyOf": [
                {"enum": [*RESNETS, "small"]},
                {"type": "string", "pattern": f"^{TIMM}[A-Za-z0-9_]+$"},
            ]
        },
    )
    stem: Literal["3x3", "3x3-pad2", "3x3-maxpool", "7x7-maxpool", "own"] = Field(
        description="first convolution (stride 1 for 3x3, 2 for 7x7) and whether max-pool follows; "
        "3x3-pad2 is padded by 2 instead of 1, as solo-learn's networks for CIFAR; own: as timm's "
        "model has it"
    )
    # With 4 channels oneDNN's backward pass through the strided shortcut writes past its memory on
    # CPUs with AVX2 and no AVX-512 (torch 2.13.0 and 2.14.1).
    width: Annotated[int, Field(ge=8)] | None = Field(
        None, description="channels of `small`'s first stage"
    )
    zero_init_residual: bool = Field(
        False, description="each residual branch starts at zero, as in Barlow Twins' ImageNet code"
    )

    options: dict[str, bool | int | float | str] | None = Field(
        None,
        exclude_if=lambda options: options is None,
        description="further arguments of timm's model, such as {img_size: 32, patch_size: 4}",
    )

    @property
    def timm(self) -> str | None:
        """The name by which timm knows it; None if it is none of timm's."""
        return self.name.removeprefix(TIMM) if self.name.startswith(TIMM) else None

    @field_validator("name")
    @classmethod
    def _is_known(cls, value: str) -> str:
        known = [*RESNETS, "small"]
        if value not in known and not re.fullmatch(rf"{TIMM}[A-Za-z0-9_]+", value):
            raise not_allowed("backbone", value, known, " Or timm/<model>, one of timm's.")
        return value

    @model_validator(mode="after")
    def _parts_fit(self) -> "Backbone":
        if self.timm is None and (self.stem == "own" or self.options is not None):
            raise ValueError("the stem own and `options` belong to timm's models, timm/<model>")
        if self.timm is not None and (self.stem == "7x7-maxpool" or self.zero_init_residual):
            raise ValueError(
                "timm's models begin as timm has it: give `stem: own` in place of 7x7-maxpool, and "
                "no `zero_init_residual`"
            )
        if (self.name == "small") != (self.width is not None):
            raise ValueError("`width` must be given for the backbone small, and for no other")
        if self.name == "small" and (self.zero_init_residual or self.stem == "3x3-pad2"):
            raise ValueError(
                "`zero_init_residual` and the stem 3x3-pad2 belong to the ResNets, not to small"
            )
        return self


class Projector(Frozen):
    """From features to embeddings: hidden layers, then a linear layer to the embedding's width."""

    hidden: Annotated[tuple[Positive, ...], Field(strict=False)] = Field(
        description="widths of the hidden layers; none makes the projector one linear layer"
    )
    hidden_bias: bool = Field(False, description="whether the hidden linear layers have a bias")
    output_bias: bool = Field(True, description="whether the last linear layer has a bias")
    batch_norm: bool = Field(True, description="batch norm between a hidden layer and its ReLU")
    output_norm: Literal["none", "plain", "affine"] = Field(
        "none", description="batch norm after the last layer, without or with weight and bias"
    )


class Architecture(NamedTuple):
    """What decides a network but its weights."""

    backbone: Backbone
    projector: Projector | None
    """None of foreign weights."""
    embedding_dim: int
    """d; without a projector it says nothing."""
    precision: Precision
    classes: int | None = None
    """Of the linear classifier beside the projector; None: there is none."""


class Adam(Frozen):
    """Kingma and Ba, arXiv:1412.6980, with beta 0.9 and 0.999 and epsilon 1e-8."""

    name: Literal["adam"]
    weight_decay: NotNegative = Field(description="added to the gradient (L2) of every parameter")


class SGD(Frozen):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NotNegative = Field(description="added to the gradient (L2) of every parameter")


class LARS(Frozen):
    """You, Gitman and Ginsburg, arXiv:1708.03888, in the form of Barlow Twins' code.

    One-dimensional parameters (biases and batch norm) are neither decayed nor adapted.
    """

    name: Literal["lars"]
    weight_decay: NotNegative = Field(description="added to the gradient (L2) of weights")
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    trust_coefficient: PositiveNumber = Field(0.001, description="eta in the papers")
    bias_lr_ratio: PositiveNumber = Field(
        0.024,
        description="rate of one-dimensional parameters over that of weights (Barlow Twins' code: "
        "0.0048 over 0.2)",
    )
    clipped: bool = Field(
        False,
        description="no weight's adapted rate exceeds the schedule's, as in solo-learn's recipes "
        "for CIFAR, which have trust_coefficient 0.02",
    )


Optimizer = Adam | SGD | LARS

PER_256 = "peak of the rate, multiplied by batch_size / 256"
Warmup = Annotated[int, Field(ge=0, description="epochs over which the rate rises linearly")]


class MixCosine(Frozen):
    """Linear warm-up, then half a cosine to 0.001 of the peak, all one epoch ahead: MIX's code."""

    name: Literal["mix_cosine"]
    base_lr: PositiveNumber = Field(description=PER_256)
    warmup_epochs: Warmup = 10


class BTCosine(Frozen):
    """Linear warm-up from 0, then half a cosine to 0.001 of the peak; Barlow Twins and VICReg."""

    name: Literal["bt_cosine"]
    base_lr: PositiveNumber = Field(description=PER_256)
    warmup_epochs: Warmup = 10


class StepCosine(Frozen):
    """Linear warm-up from `start_lr`, then half a cosine to 0, step by step; solo-learn."""

    name: Literal["step_cosine"]
    base_lr: PositiveNumber = Field(description=PER_256)
    warmup_epochs: Warmup = 10
    start_lr: NotNegative = Field(3e-5, description="rate of the first step")


class EpochCosine(Frozen):
    """Half a cosine from the base rate to 0, constant within an epoch; MoCo v2 and SimSiam."""

    name: Literal["epoch_cosine"]
    base_lr: PositiveNumber = Field(description="the rate of the first epoch")


class Drops(Frozen):
    """A constant rate that falls by one factor at given epochs."""

    name: Literal["drops"]
    base_lr: PositiveNumber = Field(description="the rate before the first drop")
    factor: Annotated[float, Field(gt=0, lt=1, description="of the rate, at each drop")]
    at: Annotated[tuple[int, ...], Field(min_length=1, strict=False)] = Field(
        description="finished epochs from which the rate is lower; negative: counted from the end"
    )
    warmup_steps: Annotated[int, Field(ge=0)] = Field(
        0, description="steps over which the rate rises linearly"
    )


class Trunk(Frozen):
    """A constant rate without an end; each milestone is annealed in a branch of its own.

    So every budget of epochs is annealed alike, and "trained longer" is told from "learning rate
    decayed". The branch falls linearly to 0.001 of the rate over `cooldown_epochs` and is what the
    probes see; the trunk itself goes on from where the branch began.
    """

    name: Literal["trunk"]
    base_lr: PositiveNumber = Field(description=PER_256)
    warmup_epochs: Warmup = 10
    cooldown_epochs: Positive = Field(description="length of a branch")


Schedule = MixCosine | BTCosine | StepCosine | EpochCosine | Drops | Trunk


class OnlineClassifier(Frozen):
    """A linear classifier that is trained along with a network, which it does not change.

    By the run's optimizer without decay, along its schedule.
    """

    classes: Annotated[int, Field(ge=2, description="of the images")]
    base_lr: PositiveNumber = Field(description="in place of schedule.base_lr")
