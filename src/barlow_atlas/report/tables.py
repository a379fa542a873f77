"""Every table of a report: one model, written as CSV, Markdown, LaTeX and HTML.

Plain functions and not pandas' Styler: it writes no Markdown, sets no notes below a table, breaks
no long one, and its HTML has inline styles.
"""

import html as hypertext
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from barlow_atlas.atlas.curves import line_name
from barlow_atlas.atlas.frames import LINE, NONE, headlines
from barlow_atlas.atomic import write_atomically
from barlow_atlas.report.text import MINUS, duration, markdown_table, plain
from barlow_atlas.report.text import latex as in_latex
from barlow_atlas.report.text import markdown as in_markdown

ENDINGS = ("csv", "md", "tex")
INFINITY = "\N{INFINITY}"
EMPTY = "Nothing to show yet."
LONG = 60
"""Characters of a cell of a page from which only its beginning is shown until it is asked for."""
# Too long for a column: what the short name stands for is written once, below the table.
STANDS_FOR = {"method": "objective", "variant": "setting"}


# LaTeX, in characters of \\small and lines. A text column is never wider than the first of these
# widths that breaks it into few lines, or the last. A page holds lines of a width and a number; a
# table that had to be made much smaller for it is turned.
WRAPS = (28, 46)
FEW = 3
MUCH_TOO_WIDE = 140
PAGE, TURNED_PAGE = (100, 44), (160, 34)


@dataclass(frozen=True)
class Column:
    """A column as people read it.

    Attributes:
        name: column of the rows that it shows.
        header: what stands above it.
        decimals: of a number.
        interval: the columns of the lower and upper end, shown as `1.2 [0.9, 1.5]`.
        half: whether the interval is shown as `1.2 ± 0.3` instead: it must lie around the number.
        signed: whether a positive number has its sign.
        number: without `decimals`, a whole number or one given as text with its own digits.
    """

    name: str
    header: str
    decimals: int | None = None
    interval: tuple[str, str] | None = None
    half: bool = False
    signed: bool = False
    number: bool = False

    @property
    def to_right(self) -> bool:
        """Whether it is a number: set to the right and sorted by its value."""
        return self.number or self.decimals is not None

    def cell(self, row: Mapping[str, Any]) -> str:
        """What a row shows in this column; nothing where the value is missing."""
        value = row[self.name]
        if _missing(value):
            return ""
        if self.decimals is None:
            # A column with gaps holds whole numbers as real ones.
            whole = isinstance(value, float) and value.is_integer()
            return plain(str(int(value) if whole else value))
        middle = self._digits(float(value), self.signed)
        if self.interval is None or any(_missing(row[end]) for end in self.interval):
            return middle
        low, high = (float(row[end]) for end in self.interval)
        if self.half:
            return f"{middle} ± {self._digits((high - low) / 2, False)}"
        ends = ", ".join(self._digits(end, self.signed) for end in (low, high))
        return f"{middle} [{ends}]"

    def _digits(self, value: float, signed: bool) -> str:
        text = f"{value:{'+' if signed else ''}.{self.decimals}f}".replace("inf", INFINITY)
        # What rounds to zero has no sign.
        return text.replace("-", MINUS) if text.strip("+-0.") else text.lstrip("+-")


@dataclass(frozen=True)
class Table:
    """A table: all raw columns for CSV, and what of them people see.

    Attributes:
        title: one line.
        columns: what is shown, in order; the first one names the row.
        rows: a frame with at least the columns shown.
        notes: below the table, a line each.
        wording: columns of the rows that only say others in words; CSV does without.
    """

    title: str
    columns: tuple[Column, ...]
    rows: pd.DataFrame
    notes: tuple[str, ...] = ()
    wording: tuple[str, ...] = ()

    def records(self) -> list[dict[str, Any]]:
        """The rows as mappings."""
        return [
            {str(key): value for key, value in row.items()}
            for row in self.rows.to_dict(orient="records")
        ]

    def cells(self) -> list[list[str]]:
        """What is shown, row by row."""
        return [[column.cell(row) for column in self.columns] for row in self.records()]

    def told(self) -> list[str]:
        """The notes, and that there is nothing where there is nothing."""
        return [*([] if len(self.rows) else [EMPTY]), *self.notes]


def write(table: Table, folder: Path, name: str) -> list[Path]:
    """Writes `folder/name` in its four forms, and returns the files."""
    texts = {"csv": csv, "md": markdown, "tex": latex}
    files = [folder / f"{name}.{ending}" for ending in ENDINGS]
    for file in files:
        write_atomically(file, texts[file.suffix[1:]](table).encode())
    return files


