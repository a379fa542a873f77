"""Average precisions against cases that were computed by hand, and against libraries."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as with_settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import average_precision_score

from barlow_atlas.data.objects import ABSENT, PRESENT, UNCERTAIN, Found, Objects, presence
from barlow_atlas.nn.detection import run_lengths
from barlow_atlas.probes.average_precision import (
    OVERLAPS,
    average_precision,
    box_precisions,
    class_precisions,
    overlaps_of,
    precision_recall,
    voc_metrics,
)
from barlow_atlas.probes.coco import METRICS, coco_metrics
from barlow_atlas.probes.milestone import ProbeError

TEN = (0.0, 0.0, 10.0, 10.0)
FAR = (50.0, 50.0, 60.0, 60.0)


def objects(
    *boxes: tuple[float, ...],
    labels: tuple[int, ...] | None = None,
    difficult: tuple[int, ...] = (),
    crowd: tuple[int, ...] = (),
) -> Objects:
    """Objects of class 0 in an image of 100 x 100 pixels; the numbered ones difficult, or crowds.

    Their outlines are the boxes.
    """
    n, array = len(boxes), np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return Objects(
        height=100,
        width=100,
        boxes=array,
        labels=np.array(labels or (0,) * n, dtype=np.int64),
        difficult=np.isin(np.arange(n), difficult),
        crowd=np.isin(np.arange(n), crowd),
        areas=(array[:, 2] - array[:, 0]) * (array[:, 3] - array[:, 1]),
        outlines=tuple([[x, y, X, y, X, Y, x, Y]] for x, y, X, Y in boxes),
    )


def found(*detections: tuple[tuple[float, ...], float], labels: tuple[int, ...] = ()) -> Found:
    """Detections of class 0, each a box and a score; masks are the boxes."""
    n = len(detections)
    masks = np.zeros((n, 100, 100), dtype=bool)
    for mask, (box, _) in zip(masks, detections, strict=True):
        x, y, X, Y = map(round, box)
        mask[y:Y, x:X] = True
    return Found(
        boxes=np.array([box for box, _ in detections], dtype=np.float64).reshape(-1, 4),
        labels=np.array(labels or (0,) * n, dtype=np.int64),
        scores=np.array([score for _, score in detections], dtype=np.float64),
        masks=run_lengths(masks) if find_spec("pycocotools") else None,
    )


# The curve and the three rules

RIGHT = np.array([1, 0, 1, 1, 0], dtype=bool)
"""At falling scores: precision 1, 1/2, 2/3, 3/4, 3/5; of 4 objects 1, 1, 2, 3, 3 are found."""


@pytest.mark.parametrize(
    ("rule", "by_hand"),
    [
        ("step", (1 + 2 / 3 + 3 / 4) / 4),
        # The precision 2/3 has 3/4 behind it.
        ("area", (1 + 3 / 4 + 3 / 4) / 4),
        # Recall 0, .1, .2 are reached at precision 1; .3 to .7 at 3/4; .8, .9, 1 are not reached.
        ("11-point", (3 * 1 + 5 * 3 / 4) / 11),
    ],
)
def test_a_curve_by_hand(rule: Any, by_hand: float) -> None:
    curve = precision_recall(np.array([0.9, 0.8, 0.7, 0.6, 0.5]), RIGHT, 4)
    assert_allclose(curve[0], [1, 1 / 2, 2 / 3, 3 / 4, 3 / 5])
    assert_allclose(curve[1], [1 / 4, 1 / 4, 2 / 4, 3 / 4, 3 / 4])
    assert average_precision(*curve, rule) == pytest.approx(by_hand, abs=1e-12)


def test_equal_scores_are_one_point_whatever_their_order() -> None:
    """One of the first two is right: precision 1/2 at recall 1/2, not 1 or 0 by their order."""
    for right in ([True, False, True], [False, True, True]):
        curve = precision_recall(np.array([0.5, 0.5, 0.1]), np.array(right), 2)
        assert_allclose(curve, ([1 / 2, 2 / 3], [1 / 2, 1]))
        assert average_precision(*curve, "step") == pytest.approx((1 / 2 + 2 / 3) / 2)
        assert average_precision(*curve, "area") == pytest.approx(2 / 3)


def test_a_recall_of_three_tenths_reaches_three_tenths() -> None:
    """0.1 * 3 is above 3 / 10 in floating point."""
    curve = precision_recall(np.arange(10.0, 7, -1), np.ones(3, bool), 10)
    assert average_precision(*curve, "11-point") == pytest.approx(4 / 11)


def test_nothing_found_is_nought() -> None:
    curve = precision_recall(np.empty(0), np.empty(0, bool), 3)
    assert [average_precision(*curve, rule) for rule in ("step", "area", "11-point")] == [0, 0, 0]


# Classes in images


@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(1, 5))
@with_settings(max_examples=60, deadline=None)
def test_steps_equal_scikit_learns(seed: int, images: int, classes: int) -> None:
    """Ties included: scores are whole numbers."""
    draws = np.random.default_rng(seed)
    scores = draws.integers(0, 6, (images, classes)).astype(float)
    labels = np.where(draws.random((images, classes)) < 0.4, PRESENT, ABSENT)
    labels[0] = PRESENT
    ours = class_precisions(scores, labels, "step")
    theirs = average_precision_score(labels == PRESENT, scores, average=None)
    assert_allclose(ours, np.atleast_1d(theirs), rtol=0, atol=1e-12)
    macro = average_precision_score(labels == PRESENT, scores, average="macro")
    assert ours.mean() == pytest.approx(macro, abs=1e-12)


def test_uncertain_images_are_left_out_and_absent_classes_have_no_number() -> None:
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    labels = np.array([[UNCERTAIN, ABSENT], [PRESENT, ABSENT], [ABSENT, UNCERTAIN]])
    found = class_precisions(scores, labels, "area")
    assert found[0] == 1  # with the first image it would be 1/2
    assert np.isnan(found[1])


def test_a_class_with_difficult_objects_only_is_uncertain() -> None:
    images = [objects(TEN, FAR, labels=(0, 1), difficult=(0,)), objects(TEN, TEN, difficult=(1,))]
    expected = [[UNCERTAIN, PRESENT, ABSENT], [PRESENT, ABSENT, ABSENT]]
    assert_array_equal(presence([*images, objects()], 3), [*expected, [ABSENT] * 3])


# VOC's boxes


def test_overlaps_are_those_of_inclusive_pixels() -> None:
    """VOC's boxes 1..10 and 6..15 share 5 of 15 columns, counted in whole pixels."""
    voc = np.array([[1, 1, 10, 10], [6, 1, 15, 10]])
    ours = voc - [1, 1, 0, 0]
    assert_allclose(overlaps_of(ours[:1].astype(float), ours.astype(float)), [[1, 1 / 3]])
    assert_array_equal(overlaps_of(np.zeros((1, 4)), np.zeros((1, 4))), [[0]])


