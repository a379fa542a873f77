"""The SVM probe: VISSL's protocol, beside scikit-learn called by hand."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC
from small_data import small_gtsdb, small_voc
from torch import Tensor, nn

from barlow_atlas.atlas.curves import accuracy_columns, headline, mean_curves
from barlow_atlas.atlas.frames import probe_table
from barlow_atlas.atlas.lines import Precision, read_all, read_lines
from barlow_atlas.data.objects import ABSENT, PRESENT, UNCERTAIN
from barlow_atlas.data.preparation import prepare
from barlow_atlas.data.prepared import load
from barlow_atlas.nn.networks import Network, build
from barlow_atlas.nn.randomness import generator
from barlow_atlas.probes import PROBES, state, svm
from barlow_atlas.probes.average_precision import class_precisions
from barlow_atlas.probes.milestone import Labelled, Milestone, ProbeError
from barlow_atlas.probes.svm import (
    COSTS,
    SVM,
    fit,
    presences,
    seen_by_machines,
    splits_of,
    unit,
)
from barlow_atlas.report.answer import answer
from barlow_atlas.report.tables import milestone_table
from barlow_atlas.settings.training import Backbone
from barlow_atlas.study.file import load_study
from barlow_atlas.study.models import Run
from barlow_atlas.workflow.sources import fingerprint

CPU = torch.device("cpu")
FEW = SVM(targets=("voc07",), costs=(0.1, 1.0, 10.0))
NAMES = ("even", "small", "nought")


def several_classes(digits: np.ndarray) -> np.ndarray:
    """Of each digit whether it is even, below 4, nought; every eleventh uncertain of the first."""
    held = np.stack([digits % 2 == 0, digits < 4, digits == 0], axis=1)
    labels = np.where(held, PRESENT, ABSENT)
    labels[::11, 0] = UNCERTAIN
    return labels


@pytest.fixture
def parts(digits: tuple[np.ndarray, np.ndarray]) -> dict[str, Labelled]:
    images, numbers = digits
    labels = several_classes(numbers)
    places = {"train": slice(0, 300), "validation": slice(300, 400), "test": slice(400, 700)}
    return {split: Labelled(images[rows], labels[rows]) for split, rows in places.items()}


def milestone_of(run: Run, backbone: nn.Module | None = None) -> Milestone:
    network = build(run.architecture, generator(0, "weights"))
    return Milestone(Network(backbone or network.backbone, nn.Identity()), run, {}, 10, CPU)


@pytest.mark.parametrize("protocol", ["clean", "reference"])
def test_it_is_scikit_learns_machine_chosen_by_folds(
    tiny_run: Run, parts: dict[str, Labelled], protocol: Any
) -> None:
    run = tiny_run.model_copy(update={"protocol": protocol})
    if protocol == "reference":
        del parts["validation"]
    milestone = milestone_of(run)
    records = {one["split"]: one for one in FEW.answers(milestone, "voc07", parts, NAMES)}
    assert set(records) == set(parts) - {"train"}
    # By hand, on the same features.
    features = {
        split: x.numpy().astype(float)
        for split, x in replace(milestone, splits=parts).features.items()
    }
    features = {k: x / np.linalg.norm(x, axis=1, keepdims=True) for k, x in features.items()}
    chosen, scores = [], []
    for labels in parts["train"].labels.T:
        used = np.ones(300, dtype=bool) if protocol == "reference" else labels != UNCERTAIN
        x, y = features["train"][used], np.where(labels[used] == 1, 1, -1)
        machines = {
            cost: LinearSVC(
                C=cost,
                class_weight={1: 2, -1: 1},
                penalty="l2",
                loss="squared_hinge",
                dual=True,
                tol=1e-4,
                max_iter=2000,
                random_state=run.seed,
            )
            for cost in FEW.costs
        }
        told = {
            cost: cross_val_score(m, x, y, cv=3, scoring="average_precision").mean()
            for cost, m in machines.items()
        }
        chosen.append(max(told, key=lambda cost: told[cost]))
        scores.append(machines[chosen[-1]].fit(x, y).decision_function(features["test"]))
    test = records["test"]
    assert test["settings"]["chosen_costs"] == chosen
    expected = class_precisions(np.stack(scores, axis=1), parts["test"].labels, "area")
    assert list(test["of_class"].values()) == pytest.approx((100 * expected).tolist(), abs=1e-9)
    assert test["map"] == pytest.approx(100 * expected.mean(), abs=1e-9)
    assert test["count"] == 300
    json.dumps(records)


def test_the_defaults_are_vissls() -> None:
    svm = SVM(targets=["voc07"])
    assert svm.costs == COSTS == (0.01, 0.1, 1, 2, 5, 10, 15, 20, 50, 100, 1000)
    assert svm.folds == 3
    assert svm.variants == ("voc07 mAP",)
    (data_set,) = svm.data_sets(224)
    assert (data_set.name, data_set.image_size) == ("voc07-224", 224)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": ["voc12"]}, "unknown target 'voc12'"),
        ({"targets": ["voc07", "voc07"]}, "each target once"),
        ({"targets": []}, "least 1"),
        ({"targets": ["voc07"], "costs": [0]}, "greater than 0"),
        ({"targets": ["voc07"], "folds": 1}, "greater than or equal to 2"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SVM(**settings)


class Holds(nn.Module):
    """A backbone whose features are what stands in the first pixels of the images."""

    def __init__(self, std: float, mean: float, features: int) -> None:
        super().__init__()
        self.std, self.mean, self.features = std, mean, features

    def forward(self, images: Tensor) -> Tensor:
        values = (images * self.std + self.mean) * 255
        return values[:, 0, 0, : self.features]


def test_features_that_hold_the_labels_give_all(tiny_run: Run) -> None:
    draws = np.random.default_rng(0)
    size = tiny_run.image_size
    parts = {}
    for split, n in (("train", 60), ("validation", 30), ("test", 40)):
        present = draws.random((n, 3)) < 0.4
        images = np.zeros((n, 3, size, size), dtype=np.uint8)
        images[:, 0, 0, :3] = 200 * present
        images[:, 0, 0, 3] = 200  # so that an image without a class has a direction, too
        parts[split] = Labelled(images, np.where(present, PRESENT, ABSENT))
    backbone = Holds(tiny_run.recipe.std[0], tiny_run.recipe.mean[0], 4)
    asked = SVM(targets=("voc07",))
    timm = Backbone(name="timm/resnet18", stem="own")  # whose features are its output
    tiny_run = tiny_run.model_copy(update={"backbone": timm})
    milestone = Milestone(Network(backbone, nn.Identity()), tiny_run, {}, 10, CPU)
    records = list(asked.answers(milestone, "voc07", parts, NAMES))
    assert [one["map"] for one in records] == pytest.approx([100, 100], abs=1e-9)
    assert records[0]["settings"]["feature"] == "backbone"


def test_features_are_windows_of_the_last_stage(tiny_run: Run) -> None:
    """VISSL's AvgPool2d(6, 1, 0) of 7 x 7 maps, flattened: 8,192 numbers of a ResNet-50."""
    milestone = milestone_of(tiny_run)
    images = torch.randn(2, 3, 56, 56)
    *layers, pool, flat = milestone.network.backbone.eval().children()
    maps = nn.Sequential(*layers)(images)
    assert maps.shape[2:] == (7, 7)
    seen = seen_by_machines(milestone)(images)
    assert torch.equal(seen, nn.AvgPool2d(6, 1, 0)(maps).flatten(1))
    assert seen.shape[1] == 4 * flat(pool(maps)).shape[1]