def csv(table: Table) -> str:
    """All raw columns, not rounded for people: six significant digits."""
    raw = table.rows.drop(columns=list(table.wording))
    return str(raw.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def markdown(table: Table) -> str:
    """The title, the table, the notes as a list; tables as GitHub has them."""
    rule = ["---:" if column.to_right else "---" for column in table.columns]
    head = [in_markdown(column.header) for column in table.columns]
    rows = [[in_markdown(cell) for cell in row] for row in table.cells()]
    body = markdown_table([head, rule, *rows])
    notes = "".join(f"- {in_markdown(note)}\n" for note in table.told())
    return f"**{in_markdown(table.title)}**\n\n{body}" + (f"\n{notes}" if notes else "")


def html(table: Table) -> str:
    """A fragment for a page: `table` with caption, heads with scope, in a region that scrolls, and
    the notes below it.

    Numbers have `data-sort`, the raw value, for a page that sorts. Long texts unfold.
    """
    kinds = ["number" if column.to_right else "text" for column in table.columns]
    heads = "".join(
        f'<th scope="col" class="{kind}">{hypertext.escape(column.header)}</th>'
        for kind, column in zip(kinds, table.columns, strict=True)
    )
    body = "".join(f"<tr>{_html_row(table.columns, row)}</tr>\n" for row in table.records())
    notes = "".join(f"<li>{hypertext.escape(plain(note))}</li>\n" for note in table.told())
    title = hypertext.escape(plain(table.title))
    return (
        '<div class="scroll long" tabindex="0" role="region" aria-label="Table: '
        f'{title}">\n<table class="data">\n<caption>{title}</caption>\n'
        f"<thead>\n<tr>{heads}</tr>\n</thead>\n<tbody>\n{body}</tbody>\n</table>\n</div>\n"
        + (f'<ul class="notes">\n{notes}</ul>\n' if notes else "")
    )


def _html_row(columns: Sequence[Column], row: Mapping[str, Any]) -> str:
    first, *others = columns
    cells = [f'<th scope="row">{hypertext.escape(first.cell(row))}</th>']
    for column in others:
        sort = (
            f' data-sort="{_sortable(float(row[column.name]))}"'
            if column.to_right and not _missing(row[column.name])
            else ""
        )
        kind = "number" if column.to_right else "text"
        cells.append(f'<td class="{kind}"{sort}>{_on_demand(column.cell(row))}</td>')
    return "".join(cells)


def _on_demand(text: str) -> str:
    """A cell's text; of a long one its first words, which unfold."""
    if len(text) <= LONG:
        return hypertext.escape(text)
    start = hypertext.escape(text[:LONG].rpartition(" ")[0] or text[:LONG])
    return (
        f"<details><summary>{start} \N{HORIZONTAL ELLIPSIS}</summary>"
        f"<span>{hypertext.escape(text)}</span></details>"
    )


def _sortable(value: float) -> str:
    """A number as JavaScript reads it."""
    return f"{value:.10g}".replace("inf", "Infinity")


LATEX_NEEDS = (
    "% Needs \\usepackage[T1]{fontenc}, \\usepackage{array,booktabs,graphicx}; never wider than "
    "the line.\n"
)
# To the width of the line, and never up.
SCALED_DOWN = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}"


def latex(table: Table) -> str:
    """Floats for a paper, with booktabs rules; a long table is broken into several.

    A wide table is turned, and scaled down to the page if it is wider than that.
    """
    cells = table.cells()
    widths = [
        _width(column, [column.header, *(row[place] for row in cells)])
        for place, column in enumerate(table.columns)
    ]
    turned = sum(width + 2 for width in widths) > MUCH_TOO_WIDE
    kinds = "".join(map(_latex_column, table.columns, widths))
    heads = " & ".join(in_latex(column.header) for column in table.columns)
    pages = list(_pages(cells, widths, table.told(), *(TURNED_PAGE if turned else PAGE)))
    texts = []
    for place, page in enumerate(pages):
        notes = table.told() if place == len(pages) - 1 else []
        inner = _latex_tabular(in_latex(table.title), bool(place), kinds, heads, page, notes)
        texts.append(
            _turned(inner) if turned else f"\\begin{{table}}[htbp]\n{inner}\\end{{table}}\n"
        )
    return LATEX_NEEDS + "\n".join(texts)


def _width(column: Column, texts: list[str]) -> int:
    """Characters in a line of a column."""
    longest = max(map(len, texts))
    if column.to_right or longest <= WRAPS[0]:
        return longest
    return next((wrap for wrap in WRAPS if longest <= FEW * wrap), WRAPS[-1])


