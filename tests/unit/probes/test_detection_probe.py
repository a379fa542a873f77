"""The detection probe: what it trains on, what it tells, ended and gone on with."""

import itertools
import os
import random
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal
from process_group import by_processes
from ruamel.yaml import YAML
from small_data import small_coco, small_voc0712
from torch import nn

from barlow_atlas.atlas.curves import accuracy_columns, headline, mean_curves
from barlow_atlas.atlas.effects import effects
from barlow_atlas.atlas.frames import probe_table
from barlow_atlas.atlas.lines import Precision, read_all, read_lines
from barlow_atlas.data.objects import Found, Objects
from barlow_atlas.data.preparation import prepare
from barlow_atlas.data.prepared import Prepared, load
from barlow_atlas.nn import detection as detecting
from barlow_atlas.nn import processes
from barlow_atlas.nn.detection import flipped, run_lengths, target_of
from barlow_atlas.nn.networks import Network, build
from barlow_atlas.nn.randomness import generator
from barlow_atlas.probes import detection as probing
from barlow_atlas.probes import state
from barlow_atlas.probes.detection import Detection, Split, check, image_of, splits_of
from barlow_atlas.probes.milestone import Milestone, ProbeError
from barlow_atlas.report.answer import answer
from barlow_atlas.report.tables import milestone_table
from barlow_atlas.settings.detection import COCO_1X, COCO_C4, SMALL, VOC_24K, Detector
from barlow_atlas.study.file import load_study
from barlow_atlas.study.models import Run, Study

TINY = {
    "short_sides": [32],
    "long_side": 40,
    "anchors": [8, 16],
    "proposals": 20,
    "test_proposals": 10,
    "regions": 8,
}
FEW = {"iterations": 4, "batch_size": 4, "learning_rate": 0.02, "warmup": 2, "drops": [3]}
VOC = Detection(target="voc0712", detector=TINY, training=FEW)
COCO = Detection(target="coco", detector={**TINY, "masks": True}, training=FEW)


@pytest.fixture(scope="module")
def voc_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(*small_voc0712(tmp_path_factory.mktemp("voc") / "mirror"))


@pytest.fixture(scope="module")
def voc(voc_folder: Path) -> Prepared:
    return load(voc_folder)


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    facts, folder = small_coco(tmp_path_factory.mktemp("coco") / "mirror")
    unverified = tuple(file.model_copy(update={"md5": None}) for file in facts.files)
    return load(made(facts.model_copy(update={"files": unverified}), folder))


def made(facts: Any, folder: Path) -> Path:
    at = folder.parents[1]
    prepare(facts, at / "prepared", at / "raw", [str(folder.parent)])
    return at / "prepared"


def milestone_of(run: Run, kept: Path | None = None) -> Milestone:
    network = build(run.architecture, generator(0, "weights"))
    backbone = Network(network.backbone, nn.Identity())
    return Milestone(backbone, run, {}, 10, torch.device("cpu"), kept=kept)


# Settings


def test_what_is_left_out_has_the_published_value() -> None:
    plain = Detection(target="voc0712")
    assert (plain.detector, plain.training) == (Detector(), VOC_24K)
    masked = Detection(target="coco", training={"iterations": 180_000})
    assert masked.detector == COCO_C4
    assert masked.training == COCO_1X.model_copy(update={"iterations": 180_000})
    assert Detection(target="voc0712", detector="small").detector == SMALL
    (data_set,) = masked.data_sets(32)
    assert data_set.name == "coco"


