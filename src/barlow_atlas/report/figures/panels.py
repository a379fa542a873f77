"""What the figure of the answer shows: a panel for each study and embedding width."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from barlow_atlas.atlas.curves import peak_epoch
from barlow_atlas.atlas.frames import LINE
from barlow_atlas.report.answer import (
    ENDS_HIGHER,
    Answer,
    Measured,
    method_name,
    points,
)
from barlow_atlas.report.figures.curves import asked_methods, basis
from barlow_atlas.report.figures.palette import Look, looks
from barlow_atlas.report.objective import loss_course
from barlow_atlas.report.text import probe_order, probe_words


@dataclass(frozen=True)
class Course:
    """One line of a panel.

    Attributes:
        name: of the method, in full.
        accuracy: mean over seeds, columns `epoch`, `mean`, `low`, `high`, in percent.
        loss: columns `epoch`, `mean`, `held_out`; may have no rows.
        fell_from: epoch of the peak, where a fall is shown.
    """

    name: str
    look: Look
    accuracy: pd.DataFrame
    loss: pd.DataFrame
    fell_from: int | None


@dataclass(frozen=True)
class Panel:
    """A study at one width.

    Attributes:
        study: its title; empty where it stands above the panels already.
        width: of the embedding in words, where the study has several.
        basis: protocol, seeds, probe and settings, in sentences.
        gap: the first line's last accuracy minus the second's, where an interval excludes 0.
    """

    study: str
    width: str
    courses: tuple[Course, ...]
    basis: str
    gap: Measured | None

    @property
    def title(self) -> str:
        """What stands above it; may be empty."""
        return ", ".join(filter(None, (self.study, self.width)))

    def told(self) -> str:
        """The result, for those who do not see the figure."""
        ends = [f"{c.name} {points(c.accuracy['mean'].iloc[-1])} %" for c in self.courses]
        where = f"{self.title}: " if self.title else ""
        fell = [c.name for c in self.courses if c.fell_from is not None]
        last = f"; {' and '.join(fell)} after a fall" if fell else ""
        return f"{where}at the end {', '.join(ends)}{last}"


def panels(
    title: str,
    curves: pd.DataFrame,
    signals: pd.DataFrame,
    answer: Answer,
    methods: Sequence[str],
) -> tuple[Panel, ...]:
    """The panels of a study, by its main probe: Barlow Twins and Mixed Barlow Twins at each width.

    A study without these two shows its first few methods.

    Args:
        title: above all of them; may be empty.
        curves, signals: columns of curves.csv and signals.csv, of one study.
        answer: to the study's questions.
        methods: as in `palette.looks`.
    """
    test = curves[(curves["split"] == "test") & (curves["metric"] == "top1")]
    if test.empty:
        return ()
    probe, variant = min(
        zip(test["probe"], test["variant"], strict=True), key=lambda p: probe_order(p[0])
    )
    of_probe = curves[(curves["probe"] == probe) & (curves["variant"] == variant)]
    shown = asked_methods(of_probe, methods)
    of_probe = of_probe[of_probe["method"].isin(shown)]
    drawn = looks(zip(of_probe["method"], of_probe["embedding_dim"], strict=True), methods)
    losses = loss_course(signals)
    fallen = {f.source[2:] for f in answer.probes[0].lines if f.kind == "falls"}
    gaps = {
        finding.source[2 + LINE.index("embedding_dim")]: finding.effect
        for verdict in answer.verdicts
        for finding in verdict.findings
        if verdict.question == ENDS_HIGHER and finding.kind in ("higher", "lower")
    }
    told = " ".join([f"Seen by: {probe_words(probe, variant)}.", *basis(of_probe)])
    widths = sorted(of_probe["embedding_dim"].unique())
    return tuple(
        Panel(
            title,
            f"d = {dim}" if dim and len(widths) > 1 else "",
            tuple(
                _course(rows, losses, drawn, line in fallen)
                for line, rows in of_probe[of_probe["embedding_dim"] == dim].groupby(
                    [*LINE], sort=True
                )
            ),
            told,
            gaps.get(dim),
        )
        for dim in widths
    )


def _course(
    rows: pd.DataFrame, losses: pd.DataFrame, drawn: dict[tuple[str, int], Look], fell: bool
) -> Course:
    method, dim = str(rows["method"].iloc[0]), int(rows["embedding_dim"].iloc[0])
    top1 = rows[rows["metric"] == "top1"].sort_values("epoch")
    of_line = (losses["method"] == method) & (losses["embedding_dim"] == dim)
    return Course(
        method_name(method, str(rows["objective"].iloc[0])),
        drawn[method, dim],
        top1[top1["split"] == "test"],
        losses[of_line & (losses["epoch"] > 0)],
        peak_epoch(top1[top1["split"] == "validation"]) if fell else None,
    )
