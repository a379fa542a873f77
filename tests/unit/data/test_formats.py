"""Official formats become the right arrays, and foreign content is refused by name."""

import io
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image
from small_data import (
    CIFAR_FILES,
    CIFAR_SIDE,
    TINY_CLASSES,
    pack,
    small_cifar,
    small_stl10,
    small_tiny,
    truncate,
    with_facts_of,
    write_image,
)

from barlow_atlas.data.catalog import CATALOG, DataSet, class_folder
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.preparation import prepare
from barlow_atlas.data.prepared import Prepared, load


def prepared(data_set: DataSet, tmp_path: Path, *mirrors: Path) -> Prepared:
    destination = tmp_path / "prepared"
    prepare(data_set, destination, tmp_path / "raw", [str(m) for m in mirrors])
    return load(destination, verify=True)


# CIFAR


@pytest.mark.parametrize("keep", ["folder", "archive"])
def test_cifar_batches_are_joined_in_their_order(tmp_path: Path, keep: str) -> None:
    facts, folder = small_cifar(tmp_path / "mirror")
    batches = {name: pickle.loads((folder / name).read_bytes()) for name in CIFAR_FILES}
    if keep == "archive":
        shutil.rmtree(folder)
    data = prepared(facts, tmp_path, folder.parent)
    expected = np.concatenate([batches["data_batch_1"]["data"], batches["data_batch_2"]["data"]])
    assert_array_equal(data.train_images, expected.reshape(40, 3, CIFAR_SIDE, CIFAR_SIDE))
    assert_array_equal(data.train_labels, np.arange(40) % 2)
    assert_array_equal(data.test_images.reshape(10, -1), batches["test_batch"]["data"])
    assert data.manifest.classes == ("cat", "dog")
    assert data.train_labels.dtype == np.int64
    assert data.unlabeled_images is None


def test_cifar_100_takes_the_fine_labels(tmp_path: Path) -> None:
    facts, folder = small_cifar(tmp_path / "mirror")
    for name in CIFAR_FILES:
        batch = pickle.loads((folder / name).read_bytes())
        fine = [1 - label for label in batch["labels"]]
        batch |= {"fine_labels": fine, "coarse_labels": batch.pop("labels")}
        (folder / name).write_bytes(pickle.dumps(batch))
    names = {"fine_label_names": ["pine", "oak"], "coarse_label_names": ["tree"]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names))
    data = prepared(with_facts_of(facts, folder), tmp_path, folder.parent)
    assert_array_equal(data.train_labels, 1 - np.arange(40) % 2)
    assert data.manifest.classes == ("pine", "oak")


def change_batch(folder: Path, name: str, **changes: object) -> None:
    batch = pickle.loads((folder / name).read_bytes())
    (folder / name).write_bytes(pickle.dumps(batch | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: truncate(f / "data_batch_1"), "cannot be read as Small CIFAR.*truncated"),
        (lambda f: (f / "test_batch").write_text("<html>"), "cannot be read as Small CIFAR"),
        (
            lambda f: change_batch(f, "test_batch", data=np.zeros((10, 47), np.uint8)),
            r"test batches hold uint8 rows of shape \(47,\), expected uint8 rows of 48",
        ),
        (
            lambda f: change_batch(f, "test_batch", data=np.zeros((9, 48), np.uint8)),
            "expected 10 test images, found 9",
        ),
        (lambda f: change_batch(f, "test_batch", labels=[0, 1]), "10 test images have 2 labels"),
        (
            lambda f: change_batch(f, "test_batch", labels=[1] * 10),
            r"test images of each of the classes 0 to 1; missing: \[0\], unknown: \[\]",
        ),
        (
            lambda f: change_batch(f, "test_batch", labels=[0, 1, 7] + [0] * 7),
            r"unknown: \[7\]",
        ),
        (
            lambda f: (f / "batches.meta").write_bytes(pickle.dumps({"label_names": ["cat"]})),
            "expected 2 names of classes, found 1",
        ),
    ],
)
def test_content_that_is_not_cifar_is_refused(tmp_path: Path, damage: object, message: str) -> None:
    """Even under facts whose checksums fit, so that only the readers can notice."""
    facts, folder = small_cifar(tmp_path / "mirror")
    damage(folder)  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        prepared(with_facts_of(facts, folder), tmp_path, folder.parent)
    assert not (tmp_path / "prepared").exists()


