"""One table, four forms: each says the same, and none is broken by what stands in it."""

import csv
import io
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from markdown_it import MarkdownIt

from barlow_atlas.atlas import effects as atlas_effects
from barlow_atlas.atlas import records
from barlow_atlas.atlas.beside import COLUMNS, beside
from barlow_atlas.atlas.curves import mean_curves
from barlow_atlas.atlas.frames import LINE, probe_table
from barlow_atlas.atlas.lines import read_lines
from barlow_atlas.atlas.published import read_published, read_tables
from barlow_atlas.atlas.runs import RUN_COLUMNS, runs_table
from barlow_atlas.report import tables, text
from barlow_atlas.report.tables import Column, Table
from barlow_atlas.study.file import find_studies, load_study
from barlow_atlas.study.paths import PARAMS

PDFLATEX = shutil.which("pdflatex")
LATIN_1 = " ".join(chr(code) for code in range(0xA1, 0x100) if code != 0xAD)  # a soft hyphen
HOSTILE = [
    "& % $ # _ { } ~ ^ \\ < > | \" ' ` *",
    "<script>alert(1)</script> & </table></caption> &lt; &#60;",
    "\\input{/etc/passwd} \\end{tabular} $x_1^2$ $$ \\\\[3cm] %",
    "a | b\n| c |\r\n--- | ---\n\n# not a title",
    "[1](javascript:x) ![i](x) [^1] [a]: b **bold** __bold__ ~~gone~~ `code` | $m$ <b>",
    "- [ ] no box",
    "[x] no box",
    "--- -- ,, ?` !` << >> '' ``",
    "7. no list",
    "+ no list",
    "*starts",
    "[starts",
    "äöüß ± − × ≤ ≥ → ∞ α λ – — ‘a’ “b” …",  # noqa: RUF001
    LATIN_1,
    "中 \U0001f600 \x00\x07\u200b e\u0301 \u0141",
]


def demo() -> dict[str, Table]:
    study = load_study(PARAMS / "demo.yaml")
    planned = {run.name: study.milestones_of(run) for run in study.runs()}
    contents = records.contents("demo", study)
    lines = read_lines(contents, planned)
    return {
        "milestones": tables.milestone_table(mean_curves(probe_table(contents)), study.title),
        "effects": tables.effects_table(atlas_effects.effects(lines), study.title),
        "label_free": tables.label_free_table(atlas_effects.label_free(lines), study.title),
        "runs": tables.runs_table(runs_table(planned, contents), study.title),
    }


def of_papers() -> dict[str, Table]:
    studies = {name: load_study(path) for name, path in find_studies(PARAMS).items()}
    published = read_published(PARAMS / "published.csv")
    line = {"statistic": "last", "method": "mix", "embedding_dim": 1024, "probe": "linear"}
    line |= {"variant": "standard", "estimate": 61.25, "low": 60.0, "high": 62.5, "n": 6}
    found = {"cifar10-small": pd.DataFrame([line])}
    return {
        name: tables.beside_table(beside(spec, published, found, studies), spec.title, spec.notes)
        for name, spec in read_tables(PARAMS / "tables.yaml").items()
    }


@pytest.fixture(scope="module")
def real() -> dict[str, Table]:
    return demo() | of_papers()


def hostile() -> Table:
    rows = pd.DataFrame({"what": HOSTILE, "value": range(len(HOSTILE)), "other": HOSTILE[::-1]})
    columns = (
        Column("what", HOSTILE[0]),
        Column("value", HOSTILE[2], decimals=1),
        Column("other", HOSTILE[3]),
    )
    return Table(HOSTILE[1], columns, rows, tuple(HOSTILE))