def test_the_studies_ask_the_published_evaluations() -> None:
    for target in ("voc0712", "coco"):
        study = load_study(Path(f"params/detection/{target}.yaml"))
        assert study.probes.asked() == (Detection(target=target),)
        assert study.protocol == "reference"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "voc07"}, "'voc0712' or 'coco'"),
        ({"target": "voc0712", "detector": {"masks": True}}, "voc0712 has no masks"),
        ({"target": "coco", "detector": {"form": "fpn"}}, "give `extra_norm: false` with fpn"),
        ({"target": "coco", "training": {"drops": [5, 3]}}, "drops must rise"),
        ({"target": "coco", "training": {"epochs": 5}}, "Extra inputs are not permitted"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Detection(**settings)


TIMM = {"name": "timm/resnet18", "stem": "own"}
FPN = {"form": "fpn", "extra_norm": False}


@pytest.mark.parametrize(
    ("changed", "detector", "message"),
    [
        ({"backbone": TIMM}, {}, r"bt: detection .* timm/resnet18 is not torchvision's"),
        ({"overrides": {"mix": {"backbone": TIMM}}}, {}, "mix: detection .* timm/resnet18"),
        ({}, FPN, "bt: detection: the form fpn .* with `small` take the form c4"),
    ],
)
def test_a_backbone_without_stages_is_refused_when_a_study_is_read(
    changed: dict[str, Any], detector: dict[str, Any], message: str
) -> None:
    probes = {"detection": {"target": "voc0712", "detector": detector}}
    content = YAML(typ="safe").load(Path("params/demo.yaml")) | {"probes": probes} | changed
    with pytest.raises(ValueError, match=message):
        Study.model_validate(content)


def test_names_tell_numbers_apart() -> None:
    assert Detection(target="voc0712").variants == tuple(
        f"voc0712 c4 24000 {rule} {precision}"
        for rule in ("11-point", "area")
        for precision in ("AP", "AP50", "AP75")
    )
    boxes = Detection(target="coco", detector={"form": "fpn", "extra_norm": False, "masks": False})
    assert boxes.variants[:2] == ("coco fpn 90000 boxes AP", "coco fpn 90000 boxes AP50")
    assert COCO.variants[2:4] == ("coco c4 4 boxes AP75", "coco c4 4 masks AP")
    told = [
        one.model_dump() | {"measure": "area", "precision": precision}
        for one, precision in ((VOC, "AP"), (Detection(target="voc0712"), "AP75"))
    ]
    assert [Detection.setting(each) for each in told] == [
        "voc0712 c4 4 area AP: AP at overlaps of 0.5 to 0.95, 4 iterations of 4 images, "
        "rate 0.02 x 0.1 at 3, shorter side 32, whole network",
        "voc0712 c4 24000 area AP75: AP at an overlap of 0.75, 24000 iterations of 16 images, "
        "rate 0.1 x 0.1 at 18000 and 22000, shorter side 480 to 800, whole network",
    ]


# Images


def test_what_is_trained_on_and_evaluated(voc: Prepared, coco: Prepared) -> None:
    clean, reference = splits_of(voc, "clean"), splits_of(voc, "reference")
    assert {name: len(split.rows) for name, split in reference.items()} == {"train": 22, "test": 11}
    held_out = clean["validation"].rows
    assert_array_equal(held_out, voc.validation_index)
    assert_array_equal(np.sort([*held_out, *clean["train"].rows]), np.arange(22))
    # Nothing is to be learnt from an image without objects, but it is evaluated.
    assert_array_equal(splits_of(coco, "reference")["train"].rows, [0, 1, 2])
    assert coco.train_objects is not None
    assert len(coco.train_objects[3]) == 0


def test_parts_without_objects_are_refused(voc: Prepared) -> None:
    splits = splits_of(voc, "reference")
    check(splits, "VOC")
    only_difficult = Split(*splits["test"][:2], np.array([10]))
    with pytest.raises(ProbeError, match="VOC: no image of test has an object"):
        check({"test": only_difficult}, "VOC")


def test_every_pass_takes_each_image_once(tiny_run: Run, voc: Prepared) -> None:
    split = splits_of(voc, "reference")["train"]
    training = probing._Training(VOC, milestone_of(tiny_run), split, 20)
    first, second = training.order(0), training.order(1)
    assert sorted(first) == sorted(second) == split.rows.tolist()
    assert first != second


def test_an_image_is_flipped_with_what_is_in_it(coco: Prepared) -> None:
    pytest.importorskip("pycocotools")
    split = splits_of(coco, "reference")["train"]
    image, target = image_of(split, 0), target_of(split.objects[0], masks=True)
    assert image.shape == (3, 20, 30)
    turned, told = flipped(image, target)
    assert torch.equal(turned[:, :, 0], image[:, :, 29])
    assert told["boxes"].tolist() == [[19, 3, 28, 12], [3, 5, 15, 17]]
    for mask, (left, upper, right, lower) in zip(told["masks"], told["boxes"].int(), strict=True):
        assert mask[upper:lower, left:right].all()
        assert mask.sum() == (right - left) * (lower - upper)
    again = flipped(turned, told)
    assert torch.equal(again[0], image)
    assert all(torch.equal(again[1][name], target[name]) for name in target)


# Training


class Ended(Exception):
    """As by a signal."""


def test_ended_after_any_iteration_it_gives_the_same(
    tiny_run: Run, voc: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = splits_of(voc, "clean")["train"]
    whole = probing._Training(VOC, milestone_of(tiny_run), split, 20)
    before = {name: weight.clone() for name, weight in whole.model.state_dict().items()}
    whole.finish()
    assert not any(x.equal(before[name]) for name, x in whole.model.state_dict().items())

    monkeypatch.setattr(state, "SAVED_EVERY", 0.0)
    brought, begun = probing._Training._batch, []

    def ends(self: probing._Training, pool: Any, iteration: int) -> Any:
        begun.append(iteration)
        if len(begun) in (2, 4):
            raise Ended
        return brought(self, pool, iteration)

    monkeypatch.setattr(probing._Training, "_batch", ends)
    for _ in range(3):
        torch.manual_seed(len(begun))  # what else was drawn does not matter
        gone_on = probing._Training(VOC, milestone_of(tiny_run, kept=tmp_path), split, 20)
        try:
            gone_on.finish()
        except Ended:
            continue
    assert begun == [0, 1, 1, 2, 2, 3]
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, gone_on.model.state_dict()[name]), name


LONGER = VOC.model_copy(update={"training": VOC.training.model_copy(update={"iterations": 6})})


def train_together(
    at: Path, run: Run, kept: Path, end: tuple[int, int] | None, number: int | None = None
) -> bool | None:
    """Trains the detector in float64, saved in every iteration.

    Args:
        end: a process and the iteration after which it wants to stop.
        number: of the signal that it then gets instead.

    Returns:
        As `Detection.train`; None if another process was lost.
    """
    pixels, targets, made = probing.image_of, detecting.target_of, detecting.detector

    def target_of(image: Objects, masks: bool) -> dict[str, torch.Tensor]:
        told = targets(image, masks)
        return told | {"boxes": told["boxes"].double()}

    steps = itertools.count(1)

    def ends() -> bool:
        reached = (processes.rank(), next(steps)) == end
        if reached and number is not None:
            os.kill(os.getpid(), number)
        return reached

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probing, "image_of", lambda split, row: pixels(split, row).double())
        patch.setattr(detecting, "target_of", target_of)
        patch.setattr(detecting, "detector", lambda *given: made(*given).double())
        patch.setattr(state, "SAVED_EVERY", 0.0)
        milestone = replace(milestone_of(run, kept), others={"voc0712": load(at)})
        try:
            return LONGER.train(milestone, ends)
        except processes.PeerLost:
            return None


