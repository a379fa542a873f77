"""Average precision: of classes in images and of boxes, by the definitions in use.

All begin with the curve of precision against recall. Equal scores are one point of it, so that no
order among them decides (as scikit-learn does; VOC's own code takes them in the order of the file).

    step      sum over the points of (R_k - R_(k-1)) P_k           scikit-learn's
    area      the same, of the largest precision from P_k on        VOC from 2010 on, VISSL
    11-point  mean over r = 0, 0.1, ..., 1 of the largest precision where R >= r    VOC to 2009

Sources: M. Everingham et al., IJCV 88 (2010), section 4.2, and the development kits' `VOCap.m` and
`VOCevaldet.m`.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from barlow_atlas.data.objects import PRESENT, UNCERTAIN, Boxes, Found, Objects
from barlow_atlas.data.selection import Index

Rule = Literal["step", "area", "11-point"]
Numbers = NDArray[np.float64]

OVERLAPS = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))
"""Of boxes, 0.5 to 0.95: COCO's thresholds, over which detectron2 averages VOC's AP as well."""


def precision_recall(
    scores: Numbers, positive: NDArray[np.bool_], positives: int
) -> tuple[Numbers, Numbers]:
    """Precision and recall (k,) if all that score at least as much are taken, k distinct scores.

    Args:
        scores: (n,).
        positive: whether each is right, (n,).
        positives: how many there are to be found, those included that have no score.
    """
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(positive[order])
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True)[: len(order)])
    return right[last] / (last + 1), right[last] / positives


def average_precision(precision: Numbers, recall: Numbers, rule: Rule) -> float:
    """One number of a curve whose recall does not fall, (k,) each."""
    if rule == "step":
        return float(np.sum(np.diff(recall, prepend=0.0) * precision))
    best = np.maximum.accumulate(precision[::-1])[::-1]
    if rule == "area":
        return float(np.sum(np.diff(recall, prepend=0.0) * best))
    # Tenths as 0.1 * k are above a recall of 3/10 and 6/10 by rounding; k / 10 are not.
    reached = [np.searchsorted(recall, k / 10) for k in range(11)]
    return float(np.mean([best[at] if at < len(best) else 0.0 for at in reached]))


def class_precisions(scores: Numbers, labels: Index, rule: Rule) -> Numbers:
    """The average precision of each class, (classes,); NaN of a class that no image has.

    Args:
        scores: (images, classes).
        labels: (images, classes), `PRESENT`, `UNCERTAIN` or `ABSENT`; an image that is uncertain of
            a class is left out of that class, as VOC's code leaves it out.
    """
    return np.array(
        [
            _class_precision(score[label != UNCERTAIN], label[label != UNCERTAIN] == PRESENT, rule)
            for score, label in zip(scores.T, labels.T, strict=True)
        ]
    )


def _class_precision(scores: Numbers, positive: NDArray[np.bool_], rule: Rule) -> float:
    positives = int(positive.sum())
    if not positives:
        return float("nan")
    return average_precision(*precision_recall(scores, positive, positives), rule)


def box_precisions(
    truth: Sequence[Objects],
    detections: Sequence[Found],
    classes: int,
    rule: Rule,
    overlap: float = 0.5,
) -> Numbers:
    """The average precision of each class of objects, (classes,), as VOC's `VOCevaldet.m` has it.

    In falling order of its score, a detection is compared with the object of its class in its image
    that it overlaps most (intersection over union). It is right if they overlap by at least
    `overlap` and the object was not found before; a second detection of an object is wrong, even
    where it also overlaps another. If the object is difficult, the detection does not count at all.
    Difficult objects need not be found. NaN of a class that has no object but difficult ones.

    Args:
        truth, detections: of the same images.
    """
    told = [_judged(one, other, overlap) for one, other in zip(truth, detections, strict=True)]
    scores, labels, right, counted = (np.concatenate([each[k] for each in told]) for k in range(4))
    precisions = []
    for label in range(classes):
        class_detections = (labels == label) & counted
        wanted = sum(int(((one.labels == label) & ~one.difficult).sum()) for one in truth)
        if wanted:
            curve = precision_recall(scores[class_detections], right[class_detections], wanted)
            precisions.append(average_precision(*curve, rule))
        else:
            precisions.append(float("nan"))
    return np.array(precisions)


def _judged(
    truth: Objects, detections: Found, overlap: float
) -> tuple[Numbers, Index, NDArray[np.bool_], NDArray[np.bool_]]:
    """Scores, classes, whether right and whether counted, (n,) each, of an image's detections."""
    order = np.argsort(-detections.scores, kind="stable")
    labels = detections.labels[order]
    right, counted = np.zeros(len(order), bool), np.ones(len(order), bool)
    taken = np.zeros(len(truth), bool)
    # Objects of another class are no match.
    overlaps = np.where(
        labels[:, None] == truth.labels, overlaps_of(detections.boxes[order], truth.boxes), -1.0
    )
    for k, row in enumerate(overlaps):
        nearest = int(row.argmax()) if len(row) else 0
        if not len(row) or row[nearest] < overlap:
            continue
        if truth.difficult[nearest]:
            counted[k] = False
        elif not taken[nearest]:
            right[k] = taken[nearest] = True
    return detections.scores[order], labels, right, counted


def overlaps_of(boxes: Boxes, others: Boxes) -> Numbers:
    """Intersection over union of boxes (n, 4) and others (m, 4): (n, m)."""
    upper_left = np.maximum(boxes[:, None, :2], others[:, :2])
    lower_right = np.minimum(boxes[:, None, 2:], others[:, 2:])
    common = np.prod(np.clip(lower_right - upper_left, 0, None), axis=2)
    areas, their_areas = (np.prod(each[:, 2:] - each[:, :2], axis=1) for each in (boxes, others))
    union = areas[:, None] + their_areas - common
    overlaps: Numbers = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return overlaps


def voc_metrics(
    truth: Sequence[Objects], detections: Sequence[Found], classes: int, rule: Rule
) -> dict[str, float]:
    """VOC's mean AP in percent, as detectron2's evaluator of VOC tells it.

    Classes without objects are left out of the means.

    Returns:
        `ap50` and `ap75`, at these overlaps, and `ap`, the mean over `OVERLAPS`.
    """
    means = dict(_means(truth, detections, classes, rule))
    return {"ap": float(np.mean(list(means.values()))), "ap50": means[0.5], "ap75": means[0.75]}


def _means(
    truth: Sequence[Objects], detections: Sequence[Found], classes: int, rule: Rule
) -> Iterator[tuple[float, float]]:
    for overlap in OVERLAPS:
        precisions = box_precisions(truth, detections, classes, rule, overlap)
        yield overlap, 100 * float(np.nanmean(precisions))
