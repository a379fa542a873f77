"""COCO's average precisions of boxes and masks, by pycocotools."""

from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from typing import Any, Literal

from barlow_atlas.data.objects import Found, Objects
from barlow_atlas.probes.milestone import ProbeError

Kind = Literal["bbox", "segm"]
METRICS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
"""The first six of COCO's twelve numbers, in its order."""


def coco_metrics(
    truth: Sequence[Objects], detections: Sequence[Found], classes: int, kind: Kind
) -> dict[str, float]:
    """`METRICS` in percent; NaN where no object has the size.

    Crowds are regions in which detections of their class do not count, and objects too small or too
    large for a size count neither for nor against, as pycocotools has it. VOC's difficult objects
    are left out of the truth: COCO has none, so a detection of one is wrong here.

    Args:
        truth, detections: of the same images, which need hold no object and no detection.
        kind: what is compared: boxes, or masks.

    Raises:
        ProbeError: pycocotools is not installed, or masks are asked for and not there.
    """
    check_installed()
    from pycocotools.cocoeval import COCOeval

    if kind == "segm" and not (
        _outlined(truth) and all(each.masks is not None for each in detections)
    ):
        raise ProbeError(
            "COCO's metrics of masks need an outline of each object and a mask of each detection: "
            "ask for boxes"
        )
    # What it says of its progress is nobody's.
    with redirect_stdout(StringIO()):
        evaluation = COCOeval(
            _indexed(truth, classes, list(_annotations(truth))),
            _indexed(truth, classes, list(_detections(detections, kind))),
            kind,
        )
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # It says -1 where there is nothing to find.
    told = (float(number) for number in evaluation.stats[: len(METRICS)])
    return {
        name: 100 * number if number >= 0 else float("nan")
        for name, number in zip(METRICS, told, strict=True)
    }


def check_installed() -> None:
    """Raises ProbeError where pycocotools is not there."""
    try:
        import_module("pycocotools.cocoeval")
    except ImportError as error:
        raise ProbeError(
            "COCO's metrics are computed by pycocotools, which is not installed: "
            "pip install 'barlow-atlas[detection]'"
        ) from error


def _outlined(truth: Sequence[Objects]) -> bool:
    return all(each.outlines is not None for each in truth if len(each))


def _indexed(images: Sequence[Objects], classes: int, annotations: list[dict[str, Any]]) -> Any:
    """pycocotools' index of annotations; its own reader of detections refuses an empty list."""
    from pycocotools.coco import COCO

    index = COCO()
    index.dataset = {
        "images": [
            {"id": k, "height": one.height, "width": one.width} for k, one in enumerate(images)
        ],
        "categories": [{"id": k} for k in range(classes)],
        # From 1: it takes a match with the annotation 0 for none.
        "annotations": [{**each, "id": k} for k, each in enumerate(annotations, 1)],
    }
    index.createIndex()
    return index


def _annotations(truth: Sequence[Objects]) -> Iterator[dict[str, Any]]:
    for number, image in enumerate(truth):
        for k in range(len(image)):
            if image.difficult[k]:
                continue
            outline = {} if image.outlines is None else {"segmentation": image.outlines[k]}
            yield {
                "image_id": number,
                "category_id": int(image.labels[k]),
                "bbox": _corner_and_size(image.boxes[k].tolist()),
                "area": float(image.areas[k]),
                "iscrowd": int(image.crowd[k]),
                **outline,
            }


def _detections(detections: Sequence[Found], kind: Kind) -> Iterator[dict[str, Any]]:
    from pycocotools import mask

    for number, image in enumerate(detections):
        for k, (label, score) in enumerate(zip(image.labels, image.scores, strict=True)):
            box = _corner_and_size(image.boxes[k].tolist())
            one = {"image_id": number, "category_id": int(label), "score": float(score)}
            if kind == "bbox" or image.masks is None:
                yield {**one, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            else:
                lengths = image.masks[k]
                area = float(mask.area(lengths))
                yield {**one, "segmentation": lengths, "bbox": box, "area": area, "iscrowd": 0}


def _corner_and_size(box: list[float]) -> list[float]:
    """Left, upper, width, height of left, upper, right, lower."""
    left, upper, right, lower = box
    return [left, upper, right - left, lower - upper]