def ap(
    truth: list[Objects], detected: list[Found], rule: Any = "area", overlap: float = 0.5
) -> float:
    (of_class,) = box_precisions(truth, detected, 1, rule, overlap)
    return float(of_class)


def test_a_second_detection_of_an_object_is_wrong() -> None:
    truth = [objects(TEN, FAR)]
    detected = [found((TEN, 0.9), (TEN, 0.8), (FAR, 0.7))]
    # Right, wrong, right of 2: precision 1, then 2/3 at recall 1.
    assert ap(truth, detected) == pytest.approx((1 + 2 / 3) / 2)
    assert ap(truth, detected, "11-point") == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    # In the other order of scores the far one is found second: 1, 1.
    assert ap(truth, [found((TEN, 0.9), (TEN, 0.7), (FAR, 0.8))]) == 1


def test_a_detection_belongs_to_the_object_that_it_overlaps_most() -> None:
    """Both overlap the second object enough, but the first one more: so one of them is wrong."""
    near = (0.0, 0.0, 10.0, 8.0)
    truth = [objects(TEN, near)]
    assert ap(truth, [found((TEN, 0.9), ((0, 0, 10, 9.5), 0.8))]) == pytest.approx(1 / 2)
    assert ap(truth, [found((TEN, 0.9), ((0, 0, 10, 8.2), 0.8))]) == 1


