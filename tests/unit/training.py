"""One segment by itself, on images that are here as an array."""

from __future__ import annotations

import numpy as np
import torch

from barlow_atlas.data.image_set import ImageSet
from barlow_atlas.pretrain import Monitor, Segment, pretrain_together
from barlow_atlas.snapshot import Manifest


def whole(images: np.ndarray) -> ImageSet:
    """All of the images, uint8 (n, 3, H, W)."""
    return ImageSet(((images, np.arange(len(images))),))


def pretrain_segment(
    segment: Segment, images: np.ndarray, device: torch.device, save_every: float, monitor: Monitor
) -> Manifest:
    (manifest,) = pretrain_together([segment], whole(images), device, save_every, [monitor])
    return manifest
