"""From stored probe files to everything that is shown; and whether what is stored is just that.

The steps after `probe`. Each reads what lies in the repository and writes below `into`, which is
the repository itself unless `differences` makes everything anew elsewhere. What they write follows
from committed files alone: neither the day nor the machine nor the present commit shows in it.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from barlow_atlas import paths
from barlow_atlas.atlas import beside, curves, effects, frames, ledger, lines, runs, training
from barlow_atlas.claims import Entry, entries, load_claims
from barlow_atlas.data.catalog import resolve
from barlow_atlas.paths import PARAMS, REPORTS, RESULTS, probe_file
from barlow_atlas.published import read_published, read_tables
from barlow_atlas.report import figures, page, tables
from barlow_atlas.report import ledger as ledger_text
from barlow_atlas.study import Study, StudyError, find_studies, load_study, study_file

HERE = Path()
DIGITS = "%.6g"
"""Of derived numbers: more than any interval needs, fewer than rounding errors reach."""
CAPTIONS = {
    "curves": "Each panel is one probe. Thick lines are means over seeds, bands their intervals, "
    "thin lines single seeds. Epoch 0 is the untrained network.",
    "map": "Each cell is a milestone: how much accuracy has been lost since the peak, which each "
    "seed takes from the others' validation curves. Before the peak, what is still to come.",
    "effects": "What is said in numbers, each with its interval: falls after the peak, differences "
    "between methods, trends.",
    "signals": "What could be known without labels, against what the probe says. Lines follow the "
    "milestones from the untrained network (open) to the end (filled).",
    "dynamics": "Both terms of the Barlow Twins loss and their sum, on images of the pre-training "
    "and on held-out ones, computed alike for all methods.",
    "correlations": "Correlations between the embeddings of two views of held-out images. Barlow "
    "Twins asks for the identity.",
    "claims": "All claims that have been tested, with the interval and the smallest effect of "
    "interest.",
    "published": "Published numbers beside ours, where ours have been measured.",
}


def collect(name: str, study: Study, into: Path = HERE) -> list[Path]:
    """Gathers the probe files that are here into tidy tables.

    Returns:
        The probe files that are missing.

    Raises:
        StudyError: none is here.
    """
    contents = _contents(name, study)
    if not contents:
        raise StudyError(
            f"no probe file of {name} is here, so there is nothing to report. Run "
            f"`snakemake --profile profiles/local --config study={name} -- all`"
        )
    results = _folder(into / RESULTS / name)
    frames.probe_table(contents).to_csv(results / "probes.csv", index=False)
    frames.signal_table(contents).to_csv(results / "signals.csv", index=False)
    made = runs.runs_table(planned(study), contents)
    made.to_csv(results / "runs.csv", index=False, float_format=DIGITS)
    return [file for file in _probe_files(name, study) if not file.is_file()]


def analyse(name: str, study: Study, into: Path = HERE) -> None:
    """Computes a study's curves, effects and claims, with their intervals."""
    results = into / RESULTS / name
    mean = curves.mean_curves(pd.read_csv(results / "probes.csv"))
    found = lines.read_lines(_contents(name, study), planned(study))
    computed = {
        "curves.csv": mean,
        "accuracy.csv": curves.accuracy_columns(mean),
        "effects.csv": effects.effects(found),
        "losses.csv": effects.losses(found),
        "label_free.csv": effects.label_free(found),
        "claims.csv": ledger.study_claims(_claims_of(name), found),
    }
    for file, table in computed.items():
        table.to_csv(results / file, index=False, float_format=DIGITS)
    headline = json.dumps(curves.headline(mean), indent=1)
    (results / "metrics.json").write_text(f"{headline}\n")


def report(name: str, study: Study, into: Path = HERE) -> None:
    """Draws a study's figures and writes its tables and its page."""
    folder, results = _folder(into / REPORTS / name), into / RESULTS / name
    table = _reader(results)
    title, methods = study.title, _methods(study)
    epochs = training.read_training(_training_files(name, study))
    drawn = {
        "curves": figures.accuracy_curves(title, table("probes"), table("curves"), methods),
        "map": figures.lost_map(title, table("losses"), methods),
        "effects": figures.forest(title, table("effects"), methods),
        "signals": figures.signals(
            title, table("signals"), table("curves"), table("label_free"), methods
        ),
        "dynamics": figures.dynamics(title, table("signals"), epochs, methods),
        "correlations": figures.correlations(title, _contents(name, study), methods),
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
        name, study, table, _drawn(drawn, paths.FIGURES, folder), _written(written, folder)
    )
    (folder / paths.PAGE).write_text(page.study_page(view))


def write_ledger(into: Path = HERE) -> None:
    """Writes what is said over all studies: claims, the papers' tables, the first page."""
    folder = _folder(into / REPORTS)
    studies = all_studies()
    found = {
        name: _reader(into / RESULTS / name)
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
        figures=_drawn(drawn, titles, folder),
        tables=_written(written, _folder(folder / "tables")),
        command="python -m barlow_atlas ledger",
    )
    (folder / paths.PAGE).write_text(page.index_page(view))


