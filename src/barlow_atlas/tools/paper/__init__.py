"""A paper in one command: `make paper` writes reports/paper.pdf from the records of the runs.

The text is a template (`paper.tex.j2`), in which every number is filled in; figures are drawn anew,
so that they are those of the records too. See docs/reports.md.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from barlow_atlas.atlas import ledger
from barlow_atlas.atlas.curves import CONFIDENCE
from barlow_atlas.atlas.ledger import NOT_RUN, VERDICTS
from barlow_atlas.atlas.studies import all_entries, all_studies
from barlow_atlas.atomic import write_atomically
from barlow_atlas.report import figures, page, tables
from barlow_atlas.report.answer import NEGLIGIBLE, Answer, Finding, answer, overall
from barlow_atlas.report.figures.curves import asked_methods
from barlow_atlas.report.objective import loss_course, overfitting
from barlow_atlas.report.study import caption_of, panels_of, study_view
from barlow_atlas.report.tables import Column, Table
from barlow_atlas.steps.ledger import beside_papers, published_values, tables_of
from barlow_atlas.study.paths import REPORTS
from barlow_atlas.tools.export.citation import read_citation
from barlow_atlas.tools.paper.text import HERE, PaperError, Tex, paper

__all__ = ["PAPER", "PaperError", "write_paper"]

PAPER = REPORTS / "paper.pdf"
COMMAND = "make paper"
STATISTICS = ("drop_from_best", "difference_last")
"""Effects of the paper's tables; those of the page have all."""
PASSES = 3
"""Of LaTeX, after which references and links stand."""


@dataclass(frozen=True)
class Shown:
    """A figure of the paper.

    Attributes:
        label: of its file and of references to it.
        file: of the report that has the same figure.
        code: that draws it.
        command: that makes the report.
        commits: of the runs that it shows.
    """

    label: str
    title: str
    drawing: figures.Drawing
    caption: str
    file: Path
    code: str
    command: str
    commits: str

    @property
    def in_column(self) -> bool:
        return float(self.drawing.figure.get_size_inches()[0]) <= figures.COLUMN


@dataclass(frozen=True)
class Section:
    """What the paper says of a study.

    Attributes:
        findings: by the main probe, of the methods that the figure shows.
        further: the other methods, of which the report says more.
    """

    view: page.StudyView
    answer: Answer
    role: str
    objective: str
    shown: Shown
    made: dict[str, str]
    findings: list[Finding]
    further: list[str]


def write_paper(root: Path = Path()) -> Path:
    """Writes reports/paper.pdf, over all studies that the answer rests on.

    Args:
        root: below which effects and claims lie and the paper is written.

    Raises:
        PaperError: no LaTeX, a number or figure without a source, or no study to write about.
        RecordError: a record is damaged.
        CitationError: CITATION.cff lacks something.
    """
    pdflatex = shutil.which("pdflatex")
    if pdflatex is None:
        raise PaperError(
            "pdflatex is not on the path. Install LaTeX; on Debian: apt-get install "
            "texlive-latex-base texlive-latex-recommended lmodern"
        )
    text, drawn = _written(root)
    with TemporaryDirectory() as made:
        folder = Path(made)
        shutil.copy(HERE / "preamble.tex", folder)
        (folder / "paper.tex").write_text(text, encoding="utf-8")
        for label, drawing in drawn.items():
            (folder / f"{label}.pdf").write_bytes(figures.in_pdf(drawing))
        _typeset(pdflatex, folder)
        write_atomically(root / PAPER, (folder / "paper.pdf").read_bytes())
    return root / PAPER