class Page(HTMLParser):
    """A table's caption and cells as a browser's parser sees them, and all tags there are."""

    def __init__(self, fragment: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[list[str]] = []
        self.sort: list[list[str | None]] = []
        self.caption, self.notes, self.inside = "", [], ""
        self.summaries: list[str] = []
        self.feed(fragment)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "tr":
            self.cells.append([])
            self.sort.append([])
        elif tag in ("td", "th"):
            self.cells[-1].append("")
            self.sort[-1].append(dict(attrs).get("data-sort"))
        elif tag == "li":
            self.notes.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside in ("td", "th", "span"):
            self.cells[-1][-1] += data
        elif self.inside == "summary":
            self.summaries.append(data)
        elif self.inside == "caption":
            self.caption += data
        elif self.inside == "li":
            self.notes[-1] += data


def shown(table: Table) -> list[list[str]]:
    return [[text.plain(column.header) for column in table.columns], *table.cells()]


@pytest.mark.parametrize("make", [hostile, lambda: demo()["effects"]])
def test_html_reads_back_the_same_cells(make: Callable[[], Table]) -> None:
    table = make()
    page = Page(tables.html(table))
    assert [[text.plain(cell) for cell in row] for row in page.cells] == shown(table)
    assert page.caption == text.plain(table.title)
    assert page.notes == [text.plain(note) for note in table.notes]
    allowed = {"table", "caption", "thead", "tbody", "tr", "th", "td", "ul", "li"}
    allowed |= {"details", "summary", "span", "div"}
    assert {tag for tag, _ in page.tags} <= allowed
    assert not any("style" in attributes or "onclick" in attributes for _, attributes in page.tags)
    heads = [attributes for tag, attributes in page.tags if tag == "th"]
    assert [head["scope"] for head in heads].count("col") == len(table.columns)
    assert [head["scope"] for head in heads].count("row") == len(table.rows)


def test_long_cells_unfold_on_a_page() -> None:
    said = "2000 epochs there, 600 here; 100 % of the images there, 5 % of them here & no more"
    rows = pd.DataFrame({"a": ["x", "y", "z"], "b": [said, "short", "W" * 99]})
    page = Page(tables.html(Table("T", (Column("a", "a"), Column("b", "b")), rows)))
    assert page.cells[1:] == [["x", said], ["y", "short"], ["z", "W" * 99]]
    assert page.summaries == [
        "2000 epochs there, 600 here; 100 % of the images there, 5 % …",
        f"{'W' * tables.LONG} …",
    ]


def test_html_sorts_by_the_raw_value() -> None:
    rows = pd.DataFrame({"a": ["x", "y", "z"], "b": [1.23456, float("nan"), float("inf")]})
    table = Table("T", (Column("a", "a"), Column("b", "b", decimals=1)), rows)
    page = Page(tables.html(table))
    assert [row[1] for row in page.cells[1:]] == ["1.2", "", "∞"]
    assert [row[1] for row in page.sort[1:]] == ["1.23456", None, "Infinity"]


def rendered(markdown: str) -> Page:
    return Page(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown))


def test_markdown_renders_as_one_table_with_the_same_cells() -> None:
    table = hostile()
    source = tables.markdown(table)
    page = rendered(source)
    assert [[text.plain(cell) for cell in row] for row in page.cells] == shown(table)
    assert page.notes == [text.plain(note) for note in table.notes]
    names = [tag for tag, _ in page.tags]
    assert names.count("table") == names.count("ul") == names.count("strong") == 1
    assert not {"a", "img", "script", "em", "code", "s", "ol", "h1", "hr", "b"} & set(names)
    assert not re.search(r"^- \[", source, re.MULTILINE), "GitHub would make it a check box"


def test_csv_reads_back_with_all_raw_columns(real: dict[str, Table]) -> None:
    content = tables.csv(hostile())
    assert list(csv.DictReader(io.StringIO(content, newline=""))) == [
        {"what": what, "value": str(place), "other": other}
        for place, (what, other) in enumerate(zip(HOSTILE, HOSTILE[::-1], strict=True))
    ]
    for table in real.values():
        content = tables.csv(table)
        assert "\r" not in content
        back = pd.read_csv(io.StringIO(content))
        assert len(back) == len(table.rows)
        assert set(back.columns) == set(table.rows.columns) - set(table.wording)
        for name in back.select_dtypes("float"):
            raw = pd.to_numeric(table.rows[name].replace("", None)).astype(float)
            assert back[name].to_numpy() == pytest.approx(raw.to_numpy(), rel=1e-5, nan_ok=True)


def test_real_tables_say_the_same_in_all_forms(real: dict[str, Table], tmp_path: Path) -> None:
    for name, table in real.items():
        files = tables.write(table, tmp_path, name)
        assert [file.name for file in files] == [f"{name}.{end}" for end in tables.ENDINGS]
        assert Page(tables.html(table)).cells == shown(table)
        page = rendered((tmp_path / f"{name}.md").read_text(encoding="utf-8"))
        assert page.cells == shown(table)
        again = {file: file.read_bytes() for file in files}
        tables.write(table, tmp_path, name)
        assert again == {file: file.read_bytes() for file in files}