def test_an_archive_of_another_layout_is_refused(tmp_path: Path) -> None:
    facts, folder = small_cifar(tmp_path / "mirror")
    (folder / "test_batch").rename(folder / "tests")
    archive = pack(folder, tmp_path / "mirror/small.tar.gz")
    (folder / "tests").rename(folder / "test_batch")
    facts = with_facts_of(facts, folder, archive)
    shutil.rmtree(folder)
    with pytest.raises(DataError, match=r"another layout.*not found: test_batch"):
        prepared(facts, tmp_path, folder.parent)


def test_a_truncated_archive_is_refused_by_its_reader_too(tmp_path: Path) -> None:
    facts, folder = small_cifar(tmp_path / "mirror")
    archive = tmp_path / "mirror/small.tar.gz"
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    facts = with_facts_of(facts, folder, archive)
    shutil.rmtree(folder)
    with pytest.raises(DataError, match=r"small\.tar\.gz cannot be read as Small CIFAR"):
        prepared(facts, tmp_path, folder.parent)


# STL-10


@pytest.mark.parametrize("keep", ["folder", "archive"])
def test_stl10_runs_down_the_columns(tmp_path: Path, keep: str) -> None:
    facts, folder, arrays = small_stl10(tmp_path / "mirror", side=6, unlabeled=2_300)
    if keep == "archive":
        shutil.rmtree(folder)
    data = prepared(facts, tmp_path, folder.parent)
    assert_array_equal(data.train_images, arrays["train"])
    assert_array_equal(data.test_images, arrays["test"])
    assert data.unlabeled_images is not None
    assert_array_equal(data.unlabeled_images, arrays["unlabeled"])
    assert_array_equal(data.train_labels, np.arange(20) % 10)
    assert data.manifest.unlabeled is not None
    assert data.manifest.unlabeled.images == 2_300
    assert data.manifest.classes[:2] == ("airplane", "bird")


def test_stl10_is_read_as_torchvision_reads_it(tmp_path: Path) -> None:
    import torchvision

    facts, folder, _ = small_stl10(tmp_path / "mirror", side=96, unlabeled=10)
    data = prepared(facts, tmp_path, folder.parent)
    reader = object.__new__(torchvision.datasets.STL10)
    reader.root = str(folder.parent)
    images, labels = reader._STL10__loadfile("test_X.bin", "test_y.bin")
    assert_array_equal(data.test_images, images)
    assert_array_equal(data.test_labels, labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (truncate, "unlabeled_X.bin is truncated: expected 50 images of 108 bytes, found 49"),
        (lambda p: p.write_bytes(p.read_bytes() + b"x"), "unlabeled_X.bin is too long"),
    ],
)
def test_stl10_of_another_length_is_refused(tmp_path: Path, change: object, message: str) -> None:
    facts, folder, _ = small_stl10(tmp_path / "mirror", side=6, unlabeled=50)
    change(folder / "unlabeled_X.bin")  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        prepared(with_facts_of(facts, folder), tmp_path, folder.parent)


# Tiny ImageNet


def into_class_folders(folder: Path) -> None:
    """What the usual scripts make of the official layout."""
    for line in (folder / "val/val_annotations.txt").read_text().splitlines():
        name, wnid = line.split("\t")[:2]
        (folder / "val" / wnid).mkdir(exist_ok=True)
        (folder / "val/images" / name).rename(folder / "val" / wnid / name)
    (folder / "val/images").rmdir()
    for wnid in TINY_CLASSES:
        for image in (folder / "train" / wnid / "images").iterdir():
            image.rename(folder / "train" / wnid / image.name)


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[DataSet, Path]:
    facts, folder = small_tiny(tmp_path / "mirror")
    # The share of 10 % of the real set would be a single image here.
    return facts.model_copy(update={"validation_share": 0.25}), folder


