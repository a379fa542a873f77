"""A classifier trained along with a network: the network does not notice it, and it is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from process_group import by_processes
from segments import segments, whole
from torch import Tensor
from torch.nn.functional import cross_entropy

from barlow_atlas.data.batches import images_for
from barlow_atlas.nn.networks import Network
from barlow_atlas.objectives import METHODS
from barlow_atlas.settings.training import LARS, SGD, OnlineClassifier, StepCosine
from barlow_atlas.store.snapshot import read_weights
from barlow_atlas.study.models import Run
from barlow_atlas.training.loop import initial_state, train
from barlow_atlas.training.segment import Monitor, pretrain_together

CPU = torch.device("cpu")
ASKED = OnlineClassifier(classes=10, base_lr=0.1)
SETTINGS: dict[str, dict[str, Any]] = {
    "barlow_twins": {"lambda_bt": 0.01},
    "mixed_barlow_twins": {"lambda_bt": 0.01, "lambda_reg": 4.0},
    "simclr": {},
    "moco_v2": {"queue_length": 64, "symmetric": True},
    "byol": {},
    "swav": {"prototypes": 8},
}


def with_method(run: Run, objective: str) -> Run:
    settings = METHODS[objective].model_validate({"objective": objective, **SETTINGS[objective]})
    return run.model_copy(update={"settings": settings})


def trained(run: Run, images: np.ndarray, labels: np.ndarray) -> tuple[Network, list[float]]:
    """The network after an epoch, and the classifier's errors."""
    state = initial_state(run, CPU)
    chosen = images_for(whole(images), CPU)
    steps = train(run, state, chosen, until=1, labels=torch.from_numpy(labels))
    errors = [step.terms["online_loss"].item() for step in steps if "online_loss" in step.terms]
    return state.network, errors


@pytest.mark.parametrize("objective", SETTINGS)
def test_the_network_does_not_notice_it(
    objective: str, tiny_run: Run, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    images, labels = digits[0][:128], digits[1][:128]
    run = with_method(tiny_run, objective)
    alone, none = trained(run, images, labels)
    along, errors = trained(run.model_copy(update={"online_linear": ASKED}), images, labels)
    assert none == []
    assert len(errors) == 4
    expected, found = alone.state_dict(), along.state_dict()
    assert set(found) - set(expected) == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(found[name], value) for name, value in expected.items())


class Recorded(torch.nn.Module):
    """A backbone that keeps what it gives."""

    def __init__(self, backbone: torch.nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.given: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.backbone(images)
        self.given.append(features.detach().clone())
        return features


@pytest.mark.parametrize("objective", ["barlow_twins", "mixed_barlow_twins", "swav"])
def test_it_is_softmax_regression_on_both_views_by_the_runs_optimizer(
    objective: str, tiny_run: Run, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    """Against torch's own SGD, at rates computed by hand, on features that are caught on the way.

    Images without a label (-1) do not count.
    """
    images, labels = digits[0][:128], digits[1][:128].copy()
    labels[::5] = -1
    changed = {
        "online_linear": OnlineClassifier(classes=10, base_lr=0.5),
        "optimizer": SGD(name="sgd", momentum=0.9, weight_decay=0.1),
        "schedule": StepCosine(name="step_cosine", base_lr=0.01, warmup_epochs=0),
        "epochs": 1,
    }
    run = with_method(tiny_run, objective).model_copy(update=changed)
    state = initial_state(run, CPU)
    assert state.network.classifier is not None
    copy = torch.nn.Linear(64, 10)
    copy.load_state_dict(state.network.classifier.state_dict())
    caught = state.network.backbone = Recorded(state.network.backbone)
    optimizer = torch.optim.SGD(copy.parameters(), lr=1.0, momentum=0.9)
    order = torch.randperm(len(images), generator=shuffling(run))
    truth = torch.from_numpy(labels)[order].split(32)
    steps = train(
        run, state, images_for(whole(images), CPU), until=1, labels=torch.from_numpy(labels)
    )
    for place, progress in enumerate(steps):
        views, caught.given = torch.cat(caught.given)[:64], []
        known = truth[place].repeat(2)
        error = cross_entropy(copy(views)[known >= 0], known[known >= 0])
        optimizer.zero_grad()
        error.backward()
        rate = 0.5 * 32 / 256 * (1 + np.cos(np.pi * place / 4)) / 2
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        assert progress.terms["online_loss"].item() == pytest.approx(error.item(), rel=1e-5)
    classifier = state.network.classifier
    torch.testing.assert_close(classifier.weight, copy.weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(classifier.bias, copy.bias, rtol=1e-4, atol=1e-6)


def shuffling(run: Run) -> torch.Generator:
    from barlow_atlas.nn.randomness import generator

    return generator(run.seed, "shuffle", 0)


def test_it_is_stored_and_goes_on_from_there(
    tiny_run: Run, digits: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    images, labels = whole(digits[0][:128]), torch.from_numpy(digits[1][:128])
    lars = LARS(name="lars", weight_decay=1e-4, trust_coefficient=0.02, clipped=True)
    run = tiny_run.model_copy(update={"online_linear": ASKED, "optimizer": lars})

    def stored(folder: Path, stops: tuple[int, ...]) -> dict[str, Tensor]:
        for parent, until in zip((None, *stops), stops, strict=False):
            (segment,) = segments(folder, run, parent, until, seeds=(1,))
            (manifest,) = pretrain_together([segment], images, CPU, 1e9, [Monitor()], labels)
        path = segment.checkpoints / f"epoch_{stops[-1]:04d}.json"
        return read_weights(path, manifest)

    at_once, in_two = stored(tmp_path / "a", (0, 2)), stored(tmp_path / "b", (0, 1, 2))
    assert at_once["classifier.weight"].shape == (10, 64)
    assert at_once["classifier.weight"].any()
    assert all(torch.equal(at_once[name], value) for name, value in in_two.items())


def by_two(run: Run, images: np.ndarray, labels: np.ndarray) -> dict[str, Tensor]:
    return dict(trained(run, images, labels)[0].state_dict())


def test_two_processes_train_it_as_one(
    tiny_run: Run, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    """Also where one of them has fewer labels than the other."""
    images, labels = digits[0][:128], digits[1][:128].copy()
    labels[:70] = -1
    run = with_method(tiny_run, "barlow_twins").model_copy(update={"online_linear": ASKED})
    one = trained(run, images, labels)[0].state_dict()
    for of_process in by_processes(2, by_two, run, images, labels):
        for name in ("classifier.weight", "classifier.bias"):
            torch.testing.assert_close(of_process[name], one[name], rtol=1e-4, atol=1e-6)