def study_view(
    name: str,
    study: Study,
    table: Callable[[str], pd.DataFrame],
    drawn: tuple[page.Figure, ...] = (),
    written: tuple[page.TableView, ...] = (),
) -> page.StudyView:
    """What a study's page shows.

    Claims are judged one by one there: Holm's correction is over the whole ledger.

    Args:
        table: gives the study's table of a name, such as "effects".
    """
    return page.StudyView(
        name=name,
        title=study.title,
        protocol=study.protocol,
        data=_data_in_words(study),
        curves=table("curves"),
        probes=table("probes"),
        effects=table("effects"),
        claims=ledger.ledger(_claims_of(name), {name: table("claims")}),
        runs=table("runs"),
        figures=drawn,
        tables=written,
        command=f"make report STUDY={name}",
        methods=_methods(study),
    )


def differences(names: list[str]) -> Iterator[tuple[Path, str]]:
    """Makes the tables, figures and pages of studies anew from their probe files, and compares.

    Over all studies, with none named, the ledger too.

    Yields:
        Each file that was made, and what is wrong with the stored one: "" if it is the same to the
        byte, else "differs" or "is not here".
    """
    with TemporaryDirectory() as folder:
        made = Path(folder)
        for name in names or analysed():
            study = load_study(study_file(PARAMS, name))
            for step in (collect, analyse, report):
                step(name, study, made)
        if not names:
            write_ledger(made)
        for file in sorted(path for path in made.rglob("*") if path.is_file()):
            stored = file.relative_to(made)
            if not stored.is_file():
                yield stored, "is not here"
            else:
                yield stored, "" if stored.read_bytes() == file.read_bytes() else "differs"


def analysed() -> list[str]:
    """The studies that have tables here."""
    return [name for name in find_studies(PARAMS) if (RESULTS / name / "claims.csv").is_file()]


def all_studies() -> dict[str, Study]:
    """Every study there is, by name."""
    return {name: load_study(path) for name, path in find_studies(PARAMS).items()}


def planned(study: Study) -> dict[str, tuple[int, ...]]:
    """The milestones that each run of a study is to have."""
    return {run.name: study.milestones_of(run) for run in study.runs()}


def _claims_of(name: str) -> list[Entry]:
    """The ledger's entries about a study, checked against all studies there are."""
    return [
        entry for entry in entries(load_claims(paths.CLAIMS), all_studies()) if entry.study == name
    ]


def _methods(study: Study) -> tuple[str, ...]:
    return (*study.methods, *study.foreign)


def _data_in_words(study: Study) -> str:
    data = study.data
    title = resolve(data.name, data.path, data.stored_size).title
    share = "" if data.fraction == 1 else f", {100 * data.fraction:g} % of the training images"
    return f"{title}{share}, {study.image_size} x {study.image_size} pixels"


def _probe_files(name: str, study: Study) -> list[Path]:
    return [
        probe_file(name, run, epoch) for run in study.runs() for epoch in study.milestones_of(run)
    ]


def _contents(name: str, study: Study) -> list[dict[str, Any]]:
    return frames.read_contents(file for file in _probe_files(name, study) if file.is_file())


def _training_files(name: str, study: Study) -> Iterator[tuple[Any, Path]]:
    for run in study.trained():
        folder = paths.of_run("training", name, run.name)
        for epoch in study.milestones_of(run):
            file = paths.milestone_path(folder, epoch, ".jsonl")
            if file.is_file():
                yield run, file


def _for_figure(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `beside` as `figures.published` takes them, each published number once a line."""
    line = ["percent", "dataset", "metric", "study", "our_method", "embedding_dim", "variant"]
    rows = rows[rows["percent"] != ""].drop_duplicates(line)
    labels = rows["method"] + ", " + rows["dataset"] + ", " + rows["metric"].str.replace("_", " ")
    return rows.assign(
        label=labels, published=pd.to_numeric(rows["percent"]), estimate=rows["ours"]
    )


def _reader(results: Path) -> Callable[[str], pd.DataFrame]:
    """Reads a study's tables by name; texts that are empty stay texts."""
    return lambda name: frames.read_table(results / f"{name}.csv")


def _drawn(
    drawn: Mapping[str, Figure], titles: Mapping[str, str], folder: Path
) -> tuple[page.Figure, ...]:
    """Saves figures, and gives them as a page embeds them."""
    for name, figure in drawn.items():
        figures.save(figure, folder / f"{name}.pdf", folder / f"{name}.png")
    return tuple(
        page.Figure(name, titles[name].capitalize(), CAPTIONS[name], figures.svg(figure, name))
        for name, figure in drawn.items()
    )


def _written(written: Mapping[str, tables.Table], folder: Path) -> tuple[page.TableView, ...]:
    """Writes tables, and gives them as a page embeds them."""
    for name, table in written.items():
        tables.write(table, folder, name)
    return tuple(
        page.TableView(name, table.title, tables.html(table)) for name, table in written.items()
    )


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
