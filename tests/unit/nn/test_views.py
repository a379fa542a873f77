"""Views against torchvision, on real images.

Two kinds of tolerance. Against torchvision on float images both sides do the same arithmetic in
another order, so they differ by a few float32 roundings (6e-8 of numbers up to 1; more where a
position in pixels is rounded, or where contrast above 1 amplifies): FLOAT. Against PIL, which the
papers' code used, every operation rounds to 8 bits, and the bound counts those roundings in units
of LEVEL = 1/255.
"""

import importlib
import itertools
import math
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
import torch._inductor.metrics as compiler_metrics
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from sklearn.datasets import load_digits, load_sample_image
from torch import Tensor

from barlow_atlas.nn import views
from barlow_atlas.nn.views import ViewParameters, apply, draw, evaluate
from barlow_atlas.settings.augmentation import RECIPES, Augmentation

transforms = importlib.import_module(f"{torchvision.__name__}.transforms")
functional = importlib.import_module(f"{torchvision.__name__}.transforms.v2.functional")
MODES = {
    "bilinear": functional.InterpolationMode.BILINEAR,
    "bicubic": functional.InterpolationMode.BICUBIC,
}

MKLDNN: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]

FLOAT = 1e-5
LEVEL = 1 / 255
ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
"""Mean and std that leave an image as it is."""

