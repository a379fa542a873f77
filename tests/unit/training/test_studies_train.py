"""Every line of the papers' own settings trains: a few steps, with less of everything."""

from pathlib import Path

import numpy as np
import pytest
import torch
from segments import whole

from barlow_atlas.data.batches import images_for
from barlow_atlas.settings.training import Backbone
from barlow_atlas.study.file import find_studies, load_study
from barlow_atlas.study.models import Run
from barlow_atlas.training.loop import initial_state, train

PATHS = find_studies(Path("params"))
# A clean twin holds images out, and trains alike.
STUDIES = [name for name in PATHS if name.startswith("fixed-rate/") and not name.endswith("-clean")]
LINES = {
    f"{name} {run.method} d={run.embedding_dim}": run
    for name in STUDIES
    for run in load_study(PATHS[name]).trained()
    if run.seed == 1
}
STEPS = 6
SMALL = {"backbone": Backbone(name="small", stem="3x3", width=8), "batch_size": 16}


def losses(run: Run, images: np.ndarray) -> list[float]:
    """Of the first steps of a run, on 16 x 16 pixels."""
    short = run.model_copy(update={"image_size": 16})
    device = torch.device("cpu")
    chosen = images_for(whole(images[: STEPS * short.batch_size]), device)
    steps = train(short, initial_state(short, device), chosen, until=1)
    return [progress.terms["loss"].item() for progress in steps]


@pytest.mark.parametrize("line", LINES)
def test_a_line_trains(line: str, digits: tuple[np.ndarray, np.ndarray]) -> None:
    found = losses(LINES[line].model_copy(update=SMALL), digits[0])
    assert len(found) == STEPS
    assert np.isfinite(found).all()
    assert len(set(found)) == STEPS, "nothing is learnt"


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["3x3", "3x3-maxpool"])
def test_the_papers_network_trains(stem: str, digits: tuple[np.ndarray, np.ndarray]) -> None:
    name = {"3x3": "fixed-rate/cifar10", "3x3-maxpool": "fixed-rate/stl10"}[stem]
    run = LINES[f"{name} mix d=128"]
    assert (run.backbone.name, run.backbone.stem) == ("resnet50", stem)
    found = losses(run.model_copy(update={"batch_size": 8}), digits[0])
    assert len(found) == STEPS
    assert np.isfinite(found).all()
