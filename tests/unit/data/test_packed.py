"""Images as others packed them become what they are as class folders.

`packed/` has the same twelve photographs as class folders and as written by webdataset 1.0.2,
datasets 5.2.0 (`save_to_disk`, `to_parquet`) and tensorflow-datasets 4.9.10.
"""

import io
import random
import shutil
import sys
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from photographs import CLASSES, damaged, encoded, picture
from small_data import tree

from barlow_atlas.data import preparation, sharding
from barlow_atlas.data.choice import Data
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.originals import Originals
from barlow_atlas.data.prepared import Prepared, load
from barlow_atlas.data.survey import outdated, part_of

PACKED = Path(__file__).parent / "packed"
FORMS = ("webdataset", "arrow", "parquet", "tfds")
ENDINGS = ("*.tar", "*.arrow", "*.parquet", "*.tfrecord*")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "SHARD_BYTES", 2_000)


def data(place: Path, **more: object) -> Data:
    return Data.model_validate({"name": "mine", "path": str(place), "stored": "original", **more})


def prepared(place: Path, out: Path, **more: object) -> Prepared:
    preparation.prepare(data(place, **more).data_set, out, place / "raw")
    return load(out, verify=True)


def labelled(found: Prepared, part: str) -> list[tuple[int, bytes]]:
    images, labels = getattr(found, f"{part}_images"), getattr(found, f"{part}_labels")
    assert isinstance(images, Originals)
    return [(label, images.encoded(k).tobytes()) for k, label in enumerate(labels.tolist())]


