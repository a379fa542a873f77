"""Readers of annotated objects: VOC's files of one image each, and COCO's file of all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from barlow_atlas.data.catalog import VOC_CLASSES
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.objects import Objects
from barlow_atlas.data.reading import members, texts
from barlow_atlas.data.survey import some

VOC_FOLDER = "VOCdevkit"


class Annotated(NamedTuple):
    """The images of a part in their order, with what is annotated in each.

    `names` are those of the image files, below the folder that the reader's docstring tells.
    """

    names: tuple[str, ...]
    objects: tuple[Objects, ...]
    classes: tuple[str, ...]


def voc_part(place: Path, year: int, part: str) -> Annotated:
    """The images that `ImageSets/Main/<part>.txt` lists, with the objects of `Annotations/`.

    Args:
        place: the folder VOCdevkit/, or an official archive of it.
        year: 2007 or 2012.
        part: such as "trainval".

    Returns:
        Names below VOCdevkit/, or within the archive below that folder.

    Raises:
        DataError: something is missing, or is no annotation.
    """
    of_year = f"VOC{year}"
    listed = f"{of_year}/ImageSets/Main/{part}.txt"
    images = texts(place, VOC_FOLDER, [listed])[listed].split()
    files = {f"{of_year}/Annotations/{image}.xml": k for k, image in enumerate(images)}
    objects: list[Objects | None] = [None] * len(images)
    for name, stream in members(place, VOC_FOLDER, files):
        objects[files[name]] = voc_objects(stream.read(), f"{place}: {name}")
    names = tuple(f"{of_year}/JPEGImages/{image}.jpg" for image in images)
    return Annotated(names, tuple(each for each in objects if each is not None), VOC_CLASSES)


def voc_objects(content: bytes, what: str) -> Objects:
    """What VOC annotates in an image. Boxes of parts of a person are no objects.

    Raises:
        DataError: it is no such annotation.
    """
    try:
        told = ElementTree.fromstring(content)
        height, width = (int(_text(told, f"size/{side}")) for side in ("height", "width"))
        objects = told.findall("object")
        names = [_text(each, "name") for each in objects]
        # Some of VOC 2012's are no whole numbers.
        boxes = [
            [float(_text(each, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
            for each in objects
        ]
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(
            f"{what} is no annotation of VOC's: {error}. Replace it by the official file."
        ) from error
    if unknown := sorted(set(names) - set(VOC_CLASSES)):
        raise DataError(
            f"{what}: {some(unknown)} are none of VOC's classes. Replace it by the official file."
        )
    # Inclusive and counted from 1, as they are.
    array = np.array(boxes, dtype=np.float64).reshape(-1, 4) - [1, 1, 0, 0]
    return Objects(
        height=height,
        width=width,
        boxes=array,
        labels=np.array([VOC_CLASSES.index(name) for name in names], dtype=np.int64),
        difficult=np.array([each.findtext("difficult") == "1" for each in objects], dtype=bool),
        crowd=np.zeros(len(objects), dtype=bool),
        areas=np.prod(array[:, 2:] - array[:, :2], axis=1),
    )


def _text(element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"it has no {path}")
    return text


def coco_part(content: bytes, what: str) -> Annotated:
    """All images of a file such as `instances_val2017.json`, those without objects included.

    Classes are its categories by rising number, of which some are left out in COCO's files.

    Returns:
        Names below the part's folder, such as val2017/.

    Raises:
        DataError: it is no such file, or names images or categories that it does not have.
    """
    try:
        told = json.loads(content)
        categories = sorted((each["id"], each["name"]) for each in told["categories"])
        images = told["images"]
        of_image: dict[int, list[Mapping[str, Any]]] = {each["id"]: [] for each in images}
        for each in told["annotations"]:
            of_image[each["image_id"]].append(each)
        label_of = {number: label for label, (number, _) in enumerate(categories)}
        objects = tuple(_coco_objects(each, of_image[each["id"]], label_of) for each in images)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{what} is no annotation file of COCO's: {type(error).__name__}: {error}. Replace it "
            "by the official file."
        ) from error
    names = tuple(str(each["file_name"]) for each in images)
    return Annotated(names, objects, tuple(str(name) for _, name in categories))


def _coco_objects(
    image: Mapping[str, Any], told: list[Mapping[str, Any]], label_of: Mapping[int, int]
) -> Objects:
    boxes = np.array([each["bbox"] for each in told], dtype=np.float64).reshape(-1, 4)
    return Objects(
        height=int(image["height"]),
        width=int(image["width"]),
        boxes=np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]),
        labels=np.array([label_of[each["category_id"]] for each in told], dtype=np.int64),
        difficult=np.zeros(len(told), dtype=bool),
        crowd=np.array([bool(each["iscrowd"]) for each in told], dtype=bool),
        areas=np.array([each["area"] for each in told], dtype=np.float64),
        # Polygons of objects, run lengths of crowds.
        outlines=tuple(each["segmentation"] for each in told),
    )
