"""Every line of the papers' own settings trains: a few steps, with less of everything."""

from pathlib import Path

import numpy as np
import pytest
import torch
from segments import whole

from barlow_atlas.data.batches import images_for
from barlow_atlas.objectives.w_mse import WMSE
from barlow_atlas.settings.training import Backbone
from barlow_atlas.study.file import find_studies, load_study
from barlow_atlas.study.models import Run
from barlow_atlas.training.loop import initial_state, train

PATHS = find_studies(Path("params"))
PAPERS = ("fixed-rate/", "reference/", "ablations/rivals")
# A clean twin holds images out, and a study of linear probes takes milestones: both train alike.
STUDIES = [
    name
    for name in PATHS
    if (name.startswith(PAPERS) or name.endswith(("-solo", "-w-mse")))
    and not name.endswith(("-clean", "-linear"))
]
STEPS = 6
WIDEST = 32
SMALL = {"backbone": Backbone(name="small", stem="3x3", width=8), "batch_size": 16}


def shrunken(run: Run) -> Run:
    """The run with a small network and batch; W-MSE with as many rows as whitening needs."""
    hidden = tuple(min(width, WIDEST) for width in run.projector.hidden)
    narrow = {
        "projector": run.projector.model_copy(update={"hidden": hidden}),
        "embedding_dim": min(run.embedding_dim, WIDEST),
    }
    small = run.model_copy(update=SMALL | narrow)
    if not isinstance(run.settings, WMSE):
        return small
    settings = run.settings.model_copy(update={"sub_batch": 8, "epsilon": 0.01})
    return small.model_copy(update={"settings": settings, "embedding_dim": 4})


def lines() -> dict[str, Run]:
    """The first seed's lines, of those that come to the same when they are shrunken the first."""
    trained = {
        f"{name} {run.method} d={run.embedding_dim}": run
        for name in STUDIES
        for run in load_study(PATHS[name]).trained()
        if run.seed == 1
    }
    alike = {"method", "data", "image_size", "protocol"}
    first: dict[str, str] = {}
    for line, run in trained.items():
        first.setdefault(shrunken(run).model_dump_json(exclude=alike), line)
    return {line: trained[line] for line in first.values()}


LINES = lines()


def losses(run: Run, images: np.ndarray) -> list[float]:
    """Of the first steps of a run, on 16 x 16 pixels."""
    short = run.model_copy(update={"image_size": 16})
    device = torch.device("cpu")
    chosen = images_for(whole(images[: STEPS * short.batch_size]), device)
    labels = torch.arange(len(chosen)) % 10
    steps = train(short, initial_state(short, device), chosen, until=1, labels=labels)
    return [progress.terms["loss"].item() for progress in steps]


@pytest.mark.parametrize("line", LINES)
def test_a_line_trains(line: str, digits: tuple[np.ndarray, np.ndarray]) -> None:
    taken = losses(shrunken(LINES[line]), digits[0])
    assert len(taken) == STEPS
    assert np.isfinite(taken).all()
    assert len(set(taken)) == STEPS, "nothing is learnt"


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["3x3", "3x3-maxpool"])
def test_the_papers_network_trains(stem: str, digits: tuple[np.ndarray, np.ndarray]) -> None:
    name = {"3x3": "fixed-rate/cifar10", "3x3-maxpool": "fixed-rate/stl10"}[stem]
    run = LINES[f"{name} mix d=128"]
    assert (run.backbone.name, run.backbone.stem) == ("resnet50", stem)
    found = losses(run.model_copy(update={"batch_size": 8}), digits[0])
    assert len(found) == STEPS
    assert np.isfinite(found).all()
