"""Preparing, loading and the promise that nothing is ever half written."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from small_data import flip_a_byte, small_cifar, small_stl10, tree, truncate

from barlow_atlas.atomic import WriteError
from barlow_atlas.data.catalog import CATALOG, DataSet, class_folder
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.preparation import channel_statistics, prepare
from barlow_atlas.data.prepared import load


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "digits"
    prepare(CATALOG["digits"], folder, folder.parent / "raw")
    return folder


@pytest.fixture
def cifar(tmp_path: Path) -> tuple[DataSet, Path]:
    """A prepared small data set: its facts, and the folder with mirror/ and prepared/ in it."""
    facts, _ = small_cifar(tmp_path / "mirror")
    prepare(facts, tmp_path / "prepared", tmp_path / "raw", [str(tmp_path / "mirror")])
    return facts, tmp_path


# What preparation writes


def test_digits_are_what_they_always_were(digits: Path) -> None:
    """The bytes depend on neither machine nor time, so they can be written down."""
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in tree(digits).items()}
    assert sums == {
        "manifest.json": "1acc89071a8f0875b5d089a69f88e35951b684e8bf0d18684821d225071577ee",
        "test_images.npy": "c903941bfd9c107a2ffb7f5def6763c78a22cfa4f32fd3fa06709936c0c46558",
        "test_labels.npy": "7fe1acfc8c32a8f68775c04ea5d1a8bd6552b68d49ad164c60c0e387ce23cca1",
        "train_images.npy": "a273b57f61b23ade104759ae371be326215f05594f95fa50d797f5a189dda2a6",
        "train_labels.npy": "4adb5caeef04c94560573d4d71fcba05e7bc379916cc8c87ff4784fc01dfc8be",
        "validation_index.npy": "6bdff1b7f18d1243a74d883b503425ed185fbf53f429c7808905a8928598682b",
    }


def test_digits_twice_give_equal_bytes_and_replace_the_first(digits: Path, tmp_path: Path) -> None:
    destination = tmp_path / "digits"
    destination.mkdir()
    (destination / "stale.npy").write_text("of an older version")
    prepare(CATALOG["digits"], destination, tmp_path / "raw")
    assert tree(destination) == tree(digits)
    assert [p.name for p in tmp_path.iterdir()] == ["digits"]


def test_digits_are_the_images_of_scikit_learn(digits: Path) -> None:
    from sklearn.datasets import load_digits

    data = load(digits)
    theirs = load_digits()
    ours = np.concatenate([data.train_images, data.test_images])
    assert_array_equal(ours[:, 0], ours[:, 1])
    assert_array_equal(ours[:, 0], ours[:, 2])
    table = {0: 0, 1: 16, 8: 128, 15: 239, 16: 255}
    for value, stored in table.items():
        assert (ours[:, 0] == stored).sum() == (theirs.images == value).sum()

    def multiset(images: np.ndarray, labels: np.ndarray) -> list[tuple[int, ...]]:
        rows = np.column_stack([labels, images.reshape(len(images), -1)])
        return sorted(map(tuple, rows.astype(int).tolist()))

    # Every image is in exactly one part, beside its own label.
    assert multiset(
        np.round(ours[:, 0] / 255 * 16), np.concatenate([data.train_labels, data.test_labels])
    ) == multiset(theirs.images, theirs.target)


def test_another_edition_of_the_digits_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sklearn.datasets

    changed = sklearn.datasets.load_digits()
    changed.images[0, 0, 0] += 1
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: changed)
    with pytest.raises(DataError, match="not the known ones: expected sha256 87ff0c9e"):
        prepare(CATALOG["digits"], tmp_path / "digits", tmp_path / "raw")
    assert not (tmp_path / "digits").exists()


def test_the_manifest_tells_counts_splits_and_statistics(digits: Path) -> None:
    data = load(digits)
    manifest = data.manifest
    assert (manifest.train.images, manifest.test.images, manifest.unlabeled) == (1438, 359, None)
    assert manifest.train.per_class == tuple(np.bincount(data.train_labels))
    assert manifest.validation.images == 288 == len(data.validation_index)
    assert manifest.validation.per_class == tuple(
        np.bincount(data.train_labels[data.validation_index])
    )
    assert (manifest.validation.share, manifest.validation.seed) == (0.2, 2312)
    scaled = data.train_images / 255
    np.testing.assert_allclose(manifest.channel_mean, scaled.mean((0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(manifest.channel_std, scaled.std((0, 2, 3)), atol=1e-6)
    assert "scikit-learn" in manifest.source
    assert "CC BY 4.0" in manifest.licence


def test_statistics_of_each_channel() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2_500, 3, 2, 2), dtype=np.uint8)
    images[:, 1] //= 2
    images[:, 2] = 51
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, images.mean((0, 2, 3)) / 255, atol=1e-6)
    np.testing.assert_allclose(std, images.std((0, 2, 3)) / 255, atol=1e-6)
    assert (mean[2], std[2]) == (0.2, 0.0)


def test_the_manifest_does_not_depend_on_where_the_files_came_from(
    cifar: tuple[DataSet, Path],
) -> None:
    facts, folder = cifar
    elsewhere = folder / "another/place"
    (folder / "mirror").rename(folder / "raw")
    prepare(facts, elsewhere, folder / "raw")
    assert tree(elsewhere) == tree(folder / "prepared")
    assert str(folder) not in (elsewhere / "manifest.json").read_text()


def test_a_relative_link_to_the_destination_stays_a_link(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "large-disk/digits").mkdir(parents=True)
    link = tmp_path / "digits"
    link.symlink_to("large-disk/digits")
    prepare(CATALOG["digits"], link, tmp_path / "raw")
    assert link.is_symlink()
    assert tree(tmp_path / "large-disk/digits") == tree(digits)


def test_large_parts_are_not_held_in_memory(tmp_path: Path) -> None:
    facts, _, arrays = small_stl10(tmp_path / "mirror", side=24, unlabeled=8_000)
    size = arrays.pop("unlabeled").nbytes  # type: ignore[attr-defined]
    tracemalloc.start()
    prepare(facts, tmp_path / "prepared", tmp_path / "raw", [str(tmp_path / "mirror")])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 13e6
    assert peak < size / 2


def test_the_report_has_a_line_for_every_step(tmp_path: Path) -> None:
    facts, _ = small_cifar(tmp_path / "mirror")
    lines: list[str] = []
    prepare(facts, tmp_path / "out", tmp_path / "raw", [str(tmp_path / "mirror")], lines.append)
    text = "\n".join(lines)
    assert f"using {tmp_path / 'mirror/small-batches-py'}" in text
    assert "read data_batch_2" in text
    assert lines[-1] == "Small CIFAR: prepared (40 train, 10 test, of train 4 validation)"


# Loading


def test_arrays_are_mapped_and_read_only(cifar: tuple[DataSet, Path]) -> None:
    data = load(cifar[1] / "prepared")
    for array in (data.train_images, data.train_labels, data.test_images, data.validation_index):
        assert isinstance(array, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    assert data.train_images.shape == (40, 3, 4, 4)
    assert data.train_images.dtype == np.uint8


def change_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def wrong_file(name: str, **changes: object) -> object:
    def change(folder: Path) -> None:
        files = json.loads((folder / "manifest.json").read_text())["files"]
        files[name] |= changes
        change_manifest(folder, files=files)

    return change


def drop(folder: Path) -> None:
    files = json.loads((folder / "manifest.json").read_text())["files"]
    del files["test_labels.npy"]
    change_manifest(folder, files=files)


def header(folder: Path) -> None:
    path = folder / "test_labels.npy"
    path.write_bytes(b"junk" + path.read_bytes()[4:])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "manifest.json").unlink(), "expected manifest.json there. Prepare"),
        (lambda f: truncate(f / "manifest.json"), "damaged or of another format version"),
        (lambda f: change_manifest(f, format=2), "another format version"),
        (lambda f: change_manifest(f, surprise=1), "surprise"),
        (lambda f: (f / "train_images.npy").unlink(), "train_images.npy is missing, though"),
        (lambda f: truncate(f / "train_images.npy"), "size in bytes should be 2048 .* is 2038"),
        (wrong_file("train_images.npy", shape=[20, 6, 4, 4]), r"shape should be \(20, 6, 4, 4\)"),
        (wrong_file("train_labels.npy", dtype="int32"), "dtype should be int32 .* is int64"),
        (header, "test_labels.npy is damaged: its header"),
        (drop, "does not list test_labels.npy"),
    ],
)
def test_damage_is_noticed_on_loading(
    cifar: tuple[DataSet, Path], damage: object, message: str
) -> None:
    folder = cifar[1] / "prepared"
    damage(folder)  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        load(folder)


def test_a_flipped_byte_is_noticed_on_verifying(cifar: tuple[DataSet, Path]) -> None:
    folder = cifar[1] / "prepared"
    load(folder, verify=True)
    flip_a_byte(folder / "train_images.npy")
    load(folder)
    with pytest.raises(DataError, match=r"train_images.npy is damaged: its sha256 should be"):
        load(folder, verify=True)


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no prepared data set in .*dvc pull"):
        load(tmp_path / "nothing")


# Nothing half written


def hidden(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


def test_a_failure_in_the_middle_leaves_the_old_result_whole(cifar: tuple[DataSet, Path]) -> None:
    facts, folder = cifar
    before = tree(folder / "prepared")

    def fail(line: str) -> None:
        if "computing statistics" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(facts, folder / "prepared", folder / "raw", [str(folder / "mirror")], fail)
    assert tree(folder / "prepared") == before
    assert hidden(folder) == []


def test_a_failed_rename_puts_the_old_result_back(
    cifar: tuple[DataSet, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts, folder = cifar
    before = tree(folder / "prepared")
    rename = os.rename

    def refuse_the_new(source: Path, target: Path) -> None:
        if ".new-" in str(source):
            raise OSError(errno.EIO, "input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse_the_new)
    with pytest.raises(WriteError, match=r"prepared: input/output error.*`dmesg`"):
        prepare(facts, folder / "prepared", folder / "raw", [str(folder / "mirror")])
    assert tree(folder / "prepared") == before
    assert hidden(folder) == []


def test_a_full_disk_is_an_error_and_not_a_crash(
    cifar: tuple[DataSet, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts, folder = cifar
    before = tree(folder / "prepared")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(WriteError, match=r"train_images.npy \(1,920 bytes\): No space left"):
        prepare(facts, folder / "prepared", folder / "raw", [str(folder / "mirror")])
    assert tree(folder / "prepared") == before
    assert hidden(folder) == []


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_that_cannot_reserve_is_written_to(
    cifar: tuple[DataSet, Path], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    facts, folder = cifar
    before = tree(folder / "prepared")

    def unable(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", unable)
    prepare(facts, folder / "prepared", folder / "raw", [str(folder / "mirror")])
    assert tree(folder / "prepared") == before


@pytest.mark.parametrize("line", ["read data_batch_2", "computing statistics"])
def test_a_killed_preparation_leaves_the_old_result_whole(
    cifar: tuple[DataSet, Path], line: str
) -> None:
    facts, folder = cifar
    before = tree(folder / "prepared")
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from barlow_atlas.data.catalog import DataSet\n"
        "from barlow_atlas.data.preparation import prepare\n"
        "facts, root = DataSet.model_validate_json(sys.argv[1]), Path(sys.argv[2])\n"
        "def die(line):\n"
        f"    if {line!r} in line:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "prepare(facts, root / 'prepared', root / 'raw', [str(root / 'mirror')], die)\n"
    )
    died = subprocess.run([sys.executable, "-c", script, facts.model_dump_json(), str(folder)])
    assert died.returncode == -signal.SIGKILL
    assert tree(folder / "prepared") == before
    (remains,) = hidden(folder)
    lines: list[str] = []
    prepare(facts, folder / "prepared", folder / "raw", [str(folder / "mirror")], lines.append)
    assert any(remains in text and "delete it" in text for text in lines)
    assert tree(folder / "prepared") == before


def test_the_first_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        prepare(class_folder("mine", str(tmp_path / "x"), 8), tmp_path / "out", tmp_path / "raw")
    assert list(tmp_path.iterdir()) == []
