"""What accuracy and its fall depend on: lines that differ in one setting."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from barlow_atlas.atlas.effects import UNORDERED
from barlow_atlas.report.figures.canvas import (
    SMALL,
    Drawing,
    clean,
    heading,
    line_handles,
    number_of,
    plain,
    probe_name,
    rows_of,
    sheet,
    sign,
    signed,
    stroke,
    style,
    told,
)
from barlow_atlas.report.figures.curves import protocols, settings
from barlow_atlas.report.figures.palette import GREY, INK, Look, looks, ordered
from barlow_atlas.report.text import probe_order

SUBJECT = "What accuracy and its fall depend on, one setting at a time"
NAMES = {
    "embedding_dim": "embedding's width",
    "lambda_reg": "lambda_reg",
    "lambda_bt": "lambda_bt",
    "batch_size": "images a step",
    "fraction": "share of the images",
    "epochs": "epochs in all",
    "width": "network's width",
    "base_lr": "learning rate",
    "weight_decay": "weight decay",
    "recipe": "augmentation",
    "schedule": "decay of the rate",
}
"""Settings in the order of `effects.SETTINGS` and `effects.UNORDERED`, as panels are headed."""
LINE = ["method", "embedding_dim", "epochs", "probe", "variant", "setting"]
"""What finds a line of a factor among the effects."""
DROPS = ("drop", "drop_from_best")
COLUMNS, FEW = 4, 2
"""Settings abreast, also where there are fewer."""
HEIGHT, BETWEEN = 0.95, 0.32
"""Inches: a panel, and what a row needs around it."""
SPREAD = 0.16
"""Between lines that stand at the same level, as a share of the distance between levels."""
LEAST_SPAN = 1.0
"""Points that a panel shows at least: noise on a flat line must not look like a fall."""
LINE_HEIGHT = 0.14
"""Of a line that is written in a panel, as a share of the panel."""


@style()
def one_factor(
    title: str, factors: pd.DataFrame, effects: pd.DataFrame, methods: Sequence[str] = ()
) -> Drawing:
    """Accuracy at the end, and what was lost since the peak, against one setting after the other.

    A column for each setting; above, accuracy by the main probe, below, the loss by each probe.
    Bars are 95 % intervals, the thin ones of the loss those from the best milestone of all. Written
    above them are trends per doubling.

    Args:
        factors: as `effects.factors` gives it.
        effects: as `effects.effects` gives it.
        methods: as in `palette.looks`.
    """
    if factors.empty:
        return plain(
            SUBJECT,
            title,
            "Nothing to draw: no two lines with finished runs differ in one setting alone.",
        )
    probes = sorted(
        set(zip(factors["probe"], factors["variant"], factors["setting"], strict=True)),
        key=lambda probe: (probe_order(probe[0]), probe[1:]),
    )
    names = [name for name in NAMES if name in set(factors["factor"])]
    of_lines = effects[effects["statistic"].isin(["last", *DROPS])]
    shown = factors.merge(of_lines.drop(columns=["study", "objective", "protocol"]), on=LINE)
    lines = _lines(shown, ordered(shown["method"], methods))
    asked = [("last", probes[0]), *(("drop", probe) for probe in probes)]
    asked = [one for one in asked if not _of(shown, *one).empty]
    columns = COLUMNS if len(names) > FEW else FEW
    blocks = [names[start : start + columns] for start in range(0, len(names), columns)]
    figure, axes = sheet(
        SUBJECT,
        title,
        [HEIGHT] * (len(blocks) * len(asked)),
        columns,
        around=BETWEEN,
        legend=line_handles({(method, 0): look for method, look in lines.items()}),
    )
    for row, panels in enumerate(axes):
        block, place = blocks[row // len(asked)], row % len(asked)
        statistic, probe = asked[place]
        rows = _of(shown, statistic, probe)
        for column, axis in enumerate(panels):
            if column >= len(block):
                axis.remove()
                continue
            of_factor = rows[rows["factor"] == block[column]]
            _panel(axis, of_factor, lines)
            _write_trends(axis, of_factor, _of(effects, f"trend_{statistic}", probe), lines)
            axis.set_ylim(*_limits(rows))
            axis.tick_params(labelleft=not column, labelbottom=place == len(asked) - 1)
            if statistic == "drop":
                axis.axhline(0, color=INK, lw=0.8, zorder=1)
            if not column:
                axis.set_ylabel(_asked(statistic, probe), fontsize=SMALL)
            if not place:
                heading(axis, NAMES[block[column]])
    return Drawing(figure, told(_caption(shown, probes[0])))


def _lines(shown: pd.DataFrame, order: Sequence[str]) -> dict[str, Look]:
    """How each set of lines is drawn, by its first method: as that one everywhere."""
    first = {
        min(group["method"], key=order.index)
        for _, group in shown.groupby(["factor", "place"], sort=False)
    }
    of_methods = looks([(method, 0) for method in first], order)
    return {method: look for (method, _), look in of_methods.items()}


def _of(shown: pd.DataFrame, statistic: str, probe: tuple[str, str, str]) -> pd.DataFrame:
    """What is asked of a probe's lines, and beside it the loss from the best milestone of all."""
    of_probe = shown[(shown[["probe", "variant", "setting"]] == list(probe)).all(axis=1)]
    return of_probe[of_probe["statistic"].isin([statistic, f"{statistic}_from_best"])]


