"""What is said over all studies."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from barlow_atlas.atlas import beside, curves, frames, ledger, records, runs
from barlow_atlas.atlas.published import (
    Published,
    TableError,
    TableSpec,
    read_published,
    read_tables,
)
from barlow_atlas.atlas.studies import all_entries, all_studies, is_analysed, planned, warn
from barlow_atlas.atomic import write_atomically
from barlow_atlas.report import figures, page, tables
from barlow_atlas.report import ledger as ledger_text
from barlow_atlas.report.answer import answer, overall
from barlow_atlas.report.study import (
    panels_of,
    pictures_of,
    study_view,
    written_figures,
    written_tables,
)
from barlow_atlas.study import paths
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import REPORTS, RESULTS

COMMAND = "python -m barlow_atlas ledger"


def write_ledger(root: Path = Path()) -> None:
    """Writes what is said over all studies: claims, the papers' tables, the first page.

    Reads of a study only what is kept in git: its records, effects and claims. So it says the same
    in a clone in which other studies have not been analysed.

    Args:
        root: below which effects and claims lie and the ledger is written, as `reports/`.

    Raises:
        RecordError: a record is damaged.
        WriteError: a file cannot be written; the old one is as it was.
    """
    folder = root / REPORTS
    studies = all_studies()
    study_tables = tables_of(studies, root)
    told = ledger.ledger(
        all_entries(studies),
        {name: table("claims") for name, table in study_tables.items()},
    )
    write_atomically(folder / "claims.md", ledger_text.markdown(told).encode())
    frames.write_table(told, folder / "claims.csv")
    joined = beside_papers(studies, study_tables)
    written = {
        name: tables.beside_table(rows, spec.title, spec.notes)
        for name, (spec, rows) in joined.items()
    }
    views = [study_view(name, studies[name], table) for name, table in study_tables.items()]
    counted = page.counted(views)
    panels = [panel for view in counted for panel in panels_of(view, titled=True)]
    answers = [answer(view.curves, view.effects) for view in counted]
    verdicts = overall(answers, page.networks(counted))
    drawn = {
        "answer": figures.answer_figure(panels, [(one.question, one.answer) for one in verdicts]),
        "claims": figures.claims_forest(told),
        "published": figures.published(published_values(joined)),
    }
    titles = {
        "answer": "The answer over all studies",
        "claims": "The papers' claims",
        "published": "Published beside measured",
    }
    results = {"answer": " ".join(f"{one.question} {one.answer}" for one in verdicts)}
    shown = written_figures(drawn, titles, results, folder, f"Made by `{COMMAND}`.")
    view = page.IndexView(
        studies=tuple(
            replace(view, pictures=pictures_of(panels_of(view, titled=True))) for view in views
        ),
        claims=told,
        figures=tuple(figure for figure in shown if figure.name != "answer"),
        tables=written_tables(written, folder / "tables"),
        command=COMMAND,
    )
    write_atomically(folder / paths.PAGE, page.index_page(view).encode())


Tables = Mapping[str, Callable[[str], pd.DataFrame]]
"""For each study what gives its table of a name."""


def tables_of(studies: Mapping[str, Study], root: Path = Path()) -> Tables:
    """The tables of all studies that have results here, of what is kept in git of them."""
    return {
        name: _tables(name, study, root / RESULTS / name)
        for name, study in studies.items()
        if is_analysed(name)
    }


def beside_papers(
    studies: Mapping[str, Study], study_tables: Tables
) -> dict[str, tuple[TableSpec, pd.DataFrame]]:
    """Each of the papers' tables by its name, with its rows beside ours."""
    effects_of = {name: table("effects") for name, table in study_tables.items()}
    published = read_published(paths.PUBLISHED)
    return {
        name: (spec, _beside(spec, published, effects_of, studies))
        for name, spec in read_tables(paths.PAPER_TABLES).items()
    }


def _beside(
    spec: TableSpec,
    published: list[Published],
    effects: Mapping[str, pd.DataFrame],
    studies: Mapping[str, Study],
) -> pd.DataFrame:
    """A paper's table without the rows of studies that they do not fit, which are warned of."""
    rows = []
    for row in spec.rows:
        try:
            beside.joined(spec.name, row, published, {}, studies)
            rows.append(row)
        except TableError as error:
            warn(f"{paths.PAPER_TABLES}: a row is left out: {error}")
    fitting = spec.model_copy(update={"rows": tuple(rows)})
    return beside.beside(fitting, published, effects, studies)


def _tables(name: str, study: Study, results: Path) -> Callable[[str], pd.DataFrame]:
    """A study's tables by name, of what is kept in git of it."""
    contents = records.contents(name, study)
    probes = frames.probe_table(contents)
    made = {
        "probes": probes,
        "curves": curves.mean_curves(probes),
        "signals": frames.signal_table(contents),
        "runs": runs.runs_table(planned(study), contents),
        "effects": frames.table_of(results, "effects"),
        "claims": frames.table_of(results, "claims"),
    }
    return made.__getitem__


def published_values(joined: Mapping[str, tuple[TableSpec, pd.DataFrame]]) -> pd.DataFrame:
    """All of these rows as `figures.published` takes them, each published number once a line."""
    rows = pd.concat([rows for _, rows in joined.values()], ignore_index=True)
    line = ["percent", "dataset", "metric", "study", "our_method", "embedding_dim", "variant"]
    rows = rows[rows["percent"] != ""].drop_duplicates(line)
    labels = rows["method"] + ", " + rows["dataset"] + ", " + rows["metric"].str.replace("_", " ")
    return rows.assign(
        label=labels, published=pd.to_numeric(rows["percent"]), estimate=rows["ours"]
    )
