"""Probes of more images than memory holds: in parts, from features that lie in files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from photographs import CLASSES, class_folders

from barlow_atlas.data.choice import Data
from barlow_atlas.data.preparation import prepare
from barlow_atlas.data.prepared import Prepared, load
from barlow_atlas.nn.networks import build
from barlow_atlas.nn.randomness import generator
from barlow_atlas.probes import features as extracting
from barlow_atlas.probes import linear as probing
from barlow_atlas.probes.knn import KNN
from barlow_atlas.probes.linear import Linear, clean_probe, linear_probe
from barlow_atlas.probes.milestone import Milestone, choose
from barlow_atlas.probes.signals import signals
from barlow_atlas.settings.augmentation import RECIPES
from barlow_atlas.study.models import Run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    root = tmp_path_factory.mktemp("photographs")
    folders = class_folders(root / "images", train=20, val=4)
    data = Data.model_validate({"name": "mine", "path": str(folders), "stored": "original"})
    prepare(data.data_set, root / "out", root)
    return load(root / "out")


@pytest.fixture
def milestone(photographs: Prepared, tiny_run: Run, tmp_path: Path) -> Milestone:
    recipe = RECIPES["byol-imagenet"].model_copy(update={"evaluation_resize": 20})
    run = tiny_run.model_copy(update={"image_size": 16, "recipe": recipe})
    chosen = photographs.select("clean", 1.0)
    train = photographs.train_images, photographs.train_labels
    return Milestone(
        network=build(run.architecture, generator(1, "weights")),
        subject=run,
        splits={
            "train": choose(*train, chosen.probe_training),
            "validation": choose(*train, chosen.validation),
            "test": choose(photographs.test_images, photographs.test_labels, chosen.test),
        },
        classes=len(CLASSES),
        device=CPU,
        kept=tmp_path / "kept",
    )


def test_kept_features_are_the_extracted_ones(
    milestone: Milestone, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = milestone.features
    images = {split: each.images for split, each in milestone.splits.items()}
    for split, features in found.items():
        network = milestone.network.backbone
        extracted = extracting.extract(network, milestone.subject, images[split], CPU)
        assert torch.equal(features, extracted)
        assert (milestone.kept / f"{split}.float32").stat().st_size == 4 * extracted.numel()
    again = Milestone(
        **{key: getattr(milestone, key) for key in ("network", "subject", "splits", "classes")},
        device=CPU,
        kept=milestone.kept,
    )
    monkeypatch.setattr(extracting, "evaluation_views", None)  # nothing is extracted twice
    assert all(torch.equal(again.features[split], found[split]) for split in found)


def test_what_was_ended_while_it_wrote_counts_as_nothing(
    milestone: Milestone, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = extracting.evaluation_views

    def ended(*arguments: object) -> object:
        yield next(whole(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(extracting, "BATCH", 8)
    monkeypatch.setattr(extracting, "evaluation_views", ended)
    with pytest.raises(KeyboardInterrupt):
        _ = milestone.features
    monkeypatch.setattr(extracting, "evaluation_views", whole)
    assert len(milestone.features["train"]) == len(milestone.splits["train"].labels)


def test_all_probes_and_signals_look_at_encoded_images(milestone: Milestone) -> None:
    answers = list(KNN.run([KNN(k=5, temperature=0.5)], milestone))
    assert [answer["count"] for answer in answers] == [6, 12]
    (chosen,) = linear_probe(milestone, Linear(epochs=2, batch_size=16))
    assert {split: scores.shape for split, scores in chosen.scores.items()} == {
        "validation": (6, 3),
        "test": (12, 3),
    }
    assert len(signals(milestone, 6)) == 4


@pytest.mark.parametrize("form", ["imagenet", "mix-small"])
def test_published_forms_draw_their_views_from_encoded_images(
    milestone: Milestone, form: str
) -> None:
    """As many steps and images as squares would give, whatever the form shows the network."""
    own = milestone.subject.model_copy(update={"protocol": "reference"})
    splits = {split: milestone.splits[split] for split in ("train", "test")}
    there = Milestone(milestone.network, own, splits, 3, CPU)
    found = linear_probe(there, Linear(form=form, epochs=1, batch_size=16))
    assert all(each.scores["test"].shape == (12, 3) for each in found)


def test_scores_in_parts_choose_what_they_choose_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(0)
    labels = {split: torch.from_numpy(draws.integers(4, size=97)) for split in SPLITS}
    features = {
        split: torch.from_numpy(draws.standard_normal((97, 6))).float() + labels[split][:, None]
        for split in SPLITS
    }
    settings = Linear(epochs=3, batch_size=32)
    whole = clean_probe(features, labels, 4, settings, 1)
    monkeypatch.setattr(probing, "SCORES", 15 * 4 * 10)
    parts = clean_probe(features, labels, 4, settings, 1)
    assert (parts.learning_rate, parts.weight_decay) == (whole.learning_rate, whole.weight_decay)
    for split, scores in whole.scores.items():
        torch.testing.assert_close(parts.scores[split], scores)


SPLITS = ("train", "validation", "test")
