"""The published forms of the linear probe, each against its own loop in plain torch."""

import contextlib
import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from barlow_atlas.nn import views
from barlow_atlas.nn.networks import build
from barlow_atlas.nn.randomness import generator
from barlow_atlas.probes import state
from barlow_atlas.probes.features import extract
from barlow_atlas.probes.heads import (
    Adam,
    Direction,
    Heads,
    MomentumSGD,
    NormedHead,
    Trained,
    normal_start,
    shuffled,
    train,
    uniform_start,
)
from barlow_atlas.probes.linear import (
    CROP_AND_FLIP,
    FORMS,
    Chosen,
    Linear,
    cosine_factor,
    exponential_factor,
    linear_probe,
    linear_settings,
    published_probe,
    resized_and_cropped,
)
from barlow_atlas.probes.milestone import Labelled, Milestone
from barlow_atlas.study.models import Probes, Run

CPU = torch.device("cpu")
CLASSES = 10
PARTS = {"train": slice(0, 300), "validation": slice(300, 400), "test": slice(400, 700)}
Split = dict[str, np.ndarray]


@pytest.fixture
def images(digits: tuple[np.ndarray, np.ndarray]) -> Split:
    return {split: digits[0][rows] for split, rows in PARTS.items()}


@pytest.fixture
def labels(digits: tuple[np.ndarray, np.ndarray]) -> dict[str, Tensor]:
    return {split: torch.from_numpy(digits[1][rows]) for split, rows in PARTS.items()}


def milestone_of(run: Run, images: Split, labels: dict[str, Tensor]) -> Milestone:
    network = build(run.architecture, generator(0, "weights"))
    splits = {split: Labelled(images[split], labels[split].numpy()) for split in images}
    return Milestone(network, run, splits, CLASSES, CPU)


@pytest.fixture
def reference_run(tiny_run: Run) -> Run:
    return tiny_run.model_copy(update={"protocol": "reference"})


def backbone_of(run: Run) -> nn.Module:
    return build(run.architecture, generator(0, "weights")).backbone


def probed(
    run: Run, settings: Linear, images: Split, labels: dict[str, Tensor]
) -> tuple[nn.Module, list[Chosen]]:
    milestone = milestone_of(run, images, labels)
    return milestone.network.backbone, linear_probe(milestone, settings)


def plain_linear(start: Tensor) -> nn.Linear:
    layer = nn.Linear(start.shape[0] - 1, CLASSES)
    with torch.no_grad():
        layer.weight.copy_(start[:-1].T)
        layer.bias.copy_(start[-1])
    return layer


