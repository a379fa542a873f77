"""The transfer targets: facts, official formats, the reference's splits, one size for all."""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image
from small_data import (
    TARGET_SIDE,
    flip_a_byte,
    idx_bytes,
    served,
    small_aircraft,
    small_cub,
    small_dtd,
    small_flowers,
    small_gtsdb,
    small_mnist,
    truncate,
    with_archive_of,
    with_checksums_of,
)

from barlow_atlas.data.catalog import CATALOG, SQUASHED, TARGETS, DataSet, class_folder, resolve
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.preparation import prepare
from barlow_atlas.data.prepared import Prepared, load, sha256_of
from barlow_atlas.data.selection import draw_shuffled
from barlow_atlas.data.sources import locate
from barlow_atlas.data.target_formats import idx_array, squash
from barlow_atlas.settings.augmentation import RECIPES

SMALL: dict[str, Callable[[Path], tuple[DataSet, Path]]] = {
    "dtd": small_dtd,
    "cub-200": small_cub,
    "flowers-102": small_flowers,
    "traffic-signs": small_gtsdb,
    "aircraft": small_aircraft,
}


def mirror_of(facts: DataSet, folder: Path) -> Path:
    """The folder that holds the official folder."""
    return folder.parents[len(Path(facts.official_folder or "").parts) - 1]


def prepared(facts: DataSet, tmp_path: Path, folder: Path) -> Prepared:
    destination = tmp_path / "prepared"
    prepare(facts, destination, tmp_path / "raw", [str(mirror_of(facts, folder))])
    return load(destination, verify=True)