def _latex_column(column: Column, width: int) -> str:
    if column.to_right:
        return "r"
    return f">{{\\raggedright\\arraybackslash}}p{{{width / 2:g}em}}" if width in WRAPS else "l"


def _pages(
    cells: list[list[str]], widths: list[int], notes: Iterable[str], wide: int, high: int
) -> Iterator[list[list[str]]]:
    """The rows in as many parts as fit a page each, the last one with the notes."""
    below = sum(math.ceil(len(note) / wide) for note in notes)
    page: list[list[str]] = []
    room = high
    for place, row in enumerate(cells):
        height = max(math.ceil(len(cell) / width) for cell, width in zip(row, widths, strict=True))
        last = place == len(cells) - 1
        if page and height + (below if last else 0) > room:
            yield page
            page, room = [], high
        page.append(row)
        room -= max(height, 1)
    yield page


def _latex_tabular(
    title: str, continued: bool, kinds: str, heads: str, rows: list[list[str]], notes: list[str]
) -> str:
    body = "".join(f"{' & '.join(map(in_latex, row))} \\\\\n" for row in rows)
    below = "\\\\\n".join(in_latex(note) for note in notes)
    if below:
        below = f"\\par\\smallskip\n\\parbox{{\\linewidth}}{{\\footnotesize {below}}}\n"
    # A part that goes on has its table's number.
    count = "\\addtocounter{table}{-1}\n" if continued else ""
    return (
        f"{count}\\centering\n\\caption{{{title}{' (continued)' if continued else ''}}}\n\\small\n"
        f"{SCALED_DOWN}{{%\n\\begin{{tabular}}{{{kinds}}}\n"
        f"\\toprule\n{heads} \\\\\n\\midrule\n{body}\\bottomrule\n"
        f"\\end{{tabular}}}}\n{below}"
    )


def _turned(inner: str) -> str:
    """On a page of its own, a quarter turn to the left."""
    return (
        f"\\begin{{table}}[p]\n\\centering\n{SCALED_DOWN}{{%\n"
        "\\rotatebox{90}{\\begin{minipage}{0.95\\textheight}\n"
        f"{inner}\\end{{minipage}}}}}}\n\\end{{table}}\n"
    )


def _missing(value: Any) -> bool:
    return value is None or value == "" or bool(pd.isna(value))


def milestone_table(curves: pd.DataFrame, title: str) -> Table:
    """Line x milestone: test top-1, mAP or AP in percent, mean and half of the 95 % interval.

    Args:
        curves: as `curves.mean_curves` gives it.
        title: above the table.
    """
    chosen = headlines(curves[curves["split"] == "test"])
    epochs = sorted(chosen["epoch"].unique())
    parts = [chosen.groupby(list(LINE))["seeds"].max().to_frame("seeds")]
    for epoch in epochs:
        part = chosen[chosen["epoch"] == epoch].set_index(list(LINE))[["mean", "low", "high"]]
        parts.append(part.set_axis(_ends(str(epoch)), axis=1))
    rows = pd.concat(parts, axis=1).reset_index()
    rows = rows.sort_values(["probe", "setting", "method", "embedding_dim", "epochs"])
    shown = [
        *_line_columns(),
        Column("seeds", "seeds", number=True),
        *(
            Column(name, name, decimals=2, interval=(low, high), half=True)
            for name, low, high in (_ends(str(epoch)) for epoch in epochs)
        ),
    ]
    notes = [
        "Test top-1 accuracy in percent at each pre-training epoch: mean over seeds and half of "
        "the 95 % t interval.",
        *(note for metric, note in PRECISIONS.items() if metric in set(chosen["metric"])),
    ]
    return _shortened(title, shown, rows, notes)


PRECISIONS = {
    "map": "Where the setting says mAP: mean average precision.",
    "ap": "Where the setting says AP: the mean over overlaps of 0.5 to 0.95 and over classes; AP50 "
    "and AP75: over classes, at that overlap.",
}
"""What is not an accuracy, by metric."""
STATISTICS = {
    "first": "untrained network",
    "last": "end of training",
    "best_on_test": "best on test",
    "peak": "peak",
    "gain": "gain: end minus untrained",
    "drop": "drop: peak minus end",
    "drop_from_best": "drop from the best epoch",
    "area_lost": "area lost after the peak",
    "onset": "onset of the drop",
    "difference_last": "difference at the end",
    "difference_last_these_networks": "difference at the end, of these networks",
    "difference_drop": "difference of the drops",
    "difference_drop_from_best": "difference of the drops from the best epoch",
    "trend_last": "trend of the end, per doubling",
    "trend_drop": "trend of the drop, per doubling",
    "trend_drop_from_best": "trend of the drop from the best epoch, per doubling",
}
"""The statistics of effects.csv in words."""


