"""Finding official files: the raw folder, mirrors, the authors' server; and what can go wrong."""

import shutil
from pathlib import Path

import pytest
from small_data import flip_a_byte, served, small_cifar, tree, truncate, with_facts_of

from barlow_atlas.data.catalog import CATALOG, DataSet
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.sources import locate


@pytest.fixture
def cifar(tmp_path: Path) -> tuple[DataSet, Path]:
    return small_cifar(tmp_path / "mirror")


def find(data_set: DataSet, raw: Path, *mirrors: object) -> Path:
    return locate(data_set, raw, [str(m) for m in mirrors], lambda _: None)


def test_the_raw_folder_comes_first(cifar: tuple[DataSet, Path], tmp_path: Path) -> None:
    facts, folder = cifar
    raw = tmp_path / "raw"
    shutil.copytree(folder, raw / folder.name)
    assert find(facts, raw, folder.parent) == raw / folder.name


@pytest.mark.parametrize("keep", ["folder", "archive"])
def test_a_mirror_is_used_where_it_is(
    cifar: tuple[DataSet, Path], tmp_path: Path, keep: str
) -> None:
    facts, folder = cifar
    assert facts.archive is not None
    if keep == "archive":
        shutil.rmtree(folder)
    expected = folder if keep == "folder" else folder.parent / facts.archive.name
    raw = tmp_path / "raw"
    assert find(facts, raw, tmp_path / "nothing", folder.parent) == expected
    assert find(facts, raw, folder.parent.as_uri()) == expected
    assert not raw.exists()


def test_nothing_anywhere_lists_every_place_and_the_way_out(
    cifar: tuple[DataSet, Path], tmp_path: Path
) -> None:
    facts, folder = cifar
    raw, empty = tmp_path / "raw", tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError) as caught:
        find(facts, raw, empty, tmp_path / "gone", folder)
    message = str(caught.value)
    assert "small.tar.gz (" in message
    assert facts.archive is not None
    assert facts.archive.md5 in message
    assert f"{raw}: there is no such folder" in message
    assert f"{empty}: neither small-batches-py/ nor small.tar.gz is there" in message
    assert f"{tmp_path / 'gone'}: there is no such folder" in message
    assert "name the folder that holds small-batches-py/, not this one" in message
    assert f"put small.tar.gz into {raw}, or set BARLOW_ATLAS_DATA" in message


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.unlink(), "small-batches-py/data_batch_2 is missing"),
        (truncate, "small-batches-py/data_batch_2 is truncated: .* bytes, expected "),
        (lambda p: p.write_bytes(p.read_bytes() + b"x"), "data_batch_2 is too long"),
        (flip_a_byte, "data_batch_2 has the wrong checksum: md5 [0-9a-f]{32}, expected [0-9a-f]"),
    ],
)
def test_a_damaged_file_is_named(
    cifar: tuple[DataSet, Path],
    tmp_path: Path,
    damage: object,
    message: str,
) -> None:
    facts, folder = cifar
    (folder.parent / "small.tar.gz").unlink()
    damage(folder / "data_batch_2")  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        find(facts, tmp_path / "raw", folder.parent)


@pytest.mark.parametrize(
    ("damage", "message"),
    [(truncate, "small.tar.gz is truncated"), (flip_a_byte, "small.tar.gz has the wrong checksum")],
)
def test_a_damaged_archive_is_named(
    cifar: tuple[DataSet, Path], tmp_path: Path, damage: object, message: str
) -> None:
    facts, folder = cifar
    shutil.rmtree(folder)
    damage(folder.parent / "small.tar.gz")  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        find(facts, tmp_path / "raw", folder.parent)


def test_a_damaged_copy_is_reported_and_the_next_place_used(
    cifar: tuple[DataSet, Path], tmp_path: Path
) -> None:
    facts, folder = cifar
    raw = tmp_path / "raw"
    shutil.copytree(folder, raw / folder.name)
    flip_a_byte(raw / folder.name / "test_batch")
    before = tree(raw)
    lines: list[str] = []
    assert locate(facts, raw, [str(folder.parent)], lines.append) == folder
    assert any("test_batch has the wrong checksum" in line and str(raw) in line for line in lines)
    assert tree(raw) == before


def test_an_http_mirror_with_the_archive(cifar: tuple[DataSet, Path], tmp_path: Path) -> None:
    facts, folder = cifar
    shutil.rmtree(folder)
    raw = tmp_path / "raw"
    with served(folder.parent) as url:
        assert find(facts, raw, f"{url}/") == raw / "small.tar.gz"
    assert tree(raw) == tree(folder.parent)
    # It was kept: nothing is fetched a second time.
    assert find(facts, raw) == raw / "small.tar.gz"


