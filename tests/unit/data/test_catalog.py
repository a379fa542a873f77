"""The catalogue's facts, and what importing it costs."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from barlow_atlas.data.catalog import CATALOG, Counts, class_folder, resolve
from barlow_atlas.data.choice import Data
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.sources import parse_mirrors


@pytest.mark.parametrize("module", ["barlow_atlas.data.catalog", "barlow_atlas.data"])
def test_planning_loads_nothing_heavy(module: str) -> None:
    script = (
        f"import sys, {module}; "
        "print(sorted({'torch', 'torchvision', 'numpy', 'sklearn', 'PIL'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "classes", "size", "counts"),
    [
        ("digits", 10, 8, Counts(train=1438, test=359)),
        ("cifar10", 10, 32, Counts(train=50_000, test=10_000)),
        ("cifar100", 100, 32, Counts(train=50_000, test=10_000)),
        ("tiny-imagenet", 200, 64, Counts(train=100_000, test=10_000)),
        ("stl10", 10, 96, Counts(train=5_000, test=8_000, unlabeled=100_000)),
    ],
)
def test_facts(name: str, classes: int, size: int, counts: Counts) -> None:
    facts = CATALOG[name]
    assert (facts.name, facts.classes, facts.image_size, facts.counts) == (
        name,
        classes,
        size,
        counts,
    )
    assert len(CATALOG) == 5


@pytest.mark.parametrize(
    ("name", "theirs"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100"), ("stl10", "STL10")]
)
def test_checksums_and_urls_are_those_of_torchvision(name: str, theirs: str) -> None:
    import torchvision

    official = getattr(torchvision.datasets, theirs)
    sums = dict(map(tuple, official.train_list + official.test_list))
    if name != "stl10":
        sums[official.meta["filename"]] = official.meta["md5"]
    facts = CATALOG[name]
    assert {f.name: f.md5 for f in facts.files} == sums
    assert facts.archive is not None
    assert facts.archive.md5 == official.tgz_md5
    assert (facts.archive.name, facts.archive.folder, facts.archive.url) == (
        official.filename,
        official.base_folder,
        official.url,
    )


def test_sizes_of_stl10_follow_from_its_counts() -> None:
    facts = CATALOG["stl10"]
    for file in facts.files:
        count = getattr(facts.counts, file.part)
        assert file.size == count * (3 * 96 * 96 if file.name.endswith("X.bin") else 1)


def test_a_study_names_a_data_set() -> None:
    assert resolve("cifar10") is CATALOG["cifar10"]
    own = class_folder("my-images", "somewhere/images", 48)
    assert (own.name, own.path, own.image_size) == ("my-images", "somewhere/images", 48)
    assert own.classes is None
    assert own.counts is None


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"cifar11.*digits, cifar10, cifar100, tiny-imagenet, stl10"
    ):
        resolve("cifar11")
    with pytest.raises(DataError, match="published data set CIFAR-10, which takes no path"):
        class_folder("cifar10", "folder", 32)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "mine", "path": "folder"}, "either `stored_size` or `stored: original`"),
        (
            {"name": "mine", "path": "folder", "stored_size": 8, "stored": "original"},
            "either `stored_size` or `stored: original`",
        ),
        ({"name": "mine", "stored_size": 32}, "stored_size belongs to a data set given by `path`"),
        ({"name": "cifar10", "stored": "original"}, "stored belongs to .* given by `path`"),
        (
            {"name": "mine", "path": "folder", "stored_size": 8, "unreadable": "skip"},
            "unreadable belongs to `stored: original`",
        ),
        (
            {"name": "mine", "path": "folder", "stored": "original", "classes": ["a", "a"]},
            "each name once",
        ),
    ],
)
def test_a_study_says_how_images_of_its_own_are_stored(
    data: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        Data.model_validate(data)


def test_what_a_study_does_not_say_leaves_no_trace_in_its_runs() -> None:
    data = Data.model_validate({"name": "mine", "path": "folder", "stored_size": 8})
    assert data.model_dump_json() == (
        '{"name":"mine","path":"folder","stored_size":8,"fraction":1.0}'
    )
    facts = data.data_set.model_dump_json()
    assert "class_names" not in facts
    assert "unreadable" not in facts


@pytest.mark.parametrize("name", ["raw", "../outside", "a/b", "", "Mine", ".hidden"])
def test_a_name_is_a_folder_below_the_results(name: str) -> None:
    with pytest.raises(ValidationError, match="cannot be a data set's name"):
        class_folder(name, "folder", 32)


@pytest.mark.parametrize(
    ("text", "mirrors"),
    [
        ("", ()),
        ("/data", ("/data",)),
        ("/data:relative/folder:", ("/data", "relative/folder")),
        ("http://cache:8000/sets:/data", ("http://cache:8000/sets", "/data")),
        ("/data:https://host.example/a", ("/data", "https://host.example/a")),
        ("http://host:http://other:81", ("http://host", "http://other:81")),
        ("file:///data/mirror:/data", ("file:///data/mirror", "/data")),
        ("http://[::1]:80/x:/data", ("http://[::1]:80/x", "/data")),
        (" /with space/x : /y ", ("/with space/x", "/y")),
    ],
)
def test_parse_mirrors(text: str, mirrors: tuple[str, ...]) -> None:
    assert parse_mirrors(text) == mirrors
