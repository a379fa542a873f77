"""What the pages tell of the code is in step with it."""

from pathlib import Path

import pytest

from barlow_atlas.workflow.documentation import (
    PAGES,
    ROOMS,
    DocumentationError,
    derived,
    keys,
    modules,
)
from barlow_atlas.workflow.sources import PACKAGE


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=str)
def test_committed_pages_follow_from_the_code(page: Path) -> None:
    text = page.read_text()
    assert "<!-- derived: " in text
    assert derived(text) == text, "run `make derive`"


def test_each_part_stands_in_a_page() -> None:
    told = "".join(page.read_text() for page in PAGES)
    for part in ("keys", "modules", "graph"):
        assert told.count(f"<!-- derived: {part} -->\n") == 1


def test_what_stands_around_a_part_stays() -> None:
    page = "before\n<!-- derived: modules -->\nold\n<!-- end -->\nafter\n"
    made = f"before\n<!-- derived: modules -->\n\n{modules()}\n<!-- end -->\nafter\n"
    assert derived(page) == made
    assert derived(made) == made


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(DocumentationError, match="no part 'kees'"):
        derived("<!-- derived: kees -->\n<!-- end -->\n")


@pytest.mark.parametrize(
    "row",
    [
        "| `title` | text |  | one line for the report |",
        "| `data` | [Data](#data) |  | Which images, and how many of them. |",
        "| `protocol` | `clean`, `reference` | `clean` |",
        "| `seeds` | list of whole numbers at least 0 |  |",
        "| `fraction` | number above 0 and at most 1 | `1` |",
        "| `stored_size` | whole number above 0 or `null` | none |",
        "| `foreign` | mapping to [Foreign](#foreign) | none |",
        "| `optimizer` | [Adam](#adam) or [SGD](#sgd) or [LARS](#lars) |  |",
        "| `crop_scale` | 2 numbers |  |",
        "| `blur_sigma` | 2 numbers | `[0.1, 2]` |",
        "| `predictor` | [Projector](#projector) | `{hidden: [1024], hidden_bias: true, ",
        "| `objective` | `simclr` |  |  |",
    ],
)
def test_a_key_is_told_with_type_default_and_meaning(row: str) -> None:
    assert f"\n{row}" in keys()


def test_each_model_is_told_once() -> None:
    headings = [line for line in keys().splitlines() if line.startswith("### ")]
    assert headings[:4] == ["### Study", "### Data", "### Recipe", "### Augmentation"]
    assert len(set(headings)) == len(headings)


def test_every_module_is_told_in_its_room() -> None:
    rows = [line for line in modules().splitlines() if line.startswith(("| `", "| **`"))]
    told = [row.partition("`")[2].partition("`")[0] for row in rows]
    files = [file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py")]
    names = [name.removesuffix("__init__.py") for name in files if name != "__init__.py"]
    assert sorted(told) == sorted(names)
    rooms = [name.partition("/")[0].removesuffix(".py") for name in told]
    assert list(dict.fromkeys(rooms)) == list(ROOMS)
    silent = [row for row in rows if "|  |" in row or "****" in row]
    assert silent == [], "modules without a docstring"
