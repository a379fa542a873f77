"""What happens to an image before the network sees it: parameters only, no computation.

`views.py` carries these out on the device. The named recipes are columns of the tables in the
papers' code; see docs/recipes.md for where each value was read.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from barlow_atlas.settings.frozen import Frozen

Probability = Annotated[float, Field(ge=0, le=1, description="probability")]
Strength = Annotated[float, Field(ge=0, description="strength of the jitter")]
Triple = Annotated[
    tuple[float, float, float], Field(strict=False, description="of R, G, B on the scale 0 to 1")
]
Range = Annotated[tuple[float, float], Field(strict=False)]


class Augmentation(Frozen):
    """The random transform of one view, with torchvision's meaning of every parameter.

    Operations come in the order crop, flip, colour jitter, grayscale, blur, solarise; with
    `crop_last` the order is colour jitter, grayscale, blur, solarise, crop, flip.
    """

    crop_scale: Range = Field(description="smallest and largest share of the area that is kept")
    crop_ratio: Range = Field((3 / 4, 4 / 3), description="range of the crop's width / height")
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    crop_last: bool = Field(False, description="crop and flip after the colour operations")
    flip_p: Probability = 0.5
    brightness: Strength = 0.0
    contrast: Strength = 0.0
    saturation: Strength = 0.0
    hue: Annotated[Strength, Field(le=0.5)] = 0.0
    jitter_p: Probability = 0.0
    grayscale_p: Probability = 0.0
    blur_p: Probability = 0.0
    blur_sigma: Range = Field(
        (0.1, 2.0), description="range of the blur's sigma, pixels, whatever the image's size"
    )
    solarise_p: Probability = 0.0
    solarise_threshold: float = Field(128 / 255, ge=0, le=1, description="on the scale 0 to 1")

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> "Augmentation":
        for name in ("crop_scale", "crop_ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(
                    f"{name} must be two positive numbers, smaller first: {low}, {high}"
                )
        if self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale is a share of the area, at most 1: {self.crop_scale}")
        return self


class Recipe(Frozen):
    """Everything between a stored uint8 image and the network's input.

    The two views are drawn from `view_a` and `view_b`. Evaluation images are resized so that their
    shorter side is `evaluation_resize` (None: the study's image size) and centre-cropped to the
    study's image size. Both are normalised by `mean` and `std` (R, G, B on the scale 0 to 1).
    """

    view_a: Augmentation
    view_b: Augmentation
    evaluation_resize: int | None = Field(
        None, gt=0, description="pixels of an evaluation image's shorter side; none: image_size"
    )
    evaluation_interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    mean: Triple
    std: Triple

    @model_validator(mode="after")
    def _std_is_positive(self) -> "Recipe":
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive in every channel: {self.std}")
        return self


def _recipe(view: Augmentation, **rest: Any) -> Recipe:
    """A recipe that draws both views from one pipeline."""
    return Recipe(view_a=view, view_b=view, **rest)


def _changed(recipe: Recipe, change: dict[str, Any]) -> Recipe:
    """`recipe` with the same change in both views."""
    views = {name: getattr(recipe, name).model_copy(update=change) for name in ("view_a", "view_b")}
    return recipe.model_copy(update=views)


_JITTER: dict[str, Any] = {
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "jitter_p": 0.8,
}
# MIX's CIFAR pipeline; MoCo's CIFAR-10 demo, where it comes from, has the same numbers.
_MIX_CIFAR = Augmentation(crop_scale=(0.08, 1.0), grayscale_p=0.2, **_JITTER)
# The pipeline of MIX's baselines (ssl-sota) on every data set; MIX took it for these two.
_SSL_SOTA = Augmentation(
    crop_scale=(0.2, 1.0), interpolation="bicubic", crop_last=True, grayscale_p=0.1, **_JITTER
)
# BYOL's pair, which the BT paper takes over: view A is always blurred, view B may be solarised.
_BYOL: dict[str, Any] = {
    **_JITTER,
    "crop_scale": (0.08, 1.0),
    "interpolation": "bicubic",
    "saturation": 0.2,
    "grayscale_p": 0.2,
}
# solo-learn on both CIFARs (scripts/pretrain/cifar/*.sh @ 48e669e), which have no blur.
_SOLO = Augmentation(
    crop_scale=(0.08, 1.0),
    interpolation="bicubic",
    brightness=0.4,
    contrast=0.4,
    saturation=0.2,
    hue=0.1,
    jitter_p=0.8,
    grayscale_p=0.2,
)
_SOLO_STRONG = _SOLO.model_copy(
    update={"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
)
_SOLO_VIEWS: dict[str, tuple[Augmentation, Augmentation]] = {
    "asymmetric": (_SOLO, _SOLO.model_copy(update={"solarise_p": 0.2})),
    "strong": (_SOLO_STRONG,) * 2,
    "weak": (_SOLO.model_copy(update={"saturation": 0.4}),) * 2,
    "strong-crop": (_SOLO_STRONG.model_copy(update={"crop_scale": (0.2, 1.0)}),) * 2,
    "vicreg": (_SOLO.model_copy(update={"crop_scale": (0.2, 1.0), "solarise_p": 0.1}),) * 2,
}
# Handwritten digits are upright and grey: a crop and a change of contrast keep what they mean.
_DIGITS = Augmentation(
    crop_scale=(0.5, 1.0), flip_p=0.0, brightness=0.4, contrast=0.4, jitter_p=0.8
)

_CIFAR10: dict[str, Any] = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
_CIFAR100: dict[str, Any] = {"mean": (0.5071, 0.4867, 0.4408), "std": (0.2675, 0.2565, 0.2761)}

# solo-learn's own mean and std.
_SOLO_STATISTICS: dict[str, tuple[Triple, Triple]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}

_PUBLISHED: dict[str, Recipe] = {
    "digits": _recipe(_DIGITS, mean=(0.305, 0.305, 0.305), std=(0.376, 0.376, 0.376)),
    "mix-cifar": _recipe(_MIX_CIFAR, **_CIFAR10),
    "mix-tiny-imagenet": _recipe(_SSL_SOTA, mean=(0.480, 0.448, 0.398), std=(0.277, 0.269, 0.282)),
    "mix-stl10": _recipe(
        _SSL_SOTA, evaluation_resize=70, mean=(0.43, 0.42, 0.39), std=(0.27, 0.26, 0.27)
    ),
    "ssl-sota-cifar10": _recipe(_SSL_SOTA, **_CIFAR10),
    "ssl-sota-cifar100": _recipe(_SSL_SOTA, **_CIFAR100),
    # MoCo v2's pipeline without its blur.
    "simsiam-cifar": _recipe(
        Augmentation(crop_scale=(0.2, 1.0), grayscale_p=0.2, **_JITTER), **_CIFAR10
    ),
    # Only the crop is lightly's; the jitter, whose strength changed there, is MIX's.
    "swav-cifar": _recipe(_MIX_CIFAR.model_copy(update={"crop_scale": (0.14, 1.0)}), **_CIFAR10),
    "vicreg-cifar": _recipe(
        Augmentation(**{**_BYOL, "crop_scale": (0.2, 1.0), "solarise_p": 0.1}), **_CIFAR10
    ),
    **{
        f"solo-{name}-{data}": Recipe(view_a=view_a, view_b=view_b, mean=mean, std=std)
        for name, (view_a, view_b) in _SOLO_VIEWS.items()
        for data, (mean, std) in _SOLO_STATISTICS.items()
    },
    "byol-imagenet": Recipe(
        view_a=Augmentation(**_BYOL, blur_p=1.0),
        view_b=Augmentation(**_BYOL, blur_p=0.1, solarise_p=0.2),
        evaluation_resize=256,
        evaluation_interpolation="bilinear",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
}

# What figure 3 of the BT paper takes away, one step after the other.
_REMOVED: dict[str, dict[str, Any]] = {"no-grayscale": {"grayscale_p": 0.0}}
_REMOVED["no-colour"] = {**_REMOVED["no-grayscale"], "jitter_p": 0.0}
_REMOVED["crop-blur"] = {**_REMOVED["no-colour"], "flip_p": 0.0, "solarise_p": 0.0}
_REMOVED["crop"] = {**_REMOVED["crop-blur"], "blur_p": 0.0}

RECIPES: dict[str, Recipe] = {
    **_PUBLISHED,
    **{
        f"{name}-{step}": _changed(_PUBLISHED[name], change)
        for name in ("mix-cifar", "byol-imagenet")
        for step, change in _REMOVED.items()
        # MIX's pipeline has no blur.
        if (name, step) != ("mix-cifar", "crop-blur")
    },
}
