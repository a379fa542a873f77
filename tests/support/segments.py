"""Segments of a tiny study, and how to train one by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from barlow_atlas.data.image_set import ImageSet
from barlow_atlas.store.snapshot import Manifest
from barlow_atlas.study.models import Run
from barlow_atlas.training.segment import Monitor, Segment, pretrain_together


def whole(images: np.ndarray) -> ImageSet:
    """All of the images, uint8 (n, 3, H, W)."""
    return ImageSet(((images, np.arange(len(images))),))


def pretrain_segment(
    segment: Segment, images: np.ndarray, device: torch.device, save_every: float, monitor: Monitor
) -> Manifest:
    (manifest,) = pretrain_together([segment], whole(images), device, save_every, [monitor])
    return manifest


def segments(
    folder: Path, run: Run, parent: int | None, until: int, seeds: tuple[int, ...] = (1, 2, 3)
) -> list[Segment]:
    """The same segment of a run with several seeds, each in folders of its own."""
    return [
        Segment(
            study="tiny",
            run=run.model_copy(update={"seed": seed}),
            parent=parent,
            until=until,
            cooldown=0,
            checkpoints=folder / f"checkpoints/s{seed}",
            training=folder / f"training/s{seed}",
            resume=folder / f"resume/s{seed}",
            data_sha256="data",
            sources_sha256="sources",
        )
        for seed in seeds
    ]
