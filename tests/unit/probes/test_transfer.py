"""Transfer: the reference's loop on a copy of the network, the clean probe on frozen features."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from small_data import small_gtsdb, small_mnist, small_places
from torch import nn

from barlow_atlas.data.catalog import TARGETS
from barlow_atlas.data.image_set import ImageSet
from barlow_atlas.data.preparation import prepare
from barlow_atlas.data.prepared import Prepared, load
from barlow_atlas.errors import AtlasError
from barlow_atlas.nn.maps import Windows
from barlow_atlas.nn.networks import Network, build
from barlow_atlas.nn.randomness import generator
from barlow_atlas.probes import state
from barlow_atlas.probes.features import drawn, evaluation_view, evaluation_views, extract
from barlow_atlas.probes.heads import shuffled, uniform_start
from barlow_atlas.probes.linear import CROP_AND_FLIP, Linear, published_probe, resized_and_cropped
from barlow_atlas.probes.milestone import Labelled, Milestone, ProbeError
from barlow_atlas.probes.packing import unpack
from barlow_atlas.probes.transfer import (
    VISSL,
    Transfer,
    drops_factor,
    normalised_for,
    target_splits,
    transfer_probe,
    vissl_factor,
)
from barlow_atlas.settings.training import Backbone
from barlow_atlas.study.models import Run

CPU = torch.device("cpu")
MNIST = TARGETS["mnist"]
CLEAN = Transfer(
    targets=["mnist"],
    epochs=20,
    batch_size=64,
    learning_rates=[0.1, 0.01, 1e-6],
    weight_decays=[0.0, 1e-4],
)
REFERENCE = Transfer(targets=["mnist"], epochs=10, batch_size=50)


@pytest.fixture
def reference_run(tiny_run: Run) -> Run:
    return tiny_run.model_copy(update={"protocol": "reference"})


@pytest.fixture
def target(digits: tuple[np.ndarray, np.ndarray]) -> dict[str, Labelled]:
    """Digits of 8 x 8 pixels in the place of MNIST's."""
    images, labels = digits
    return {
        "train": Labelled(images[:500], labels[:500]),
        "validation": Labelled(images[500:700], labels[500:700]),
        "test": Labelled(images[700:1200], labels[700:1200]),
    }


def backbone_of(run: Run) -> nn.Module:
    return build(run.architecture, generator(0, "weights")).backbone


def asked(
    run: Run, settings: Transfer, splits: dict[str, Labelled], backbone: nn.Module | None = None
) -> list[dict[str, Any]]:
    network = Network(backbone or backbone_of(run), nn.Identity())
    return transfer_probe(Milestone(network, run, splits, 10, CPU), settings, MNIST)


# Settings


def test_the_defaults_are_the_references() -> None:
    settings = Transfer(targets=["dtd", "aircraft"])
    assert (settings.epochs, settings.batch_size) == (100, 128)
    assert (settings.learning_rates, settings.weight_decays) == ((0.01,), (0.0,))
    assert settings.fault("reference") is None
    assert CLEAN.fault("clean") is None
    assert "probes.transfer must give one learning rate" in (CLEAN.fault("reference") or "")


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["dtd-32"], "unknown target 'dtd-32'"),
        (["dtd", "dtd"], "each target once"),
        ([], "least 1"),
    ],
)
def test_targets_are_checked(targets: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Transfer(targets=targets)


def test_the_rate_drops_as_torchs_does() -> None:
    settings = Linear(epochs=100)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [60, 80], gamma=0.1)
    for epoch in range(100):
        rate = optimizer.param_groups[0]["lr"]
        assert 0.01 * drops_factor(settings, epoch) == pytest.approx(rate)
        optimizer.step()
        scheduler.step()
    assert [drops_factor(Linear(epochs=5), epoch) for epoch in range(5)] == pytest.approx(
        [1, 1, 1, 0.1, 0.01]
    )


# Reference


