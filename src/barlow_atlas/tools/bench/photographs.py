"""Images of ImageNet's size: prepared, and two views of 224 pixels of each, beside ImageFolder."""

import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from barlow_atlas.data.choice import Data
from barlow_atlas.data.loader import Loader
from barlow_atlas.data.originals import OriginalSet
from barlow_atlas.data.preparation import prepare
from barlow_atlas.data.prepared import chosen, load
from barlow_atlas.nn.geometry import drawn_views
from barlow_atlas.nn.randomness import generator
from barlow_atlas.settings.augmentation import RECIPES, Augmentation
from barlow_atlas.tools.bench.records import Record, alone, faster
from barlow_atlas.tools.bench.timing import (
    clocks_by_turns,
    cores,
    on_cores,
    processor_seconds,
)

SIZE = 224
BATCH = 64
RECIPE = RECIPES["byol-imagenet"]
VIEWS = (RECIPE.view_a, RECIPE.view_b)


def records(device: torch.device, count: int = 512, rounds: int = 5) -> Iterator[Record]:
    """Seconds for all images of a made set: JPEGs of 500 x 375 pixels, about 95 kB each.

    Ours is what the CPU does of the two views, up to pixels on the device; colours follow there. By
    the processor's clock, which other programs disturb less than the wall's, workers included.
    """
    with TemporaryDirectory() as folder:
        images, told = _made(Path(folder), count)
        yield told
        for name, on in (("one core", 1), ("all cores", len(os.sched_getaffinity(0)))):
            with on_cores(on):
                ours = partial(_take, images, device, on)
                # A worker for each core; the only core needs none beside the process itself.
                workers = 0 if on == 1 else on
                rivals = [_folder(Path(folder), whole, workers) for whole in (False, True)]
                computations = [ours, *(partial(_drain, rival) for rival in rivals)]
                clocks = [partial(processor_seconds, each) for each in computations]
                our_seconds, cropped, whole = clocks_by_turns(clocks, rounds)
                del rivals, computations, clocks  # and with them their workers
                about = f"2 views of 224 pixels of {count} images of 500 x 375, {cores()}; "
            crops = about + "yardstick: ImageFolder with RandomResizedCrop alone"
            yield faster(f"photographs/crops, {name}", (our_seconds, cropped), crops, target=2)
            all_of_it = about + "yardstick: ImageFolder with all of Barlow Twins' transforms"
            yield faster(f"photographs/views, {name}", (our_seconds, whole), all_of_it, target=5)


def _made(folder: Path, count: int) -> tuple[OriginalSet, Record]:
    """Photographs in class folders and as a prepared set, with what preparing them took."""
    draws = np.random.default_rng(0)
    for k in range(count):
        for part in ("train", "val") if k < 2 else ("train",):
            path = folder / "images" / part / f"class{k % 2}" / f"{k:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            # Coarse shapes and fine grain, so that the files are as long as photographs' are.
            coarse = Image.fromarray(draws.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            pixels = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)).astype(
                np.int16
            )
            pixels = pixels + draws.integers(-16, 17, (375, 500, 1))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=92)
    data = Data.model_validate(
        {"name": "made", "path": str(folder / "images"), "stored": "original"}
    )
    began = time.process_time()
    prepare(data.data_set, folder / "out", folder)
    rate = count / (time.process_time() - began)
    images = chosen((load(folder / "out").train_images, np.arange(count)))
    assert isinstance(images, OriginalSet)
    about = f"{count} images of 500 x 375 decoded, checked and stored; target: 800"
    return images, alone("photographs/prepared", "images/CPU s", rate, about)


def _take(images: OriginalSet, device: torch.device, threads: int) -> None:
    """All views of an epoch, up to pixels on the device."""
    order = torch.randperm(len(images))
    requests = (
        drawn_views(images, p, VIEWS, SIZE, [generator(0, name, k) for name in ("a", "b")])
        for k, p in enumerate(order.split(BATCH))  # type: ignore[no-untyped-call]
    )
    for _ in Loader(images, device, threads).batches(requests):
        pass


class _Two:
    """Two views of an image, as Barlow Twins' code makes them, or their crops alone."""

    def __init__(self, whole: bool) -> None:
        self.transforms = [_transform(view, whole) for view in VIEWS]

    def __call__(self, image: Image.Image) -> list[Tensor]:
        return [each(image) for each in self.transforms]


def _transform(view: Augmentation, whole: bool) -> transforms.Compose:
    bicubic = transforms.InterpolationMode.BICUBIC
    crop = transforms.RandomResizedCrop(SIZE, interpolation=bicubic)
    if not whole:
        return transforms.Compose([crop, transforms.PILToTensor()])
    jitter = transforms.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)
    blur = transforms.Lambda(_blurred)
    solarise = transforms.Lambda(ImageOps.solarize)
    return transforms.Compose(
        [
            crop,
            transforms.RandomHorizontalFlip(view.flip_p),
            transforms.RandomApply([jitter], p=view.jitter_p),
            transforms.RandomGrayscale(view.grayscale_p),
            transforms.RandomApply([blur], p=view.blur_p),
            transforms.RandomApply([solarise], p=view.solarise_p),
            transforms.ToTensor(),
            transforms.Normalize(RECIPE.mean, RECIPE.std),
        ]
    )


def _blurred(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(float(np.random.default_rng().uniform(0.1, 2.0))))


def _folder(folder: Path, whole: bool, workers: int) -> DataLoader[object]:
    images = ImageFolder(folder / "images/train", _Two(whole))
    return DataLoader(
        images, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )


def _drain(loader: DataLoader[object]) -> None:
    for _ in loader:
        pass