def effects_table(effects: pd.DataFrame, title: str) -> Table:
    """Every effect of a study, with interval, n and sign-flip p; columns as in effects.csv."""
    rows = effects.assign(what=[STATISTICS.get(name, name) for name in effects["statistic"]])
    shown = [
        Column("what", "effect"),
        *_line_columns(),
        Column("against", "against"),
        Column("estimate", "estimate", decimals=2, interval=("low", "high")),
        Column("unit", "unit"),
        Column("n", "n", number=True),
        Column("p", "p", decimals=3),
    ]
    notes = [
        "In brackets: 95 % intervals. n is the number of seeds; one has no interval, fewer than "
        "six have no p. Of these networks: nothing about other seeds, n is the number of test "
        "images.",
        "Drops are positive where accuracy is lost; differences are the method minus the other.",
    ]
    return _shortened(title, shown, rows, notes, ["what"])


OF_SIGNALS = {
    "rank_correlation": "rank correlation",
    "kept": "kept, %",
    "against_end": "kept minus end, points",
    "against_peak": "kept minus peak, points",
}
"""The statistics of label_free.csv in words."""


def label_free_table(label_free: pd.DataFrame, title: str) -> Table:
    """Rank correlations and stopping rules, a row for each line and signal.

    Args:
        label_free: columns as in label_free.csv.
        title: above the table.
    """
    keys = [*LINE, "signal", "space", "split"]
    parts = [label_free.groupby(keys, sort=False)["n"].max().to_frame()]
    for statistic in OF_SIGNALS:
        chosen = label_free[label_free["statistic"] == statistic].set_index(keys)
        part = chosen[["estimate", "low", "high"]]
        parts.append(part.set_axis(_ends(statistic), axis=1))
    rows = pd.concat(parts, axis=1).reset_index()
    shown = [
        Column("signal", "signal"),
        Column("space", "of"),
        Column("split", "images"),
        *_line_columns(),
        *(
            Column(statistic, words, decimals=2, interval=(low, high))
            for (statistic, low, high), words in zip(
                map(_ends, OF_SIGNALS), OF_SIGNALS.values(), strict=True
            )
        ),
        Column("n", "n", number=True),
    ]
    notes = [
        "Rank correlation: of the signal with test accuracy over the milestones. Kept: test "
        "accuracy if training stops where the signal is best. In brackets: 95 % intervals over n "
        "seeds.",
    ]
    return _shortened(title, shown, rows, notes)


def _ends(name: str) -> tuple[str, str, str]:
    """The columns of a number and the ends of its interval."""
    return name, f"{name} low", f"{name} high"


def runs_table(runs: pd.DataFrame, title: str) -> Table:
    """What ran, what is missing, where and for how long; columns as in runs.csv."""
    rows = runs.assign(
        probed=[
            f"{0 if _missing(done) else int(done)} of {'?' if _missing(planned) else int(planned)}"
            for done, planned in zip(runs["milestones"], runs["planned"], strict=True)
        ],
        took=["" if _missing(seconds) else duration(seconds) for seconds in runs["seconds"]],
        code=[_code(*pair) for pair in zip(runs["commit"], runs["changed"], strict=True)],
    )
    shown = [
        Column("run", "run"),
        Column("probed", "milestones"),
        Column("missing", "missing epochs"),
        Column("took", "duration"),
        Column("device", "device"),
        Column("machine", "machine"),
        Column("torch", "torch"),
        Column("code", "code"),
        Column("adopted", "counts as made by later code"),
    ]
    return _shortened(title, shown, rows, [], ["probed", "took", "code"])


def _code(commit: Any, changed: Any) -> str:
    """The commit, and whether the code had changes that are in none."""
    if _missing(commit):
        return ""
    commits = "; ".join(part[:10] for part in str(commit).split("; "))
    return commits if _missing(changed) or not changed else f"{commits}, changed"