def state_in(kept: Path) -> dict[str, torch.Tensor]:
    """The detector's weights and statistics, and how far they are."""
    (file,) = kept.glob("detection_*.state")
    stored = torch.load(file, weights_only=True)
    return {**stored["parts"][0], "done": torch.tensor(stored["done"])}


@pytest.mark.slow
def test_it_goes_on_by_another_number_of_processes(
    tiny_run: Run, voc_folder: Path, tmp_path: Path
) -> None:
    """Stopped by one of two processes, gone on with by one: what one would have trained alone."""
    at = voc_folder
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert train_together(at, tiny_run, alone, None)
    stopped = by_processes(2, train_together, at, tiny_run, shared, (1, 3))
    assert stopped == [False, False]
    assert state_in(shared)["done"] == 3
    assert train_together(at, tiny_run, shared, None)
    found, expected = state_in(shared), state_in(alone)
    assert found.keys() == expected.keys()
    assert expected["done"] == 6
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.slow
def test_a_killed_process_changes_nothing(tiny_run: Run, voc_folder: Path, tmp_path: Path) -> None:
    """The others end, and as many as before go on to the same bits."""
    at = voc_folder
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    assert by_processes(2, train_together, at, tiny_run, whole, None) == [True, True]
    end = 1, random.randrange(2, 7)
    given = at, tiny_run, shared, end, signal.SIGKILL
    assert by_processes(2, train_together, *given, killed=(1,)) == [None]
    assert state_in(shared)["done"] == end[1] - 1
    assert by_processes(2, train_together, at, tiny_run, shared, None) == [True, True]
    found, expected = state_in(shared), state_in(whole)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), (name, end)


