"""The documentation names tests, files and links that exist."""

import re
from pathlib import Path

import pytest

from barlow_atlas.study.file import load_study

PLUGIN = Path("packages/snakemake-executor-plugin-submitit")
DOCS = sorted(
    [Path("README.md"), Path("CONTRIBUTING.md"), *Path("docs").glob("*.md"), *PLUGIN.rglob("*.md")]
)
TESTS: dict[str, str] = {}
for file in sorted(
    [*Path("tests").rglob("test_*.py"), *PLUGIN.rglob("test_*.py")]
):  # a name may stand in two folders
    TESTS[file.name] = TESTS.get(file.name, "") + file.read_text()


@pytest.mark.parametrize("path", DOCS, ids=str)
def test_named_tests_exist(path: Path) -> None:
    """`test_x.py::test_y`, and `::test_y` for another test of the file named before it."""
    text = path.read_text()
    file = None
    for name, test in re.findall(r"(test_\w+(?:\.py)?)?::(test_\w+)", text):
        file = (name if name.endswith(".py") else f"{name}.py") if name else file
        assert file in TESTS, f"{path}: {file}"
        assert f"def {test}(" in TESTS[file], f"{path}: {file}::{test}"
    for name in re.findall(r"test_\w+\.py", text):
        assert name in TESTS, f"{path}: {name}"


@pytest.mark.parametrize("path", DOCS, ids=str)
def test_relative_links_lead_somewhere(path: Path) -> None:
    for target, place in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", path.read_text()):
        if "://" not in target:
            file = path.parent / target if target else path
            assert file.exists(), f"{path}: {target}"
            assert not place or place in anchors(file), f"{path}: {target}#{place}"


def anchors(page: Path) -> set[str]:
    """What the headings of a page can be linked by, as GitHub names them."""
    headings = re.findall(r"(?m)^#+ (.*)", page.read_text())
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def test_the_index_leads_to_every_page() -> None:
    linked = re.findall(r"\]\(([a-z]+\.md)\)", Path("docs/README.md").read_text())
    pages = {page.name for page in Path("docs").glob("*.md")} - {"README.md"}
    assert set(linked) == pages


def test_the_first_study_of_the_readme_is_one(tmp_path: Path) -> None:
    """Ten lines that build on the demo."""
    [study] = re.findall(r"```yaml\n(.*?)```", Path("README.md").read_text(), flags=re.S)
    assert len(study.splitlines()) <= 10
    for name, text in (("demo", Path("params/demo.yaml").read_text()), ("first", study)):
        (tmp_path / f"{name}.yaml").write_text(text)
    runs = load_study(tmp_path / "first.yaml").runs()
    assert [(run.method, run.seed) for run in runs] == [
        ("bt", 1),
        ("bt", 2),
        ("light", 1),
        ("light", 2),
    ]


def test_the_readme_is_a_screen_or_two() -> None:
    assert len(Path("README.md").read_text().splitlines()) <= 80