@pytest.mark.parametrize("layout", ["archive", "official", "class folders"])
def test_every_layout_of_tiny_imagenet_gives_the_same_arrays(
    tiny: tuple[DataSet, Path], tmp_path: Path, layout: str
) -> None:
    facts, folder = tiny
    reference = {}
    for c, wnid in enumerate(TINY_CLASSES):
        for k in range(2):
            with Image.open(folder / f"val/images/val_{3 * k + c}.JPEG") as image:
                reference[2 * c + k] = np.asarray(image).transpose(2, 0, 1)
        assert f"val_{c}.JPEG\t{wnid}\t" in (folder / "val/val_annotations.txt").read_text()
    archive = tmp_path / "mirror/tiny-imagenet-200.zip"
    if layout == "archive":
        shutil.rmtree(folder)
    else:
        archive.unlink()
    if layout == "class folders":
        into_class_folders(folder)
    data = prepared(facts, tmp_path, folder.parent)
    assert_array_equal(data.test_images, np.stack([reference[i] for i in range(6)]))
    assert data.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.train_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.manifest.classes == TINY_CLASSES
    verified = "verified by its md5" if layout == "archive" else "no official checksums"
    assert verified in data.manifest.source


def test_the_verified_archive_is_preferred_to_loose_images(
    tiny: tuple[DataSet, Path], tmp_path: Path
) -> None:
    facts, folder = tiny
    data = prepared(facts, tmp_path, folder.parent)
    assert "verified by its md5" in data.manifest.source


def test_grey_images_become_rgb(tiny: tuple[DataSet, Path], tmp_path: Path) -> None:
    facts, folder = tiny
    (folder.parent / "tiny-imagenet-200.zip").unlink()
    write_image(folder / "train/n01/images/n01_0.JPEG", 8, seed=5, mode="L")
    images = prepared(facts, tmp_path, folder.parent).train_images
    assert_array_equal(images[0, 0], images[0, 1])
    assert_array_equal(images[0, 0], images[0, 2])


def lose_annotations(folder: Path) -> None:
    (folder / "val/val_annotations.txt").unlink()


def shorten_annotations(folder: Path) -> None:
    path = folder / "val/val_annotations.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_annotations, "test: expected 3 classes of 2 images, found 1 classes of 6 to 6"),
        (shorten_annotations, r"val/images/ are not those in .*: expected 5 images, found 6"),
        (lambda f: shutil.rmtree(f / "val"), "test: expected 3 classes of 2 images, found 0"),
        (lambda f: (f / "train/n02/images/n02_1.JPEG").unlink(), "found 3 classes of 3 to 4"),
        (lambda f: (f / "train/n02").rename(f / "train/n09"), "Without test images: n09"),
        (lambda f: truncate(f / "train/n02/images/n02_1.JPEG"), "n02_1.JPEG is not a readable"),
        (
            lambda f: (f / "train/n02/images/n02_1.JPEG").write_text("<html>"),
            r"n02_1.JPEG is not a readable image \(6 bytes\).*replace or remove it",
        ),
        (
            lambda f: write_image(f / "train/n02/images/n02_1.JPEG", (8, 9), seed=0),
            "n02_1.JPEG has 8 x 9 pixels, expected 8 x 8",
        ),
    ],
)
def test_what_is_not_the_whole_of_tiny_imagenet_is_refused(
    tiny: tuple[DataSet, Path], tmp_path: Path, damage: object, message: str
) -> None:
    facts, folder = tiny
    (folder.parent / "tiny-imagenet-200.zip").unlink()
    damage(folder)  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        prepared(facts, tmp_path, folder.parent)
    assert not (tmp_path / "prepared").exists()


def test_a_subset_of_tiny_imagenet_does_not_pass_for_it(tmp_path: Path) -> None:
    _, folder = small_tiny(tmp_path / "mirror")
    (folder.parent / "tiny-imagenet-200.zip").unlink()
    with pytest.raises(DataError) as caught:
        prepared(CATALOG["tiny-imagenet"], tmp_path, folder.parent)
    message = str(caught.value)
    assert "expected 200 classes of 500 images, found 3 classes of 4 to 4 images" in message
    assert "expected 200 classes of 50 images, found 3 classes of 2 to 2 images" in message
    assert "another, smaller problem" in message
    assert f"name: tiny-imagenet-subset, path: {folder}, stored_size: 64" in message