def test_a_batch_that_processes_cannot_share_is_refused() -> None:
    assert VOC.fault_of_processes(2) is None
    assert "3 processes cannot share probes.detection.training.batch_size 4 evenly" in (
        VOC.fault_of_processes(3) or ""
    )


def test_the_milestone_is_left_as_it_is(tiny_run: Run, voc: Prepared) -> None:
    milestone = milestone_of(tiny_run)
    weights = {k: x.clone() for k, x in milestone.network.state_dict().items()}
    one = VOC.model_copy(update={"training": VOC.training.model_copy(update={"iterations": 1})})
    probing._Training(one, milestone, splits_of(voc, "clean")["train"], 20).finish()
    assert all(x.equal(weights[k]) for k, x in milestone.network.state_dict().items())


def test_what_diverges_is_refused(tiny_run: Run, voc: Prepared) -> None:
    wild = Detection(
        target="voc0712", detector=TINY, training={**FEW, "learning_rate": 1e30, "warmup": 0}
    )
    with pytest.raises(ProbeError, match=r"diverged in iteration \d.*loss_.*learning_rate"):
        list(wild.answers(milestone_of(tiny_run), voc))


def test_a_pyramid_needs_a_resnet(tiny_run: Run, voc: Prepared) -> None:
    form = {"form": "fpn", "extra_norm": False}
    with pytest.raises(ProbeError, match=r"probes.detection.detector: .* take the form c4"):
        list(Detection(target="voc0712", detector=form).answers(milestone_of(tiny_run), voc))


# What is told


def all_of_it(image: Objects, masks: bool) -> Found:
    """Every object of an image that is no crowd, as a detector of it would say it."""
    kept = np.flatnonzero(~image.crowd)
    drawn = np.zeros((len(kept), image.height, image.width), bool)
    for mask, (left, upper, right, lower) in zip(
        drawn, image.boxes[kept].round().astype(int), strict=True
    ):
        mask[upper:lower, left:right] = True
    return Found(
        image.boxes[kept],
        image.labels[kept],
        np.linspace(0.5, 0.9, len(kept)),
        run_lengths(drawn) if masks else None,
    )