def squashed(path: Path, box: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """torchvision's Resize((S, S)) of a PIL image, as the reference has it."""
    import torchvision

    image = Image.open(path).convert("RGB")
    if box:
        image = image.crop(box)
    resize = torchvision.transforms.Resize((TARGET_SIDE, TARGET_SIDE))
    return np.asarray(resize(image)).transpose(2, 0, 1)


# Facts


def test_ten_targets_one_of_which_is_pre_trained_on_as_well() -> None:
    assert list(TARGETS) == [
        *("dtd", "mnist", "fashion-mnist", "cub-200", "flowers-102", "traffic-signs", "aircraft"),
        *("places205", "inaturalist-2018", "digits"),
    ]
    assert SQUASHED.keys() & CATALOG.keys() == {"digits"}
    classes = [47, 10, 10, 200, 102, 43, 100, 205, 8142, 10]
    assert [target.classes for target in TARGETS.values()] == classes
    assert all(min(target.std) > 0 for target in TARGETS.values())
    digits, recipe = TARGETS["digits"], RECIPES["digits"]
    assert (digits.mean, digits.std) == (recipe.mean, recipe.std)


def test_a_target_is_named_with_its_size() -> None:
    small, large = resolve("cub-200-32"), resolve("cub-200-64")
    assert (small.name, small.image_size, large.image_size) == ("cub-200-32", 32, 64)
    assert small.model_copy(update={"name": large.name, "image_size": 64}) == large
    with pytest.raises(DataError, match=r"name it with that size, such as dtd-32"):
        resolve("dtd")
    with pytest.raises(DataError, match=r"no data set is called 'dtd-032'"):
        resolve("dtd-032")
    with pytest.raises(DataError, match="the name of a transfer target"):
        class_folder("mnist-32", "folder", 32)


@pytest.mark.parametrize(
    ("name", "theirs"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")]
)
def test_idx_files_are_those_that_torchvision_knows(name: str, theirs: str) -> None:
    import torchvision

    official = getattr(torchvision.datasets, theirs)
    facts = TARGETS[name]
    assert [(f.name, f.md5) for f in facts.files] == official.resources
    assert {f.url.rpartition("/")[0] + "/" for f in facts.files if f.url} <= set(official.mirrors)
    assert facts.folder == f"{theirs}/raw"


def test_archives_are_those_that_torchvision_knows() -> None:
    import torchvision

    sets = torchvision.datasets
    dtd, aircraft = TARGETS["dtd"].archive, TARGETS["aircraft"].archive
    assert dtd is not None
    assert aircraft is not None
    assert (dtd.url, dtd.md5) == (sets.DTD._URL, sets.DTD._MD5)
    assert aircraft.url == sets.FGVCAircraft._URL
    flowers = sets.Flowers102
    theirs = [flowers._file_dict[kind] for kind in ("image", "label")]
    assert [(f.name, f.md5) for f in TARGETS["flowers-102"].files] == theirs
    for file in TARGETS["flowers-102"].files:
        assert file.url == f"{flowers._download_url_prefix}{file.name}"


# Formats


@pytest.mark.parametrize("name", SMALL)
def test_archive_and_unpacked_folder_give_the_same(name: str, tmp_path: Path) -> None:
    facts, folder = SMALL[name](tmp_path / "mirror")
    found = {}
    for kind in ("archive", "folder"):
        root = tmp_path / kind
        shutil.copytree(tmp_path / "mirror", root)
        if facts.archive and kind == "archive":
            shutil.rmtree(root / folder.name)
        elif facts.archive:
            (root / facts.archive.name).unlink()
        found[kind] = prepared(facts, root, root / folder.name)
    one, other = found["archive"], found["folder"]
    for field in ("train_images", "train_labels", "test_images", "test_labels", "validation_index"):
        assert_array_equal(getattr(one, field), getattr(other, field))
    assert one.train_images.shape[1:] == (3, TARGET_SIDE, TARGET_SIDE)
    if facts.archive:
        assert "no official checksums" in other.manifest.source


def test_textures_of_the_first_split(tmp_path: Path) -> None:
    facts, folder = small_dtd(tmp_path / "mirror")
    data = prepared(facts, tmp_path, folder)
    assert data.manifest.classes == ("banded", "dotted")
    assert_array_equal(data.train_labels, [0, 0, 1, 1, 0, 0, 1, 1])
    assert_array_equal(data.test_labels, [0, 0, 1, 1])
    images = folder / "images"
    assert_array_equal(data.train_images[5], squashed(images / "banded/banded_val1.jpg"))
    assert_array_equal(data.test_images[2], squashed(images / "dotted/dotted_test0.jpg"))
    assert "verified by its md5" not in data.manifest.source or (
        facts.archive and facts.archive.md5
    )


def test_digits_are_those_of_the_catalogue_in_another_size(tmp_path: Path) -> None:
    """The same images in the same parts, so the same ones are held out."""
    for name in ("digits", "digits-16"):
        prepare(resolve(name), tmp_path / name, tmp_path / "raw")
    small, large = (load(tmp_path / name) for name in ("digits", "digits-16"))
    assert large.train_images.shape == (1438, 3, 16, 16)
    for field in ("train_labels", "test_labels", "validation_index"):
        assert_array_equal(getattr(small, field), getattr(large, field))
    as_image = Image.fromarray(small.test_images[7].transpose(1, 2, 0))
    assert_array_equal(large.test_images[7], squash(as_image, 16))


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_grey_images_fill_three_channels(tmp_path: Path, name: str) -> None:
    facts, folder, arrays = small_mnist(tmp_path / "mirror", name)
    data = prepared(facts, tmp_path, folder)
    assert_array_equal(data.train_labels, np.arange(40) % 10)
    expected = squash(Image.fromarray(arrays["test"][3]).convert("RGB"), TARGET_SIDE)
    assert_array_equal(data.test_images[3], expected)
    assert data.manifest.classes[9] == {"mnist": "9", "fashion-mnist": "Ankle boot"}[name]


def test_birds_of_the_official_split(tmp_path: Path) -> None:
    facts, folder = small_cub(tmp_path / "mirror")
    data = prepared(facts, tmp_path, folder)
    assert data.manifest.classes == ("001.Bird_1", "002.Bird_2")
    assert_array_equal(data.train_labels, [0, 1, 0, 1, 0, 1])
    assert_array_equal(data.test_labels, [0, 1, 0, 1])
    expected = squashed(folder / "images/002.Bird_2/Bird_0008.jpg")
    assert_array_equal(data.test_images[1], expected)


def test_aircraft_are_cut_out(tmp_path: Path) -> None:
    facts, folder = small_aircraft(tmp_path / "mirror")
    data = prepared(facts, tmp_path, folder)
    assert data.manifest.classes == ("707-320", "An 12")
    assert_array_equal(data.train_labels, [0, 0, 1, 1])
    expected = squashed(folder / "data/images/0000005.jpg", (6, 2, 15, 14))
    assert_array_equal(data.train_images[1], expected)


def test_flowers_are_drawn_as_the_reference_draws_them(tmp_path: Path) -> None:
    facts, folder = small_flowers(tmp_path / "mirror")
    data = prepared(facts, tmp_path, folder)
    # The reference's loop, class by class in order of appearance, on the numbers of the images.
    labels = [2, 1, 2, 2, 1, 1, 2, 2, 2, 1, 2, 2, 2, 1, 2]
    state = np.random.RandomState(42)
    expected: dict[int, list[int]] = {}
    for label in (2, 1):
        numbers = np.array([k + 1 for k, found in enumerate(labels) if found == label])
        order = np.arange(len(numbers))
        state.shuffle(order)
        expected[label] = sorted(numbers[order][: int(0.8 * len(numbers))].tolist())
    images = [squashed(folder / f"jpg/image_{k:05d}.jpg") for k in expected[1] + expected[2]]
    assert_array_equal(data.train_images, np.stack(images))
    assert_array_equal(data.train_labels, [0] * 4 + [1] * 8)
    assert_array_equal(np.bincount(data.test_labels), [1, 2])


def test_signs_are_drawn_over_sorted_names(tmp_path: Path) -> None:
    facts, folder = small_gtsdb(tmp_path / "mirror")
    (folder.parent / "FullIJCNN2013.zip").unlink()
    data = prepared(facts, tmp_path, folder)
    first, second, third = draw_shuffled([5, 10, 1], 0.8)
    names = [f"00/{k:05d}.ppm" for k in first] + [f"01/{k:05d}.ppm" for k in second]
    assert_array_equal(data.train_images, np.stack([squashed(folder / name) for name in names]))
    # The one crop of the third sign is tested on and never trained on, as in the reference.
    assert len(third) == 0
    assert data.manifest.train.per_class == (4, 8, 0)
    assert data.manifest.test.per_class == (1, 2, 1)


def test_an_archive_without_a_published_checksum_is_named_by_its_own(tmp_path: Path) -> None:
    facts, folder = small_gtsdb(tmp_path / "mirror")
    archive = folder.parent / "FullIJCNN2013.zip"
    data = prepared(facts, tmp_path, folder)
    assert "no checksum is published" in data.manifest.source
    assert sha256_of(archive) in data.manifest.source
    truncate(archive)
    shutil.rmtree(folder)
    with pytest.raises(DataError, match=r"FullIJCNN2013.zip is truncated, or no zip archive"):
        prepared(facts, tmp_path, folder)


def test_the_reference_draw_is_deterministic_and_rounds_down() -> None:
    sizes = [40, 258, 1, 7]
    drawn = draw_shuffled(sizes, 1 - 0.2)
    assert [len(places) for places in drawn] == [32, 206, 0, 5]
    again = draw_shuffled(sizes[:2], 0.8)
    for one, other in zip(drawn, again, strict=False):
        assert_array_equal(one, other)
        assert_array_equal(one, np.unique(one))


# Single files instead of an archive


def test_single_files_are_looked_up_served_and_kept(tmp_path: Path) -> None:
    facts, folder, _ = small_mnist(tmp_path / "mirror")
    raw = tmp_path / "raw"

    def find(data_set: DataSet, *mirrors: str) -> Path:
        return locate(data_set, raw, mirrors, lambda _: None)

    assert find(facts, str(tmp_path / "mirror")) == folder
    with served(tmp_path / "mirror") as url:
        assert find(facts, url) == raw / "MNIST/raw"
        shutil.rmtree(raw)
        files = tuple(
            f.model_copy(update={"url": f"{url}/MNIST/raw/{f.name}"}) for f in facts.files
        )
        assert find(facts.model_copy(update={"files": files})) == raw / "MNIST/raw"
    assert find(facts) == raw / "MNIST/raw"


def test_what_is_missing_of_single_files_is_said(tmp_path: Path) -> None:
    facts, folder, _ = small_mnist(tmp_path / "mirror")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    flip_a_byte(folder / "train-images-idx3-ubyte.gz")
    with pytest.raises(DataError) as caught:
        locate(facts, tmp_path / "raw", [str(tmp_path / "mirror")], lambda _: None)
    message = str(caught.value)
    assert "Expected: the folder MNIST/raw/ with the official files train-images" in message
    assert "raw/train-images-idx3-ubyte.gz has the wrong checksum: md5 " in message
    assert f"What to do: put MNIST/raw/ into {tmp_path / 'raw'}" in message


# Damage that no checksum tells, since the facts are made to fit


def rewrite(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (
            "dtd",
            lambda f: (f / "images/dotted/dotted_val1.jpg").unlink(),
            "expected 12 files.*not found: images/dotted/dotted_val1.jpg",
        ),
        ("dtd", lambda f: (f / "labels/val1.txt").unlink(), "not found: labels/val1.txt"),
        (
            "dtd",
            lambda f: rewrite(f / "labels/test1.txt", "test1", "test0"),
            "name 12 images, but only 11 different ones",
        ),
        (
            "dtd",
            lambda f: (f / "labels/val1.txt").write_text(""),
            "expected 8 train images, found 4",
        ),
        (
            "dtd",
            lambda f: truncate(f / "images/banded/banded_test0.jpg"),
            "banded_test0.jpg is not a readable image",
        ),
        (
            "cub-200",
            lambda f: rewrite(f / "train_test_split.txt", "3 1\n", ""),
            r"do not list the same images: 3 are not in all of them",
        ),
        (
            "cub-200",
            lambda f: rewrite(f / "image_class_labels.txt", "3 1\n", "3\n"),
            "image_class_labels.txt, line 3: expected 2 fields, found 1",
        ),
        (
            "cub-200",
            lambda f: rewrite(f / "image_class_labels.txt", "3 1\n", "3 one\n"),
            "image 3: expected a whole number, found 'one'",
        ),
        (
            "cub-200",
            lambda f: rewrite(f / "image_class_labels.txt", "3 1\n", "3 9\n"),
            r"unknown: \[8\]",
        ),
        (
            "aircraft",
            lambda f: rewrite(f / "data/images_box.txt", "0000003 ", "9999999 "),
            "images_box.txt has no bounding box of 0000003",
        ),
        (
            "aircraft",
            lambda f: rewrite(f / "data/images_box.txt", " 2 ", " x "),
            "expected a whole number, found 'x'",
        ),
        (
            "traffic-signs",
            lambda f: shutil.rmtree(f / "01"),
            r"crops \(\*\.ppm\) of 3 classes in the folders 00/ to 02/, found none in 01",
        ),
    ],
)
def test_content_that_is_not_official_is_refused(
    tmp_path: Path, name: str, damage: Callable[[Path], None], message: str
) -> None:
    facts, folder = SMALL[name](tmp_path / "mirror")
    damage(folder)
    assert facts.archive is not None
    (folder.parent / facts.archive.name).unlink()
    facts = with_archive_of(facts, folder)
    for kind in ("archive", "folder"):
        if kind == "folder":
            (folder.parent / facts.archive.name).unlink()
        with pytest.raises(DataError, match=message):
            prepared(facts, tmp_path, folder)
    assert not (tmp_path / "prepared").exists()


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "imagelabels.mat").write_text("<html>"), "not a readable MATLAB file"),
        (lambda f: halve(f / "102flowers.tgz"), "cannot be read as 102 Category Flowers"),
        (
            lambda f: (f / "102flowers.tgz").write_bytes(gzip.compress(b"\0" * 1024)),
            "not found: image_00",
        ),
    ],
)
def test_damaged_flowers_are_refused(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    facts, folder = small_flowers(tmp_path / "mirror")
    damage(folder)
    with pytest.raises(DataError, match=message):
        prepared(with_checksums_of(facts, folder), tmp_path, folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an IDX file"),
        (b"<html></html>", "begins with 3c 68 74 6d"),
        (idx_bytes(np.zeros((2, 3, 4)))[:-1], r"expected 24 values of shape \(2, 3, 4\), found 23"),
        (idx_bytes(np.zeros((2, 3))), "in 1 or 3 dimensions"),
        (idx_bytes(np.zeros((2, 3, 4)))[:6], "is not an IDX file"),
    ],
)
def test_content_that_is_not_idx_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        idx_array(content, "somewhere")


def test_a_truncated_idx_file_is_refused(tmp_path: Path) -> None:
    facts, folder, _ = small_mnist(tmp_path / "mirror")
    truncate(folder / "train-images-idx3-ubyte.gz")
    with pytest.raises(DataError, match="cannot be read as MNIST"):
        prepared(with_checksums_of(facts, folder), tmp_path, folder)