def step(layer: nn.Linear, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    loss = nn.CrossEntropyLoss()(layer(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


# Settings


def test_each_form_has_its_published_values() -> None:
    mix, imagenet, sota = (Linear(form=form) for form in ("mix-small", "imagenet", "ssl-sota"))
    assert (mix.epochs, mix.batch_size, mix.learning_rates, mix.weight_decays) == (
        *(200, 512),
        (0.01,),
        (5e-6,),
    )
    longer = Linear(form="mix-small-500")
    assert longer == mix.model_copy(update={"form": "mix-small-500", "epochs": 500})
    assert (imagenet.epochs, imagenet.batch_size, imagenet.learning_rates) == (100, 256, (0.3,))
    assert imagenet.weight_decays == (1e-6,)
    assert (sota.epochs, sota.batch_size, sota.learning_rates) == (500, 1000, (0.01,))
    assert (sota.weight_decays, sota.final_lr_ratio) == ((5e-6,), 1e-4)
    assert Linear(form="imagenet", epochs=3).epochs == 3


def test_one_probe_or_a_list_of_them() -> None:
    def linear(given: object) -> tuple[Linear, ...]:
        return Probes.model_validate({"linear": given}).linear

    one = {"epochs": 3, "batch_size": 64, "learning_rates": [0.1], "weight_decays": [0.0]}
    assert linear(one) == (Linear(**one),)
    assert [p.form for p in linear([{}, {"form": "imagenet"}])] == ["standard", "imagenet"]
    with pytest.raises(ValidationError):
        linear([])
    with pytest.raises(ValidationError, match="whose rate falls to 0"):
        linear({"form": "imagenet", "final_lr_ratio": 0.1})


@pytest.mark.parametrize("form", ["mix-small", "mix-small-500", "imagenet", "ssl-sota"])
def test_only_what_validates_is_clean_and_only_one_pair_is_a_reference(form: str) -> None:
    published = Linear(form=form)
    assert "the clean protocol admits the form standard only" in (published.fault("clean") or "")
    assert published.fault("reference") is None
    assert Linear().fault("clean") is None
    assert "one learning rate and one weight decay" in (Linear().fault("reference") or "")


def test_settings_load_nothing_heavy() -> None:
    script = (
        "import sys, barlow_atlas.probes; "
        "print(sorted({'torch', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


# Schedules and starts


def rates_of(
    scheduler: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler],
    rate: float,
    epochs: int,
) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)
    steps, found = scheduler(optimizer), []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        steps.step()
    return found


def test_schedules_are_torchs() -> None:
    schedulers = torch.optim.lr_scheduler
    imagenet, sota = Linear(form="imagenet"), Linear(form="ssl-sota")
    cosine = rates_of(lambda o: schedulers.CosineAnnealingLR(o, 100), 0.3, 100)
    ours = [0.3 * cosine_factor(imagenet, epoch) for epoch in range(100)]
    assert ours == pytest.approx(cosine, abs=1e-12)
    falling = rates_of(lambda o: schedulers.ExponentialLR(o, 1e-4 ** (1 / 500)), 0.01, 500)
    ours = [0.01 * exponential_factor(sota, epoch) for epoch in range(500)]
    assert ours == pytest.approx(falling, rel=1e-9)
    assert 0.01 * exponential_factor(sota, 500) == pytest.approx(1e-6)


def test_starts_have_the_distributions_of_their_sources() -> None:
    normal = normal_start(400, 50, generator(0))
    assert normal[:-1].std().item() == pytest.approx(0.01, rel=0.02)
    assert normal[:-1].mean().item() == pytest.approx(0, abs=2e-4)
    assert (normal[-1] == 0).all()
    uniform = uniform_start(400, 50, generator(0))
    assert uniform.abs().max().item() == pytest.approx(0.05, rel=0.01)
    theirs = nn.Linear(400, 50)
    assert uniform.std().item() == pytest.approx(theirs.weight.std().item(), rel=0.03)


@pytest.mark.parametrize(("size", "resize"), [(224, 256), (32, 37), (64, 73)])
def test_the_test_transform_keeps_its_proportions(tiny_run: Run, size: int, resize: int) -> None:
    seen = resized_and_cropped(tiny_run.model_copy(update={"image_size": size})).recipe
    assert (seen.evaluation_resize, seen.evaluation_interpolation) == (resize, "bilinear")
    assert (seen.mean, seen.std) == (tiny_run.recipe.mean, tiny_run.recipe.std)


# Training


def test_the_gradient_is_autograds() -> None:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(50, 7, generator=draws, dtype=torch.float64)
    y = torch.randint(CLASSES, (50,), generator=draws)
    heads = Heads((0.1,), (0.0, 0.3), torch.zeros(8, CLASSES, dtype=torch.float64), Adam)
    heads.weights.normal_(generator=draws)
    weights = heads.weights.clone().requires_grad_()
    for weight, (_, decay) in zip(weights, heads.pairs, strict=True):
        scores = x @ weight[:, :-1].T + weight[:, -1]
        loss = nn.CrossEntropyLoss()(scores, y) + decay / 2 * weight.square().sum()
        loss.backward()
    assert weights.grad is not None
    torch.testing.assert_close(heads.gradient(x, y), weights.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_each_pair_is_trained_as_torchs_optimizer_alone_would(
    name: str, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    x = torch.from_numpy(digits[0][:256, 0].reshape(256, 64) / 255)
    y = torch.from_numpy(digits[1][:256])
    start = uniform_start(64, CLASSES, generator(0)).double()
    ours: Callable[[Tensor], Direction] = Adam if name == "adam" else MomentumSGD
    heads = Heads((0.1, 0.003), (0.0, 0.01), start, ours)

    def batches(epoch: int) -> list[tuple[Tensor, Tensor]]:
        return [(x[rows], y[rows]) for rows in shuffled(256, 100, 0, "linear", epoch)]

    for _ in train(heads, lambda epoch: 0.7**epoch, batches, 10):
        pass
    for weight, (rate, decay) in zip(heads.weights, heads.pairs, strict=True):
        layer = plain_linear(start).double()
        optimizer: torch.optim.Optimizer
        if name == "adam":
            optimizer = torch.optim.Adam(layer.parameters(), lr=rate, weight_decay=decay)
        else:
            optimizer = torch.optim.SGD(
                layer.parameters(), lr=rate, momentum=0.9, weight_decay=decay
            )
        for epoch in range(10):
            optimizer.param_groups[0]["lr"] = rate * 0.7**epoch
            for features, labels in batches(epoch):
                step(layer, optimizer, features, labels)
        theirs = torch.cat([layer.weight, layer.bias[:, None]], dim=1)
        torch.testing.assert_close(weight, theirs.detach(), rtol=1e-6, atol=1e-6)


def test_features_that_hold_the_label_give_all() -> None:
    labels = torch.arange(200) % CLASSES
    features = 3 * nn.functional.one_hot(labels, CLASSES).float()
    features += 0.1 * torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    start = uniform_start(CLASSES, CLASSES, generator(0))
    maps = features[..., None, None]
    tried: list[tuple[Trained, Tensor]] = [
        (Heads((0.1,), (0.0,), start, Adam), features),
        (Heads((0.3,), (1e-6,), start, MomentumSGD), features),
        (NormedHead(0.1, 5e-4, maps.shape[1:], CLASSES, generator(0), CPU), maps),
    ]
    for heads, known in tried:
        batches = list(zip(known.split(50), labels.split(50), strict=True))
        for _ in train(heads, lambda _: 1.0, lambda _, all_of_it=batches: all_of_it, 20):
            pass
        assert (heads.scores(known)[0].argmax(0) == labels).all()


def test_the_imagenet_form_is_barlow_twins_evaluation(
    reference_run: Run, images: Split, labels: dict[str, Tensor]
) -> None:
    run, settings = reference_run, Linear(form="imagenet", epochs=3, batch_size=64)
    backbone, (last, best) = probed(run, settings, images, labels)
    original = backbone_of(run).state_dict()
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, original[name]), name
    # Barlow Twins' loop: network in evaluation mode, SGD, cosine by epoch.
    backbone.eval()
    width = extract(backbone, run, images["test"][:1], CPU).shape[1]
    layer = plain_linear(normal_start(width, CLASSES, generator(run.seed, "linear")))
    optimizer = torch.optim.SGD(layer.parameters(), 0.3, momentum=0.9, weight_decay=1e-6)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    seen = resized_and_cropped(run)
    test = extract(backbone, seen, images["test"], CPU)
    scores, accuracies = [], []
    for epoch in range(3):
        for k, rows in enumerate(shuffled(300, 64, run.seed, "linear", epoch)):
            draws = generator(run.seed, "linear", epoch, k)
            parameters = views.draw(CROP_AND_FLIP, len(rows), 8, 8, draws)
            pixels = torch.from_numpy(images["train"][rows.numpy()])
            recipe = run.recipe
            view = views.apply(pixels, parameters, CROP_AND_FLIP, 8, recipe.mean, recipe.std)
            with torch.no_grad():
                features = backbone(view)
            step(layer, optimizer, features, labels["train"][rows])
        scheduler.step()
        with torch.no_grad():
            scores.append(layer(test))
        accuracies.append((scores[-1].argmax(1) == labels["test"]).float().mean().item())
    assert torch.allclose(last.scores["test"], scores[-1], atol=1e-4)
    place = int(np.argmax(accuracies))
    assert (last.epoch_rule, last.epoch) == ("last", 3)
    assert (best.epoch_rule, best.epoch) == ("best on test", place + 1)
    assert torch.allclose(best.scores["test"], scores[place], atol=1e-4)
    assert linear_settings(run, settings, last)["chosen_on"] == "nothing"
    assert linear_settings(run, settings, best)["chosen_on"] == "test"


def test_crop_and_flip_are_torchvisions_defaults() -> None:
    import torchvision

    crop = torchvision.transforms.RandomResizedCrop(224)
    flip = torchvision.transforms.RandomHorizontalFlip()
    assert CROP_AND_FLIP.crop_scale == crop.scale
    assert CROP_AND_FLIP.crop_ratio == pytest.approx(crop.ratio)
    assert CROP_AND_FLIP.interpolation == crop.interpolation.value
    assert CROP_AND_FLIP.flip_p == flip.p
    assert CROP_AND_FLIP.jitter_p == CROP_AND_FLIP.grayscale_p == CROP_AND_FLIP.blur_p == 0


def test_the_baselines_form_is_their_loop(
    reference_run: Run, images: Split, labels: dict[str, Tensor]
) -> None:
    run, settings = reference_run, Linear(form="ssl-sota", epochs=20, batch_size=100)
    backbone, (last,) = probed(run, settings, images, labels)
    x, test = (extract(backbone, run, images[split], CPU) for split in ("train", "test"))
    layer = plain_linear(uniform_start(x.shape[1], CLASSES, generator(run.seed, "linear")))
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2, weight_decay=5e-6)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 1e-4 ** (1 / 20))
    for epoch in range(20):
        for rows in shuffled(300, 100, run.seed, "linear", epoch):
            step(layer, optimizer, x[rows], labels["train"][rows])
        scheduler.step()
    with torch.no_grad():
        assert torch.allclose(last.scores["test"], layer(test), atol=1e-4)
    assert (last.epoch, last.epoch_rule) == (20, "last")


@pytest.mark.parametrize("form", ["standard", "mix-small"])
def test_live_batch_norm_stays_in_a_copy(
    form: str, reference_run: Run, images: Split, labels: dict[str, Tensor]
) -> None:
    settings = Linear(
        form=form, epochs=2, batch_size=64, learning_rates=(0.01,), weight_decays=(5e-6,)
    )
    backbone, (last,) = probed(reference_run, settings, images, labels)
    milestone = milestone_of(reference_run, images, labels)
    other = milestone.network.backbone
    for name, value in other.state_dict().items():
        assert torch.equal(value, backbone.state_dict()[name]), name
    (in_place,) = published_probe(FORMS[form], milestone, settings)
    assert torch.equal(last.scores["test"], in_place.scores["test"])
    assert not torch.equal(
        extract(other, reference_run, images["test"][:5], CPU),
        extract(backbone, reference_run, images["test"][:5], CPU),
    )


class Ended(Exception):
    """As by a signal."""


@pytest.mark.parametrize("form", ["mix-small", "imagenet", "ssl-sota"])
def test_ended_after_any_epoch_it_gives_the_same(
    form: str,
    reference_run: Run,
    images: Split,
    labels: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Linear(form=form, epochs=5, batch_size=64)
    _, undisturbed = probed(reference_run, settings, images, labels)
    monkeypatch.setattr(state, "SAVED_EVERY", 0.0)
    save, saved = state.State.save, []

    def ends(self: state.State, progress: dict[str, Any]) -> None:
        saved.append(progress["done"])
        if len(saved) % 2 == 0:  # before this epoch is saved
            raise Ended
        save(self, progress)

    monkeypatch.setattr(state.State, "save", ends)
    found: list[Chosen] = []
    while not found:
        with contextlib.suppress(Ended):
            milestone = milestone_of(reference_run, images, labels)
            found = linear_probe(dataclasses.replace(milestone, kept=tmp_path), settings)
    assert saved == [1, 2, 2, 3, 3, 4, 4, 5, 5]
    for one, other in zip(found, undisturbed, strict=True):
        assert torch.equal(one.scores.pop("test"), other.scores.pop("test"))
        assert one == other


def test_the_clean_probe_goes_on_too(
    tiny_run: Run,
    images: Split,
    labels: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Linear(epochs=3, batch_size=64, learning_rates=(0.1, 0.01))
    (undisturbed,) = linear_probe(milestone_of(tiny_run, images, labels), settings)
    monkeypatch.setattr(state, "SAVED_EVERY", 0.0)
    save = state.State.save

    def ends(self: state.State, progress: dict[str, Any]) -> None:
        save(self, progress)
        if progress["done"] < 3:
            raise Ended

    monkeypatch.setattr(state.State, "save", ends)
    milestone = dataclasses.replace(milestone_of(tiny_run, images, labels), kept=tmp_path)
    for _ in range(2):
        with pytest.raises(Ended):
            linear_probe(milestone, settings)
    (found,) = linear_probe(milestone, settings)
    for split, scores in undisturbed.scores.items():
        assert torch.equal(found.scores[split], scores), split


def test_every_number_says_how_it_came_about(
    tiny_run: Run, reference_run: Run, images: Split, labels: dict[str, Tensor]
) -> None:
    told = {"protocol", "form", "epochs", "batch_norm", "training_images", "epoch_rule", "schedule"}
    for form in FORMS:
        settings = Linear(form=form, learning_rates=(0.1,), weight_decays=(0.0,))
        found = linear_settings(reference_run, settings, Chosen({}, 0.1, 0.0, 5))
        assert told <= found.keys()
        live = form in ("standard", "mix-small", "mix-small-500")
        assert (found["batch_norm"] == "batch statistics while training") == live
    settings = Linear(epochs=2)
    _, (chosen,) = probed(tiny_run, settings, images, labels)
    found = linear_settings(tiny_run, settings, chosen)
    assert (found["batch_norm"], found["chosen_on"]) == ("running statistics", "validation")
    assert found["learning_rate"] in settings.learning_rates