def test_latex_compiles(real: dict[str, Table], tmp_path: Path) -> None:
    """Every real table and a hostile one; nothing sticks out of the page."""
    if PDFLATEX is None:
        if os.environ.get("CI"):
            pytest.fail("pdflatex is missing: install texlive-latex-base and -recommended")
        pytest.skip("pdflatex is missing (Debian: texlive-latex-base, texlive-latex-recommended)")
    long = hostile()
    again = Table(long.title, long.columns, pd.concat([long.rows] * 9), long.notes)
    inputs = []
    for name, table in {**real, "hostile": long, "long": again}.items():
        tables.write(table, tmp_path, name)
        inputs.append(f"\\input{{{name}.tex}}\\clearpage\n")
    needed = {line for name in real for line in _packages(tmp_path / f"{name}.tex")}
    (tmp_path / "all.tex").write_text(
        "\\documentclass[a4paper]{article}\\usepackage[margin=2.5cm]{geometry}\n"
        f"{''.join(sorted(needed))}\\begin{{document}}{''.join(inputs)}\\end{{document}}"
    )
    done = subprocess.run(
        [PDFLATEX, "-interaction=nonstopmode", "-halt-on-error", "-draftmode", "all.tex"],
        cwd=tmp_path,
        capture_output=True,
        timeout=300,
        check=False,
    )
    log = (tmp_path / "all.log").read_text(encoding="latin-1")
    assert done.returncode == 0, log[-3000:]
    assert not re.findall(r"(?:Overfull \\hbox|Float too large).*|LaTeX Warning: .*", log)


def _packages(file: Path) -> list[str]:
    """What the comment of a table says that it needs."""
    first = file.read_text(encoding="utf-8").partition("\n")[0]
    assert first.startswith("% Needs ")
    return re.findall(r"\\usepackage(?:\[\w+\])?\{[\w,]+\}", first)


def test_latex_has_the_text_and_no_command_of_it() -> None:
    assert text.latex("a_1 & 50 % \\input{x} $") == (r"a\_1 \& 50 \% \textbackslash{}input\{x\} \$")
    assert text.latex("a\n\nb") == "a b"
    assert text.latex("--") == "-{}-"
    assert text.latex("中e\u0301") == "{[}U+4E2D]é"


@pytest.mark.parametrize(
    ("seconds", "said"), [(3.21, "3.2 s"), (90, "90 s"), (130, "2.17 min"), (1e6, "11.6 d")]
)
def test_durations_in_words(seconds: float, said: str) -> None:
    assert text.duration(seconds) == said


CURVES = {
    **{"study": "s", "objective": "o_1", "embedding_dim": 64, "epochs": 10, "protocol": "clean"},
    **{"probe": "knn", "variant": "v", "setting": "v, all of it", "split": "test"},
    "metric": "top1",
}


