"""What several test modules share: a study that trains in a second."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from barlow_atlas.instructions import use_common_instructions
from barlow_atlas.probes.milestone import Labelled
from barlow_atlas.store.adoptions import adoptions, standing
from barlow_atlas.study.file import load_study
from barlow_atlas.study.models import Run

# A shell's background jobs ignore SIGINT, and their children would inherit that: tests that press
# Ctrl-C need programs that take notice, as those started from a terminal do.
signal.signal(signal.SIGINT, signal.default_int_handler)
# As in a step, before anything is computed here.
use_common_instructions(os.environ)
# Two threads on two busy cores wait for each other most of the time.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """A step that ran in this process flushes them to zero; other tests need them."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(autouse=True)
def adoptions_of_one_test() -> Iterator[None]:
    """A process reads a study's adoptions once; the next test may be in another folder."""
    yield
    adoptions.cache_clear()
    standing.cache_clear()


@pytest.fixture(scope="session")
def tiny_run() -> Run:
    """The demo's first run with both views and the mixing term, made small: 4 steps an epoch."""
    run = load_study(Path("params/demo.yaml")).run("mix-d256-e100-clean-s1")
    small: dict[str, Any] = {
        "backbone": run.backbone.model_copy(update={"width": 8}),
        "projector": run.projector.model_copy(update={"hidden": (16,)}),
        "embedding_dim": 32,
        "batch_size": 32,
    }
    return run.model_copy(update=small)


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits as stored images uint8 (1797, 3, 8, 8), and their labels."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * 255 / 16).astype(np.uint8)
    return np.repeat(images[:, None], 3, axis=1), bunch.target.astype(np.int64)


@pytest.fixture
def splits(digits: tuple[np.ndarray, np.ndarray]) -> dict[str, Labelled]:
    """What a milestone of the clean protocol is probed with, from the digits."""
    images, labels = digits
    return {
        "train": Labelled(images[:300], labels[:300]),
        "validation": Labelled(images[300:400], labels[300:400]),
        "test": Labelled(images[400:700], labels[400:700]),
    }