def beside_table(rows: pd.DataFrame, title: str, notes: Sequence[str] = ()) -> Table:
    """Published beside measured; rows as `atlas.beside` gives them, sources as numbered notes."""
    places = [
        f"{paper}, {table}: {source}" if paper else ""
        for paper, table, source in zip(
            rows["paper"], rows["paper_table"], rows["source"], strict=True
        )
    ]
    numbers = {place: f"[{n}]" for n, place in enumerate(dict.fromkeys(filter(None, places)), 1)}
    further = [name for name in rows.columns if name.startswith("also ") and f"{name} from" in rows]
    units = sorted(set(filter(None, rows["unit"]))) or ["%"]
    usual = _in_all([differs for differs in rows["differs"] if differs])
    joined = rows.assign(
        line=[
            "" if pd.isna(dim) else line_name(method, int(dim))
            for method, dim in zip(rows["our_method"], rows["embedding_dim"], strict=True)
        ],
        cited=[numbers.get(place, "") for place in places],
        said=[
            "; ".join([*(part for part in differs if part not in usual), *filter(None, [note])])
            for differs, note in zip(rows["differs"], rows["note"], strict=True)
        ],
        differs=["; ".join(differs) for differs in rows["differs"]],
    )
    shown = [
        Column("method", "method"),
        Column("dataset", "data set"),
        Column("metric", "metric"),
        Column(
            "published",
            "published" if len(units) > 1 else f"published, {units[0]}",
            number=True,
        ),
        *([Column("unit", "unit")] if len(units) > 1 else []),
        Column("cited", "source"),
        *(Column(name, f"{name.removeprefix('also ')}, %", number=True) for name in further),
        Column("study", "study"),
        Column("line", "line"),
        Column("variant", "probe"),
        Column("ours", "ours, %", decimals=2, interval=("low", "high")),
        Column("n", "n", number=True),
        Column(
            "difference",
            "difference",
            decimals=2,
            interval=("difference_low", "difference_high"),
            signed=True,
        ),
        Column("said", "what differs in ours"),
    ]
    told = [
        *(
            [f"What differs in ours wherever two numbers meet: {'; '.join(usual)}."]
            if usual
            else []
        ),
        *notes,
        "Ours is the mean over n seeds at the last epoch, unless its probe says best on test, in "
        "brackets its 95 % interval; the difference, in points, is ours minus published. A "
        "published number is a single one of unknown uncertainty, so the interval of a difference "
        "is ours, shifted by it.",
        *(f"{number} {place}." for place, number in numbers.items()),
        *(
            f"{name.removeprefix('also ')}: {'; '.join(origins)}."
            for name in further
            if (origins := list(dict.fromkeys(filter(None, rows[f"{name} from"]))))
        ),
    ]
    return _shortened(title, shown, joined, told, ["line", "cited", "said"])


def _in_all(rows: Sequence[Sequence[str]]) -> list[str]:
    """What all rows have in common; nothing if there are not two of them."""
    if len(rows) < 2:
        return []
    first, *others = rows
    return [part for part in first if all(part in other for other in others)]


def _line_columns() -> list[Column]:
    return [
        Column("method", "method"),
        Column("embedding_dim", "width", number=True),
        Column("epochs", "epochs", number=True),
        Column("protocol", "protocol"),
        Column("probe", "probe"),
        Column("variant", "variant"),
    ]


NAMES = {"embedding_dim", "epochs"}
"""What a line need not have: imported weights no width, a trunk no end."""


def _shortened(
    title: str,
    shown: list[Column],
    rows: pd.DataFrame,
    notes: Sequence[str],
    wording: Sequence[str] = (),
) -> Table:
    """The table without columns that say the same in all rows, which a note says instead.

    The first one and those with measured numbers stay; empty ones go.
    """
    nameless = {name: rows[name].replace(NONE, pd.NA) for name in NAMES & set(rows.columns)}
    rows = rows.assign(**nameless)
    first, *others = shown
    kept, same = [first], []
    for column in others:
        said = {column.cell(row) for row in _records(rows, column)}
        if len(said) > 1 or not len(rows) or (column.decimals is not None and said != {""}):
            kept.append(column)
        elif said != {""}:
            same.append(f"{column.header} {said.pop()}")
    below = [f"In all rows: {', '.join(same)}."] if same else []
    told = (*below, *notes, *_meanings(rows, shown))
    return Table(title, tuple(kept), rows, told, tuple(wording))


def _records(rows: pd.DataFrame, column: Column) -> list[dict[Any, Any]]:
    return rows[list(dict.fromkeys([column.name, *(column.interval or ())]))].to_dict("records")


def _meanings(rows: pd.DataFrame, shown: Sequence[Column]) -> Iterator[str]:
    """What each method minimises and how each probe is set: what a number must be printed with."""
    for short, long in STANDS_FOR.items():
        if long in rows and any(column.name == short for column in shown):
            pairs = rows[[short, long]].drop_duplicates().itertuples(index=False)
            yield from (f"{name}: {text}" for name, text in pairs if name != text)