def curves(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame([CURVES | {"method": "bt", "seeds": 3} | row for row in rows])


def test_milestones_have_a_mean_and_half_of_its_interval() -> None:
    table = tables.milestone_table(
        curves(
            {"epoch": 0, "mean": 30.0, "low": 29.0, "high": 31.0},
            {"epoch": 10, "mean": 57.0, "low": 54.516, "high": 59.484},
            {"epoch": 10, "mean": 99.0, "low": 98.0, "high": 100.0, "metric": "top5"},
            {"epoch": 10, "mean": 98.0, "low": 97.0, "high": 99.0, "split": "validation"},
            {"epoch": 0, "mean": 31.0, "low": 30.0, "high": 32.0, "method": "mix"},
        ),
        "Title & more",
    )
    assert shown(table) == [
        ["method", "0", "10"],
        ["bt", "30.00 ± 1.00", "57.00 ± 2.48"],
        ["mix", "31.00 ± 1.00", ""],
    ]
    assert "In all rows: width 64, epochs 10, protocol clean, probe knn, variant v, seeds 3." in (
        table.notes
    )
    assert {"bt: o_1", "mix: o_1", "v: v, all of it"} <= set(table.notes)
    assert table.rows["10 high"].iloc[0] == 59.484


def test_a_trunk_has_no_end_and_imported_weights_no_width() -> None:
    curves = pd.DataFrame(
        [
            {**dict.fromkeys([*LINE, "metric", "split"], "x"), "split": "test", "metric": "top1"}
            | {"method": name, "embedding_dim": dim, "epochs": epochs, "epoch": 40, "seeds": 2}
            | {"mean": 50.0, "low": 49.0, "high": 51.0}
            for name, dim, epochs in (("bt", 256, 40), ("cooled", 256, 0), ("theirs", 0, 40))
        ]
    )
    table = tables.milestone_table(curves, "T")
    shown = {column.name: column for column in table.columns}
    cells = [
        [shown[name].cell(row) for name in ("method", "embedding_dim", "epochs")]
        for row in table.rows.to_dict("records")
    ]
    assert cells == [["bt", "256", "40"], ["cooled", "256", ""], ["theirs", "", "40"]]


def test_a_single_seed_has_no_interval() -> None:
    nan = float("nan")
    table = tables.milestone_table(
        curves({"epoch": 0, "mean": 30.0, "low": nan, "high": nan, "seeds": 1}), "T"
    )
    assert table.cells() == [["bt", "30.00"]]


def test_numbers_are_shown_with_sign_interval_and_without_a_negative_zero() -> None:
    column = Column("x", "x", decimals=1, interval=("low", "high"), signed=True)
    assert column.cell({"x": -1.26, "low": -2.0, "high": 0.04}) == "−1.3 [−2.0, 0.0]"  # noqa: RUF001
    assert column.cell({"x": 1.26, "low": float("nan"), "high": 2.0}) == "+1.3"
    assert column.cell({"x": -0.04, "low": None, "high": None}) == "0.0"
    assert Column("x", "x", number=True).cell({"x": 3.0}) == "3"
    assert Column("x", "x", number=True).cell({"x": "90.50"}) == "90.50"


def test_tables_without_rows_keep_their_columns(tmp_path: Path) -> None:
    empty = {
        "milestones": tables.milestone_table(
            curves().reindex(columns=[*CURVES, "method", "seeds", "epoch", "mean", "low", "high"]),
            "T",
        ),
        "effects": tables.effects_table(atlas_effects.effects([]), "T"),
        "label_free": tables.label_free_table(atlas_effects.label_free([]), "T"),
        "runs": tables.runs_table(pd.DataFrame(columns=RUN_COLUMNS), "T"),
        "published": tables.beside_table(pd.DataFrame(columns=COLUMNS), "T"),
    }
    for name, table in empty.items():
        tables.write(table, tmp_path, name)
        assert table.cells() == []
        assert tables.EMPTY in tables.html(table)
        assert len(pd.read_csv(tmp_path / f"{name}.csv")) == 0


def test_a_run_says_what_is_missing() -> None:
    done = {"run": "a", "milestones": 6, "planned": 6, "seconds": 3720.0, "commit": "0123456789ab"}
    part = {"run": "b", "milestones": 4, "planned": 6, "missing": "300 400", "seconds": 40.0}
    none = {"run": "c", "planned": 6}
    rows = pd.DataFrame(
        [done | {"changed": True}, part | {"changed": False}, none], columns=RUN_COLUMNS
    )
    cells = pd.DataFrame(tables.runs_table(rows, "T").cells(), columns=[*"abcde"])
    assert cells["b"].tolist() == ["6 of 6", "4 of 6", "0 of 6"]
    assert cells["c"].tolist() == ["", "300 400", ""]
    assert cells["d"].tolist() == ["62 min", "40 s", ""]
    assert cells["e"].tolist() == ["0123456789, changed", "", ""]


def test_published_beside_measured_says_what_it_compares(real: dict[str, Table]) -> None:
    table = real["small-data"]
    heads = [column.header for column in table.columns]
    (row,) = (row for row in table.cells() if row[heads.index("n")])
    assert row[heads.index("published, %")] == "92.58"
    assert row[heads.index("ours, %")] == "61.25 [60.00, 62.50]"
    assert row[heads.index("difference")] == "−31.33 [−32.58, −30.08]"  # noqa: RUF001
    assert "600 epochs (published 2000)" in row[heads.index("what differs in ours")]
    assert any("unknown uncertainty" in note for note in table.notes)
    for row in table.cells():
        source = row[heads.index("source")]
        assert not source or any(note.startswith(f"{source} ") for note in table.notes)


def test_further_published_columns_stand_beside_the_first(real: dict[str, Table]) -> None:
    table = real["methods"]
    heads = [column.header for column in table.columns]
    found = {
        (row[0], row[1], row[2]): [row[heads.index(f"{name}, %")] for name in names]
        for names in [("solo-learn", "lightly")]
        for row in table.cells()
    }
    assert found["Barlow Twins", "CIFAR-10", "linear_top1"] == ["92.10", ""]
    assert found["SwAV", "CIFAR-10", "knn5_top1"] == ["", "88.4"]
    assert any(note.startswith("solo-learn: solo-learn (JMLR 23:56)") for note in table.notes)


def test_the_papers_tables_have_the_published_numbers() -> None:
    """Each number stands in published.csv with that source."""
    with (PARAMS / "published.csv").open(encoding="utf-8", newline="") as file:
        known = {
            (row["paper"], row["table"], row["dataset"], row["metric"], row["value"], row["source"])
            for row in csv.DictReader(file)
        }
    keys = ("paper", "paper_table", "dataset", "metric", "published", "source")
    for table in of_papers().values():
        found = csv.DictReader(io.StringIO(tables.csv(table), newline=""))
        rows = [row for row in found if row["paper"]]
        assert rows
        assert {tuple(row[key] for key in keys) for row in rows} <= known