def test_difficult_objects_count_neither_for_nor_against() -> None:
    truth = [objects(TEN, FAR, difficult=(0,))]
    assert ap(truth, [found((FAR, 0.5))]) == 1
    assert ap(truth, [found((TEN, 0.9), (TEN, 0.8), (FAR, 0.5))]) == 1
    # Without the mark, the first is right, the second wrong.
    assert ap([objects(TEN, FAR)], [found((TEN, 0.9), (TEN, 0.8), (FAR, 0.5))]) < 1


def test_ties_between_images_have_no_order() -> None:
    """One right and one wrong of equal score: precision 1/2 at once."""
    truth = [objects(TEN), objects(TEN)]
    right, wrong = found((TEN, 0.5)), found((FAR, 0.5))
    assert ap(truth, [right, wrong]) == ap(truth, [wrong, right]) == pytest.approx(1 / 4)


def test_classes_without_objects_have_no_number_and_are_not_averaged() -> None:
    truth = [objects(TEN, FAR, labels=(0, 2), difficult=(1,))]
    detected = [found((TEN, 0.9), (FAR, 0.9), labels=(0, 1))]
    precisions = box_precisions(truth, detected, 3, "area")
    assert precisions[0] == 1
    assert np.isnan(precisions[1:]).all()
    assert voc_metrics(truth, detected, 3, "area")["ap50"] == 100


def test_other_classes_and_other_images_are_no_match() -> None:
    truth = [objects(TEN), objects(FAR)]
    assert ap(truth, [found((FAR, 0.9)), found((TEN, 0.9))]) == 0
    assert box_precisions(truth[:1], [found((TEN, 0.9), labels=(1,))], 2, "area")[0] == 0
    assert ap(truth, [found(), found()]) == 0
    assert ap([objects(TEN), objects()], [found((TEN, 0.9)), found((TEN, 0.8))]) == 1


def test_an_overlap_of_just_the_threshold_is_enough() -> None:
    """As in VOC's code; and the mean over the thresholds counts those that are reached."""
    half = found(((0, 0, 10, 5), 0.9))
    assert ap([objects(TEN)], [half]) == 1
    assert ap([objects(TEN)], [half], overlap=0.51) == 0
    assert OVERLAPS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    eight = found(((0, 0, 10, 8), 0.9))
    metrics = voc_metrics([objects(TEN)], [eight], 1, "11-point")
    # Reached: 0.5 to 0.8, seven of ten.
    assert metrics == pytest.approx({"ap": 70, "ap50": 100, "ap75": 100})


# COCO's, by pycocotools


def drawn(seed: int) -> tuple[list[Objects], list[Found]]:
    """Images with objects of three classes, some crowds, and detections near them or anywhere."""
    draws = np.random.default_rng(seed)

    def boxes(n: int) -> np.ndarray:
        corner, size = draws.integers(0, 60, (n, 2)), draws.integers(2, 40, (n, 2))
        return np.hstack([corner, corner + size]).astype(float)

    truth, detected = [], []
    for image in range(6):
        n = 0 if image == 2 else int(draws.integers(1, 6))
        own = boxes(n)
        labels = tuple(draws.integers(0, 3, n).tolist())
        crowd = tuple(np.flatnonzero(draws.random(n) < 0.2).tolist())
        truth.append(objects(*map(tuple, own.tolist()), labels=labels, crowd=crowd))
        near = np.clip(own + draws.integers(-2, 3, own.shape), 0, 100)
        theirs = np.vstack([near, boxes(0 if image == 4 else 3)])
        scores = draws.random(len(theirs)).tolist()
        guessed = (*labels, *draws.integers(0, 3, len(theirs) - n).tolist())
        detected.append(
            found(*zip(map(tuple, theirs.tolist()), scores, strict=True), labels=guessed)
        )
    return truth, detected


