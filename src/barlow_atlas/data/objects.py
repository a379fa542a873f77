"""Images with several classes or objects: what is annotated in one image, in numbers."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from barlow_atlas.data.selection import Index

Boxes = NDArray[np.float64]
Flags = NDArray[np.bool_]

PRESENT, UNCERTAIN, ABSENT = 1, 0, -1
"""Of a class in an image: it is there, only as difficult objects, or not; as in VOC's lists."""


@dataclass(frozen=True)
class Objects:
    """The n annotated objects of an image; there may be none.

    Coordinates are continuous: the first pixel reaches from 0 to 1, so a box of one pixel has the
    area 1, and VOC's inclusive whole numbers (from 1) are `left - 1, upper - 1, right, lower`.

    Attributes:
        height, width: of the image, pixels.
        boxes: (n, 4), left, upper, right, lower.
        labels: classes from 0, (n,).
        difficult: VOC's: finding it counts neither for nor against a detector, (n,).
        crowd: COCO's: a region of many objects of the class, (n,).
        areas: that COCO calls the object's size, pixels, (n,); a mask's, where there are masks.
        outlines: COCO's `segmentation` of each object, polygons or run lengths; None without masks.
    """

    height: int
    width: int
    boxes: Boxes
    labels: Index
    difficult: Flags
    crowd: Flags
    areas: NDArray[np.float64]
    outlines: tuple[Any, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)


_ARRAYS: dict[str, type] = {
    "boxes": np.float64,
    "labels": np.int64,
    "difficult": np.bool_,
    "crowd": np.bool_,
    "areas": np.float64,
}
"""Of `Objects`."""


@dataclass(frozen=True)
class Annotations:
    """What is annotated in each image of a part, read when it is asked for.

    Attributes:
        lines: UTF-8, a line of JSON an image, uint8 (m,).
        ends: where each line ends, int64 (n,).
    """

    lines: NDArray[np.uint8]
    ends: Index

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: int) -> Objects:
        begins = int(self.ends[number - 1]) if number else 0
        return _told(json.loads(self.lines[begins : int(self.ends[number])].tobytes()))


def annotations(images: Iterable[Objects]) -> Annotations:
    """The objects of images in the form in which they are stored; no digit is lost."""
    lines = [f"{json.dumps(_telling(image))}\n".encode() for image in images]
    ends = np.cumsum([len(line) for line in lines], dtype=np.int64)
    return Annotations(np.frombuffer(b"".join(lines), dtype=np.uint8), ends)


def _telling(image: Objects) -> dict[str, Any]:
    fields = (*_ARRAYS, "height", "width", "outlines")
    told = {name: getattr(image, name) for name in fields}
    return told | {name: told[name].tolist() for name in _ARRAYS}


def _told(told: dict[str, Any]) -> Objects:
    arrays: dict[str, Any] = {
        name: np.array(told[name], dtype=kind) for name, kind in _ARRAYS.items()
    }
    arrays["boxes"] = arrays["boxes"].reshape(-1, 4)
    outlines = told["outlines"]
    return Objects(
        told["height"],
        told["width"],
        **arrays,
        outlines=None if outlines is None else tuple(outlines),
    )


@dataclass(frozen=True)
class Found:
    """The n detections in an image.

    Attributes:
        boxes: (n, 4), left, upper, right, lower, in coordinates as those of `Objects`.
        labels: classes from 0, (n,).
        scores: (n,).
        masks: COCO's run lengths of each, a hundredth of the mask itself; None of a detector
            without masks.
    """

    boxes: Boxes
    labels: Index
    scores: NDArray[np.float64]
    masks: tuple[Any, ...] | None = None


def presence(images: Sequence[Objects], classes: int) -> Index:
    """Which classes are in each image, (images, classes): `PRESENT`, `UNCERTAIN` or `ABSENT`.

    A class is `UNCERTAIN` where all of its objects are difficult, as in VOC's
    `ImageSets/Main/<class>_<part>.txt`.
    """
    labels = np.full((len(images), classes), ABSENT, dtype=np.int64)
    for row, image in zip(labels, images, strict=True):
        row[image.labels[image.difficult]] = UNCERTAIN
        row[image.labels[~image.difficult]] = PRESENT
    return labels