def _panel(axis: Axes, rows: pd.DataFrame, lines: dict[str, Look]) -> None:
    """One setting: its levels evenly apart, the sets of lines beside each other."""
    groups = [group for _, group in rows.groupby("place", sort=True)]
    levels = _levels(groups)
    for at, group in enumerate(groups):
        look = lines[_leading(group, lines)]
        aside = SPREAD * (at - (len(groups) - 1) / 2)
        main = group[~group["statistic"].str.endswith("from_best")]
        places = [levels.index(level) + aside for level in main["level"]]
        if group["factor"].iloc[0] in UNORDERED:
            axis.plot(places, main["estimate"], ls="", **sign(look), ms=3.5, zorder=4)
        else:
            axis.plot(
                places, main["estimate"], **stroke(look), **sign(look), ms=3.5, lw=1, zorder=4
            )
        for row in rows_of(group.dropna(subset=["low"])):
            best = row.statistic.endswith("from_best")
            axis.plot(
                [levels.index(row.level) + aside] * 2,
                [row.low, row.high],
                color=GREY if best else look.colour,
                lw=0.6 if best else 1.4,
                zorder=2 if best else 3,
            )
    if groups and groups[0]["factor"].iloc[0] in UNORDERED:
        for group in groups[1:]:
            first = min(levels.index(level) for level in group["level"])
            axis.axvline(first - 0.5, color=GREY, lw=0.6, zorder=1)
    axis.set_xticks(range(len(levels)), [clean(level) for level in levels], fontsize=SMALL)
    if max(map(len, levels), default=0) * len(levels) > 24:
        axis.tick_params(axis="x", rotation=25)
    axis.set_xlim(-0.5, len(levels) - 0.5)
    axis.tick_params(axis="y", labelsize=SMALL)
    axis.grid(False, axis="x")


def _levels(groups: Sequence[pd.DataFrame]) -> list[str]:
    """Each level once, numbers in their order, names in that of the lines."""
    levels = list(dict.fromkeys(level for group in groups for level in group["level"]))
    named = not groups or groups[0]["factor"].iloc[0] in UNORDERED
    return levels if named else sorted(levels, key=float)


def _write_trends(
    axis: Axes, rows: pd.DataFrame, trends: pd.DataFrame, lines: dict[str, Look]
) -> None:
    """Each set's slope per doubling with its interval, in the set's colour, from the top."""
    for at, (_, group) in enumerate(rows.groupby("place", sort=True)):
        first = group.iloc[0]
        methods = dict.fromkeys(group[group["level"] != "0"]["method"])
        of_group = trends[
            trends["against"].str.startswith(f"{first['factor']}: ")
            & (trends["method"] == " + ".join(methods))
            & (trends["embedding_dim"] == first["embedding_dim"])
            & ~trends["statistic"].str.endswith("from_best")
        ]
        for trend in rows_of(of_group.dropna(subset=["low"])):
            axis.text(
                0.02,
                0.99 - LINE_HEIGHT * at,
                signed(f"{trend.estimate:.2f} [{trend.low:.2f}, {trend.high:.2f}]"),
                transform=axis.transAxes,
                va="top",
                fontsize=SMALL,
                color=lines[_leading(group, lines)].colour,
            )


def _leading(group: pd.DataFrame, lines: dict[str, Look]) -> str:
    """The method whose look a set of lines has."""
    return next(method for method in lines if method in set(group["method"]))


def _limits(rows: pd.DataFrame) -> tuple[float, float]:
    """All numbers, at least `LEAST_SPAN` points, and above them room for what is written there."""
    numbers = rows[["estimate", "low", "high"]].to_numpy(dtype=float)
    numbers = numbers[np.isfinite(numbers)]
    low, high = float(numbers.min()), float(numbers.max())
    room = max(0.04 * (high - low), (LEAST_SPAN - (high - low)) / 2)
    low, high = low - room, high + room
    written = LINE_HEIGHT * int(rows.groupby("factor")["place"].nunique().max())
    return low, high + (high - low) * written / (1 - written)


def _asked(statistic: str, probe: tuple[str, str, str]) -> str:
    what = "top-1 at the end, %" if statistic == "last" else "points lost since peak"
    kind, variant, _ = probe
    return f"{clean(f'{probe_name(kind, variant)} {variant}')}\n{what}"


def _caption(shown: pd.DataFrame, main: tuple[str, str, str]) -> list[str]:
    seeds = sorted(int(n) for n in shown["n"].unique())
    return [
        f"{protocols(shown)}, test top-1, {number_of(seeds, 'seed')}. Above: accuracy at the last "
        f"milestone by {probe_name(main[0], main[1])}; below: points lost since the peak, by "
        "each probe. Bars: 95 % intervals for new seeds and new test images; thin: of the loss "
        "from the best milestone of all. Numbers: points per doubling, with their 95 % interval; a "
        "level of 0 has no part in them. Lines join runs that differ in this setting alone.",
        *_conditions(shown),
        *settings(shown),
    ]


def _conditions(shown: pd.DataFrame) -> list[str]:
    """What has to be known of some panels alone."""
    conditions = []
    if shown["n"].nunique() > 1:
        conditions.append("A number is of the seeds that all its levels have.")
    if "fraction" in set(shown["factor"]):
        conditions.append("With a share of the images goes that of the probes' labels.")
    sets = shown[shown["factor"].isin(UNORDERED)].groupby("factor")["place"].nunique()
    if (sets > 1).any():
        conditions.append("A line between points parts sets that differ in something else, too.")
    return conditions
