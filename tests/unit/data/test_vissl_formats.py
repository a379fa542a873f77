"""VOC07's classes, Places205 and iNaturalist 2018 in their official layouts."""

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image
from small_data import (
    flip_a_byte,
    packed_apart,
    small_inaturalist,
    small_places,
    small_voc,
    voc_images,
    write_voc,
)

from barlow_atlas.data.catalog import (
    MULTI_LABEL,
    ORIGINALS,
    SQUASHED,
    TARGETS,
    VOC_CLASSES,
    DataSet,
    class_folder,
    resolve,
)
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.object_formats import voc_part
from barlow_atlas.data.objects import ABSENT, PRESENT, UNCERTAIN, presence
from barlow_atlas.data.originals import Originals
from barlow_atlas.data.preparation import prepare, rarest_class
from barlow_atlas.data.prepared import Prepared, load
from barlow_atlas.data.sources import locate
from barlow_atlas.data.target_formats import squash
from barlow_atlas.tools import doctor

SMALL: dict[str, Callable[[Path], tuple[DataSet, Path]]] = {
    "voc07": small_voc,
    "places205": small_places,
    "inaturalist-2018": small_inaturalist,
}


def prepared(facts: DataSet, folder: Path, destination: Path) -> Prepared:
    prepare(facts, destination, destination.parent / "raw", [str(folder.parent)])
    return load(destination, verify=True)


def squashed(path: Path, side: int = 8) -> np.ndarray:
    return squash(Image.open(path).convert("RGB"), side)


# Facts


def test_checksums_are_those_that_torchvision_knows() -> None:
    from torchvision.datasets import inaturalist, voc

    for file, key in zip(MULTI_LABEL["voc07"].files, ("2007", "2007-test"), strict=True):
        theirs = voc.DATASET_YEAR_DICT[key]
        assert (file.name, file.md5, file.url) == tuple(
            theirs[k] for k in ("filename", "md5", "url")
        )
    images, *_ = TARGETS["inaturalist-2018"].files
    assert images.md5 == inaturalist.DATASET_MD5["2018"]
    assert inaturalist.DATASET_URLS["2018"].endswith(f"/{images.name}")


def test_several_classes_are_stored_at_a_size_of_their_own() -> None:
    assert resolve("voc07-224") == MULTI_LABEL["voc07"].at(224)
    with pytest.raises(DataError, match="such as voc07-32"):
        resolve("voc07")
    assert "voc07" not in TARGETS


# Content


@pytest.mark.parametrize("name", SMALL)
def test_archives_and_what_they_unpack_to_give_the_same(name: str, tmp_path: Path) -> None:
    facts, folder = SMALL[name](tmp_path / "unpacked")
    with_checksums, packed = packed_apart(facts, folder)
    one = prepared(with_checksums, packed, tmp_path / "one")
    other = prepared(facts, folder, tmp_path / "other")
    for field in ("train_images", "train_labels", "test_images", "test_labels", "validation_index"):
        assert_array_equal(getattr(one, field), getattr(other, field))
    assert one.train_images.shape[1:] == (3, 8, 8)
    assert "unpacked, so not verified" in other.manifest.source
    known = "verified by its md5" if facts.files[0].md5 else "no checksum is published"
    assert known in one.manifest.source


@pytest.mark.parametrize("name", ["places205", "inaturalist-2018"])
def test_images_that_are_cropped_are_stored_as_their_files_are(name: str, tmp_path: Path) -> None:
    facts, folder = SMALL[name](tmp_path / "unpacked")
    original = facts.model_copy(update={"name": f"{name}-original", "image_size": None})
    data, squares = (prepared(one, folder, tmp_path / one.name) for one in (original, facts))
    assert data.manifest.classes == squares.manifest.classes
    for images, labels, others, theirs in (
        (data.train_images, data.train_labels, squares.train_images, squares.train_labels),
        (data.test_images, data.test_labels, squares.test_images, squares.test_labels),
    ):
        assert isinstance(images, Originals)
        assert_array_equal(labels, theirs)
        files = {path.read_bytes(): path for path in folder.rglob("*.jpg")}
        shown = [squashed(files[images.encoded(k).tobytes()]) for k in range(len(images))]
        assert_array_equal(shown, others)
    assert_array_equal(data.validation_index, squares.validation_index)


