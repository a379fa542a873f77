"""The images and runs that benchmarks work on: nothing is downloaded or prepared."""

from pathlib import Path
from typing import Any

import numpy as np

from barlow_atlas.study.file import load_study
from barlow_atlas.study.models import Run
from barlow_atlas.study.paths import PARAMS

COMPARISON = PARAMS / "comparison/cifar10.yaml"
DEMO_IMAGES = 1150
"""Images that the demo pre-trains on."""


def demo(method: str, **changes: Any) -> Run:
    """The demo's first run of a method, with some of its settings changed."""
    return _run(PARAMS / "demo.yaml", method, changes)


def comparison() -> list[Run]:
    """The first run of each method in the comparison on CIFAR-10 with ResNet-18."""
    runs = load_study(COMPARISON).trained()
    return list({run.method: run for run in reversed(runs)}.values())[::-1]


def cifar10(method: str, **changes: Any) -> Run:
    """The comparison's first run of a method, with some of its settings changed."""
    return _run(COMPARISON, method, changes)


def _run(path: Path, method: str, changes: dict[str, Any]) -> Run:
    runs = load_study(path).trained()
    return next(run for run in runs if run.method == method).model_copy(update=changes)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's handwritten digits: images uint8 (1797, 3, 8, 8), classes int64 (1797,)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    return np.repeat(grey[:, None], 3, axis=1), bunch.target.astype(np.int64)


def noise(n: int, size: int) -> np.ndarray:
    """Random pixels uint8 (n, 3, size, size): what they show costs no step any time."""
    return np.random.default_rng(0).integers(0, 256, (n, 3, size, size), dtype=np.uint8)
