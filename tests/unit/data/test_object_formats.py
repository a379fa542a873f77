"""Annotated objects of VOC and COCO in their official files."""

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from small_data import voc_images, write_voc

from barlow_atlas.data.catalog import VOC_CLASSES
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.object_formats import coco_part, voc_objects, voc_part


@pytest.mark.parametrize("packed", [False, True])
def test_voc_from_its_folder_and_its_archive(tmp_path: Path, packed: bool) -> None:
    place = tmp_path / "VOCdevkit"
    write_voc(place / "VOC2012", "trainval", voc_images(1))
    if packed:
        with tarfile.open(tmp_path / "VOCtrainval_11-May-2012.tar", "w") as archive:
            archive.add(place, "VOCdevkit")
        place = tmp_path / "VOCtrainval_11-May-2012.tar"
    part = voc_part(place, 2012, "trainval")
    assert part.names[0] == "VOC2012/JPEGImages/000001.jpg"
    assert len(part.names) == len(part.objects) == 11
    first = part.objects[0]
    assert (first.height, first.width, len(first)) == (12, 14, 3)
    # From inclusive pixels that count from 1; one box ends within a pixel.
    assert_array_equal(first.boxes, [[0, 0, 10, 8], [2, 1, 12.5, 9], [1, 1, 4, 4]])
    assert_array_equal(first.areas, [80, 84, 9])
    assert_array_equal(first.difficult, [False, False, True])
    assert [VOC_CLASSES[label] for label in first.labels] == ["aeroplane", "bicycle", "cat"]
    # Parts of persons are none of their image's objects.
    assert [VOC_CLASSES[k] for k in part.objects[7].labels] == ["person", "pottedplant"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<annotation>", "no element found"),
        (b"<annotation/>", "it has no size/height"),
        (
            b"<annotation><size><height>1</height><width>1</width></size>"
            b"<object><name>unicorn</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>1</xmax>"
            b"<ymax>1</ymax></bndbox></object></annotation>",
            "unicorn are none of VOC's classes",
        ),
        (
            b"<annotation><size><height>1</height><width>1</width></size>"
            b"<object><name>cat</name></object></annotation>",
            "it has no bndbox/xmin",
        ),
    ],
)
def test_what_is_no_annotation_of_vocs_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        voc_objects(content, "some.xml")


def coco(**changes: Any) -> bytes:
    """Two images, the first with an object and a crowd, the second with nothing."""
    content = {
        "images": [
            {"id": 9, "file_name": "000000000009.jpg", "height": 20, "width": 30},
            {"id": 4, "file_name": "000000000004.jpg", "height": 8, "width": 8},
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 9,
                "category_id": 90,
                "bbox": [1.5, 2, 10, 5],
                "area": 31.5,
                "iscrowd": 0,
                "segmentation": [[1.5, 2, 11.5, 2, 11.5, 7]],
            },
            {
                "id": 2,
                "image_id": 9,
                "category_id": 1,
                "bbox": [0, 0, 30, 20],
                "area": 300,
                "iscrowd": 1,
                "segmentation": {"size": [20, 30], "counts": [0, 300, 300]},
            },
        ],
    }
    return json.dumps({**content, **changes}).encode()


def test_coco_with_a_crowd_and_an_empty_image() -> None:
    part = coco_part(coco(), "instances_val2017.json")
    assert part.names == ("000000000009.jpg", "000000000004.jpg")
    # Categories leave numbers out.
    assert part.classes == ("person", "toothbrush")
    first, second = part.objects
    assert_array_equal(first.labels, [1, 0])
    assert_array_equal(first.boxes, [[1.5, 2, 11.5, 7], [0, 0, 30, 20]])
    assert_array_equal(first.crowd, [False, True])
    assert_array_equal(first.areas, [31.5, 300])
    assert first.outlines is not None
    assert first.outlines[1] == {"size": [20, 30], "counts": [0, 300, 300]}
    assert (len(second), second.height, second.boxes.shape) == (0, 8, (0, 4))
    assert second.labels.dtype == np.int64


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "JSONDecodeError"),
        (b"[]", "TypeError"),
        (coco(categories=[{"id": 1, "name": "person"}]), "KeyError: 90"),
        (coco(images=[]), "KeyError: 9"),
    ],
)
def test_what_is_no_file_of_cocos_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(
        DataError, match=f"instances.json is no annotation file of COCO's: {message}"
    ):
        coco_part(content, "instances.json")