def test_a_subset_of_tiny_imagenet_is_a_class_folder_data_set(tmp_path: Path) -> None:
    _, folder = small_tiny(tmp_path / "mirror")
    facts = class_folder("tiny-subset", str(folder), 8)
    data = prepared(facts, tmp_path)
    assert data.manifest.classes == TINY_CLASSES
    assert data.manifest.test.per_class == (2, 2, 2)
    assert data.manifest.name == "tiny-subset"


# Class folders


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for c, name in enumerate(("ant", "bee")):
        for k in range(6):
            write_image(root / f"train/{name}/{k}.png", (20 + 3 * k, 16 + c), seed=10 * c + k)
        write_image(root / f"val/{name}/deeper/x.jpg", (9, 31), seed=100 + c)
    (root / "train/ant/._0.png").write_text("left by a file manager")
    (root / "train/ant/notes.txt").write_text("not an image")
    return root


def test_class_folders_are_resized_and_cropped_as_torchvision_does(
    folders: Path, tmp_path: Path
) -> None:
    import torchvision

    functional = torchvision.transforms.functional
    data = prepared(class_folder("insects", str(folders), 12), tmp_path)
    paths = [folders / f"train/{name}/{k}.png" for name in ("ant", "bee") for k in range(6)]
    for path, ours in zip(paths, data.train_images, strict=True):
        with Image.open(path) as image:
            resized = functional.resize(image, 12, torchvision.transforms.InterpolationMode.BICUBIC)
            expected = functional.center_crop(resized, [12, 12])
        assert_array_equal(ours, np.asarray(expected).transpose(2, 0, 1))
    assert data.train_labels.tolist() == [0] * 6 + [1] * 6
    assert data.manifest.classes == ("ant", "bee")
    assert data.manifest.validation.images == 1


def test_images_of_the_stored_size_are_not_resampled(tmp_path: Path) -> None:
    root = tmp_path / "images"
    for name in ("a", "b"):
        for k in range(5):
            write_image(root / f"train/{name}/{k}.png", 12, seed=k)
        write_image(root / f"test/{name}/0.png", 12, seed=9)
    data = prepared(class_folder("mine", str(root), 12), tmp_path)
    with Image.open(root / "train/a/3.png") as image:
        assert_array_equal(data.train_images[3], np.asarray(image).transpose(2, 0, 1))


def halve(folder: Path) -> None:
    path = folder / "train/bee/5.png"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def sixteen_bit(folder: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((20, 20), 40_000, np.uint16)).save(buffer, "PNG")
    (folder / "train/ant/0.png").write_bytes(buffer.getvalue())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "there is no such folder. Correct `path`"),
        (lambda f: shutil.rmtree(f / "train"), "at least two class folders.*found none"),
        (lambda f: shutil.rmtree(f / "train/ant"), "at least two class folders.*found bee"),
        (lambda f: shutil.rmtree(f / "val"), "either val/<class>/ or test/<class>/.*found neither"),
        (lambda f: shutil.copytree(f / "val", f / "test"), "found both.*move the other away"),
        (lambda f: shutil.rmtree(f / "val/bee"), "not the same classes. Without test images: bee"),
        (
            lambda f: write_image(f / "val/cow/0.png", 12, seed=0),
            "Without training images: cow.* Each class needs a folder with images in both",
        ),
        (
            lambda f: (shutil.rmtree(f / "val"), write_image(f / "val/images/0.png", 12, seed=0)),
            "told apart by val/val_annotations.txt, which is not there",
        ),
        (halve, "train/bee/5.png is not a readable image.*replace or remove it"),
        (sixteen_bit, "train/ant/0.png is not a readable image.*more than 8 bits"),
    ],
)
def test_class_folders_that_do_not_fit_are_refused(
    folders: Path, tmp_path: Path, damage: object, message: str
) -> None:
    damage(folders)  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        prepared(class_folder("insects", str(folders), 12), tmp_path)
