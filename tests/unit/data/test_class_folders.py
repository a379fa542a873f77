"""Class folders as people have them: counted, refused with all findings, or read as stated."""

import os
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from barlow_atlas.data.catalog import class_folder
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.preparation import prepare
from barlow_atlas.data.prepared import load
from barlow_atlas.data.survey import SOURCES, Survey, outdated, read_sources, survey
from barlow_atlas.data.tree import SHOWN, read_tree

IMAGES = 3
NOBODY = 65534


def picture(path: Path, value: int = 90, size: tuple[int, int] = (12, 10), **how: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 255 - value, 7)).save(path, **how)  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Cats and dogs, all pictures different."""
    value = 0
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            for place in range(IMAGES):
                value += 5
                picture(tmp_path / f"pets/{split}/{label}/{place}.png", value)
    return tmp_path / "pets"


def counts(found: Survey) -> dict[str, dict[str, int]]:
    return {
        part: {label: len(names) for label, names in by_class.items()}
        for part, by_class in found.images.items()
    }


AS_THEY_ARE = {part: {"cat": IMAGES, "dog": IMAGES} for part in ("train", "test")}


def copied(root: Path, name: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(root / "train/cat/0.png", root / name)


@pytest.mark.parametrize(
    ("beside", "reason"),
    [
        (lambda r: copied(r, "train/cat/.ipynb_checkpoints/0-checkpoint.png"), "hidden folder"),
        (lambda r: copied(r, "train/.ipynb_checkpoints/0-checkpoint.png"), "hidden folder"),
        (lambda r: copied(r, "test/cat/.ipynb_checkpoints/0.png"), "hidden folder"),
        (lambda r: copied(r, "train/dog/.Trash-1000/files/0.png"), "hidden folder"),
        (lambda r: copied(r, "train/cat/._0.png"), "hidden file"),
        (lambda r: (r / "train/.DS_Store").write_bytes(b"x"), "hidden file"),
        (lambda r: copied(r, "train/cat/@eaDir/0.png/SYNOPHOTO_THUMB_SM.jpg"), "system's folder"),
        (lambda r: copied(r, "__MACOSX/train/cat/0.png"), "system's folder"),
        (lambda r: copied(r, "train/#recycle/0.png"), "system's folder"),
        (lambda r: copied(r, "train/$RECYCLE.BIN/0.png"), "system's folder"),
        (lambda r: (r / "train/lost+found").mkdir(), "system's folder"),
        (lambda r: os.mkfifo(r / "train/cat/pipe.jpg"), "no regular file"),
        (lambda r: (r / "train/cat/all").symlink_to("../dog"), "link to what is read anyway"),
        (lambda r: (r / "train/zoo").symlink_to("dog"), "link to what is read anyway"),
        (lambda r: (r / "train/a").symlink_to("dog"), "link to what is read anyway"),
        (lambda r: (r / "val").symlink_to("test"), "link to what is read anyway"),
        (lambda r: (r / "test/cat/x.png").symlink_to("0.png"), "link to what is read anyway"),
        (lambda r: (r / "train/cat/notes.txt").write_text("words"), "no image (.txt)"),
        (lambda r: (r / "train/cat/Thumbs.db").write_bytes(b"x"), "no image (.db)"),
        (lambda r: (r / "train/cat/README").write_text("words"), "no image (no ending)"),
        (lambda r: (r / "train/cat/a.heic").write_bytes(b"\0\0\0 ftypheic"), "no image (.heic)"),
        (lambda r: copied(r, "train/stray.png"), "image in no class's folder"),
        (lambda r: (r / "labels.csv").write_text("words"), "beside train, val, test"),
    ],
)
def test_what_is_no_image_is_left_out_and_counted(
    root: Path, beside: Callable[[Path], object], reason: str
) -> None:
    beside(root)
    found = survey("pets", root)
    assert counts(found) == AS_THEY_ARE
    assert found.skipped == {reason: 1}


def test_images_are_known_by_their_content_too(root: Path) -> None:
    for name, kind in (("a.gif", "GIF"), ("b.jfif", "JPEG"), ("c", "JPEG"), ("d.dat", "WEBP")):
        picture(root / "train/cat" / name, 200, format=kind)
    for name, kind in (("e", "BMP"), ("f", "PPM"), ("g.scan", "TIFF"), ("h", "PNG")):
        picture(root / "train/cat" / name, 200, format=kind)
    found = survey("pets", root)
    assert counts(found)["train"]["cat"] == IMAGES + 8
    assert not found.skipped


def test_links_to_images_elsewhere_are_followed(root: Path, tmp_path: Path) -> None:
    """As DVC and git-annex keep them, and folders on other disks."""
    shutil.move(root / "train/cat", tmp_path / "disk")
    (root / "train/cat").symlink_to(tmp_path / "disk")
    shutil.move(root / "test/dog/0.png", tmp_path / "object")
    (root / "test/dog/0.png").symlink_to(tmp_path / "object")
    (root / "test/dog/again.png").hardlink_to(root / "test/dog/1.png")
    expected = AS_THEY_ARE | {"test": {"cat": IMAGES, "dog": IMAGES + 1}}
    assert counts(survey("pets", root)) == expected


@contextmanager
def as_a_user() -> Iterator[None]:
    """Without root's rights, under which everything can be read."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_root(root: Path) -> Iterator[Path]:
    """The pets where another user can come."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        shutil.copytree(root, Path(folder) / "pets")
        yield Path(folder) / "pets"


@pytest.mark.parametrize("name", ["train/cat", "train/cat/deeper", "train/cat/1.png"])
def test_what_cannot_be_read_is_refused(open_root: Path, name: str) -> None:
    (open_root / "train/cat/deeper").mkdir()
    (open_root / name).chmod(0)
    with as_a_user(), pytest.raises(DataError, match=f"  {name} cannot be read: Permission denied"):
        survey("pets", open_root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: (r / "train/cat/all").symlink_to("."), "train/cat/all is a link to a folder ab"),
        (lambda r: (r / "train/cat/up").symlink_to(".."), "train/cat/up is a link to a folder abo"),
        (lambda r: (r / "train/cat/up").symlink_to(r.parent), "train/cat/up is a link to a folder"),
        (lambda r: (r / "train/fox").symlink_to("/none/fox"), "train/fox is a link to /none/fox, "),
        (lambda r: (r / "test/cat/9.jpg").symlink_to("/none/9.jpg"), "cannot be reached: No such"),
        (lambda r: (r / "train/cat/me.jpg").symlink_to("me.jpg"), "cannot be reached: Too many"),
        (lambda r: (r / "train/fox").mkdir(), "train: fox has no images"),
        (lambda r: (r / "val").mkdir() or (r / "test").rename(r / "x"), "found neither.*are: tra"),
        (lambda r: shutil.rmtree(r / "test/dog"), "Without test images: dog"),
        (lambda r: os.mkdir(os.fsencode(r) + b"/train/caf\xe9"), r"name caf\\xe9 is not UTF-8"),
        (lambda r: (r / "train/a\n\x1b[2J").mkdir(), r"train: a\\n\\x1b\[2J has no images"),
        (lambda r: shutil.rmtree(r / "test") or (r / "test").symlink_to("train"), "found neither"),
    ],
)
def test_what_should_be_there_and_is_not_is_refused(
    root: Path, change: Callable[[Path], object], message: str
) -> None:
    change(root)
    with pytest.raises(DataError, match=message) as caught:
        survey("pets", root)
    str(caught.value).encode()


def test_a_class_of_unread_formats_is_refused_with_their_number(root: Path) -> None:
    for split in ("train", "test"):
        (root / split / "fox").mkdir()
        for place in range(4):
            (root / split / f"fox/{place}.heic").write_bytes(b"\0\0\0 ftypheic")
    with pytest.raises(DataError) as caught:
        survey("pets", root)
    assert "  train: fox has no images\n  test: fox has no images\n" in str(caught.value)
    assert "8 no image (.heic)" in str(caught.value)


def test_all_findings_come_at_once(root: Path) -> None:
    for place in range(SHOWN + 3):
        (root / f"train/cat/{place}.jpg").symlink_to(f"/none/{place}.jpg")
    (root / "train/dog/all").symlink_to(".")
    with pytest.raises(DataError) as caught:
        survey("pets", root)
    lines = str(caught.value).splitlines()
    assert len([line for line in lines if " is a link to " in line]) == SHOWN
    assert "  and 4 more" in lines


def test_parts_one_folder_too_deep_or_too_high_are_told(root: Path) -> None:
    with pytest.raises(DataError, match=f"parts lie in {root}: name that as `path`"):
        survey("pets", root.parent)
    with pytest.raises(DataError, match=f"Name the folder above, {root}, as `path`"):
        survey("pets", root / "train")


def test_unicode_forms_of_one_name_are_one_class(root: Path) -> None:
    composed, taken_apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    (root / "train/cat").rename(root / "train" / taken_apart)
    (root / "test/cat").rename(root / "test" / composed)
    assert list(counts(survey("pets", root))["train"]) == [composed, "dog"]
    shutil.copytree(root / "test" / composed, root / "train" / composed)
    with pytest.raises(DataError, match="two Unicode forms of one name"):
        survey("pets", root)


def test_file_names_of_any_bytes_are_read(root: Path, tmp_path: Path) -> None:
    os.rename(root / "train/cat/0.png", os.fsencode(root) + b"/train/cat/\xe9t\xe9.png")
    found = prepare(class_folder("pets", str(root), 8), tmp_path / "out", tmp_path / "raw")
    assert found.train.images == 2 * IMAGES


def test_a_link_in_the_middle_of_a_tree_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "tree/a").mkdir(parents=True)
    (tmp_path / "other/deep").mkdir(parents=True)
    (tmp_path / "other/file").touch()
    (tmp_path / "other/deep/back").symlink_to(tmp_path / "tree")
    for name in ("x", "y"):
        (tmp_path / "tree" / name).symlink_to("../other")
    tree = read_tree(tmp_path / "tree")
    assert list(tree.files) == ["x/file"]
    assert tree.skipped == {"link to what is read anyway": 2}


# What preparation makes of them


def prepared(root: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    said: list[str] = []
    prepare(
        class_folder("pets", str(root), 8), tmp_path / "out", tmp_path / "raw", report=said.append
    )
    return tmp_path / "out", said


def test_what_was_left_out_and_repeated_is_said_and_kept(root: Path, tmp_path: Path) -> None:
    (root / "train/cat/notes.txt").write_text("words")
    copied(root, "test/dog/leaked.png")
    folder, said = prepared(root, tmp_path)
    sources = read_sources(folder)
    assert sources is not None
    assert sources.skipped == {"no image (.txt)": 1}
    assert sources.duplicates == 1
    assert sources.images == 4 * IMAGES + 1
    assert f"pets: left out in {root}: 1 no image (.txt)" in said
    assert "pets: 1 of 7 test images have the pixels of a training image, as they" in str(said)


def test_broken_images_are_all_listed(root: Path, tmp_path: Path) -> None:
    (root / "train/cat/0.png").write_bytes(b"")
    (root / "train/dog/1.png").write_text("<!DOCTYPE html>")
    whole = (root / "test/cat/2.png").read_bytes()
    (root / "test/cat/2.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError) as caught:
        prepared(root, tmp_path)
    assert "pets: 3 of its images cannot be used" in str(caught.value)
    for name in ("train/cat/0.png", "train/dog/1.png", "test/cat/2.png"):
        assert name in str(caught.value)


def test_a_text_file_more_changes_no_manifest(root: Path, tmp_path: Path) -> None:
    folder, _ = prepared(root, tmp_path)
    before = (folder / "manifest.json").read_bytes(), (folder / SOURCES).read_bytes()
    (root / "train/cat/notes.txt").write_text("words")
    os.utime(root / "train/cat/0.png", (1, 1))
    folder, _ = prepared(root, tmp_path)
    after = (folder / "manifest.json").read_bytes(), (folder / SOURCES).read_bytes()
    assert after[0] == before[0]
    assert after[1] != before[1]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: None, ""),
        (lambda r: (r / "train/cat/notes.txt").write_text("words"), ""),
        (lambda r: picture(r / "train/cat/new.png"), "13 images, 12 were prepared; "),
        (lambda r: (r / "train/cat/0.png").unlink(), "11 images, 12 were prepared; "),
        (lambda r: picture(r / "train/cat/0.png", size=(50, 51)), "bytes, "),
        (lambda r: os.utime(r / "test/dog/1.png", (1, 1)), "names or times of files are others"),
        (lambda r: (r / "train/cat/0.png").rename(r / "train/cat/z.png"), "names or times of"),
        (lambda r: (r / "train/fox").symlink_to("/none/fox"), "train/fox is a link to /none/fox"),
    ],
)
def test_a_change_of_the_images_is_noticed(
    root: Path, tmp_path: Path, change: Callable[[Path], object], told: str
) -> None:
    folder, _ = prepared(root, tmp_path)
    change(root)
    found = outdated(class_folder("pets", str(root), 8), folder)
    assert (told in found) if told else found == ""
    shutil.rmtree(root)
    assert outdated(class_folder("pets", str(root), 8), folder) == ""


def test_a_home_folder_is_found(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(root.parent))
    prepare(class_folder("pets", "~/pets", 8), tmp_path / "out", tmp_path / "raw")
    assert_array_equal(load(tmp_path / "out").train_labels, np.repeat([0, 1], IMAGES))
    assert outdated(class_folder("pets", "~/pets", 8), tmp_path / "out") == ""
