"""What docs/findings.md quotes stands in the committed reports, and there as what it is here."""

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

FINDINGS = Path("docs/findings.md")
SOURCE = re.compile(r"\]\(([^)]+\.md)\)")
NUMBER = re.compile(r"\d+\.\d+")

Row = dict[str, str]


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def tables(page: Path) -> Iterator[tuple[str, list[Row]]]:
    """The Markdown tables of a page: the line of text above, and the rows by column."""
    above = ""
    for is_table, lines in groupby(
        page.read_text().splitlines(), lambda line: line.startswith("|")
    ):
        block = [line for line in lines if line.strip()]
        if is_table:
            header, _, *body = map(cells, block)
            yield above, [dict(zip(header, row, strict=True)) for row in body]
        elif block:
            above = block[-1]


QUOTED = [
    ([FINDINGS.parent / f for f in SOURCE.findall(above)], r) for above, r in tables(FINDINGS)
]


def test_every_table_names_its_report() -> None:
    assert QUOTED
    for files, _ in QUOTED:
        assert len(files) == 1


@pytest.mark.parametrize(
    ("file", "row"),
    [
        pytest.param(files[0], row, id=" ".join(row.values())[:80])
        for files, rows in QUOTED
        for row in rows
    ],
)
def test_every_row_is_one_of_the_report(file: Path, row: Row) -> None:
    """The page's tables are some rows and columns of the report's."""
    assert any(NUMBER.search(cell) for cell in row.values())
    assert any(row.items() <= there.items() for _, rows in tables(file) for there in rows)


def test_the_text_has_no_number_of_its_own() -> None:
    text = FINDINGS.read_text()
    quoted = {
        n for _, rows in QUOTED for row in rows for n in NUMBER.findall(" ".join(row.values()))
    }
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    prose = re.sub(r"\]\([^)]*\)|`[^`]*`|arXiv:\S+", "", prose)
    assert set(NUMBER.findall(prose)) <= quoted
