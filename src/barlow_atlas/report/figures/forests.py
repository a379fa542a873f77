"""Effects and claims with their intervals."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from barlow_atlas.atlas.claims import claimed_set
from barlow_atlas.atlas.ledger import NOT_RUN, VERDICTS
from barlow_atlas.report.figures.canvas import (
    SMALL,
    TIMES,
    WIDTH,
    Drawing,
    clean,
    heading,
    number_of,
    plain,
    probe_name,
    rows_of,
    sheet,
    sign,
    style,
    told,
    wrap,
)
from barlow_atlas.report.figures.curves import protocols, settings
from barlow_atlas.report.figures.palette import GREY, INK, Look, line_label, looks, ordered
from barlow_atlas.report.text import MINUS

EFFECTS = "Effects with 95 % intervals"
CLAIMS = "The papers' claims: effects, intervals and verdicts"
GROUPS = {
    "drop": "Drop from the peak to the end",
    "difference_drop": "Difference of drops (above 0: falls more)",
    "difference_last": "Difference at the end (above 0: ends higher)",
    "trend_drop": "Drop, per doubling of a setting",
    "trend_last": "Accuracy at the end, per doubling of a setting",
    "area_lost": "Area lost after the peak",
    "onset": "Onset of the fall",
}
"""The statistics that are drawn, in this order."""
FROM_BEST = [f"{name}_from_best" for name in GROUPS if "drop" in name]
"""Those that have a second interval: seeds and images may fail to show which milestone is best."""
COLUMNS = 3
ROW = 0.165
MANY = 2
"""Differences for each line, above which only those with the first method are drawn."""
NEUTRAL = Look(INK, "D")
SIGNS = {
    "reproduced": ("✓", "#0072B2"),
    "contradicted": ("≠", INK),
    "inconclusive": ("?", GREY),
}
HOLDS, BAND = "#D6E8F3", "#BDBDBD"
AROUND, PAGE = 0.55, 8.8
"""Inches that a claim's panel needs around it, and that a page has for panels."""
HOW = (
    "95 % intervals for new seeds and new test images; of rank correlations and signals, for new "
    "seeds on these images. Blue: values for which the claim holds. Grey: effects smaller than the "
    "smallest one of interest. A claim is reproduced if its whole interval lies in the blue, "
    "contradicted if it lies outside of it, else inconclusive. Claims without a number, such as "
    "those not yet run, are left out."
)
LABEL, GAP = 3.2, 0.4
"""A claim's label: its width in inches, and the room around it in lines."""


@dataclass(frozen=True)
class Row:
    """A row of a forest: its label and what finds it in the frame; a heading has no key."""

    label: str
    key: tuple[str, str, int, str] | None = None


