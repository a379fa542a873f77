"""Prepared data sets of annotated objects: VOC07+12 and COCO in their official layouts."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from small_data import (
    md5_of,
    packed_apart,
    small_coco,
    small_voc0712,
    write_image,
    zipped_apart,
)

from barlow_atlas.data.catalog import (
    CATALOG,
    VOC_CLASSES,
    WITH_OBJECTS,
    DataSet,
    class_folder,
    resolve,
)
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.object_formats import voc_part
from barlow_atlas.data.objects import Annotations, Objects, annotations, presence
from barlow_atlas.data.originals import Originals
from barlow_atlas.data.preparation import prepare
from barlow_atlas.data.prepared import Prepared, load
from barlow_atlas.study.file import load_study
from barlow_atlas.tools import doctor

SMALL: dict[str, Callable[[Path], tuple[DataSet, Path]]] = {
    "voc0712": small_voc0712,
    "coco": small_coco,
}


def prepared(facts: DataSet, folder: Path, destination: Path) -> Prepared:
    prepare(facts, destination, destination.parent / "raw", [str(folder.parent)])
    return load(destination, verify=True)


def assert_same(one: Objects, other: Objects) -> None:
    assert (one.height, one.width, one.outlines) == (other.height, other.width, other.outlines)
    for name in ("boxes", "labels", "difficult", "crowd", "areas"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert mine.dtype == theirs.dtype
        assert_array_equal(mine, theirs)


# Facts


def test_they_are_known_by_name_and_are_no_images_to_train_on() -> None:
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    assert resolve("voc0712") == WITH_OBJECTS["voc0712"]
    assert not set(WITH_OBJECTS) & set(CATALOG)
    with pytest.raises(DataError, match="give the class folders in mine another"):
        class_folder("coco", "mine", 32)
    theirs = DATASET_YEAR_DICT["2012"]
    file = WITH_OBJECTS["voc0712"].files[1]
    assert (file.name, file.md5) == (theirs["filename"], theirs["md5"])
    assert file.url is not None
    assert file.url.endswith(theirs["url"].partition("pascal")[2])


# Content


def test_objects_are_stored_to_the_last_digit() -> None:
    nothing = np.zeros(0)
    none = Objects(3, 4, np.zeros((0, 4)), nothing.astype(int), nothing == 1, nothing == 1, nothing)
    one = Objects(
        height=7,
        width=9,
        boxes=np.array([[0.1, 1 / 3, 2.0, 5.5]]),
        labels=np.array([3]),
        difficult=np.array([True]),
        crowd=np.array([False]),
        areas=np.array([np.pi]),
        outlines=([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]],),
    )
    told = annotations([none, one, none])
    assert len(told) == 3
    for k, image in enumerate((none, one, none)):
        assert_same(told[k], image)


def contents(images: Any) -> list[bytes]:
    assert isinstance(images, Originals)
    return [images.encoded(k).tobytes() for k in range(len(images))]


def every(objects: Annotations | None) -> list[Objects]:
    assert objects is not None
    return [objects[k] for k in range(len(objects))]


def test_both_years_of_voc_are_trained_on(tmp_path: Path) -> None:
    facts, folder = small_voc0712(tmp_path / "mirror")
    data = prepared(facts, folder, tmp_path / "prepared")
    parts = {
        "train": [voc_part(folder, 2007, "trainval"), voc_part(folder, 2012, "trainval")],
        "test": [voc_part(folder, 2007, "test")],
    }
    assert data.manifest.classes == VOC_CLASSES
    for part, annotated in parts.items():
        names = [name for one in annotated for name in one.names]
        images = getattr(data, f"{part}_images")
        assert contents(images) == [(folder / name).read_bytes() for name in names]
        objects = [each for one in annotated for each in one.objects]
        for one, other in zip(every(getattr(data, f"{part}_objects")), objects, strict=True):
            assert_same(one, other)
        assert_array_equal(getattr(data, f"{part}_labels"), presence(objects, 20))
    assert len(data.validation_index) == data.manifest.validation.images == 4


def test_coco_with_its_crowds_and_empty_images(tmp_path: Path) -> None:
    facts, folder = small_coco(tmp_path / "mirror")
    data = prepared(facts, folder, tmp_path / "prepared")
    assert data.manifest.classes == ("person", "toothbrush")
    train, test = every(data.train_objects), every(data.test_objects)
    assert [len(each) for each in train] == [3, 2, 2, 0]
    assert_array_equal(train[0].crowd, [False, False, True])
    assert train[0].outlines is not None
    assert train[0].outlines[2] == {"size": [20, 30], "counts": [0, 300, 300]}
    assert_array_equal(test[0].boxes[:2], [[2, 3, 11, 12], [15, 5, 27, 17]])
    assert len(test[1]) == 0
    assert contents(data.test_images) == [
        (folder / f"val2017/{number:012d}.jpg").read_bytes() for number in (200, 201)
    ]


def same(one: Prepared, other: Prepared) -> None:
    for part in ("train", "test"):
        assert contents(getattr(one, f"{part}_images")) == contents(
            getattr(other, f"{part}_images")
        )
        for mine, theirs in zip(
            every(getattr(one, f"{part}_objects")),
            every(getattr(other, f"{part}_objects")),
            strict=True,
        ):
            assert_same(mine, theirs)


def test_archives_of_voc_are_read_where_they_are(tmp_path: Path) -> None:
    facts, folder = small_voc0712(tmp_path / "unpacked")
    with_checksums, packed = packed_apart(facts, folder)
    one = prepared(with_checksums, packed, tmp_path / "one")
    same(one, prepared(facts, folder, tmp_path / "other"))
    assert one.manifest.source.count("verified by its md5") == 3


def test_archives_of_coco_are_read_where_they_are(tmp_path: Path) -> None:
    facts, folder = small_coco(tmp_path / "unpacked")
    packed = zipped_apart(facts, folder)
    files = tuple(f.model_copy(update={"md5": md5_of(packed / f.name)}) for f in facts.files)
    with_checksums = facts.model_copy(update={"files": files})
    one = prepared(with_checksums, packed, tmp_path / "one")
    same(one, prepared(facts, folder, tmp_path / "other"))


# Faults


def test_compressed_images_are_refused_with_what_to_do(tmp_path: Path) -> None:
    facts, folder = small_coco(tmp_path / "unpacked")
    packed = zipped_apart(facts, folder, zipfile.ZIP_DEFLATED)
    files = tuple(f.model_copy(update={"md5": None}) for f in facts.files)
    with pytest.raises(DataError, match=r"unpack it in .*coco and move the archive away"):
        prepared(facts.model_copy(update={"files": files}), packed, tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


@pytest.mark.parametrize("name", SMALL)
def test_an_image_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    facts, folder = SMALL[name](tmp_path / "mirror")
    gone = sorted(folder.rglob("*.jpg"))[0]
    gone.unlink()
    with pytest.raises(DataError, match=f"lacks 1 of .*{gone.name}"):
        prepared(facts, folder, tmp_path / "prepared")


def test_an_image_of_another_size_than_annotated_is_named(tmp_path: Path) -> None:
    facts, folder = small_voc0712(tmp_path / "mirror")
    write_image(folder / "VOC2012/JPEGImages/020003.jpg", (12, 14), seed=1)
    with pytest.raises(DataError, match=r"020003.jpg has 14 x 12 pixels, its .* says 12 x 14"):
        prepared(facts, folder, tmp_path / "prepared")


@pytest.mark.parametrize("name", SMALL)
def test_doctor_says_what_to_get(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    facts, folder = SMALL[name](tmp_path / "mirror")
    missing = doctor.check_data(WITH_OBJECTS[name], [])
    said = f"{missing.told} {missing.remedy}"
    assert all(file.name in said for file in facts.files)
    assert all(str(file.md5) in said for file in WITH_OBJECTS[name].files)
    assert doctor.check_data(facts, [str(folder.parent)]).level == "ok"


def test_doctor_misses_pycocotools_where_it_is_needed() -> None:
    coco, voc = (load_study(Path(f"params/detection/{name}.yaml")) for name in ("coco", "voc0712"))
    (missing,) = doctor.check_coco(coco, lambda _: None)
    assert missing.remedy == "pip install 'barlow-atlas[detection]'"
    assert not list(doctor.check_coco(coco, lambda _: "2.0.11"))
    assert not list(doctor.check_coco(voc, lambda _: None))
