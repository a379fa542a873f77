"""docs/findings.md has no number that the committed reports do not have."""

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

FINDINGS = Path("docs/findings.md")
SOURCE = re.compile(r"\]\(([^)]+\.md)\)")
NUMBER = re.compile(r"\d+\.\d+")


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def quoted() -> Iterator[tuple[list[Path], list[list[str]]]]:
    """The page's tables: the reports that are linked in the line above, and the body's rows."""
    before = ""
    for is_table, lines in groupby(
        FINDINGS.read_text().splitlines(), lambda line: line.startswith("|")
    ):
        block = [line for line in lines if line.strip()]
        if is_table:
            files = [FINDINGS.parent / file for file in SOURCE.findall(before)]
            yield files, [cells(row) for row in block[2:]]
        elif block:
            before = block[-1]


def test_every_table_names_its_report() -> None:
    tables = list(quoted())
    assert tables
    for files, _ in tables:
        assert files


@pytest.mark.parametrize(
    ("files", "row"),
    [pytest.param(files, row, id=" ".join(row)[:60]) for files, rows in quoted() for row in rows],
)
def test_every_row_is_in_the_report(files: list[Path], row: list[str]) -> None:
    """Its numbers stand together in one row there."""
    numbers = {cell for cell in row if re.match(r"\W?\d", cell)}
    assert numbers
    there = [
        set(cells(line))
        for file in files
        for line in file.read_text().splitlines()
        if line.startswith("|")
    ]
    assert any(numbers <= found for found in there), sorted(numbers)


def test_the_text_has_no_number_of_its_own() -> None:
    text = FINDINGS.read_text()
    tables = {n for _, rows in quoted() for row in rows for n in NUMBER.findall(" ".join(row))}
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    prose = re.sub(r"\]\([^)]*\)|`[^`]*`|arXiv:\S+", "", prose)
    assert set(NUMBER.findall(prose)) <= tables
