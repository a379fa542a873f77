"""Views of encoded images: cropped on the CPU, coloured on the device, as torchvision does both."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from photographs import class_folders
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from barlow_atlas.data import loader as loading
from barlow_atlas.data.choice import Data
from barlow_atlas.data.loader import Loader, Request, decode
from barlow_atlas.data.originals import OriginalSet
from barlow_atlas.data.preparation import prepare
from barlow_atlas.data.prepared import chosen, load
from barlow_atlas.nn import views
from barlow_atlas.nn.geometry import DrawnViews, drawn_views, whole_views
from barlow_atlas.nn.randomness import generator
from barlow_atlas.settings.augmentation import RECIPES, Augmentation

CPU = torch.device("cpu")
SIZE = 24
RECIPE = RECIPES["byol-imagenet"]
BOTH = (RECIPE.view_a, RECIPE.view_b)
PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> OriginalSet:
    root = tmp_path_factory.mktemp("photographs")
    folders = class_folders(root / "images", train=16)
    data = Data.model_validate({"name": "mine", "path": str(folders), "stored": "original"})
    prepare(data.data_set, root / "out", root)
    found = load(root / "out")
    whole = chosen((found.train_images, np.arange(48)))
    assert isinstance(whole, OriginalSet)
    return whole


def requested(images: OriginalSet, places: Tensor, step: int, rows: slice) -> DrawnViews:
    generators = [generator(1, name, 0, step) for name in ("a", "b")]
    return drawn_views(images, places, BOTH, SIZE, generators, rows)


def brought(images: OriginalSet, request: Request, threads: int = 2) -> Tensor:
    [(_, pixels)] = Loader(images, CPU, threads).batches([request])
    return pixels


def test_each_view_is_torchvision_s(images: OriginalSet) -> None:
    """Both augmentations of Barlow Twins, image by image; geometry to the bit."""
    places = torch.arange(48)
    request = requested(images, places, 0, slice(None))
    pixels = brought(images, request)
    views_a_b = request.finished(pixels, *PLAIN)
    seen = set()
    for k, (augmentation, parameters) in enumerate(zip(BOTH, request.parameters, strict=True)):
        for i in range(48):
            image = decode(torch.from_numpy(images.encoded(i)))
            p = parameters[torch.tensor([i])]
            box = [int(v) for v in (p.top, p.left, p.height, p.width)]
            how = InterpolationMode.BICUBIC
            crop = reference.resized_crop(image, *box, [SIZE, SIZE], how, antialias=True)
            crop = reference.horizontal_flip(crop) if p.flip else crop
            assert torch.equal(pixels[k, i], crop)
            wanted = coloured(crop / 255, p, augmentation)
            torch.testing.assert_close(views_a_b[k][i], wanted, rtol=0, atol=3e-5)
            seen |= {(k, name) for name in ("blur", "solarise") if getattr(p, name)}
    # View A is always blurred and never solarised, view B seldom: the test saw both kinds of B.
    assert seen == {(0, "blur"), (1, "blur"), (1, "solarise")}


def coloured(image: Tensor, p: views.ViewParameters, augmentation: Augmentation) -> Tensor:
    """torchvision's colour operations on an image (3, S, S) between 0 and 1."""
    operations = (
        lambda x: reference.adjust_brightness(x, p.brightness.item()),
        lambda x: reference.adjust_contrast(x, p.contrast.item()),
        lambda x: reference.adjust_saturation(x, p.saturation.item()),
        lambda x: reference.adjust_hue(x, p.hue.item()),
    )
    if p.jitter:
        for number in p.order[0].tolist():
            image = operations[number](image)
    if p.grayscale:
        image = reference.rgb_to_grayscale(image, num_output_channels=3)
    if p.blur:
        side = 2 * views.blur_radius(augmentation.blur_sigma[1], SIZE) + 1
        image = reference.gaussian_blur(image, [side, side], [p.sigma.item()] * 2)
    if p.solarise:
        image = reference.solarize(image, augmentation.solarise_threshold)
    return image


def test_four_slices_are_the_whole_batch_to_the_bit(images: OriginalSet) -> None:
    places = torch.randperm(48, generator=generator(5, "places"))
    whole = requested(images, places, 3, slice(None))
    together = whole.finished(brought(images, whole), RECIPE.mean, RECIPE.std)
    parts = [requested(images, places, 3, slice(k, k + 12)) for k in range(0, 48, 12)]
    apart = [each.finished(brought(images, each), RECIPE.mean, RECIPE.std) for each in parts]
    for k in range(2):
        assert torch.equal(together[k], torch.cat([both[k] for both in apart]))


