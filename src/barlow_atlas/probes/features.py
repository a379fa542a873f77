"""Backbone features of whole image sets, extracted once for all probes."""

import numpy as np
import torch
from torch import Tensor, nn

from barlow_atlas.data.image_set import ImageSet
from barlow_atlas.nn import views
from barlow_atlas.probes.subject import Subject

BATCH = 256
"""Images a forward pass: with more, what lies between two layers outgrows a CPU's cache."""


Images = np.ndarray | ImageSet
"""uint8 (n, 3, H, W)."""


@torch.inference_mode()
def extract(backbone: nn.Module, run: Subject, images: Images, device: torch.device) -> Tensor:
    """Features (n, f) of uint8 images (n, 3, H, W) under the evaluation transform.

    Batch norm uses its running statistics.
    """
    backbone.eval()
    return torch.cat(
        [
            backbone(evaluation_view(run, images[start : start + BATCH], device))
            for start in range(0, len(images), BATCH)
        ]
    )


def evaluation_view(run: Subject, images: np.ndarray, device: torch.device) -> Tensor:
    """The network's input (n, 3, size, size) for uint8 images (n, 3, H, W), without randomness."""
    recipe = run.recipe
    return views.evaluate(
        torch.tensor(images).to(device),
        run.image_size,
        recipe.evaluation_resize,
        recipe.mean,
        recipe.std,
        recipe.evaluation_interpolation,
    )
