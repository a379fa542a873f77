"""Sizes that cannot work with the images there are, refused before any job."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from photographs import class_folders
from small_data import write_image

from barlow_atlas.data.choice import Protocol
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.selection import draw_validation, select
from barlow_atlas.steps.prepare_data import prepare_data
from barlow_atlas.study import sizes
from barlow_atlas.study.errors import StudyError
from barlow_atlas.study.file import load_study
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import DATA, data_manifest
from barlow_atlas.study.sizes import (
    UnknownImages,
    check_sizes,
    data_bytes,
    needed,
    sizes_of,
    unlisted,
)
from barlow_atlas.tools.doctor import check_label_lists

DEMO = load_study(Path("params/demo.yaml"))
KNN = {"knn": [{"k": 5, "temperature": None}]}


def demo(**changes: Any) -> Study:
    return Study.model_validate(DEMO.model_dump() | changes)


@pytest.fixture(autouse=True)
def nothing_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sizes._sizes.cache_clear()


def test_what_can_work_is_no_fault() -> None:
    check_sizes("demo", DEMO)
    check_sizes("demo", demo(batch_size=1150))
    check_sizes("demo", demo(probes={"knn": [{"k": 1150, "temperature": 1.0}]}))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"batch_size": 1151}, "bt: batch_size = 1151 is more than the 1,150 images of digits"),
        (
            {"overrides": {"mix": {"batch_size": 4096}}},
            "demo: mix: batch_size = 4096 is more than the 1,150 images",
        ),
        (
            {"data": {"name": "digits", "fraction": 0.1}, "batch_size": 128},
            "batch_size = 128 is more than the 115 images of digits (fraction 0.1)",
        ),
        (
            {"probes": {"knn": [{"k": 5, "temperature": 1.0}, {"k": 20_000, "temperature": 1.0}]}},
            "probes.knn.k = 20000 is more than the 1,150 labelled training images",
        ),
        (
            {"data": {"name": "digits", "fraction": 0.0001}, "batch_size": 2, "probes": KNN},
            "the 0 labelled training images of digits (fraction 0.0001) do not hold each of its 10",
        ),
        (
            {"overrides": {"bt": {"fraction": 0.005, "batch_size": 4}}, "probes": KNN},
            "bt: the 6 labelled training images of digits (fraction 0.005) do not hold each of",
        ),
    ],
)
def test_what_cannot_work_is_refused_by_the_catalogs_numbers(
    changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(StudyError) as caught:
        check_sizes("demo", demo(**changes))
    assert told in str(caught.value)
    assert all(line.startswith("demo: ") for line in str(caught.value).splitlines())


def of_folders(train: dict[str, int], tmp_path: Path, protocol: Protocol, **changes: Any) -> Study:
    """A study of class folders with so many training images, and two test images each."""
    for label, count in train.items():
        for part, images in (("train", count), ("test", 2)):
            for place in range(images):
                write_image(tmp_path / f"own/{part}/{label}/{place}.png", 8, seed=place)
    data = {"name": "own", "path": str(tmp_path / "own"), "stored_size": 8}
    given = {"data": data, "batch_size": 2, "probes": KNN, "protocol": protocol}
    return demo(**given | changes)


def test_unknown_numbers_are_no_fault_until_the_images_are_prepared(tmp_path: Path) -> None:
    study = of_folders({"a": 20, "b": 20}, tmp_path, "clean", batch_size=37)
    check_sizes("own", study)
    with pytest.raises(StudyError, match="batch_size = 37 is more than the 36 images of own"):
        prepare_data("own", study, None, lambda line: None)
    check_sizes("own", of_folders({"a": 20, "b": 20}, tmp_path, "clean", batch_size=36))


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ({"a": 7, "b": 7}, "the hold-out of own has 1 images and none of 1 of its 2 classes"),
        ({"a": 40, "b": 3}, "the hold-out of own has 4 images and none of 1 of its 2 classes"),
    ],
)
def test_a_hold_out_needs_two_images_and_all_classes(
    tmp_path: Path, train: dict[str, int], told: str
) -> None:
    study = of_folders(train, tmp_path, "clean")
    with pytest.raises(StudyError, match=told):
        prepare_data("own", study, None, lambda line: None)
    # The other protocol holds nothing out.
    check_sizes("own", of_folders(train, tmp_path, "reference"))


@pytest.mark.parametrize("protocol", ["clean", "reference"])
def test_classes_vanish_where_they_are_said_to(protocol: Protocol) -> None:
    """For any numbers of images: what is refused is what `select` refuses, but for ties."""
    draw = np.random.default_rng(0)
    for _ in range(200):
        counts = draw.integers(4, 40, size=draw.integers(2, 6))
        labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
        held_out = draw_validation(labels, 0.1, 7)
        left = np.delete(labels, held_out) if protocol == "clean" else labels
        per_class = tuple(np.bincount(left, minlength=len(counts)).tolist())
        for count in (needed(per_class) - 1, needed(per_class) + len(counts)):
            fraction = count / len(left)
            lost = count < needed(per_class)
            try:
                select(labels, held_out, protocol=protocol, fraction=fraction, seed=7, test_count=1)
            except DataError:
                assert lost
            else:
                assert not lost


def test_originals_take_the_room_of_their_files(tmp_path: Path) -> None:
    study = of_folders({"a": 20, "b": 20}, tmp_path, "clean")
    data = study.data.model_copy(update={"stored_size": None, "stored": "original"})
    study = study.model_copy(update={"data": data})
    with pytest.raises(UnknownImages):
        data_bytes(study)
    prepare_data("own", study, None, lambda line: None)
    assert data_bytes(study) == sum(file.stat().st_size for file in (DATA / "own").iterdir())
    assert sizes_of(study, study.trained()[0]).stored_size is None


def of_photographs(place: Path) -> Study:
    """Asks for a published list of labels of one's own photographs."""
    data = {"name": "mine", "path": str(place), "stored": "original"}
    return demo(data=data, batch_size=2, probes={"fine_tuned": {"labels": "1percent"}})


def test_a_list_of_labels_must_be_there(tmp_path: Path) -> None:
    place = class_folders(tmp_path / "images", train=20, val=4)
    study = of_photographs(place)
    assert unlisted(study) == ("1percent",)
    (check,) = check_label_lists(study)
    assert check.level == "missing"
    assert f"1percent.txt, a file name a line, into {place}" in check.remedy
    check_sizes("mine", study)  # images that are not prepared may still get it
    with pytest.raises(StudyError, match=r"labels = 1percent: mine was prepared without this list"):
        prepare_data("mine", study, None, lambda line: None)
    manifest = data_manifest("mine").read_bytes()
    # What the message says helps, and what was trained before stays.
    (place / "1percent.txt").write_text("n01440764_0.JPEG\nn02102040_0.JPEG\nn03000684_0.JPEG\n")
    shutil.rmtree(DATA / "mine")
    assert unlisted(study) == ()
    prepare_data("mine", study, None, lambda line: None)
    assert list(check_label_lists(study)) == []
    assert data_manifest("mine").read_bytes() == manifest