@style()
def forest(title: str, effects: pd.DataFrame, methods: Sequence[str] = ()) -> Drawing:
    """Drops, differences and trends of a study, a column for each probe, a panel for each unit.

    Filled marks have an interval, open ones have none. An arrow leaves the panel: the interval, or
    for an onset the number itself, has no end.

    Args:
        effects: columns `statistic`, `unit`, `frames.LINE`, `against`, `estimate`, `low`, `high`,
            `n`; statistics that are not in `GROUPS` are passed over.
        methods: as in `palette.looks`.
    """
    effects = effects.assign(against=effects["against"].fillna("").astype(str))
    drawn = effects[effects["statistic"].isin([*GROUPS, *FROM_BEST])]
    drawn = drawn.dropna(subset=["estimate"])
    single = [name for name in drawn["method"].unique() if " + " not in name]
    order = ordered(single, methods)
    present = [method for method in order if method in single]
    differences = drawn["statistic"].str.startswith("difference")
    compared = drawn[differences][["method", "embedding_dim", "against"]].drop_duplicates()
    lines_of = drawn[drawn["method"].isin(present)][["method", "embedding_dim"]].drop_duplicates()
    crowded = len(compared) > MANY * len(lines_of)
    if crowded:
        away = differences & (drawn["method"] != present[0])
        drawn = drawn[~away | (drawn["against"] == present[0])]
    if drawn.empty:
        return plain(
            EFFECTS,
            title,
            "Nothing to draw: drops need validation images and finished runs, differences need two "
            "methods at one width, trends need lines that differ in one setting.",
        )
    lines = {
        (method, dim): look
        for (method, dim), look in looks(
            zip(effects["method"], effects["embedding_dim"], strict=True), methods
        ).items()
        if method in single
    }
    probes = [probe for _, probe in drawn.groupby(["probe", "variant", "setting"], sort=True)]
    named = drawn[drawn["statistic"].isin(GROUPS)]
    units = list(dict.fromkeys(named.sort_values("statistic", key=_place)["unit"]))
    columns = min(len(probes), COLUMNS)
    chunks = [probes[start : start + columns] for start in range(0, len(probes), columns)]
    blocks = [
        (chunk, unit, _rows(pd.concat(chunk), unit, order)) for chunk in chunks for unit in units
    ]
    blocks = [block for block in blocks if block[2]]
    figure, axes = sheet(
        EFFECTS,
        title,
        [ROW * len(rows) for _, _, rows in blocks],
        columns,
        around=0.55,
        sharex=True,
    )
    for (chunk, unit, rows), panels in zip(blocks, axes, strict=True):
        shown = pd.concat(chunk)
        limits = _limits(shown[shown["unit"] == unit])
        for place, axis in enumerate(panels):
            if place >= len(chunk):
                axis.remove()
                continue
            _effects(axis, chunk[place], unit, rows, lines, limits)
            if place:
                axis.tick_params(labelleft=False)
            kind, variant = (str(chunk[place][key].iloc[0]) for key in ("probe", "variant"))
            if unit == units[0]:
                below = wrap(variant, SMALL, (WIDTH - 2.4) / columns - 0.1)
                heading(axis, probe_name(kind, variant), below)
    return Drawing(figure, told(_caption(drawn, crowded and present[0])))


def _place(statistics: pd.Series) -> pd.Series:
    return statistics.map(list(GROUPS).index)


def _rows(effects: pd.DataFrame, unit: str, order: Sequence[str]) -> list[Row]:
    """The rows of one unit's panel: under each statistic's heading its effects."""
    rows: list[Row] = []
    panel = effects[effects["unit"] == unit]
    for statistic, group in GROUPS.items():
        keys = {
            (statistic, row.method, row.embedding_dim, row.against)
            for row in rows_of(panel[panel["statistic"] == statistic])
        }
        rows += [Row(group)] if keys else []
        for key in sorted(keys, key=lambda key: (_method_place(key[1], order), key[2], key[3])):
            rows.append(Row(_label(key) + _counted(panel[_is(panel, key)]["n"], effects["n"]), key))
    return rows


def _counted(counts: pd.Series, all_counts: pd.Series) -> str:
    """A row's number of seeds where rows differ in it; else the caption tells it."""
    if all_counts.nunique() == 1:
        return ""
    return f", n = {number_of([int(n) for n in counts], '').strip(' s')}"


def _method_place(method: str, order: Sequence[str]) -> int:
    return order.index(method) if method in order else len(order)


def _label(key: tuple[str, str, int, str]) -> str:
    statistic, method, dim, against = key
    if statistic.startswith("difference"):
        return clean(line_label(f"{method} {MINUS} {against}", dim))
    if statistic.startswith("trend"):
        setting, _, values = against.partition(": ")
        return clean(f"{method}, {setting} {_range(values)}")
    return clean(line_label(method, dim))


def _range(values: str) -> str:
    ordered_values = values.split(", ")
    return values if len(ordered_values) < 3 else f"{ordered_values[0]} to {ordered_values[-1]}"


def _is(frame: pd.DataFrame, key: tuple[str, str, int, str]) -> pd.Series:
    statistic, method, dim, against = key
    return (
        (frame["statistic"] == statistic)
        & (frame["method"] == method)
        & (frame["embedding_dim"] == dim)
        & (frame["against"] == against)
    )