@pytest.fixture
def knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that need not be trained."""

    def detections(self: probing._Training, split: Split) -> Iterator[Found]:
        masks = self.settings.detector.masks
        return (all_of_it(split.objects[row], masks) for row in split.rows.tolist())

    monkeypatch.setattr(probing._Training, "finish", lambda _: True)
    monkeypatch.setattr(probing._Training, "detections", detections)


@pytest.mark.usefixtures("knows")
def test_what_is_found_gives_all(tiny_run: Run, voc: Prepared, coco: Prepared) -> None:
    pytest.importorskip("pycocotools")
    milestone = replace(milestone_of(tiny_run), others={"voc0712": voc, "coco": coco})
    records = list(Detection.run([VOC, COCO], milestone))
    told = [(one["settings"], one["split"]) for one in records]
    assert {(one["target"], one["measure"], one["precision"], split) for one, split in told} == {
        (target, measure, precision, split)
        for target, measures in (("voc0712", ("11-point", "area")), ("coco", ("boxes", "masks")))
        for measure in measures
        for precision in ("AP", "AP50", "AP75")
        for split in ("validation", "test")
    }
    assert [one["ap"] for one in records] == pytest.approx([100] * 24)
    counts = {"train": 18, "validation": 4, "test": 11}
    assert records[0]["settings"]["counts"] == counts
    # COCO's precisions by size stand beside AP, where any object is that large.
    of_sizes = {one["settings"]["precision"] for one in records if "ap_small" in one}
    assert of_sizes == {"AP"}
    assert all("ap_large" not in one for one in records)


@pytest.mark.usefixtures("knows")
def test_each_precision_is_that_of_its_overlap(
    tiny_run: Run, voc: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boxes that cover six tenths of their objects are right at 0.5, and wrong at 0.75."""

    def narrow(self: probing._Training, split: Split) -> Iterator[Found]:
        for row in split.rows.tolist():
            found = all_of_it(split.objects[row], False)
            boxes = found.boxes.copy()
            boxes[:, 2] -= 0.4 * (boxes[:, 2] - boxes[:, 0])
            yield replace(found, boxes=boxes)

    monkeypatch.setattr(probing._Training, "detections", narrow)
    milestone = replace(milestone_of(tiny_run), others={"voc0712": voc})
    told = {
        one["settings"]["precision"]: one["ap"]
        for one in Detection.run([VOC], milestone)
        if one["split"] == "test" and one["settings"]["measure"] == "area"
    }
    assert told["AP50"] == pytest.approx(100)
    assert told["AP75"] == 0
    assert 0 < told["AP"] < 50


@pytest.mark.usefixtures("knows")
def test_average_precisions_stand_in_the_tables(tiny_run: Run, voc: Prepared) -> None:
    milestone = replace(milestone_of(tiny_run), others={"voc0712": voc})
    content = {
        "study": "some",
        "name": tiny_run.name,
        "run": tiny_run.model_dump(mode="json"),
        "epoch": 0,
        "results": list(Detection.run([VOC], milestone)),
    }
    rows = probe_table([content, {**content, "epoch": 5}])
    assert set(rows["metric"]) == {"ap"}
    curves = mean_curves(rows)
    columns = accuracy_columns(curves)
    assert [name.rpartition("detection ")[2] for name in columns.columns[1:]] == list(VOC.variants)
    assert columns.iloc[:, 1:].to_numpy() == pytest.approx(100)
    (line,) = headline(curves).values()
    assert line[f"detection {VOC.variants[0]}"]["last"] == pytest.approx(100)
    table = milestone_table(curves, "some")
    assert len(table.rows) == len(VOC.variants)
    assert any("the mean over overlaps" in note for note in table.notes)
    # Each has effects of its own, AP50 and AP75 beside AP.
    lines = read_all([content, {**content, "epoch": 5}], {tiny_run.name: [0, 5]})
    found = effects([], [line for line in lines if isinstance(line, Precision)])
    assert set(found["variant"]) == set(VOC.variants)
    assert {"first", "gain", "last"} <= set(found["statistic"])
    # They are no accuracies: no line of answers, nothing to answer the questions by.
    assert read_lines([content], {tiny_run.name: [0]}) == []
    assert answer(curves, pd.DataFrame()).probes == ()


def test_without_pycocotools_nothing_is_trained(
    tiny_run: Run, coco: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    monkeypatch.setattr(probing._Training, "finish", lambda _: pytest.fail("it was trained"))
    with pytest.raises(ProbeError, match=r"pip install 'barlow-atlas\[detection\]'"):
        list(COCO.answers(milestone_of(tiny_run), coco))