def test_neither_threads_nor_what_was_before_change_a_batch(images: OriginalSet) -> None:
    def epoch(first: int, threads: int) -> list[Tensor]:
        order = torch.arange(48).split(8)[first:]
        asked = (requested(images, p, k, slice(None)) for k, p in enumerate(order, first))
        return [pixels for _, pixels in Loader(images, CPU, threads).batches(asked)]

    undisturbed = epoch(0, 1)
    for batch, again in zip(undisturbed[2:], epoch(2, 5), strict=True):
        assert torch.equal(batch, again)


def test_evaluation_is_resize_and_centre_crop(images: OriginalSet) -> None:
    pixels = brought(images, whole_views(torch.arange(48), SIZE, 28, "bilinear"))
    for i in range(48):
        image = decode(torch.from_numpy(images.encoded(i)))
        resized = reference.resize(image, [28], InterpolationMode.BILINEAR, antialias=True)
        assert torch.equal(pixels[0, i], reference.center_crop(resized, [SIZE, SIZE]))
    with pytest.raises(ValueError, match="cannot cut 24 pixels out of images resized to 20"):
        whole_views(torch.arange(4), SIZE, 20, "bilinear")


def test_sizes_of_their_own_draw_what_one_size_draws() -> None:
    for augmentation in (*BOTH, RECIPE.view_a.model_copy(update={"crop_scale": (0.9, 1.0)})):
        one = views.draw(augmentation, 500, 31, 97, generator(2, "draws"))
        sides = torch.full((500,), 31), torch.full((500,), 97)
        own = views.draw(augmentation, 500, *sides, generator(2, "draws"))
        for name in ("top", "left", "height", "width"):
            assert torch.equal(getattr(one, name), getattr(own, name))


def test_boxes_lie_within_images_of_any_proportion() -> None:
    heights = torch.tensor([1, 500, 30, 400, 7]).repeat(200)
    widths = torch.tensor([300, 2, 30, 500, 1]).repeat(200)
    drawn = views.draw(RECIPE.view_a, 1000, heights, widths, generator(3, "draws"))
    assert bool(((drawn.top >= 0) & (drawn.top + drawn.height <= heights)).all())
    assert bool(((drawn.left >= 0) & (drawn.left + drawn.width <= widths)).all())
    assert bool(((drawn.height > 0) & (drawn.width > 0)).all())


def slowed(images: OriginalSet, seconds: float, batches: int) -> list[Request]:
    """Requests of one image each, whose view takes some time."""

    def show(_: int, image: Tensor) -> list[Tensor]:
        time.sleep(seconds)
        return [image[:, :SIZE, :SIZE]]

    return [Request(torch.tensor([k]), show, 1, SIZE) for k in range(batches)]


@pytest.mark.parametrize(("decoding", "computing"), [(0.05, 0.0), (0.0, 0.05)])
def test_which_of_the_two_is_slower_is_measured(
    images: OriginalSet, decoding: float, computing: float
) -> None:
    loader = Loader(images, CPU, threads=1)
    for _ in loader.batches(slowed(images, decoding, 8)):
        time.sleep(computing)
    assert (loader.waiting > 0.7) == (decoding > 0)
    assert (loader.waiting < 0.3) == (computing > 0)


def test_no_more_batches_are_begun_than_are_held(images: OriginalSet) -> None:
    begun = 0

    def requests() -> Iterator[Request]:
        nonlocal begun
        for request in slowed(images, 0.0, 40):
            begun += 1
            yield request

    for taken, _ in enumerate(Loader(images, CPU, threads=2).batches(requests()), 1):
        assert begun <= taken + loading.AHEAD


def test_a_damaged_image_ends_it_and_no_thread_stays(images: OriginalSet) -> None:
    def show(row: int, image: Tensor) -> list[Tensor]:
        raise RuntimeError(f"row {row}")

    with pytest.raises(RuntimeError, match="row"):
        list(Loader(images, CPU, threads=2).batches([Request(torch.arange(9), show, 1, SIZE)]))
    assert not [t for t in threading.enumerate() if t.name.startswith("images")]


def test_whoever_stops_taking_leaves_no_thread_behind(images: OriginalSet) -> None:
    batches = Loader(images, CPU, threads=2).batches(slowed(images, 0.0, 40))
    next(batches)
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("images")]


@pytest.mark.slow
def test_compiled_colours_are_those_of_the_plain_form(images: OriginalSet) -> None:
    request = requested(images, torch.arange(8), 0, slice(None))
    pixels = brought(images, request)
    plain, compiled = (request.finished(pixels, *PLAIN, compiled=c) for c in (False, True))
    for one, other in zip(plain, compiled, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