@pytest.mark.parametrize("name", ["places205", "inaturalist-2018"])
def test_compressed_archives_must_be_unpacked_to_be_cropped(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts, folder = SMALL[name](tmp_path / "unpacked")
    packed, place = packed_apart(facts.model_copy(update={"image_size": None}), folder)
    with pytest.raises(DataError, match=r"is compressed as a whole.*: unpack it in .*, to "):
        prepared(packed, place, tmp_path / "prepared")
    monkeypatch.chdir(tmp_path)
    check = doctor.check_data(packed, [str(place.parent)])
    assert (check.level, check.remedy) == ("missing", f"tar -xzf it in {place}")
    assert doctor.check_data(packed, [str(folder.parent)]).level == "ok"
    # What is advised helps, and the lists stay as they are.
    with tarfile.open(place / packed.files[0].name) as images:
        images.extractall(place, filter="data")
    assert doctor.check_data(packed, [str(place.parent)]).level == "ok"
    assert len(prepared(packed, place, tmp_path / "prepared").train_labels)


def test_a_listed_image_that_is_not_unpacked_is_named(tmp_path: Path) -> None:
    facts, folder = small_places(tmp_path / "mirror")
    next(folder.rglob("a/attic/gsun_2.jpg")).unlink()
    with pytest.raises(DataError, match=r"lacks 1 of 12 listed images: .*a/attic/gsun_2\.jpg"):
        prepared(facts.model_copy(update={"image_size": None}), folder, tmp_path / "prepared")


def test_originals_have_names_of_their_own() -> None:
    assert resolve("places205-original") == ORIGINALS["places205"]
    assert ORIGINALS["places205"].counts == TARGETS["places205"].counts
    with pytest.raises(DataError, match="give the class folders in mine another"):
        class_folder("inaturalist-2018-original", "mine", 32)


def test_images_of_several_classes(tmp_path: Path) -> None:
    facts, folder = small_voc(tmp_path / "mirror")
    data = prepared(facts, folder, tmp_path / "prepared")
    labels = data.train_labels
    assert labels.shape == data.test_labels.shape == (11, 20)
    assert data.manifest.classes == VOC_CLASSES
    cat, bird = VOC_CLASSES.index("cat"), VOC_CLASSES.index("bird")
    assert_array_equal(np.flatnonzero(labels[0] == PRESENT), [0, 1])
    assert labels[0, cat] == UNCERTAIN
    assert labels[10, bird] == UNCERTAIN
    assert (np.delete(labels[10], bird) == ABSENT).all()
    assert data.manifest.train.per_class == (1,) * 20
    assert_array_equal(data.test_images[3], squashed(folder / "VOC2007/JPEGImages/010004.jpg"))


def test_image_sets_say_what_the_annotations_say(tmp_path: Path) -> None:
    facts, folder = small_voc(tmp_path / "mirror")
    data = prepared(facts, folder, tmp_path / "prepared")
    for part, labels in (("trainval", data.train_labels), ("test", data.test_labels)):
        annotated = voc_part(folder, 2007, part)
        assert_array_equal(presence(annotated.objects, 20), labels)


def test_the_hold_out_of_several_classes_is_stratified_by_the_rarest() -> None:
    labels = np.full((6, 3), ABSENT)
    labels[:, 0] = PRESENT  # in all of them, so it tells nothing
    labels[:2, 1] = PRESENT
    labels[1:2, 2] = PRESENT
    labels[5] = UNCERTAIN
    assert_array_equal(rarest_class(labels), [1, 2, 0, 0, 0, 0])
    assert_array_equal(rarest_class(np.array([2, 0, 1])), [2, 0, 1])


def test_scenes_of_the_split_lists(tmp_path: Path) -> None:
    facts, folder = small_places(tmp_path / "mirror")
    data = prepared(facts, folder, tmp_path / "prepared")
    assert data.manifest.classes == ("a/attic", "c/cathedral/indoor")
    assert_array_equal(data.train_labels, [0, 1] * 4)
    assert_array_equal(data.test_labels, [0, 1] * 2)
    images = folder / "data/vision/torralba/deeplearning/images256"
    assert_array_equal(data.train_images[3], squashed(images / "c/cathedral/indoor/gsun_1.jpg"))


def test_species_of_the_annotations(tmp_path: Path) -> None:
    """Categories count by their numbers, whatever order and gaps the file has."""
    facts, folder = small_inaturalist(tmp_path / "mirror")
    data = prepared(facts, folder, tmp_path / "prepared")
    assert data.manifest.classes == ("1000", "1003", "1007")
    assert_array_equal(data.train_labels, [2, 1, 0] * 2)
    assert_array_equal(data.test_labels, [2, 1, 0])
    assert_array_equal(data.train_images[2], squashed(folder / "train_val2018/Aves/0/102.jpg"))


# What is not official


def changed(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def twice(file: Path) -> None:
    told = json.loads(file.read_text())
    told["annotations"].append(told["annotations"][0])
    file.write_text(json.dumps(told))


SETS = "VOC2007/ImageSets/Main"
LISTS = "trainvalsplit_places205"


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (
            "voc07",
            lambda f: changed(f / SETS / "cat_test.txt", "010003", "010099"),
            "the lists of aeroplane and cat do not name the same images",
        ),
        (
            "voc07",
            lambda f: changed(f / SETS / "cat_test.txt", "-1", " 2"),
            "hold 2, where 1, 0 and -1 are known",
        ),
        ("voc07", lambda f: (f / SETS / "dog_trainval.txt").unlink(), "not found: .*dog_trainval"),
        (
            "voc07",
            lambda f: changed(f / SETS / "sofa_test.txt", " 1", "-1"),
            r"missing: \[17\]",
        ),
        (
            "voc07",
            lambda f: (f / "VOC2007/JPEGImages/010004.jpg").unlink(),
            "not found: VOC2007/JPEGImages/010004.jpg",
        ),
        (
            "voc07",
            lambda f: write_voc(f / "VOC2007", "trainval", dict(list(voc_images(1).items())[:10])),
            "expected 11 train images, found 10",
        ),
        (
            "places205",
            lambda f: changed(f / LISTS / "val_places205.csv", "a/attic", "b/attic"),
            "line 1: class 0 is a/attic elsewhere, and b/attic here",
        ),
        (
            "places205",
            lambda f: changed(f / LISTS / "train_places205.csv", ".jpg 0", ".jpg"),
            "expected a whole number, found 'a/attic/gsun_0.jpg'",
        ),
        (
            "inaturalist-2018",
            lambda f: twice(f / "val2018.json"),
            "expected one annotation of each of its 3 images, found 4 of 3",
        ),
        (
            "inaturalist-2018",
            lambda f: (f / "val2018.json").write_text("{"),
            "val2018.json is no JSON",
        ),
        (
            "inaturalist-2018",
            lambda f: changed(f / "val2018.json", '"1003"', '"another"'),
            "other categories than the file before",
        ),
    ],
)
def test_content_that_is_not_official_is_refused(
    name: str, damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    facts, folder = SMALL[name](tmp_path / "mirror")
    damage(folder)
    with pytest.raises(DataError, match=message):
        prepared(facts, folder, tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


def test_a_damaged_archive_is_not_replaced_by_what_lies_unpacked_beside_it(tmp_path: Path) -> None:
    facts, folder = small_voc(tmp_path / "mirror")
    facts, packed = packed_apart(facts, folder)
    shutil.copytree(folder, packed, dirs_exist_ok=True)
    flip_a_byte(packed / "VOCtest_06-Nov-2007.tar")
    with pytest.raises(DataError, match=r"VOCtest_06-Nov-2007.tar has the wrong checksum"):
        locate(facts, tmp_path / "raw", [str(packed.parent)], lambda _: None)


# What doctor says


@pytest.mark.parametrize("name", SMALL)
def test_doctor_says_what_to_get_by_hand_and_where_it_lies(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    facts = SQUASHED[name].at(8)
    absent = doctor.check_data(facts, ())
    assert absent.level == ("warning" if name == "voc07" else "missing")  # VOC can be downloaded
    for file in facts.files:
        assert file.name in absent.remedy
        assert (file.md5 or "no checksum is published") in absent.remedy
        assert f"or unpacked: {file.unpacked}" in absent.remedy
    assert f"put the folder {facts.folder}/" in absent.remedy
    assert "results/data/raw" in absent.remedy
    assert facts.counts is not None
    assert f"{facts.counts.train:,} training and {facts.counts.test:,} test" in absent.told
    assert "http" in absent.told
    # The advice, followed, is found, and the preparation works.
    small, folder = SMALL[name](tmp_path / "results/data/raw")
    assert "will be prepared from results/data/raw" in doctor.check_data(small, ()).told
    last = folder / (small.files[-1].unpacked or "")
    last.rename(tmp_path / "away")
    lacking = doctor.check_data(small, ())
    assert lacking.level == "missing"
    assert f"lacks {small.files[-1].name}" in lacking.told
    (tmp_path / "away").rename(last)
    assert load_after(small, tmp_path).manifest.test.images == small.counts.test  # type: ignore[union-attr]


def load_after(facts: DataSet, root: Path) -> Prepared:
    prepare(facts, root / "results/data" / facts.name, root / "results/data/raw")
    return load(root / "results/data" / facts.name)
