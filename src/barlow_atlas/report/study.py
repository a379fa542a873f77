"""What a study's page shows, and the figures and tables that are written beside it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from barlow_atlas.atlas import ledger
from barlow_atlas.atlas.studies import claims_of
from barlow_atlas.atomic import write_atomically
from barlow_atlas.report import figures, page, tables
from barlow_atlas.report.answer import answer
from barlow_atlas.report.figures.panels import Panel, panels
from barlow_atlas.report.objective import loss_course, overfitting
from barlow_atlas.report.text import latex, markdown
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import CAPTION, FIGURE_PAGE

CAPTIONS = {
    "answer": "Accuracy of the frozen features on test images along pre-training, mean over seeds "
    "with 95 % t intervals, and below it Barlow Twins' loss. A bracket is a difference at the end "
    "that is shown, a hatched area a fall that is shown.",
    "curves": "Each panel is one probe. Thick lines are means over seeds, bands their intervals, "
    "thin lines single seeds. Epoch 0 is the untrained network.",
    "map": "Each cell is a milestone after the peak: how much accuracy has been lost since. Each "
    "seed takes its peak from the others' validation curves. Up to the peak cells are blank.",
    "effects": "What is said in numbers, each with its interval: falls after the peak, differences "
    "between methods, trends.",
    "factors": "Each column is a setting, each point a line that differs from its neighbours in "
    "that setting alone. A trend is a row of the effects.",
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
OF_THE_ANSWER = ("answer", "curves", "map", "effects")
"""Figures whose result are the verdicts."""


def study_view(name: str, study: Study, table: Callable[[str], pd.DataFrame]) -> page.StudyView:
    """What a study's page shows, without pictures, figures and tables.

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
        signals=table("signals"),
        effects=table("effects"),
        claims=ledger.ledger(claims_of(name, study), {name: table("claims")}),
        runs=table("runs"),
        pictures=(),
        figures=(),
        tables=(),
        command=f"make report STUDY={name}",
        methods=methods_of(study),
        trainer=study.milestones_from or name,
    )


def panels_of(view: page.StudyView, titled: bool) -> tuple[Panel, ...]:
    """The panels of the answer's figure, with the study's title above each if asked.

    The loss of networks is shown where they were trained.
    """
    return panels(
        view.title if titled else "",
        view.curves,
        view.signals if view.trains else view.signals.iloc[:0],
        answer(view.curves, view.effects),
        view.methods,
    )


def pictures_of(panels: Sequence[Panel]) -> tuple[page.Picture, ...]:
    """Each panel as a drawing of its own, one column wide, with the axes of all of them."""
    return tuple(
        page.Picture(
            figures.svg(figures.answer_figure([panel], beside=panels).figure, f"answer-{place}"),
            f"Accuracy along pre-training. {panel.told()}.",
        )
        for place, panel in enumerate(panels)
    )


def results_of(view: page.StudyView) -> dict[str, str]:
    """What each figure shows, in words: its alternative text."""
    verdicts = answer(view.curves, view.effects).verdicts
    told = " ".join(f"{verdict.question} {verdict.answer}" for verdict in verdicts)
    return {
        **dict.fromkeys(OF_THE_ANSWER, told),
        "dynamics": overfitting(loss_course(view.signals))[1],
    }


def methods_of(study: Study) -> tuple[str, ...]:
    """All methods in the study's order, which decides their colours."""
    return (*study.methods, *study.foreign)


def _data_in_words(study: Study) -> str:
    data = study.data
    title = data.data_set.title
    share = "" if data.fraction == 1 else f", {100 * data.fraction:g} % of the training images"
    return f"{title}{share}, {study.image_size} x {study.image_size} pixels"


def written_figures(
    drawn: Mapping[str, figures.Drawing],
    titles: Mapping[str, str],
    results: Mapping[str, str],
    folder: Path,
    made: str,
) -> tuple[page.Figure, ...]:
    """Saves figures, each with its caption for LaTeX, and all of them on a page of Markdown.

    Args:
        results: what a figure shows, in words; where there is none, its caption says it.
        made: by which command and commits, a line of Markdown.

    Returns:
        The figures as a page shows them.
    """
    shown = tuple(
        page.Figure(
            name,
            f"{titles[name][0].upper()}{titles[name][1:]}",
            caption_of(name, drawing),
            drawing.says or results.get(name) or CAPTIONS[name],
            figures.save(drawing, folder / f"{name}.pdf", folder / f"{name}.png"),
        )
        for name, drawing in drawn.items()
    )
    for figure in shown:
        write_atomically(folder / f"{figure.name}{CAPTION}", f"{latex(figure.caption)}\n".encode())
    write_atomically(folder / FIGURE_PAGE, figure_page(shown, made).encode())
    return shown


def caption_of(name: str, drawing: figures.Drawing) -> str:
    """How a figure is read, then what it rests on; or why there is none."""
    return drawing.says or " ".join(filter(None, (CAPTIONS[name], drawing.caption)))


def figure_page(shown: Sequence[page.Figure], made: str) -> str:
    """The figures with their captions, in Markdown."""
    parts = ["# Figures", f"{made} It makes each as a PDF too, and its caption for LaTeX."]
    for figure in shown:
        parts += [
            f"## {markdown(figure.title)}",
            f"![{markdown(figure.alt)}]({figure.name}.png)",
            markdown(figure.caption),
        ]
    return "\n\n".join(parts) + "\n"


def written_tables(written: Mapping[str, tables.Table], folder: Path) -> tuple[page.TableView, ...]:
    """Writes tables, and gives them as a page embeds them."""
    for name, table in written.items():
        tables.write(table, folder, name)
    return tuple(
        page.TableView(name, table.title, tables.html(table)) for name, table in written.items()
    )
