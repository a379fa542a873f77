"""Backbone features of whole image sets, extracted once for all probes."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from barlow_atlas.atomic import TEMPORARY, writing
from barlow_atlas.data.image_set import ImageSet
from barlow_atlas.data.loader import Loader
from barlow_atlas.data.originals import Originals, OriginalSet
from barlow_atlas.nn import views
from barlow_atlas.nn.devices import sent
from barlow_atlas.nn.geometry import drawn_views, whole_views
from barlow_atlas.probes.subject import Subject
from barlow_atlas.settings.augmentation import Augmentation

BATCH = 256
"""Images a forward pass: with more, what lies between two layers outgrows a CPU's cache."""


Images = np.ndarray | ImageSet | OriginalSet
"""Squares, uint8 (n, 3, H, W), or encoded images."""


@torch.inference_mode()
def extract(
    backbone: nn.Module, run: Subject, images: Images | Originals, device: torch.device
) -> Tensor:
    """Features (n, f) of images under the evaluation transform.

    Batch norm uses its running statistics.
    """
    backbone.eval()
    return torch.cat([backbone(view) for view in evaluation_views(run, images, device)])


@torch.inference_mode()
def kept(
    backbone: nn.Module, run: Subject, images: Images, device: torch.device, path: Path
) -> Tensor:
    """As `extract`, on the CPU, memory-mapped from a file that is made if it is not there.

    So they take no memory that the system cannot have back. Whoever names the file sees to it that
    the name tells network and images.

    Raises:
        WriteError: it cannot be written.
    """
    if not path.is_file():
        backbone.eval()
        temporary = path.with_name(f".{path.name}{TEMPORARY}")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                for view in evaluation_views(run, images, device):
                    file.write(backbone(view).cpu().numpy().tobytes())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    features = np.memmap(path, dtype=np.float32, mode="c").reshape(len(images), -1)
    return torch.from_numpy(features)


def evaluation_views(
    run: Subject, images: Images | Originals, device: torch.device, batch: int = BATCH
) -> Iterator[Tensor]:
    """The network's inputs (n, 3, size, size) for all images, `batch` at a time, not random."""
    if isinstance(images, Originals):
        images = OriginalSet(((images, np.arange(len(images))),))
    if not isinstance(images, OriginalSet):
        for start in range(0, len(images), batch):
            yield evaluation_view(run, images[start : start + batch], device)
        return
    recipe, size = run.recipe, run.image_size
    requests = (
        whole_views(places, size, recipe.evaluation_resize, recipe.evaluation_interpolation)
        for places in torch.arange(len(images)).split(batch)
    )
    for _, (pixels,) in Loader(images, device, torch.get_num_threads()).batches(requests):
        yield views.evaluate(pixels, size, None, recipe.mean, recipe.std)


def evaluation_view(run: Subject, images: np.ndarray, device: torch.device) -> Tensor:
    """The network's input (n, 3, size, size) for uint8 images (n, 3, H, W), without randomness."""
    recipe = run.recipe
    return views.evaluate(
        sent(torch.tensor(images), device),
        run.image_size,
        recipe.evaluation_resize,
        recipe.mean,
        recipe.std,
        recipe.evaluation_interpolation,
    )


def drawn(
    run: Subject,
    images: Images,
    batches: Iterable[Tensor],
    augmentations: Sequence[Augmentation],
    draws: Callable[[int], torch.Generator],
    device: torch.device,
) -> Iterator[list[Tensor]]:
    """Random views (n, 3, size, size) of batches of images, one by each augmentation.

    Args:
        batches: places of images, int64 (n,) on the CPU.
        draws: of the number of a batch; the parameters of each augmentation are drawn after those
            of the one before.
    """
    size, mean, std = run.image_size, run.recipe.mean, run.recipe.std
    if isinstance(images, OriginalSet):
        requests = (
            drawn_views(images, places, augmentations, size, [draws(k)] * len(augmentations))
            for k, places in enumerate(batches)
        )
        loader = Loader(images, device, torch.get_num_threads())
        for request, brought in loader.batches(requests):
            yield request.finished(brought, mean, std)
        return
    for k, places in enumerate(batches):
        pixels = sent(torch.from_numpy(np.ascontiguousarray(images[places.numpy()])), device)
        numbers = draws(k)
        yield [
            views.drawn(pixels, augmentation, size, mean, std, numbers)
            for augmentation in augmentations
        ]
