"""What all figures share: the style, a sheet with a header, wrapped text, files."""

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator
from PIL import Image

from barlow_atlas.atomic import write_atomically
from barlow_atlas.report.figures.palette import GREY, INK, Look, line_label
from barlow_atlas.report.text import MINUS

STYLE = Path(__file__).parents[1] / "style.mplstyle"
WIDTH, COLUMN = 7.2, 3.3
"""Inches: a page's text, and a column of it. Sizes of fonts are those in print."""
TITLE, SUBTITLE, LEGEND, SMALL = 10, 8, 7.5, 7
"""Sizes in points: the subject, the study's title, the legend, what stands around the panels."""
LEADING = 1.32
BAR = 0.62
"""Inches that a colour bar takes."""
TIMES = "\N{MULTIPLICATION SIGN}"
RHO = "\N{GREEK SMALL LETTER RHO}"
PROBE_TITLES = {
    "knn": "kNN",
    "linear": "Linear probe",
    "online_linear": "Online linear probe",
    "transfer": "Transfer",
    "fine_tuned": "Fine-tuning",
    "svm": "SVM",
    "detection": "Detection",
}
ON_OTHER_DATA = ("transfer", "svm", "detection")
"""Probes that are asked of other images than those of pre-training; their variants name them."""


@dataclass(frozen=True)
class Drawing:
    """A figure, and what must be read with it.

    Attributes:
        caption: protocol, seeds, bands and settings in sentences; may be empty.
        pages: the same in parts that fit a page each, where the figure is higher than one.
        says: the sentence that stands in place of a drawing, where there is nothing to draw.
    """

    figure: Figure
    caption: str = ""
    pages: tuple[Figure, ...] = ()
    says: str = ""


@contextmanager
def style() -> Iterator[None]:
    """The atlas' style on matplotlib's defaults, whatever the user's own settings are."""
    with matplotlib.style.context(["default", STYLE]):
        yield