def test_an_http_mirror_with_single_files(cifar: tuple[DataSet, Path], tmp_path: Path) -> None:
    facts, folder = cifar
    (folder.parent / "small.tar.gz").unlink()
    raw = tmp_path / "raw"
    with served(folder.parent) as url:
        assert find(facts, raw, url) == raw / folder.name
    assert tree(raw) == tree(folder.parent)


def test_the_official_server_is_the_last_resort(
    cifar: tuple[DataSet, Path], tmp_path: Path
) -> None:
    facts, folder = cifar
    raw = tmp_path / "raw"
    with served(folder.parent) as url:
        official = with_facts_of(
            facts, folder, folder.parent / "small.tar.gz", url=f"{url}/small.tar.gz"
        )
        assert find(official, raw, tmp_path / "nothing") == raw / "small.tar.gz"
    assert list(tree(raw)) == ["small.tar.gz"]


@pytest.mark.parametrize("fault", ["absent", "flipped", "interrupted", "stopped"])
@pytest.mark.parametrize("as_mirror", [True, False])
def test_what_a_server_hands_out_wrong_is_not_kept(
    cifar: tuple[DataSet, Path], tmp_path: Path, fault: str, as_mirror: bool
) -> None:
    facts, folder = cifar
    archive = folder.parent / "small.tar.gz"
    good = archive.read_bytes()
    shutil.rmtree(folder)
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "unrelated").write_text("stays")
    if fault == "absent":
        archive.unlink()
    if fault == "flipped":
        flip_a_byte(archive)
    with served(folder.parent, interrupted=fault == "interrupted") as running:
        url = "http://127.0.0.1:9" if fault == "stopped" else running
        assert facts.archive is not None
        official = facts.archive.model_copy(
            update={"url": None if as_mirror else f"{url}/small.tar.gz"}
        )
        facts = facts.model_copy(update={"archive": official})
        with pytest.raises(DataError) as caught:
            find(facts, raw, *([url] if as_mirror else []))
    expected = {
        "absent": "HTTP Error 404",
        "flipped": "small.tar.gz has the wrong checksum",
        "interrupted": f"the server broke off at {len(good) // 2:,} of {len(good):,} bytes",
        "stopped": "refused",
    }
    assert expected[fault] in str(caught.value)
    assert url in str(caught.value)
    assert tree(raw) == {"unrelated": b"stays"}
    assert [p.name for p in raw.iterdir()] == ["unrelated"]


def test_a_damaged_download_leaves_an_old_raw_file_as_it_was(
    cifar: tuple[DataSet, Path], tmp_path: Path
) -> None:
    facts, folder = cifar
    shutil.rmtree(folder)
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "small.tar.gz").write_bytes(b"old and wrong")
    with served(folder.parent, interrupted=True) as url, pytest.raises(DataError):
        find(facts, raw, url)
    assert (raw / "small.tar.gz").read_bytes() == b"old and wrong"
    with served(folder.parent) as url:
        assert find(facts, raw, url) == raw / "small.tar.gz"
    assert tree(raw) == tree(folder.parent)


def test_a_raw_folder_that_cannot_be_written_is_one_of_the_findings(
    cifar: tuple[DataSet, Path], tmp_path: Path
) -> None:
    facts, folder = cifar
    (tmp_path / "raw").write_text("a file where the folder should be")
    with served(folder.parent) as url, pytest.raises(DataError) as caught:
        find(facts, tmp_path / "raw", url, tmp_path / "nothing")
    assert "nothing can be downloaded into" in str(caught.value)
    assert f"{tmp_path / 'nothing'}: there is no such folder" in str(caught.value)


def test_a_subset_of_tiny_imagenet_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    (tmp_path / "tiny-imagenet-100/train").mkdir(parents=True)
    facts = CATALOG["tiny-imagenet"]
    assert facts.archive is not None
    offline = facts.model_copy(update={"archive": facts.archive.model_copy(update={"url": None})})
    with pytest.raises(DataError) as caught:
        find(offline, tmp_path / "raw", tmp_path)
    assert "only tiny-imagenet-100: if that is a subset it is another data set" in str(caught.value)
    assert f"path: {tmp_path / 'tiny-imagenet-100'}, stored_size: 64" in str(caught.value)