def _effects(
    axis: Axes,
    probe: pd.DataFrame,
    unit: str,
    rows: Sequence[Row],
    lines: dict[tuple[str, int], Look],
    limits: tuple[float, float],
) -> None:
    axis.set_xlim(*limits)
    axis.axvline(0, color=INK, lw=0.8, zorder=1)
    for y, row in enumerate(rows):
        if row.key is None:
            continue
        statistic, method, dim, against = row.key
        best = probe[_is(probe, (f"{statistic}_from_best", method, dim, against))]
        for bound in rows_of(best.dropna(subset=["low"])):
            axis.plot([bound.low, bound.high], [y, y], color=GREY, lw=0.6, zorder=2)
        for effect in rows_of(probe[_is(probe, row.key) & (probe["unit"] == unit)]):
            of_one = statistic in ("drop", "area_lost", "onset")
            look = lines.get((method, dim), NEUTRAL) if of_one else NEUTRAL
            interval(axis, y, effect.estimate, effect.low, effect.high, look)
    row_axis(axis, range(len(rows)), [row.label for row in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    for row, text in zip(rows, axis.get_yticklabels(), strict=True):
        text.set_fontweight("normal" if row.key else "bold")
    axis.set_xlabel(clean(unit).replace(" x ", f" {TIMES} "))


def row_axis(axis: Axes, places: Sequence[float], labels: Sequence[str]) -> None:
    """A labelled row at each place, without guides."""
    axis.set_yticks(places, labels, fontsize=SMALL)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=SMALL)
    axis.grid(False, axis="y")
    axis.spines["left"].set_visible(False)
    axis.xaxis.set_major_locator(MaxNLocator(4))


def interval(
    axis: Axes, y: float, estimate: float, low: float, high: float, look: Look, size: float = 4.5
) -> None:
    """An estimate with its interval, within the panel's limits; arrows where it leaves them.

    NaN bounds: no interval, an open mark.
    """
    left, right = axis.get_xlim()
    if not math.isnan(low):
        ends = max(low, left), min(high, right)
        axis.plot(ends, [y, y], color=look.colour, lw=1.3, solid_capstyle="butt", zorder=3)
        for end, beyond, arrow in ((left, low < left, "<"), (right, high > right, ">")):
            if beyond:
                axis.plot(end, y, arrow, color=look.colour, ms=4, clip_on=False, zorder=3)
    if math.isinf(estimate):
        axis.plot(right, y, ">", color=look.colour, ms=4, clip_on=False, zorder=3)
        return
    mark = sign(replace(look, fill="none") if math.isnan(low) else look)
    axis.plot(estimate, y, **mark, ms=size, zorder=4)


def _limits(rows: pd.DataFrame) -> tuple[float, float]:
    """A panel's limits: all that is finite, zero, and some room. Trunks of infinite onsets end."""
    values = pd.concat([rows["estimate"], rows["low"], rows["high"]])
    finite = [float(value) for value in values if math.isfinite(value)] + [0.0]
    if len(finite) < values.notna().sum() + 1:
        finite.append(float(rows["epochs"].max()))
    room = 0.06 * (max(finite) - min(finite)) or 1.0
    return min(finite) - room, max(finite) + room


def _caption(drawn: pd.DataFrame, only: str | bool) -> list[str]:
    seeds = sorted(int(n) for n in drawn["n"].unique())
    best = (
        " Thin line: the drop from the best milestone of all, which seeds may fail to choose."
        if drawn[drawn["statistic"].isin(FROM_BEST)]["low"].notna().any()
        else ""
    )
    single = (
        " Open marks without a line: one seed, no interval." if drawn["low"].isna().any() else ""
    )
    left_out = f" Of the differences, those with {only} are drawn." if only else ""
    endless = (
        " Arrow: no end within the epochs that were run."
        if drawn[["estimate", "low", "high"]].isin([math.inf]).any().any()
        else ""
    )
    return [
        f"{protocols(drawn)}, test top-1, {number_of(seeds, 'seed')} (n). 95 % intervals for new "
        f"seeds and new test images.{best}{single}{endless}{left_out}",
        *settings(drawn),
    ]


@style()
def claims_forest(ledger: pd.DataFrame) -> Drawing:
    """Each claim's effect with its interval, beside the values for which the claim holds.

    A panel for each claim, with a row for each test of it. Grey: effects smaller than the smallest
    one of interest. Blue: where the claim holds. Tests that have not been run yet have no row.

    Args:
        ledger: columns `claim`, `text`, `study`, `unit`, `estimate`, `low`, `high`, `holds`
            (above, not above, not below, within), `smallest`, `verdict`.
    """
    run = ledger[ledger["verdict"] != NOT_RUN].dropna(subset=["estimate"])
    counts = ledger["verdict"].value_counts()
    named = [f"{counts[name]} {name}" for name in VERDICTS if name in counts]
    claims, rows = number_of([ledger["claim"].nunique()], "claim"), number_of([len(ledger)], "row")
    title = f"{claims} in {rows}: {', '.join(named)}"
    if run.empty:
        return plain(CLAIMS, title, "Nothing to draw: no claim has a finished run yet.")
    blocks = [rows for _, rows in run.groupby("claim", sort=False)]
    pages = [_claims_sheet(title, page) for page in _paged(blocks)]
    whole = pages[0] if len(pages) == 1 else _claims_sheet(title, blocks)
    return Drawing(whole, HOW, tuple(pages))


def _paged(blocks: Sequence[pd.DataFrame]) -> Iterator[list[pd.DataFrame]]:
    """The blocks in parts that fit a page each."""
    page: list[pd.DataFrame] = []
    room = PAGE
    for rows in blocks:
        height = _height(rows) + AROUND
        if page and height > room:
            yield page
            page, room = [], PAGE
        page.append(rows)
        room -= height
    yield page


def _height(rows: pd.DataFrame) -> float:
    return 0.145 * _edges(_claimed(rows))[-1]


def _claims_sheet(title: str, blocks: Sequence[pd.DataFrame]) -> Figure:
    figure, axes = sheet(CLAIMS, title, [_height(rows) for rows in blocks], around=AROUND)
    for axis, rows in zip(axes[:, 0], blocks, strict=True):
        _claims(axis, rows, _claimed(rows))
    return figure


def _claimed(rows: pd.DataFrame) -> list[tuple[list[str], Any]]:
    """The lines of each label and the row that it belongs to; the claim's own text has none."""
    return [
        (wrap(rows["text"].iloc[0], SMALL, LABEL), None),
        *(
            (wrap(f"{row.study}, width {row.widths}: {row.seen_by}", SMALL, LABEL), row)
            for row in rows_of(rows)
        ),
    ]


def _edges(entries: Sequence[tuple[list[str], Any]]) -> list[float]:
    """Where each entry begins, and where the last one ends, in lines of text."""
    return [0.0, *accumulate(len(lines) + GAP for lines, _ in entries)]


def _claims(axis: Axes, rows: pd.DataFrame, entries: Sequence[tuple[list[str], Any]]) -> None:
    edges = _edges(entries)
    middles = [(top + bottom) / 2 for top, bottom in pairwise(edges)]
    limits = _claim_limits(rows)
    axis.set_xlim(*limits)
    for y, (top, bottom), (_, row) in zip(middles, pairwise(edges), entries, strict=True):
        if row is None:
            continue
        sign, colour = SIGNS[row.verdict]
        axis.annotate(
            f"{sign} {row.verdict}",
            (1.01, y),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=SMALL,
            color=colour,
            fontweight="bold",
        )
        height = {"ymin": 1 - (bottom - 0.1) / edges[-1], "ymax": 1 - (top + 0.1) / edges[-1]}
        ends = claimed_set(row.holds, row.smallest)
        axis.axvspan(*np.clip(ends, *limits), color=HOLDS, lw=0, zorder=0, **height)
        if row.smallest:
            axis.axvspan(
                -row.smallest, row.smallest, color=BAND, alpha=0.35, lw=0, zorder=0.5, **height
            )
        look = Look(colour, "o")
        interval(axis, y, row.estimate, row.low, row.high, look)
    row_axis(axis, middles, ["\n".join(lines) for lines, _ in entries])
    for (_, row), text in zip(entries, axis.get_yticklabels(), strict=True):
        text.set_fontweight("bold" if row is None else "normal")
    axis.set_ylim(edges[-1], 0)
    axis.grid(False)
    axis.axvline(0, color=INK, lw=0.8, zorder=1)
    axis.set_xlabel(clean(rows["unit"].iloc[0]))


def _claim_limits(rows: pd.DataFrame) -> tuple[float, float]:
    """All that is finite, zero, and twice the smallest effects on both sides."""
    values = pd.concat(
        [rows["estimate"], rows["low"], rows["high"], 2 * rows["smallest"], -2 * rows["smallest"]]
    )
    finite = [float(value) for value in values if math.isfinite(value)] + [0.0]
    room = 0.06 * (max(finite) - min(finite)) or 1.0
    return min(finite) - room, max(finite) + room