VIEWS = {
    f"{name}/{which}": (recipe, getattr(recipe, f"view_{which}"))
    for name, recipe in RECIPES.items()
    for which in "ab"
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Batches are small here, and threads waiting for each other are slow on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _cifar() -> Tensor:
    for folder in os.environ.get("BARLOW_ATLAS_DATA", "").split(os.pathsep):
        batch = Path(folder or os.devnull) / "cifar-10-batches-py" / "test_batch"
        if batch.is_file():
            pixels = pickle.loads(batch.read_bytes(), encoding="latin1")["data"]
            return torch.from_numpy(pixels[:48].reshape(-1, 3, 32, 32).copy())
    pytest.skip("BARLOW_ATLAS_DATA names no folder with cifar-10-batches-py")


def _patches(height: int, width: int, count: int) -> Tensor:
    """`count` patches of a photograph of a temple and one of a flower, (count, 3, H, W) uint8."""
    photographs = [
        torch.from_numpy(np.array(load_sample_image(name))).permute(2, 0, 1)
        for name in ("china.jpg", "flower.jpg")
    ]
    corners = _generator(0)
    patches = []
    for i in range(count):
        photograph = photographs[i % 2]
        top = int(torch.randint(427 - height + 1, (), generator=corners))
        left = int(torch.randint(640 - width + 1, (), generator=corners))
        patches.append(photograph[:, top : top + height, left : left + width])
    return torch.stack(patches)


def _digits() -> Tensor:
    pixels = (load_digits().images[:48] * (255 / 16)).round().astype(np.uint8)
    return torch.from_numpy(pixels)[:, None].repeat(1, 3, 1, 1)


IMAGES: dict[str, Callable[[], Tensor]] = {
    "photographs": lambda: _patches(32, 32, 48),
    "oblong": lambda: _patches(40, 56, 24),
    "digits": _digits,
    "cifar10": _cifar,
}


@pytest.fixture(scope="module", params=IMAGES)
def images(request: pytest.FixtureRequest) -> Tensor:
    return IMAGES[request.param]()


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    return _patches(32, 32, 48)


def _float(images: Tensor) -> Tensor:
    return images.float() / 255


def _pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def _from_pil(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def _identity(images: Tensor) -> ViewParameters:
    """Parameters that change nothing."""
    n, _, height, width = images.shape
    zero, no = torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.bool)
    return ViewParameters(
        top=zero,
        left=zero,
        height=zero + height,
        width=zero + width,
        flip=no,
        jitter=no,
        order=torch.arange(4).repeat(n, 1),
        brightness=torch.ones(n),
        contrast=torch.ones(n),
        saturation=torch.ones(n),
        hue=torch.zeros(n),
        grayscale=no,
        blur=no,
        sigma=torch.ones(n),
        solarise=no,
    )


def _close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def _close_but_for_solarised(actual: Tensor, expected: Tensor, solarised: Tensor) -> None:
    """Views divided by std (at least 0.2); a rounding may decide on which side of 0.5 a pixel is.

    There x -> 1 - x is a step of 2 (128 / 255) - 1 = 1/255.
    """
    difference = (actual - expected).abs()
    assert difference[~solarised].max() <= 2 * FLOAT
    if solarised.any():
        assert difference[solarised].max() <= 1.1 * LEVEL / 0.2
        assert (difference[solarised] > 2 * FLOAT).sum() <= 3


def _torchvision_crop(image: Tensor, p: ViewParameters, a: Augmentation, size: int) -> Tensor:
    box = [int(v) for v in (p.top, p.left, p.height, p.width)]
    image = functional.resized_crop(
        image, *box, [size, size], interpolation=MODES[a.interpolation], antialias=True
    )
    # Float resizing leaves the overshoot of cubic kernels in, 8-bit resizing cuts it.
    image = image.clamp(0, 1)
    return functional.horizontal_flip(image) if p.flip else image


def _torchvision_colour(image: Tensor, p: ViewParameters, a: Augmentation) -> Tensor:
    jitter = {
        views.BRIGHTNESS: lambda x: functional.adjust_brightness(x, float(p.brightness)),
        views.CONTRAST: lambda x: functional.adjust_contrast(x, float(p.contrast)),
        views.SATURATION: lambda x: functional.adjust_saturation(x, float(p.saturation)),
        views.HUE: lambda x: functional.adjust_hue(x, float(p.hue)),
    }
    if p.jitter:
        for operation in p.order.tolist():
            image = jitter[operation](image)
    if p.grayscale:
        image = functional.rgb_to_grayscale(image, num_output_channels=3)
    if p.blur:
        side = 2 * views.blur_radius(a.blur_sigma[1], min(image.shape[-2:])) + 1
        image = functional.gaussian_blur(image, [side, side], [float(p.sigma)] * 2)
    if p.solarise:
        image = functional.solarize(image, a.solarise_threshold)
    return image


def _torchvision_view(
    image: Tensor, p: ViewParameters, a: Augmentation, size: int, mean: Any, std: Any
) -> Tensor:
    """The view of one float image (3, H, W), one torchvision function after the other."""
    if not a.crop_last:
        image = _torchvision_crop(image, p, a, size)
    image = _torchvision_colour(image, p, a)
    if a.crop_last:
        image = _torchvision_crop(image, p, a, size)
    return functional.normalize(image, mean, std)


# --- the whole view ---------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_view_equals_torchvision_operation_by_operation(images: Tensor, view: str) -> None:
    recipe, augmentation = VIEWS[view]
    n, _, height, width = images.shape
    size = max(8, min(height, width) // 2)
    parameters = draw(augmentation, n, height, width, _generator(1))
    expected = torch.stack(
        [
            _torchvision_view(
                image, _one(parameters, i), augmentation, size, recipe.mean, recipe.std
            )
            for i, image in enumerate(_float(images))
        ]
    )
    before = images.clone()
    actual = apply(images, parameters, augmentation, size, recipe.mean, recipe.std)
    assert actual.dtype == torch.float32
    assert actual.is_contiguous()
    _close_but_for_solarised(actual, expected, parameters.solarise)
    assert torch.equal(images, before)


def _one(parameters: ViewParameters, i: int) -> ViewParameters:
    return ViewParameters(**{f.name: getattr(parameters, f.name)[i] for f in fields(parameters)})


EVERYTHING = Augmentation(
    crop_scale=(0.08, 1.0),
    interpolation="bicubic",
    brightness=0.8,
    contrast=0.8,
    saturation=0.8,
    hue=0.5,
    jitter_p=0.9,
    grayscale_p=0.3,
    blur_p=0.5,
    solarise_p=0.5,
)


@pytest.mark.parametrize("crop_last", [False, True])
def test_all_24_orders_of_a_strong_jitter_equal_torchvision(
    photographs: Tensor, crop_last: bool
) -> None:
    augmentation = EVERYTHING.model_copy(update={"crop_last": crop_last})
    n = len(photographs)
    parameters = replace(
        draw(augmentation, n, 32, 32, _generator(2)),
        jitter=torch.ones(n, dtype=torch.bool),
        order=torch.tensor(list(itertools.permutations(range(4)))).repeat(2, 1),
        # A threshold decides by the last bit; the test of solarise has a safe distance.
        solarise=torch.zeros(n, dtype=torch.bool),
    )
    expected = torch.stack(
        [
            _torchvision_view(image, _one(parameters, i), augmentation, 32, ZERO, ONE)
            for i, image in enumerate(_float(photographs))
        ]
    )
    _close(apply(photographs, parameters, augmentation, 32, ZERO, ONE), expected, FLOAT)


@pytest.mark.parametrize("view", VIEWS)
def test_the_form_for_the_compiler_gives_the_same_view(images: Tensor, view: str) -> None:
    """The very code that is compiled, carried out line by line."""
    recipe, augmentation = VIEWS[view]
    parameters = draw(augmentation, len(images), *images.shape[-2:], _generator(1))
    arguments = (parameters, augmentation, 24, recipe.mean, recipe.std)
    torch.compiler.reset()
    with torch.compiler.set_stance("force_eager"):
        actual = apply(images, *arguments, compiled=True)
    assert actual.dtype == torch.float32
    assert actual.is_contiguous()
    _close_but_for_solarised(actual, apply(images, *arguments), parameters.solarise)


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="needs a C++ compiler"
)
def test_compiled_views_are_the_plain_ones_and_compiled_once(photographs: Tensor) -> None:
    """An operation on pixels, one on whole images and one on matrices; more takes a minute."""
    augmentation = Augmentation(
        crop_scale=(0.08, 1.0), contrast=0.8, hue=0.5, jitter_p=0.9, blur_p=0.5
    )
    torch.compiler.reset()
    compiler_metrics.reset()
    for seed, stance in ((1, "default"), (2, "fail_on_recompile")):
        parameters = draw(augmentation, 48, 32, 32, _generator(seed))
        arguments = (photographs, parameters, augmentation, 24, ZERO, ONE)
        with torch.compiler.set_stance(stance):
            actual = apply(*arguments, compiled=True)
        _close(actual, apply(*arguments), FLOAT)
    assert compiler_metrics.generated_kernel_count > 0


@pytest.mark.parametrize("view", VIEWS)
def test_view_of_an_image_does_not_depend_on_its_batch(photographs: Tensor, view: str) -> None:
    """Matrix products and vector loops may take another path for another batch: 1e-6, not 0."""
    recipe, augmentation = VIEWS[view]
    parameters = draw(augmentation, len(photographs), 32, 32, _generator(3))

    def view_of(rows: Tensor) -> Tensor:
        return apply(photographs[rows], parameters[rows], augmentation, 24, recipe.mean, recipe.std)

    everything = view_of(torch.arange(48))
    for rows in (
        torch.randperm(48, generator=_generator(4)),
        torch.arange(5, 29),
        torch.arange(47, 48),
        torch.tensor([7, 7, 7]),
    ):
        _close(view_of(rows), everything[rows], 1e-6 / min(recipe.std))


@pytest.mark.parametrize("view", VIEWS)
def test_views_in_one_batch_are_the_views_one_by_one(photographs: Tensor, view: str) -> None:
    recipe, augmentation = VIEWS[view]
    drawn = [draw(augmentation, 48, 32, 32, _generator(seed)) for seed in (1, 2)]
    rest = 32, recipe.mean, recipe.std
    together = views.in_one_batch([photographs, photographs], drawn, augmentation, *rest)
    for found, parameters in zip(together, drawn, strict=True):
        assert torch.equal(found, apply(photographs, parameters, augmentation, *rest))


@pytest.mark.parametrize("view", VIEWS)
def test_a_jitter_in_stages_gives_the_same_views(
    photographs: Tensor, view: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, augmentation = VIEWS[view]
    drawn = draw(augmentation, 48, 32, 32, _generator(1))
    rest = 32, recipe.mean, recipe.std
    expected = apply(photographs, drawn, augmentation, *rest)
    monkeypatch.setattr(views, "_counts_kernels", lambda _: True)
    assert torch.equal(apply(photographs, drawn, augmentation, *rest), expected)


def test_a_jitter_in_stages_keeps_each_images_order() -> None:
    """Every order of four operations, and of three of them."""
    orders = torch.tensor([*itertools.permutations(range(4))])
    for left_out in (None, views.CONTRAST):
        order = orders[orders != left_out].view(24, -1) if left_out is not None else orders
        staged = views._staged(order)
        found = [[each for each in row if each != views.WAITING] for row in staged.tolist()]
        assert found == order.tolist()
        # Hue, in two stages of its own.
        of_hue = (staged == views.HUE).any(dim=0)
        assert int(of_hue.sum()) == 2
        assert (staged[:, of_hue] >= views.HUE).all()


def test_few_images_are_changed_by_one_thread_and_many_by_all(
    photographs: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, augmentation = VIEWS["mix-cifar/a"]
    height, width = photographs.shape[-2:]
    parameters = draw(augmentation, len(photographs), height, width, _generator(0))
    threads: list[int] = []
    colour = views.colour

    def colour_by(images: Tensor, *others: Any) -> Tensor:
        threads.append(torch.get_num_threads())
        return colour(images, *others)

    monkeypatch.setattr(views, "colour", colour_by)
    torch.set_num_threads(2)
    try:
        for few in (photographs.numel(), photographs.numel() - 1):
            monkeypatch.setattr(views, "FEW", few)
            views.apply(photographs, parameters, augmentation, 32, recipe.mean, recipe.std)
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert threads == [1, 2]


def test_identity_parameters_give_the_normalised_input_exactly(images: Tensor) -> None:
    square = images[..., : min(images.shape[-2:]), : min(images.shape[-2:])]
    recipe = RECIPES["mix-cifar"]
    expected = functional.normalize(_float(square), recipe.mean, recipe.std)
    for crop_last, interpolation in itertools.product((False, True), MODES):
        augmentation = recipe.view_a.model_copy(
            update={"crop_last": crop_last, "interpolation": interpolation}
        )
        view = apply(
            square, _identity(square), augmentation, square.shape[-1], recipe.mean, recipe.std
        )
        assert torch.equal(view, expected)


def test_neutral_factors_change_nothing(photographs: Tensor) -> None:
    """Factor 1 and shift 0, asked for by name and beside images that do change."""
    parameters = replace(_identity(photographs), jitter=torch.ones(48, dtype=torch.bool))
    parameters.hue[24:] = 0.25
    parameters.brightness[24:] = 0.5
    view = apply(photographs, parameters, EVERYTHING, 32, ZERO, ONE)
    _close(view[:24], _float(photographs[:24]), FLOAT)
    assert (view[24:] - _float(photographs[24:])).abs().amax(dim=(1, 2, 3)).min() > 0.05


def test_an_empty_batch_and_a_single_image_have_views(photographs: Tensor) -> None:
    for n in (0, 1):
        parameters = draw(EVERYTHING, n, 32, 32, _generator(0))
        assert apply(photographs[:n], parameters, EVERYTHING, 16, ZERO, ONE).shape == (n, 3, 16, 16)


def test_views_keep_float32_under_the_trainings_mixed_precision(
    photographs: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    augmentation = RECIPES["byol-imagenet"].view_a
    parameters = draw(augmentation, 48, 32, 32, _generator(5))

    def views_of_both_kinds() -> tuple[Tensor, Tensor]:
        view = apply(photographs, parameters, augmentation, 24, ZERO, ONE)
        return view, evaluate(photographs, 16, 24, ZERO, ONE)

    resampling_matrices = views._resampling_matrices
    seen: set[str] = set()

    def observed(*arguments: Any) -> Tensor:
        seen.update(module.fp32_precision for module in (torch.backends.cuda.matmul, MKLDNN))
        return resampling_matrices(*arguments)

    expected = views_of_both_kinds()
    monkeypatch.setattr(views, "_resampling_matrices", observed)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    settings = [module.fp32_precision for module in (torch.backends.cuda.matmul, MKLDNN)]
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = views_of_both_kinds()
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        # Not every processor has faster and coarser products, but every one has the settings.
        assert seen == {"ieee"}
        # The training's own settings are as it left them.
        assert torch.get_float32_matmul_precision() == "medium"
        assert [m.fp32_precision for m in (torch.backends.cuda.matmul, MKLDNN)] == settings
    finally:
        torch.set_float32_matmul_precision(before)
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


@pytest.mark.parametrize("view", VIEWS)
def test_no_decision_waits_for_a_pixel(view: str) -> None:
    """Tensors on "meta" have shapes but no values: reading one on the host is an error."""
    recipe, augmentation = VIEWS[view]
    images = torch.empty(48, 3, 40, 56, dtype=torch.uint8, device="meta")
    parameters = draw(augmentation, 48, 40, 56, _generator(6))
    result = apply(images, parameters, augmentation, 24, recipe.mean, recipe.std)
    assert result.device.type == "meta"
    assert result.shape == (48, 3, 24, 24)
    assert evaluate(images, 24, 32, recipe.mean, recipe.std).shape == (48, 3, 24, 24)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("view", VIEWS)
def test_views_on_a_gpu_equal_those_on_the_cpu_without_waiting(
    photographs: Tensor, view: str
) -> None:
    recipe, augmentation = VIEWS[view]
    parameters = draw(augmentation, 48, 32, 32, _generator(6))
    arguments = (parameters, augmentation, 24, recipe.mean, recipe.std)
    there = photographs.cuda()
    mode, precision = torch.cuda.get_sync_debug_mode(), torch.get_float32_matmul_precision()
    torch.cuda.set_sync_debug_mode("error")
    torch.set_float32_matmul_precision("high")  # TF32 in the training's own products
    try:
        actual = apply(there, *arguments)
        evaluated = evaluate(there, 16, 20, recipe.mean, recipe.std)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
        torch.set_float32_matmul_precision(precision)
    _close_but_for_solarised(actual.cpu(), apply(photographs, *arguments), parameters.solarise)
    _close(evaluated.cpu(), evaluate(photographs, 16, 20, recipe.mean, recipe.std), 2 * FLOAT)


@pytest.mark.parametrize(
    "wrong", [torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.uint8)]
)
def test_anything_but_a_batch_of_8_bit_colour_images_is_refused(wrong: Tensor) -> None:
    with pytest.raises(ValueError, match="expected images"):
        apply(wrong, draw(EVERYTHING, 2, 8, 8, _generator(0)), EVERYTHING, 8, ZERO, ONE)
    with pytest.raises(ValueError, match="expected images"):
        evaluate(wrong, 8, None, ZERO, ONE)


def test_parameters_of_another_batch_size_are_refused(photographs: Tensor) -> None:
    with pytest.raises(ValueError, match="parameters for 3 images, but 48"):
        apply(photographs, draw(EVERYTHING, 3, 32, 32, _generator(0)), EVERYTHING, 8, ZERO, ONE)


# --- crop -------------------------------------------------------------------------------------


def _boxes(images: Tensor, seed: int) -> ViewParameters:
    """Boxes of every size down to one pixel, half of them flipped."""
    n, _, height, width = images.shape
    random = torch.rand(4, n, generator=_generator(seed), dtype=torch.float64)
    box_height = (random[0].square() * height).long() + 1
    box_width = (random[1].square() * width).long() + 1
    return replace(
        _identity(images),
        top=(random[2] * (height - box_height + 1)).long(),
        left=(random[3] * (width - box_width + 1)).long(),
        height=box_height,
        width=box_width,
        flip=torch.arange(n) % 2 == 0,
    )


@pytest.mark.parametrize("interpolation", MODES)
@pytest.mark.parametrize("size", [1, 7, 32, 67])
def test_crop_equals_torchvisions_antialiased_resized_crop(
    images: Tensor, interpolation: Any, size: int
) -> None:
    augmentation = Augmentation(crop_scale=(0.1, 1), interpolation=interpolation)
    parameters = _boxes(images, seed=size)
    expected = torch.stack(
        [
            _torchvision_crop(image, _one(parameters, i), augmentation, size)
            for i, image in enumerate(_float(images))
        ]
    )
    _close(views.crop(_float(images), parameters, size, interpolation), expected, FLOAT)


def _agrees_with_pils_resize(actual: Tensor, expected: Tensor, interpolation: str) -> None:
    """PIL rounds twice, after the rows and after the columns.

    That is half a level from the second pass, and half a level from the first one times the sum of
    the second kernel's absolute weights: 1 for the triangle, at most 1.27 for the cubic. PIL also
    cuts the overshoot of the cubic kernel after the rows already; where both passes overshoot
    beside a saturated edge (1 pixel in 1000 of the photographs, 1 in 40 of the black and white
    digits) that makes up to a tenth of the range.
    """
    difference = (actual - expected).abs() / LEVEL
    if interpolation == "bilinear":
        assert difference.max() <= 1.01
    else:
        assert (difference > 1.14).double().mean() < 0.03
        assert difference.mean() < 0.5
        assert difference.max() < 25.5


@pytest.mark.parametrize("interpolation", MODES)
def test_crop_agrees_with_pils_up_to_its_roundings(images: Tensor, interpolation: Any) -> None:
    upright = torch.zeros(len(images), dtype=torch.bool)
    parameters = replace(_boxes(images, seed=0), flip=upright)
    mode = MODES[interpolation]
    boxes = torch.stack(
        [parameters.top, parameters.left, parameters.height, parameters.width], dim=1
    ).tolist()
    expected = torch.stack(
        [
            _from_pil(functional.resized_crop(_pil(x), *box, [20, 20], interpolation=mode))
            for x, box in zip(images, boxes, strict=True)
        ]
    )
    actual = views.crop(_float(images), parameters, 20, interpolation)
    _agrees_with_pils_resize(actual, expected, interpolation)


def test_a_box_of_one_pixel_fills_the_view_with_it(photographs: Tensor) -> None:
    place = torch.arange(48) % 32
    one = torch.ones(48, dtype=torch.int64)
    parameters = replace(_identity(photographs), top=place, left=31 - place, height=one, width=one)
    pixel = _float(photographs)[torch.arange(48), :, place, 31 - place]
    for interpolation in ("bilinear", "bicubic"):
        view = views.crop(_float(photographs), parameters, 8, interpolation)
        _close(view, pixel[:, :, None, None].expand(-1, -1, 8, 8), 1e-6)


def test_flipped_view_is_the_mirror_image(photographs: Tensor) -> None:
    parameters = _boxes(photographs, seed=3)
    flipped = replace(parameters, flip=~parameters.flip)
    for interpolation in ("bilinear", "bicubic"):
        a = views.crop(_float(photographs), parameters, 24, interpolation)
        b = views.crop(_float(photographs), flipped, 24, interpolation)
        _close(a, b.flip(-1), FLOAT)


# --- colour -----------------------------------------------------------------------------------

STRENGTHS = torch.tensor([0.0, 0.2, 0.6, 1.0, 1.4, 3.0])
SHIFTS = torch.tensor([-0.5, -1 / 3, -0.1, 0.0, 0.017, 1 / 6, 0.5])
JITTER = {
    "brightness": (views.brightness, functional.adjust_brightness, STRENGTHS),
    "contrast": (views.contrast, functional.adjust_contrast, STRENGTHS),
    "saturation": (views.saturation, functional.adjust_saturation, STRENGTHS),
    "hue": (views.hue, functional.adjust_hue, SHIFTS),
}


@pytest.mark.parametrize("name", JITTER)
def test_jitter_operation_equals_torchvisions(images: Tensor, name: str) -> None:
    ours, theirs, factors = JITTER[name]
    factors = factors.repeat(len(images))[: len(images)]
    expected = torch.stack(
        [theirs(x, float(f)) for x, f in zip(_float(images), factors, strict=True)]
    )
    actual = _float(images)
    ours(actual, factors)
    _close(actual, expected, 2e-6)


@pytest.mark.parametrize(
    ("name", "largest", "average"),
    [
        # PIL cuts the fraction off instead of rounding: one level.
        ("brightness", 1.0, 0.5),
        # That, and a mean or gray image rounded to half a level, times |1 - factor| <= 2.
        ("contrast", 2.0, 0.5),
        ("saturation", 2.0, 0.5),
        # Hue, saturation and value have 8 bits each. Reading, shifting and writing a hue is off by
        # up to 1.5/255 of a turn, and a channel crosses its range in a sixth of a turn: 6 x 1.5
        # levels at full saturation.
        ("hue", 9.0, 0.5),
    ],
)
def test_jitter_operation_agrees_with_pils_up_to_its_roundings(
    images: Tensor, name: str, largest: float, average: float
) -> None:
    ours, theirs, factors = JITTER[name]
    factors = factors.repeat(len(images))[: len(images)]
    expected = torch.stack(
        [_from_pil(theirs(_pil(x), float(f))) for x, f in zip(images, factors, strict=True)]
    )
    actual = _float(images)
    ours(actual, factors)
    _close(actual, expected, largest * LEVEL)
    assert (actual - expected).abs().mean() <= average * LEVEL


def test_hue_of_pure_colours_turns_through_the_circle() -> None:
    """Red turned by sixths of a turn: yellow, green, cyan, blue, magenta."""
    circle = torch.tensor(
        [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]], dtype=torch.float32
    )
    for start, sixths in itertools.product(range(6), range(-3, 4)):
        image = circle[start].view(1, 3, 1, 1).clone()
        views.hue(image, torch.tensor([sixths / 6]))
        _close(image.flatten(), circle[(start + sixths) % 6], 1e-6)


def test_hue_keeps_grey_black_and_white() -> None:
    grey = torch.linspace(0, 1, 256).view(1, 1, 16, 16).repeat(3, 3, 1, 1)
    turned = grey.clone()
    views.hue(turned, torch.tensor([-0.5, 0.123, 0.5]))
    assert torch.equal(turned, grey)


def test_grayscale_equals_torchvisions(images: Tensor) -> None:
    expected = functional.rgb_to_grayscale(_float(images), num_output_channels=3)
    _close(views.grayscale(_float(images)), expected, 1e-6)


def test_solarise_equals_torchvisions_and_pils_exactly(images: Tensor) -> None:
    threshold = Augmentation(crop_scale=(0.1, 1)).solarise_threshold
    actual = views.solarise(_float(images), threshold)
    assert torch.equal(actual, functional.solarize(_float(images), threshold))
    in_levels = torch.stack([_from_pil(functional.solarize(_pil(x), 128)) for x in images])
    _close(actual, in_levels, 1e-6)


def test_solarise_inverts_from_128_upwards() -> None:
    levels = torch.arange(256).repeat(3).view(1, 3, 16, 16)
    actual = (views.solarise(_float(levels), 128 / 255) * 255).round()
    assert torch.equal(actual, torch.where(levels < 128, levels, 255 - levels).float())


# --- blur -------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [1, 3, 7])
def test_blur_equals_torchvisions(images: Tensor, radius: int) -> None:
    sigma = torch.linspace(0.1, 4.0, len(images))
    side = 2 * radius + 1
    expected = torch.stack(
        [
            functional.gaussian_blur(x, [side, side], [float(s)] * 2)
            for x, s in zip(_float(images), sigma, strict=True)
        ]
    )
    _close(views.gaussian_blur(_float(images), sigma, radius), expected, 2e-6)


def test_blur_with_a_tiny_sigma_changes_nothing(images: Tensor) -> None:
    sigma = torch.full((len(images),), 1e-3)
    assert torch.equal(views.gaussian_blur(_float(images), sigma, 5), _float(images))


def test_blur_reaches_four_sigma_but_never_past_the_image() -> None:
    assert views.blur_radius(2.0, 224) == 8
    assert views.blur_radius(0.3, 32) == 2
    assert views.blur_radius(2.0, 8) == 7
    assert views.blur_radius(2.0, 1) == 0


def test_blur_at_224_pixels_is_byols_kernel_of_23_and_close_to_pils() -> None:
    """BYOL's kernel within half a level: the same Gaussian, cut at 5.5 instead of 4 sigma.

    PIL replaces the Gaussian by three box filters, and continues the image by its outermost pixel.
    Away from the border two levels cover the sharpest edges in the photographs for sigma >= 0.5;
    below that, where boxes are narrower than a pixel, the two kernels are further apart.
    """
    images = _patches(224, 224, 8)
    sigma = torch.tensor([0.1, 0.5, 0.7, 0.9, 1.1, 1.4, 1.7, 2.0])
    actual = views.gaussian_blur(_float(images), sigma, views.blur_radius(2.0, 224))
    for image, s, blurred in zip(images, sigma.tolist(), actual, strict=True):
        byol = functional.gaussian_blur(_float(image), [23, 23], [s, s])
        _close(blurred, byol, 0.5 * LEVEL)
        pil = _from_pil(_pil(image).filter(ImageFilter.GaussianBlur(s)))
        inside = (slice(None), slice(8, -8), slice(8, -8))
        assert (blurred - pil)[inside].abs().mean() < 1 * LEVEL


# --- draw -------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    scale=st.tuples(st.floats(1e-4, 1), st.floats(1e-4, 1)).map(sorted),
    ratio=st.tuples(st.floats(0.05, 20), st.floats(0.05, 20)).map(sorted),
    seed=st.integers(0, 2**63 - 1),
)
def test_boxes_lie_within_the_image(
    height: int, width: int, scale: list[float], ratio: list[float], seed: int
) -> None:
    augmentation = Augmentation(crop_scale=tuple(scale), crop_ratio=tuple(ratio))
    p = draw(augmentation, 64, height, width, _generator(seed))
    assert (p.height >= 1).all()
    assert (p.width >= 1).all()
    assert (p.top >= 0).all()
    assert (p.left >= 0).all()
    assert (p.top + p.height <= height).all()
    assert (p.left + p.width <= width).all()


def _torchvision_boxes(
    a: Augmentation, n: int, height: int, width: int, seed: int
) -> tuple[np.ndarray[Any, Any], ...]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        image = torch.empty(3, height, width)
        drawn = [
            transforms.RandomResizedCrop.get_params(image, list(a.crop_scale), list(a.crop_ratio))
            for _ in range(n)
        ]
    return tuple(np.array(drawn).T)


def _contingency(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """p-value of "both samples of whole numbers have one distribution" (chi-squared test)."""
    pooled = np.concatenate([a, b])
    # Cells of at least about 1 % of the data, so that the chi-squared approximation holds.
    edges = np.unique(np.quantile(pooled, np.linspace(0, 1, 51), method="inverted_cdf"))
    counts = [np.bincount(np.searchsorted(edges, x), minlength=len(edges)) for x in (a, b)]
    table = np.stack(counts)[:, np.sum(counts, axis=0) > 0]
    return float(scipy.stats.chi2_contingency(table).pvalue) if table.shape[1] > 1 else 1.0


@pytest.mark.parametrize(
    ("scale", "ratio", "height", "width"),
    [
        ((0.08, 1.0), (3 / 4, 4 / 3), 32, 32),
        ((0.2, 1.0), (3 / 4, 4 / 3), 64, 64),
        # Half of the attempts do not fit, and one image in ten falls back on the centre.
        ((0.3, 1.0), (3 / 4, 4 / 3), 20, 48),
    ],
)
def test_boxes_are_distributed_as_torchvisions(
    scale: tuple[float, float], ratio: tuple[float, float], height: int, width: int
) -> None:
    """Six two-sample tests at 1e-4 each: 0.2 % of seeds would fail one of the 18. One is fixed."""
    augmentation = Augmentation(crop_scale=scale, crop_ratio=ratio)
    n = 8000
    p = draw(augmentation, 4 * n, height, width, _generator(11))
    ours = tuple(v.numpy() for v in (p.top, p.left, p.height, p.width))
    theirs = _torchvision_boxes(augmentation, n, height, width, seed=12)
    statistics: list[Callable[..., Any]] = [
        lambda top, left, h, w: top,
        lambda top, left, h, w: left,
        lambda top, left, h, w: h,
        lambda top, left, h, w: w,
        lambda top, left, h, w: h * w,
        # Joint: how far right the box lies, given its width, and the sign of h - w.
        lambda top, left, h, w: 100 * np.sign(h - w) + (10 * left) // (width - w + 1),
    ]
    for statistic in statistics:
        assert _contingency(statistic(*ours), statistic(*theirs)) > 1e-4


@pytest.mark.parametrize(
    ("scale", "ratio"), [((0.08, 1.0), (0.5, 0.6)), ((0.3, 1.0), (3 / 4, 4 / 3))]
)
def test_the_test_of_distributions_notices_another_range(
    scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    augmentation = Augmentation(crop_scale=(0.25, 1.0))
    ours = draw(augmentation, 8000, 32, 32, _generator(11)).width.numpy()
    other = Augmentation(crop_scale=scale, crop_ratio=ratio)
    assert _contingency(ours, _torchvision_boxes(other, 2000, 32, 32, seed=12)[3]) < 1e-4


@pytest.mark.parametrize(
    ("height", "width"), [(10, 40), (40, 10), (1, 9), (9, 1), (31, 97), (100, 3)]
)
def test_if_nothing_fits_the_box_is_torchvisions_central_one(height: int, width: int) -> None:
    """The whole area never fits into an image whose proportions are not admissible."""
    augmentation = Augmentation(crop_scale=(1.0, 1.0))
    p = draw(augmentation, 3, height, width, _generator(0))
    expected = _torchvision_boxes(augmentation, 3, height, width, seed=0)
    for ours, theirs in zip((p.top, p.left, p.height, p.width), expected, strict=True):
        assert ours.tolist() == theirs.tolist()


def test_factors_flags_and_orders_have_the_distributions_asked_for() -> None:
    """16 tests at 1e-4: 0.2 % of seeds would fail one. The seed is fixed."""
    n = 20_000
    a = Augmentation(
        crop_scale=(0.1, 1),
        brightness=0.4,
        contrast=1.5,
        saturation=0.2,
        hue=0.1,
        flip_p=0.5,
        jitter_p=0.8,
        grayscale_p=0.2,
        blur_p=0.1,
        solarise_p=0.3,
    )
    p = draw(a, n, 32, 32, _generator(13))
    # A strength above 1 does not reach below factor 0, as in torchvision's ColorJitter.
    for values, low, high in (
        (p.brightness, 0.6, 1.4),
        (p.contrast, 0.0, 2.5),
        (p.saturation, 0.8, 1.2),
        (p.hue, -0.1, 0.1),
        (p.sigma, 0.1, 2.0),
    ):
        uniform = scipy.stats.uniform(low, high - low)
        assert scipy.stats.kstest(values.double().numpy(), uniform.cdf).pvalue > 1e-4
    for flags, probability in (
        (p.flip, 0.5),
        (p.jitter, 0.8),
        (p.grayscale, 0.2),
        (p.blur, 0.1),
        (p.solarise, 0.3),
    ):
        assert scipy.stats.binomtest(int(flags.sum()), n, probability).pvalue > 1e-4
    orders = (p.order * torch.tensor([64, 16, 4, 1])).sum(dim=1)
    codes = [
        sum(d * 4 ** (3 - k) for k, d in enumerate(o)) for o in itertools.permutations(range(4))
    ]
    counts = [int((orders == code).sum()) for code in codes]
    assert sum(counts) == n
    assert scipy.stats.chisquare(counts).pvalue > 1e-4
    # Nothing drawn tells anything about anything else drawn.
    columns = [p.brightness, p.hue, p.sigma, p.order[:, 0], p.flip, p.jitter, p.top, p.solarise]
    correlations = np.corrcoef(np.stack([c.double().numpy() for c in columns]))
    assert np.abs(correlations - np.eye(len(columns))).max() < 4.5 / math.sqrt(n)


def test_probabilities_0_and_1_are_certain() -> None:
    probabilities = ("flip_p", "jitter_p", "grayscale_p", "blur_p", "solarise_p")
    for value in (0.0, 1.0):
        a = Augmentation(crop_scale=(0.1, 1), **dict.fromkeys(probabilities, value))
        p = draw(a, 1000, 32, 32, _generator(0))
        for flags in (p.flip, p.jitter, p.grayscale, p.blur, p.solarise):
            assert flags.sum() == 1000 * value


def test_no_strength_means_neutral_factors() -> None:
    p = draw(Augmentation(crop_scale=(0.1, 1), jitter_p=1.0), 100, 32, 32, _generator(0))
    assert (p.brightness == 1).all()
    assert (p.contrast == 1).all()
    assert (p.saturation == 1).all()
    assert (p.hue == 0).all()


def _same(a: ViewParameters, b: ViewParameters) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def test_same_seed_same_draw_and_the_next_draw_is_another() -> None:
    generator = _generator(5)
    first, second = (draw(EVERYTHING, 64, 32, 32, generator) for _ in range(2))
    assert _same(first, draw(EVERYTHING, 64, 32, 32, _generator(5)))
    assert not _same(first, second)


def test_the_draw_of_a_seed_stays_what_it_is() -> None:
    """Stored runs name their seed only, so a change of these numbers makes them unrepeatable.

    Whole numbers must agree; the real ones may differ in the last bit of their float32.
    """
    p = draw(RECIPES["byol-imagenet"].view_b, 4, 32, 48, _generator(2312))
    assert p.top.tolist() == [4, 9, 3, 0]
    assert p.left.tolist() == [9, 10, 9, 12]
    assert p.height.tolist() == [26, 20, 28, 32]
    assert p.width.tolist() == [21, 25, 22, 33]
    assert p.flip.tolist() == [True, True, True, True]
    assert p.jitter.tolist() == [False, True, True, True]
    assert p.order.tolist() == [[1, 3, 2, 0], [0, 1, 3, 2], [3, 2, 1, 0], [0, 2, 1, 3]]
    assert p.grayscale.tolist() == [False, False, False, False]
    assert p.blur.tolist() == [False, False, False, False]
    assert p.solarise.tolist() == [False, False, False, True]
    for actual, expected in (
        (p.brightness, [0.9488483, 0.8507552, 1.2586253, 0.7323078]),
        (p.contrast, [0.9893981, 1.1851689, 0.6816815, 1.3894675]),
        (p.saturation, [0.9276304, 1.1119237, 1.0655953, 0.9692327]),
        (p.hue, [0.0267204, 0.0068373, -0.0539307, 0.0659960]),
        (p.sigma, [1.5531528, 0.9313141, 1.6929623, 1.4396002]),
    ):
        _close(actual, torch.tensor(expected), 1e-6)


def test_slices_of_a_global_batch_are_the_draws_of_its_images() -> None:
    whole = draw(EVERYTHING, 64, 32, 32, _generator(5))
    assert len(whole) == 64
    assert len(whole[16:48]) == 32
    joined = [
        torch.cat([getattr(whole[i : i + 16], f.name) for i in range(0, 64, 16)])
        for f in fields(whole)
    ]
    assert _same(whole, ViewParameters(*joined))
    # Image i's draw is a function of its position: a smaller batch is a beginning of a larger one.
    assert _same(whole[:16], draw(EVERYTHING, 16, 32, 32, _generator(5)))
    assert _same(whole[torch.tensor([3, 3, 0])][1:2], whole[3:4])


def test_draws_use_up_the_same_random_numbers_whatever_comes_out() -> None:
    states = set()
    for augmentation, size in ((EVERYTHING, 8), (Augmentation(crop_scale=(1, 1)), 224)):
        generator = _generator(5)
        draw(augmentation, 32, size, size, generator)
        states.add(generator.get_state().numpy().tobytes())
    assert len(states) == 1


def test_switching_an_operation_off_leaves_the_others_draws_alone() -> None:
    with_blur = draw(EVERYTHING, 64, 32, 32, _generator(5))
    without = draw(
        EVERYTHING.model_copy(update={"blur_p": 0.0, "hue": 0.0}), 64, 32, 32, _generator(5)
    )
    assert with_blur.blur.any()
    assert not without.blur.any()
    assert _same(replace(without, blur=with_blur.blur, hue=with_blur.hue), with_blur)


def test_parameters_lie_on_the_cpu_with_the_documented_types() -> None:
    p = draw(EVERYTHING, 5, 32, 32, _generator(0))
    types = {f.name: getattr(p, f.name).dtype for f in fields(p)}
    whole, flags = {"top", "left", "height", "width", "order"}, {"flip", "jitter", "grayscale"}
    assert {name for name, t in types.items() if t == torch.int64} == whole
    assert {n for n, t in types.items() if t == torch.bool} == flags | {"blur", "solarise"}
    assert {n for n, t in types.items() if t == torch.float32} == set(types) - whole - flags - {
        "blur",
        "solarise",
    }
    assert all(len(getattr(p, f.name)) == 5 for f in fields(p))
    assert p.order.shape == (5, 4)


# --- evaluation -------------------------------------------------------------------------------


def test_evaluation_at_the_images_own_size_only_normalises(photographs: Tensor) -> None:
    recipe = RECIPES["mix-cifar"]
    expected = functional.normalize(_float(photographs), recipe.mean, recipe.std)
    for resize in (None, 32):
        assert torch.equal(evaluate(photographs, 32, resize, recipe.mean, recipe.std), expected)


@pytest.mark.parametrize("interpolation", MODES)
@pytest.mark.parametrize(
    ("height", "width", "resize", "size"),
    [
        (96, 96, 70, 64),  # STL-10 in mix-stl10
        (120, 171, 70, 63),  # odd margins
        (171, 120, 70, 64),
        (40, 56, 80, 75),  # up-sampling
        (40, 57, 40, 33),  # no resize, odd margins
        (41, 56, None, 24),
    ],
)
def test_evaluation_equals_torchvisions_resize_and_centre_crop(
    height: int, width: int, resize: int | None, size: int, interpolation: Any
) -> None:
    images = _patches(height, width, 6)
    recipe = RECIPES["mix-stl10"]
    resized = functional.resize(
        _float(images), [resize or size], interpolation=MODES[interpolation], antialias=True
    )
    cut = functional.center_crop(resized.clamp(0, 1), [size, size])
    expected = functional.normalize(cut, recipe.mean, recipe.std)
    actual = evaluate(images, size, resize, recipe.mean, recipe.std, interpolation)
    # Positions of up to 171 pixels are rounded to 1e-5 of a pixel; divided by a std of 0.26.
    _close(actual, expected, 5 * FLOAT)


def test_evaluation_agrees_with_pils_up_to_its_roundings() -> None:
    images = _patches(96, 96, 6)
    expected = torch.stack(
        [
            _from_pil(
                functional.center_crop(
                    functional.resize(_pil(x), [70], interpolation=MODES["bicubic"]), [64, 64]
                )
            )
            for x in images
        ]
    )
    _agrees_with_pils_resize(evaluate(images, 64, 70, ZERO, ONE), expected, "bicubic")


def test_evaluation_cannot_cut_more_than_there_is(photographs: Tensor) -> None:
    with pytest.raises(ValueError, match="cannot cut 32 pixels out of images resized to 24"):
        evaluate(photographs, 32, 24, ZERO, ONE)
