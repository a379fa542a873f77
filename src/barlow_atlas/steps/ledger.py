"""What is said over all studies."""

from pathlib import Path

import pandas as pd

from barlow_atlas.atlas import beside, ledger
from barlow_atlas.atlas.claims import entries, load_claims
from barlow_atlas.atlas.published import read_published, read_tables
from barlow_atlas.atlas.stored import DIGITS, HERE, all_studies, folder_at, reader
from barlow_atlas.report import figures, page, tables
from barlow_atlas.report import ledger as ledger_text
from barlow_atlas.report.study import drawn_figures, study_view, written_tables
from barlow_atlas.study import paths
from barlow_atlas.study.paths import REPORTS, RESULTS


def write_ledger(into: Path = HERE) -> None:
    """Writes what is said over all studies: claims, the papers' tables, the first page."""
    folder = folder_at(into / REPORTS)
    studies = all_studies()
    found = {
        name: reader(into / RESULTS / name)
        for name in studies
        if (into / RESULTS / name / "claims.csv").is_file()
    }
    told = ledger.ledger(
        entries(load_claims(paths.CLAIMS), studies),
        {name: table("claims") for name, table in found.items()},
    )
    (folder / "claims.md").write_text(ledger_text.markdown(told))
    told.to_csv(folder / "claims.csv", index=False, float_format=DIGITS)
    effects_of = {name: table("effects") for name, table in found.items()}
    published = read_published(paths.PUBLISHED)
    joined = {
        spec: (of_paper, beside.beside(of_paper, published, effects_of, studies))
        for spec, of_paper in read_tables(paths.PAPER_TABLES).items()
    }
    written = {
        name: tables.beside_table(rows, spec.title, spec.notes)
        for name, (spec, rows) in joined.items()
    }
    every_row = pd.concat([rows for _, rows in joined.values()], ignore_index=True)
    drawn = {
        "claims": figures.claims_forest(told),
        "published": figures.published(_for_figure(every_row)),
    }
    titles = {"claims": "The papers' claims", "published": "Published beside measured"}
    view = page.IndexView(
        studies=tuple(study_view(name, studies[name], table) for name, table in found.items()),
        claims=told,
        figures=drawn_figures(drawn, titles, folder),
        tables=written_tables(written, folder_at(folder / "tables")),
        command="python -m barlow_atlas ledger",
    )
    (folder / paths.PAGE).write_text(page.index_page(view))


def _for_figure(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `beside` as `figures.published` takes them, each published number once a line."""
    line = ["percent", "dataset", "metric", "study", "our_method", "embedding_dim", "variant"]
    rows = rows[rows["percent"] != ""].drop_duplicates(line)
    labels = rows["method"] + ", " + rows["dataset"] + ", " + rows["metric"].str.replace("_", " ")
    return rows.assign(
        label=labels, published=pd.to_numeric(rows["percent"]), estimate=rows["ours"]
    )
