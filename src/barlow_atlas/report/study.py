"""What a study's page shows, and the figures and tables that are written beside it."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from barlow_atlas.atlas import ledger
from barlow_atlas.atlas.studies import claims_of
from barlow_atlas.data.catalog import resolve
from barlow_atlas.report import figures, page, tables
from barlow_atlas.study.models import Study

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
        claims=ledger.ledger(claims_of(name, study), {name: table("claims")}),
        runs=table("runs"),
        figures=drawn,
        tables=written,
        command=f"make report STUDY={name}",
        methods=methods_of(study),
    )


def methods_of(study: Study) -> tuple[str, ...]:
    """All methods in the study's order, which decides their colours."""
    return (*study.methods, *study.foreign)


def _data_in_words(study: Study) -> str:
    data = study.data
    title = resolve(data.name, data.path, data.stored_size).title
    share = "" if data.fraction == 1 else f", {100 * data.fraction:g} % of the training images"
    return f"{title}{share}, {study.image_size} x {study.image_size} pixels"


def embedded_figures(
    drawn: Mapping[str, Figure], titles: Mapping[str, str], folder: Path
) -> tuple[page.Figure, ...]:
    """Saves figures, and gives them as a page embeds them."""
    for name, figure in drawn.items():
        figures.save(figure, folder / f"{name}.pdf", folder / f"{name}.png")
    return tuple(
        page.Figure(name, titles[name].capitalize(), CAPTIONS[name], figures.svg(figure, name))
        for name, figure in drawn.items()
    )


def embedded_tables(
    written: Mapping[str, tables.Table], folder: Path
) -> tuple[page.TableView, ...]:
    """Writes tables, and gives them as a page embeds them."""
    for name, table in written.items():
        tables.write(table, folder, name)
    return tuple(
        page.TableView(name, table.title, tables.html(table)) for name, table in written.items()
    )
