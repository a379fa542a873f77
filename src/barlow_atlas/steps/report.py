"""A study's figures, tables and page."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from barlow_atlas.atlas import beside, frames, records
from barlow_atlas.atlas.published import read_published
from barlow_atlas.atlas.training import training_table
from barlow_atlas.atomic import write_atomically
from barlow_atlas.report import figures, page, tables
from barlow_atlas.report.answer import answer
from barlow_atlas.report.study import (
    methods_of,
    panels_of,
    pictures_of,
    results_of,
    study_view,
    written_figures,
    written_tables,
)
from barlow_atlas.study import paths
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import REPORTS, RESULTS


def report(name: str, study: Study, root: Path = Path()) -> None:
    """Draws a study's figures and writes its tables and its page.

    Args:
        root: below which the results lie and the report is written, as `reports/<study>/`.

    Raises:
        RecordError: a record is damaged.
        WriteError: a file cannot be written; the old one is as it was.
    """
    folder = root / REPORTS / name
    table = partial(frames.table_of, root / RESULTS / name)
    title, methods = study.title, methods_of(study)
    losses = training_table((run, records.recorded(name, run)) for run in study.trained())
    view = study_view(name, study, table)
    results, panels = results_of(view), panels_of(view, titled=False)
    heads = [(one.question, one.answer) for one in answer(view.curves, view.effects).verdicts]
    drawn = {
        "answer": figures.answer_figure(panels, heads),
        "curves": figures.accuracy_curves(title, table("probes"), table("curves"), methods),
        "map": figures.lost_map(title, table("losses"), methods),
        "effects": figures.forest(title, table("effects"), methods),
        "factors": figures.one_factor(title, table("factors"), table("effects"), methods),
        "signals": figures.signals(
            title, table("signals"), table("curves"), table("label_free"), methods
        ),
        "dynamics": figures.dynamics(title, table("signals"), losses, methods),
        "correlations": figures.correlations(title, records.contents(name, study), methods),
    }
    published = beside.matches(name, study, table("effects"), read_published(paths.PUBLISHED))
    written = {
        "milestones": tables.milestone_table(table("curves"), f"{title}: accuracy by milestone"),
        "effects": tables.effects_table(table("effects"), f"{title}: effects"),
        "label_free": tables.label_free_table(table("label_free"), f"{title}: without labels"),
        "published": tables.beside_table(published, f"{title}: published beside measured"),
        "runs": tables.runs_table(table("runs"), f"{title}: runs"),
    }
    made = f"Made by `{view.command}` from runs of {page.provenance(view.runs)['Commits']}."
    shown = written_figures(drawn, paths.FIGURES, results, folder, made)
    full = replace(
        view,
        pictures=pictures_of(panels),
        figures=tuple(figure for figure in shown if figure.name != "answer"),
        tables=written_tables(written, folder),
    )
    write_atomically(folder / paths.PAGE, page.study_page(full).encode())