def _typeset(pdflatex: str, folder: Path) -> None:
    for _ in range(PASSES):
        done = subprocess.run(
            [pdflatex, "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
            cwd=folder,
            env={**os.environ, "SOURCE_DATE_EPOCH": "0"},
            capture_output=True,
            check=False,
        )
        log = (folder / "paper.log").read_text(encoding="latin-1")
        if done.returncode:
            last = "\n".join(log.splitlines()[-30:])
            raise PaperError(f"pdflatex stopped at {folder / 'paper.tex'}. Its log ends:\n{last}")
    if wanting := re.findall(r"LaTeX Warning: (?:Reference|Citation) .* undefined", log):
        raise PaperError(f"the paper refers to what it has not: {'; '.join(wanting)}")


def _written(root: Path) -> tuple[str, dict[str, figures.Drawing]]:
    """The paper's text, and its figures by label."""
    studies = all_studies()
    study_tables = tables_of(studies, root)
    told = ledger.ledger(
        all_entries(studies), {name: table("claims") for name, table in study_tables.items()}
    )
    views = {name: study_view(name, studies[name], table) for name, table in study_tables.items()}
    counted = {view.name: view for view in page.counted(list(views.values()))}
    if not counted:
        raise PaperError("no study but examples has results here: there is nothing to write about")
    claims = told[told["role"] != "example"]
    sections = [_section(view) for view in counted.values()]
    counted_tables = {name: table for name, table in study_tables.items() if name in counted}
    published = _shown(
        figures.published(published_values(beside_papers(studies, counted_tables))),
        list(counted.values()),
        "published",
        "figures/comparison.py",
    )
    shown = [*(each.shown for each in sections), published]
    run = claims[claims["verdict"] != NOT_RUN]
    effects = pd.concat([view.effects for view in counted.values()], ignore_index=True)
    content = {
        "citation": read_citation(root / "CITATION.cff"),
        "verdicts": overall(
            [each.answer for each in sections], page.networks(list(counted.values()))
        ),
        "objective": page.most_overfitting(list(counted.values())),
        "rests_on": "; ".join(dict.fromkeys(f"{e.answer.rests_on}; {e.role}" for e in sections)),
        "protocols": list(dict.fromkeys(view.protocol for view in counted.values())),
        "confidence": round(100 * CONFIDENCE),
        "negligible": NEGLIGIBLE,
        "published": published,
        "studies": sections,
        "tested": len(run),
        "counts": {v: n for v in VERDICTS if (n := int((run["verdict"] == v).sum()))},
        "waiting": list(dict.fromkeys(claims[claims["verdict"] == NOT_RUN]["study"])),
        "missing": [
            f"{view.title}: {len(missing)} of {len(view.runs)} runs are not whole."
            for view in counted.values()
            if (missing := page.missing_runs(view.runs))
        ],
        "command": COMMAND,
        "sources": shown,
        "tables": [Tex(tables.latex(table)) for table in _tables(counted, claims)],
    }
    return paper(content, effects), {one.label: one.drawing for one in shown}


def _section(view: page.StudyView) -> Section:
    panels = panels_of(view, titled=False)
    drawing = figures.answer_figure(panels)
    told = answer(view.curves, view.effects)
    names = {course.name for panel in panels for course in panel.courses}
    shown = asked_methods(view.curves, view.methods)
    return Section(
        view,
        told,
        page.role_of(view),
        overfitting(loss_course(view.signals))[1],
        _shown(drawing, [view], "answer", "figures/answer.py", of=view),
        page.provenance(view.runs),
        [finding for finding in told.probes[0].all if finding.method in names],
        [name for name in dict.fromkeys(view.curves["method"]) if name not in shown],
    )


def _shown(
    drawing: figures.Drawing,
    views: Sequence[page.StudyView],
    name: str,
    code: str,
    of: page.StudyView | None = None,
) -> Shown:
    """A figure with all that says where it is from.

    Args:
        views: of the studies whose runs it shows.
        name: of its file in the report.
        of: the study whose report has it; None for that over all studies.

    Raises:
        PaperError: the runs that it shows name no commit.
    """
    commits = sorted(
        {
            commit[:10]
            for view in views
            for text in view.runs["commit"].dropna()
            for commit in str(text).split("; ")
        }
    )
    if not commits:
        raise PaperError(
            f"the figure {name} has no source: no run of {', '.join(v.name for v in views)} names "
            "the commit that made it. Expected a commit in results/STUDY/runs/*.jsonl"
        )
    return Shown(
        f"{name}-{of.name.replace('/', '-')}" if of else name,
        f"{name.capitalize()}, {of.title}" if of else name.capitalize(),
        drawing,
        caption_of(name, drawing),
        (REPORTS / of.name if of else REPORTS) / f"{name}.pdf",
        f"src/barlow_atlas/report/{code}",
        of.command if of else "python -m barlow_atlas ledger",
        ", ".join(commits),
    )


def _tables(counted: dict[str, page.StudyView], claims: pd.DataFrame) -> list[Table]:
    return [
        *(
            tables.effects_table(_asked_effects(view), f"{view.title}: effects")
            for view in counted.values()
        ),
        _claims(claims),
    ]


def _asked_effects(view: page.StudyView) -> pd.DataFrame:
    """Of the methods that the study's figure shows."""
    methods = asked_methods(view.curves, view.methods)
    effects = view.effects
    return effects[
        effects["statistic"].isin(STATISTICS)
        & effects["method"].isin(methods)
        & effects["against"].fillna("").isin(["", *methods])
    ]


def _claims(claims: pd.DataFrame) -> Table:
    """Claims by studies: how many rows have which verdict."""
    matrix = page.claim_matrix(claims)
    rows: list[dict[str, Any]] = []
    for claim, (text, _) in matrix.claims.items():
        cells = {
            study: ", ".join(
                f"{count} {verdict}"
                for verdict in VERDICTS
                if (count := sum(row["verdict"] == verdict for row in of_study))
            )
            for study, of_study in matrix.cells[claim].items()
        }
        rows.append({"claim": text, **cells})
    columns = [Column("claim", "claim"), *(Column(study, study) for study in matrix.studies)]
    frame = pd.DataFrame(rows, columns=[column.name for column in columns])
    return Table("The papers' claims: rows of the ledger by verdict", tuple(columns), frame)