def by_files(truth: list[Objects], detected: list[Found], kind: str, folder: Path) -> list[float]:
    """pycocotools' numbers as its users get them: of an annotation file and a list of results.

    Images and categories are numbered as in COCO's files, neither from 0 nor without gaps.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    number, category = (lambda k: 100 + 7 * k), (lambda k: [1, 3, 90][k])
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for k, (one, other) in enumerate(zip(truth, detected, strict=True)):
        for i, (x, y, right, lower) in enumerate(one.boxes.tolist()):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number(k),
                    "category_id": category(int(one.labels[i])),
                    "bbox": [x, y, right - x, lower - y],
                    "area": (right - x) * (lower - y),
                    "iscrowd": int(one.crowd[i]),
                    "segmentation": [[x, y, right, y, right, lower, x, lower]],
                }
            )
        for i, (x, y, right, lower) in enumerate(other.boxes.tolist()):
            told: dict[str, Any] = {"bbox": [x, y, right - x, lower - y]}
            if kind == "segm":
                assert other.masks is not None
                told = {"segmentation": other.masks[i]}
            results.append(
                {
                    "image_id": number(k),
                    "category_id": category(int(other.labels[i])),
                    "score": float(other.scores[i]),
                    **told,
                }
            )
    images = [{"id": number(k), "height": 100, "width": 100} for k in range(len(truth))]
    categories = [{"id": category(k), "name": str(k)} for k in range(3)]
    file = folder / "instances.json"
    content = {"images": images, "categories": categories, "annotations": annotations}
    file.write_text(json.dumps(content))
    known = COCO(str(file))
    evaluation = COCOeval(known, known.loadRes(results), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [100 * x if x >= 0 else float("nan") for x in evaluation.stats[:6].tolist()]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(3))
def test_coco_equals_pycocotools_on_its_own_files(seed: int, kind: Any, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    truth, detected = drawn(seed)
    ours = coco_metrics(truth, detected, 3, kind)
    theirs = by_files(truth, detected, kind, tmp_path)
    assert list(ours) == list(METRICS)
    assert_allclose(list(ours.values()), theirs, rtol=0, atol=1e-9)
    assert 0 < ours["ap"] < 100


def test_coco_by_hand() -> None:
    pytest.importorskip("pycocotools")
    truth = [objects(TEN), objects(), objects(FAR)]
    detected = [found((TEN, 0.9)), found(), found(((50, 50, 60, 58), 0.8))]
    metrics = coco_metrics(truth, detected, 1, "bbox")
    # The second object is overlapped by 0.8: found at seven of the ten thresholds. Else recall
    # reaches 1/2, 51 of the 101 points.
    assert metrics["ap50"] == pytest.approx(100)
    assert metrics["ap"] == pytest.approx(100 * (7 + 3 * 51 / 101) / 10)
    # All objects are smaller than 32 x 32 pixels.
    assert metrics["ap_small"] == metrics["ap"]
    assert np.isnan(metrics["ap_medium"])


def test_coco_of_crowds_and_of_nothing() -> None:
    pytest.importorskip("pycocotools")
    crowd = (0.0, 0.0, 40.0, 40.0)
    truth = [objects(FAR, crowd, crowd=(1,))]
    # Four detections inside of the crowd count as nothing.
    inside = [((x, x, x + 9, x + 9), 0.95) for x in (0.0, 8.0, 16.0, 24.0)]
    assert coco_metrics(truth, [found(*inside, (FAR, 0.5))], 1, "bbox")["ap"] == pytest.approx(100)
    assert coco_metrics(truth, [found()], 1, "bbox")["ap"] == 0
    assert coco_metrics(truth, [found()], 1, "segm")["ap"] == 0
    assert np.isnan(coco_metrics([objects()], [found((TEN, 0.5))], 1, "bbox")["ap"])


def test_coco_refuses_masks_that_are_not_there() -> None:
    pytest.importorskip("pycocotools")
    boxes_only = Found(np.array([TEN]), np.array([0]), np.array([0.9]))
    with pytest.raises(ProbeError, match="ask for boxes"):
        coco_metrics([objects(TEN)], [boxes_only], 1, "segm")
    assert coco_metrics([objects(TEN)], [boxes_only], 1, "bbox")["ap"] == pytest.approx(100)


def test_coco_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    with pytest.raises(ProbeError, match=r"pip install 'barlow-atlas\[detection\]'"):
        coco_metrics([objects(TEN)], [found((TEN, 0.9))], 1, "bbox")
