"""A study's figures, tables and page."""

from pathlib import Path

from barlow_atlas.atlas import beside, training
from barlow_atlas.atlas.published import read_published
from barlow_atlas.atlas.stored import HERE, contents, folder_at, reader, training_files
from barlow_atlas.report import figures, page, tables
from barlow_atlas.report.study import drawn_figures, methods_of, study_view, written_tables
from barlow_atlas.study import paths
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import REPORTS, RESULTS


def report(name: str, study: Study, into: Path = HERE) -> None:
    """Draws a study's figures and writes its tables and its page."""
    folder, results = folder_at(into / REPORTS / name), into / RESULTS / name
    table = reader(results)
    title, methods = study.title, methods_of(study)
    epochs = training.read_training(training_files(name, study))
    drawn = {
        "curves": figures.accuracy_curves(title, table("probes"), table("curves"), methods),
        "map": figures.lost_map(title, table("losses"), methods),
        "effects": figures.forest(title, table("effects"), methods),
        "signals": figures.signals(
            title, table("signals"), table("curves"), table("label_free"), methods
        ),
        "dynamics": figures.dynamics(title, table("signals"), epochs, methods),
        "correlations": figures.correlations(title, contents(name, study), methods),
    }
    published = beside.matches(name, study, table("effects"), read_published(paths.PUBLISHED))
    written = {
        "milestones": tables.milestone_table(table("curves"), f"{title}: accuracy by milestone"),
        "effects": tables.effects_table(table("effects"), f"{title}: effects"),
        "label_free": tables.label_free_table(table("label_free"), f"{title}: without labels"),
        "published": tables.beside_table(published, f"{title}: published beside measured"),
        "runs": tables.runs_table(table("runs"), f"{title}: runs"),
    }
    view = study_view(
        name,
        study,
        table,
        drawn_figures(drawn, paths.FIGURES, folder),
        written_tables(written, folder),
    )
    (folder / paths.PAGE).write_text(page.study_page(view))