def test_the_reference_is_mixed_barlow_twins_loop(
    reference_run: Run, target: dict[str, Labelled]
) -> None:
    del target["validation"]
    settings = REFERENCE.model_copy(update={"epochs": 5})
    given = backbone_of(reference_run)
    records = asked(reference_run, settings, target, given)
    theirs = backbone_of(reference_run)
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, given.state_dict()[name]), f"{name} of the given network changed"
    # Its loop: whole network in train mode, weights frozen, evaluation mode for the test.
    own = normalised_for(reference_run, MNIST)
    width = extract(theirs, own, target["test"].images[:1], CPU).shape[1]
    start = uniform_start(width, 10, generator(reference_run.seed, "transfer/mnist"))
    layer = nn.Linear(width, 10)
    with torch.no_grad():
        layer.weight.copy_(start[:-1].T)
        layer.bias.copy_(start[-1])
    whole = nn.Sequential(theirs.requires_grad_(False), layer)
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.01, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 4], gamma=0.1)
    found = []
    labels = {name: torch.from_numpy(split.labels) for name, split in target.items()}
    for epoch in range(5):
        whole.train()
        for rows in shuffled(500, 50, reference_run.seed, "transfer/mnist", epoch):
            view = evaluation_view(own, target["train"].images[rows.numpy()], CPU)
            loss = nn.CrossEntropyLoss()(whole(view), labels["train"][rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
        whole.eval()
        with torch.no_grad():
            scores = whole(evaluation_view(own, target["test"].images, CPU))
        found.append((scores.argmax(1) == labels["test"]).numpy())
    last, best = records
    assert_array_equal(unpack(last["correct"], 500), found[-1])
    accuracies = [correct.mean() for correct in found]
    place = int(np.argmax(accuracies))
    assert_array_equal(unpack(best["correct"], 500), found[place])
    assert (best["settings"]["epoch"], last["settings"]["epoch"]) == (place + 1, 5)


def test_the_reference_learns_and_says_how(reference_run: Run, target: dict[str, Labelled]) -> None:
    del target["validation"]
    last, best = asked(reference_run, REFERENCE, target)
    assert last["top1"] > 35  # a narrow random network; a guess is right in 10
    assert best["top1"] >= last["top1"]
    assert {(r["probe"], r["split"], r["count"]) for r in (last, best)} == {
        ("transfer", "test", 500)
    }
    assert last["settings"] == {
        "protocol": "reference",
        "form": "standard",
        "target": "mnist",
        "classes": 10,
        "counts": {"train": 500, "test": 500},
        "image_size": 8,
        "mean": [0.170] * 3,
        "std": [0.320] * 3,
        "epochs": 10,
        "batch_size": 50,
        "learning_rate": 0.01,
        "weight_decay": 0.0,
        "optimizer": "sgd, momentum 0.9",
        "schedule": "x 0.1 after 60 % and 80 % of the epochs",
        "training_images": "not augmented",
        "test_images": "not augmented",
        "feature": "backbone",
        "batch_norm": "batch statistics while training",
        "standardised": False,
        "chosen_on": "nothing",
        "epoch_rule": "last",
        "epoch": 10,
    }
    assert (best["settings"]["epoch_rule"], best["settings"]["chosen_on"]) == (
        "best on test",
        "test",
    )


def test_a_single_image_left_over_is_refused(
    reference_run: Run, target: dict[str, Labelled]
) -> None:
    settings = REFERENCE.model_copy(update={"batch_size": 499})
    with pytest.raises(AtlasError, match=r"statistics of a batch of 1 image.*batch size"):
        asked(reference_run, settings, target)


# VISSL's


def test_vissl_s_values_are_those_of_each_target() -> None:
    places, inaturalist = (
        Transfer(targets=[name], form="vissl") for name in ("places205", "inaturalist-2018")
    )
    for settings, epochs in ((places, 14), (inaturalist, 84)):
        assert (settings.epochs, settings.batch_size) == (epochs, 256)
        assert (settings.learning_rates, settings.weight_decays) == ((0.01,), (5e-4,))
        assert settings.fault("reference") is None
        assert "admits the form standard only" in (settings.fault("clean") or "")
        at = [vissl_factor(settings.linear, epoch) for epoch in range(epochs)]
        drops = [epoch for epoch in range(1, epochs) if at[epoch] < at[epoch - 1]]
        assert drops == ([4, 8, 12] if epochs == 14 else [24, 48, 72])
        assert at[-1] == pytest.approx(1e-3)
    assert [one.name for one in places.data_sets(224)] == ["places205-original"]
    assert places.variants == ("places205 vissl",)
    assert Transfer(targets=["places205"], form="vissl", epochs=2).epochs == 2
    both = ["places205", "inaturalist-2018"]
    assert Transfer(targets=both, form="vissl", epochs=2).epochs == 2
    with pytest.raises(ValueError, match="ask each by itself"):
        Transfer(targets=both, form="vissl")
    with pytest.raises(ValueError, match=r"form vissl is of .* not of dtd"):
        Transfer(targets=["dtd"], form="vissl")
    assert "form" not in REFERENCE.model_dump()


def test_vissl_s_form_is_refused_on_a_backbone_without_stages(reference_run: Run) -> None:
    vision = Backbone(name="timm/vit_tiny_patch16_224", stem="own")
    asked = Transfer(targets=["places205"], form="vissl")
    run = reference_run.model_copy(update={"backbone": vision})
    fault = asked.fault_of_run(run) or ""
    assert "timm/vit_tiny_patch16_224 is not torchvision's: ask the form standard" in fault
    assert asked.fault_of_run(reference_run) is None
    assert REFERENCE.fault_of_run(run) is None


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Places205 as its files are, of two classes of noise."""
    root = tmp_path_factory.mktemp("places")
    facts, folder = small_places(root / "mirror")
    original = facts.model_copy(update={"name": "places205-original", "image_size": None})
    prepare(original, root / "prepared", root / "raw", [str(folder.parent)])
    return load(root / "prepared")


FEW_CROPS = Transfer(targets=["places205"], form="vissl", epochs=4, batch_size=4)


def of_scenes(run: Run, scenes: Prepared, **more: Any) -> Milestone:
    network = Network(backbone_of(run), nn.Identity())
    others = {"places205-original": scenes}
    return Milestone(network, run, {}, 10, CPU, others, **more)


def test_it_is_vissl_s_linear_evaluation(reference_run: Run, scenes: Prepared) -> None:
    run = reference_run.model_copy(update={"image_size": 16})
    milestone = of_scenes(run, scenes)
    last, best = Transfer.run([FEW_CROPS], milestone)
    given = milestone.network.backbone.state_dict()
    backbone = backbone_of(run)
    assert all(torch.equal(x, given[name]) for name, x in backbone.state_dict().items())
    # Its loop: trunk in evaluation mode, maps in windows, batch norm, one linear layer.
    *layers, _, _ = backbone.children()
    trunk = nn.Sequential(*layers).eval()
    own = resized_and_cropped(normalised_for(run, TARGETS["places205"]))
    splits, place = target_splits(scenes, "reference"), "transfer/places205"
    labels = {name: torch.from_numpy(split.labels) for name, split in splits.items()}
    with torch.no_grad():
        (view,) = evaluation_views(own, splits["test"].images, CPU)
        test = windows(trunk(view))
    norm, linear = nn.BatchNorm2d(test.shape[1]), nn.Linear(test[0].numel(), 2)
    start = uniform_start(test[0].numel(), 2, generator(run.seed, place))
    with torch.no_grad():
        linear.weight.copy_(start[:-1].T)
        linear.bias.copy_(start[-1])
    head = nn.Sequential(norm, nn.Flatten(), linear)
    groups = [{"params": norm.parameters(), "weight_decay": 0}, {"params": linear.parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2, 3], gamma=0.1)
    found, scores = [], test
    for epoch in range(4):
        head.train()
        order = shuffled(8, 4, run.seed, place, epoch)

        def draws(step: int, epoch: int = epoch) -> torch.Generator:
            return generator(run.seed, place, epoch, step)

        views = drawn(own, splits["train"].images, order, [CROP_AND_FLIP], draws, CPU)
        for rows, (view,) in zip(order, views, strict=True):
            with torch.no_grad():
                maps = windows(trunk(view))
            loss = nn.CrossEntropyLoss()(head(maps), labels["train"][rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
        head.eval()
        with torch.no_grad():
            scores = head(test)
        found.append((scores.argmax(1) == labels["test"]).numpy())
    there = dataclasses.replace(milestone, subject=normalised_for(run, TARGETS["places205"]))
    there = dataclasses.replace(there, splits=splits, classes=2)
    ours, _ = published_probe(VISSL, there, FEW_CROPS.linear, place)
    assert torch.allclose(ours.scores["test"], scores, atol=1e-6)
    assert_array_equal(unpack(last["correct"], 4), found[-1])
    place_of_best = int(np.argmax([correct.mean() for correct in found]))
    assert_array_equal(unpack(best["correct"], 4), found[place_of_best])
    told = last["settings"]
    assert told["feature"] == "last stage in 2 x 2 windows, batch norm"
    assert (told["form"], told["batch_norm"]) == ("vissl", "running statistics")
    assert Transfer.variant(best["settings"]) == "places205 vissl best on test"


def windows(maps: torch.Tensor) -> torch.Tensor:
    return nn.AvgPool2d(maps.shape[2] - 1, 1)(maps)


def test_maps_of_seven_pixels_have_vissl_s_windows() -> None:
    maps = torch.randn(2, 3, 7, 7)
    assert torch.equal(Windows()(maps), nn.AvgPool2d(6, 1, 0)(maps))
    assert Windows()(maps[..., :1, :1]).shape == (2, 3, 1, 1)


def test_crops_ended_after_any_epoch_give_the_same(
    reference_run: Run, scenes: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = reference_run.model_copy(update={"image_size": 16})
    undisturbed = list(Transfer.run([FEW_CROPS], of_scenes(run, scenes)))
    monkeypatch.setattr(state, "SAVED_EVERY", 0.0)
    save, saved = state.State.save, []

    def ends(self: state.State, progress: dict[str, Any]) -> None:
        saved.append(progress["done"])
        if len(saved) % 2 == 0:  # before this epoch is saved
            raise KeyboardInterrupt
        save(self, progress)

    monkeypatch.setattr(state.State, "save", ends)
    found: list[dict[str, Any]] = []
    while not found:
        with contextlib.suppress(KeyboardInterrupt):
            found = list(Transfer.run([FEW_CROPS], of_scenes(run, scenes, kept=tmp_path)))
    assert saved == [1, 2, 2, 3, 3, 4, 4]
    assert found == undisturbed


# Clean


def test_the_clean_probe_learns_on_frozen_features(
    tiny_run: Run, target: dict[str, Labelled]
) -> None:
    backbone = backbone_of(tiny_run)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    records = asked(tiny_run, CLEAN, target, backbone)
    assert all(torch.equal(before[n], value) for n, value in backbone.state_dict().items())
    assert [(r["split"], r["count"]) for r in records] == [("validation", 200), ("test", 500)]
    assert min(r["top1"] for r in records) > 45
    settings = records[1]["settings"]
    assert (settings["batch_norm"], settings["chosen_on"], settings["standardised"]) == (
        "running statistics",
        "validation",
        True,
    )
    assert settings["learning_rate"] > 1e-6
    assert asked(tiny_run, CLEAN, target) == records


def test_the_test_images_choose_nothing(tiny_run: Run, target: dict[str, Labelled]) -> None:
    chosen = asked(tiny_run, CLEAN, target)[0]["settings"]["learning_rate"]
    shifted = dataclasses.replace(target["test"], labels=(target["test"].labels + 1) % 10)
    again = asked(tiny_run, CLEAN, target | {"test": shifted})
    assert again[0]["settings"]["learning_rate"] == chosen
    # Where training says nothing about the validation images, another rate wins.
    wrong = dataclasses.replace(target["validation"], labels=(target["validation"].labels + 1) % 10)
    other = asked(tiny_run, CLEAN, target | {"validation": wrong})
    assert other[0]["settings"]["learning_rate"] != chosen


# The target's images


def test_images_are_normalised_by_the_targets_statistics(
    tiny_run: Run, target: dict[str, Labelled]
) -> None:
    images = target["test"].images[:3]
    view = evaluation_view(normalised_for(tiny_run, TARGETS["dtd"]), images, CPU)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (TARGETS["dtd"].mean, TARGETS["dtd"].std))
    assert torch.allclose(view, (torch.from_numpy(images) / 255 - mean) / std, atol=1e-6)


def test_a_prepared_target_is_probed(tmp_path: Path, tiny_run: Run, reference_run: Run) -> None:
    facts, _, _ = small_mnist(tmp_path / "mirror")
    prepare(facts, tmp_path / "mnist-8", tmp_path / "raw", [str(tmp_path / "mirror")])
    data = load(tmp_path / "mnist-8")
    clean, reference = target_splits(data, "clean"), target_splits(data, "reference")
    assert {name: len(split.labels) for name, split in clean.items()} == {
        "train": 36,
        "validation": 4,
        "test": 20,
    }
    assert {name: len(split.labels) for name, split in reference.items()} == {
        "train": 40,
        "test": 20,
    }
    assert_array_equal(clean["validation"].images[:], data.train_images[data.validation_index])
    assert isinstance(clean["train"].images, ImageSet)  # which copies nothing into memory
    settings = Transfer(targets=["mnist"], epochs=2, batch_size=16)
    assert [r["split"] for r in asked(tiny_run, settings, clean)] == ["validation", "test"]
    assert [r["split"] for r in asked(reference_run, settings, reference)] == ["test", "test"]
    # As a study asks: of a milestone whose own images are others.
    network = Network(backbone_of(tiny_run), nn.Identity())
    milestone = Milestone(network, tiny_run, {}, 7, CPU, {"mnist-8": data})
    assert list(Transfer.run([settings], milestone)) == asked(tiny_run, settings, clean)


def test_a_class_without_training_images_is_only_never_right(
    tmp_path: Path, reference_run: Run
) -> None:
    facts, folder = small_gtsdb(tmp_path / "mirror")
    prepare(facts, tmp_path / "signs", tmp_path / "raw", [str(folder.parent)])
    splits = target_splits(load(tmp_path / "signs"), "reference")
    settings = Transfer(targets=["traffic-signs"], epochs=20, batch_size=6)
    network = Network(backbone_of(reference_run), nn.Identity())
    milestone = Milestone(network, reference_run, splits, 3, CPU)
    last, _ = transfer_probe(milestone, settings, TARGETS["traffic-signs"])
    correct = unpack(last["correct"], last["count"])
    assert not correct[splits["test"].labels == 2].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("size", "have 9 x 9 pixels, the network sees 8 x 8: prepare the target as mnist-8"),
        ("labels", "labels of test must lie between 0 and 9, found 1 to 10"),
        ("none", "MNIST: there are no images of test"),
    ],
)
def test_what_does_not_fit_is_refused(
    change: str, message: str, tiny_run: Run, target: dict[str, Labelled]
) -> None:
    test = target["test"]
    changed = {
        "size": Labelled(np.zeros((500, 3, 9, 9), np.uint8), test.labels),
        "labels": Labelled(test.images, test.labels + 1),
        "none": Labelled(test.images[:0], test.labels[:0]),
    }
    with pytest.raises(ProbeError, match=message):
        asked(tiny_run, CLEAN, target | {"test": changed[change]})
