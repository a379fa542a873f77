"""The loop on encoded images: as exact as on squares, and it says whether it waits for them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from photographs import class_folders
from segments import segments

from barlow_atlas.data.batches import images_for
from barlow_atlas.data.choice import Data
from barlow_atlas.data.loader import Loader
from barlow_atlas.data.originals import OriginalSet
from barlow_atlas.data.preparation import prepare
from barlow_atlas.data.prepared import chosen, load
from barlow_atlas.settings.augmentation import RECIPES
from barlow_atlas.store.snapshot import Manifest
from barlow_atlas.study.models import Run
from barlow_atlas.training.loop import Progress
from barlow_atlas.training.segment import Interrupted, Monitor, Segment, pretrain_together

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> OriginalSet:
    root = tmp_path_factory.mktemp("photographs")
    folders = class_folders(root / "images", train=16)
    data = Data.model_validate({"name": "mine", "path": str(folders), "stored": "original"})
    prepare(data.data_set, root / "out", root)
    whole = chosen((load(root / "out").train_images, np.arange(48)))
    assert isinstance(whole, OriginalSet)
    return whole


@pytest.fixture
def run(tiny_run: Run) -> Run:
    changed = {"image_size": 12, "batch_size": 16, "recipe": RECIPES["byol-imagenet"]}
    return tiny_run.model_copy(update=changed)


class Stopper(Monitor):
    """Asks to stop after some steps, and remembers what it was shown."""

    def __init__(self, after: int = -1) -> None:
        self.after = after
        self.waiting: list[float | None] = []

    def step(self, progress: Progress) -> None:
        self.waiting.append(progress.waiting)

    def stop_requested(self) -> bool:
        return len(self.waiting) == self.after


def trained(segment: Segment, images: OriginalSet, monitor: Monitor) -> Manifest:
    (manifest,) = pretrain_together([segment], images, CPU, 1e9, [monitor])
    return manifest


def test_stopped_within_an_epoch_it_becomes_what_it_would_have_become(
    images: OriginalSet, run: Run, tmp_path: Path
) -> None:
    found = {}
    for name, stops in (("undisturbed", ()), ("stopped", (1, 1, 2))):
        (first,) = segments(tmp_path / name, run, None, 0, seeds=(1,))
        trained(first, images, Monitor())
        (last,) = segments(tmp_path / name, run, 0, 2, seeds=(1,))
        for after in stops:
            with pytest.raises(Interrupted):
                trained(last, images, Stopper(after))
        found[name] = trained(last, images, Stopper())
        rows = (tmp_path / name / "training/s1/epoch_0002.jsonl").read_text()
        assert len(rows.splitlines()) == 2
        found[name] = (found[name].lineage, rows)
    assert found["undisturbed"] == found["stopped"]


def test_every_step_says_how_much_it_waited(images: OriginalSet, run: Run, tmp_path: Path) -> None:
    monitor = Stopper()
    (first,) = segments(tmp_path, run, None, 0, seeds=(1,))
    trained(first, images, Monitor())
    (last,) = segments(tmp_path, run, 0, 1, seeds=(1,))
    trained(last, images, monitor)
    assert len(monitor.waiting) == 3
    assert all(share is not None and 0 <= share <= 1 for share in monitor.waiting)
    assert isinstance(images_for(images, CPU), Loader)