def test_ended_after_any_class_it_gives_the_same(
    tiny_run: Run, parts: dict[str, Labelled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    milestone = milestone_of(tiny_run)
    undisturbed = list(FEW.answers(milestone, "voc07", parts, NAMES))
    monkeypatch.setattr(state, "SAVED_EVERY", 0.0)
    fitted = []

    def ends(*given: Any) -> Any:
        fitted.append(given)
        if len(fitted) % 2 == 0:
            raise KeyboardInterrupt
        return fit(*given)

    monkeypatch.setattr(svm, "fit", ends)
    found: list[dict[str, Any]] = []
    while not found:
        with contextlib.suppress(KeyboardInterrupt):
            kept = replace(milestone, kept=tmp_path)
            found = list(FEW.answers(kept, "voc07", parts, NAMES))
    assert len(fitted) == 5
    assert found == undisturbed


def test_one_class_an_image_is_one_against_all_others(
    digits: tuple[np.ndarray, np.ndarray],
) -> None:
    _, numbers = digits
    labels = presences(numbers[:5], 10)
    assert (labels == PRESENT).sum() == 5
    assert_array_equal(labels.argmax(axis=1), numbers[:5])
    several = several_classes(numbers[:5])
    assert presences(several, 3) is several


def test_a_single_cost_needs_no_folds(digits: tuple[np.ndarray, np.ndarray]) -> None:
    images, numbers = digits
    features = unit(images[:200, 0].reshape(200, -1))
    labels = presences(numbers[:200], 10)[:, 3]
    one = fit(features, labels, (2.0,), 3, 0, leave_out=True)
    same = fit(features, labels, (2.0, 2.0), 3, 0, leave_out=True)
    assert one.cost == same.cost == 2
    assert_array_equal(one.weights, same.weights)
    found = average_precision_score(labels == 1, one.scores(features))
    assert found > 0.99


def test_norm_of_nought_stays_nought() -> None:
    assert_array_equal(unit(np.array([[3, 4], [0, 0]], np.float32)), [[0.6, 0.8], [0, 0]])


def test_too_few_of_a_class_are_refused_before_anything_is_computed(
    tiny_run: Run, parts: dict[str, Labelled]
) -> None:
    class Untouchable(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise AssertionError("features were extracted")

    milestone = milestone_of(tiny_run, Untouchable())
    rare = parts["train"].labels.copy()
    rare[:, 2] = ABSENT
    rare[:2, 2] = PRESENT
    parts["train"] = Labelled(parts["train"].images, rare)
    with pytest.raises(ProbeError, match=r"with each class, too few are there of nought \(2\)"):
        list(FEW.answers(milestone, "voc07", parts, NAMES))
    rare[:, 2] = PRESENT
    with pytest.raises(ProbeError, match=r"without each class, too few are there of nought \(0\)"):
        list(FEW.answers(milestone, "voc07", parts, NAMES))


# Prepared targets


def test_a_prepared_target_of_several_classes(tiny_run: Run, tmp_path: Path) -> None:
    facts, folder = small_voc(tmp_path / "mirror")
    prepare(facts, tmp_path / "voc07-8", tmp_path / "raw", [str(folder.parent)])
    prepared = load(tmp_path / "voc07-8")
    clean, reference = (splits_of(prepared, protocol) for protocol in ("clean", "reference"))
    counts = {split: len(part.labels) for split, part in clean.items()}
    assert counts == {"train": 9, "test": 11, "validation": 2}
    assert set(reference) == {"train", "test"}
    assert_array_equal(reference["train"].labels, prepared.train_labels)
    kept = np.setdiff1d(np.arange(11), prepared.validation_index)
    assert_array_equal(clean["train"].labels, prepared.train_labels[kept])
    milestone = replace(milestone_of(tiny_run), others={"voc07-8": prepared})
    with pytest.raises(ProbeError, match="3 folds need as many training images with each class"):
        list(SVM.run([FEW], milestone))


def test_a_prepared_target_of_one_class_an_image(tiny_run: Run, tmp_path: Path) -> None:
    facts, folder = small_gtsdb(tmp_path / "mirror")
    prepare(facts, tmp_path / "signs", tmp_path / "raw", [str(folder.parent)])
    prepared = load(tmp_path / "signs")
    splits = splits_of(prepared, "reference")
    assert_array_equal(
        (splits["test"].labels == PRESENT).sum(axis=0), prepared.manifest.test.per_class
    )


# What becomes of its numbers


def contents(run: Run) -> list[dict[str, Any]]:
    """Probe files of two milestones, as `steps/probe.py` writes them, with SVM's answers alone."""
    settings = {
        **FEW.model_dump(exclude={"targets"}),
        "target": "voc07",
        "average_precision": "area",
        "positive_weight": 2,
        "uncertain": "left out",
        "feature": "backbone",
    }
    return [
        {
            "study": "s",
            "name": run.name,
            "epoch": epoch,
            "run": run.model_dump(mode="json"),
            "signals": [],
            "results": [
                {
                    "probe": "svm",
                    "settings": {**settings, "chosen_costs": [cost]},
                    "split": split,
                    "count": 11,
                    "map": value + (split == "test"),
                    "of_class": {"a": value},
                }
                for split in ("validation", "test")
            ],
        }
        for epoch, value, cost in ((0, 40.0, 0.1), (10, 60.5, 1.0))
    ]


def test_its_numbers_are_in_the_tables_and_are_no_answers_to_images(tiny_run: Run) -> None:
    """Costs differ between milestones: they are no part of what names a line."""
    table = probe_table(contents(tiny_run))
    assert set(table["metric"]) == {"map"}
    assert table["variant"].unique().tolist() == ["voc07 mAP"]
    assert len(table["setting"].unique()) == 1
    curves = mean_curves(table)
    assert accuracy_columns(curves)["mix-d32 svm voc07 mAP"].tolist() == [41, 61.5]
    (line,) = headline(curves).values()
    assert line == {"svm voc07 mAP": {"at_peak": 61.5, "last": 61.5}}
    shown = milestone_table(curves, "S")
    assert any("mean average precision" in note for note in shown.notes)
    planned = {tiny_run.name: [0, 10]}
    assert read_lines(contents(tiny_run), planned) == []
    (precision,) = read_all(contents(tiny_run), planned)
    assert isinstance(precision, Precision)
    assert (precision.metric, precision.values.tolist()) == ("mAP", [[41, 61.5]])
    verdict, *_ = answer(curves, pd.DataFrame()).verdicts
    assert "no probe tells an accuracy" in str(verdict)


def test_adding_it_changes_the_code_of_no_other_probe() -> None:
    study = load_study(Path("params/demo.yaml"))
    asked = study.probes.kinds()
    assert PROBES["svm"] not in asked
    assert fingerprint("probe", asked) != fingerprint("probe", (*asked, PROBES["svm"]))
    assert "svm" not in study.probes.model_dump(mode="json")