@pytest.fixture
def copy(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Of a form, to be changed."""
    return Path(shutil.copytree(PACKED / request.param, tmp_path / "images"))


def files(place: Path) -> list[Path]:
    return sorted(path for ending in ENDINGS for path in place.rglob(ending))


in_all_forms = pytest.mark.parametrize("copy", FORMS, indirect=True)


@pytest.mark.parametrize("form", FORMS)
def test_the_images_are_those_of_class_folders(form: str, tmp_path: Path) -> None:
    found, known = (prepared(PACKED / each, tmp_path / each) for each in (form, "folders"))
    for part in ("train", "test"):
        assert sorted(labelled(found, part)) == sorted(labelled(known, part))
    names = ("0", "1", "2") if form == "webdataset" else CLASSES
    assert found.manifest.classes == names


@in_all_forms
def test_a_damaged_image_is_named_and_can_be_left_out(copy: Path, tmp_path: Path) -> None:
    file = next(
        path for path in files(copy) if part_of(path.relative_to(copy).as_posix()) == "train"
    )
    content = file.read_bytes()
    first = content.index(b"\xff\xd8\xff\xe0")
    file.write_bytes(content[:first] + bytes(3) + content[first + 3 :])
    name = file.relative_to(copy).as_posix()
    with pytest.raises(DataError, match=f"1 of its images cannot be used:\n  {name}/.*begins with"):
        prepared(copy, tmp_path / "out")
    found = prepared(copy, tmp_path / "out", unreadable="skip")
    assert len(found.train_labels) == 8
    assert [skipped.startswith(name) for skipped in found.manifest.skipped] == [True]


@in_all_forms
def test_a_file_that_is_cut_off_is_named(copy: Path, tmp_path: Path) -> None:
    file = files(copy)[0]
    file.write_bytes(file.read_bytes()[: 1_000 if file.suffix == ".tar" else -400])
    with pytest.raises(DataError, match=rf"{file.name} (cannot be read|is no whole)|cut off"):
        prepared(copy, tmp_path / "out")


@in_all_forms
def test_damage_anywhere_raises_nothing_but_a_data_error(copy: Path, tmp_path: Path) -> None:
    draw, file = random.Random(copy.name), files(copy)[0]
    content, refused = file.read_bytes(), 0
    for k in range(20):
        file.write_bytes(damaged(content, draw))
        try:
            prepared(copy, tmp_path / f"out{k}", unreadable="skip")
        except DataError:
            refused += 1
    assert refused


class _Ended(Exception):
    pass


@in_all_forms
def test_what_was_ended_goes_on_within_a_file(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(copy, tmp_path / "undisturbed")
    write, written = sharding.write_shard, []

    def ended(shard: sharding.Shard, *folders: Path) -> sharding.ShardRecord:
        if len(written) == 2:
            raise _Ended
        written.append(shard.name)
        return write(shard, *folders)

    with monkeypatch.context() as patch:
        patch.setattr(preparation, "MOST_CORES", 1)
        patch.setattr(sharding, "write_shard", ended)
        with pytest.raises(_Ended):
            prepared(copy, tmp_path / "out")
    prepared(copy, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


@in_all_forms
def test_a_change_of_a_file_is_noticed(copy: Path, tmp_path: Path) -> None:
    facts = data(copy).data_set
    prepared(copy, tmp_path / "out")
    assert outdated(facts, tmp_path / "out") == ""
    with files(copy)[0].open("ab") as file:
        file.write(b"\0")
    assert "has changed since" in outdated(facts, tmp_path / "out")


@in_all_forms
def test_squares_are_not_made_of_them(copy: Path, tmp_path: Path) -> None:
    facts = Data.model_validate({"name": "mine", "path": str(copy), "stored_size": 8}).data_set
    with pytest.raises(DataError, match="`stored: original` in place of `stored_size`"):
        preparation.prepare(facts, tmp_path / "out", copy)


def table(place: Path, part: str, labels: list[int | None], **how: object) -> None:
    """A table of which nothing is noted, as pyarrow writes it."""
    content = [encoded(picture(k)) for k in range(len(labels))]
    place.mkdir(exist_ok=True)
    columns = {"jpg": pa.array(content, pa.binary()), "label": pa.array(labels, pa.int64())}
    pq.write_table(pa.table(columns), place / f"{part}.parquet", **how)


def test_groups_of_rows_and_chosen_classes(tmp_path: Path) -> None:
    """Rows between the chosen ones are passed over, within a group and by groups."""
    labels = [0, 5, 0, 9, 9, 9, 5, 0, 5, 0, 9]
    for size in (1, 3, 4, 100):
        place = tmp_path / f"by{size}"
        table(place, "train", list(labels), row_group_size=size)
        table(place, "val", [0, 5, 9], row_group_size=size)
        found = prepared(place, tmp_path / f"out{size}", classes=["0", "5"])
        chosen = [k for k, label in enumerate(labels) if label != 9]
        assert found.manifest.classes == ("0", "5")
        assert labelled(found, "train") == [
            (int(labels[k] == 5), encoded(picture(k))) for k in chosen
        ]


@pytest.mark.parametrize(("label", "told"), [(None, "no label"), (-1, "no label")])
def test_images_of_a_table_without_a_label_are_named(
    label: int | None, told: str, tmp_path: Path
) -> None:
    table(tmp_path / "images", "train", [0, 1, label, 0, 1])
    table(tmp_path / "images", "val", [0, 1])
    with pytest.raises(DataError, match=f"  train.parquet/row 2 has {told}"):
        prepared(tmp_path / "images", tmp_path / "out")


def test_a_label_beyond_the_classes_is_named(tmp_path: Path) -> None:
    shutil.copytree(PACKED / "tfds", tmp_path / "images")
    (tmp_path / "images/label.labels.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match=r"n03000684_0\.JPEG has the label 2 of 2 classes"):
        prepared(tmp_path / "images", tmp_path / "out")


def test_examples_without_label_or_image_are_named(tmp_path: Path) -> None:
    for feature, told in (
        ("label", "n01440764_0.JPEG has no label"),
        ("image", "the feature imag"),
    ):
        place = Path(shutil.copytree(PACKED / "tfds", tmp_path / feature))
        file = place / "small-train.tfrecord-00000-of-00001"
        other = f"{feature[:-1]}_".encode()
        file.write_bytes(file.read_bytes().replace(feature.encode(), other))
        with pytest.raises(DataError, match=told):
            prepared(place, tmp_path / "out")


def shard(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"c.jpg": b"x"}, "train-0.tar/c.jpg has no label"),
        ({"c.jpg": b"x", "c.cls": b"cat"}, "c.cls holds b'cat'; expected the number"),
        ({"c.jpg": b"x", "c.png": b"x", "c.cls": b"0"}, "c.jpg and .*c.png are one sample"),
    ],
)
def test_samples_that_are_not_an_image_and_a_class_are_named(
    members: dict[str, bytes], told: str, tmp_path: Path
) -> None:
    samples = {"a.jpg": encoded(picture(0)), "a.cls": b"0", "b/a.jpg": encoded(picture(1))}
    shard(tmp_path / "images/val-0.tar", {**samples, "b/a.cls": b"1"})
    shard(tmp_path / "images/train-0.tar", {**samples, "b/a.cls": b"1\n", **members})
    with pytest.raises(DataError, match=told):
        prepared(tmp_path / "images", tmp_path / "out")


def test_a_table_that_only_names_its_images_is_refused_with_the_way_out(tmp_path: Path) -> None:
    place = tmp_path / "images"
    place.mkdir()
    for part in ("train", "validation"):
        paths = [{"bytes": None, "path": f"/photos/{k}.jpg"} for k in range(2)]
        told = pa.table({"image": paths, "label": [0, 1]})
        column = told["image"].cast(pa.struct({"bytes": pa.binary(), "path": pa.string()}))
        pq.write_table(told.set_column(0, "image", column), place / f"{part}.parquet")
    with pytest.raises(DataError, match=r"names the file /photos/0\.jpg .*`save_to_disk`"):
        prepared(place, tmp_path / "out")


def test_columns_that_may_be_meant_both_are_refused(tmp_path: Path) -> None:
    place = tmp_path / "images"
    table(place, "val", [0, 1])
    columns = {name: pa.array([b"x", b"y"]) for name in ("left", "right")}
    pq.write_table(pa.table({**columns, "label": [0, 1]}), place / "train.parquet")
    with pytest.raises(DataError, match=r"has 2 columns of Image; expected one\. .*left, right"):
        prepared(place, tmp_path / "out")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("a/data-0.tar", "a/data-1.tar"), "found none"),
        (("train-0.tar", "train-1.tar"), "found train"),
        (("train-0.tar", "val-0.tar", "test-0.tar"), "found test, train, val"),
        (("train-0.tar", "val-0.parquet"), "tables and WebDataset shards, which may be"),
    ],
)
def test_files_must_tell_two_parts_in_one_form(
    names: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    with pytest.raises(DataError, match=told):
        prepared(tmp_path / "images", tmp_path / "out")


def test_files_of_one_set_agree_on_its_classes(tmp_path: Path) -> None:
    place = Path(shutil.copytree(PACKED / "parquet", tmp_path / "images"))
    table(place, "train-more", [0, 1, 2])
    with pytest.raises(DataError, match=r"train-more\.parquet in .* have other classes"):
        prepared(place, tmp_path / "out")


def test_class_folders_are_taken_whatever_lies_beside_them(tmp_path: Path) -> None:
    place = Path(shutil.copytree(PACKED / "folders", tmp_path / "images"))
    (tmp_path / "packed/train/.cache").mkdir(parents=True)  # a hidden folder is no class
    shutil.copytree(PACKED / "arrow", tmp_path / "packed", dirs_exist_ok=True)
    assert "packed images" in prepared(tmp_path / "packed", tmp_path / "other").manifest.source
    for part in ("train", "val"):
        (place / f"{part}.tar").touch()
    assert prepared(place, tmp_path / "out").manifest.source == "class folders given by path"


def test_without_pyarrow_a_table_is_refused_with_the_way_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'barlow-atlas\[tables\]'"):
        prepared(PACKED / "arrow", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("imagenet2012-train.tfrecord-00000-of-01024", "train"),
        ("data/validation-00003-of-00014.parquet", "val"),
        ("imagenet1k-validation-07.tar", "val"),
        ("default/test/0000.parquet", "test"),
        ("tested-train/valid_0.tar", "val"),
        ("training.tar", None),
        ("contest-0.tar", None),
    ],
)
def test_the_last_word_for_a_part_tells_it(name: str, part: str | None) -> None:
    assert part_of(name) == part