def sheet(
    subject: str,
    title: str,
    heights: Sequence[float],
    columns: int = 1,
    *,
    around: float = 0.75,
    legend: Sequence[Line2D] = (),
    bar: tuple[ScalarMappable, str] | None = None,
    sharex: bool = False,
) -> tuple[Figure, np.ndarray]:
    """A figure as wide as a page: header, legend, a grid of panels.

    Only the panels take part in the layout, so that no text or legend lies on data.

    Args:
        subject: what the figure is about.
        title: the study's title; may hold any sign.
        heights: of the rows of panels, in inches, without what stands around them.
        around: inches that a row needs on top of that, for headings and labels.
        bar: a colour scale and what it measures, for a bar under the panels.

    Returns:
        The figure and its panels, (rows, columns).
    """
    above = [(line, TITLE, "bold") for line in wrap(subject, TITLE, WIDTH, "bold")]
    above += [(line, SUBTITLE, "normal") for line in wrap(title, SUBTITLE, WIDTH)]
    ncols = legend_columns([str(handle.get_label()) for handle in legend])
    entries = -(-len(legend) // ncols)
    top = _inches(*(size for _, size, _ in above)) + 0.06
    keys = entries * LEGEND * 1.5 / 72 + (0.08 if entries else 0)
    below_panels = BAR if bar else 0
    middle = sum(heights) + around * len(heights)
    height = top + keys + middle + below_panels

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(
        rect=(0, below_panels / height, 1, middle / height), w_pad=0.05, h_pad=0.05, hspace=0.02
    )
    panels = figure.subplots(
        len(heights),
        columns,
        squeeze=False,
        sharex="row" if sharex else False,
        gridspec_kw={"height_ratios": heights},
    )
    left, y = 0.03 / WIDTH, height
    for line, size, weight in above:
        colour = INK if weight == "bold" else GREY
        figure.text(
            left, y / height, line, fontsize=size, fontweight=weight, color=colour, va="top"
        )
        y -= _inches(size)
    if legend:
        figure.legend(
            handles=list(legend),
            loc="upper left",
            bbox_to_anchor=(left, (height - top) / height),
            ncols=ncols,
            borderaxespad=0,
            borderpad=0,
            labelspacing=0.35,
        )
    if bar:
        axis = figure.add_axes((0.03, (below_panels - 0.2) / height, 0.4, 0.1 / height))
        figure.colorbar(bar[0], cax=axis, orientation="horizontal", label=bar[1])
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.grid(False)
        axis.spines[:].set_visible(False)
    return figure, panels


def plain(subject: str, title: str, sentence: str) -> Drawing:
    """A figure that says in words why there is nothing to draw."""
    with style():
        figure, panels = sheet(subject, title, [0.35], around=0.1)
        panels[0, 0].set_axis_off()
        lines = "\n".join(wrap(sentence, SUBTITLE, WIDTH - 0.6))
        panels[0, 0].text(0.02, 0.5, lines, va="center", linespacing=LEADING)
    return Drawing(figure, says=sentence)


def told(sentences: Iterable[str]) -> str:
    """A caption of these sentences, on one line."""
    return " ".join(clean(sentence) for sentence in sentences)


def heading(axis: Axes, name: str, told: Sequence[str] = (), lines: int = 0) -> None:
    """A panel's bold title with small lines under it; `lines` is how many the row reserves."""
    leading = SMALL * LEADING
    axis.set_title(name, pad=4 + leading * max(lines, len(told)))
    for place, text in enumerate(reversed(told)):
        axis.annotate(
            text,
            (0, 1),
            xytext=(0, 4 + leading * (place + max(lines - len(told), 0))),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=SMALL,
            color=GREY,
        )


def line_handles(looks: Mapping[tuple[str, int], Look]) -> list[Line2D]:
    """Legend entries of lines."""
    return [
        Line2D([], [], label=line_label(*line), **stroke(look), **sign(look))
        for line, look in looks.items()
    ]


def stroke(look: Look) -> dict[str, Any]:
    """How matplotlib draws the line itself."""
    return {"color": look.colour, "linestyle": (0, look.dash) if look.dash else "-"}


def sign(look: Look) -> dict[str, Any]:
    """How matplotlib draws its markers."""
    return {
        "marker": look.marker,
        "fillstyle": look.fill,
        "markerfacecolor": look.colour,
        "markerfacecoloralt": "white",
        "markeredgecolor": look.colour,
    }


def probe_name(probe: str, variant: str) -> str:
    """A short name of a probe, for a panel's title."""
    known = PROBE_TITLES.get(probe, probe)
    return clean(f"{known} to {variant}" if probe in ON_OTHER_DATA else known)


def number_of(counts: Sequence[int], what: str) -> str:
    """`3 seeds`, `2 to 3 seeds`."""
    low, high = min(counts), max(counts)
    return f"{low if low == high else f'{low} to {high}'} {what}{'s' if high != 1 else ''}"


def grid(panels: int) -> tuple[int, int]:
    """Rows and columns for panels on a page: at most three abreast."""
    columns = {1: 1, 2: 2, 4: 2}.get(panels, 3)
    return -(-panels // columns), columns


def clean(text: object) -> str:
    """One line without signs that no font and no XML has."""
    return "".join(sign if sign.isprintable() else " " for sign in str(text)).strip()


def wrap(text: object, size: float, inches: float, weight: str = "normal") -> list[str]:
    """Lines no wider than asked; a word that is wider by itself is broken."""
    lines = [""]
    for word in clean(text).split():
        joined = f"{lines[-1]} {word}".lstrip()
        if _width(joined, size, weight) <= 72 * inches:
            lines[-1] = joined
            continue
        lines += [word] if lines[-1] else []
        lines[-1] = word
        while _width(lines[-1], size, weight) > 72 * inches:
            fits = next(
                n
                for n in range(len(lines[-1]) - 1, 0, -1)
                if n == 1 or _width(lines[-1][:n], size, weight) <= 72 * inches
            )
            lines[-1:] = [lines[-1][:fits], lines[-1][fits:]]
    return lines if lines != [""] else []


def signed(text: str) -> str:
    """A number's text with a true minus sign."""
    return text.replace("-", MINUS)


def rows_of(frame: pd.DataFrame) -> Iterator[Any]:
    """A frame's rows, their columns as attributes."""
    return frame.itertuples(index=False)


def save(drawing: Drawing, pdf: Path, png: Path) -> tuple[int, int]:
    """Writes both files; the same figure gives the same bytes.

    Returns:
        Width and height of the PNG, in pixels.
    """
    drawn, picture = io.BytesIO(), io.BytesIO()
    with style():
        _settle(drawing.figure)
        drawing.figure.savefig(drawn, format="png", metadata={"Software": None})
    # Pictures lie in git; with 256 colours, none further off than 12 of 255, they take a third.
    palette = (
        Image.open(drawn)
        .convert("RGB")
        .quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    )
    palette.save(picture, "PNG", optimize=True)
    write_atomically(pdf, in_pdf(drawing))
    write_atomically(png, picture.getvalue())
    return palette.size


def in_pdf(drawing: Drawing) -> bytes:
    """The figure as a PDF, a page for each of its parts; the same figure gives the same bytes."""
    file = io.BytesIO()
    undated = {"CreationDate": None, "ModDate": None}
    with style(), PdfPages(file, metadata=undated) as pages:
        for page in drawing.pages or (drawing.figure,):
            _settle(page)
            pages.savefig(page)
    return file.getvalue()


def svg(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element for a page; the same figure gives the same text.

    It has no size of its own but a `viewBox`, so that the page's style scales it. All ids begin
    with the name: several figures can stand in one page.

    Args:
        name: of the figure, such as `curves`; different for each in a page.
    """
    file = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with style(), matplotlib.rc_context({"svg.hashsalt": f"barlow-atlas {name}"}):
        _settle(figure)
        figure.savefig(file, format="svg", metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    # The page's own lines must not follow the figure's style sheet: the root hands it down instead.
    text = re.sub(r"\s*<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    # Pages carry these texts: comments repeat the words, and a hundredth of a point is finer than
    # any screen.
    text = re.sub(r"\s*<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'(?<= )(d|x|y)="[^"]*"', _to_hundredths, text)
    text = _with_short_ids(text.replace("xlink:href=", "href="), name)
    subject = next((shown.get_text() for shown in figure.texts), name)
    opening = (
        f'<svg role="img" aria-label={quoteattr(subject)} '
        'style="stroke-linejoin: round; stroke-linecap: butt"'
    )
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(width|height|version)="[^"]*"', "", head)
    return f"{head.replace('<svg', opening, 1)}>{rest}"


def _settle(figure: Figure) -> None:
    """Lays the panels out for good, to a millionth of the figure.

    The last digits of the layout's solver differ from process to process.
    """
    if not isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        return
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axis in figure.axes:
        x, y, width, height = axis.get_position(original=True).bounds
        axis.set_position((round(x, 6), round(y, 6), round(width, 6), round(height, 6)))


def _to_hundredths(coordinates: re.Match[str]) -> str:
    return re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", coordinates[0])


def _with_short_ids(text: str, name: str) -> str:
    """The ids that are referred to, numbered in their order; others are left out.

    Matplotlib's own hash coordinates, whose last digits depend on what was drawn before.
    """
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    defined = [name for name in re.findall(r'\sid="([^"]*)"', text) if name in used]
    short = {old: f"{name}-{place}" for place, old in enumerate(dict.fromkeys(defined))}
    text = re.sub(
        r'\sid="([^"]*)"',
        lambda name: f' id="{short[name[1]]}"' if name[1] in short else "",
        text,
    )
    return re.sub(r'(href="#|url\(#)([^")]+)', lambda name: name[1] + short[name[2]], text)


def legend_columns(labels: Sequence[str]) -> int:
    """How many entries stand side by side: as few as the rows of those that fit need.

    They run down the columns.
    """
    widths = [_width(label, LEGEND, "normal") + 5.6 * LEGEND for label in labels]
    for columns in range(len(labels), 1, -1):
        if sum(part.max() for part in np.array_split(widths, columns)) <= 72 * WIDTH:
            rows = -(-len(labels) // columns)
            return -(-len(labels) // rows)
    return 1


def _inches(*sizes: float) -> float:
    """Height of lines of text in these sizes."""
    return sum(sizes) * LEADING / 72


@cache
def _width(text: str, size: float, weight: str) -> float:
    """Width of a line in points."""
    font = FontProperties(family="DejaVu Sans", size=size, weight=weight)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])
