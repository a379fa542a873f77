"""The paper: a PDF from the committed records, every number of which has a row behind it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from page_views import StudyView, falling, rising, simulated, view_of
from pypdf import PdfReader
from pypdf.generic import DictionaryObject

from barlow_atlas.report import figures
from barlow_atlas.report.answer import Answer, answer
from barlow_atlas.tools import paper
from barlow_atlas.tools.paper import PAPER, PaperError, text, write_paper


@pytest.fixture(scope="module")
def study() -> tuple[StudyView, Answer]:
    view = view_of(simulated({"bt": falling, "mix": rising}))
    return view, answer(view.curves, view.effects)


def test_every_sentence_finds_its_row(study: tuple[StudyView, Answer]) -> None:
    view, told = study
    for finding in told.probes[0].all:
        assert text.sourced(finding, view.effects) == finding.text
    for verdict in told.verdicts:
        assert text.sourced(verdict, view.effects) == verdict.answer


def test_a_sentence_without_its_row_is_refused(study: tuple[StudyView, Answer]) -> None:
    view, told = study
    (finding, *_) = told.probes[0].lines
    gone = view.effects[view.effects["statistic"] != finding.source[0]]
    with pytest.raises(PaperError, match="found 0 rows"):
        text.sourced(finding, gone)
    twice = pd.concat([view.effects, view.effects])
    with pytest.raises(PaperError, match="found 2 rows"):
        text.sourced(finding, twice)
    later = view.effects.assign(high=view.effects["high"] + 0.01)
    with pytest.raises(PaperError, match=r"no source for: From peak to end"):
        text.sourced(told.verdicts[0], later)


def test_a_number_that_no_row_has_is_refused(study: tuple[StudyView, Answer]) -> None:
    view, told = study
    said = replace(told.probes[0].lines[0], text="It falls by 12.34 points.")
    with pytest.raises(PaperError, match=r"no source for 12\.34"):
        text.sourced(said, view.effects)
    with pytest.raises(PaperError, match=r"no source for 12\.34"):
        text.sourced(replace(told.verdicts[0], text="by 12.34 points"), view.effects)


def test_the_template_has_no_number_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = text._environment(pd.DataFrame())
    template = (text.HERE / text.TEMPLATE).read_text()
    assert list(text.own_numbers(environment, template)) == []
    typed = template.replace("\\section{Results}", "\\section{Results}\nIt gains\n1.24 points.")
    line = template[: template.index("\\section{Results}")].count("\n") + 3
    assert list(text.own_numbers(environment, typed)) == [(line, "1.24")]
    (tmp_path / text.TEMPLATE).write_text(typed)
    monkeypatch.setattr(text, "HERE", tmp_path)
    with pytest.raises(PaperError, match=rf"line {line}: '1\.24' has no source"):
        text.paper({}, pd.DataFrame())


def test_a_figure_of_runs_without_a_commit_is_refused(study: tuple[StudyView, Answer]) -> None:
    view, _ = study
    drawing = figures.accuracy_curves("T", view.probes, view.curves)
    shown = paper._shown(drawing, [view], "curves", "figures/curves.py", of=view)
    assert shown.commits
    nameless = replace(view, runs=view.runs.assign(commit=None))
    with pytest.raises(PaperError, match=r"figure curves has no source.*names the commit"):
        paper._shown(drawing, [nameless], "curves", "figures/curves.py", of=view)


def test_without_latex_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PaperError, match="apt-get install texlive-latex-base"):
        write_paper()


def fonts_of(reader: PdfReader) -> Iterator[DictionaryObject]:
    """All simple fonts of a document, and those that composite ones are made of."""
    for number in range(1, reader.trailer["/Size"]):
        found = reader.get_object(number)
        is_font = isinstance(found, DictionaryObject) and found.get("/Type") == "/Font"
        if is_font and found["/Subtype"] != "/Type0":
            yield found


@pytest.mark.slow
def test_the_paper_of_the_committed_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, at most ten pages, fonts embedded, both answers in it, every mark leads somewhere."""
    if shutil.which("pdflatex") is None:
        if os.environ.get("CI"):
            pytest.fail("pdflatex is missing: install texlive-latex-base, -recommended, lmodern")
        pytest.skip("pdflatex is missing (Debian: texlive-latex-recommended, lmodern)")
    for name in ("results", "CITATION.cff"):
        (tmp_path / name).symlink_to(Path(name).resolve())
    assert write_paper(tmp_path) == tmp_path / PAPER
    reader = PdfReader(tmp_path / PAPER, strict=True)
    assert 4 <= len(reader.pages) <= 10
    fonts = list(fonts_of(reader))
    assert len(fonts) > 5
    for font in fonts:
        descriptor = font["/FontDescriptor"].get_object()
        assert {"/FontFile", "/FontFile2", "/FontFile3"} & set(descriptor), font["/BaseFont"]
    words = " ".join(" ".join(page.extract_text() for page in reader.pages).split())
    for said in ("Does Barlow Twins fall after its peak?", "Does Mixed Barlow Twins end higher?"):
        assert said in words
    assert "demo" not in words, "an example is not counted"
    assert not re.search(r"\?\?|\[\?\]", words), "no reference leads nowhere"
    marks = {
        str(link.get_object()["/A"]["/D"])
        for page in reader.pages
        for link in page.get("/Annots", ())
        if "/D" in link.get_object().get("/A", ())
    }
    marks = {mark for mark in marks if mark.startswith("from-")}
    assert {"from-answer-cifar10-small", "from-published"} < marks <= set(reader.named_destinations)
