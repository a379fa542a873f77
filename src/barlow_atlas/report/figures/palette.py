"""How a method and a width look in every figure: colour, marker, dashes. Imports no matplotlib."""

from collections.abc import Iterable
from dataclasses import dataclass

COLOURS = (
    *("#0072B2", "#E69F00"),
    *("#56B4E9", "#661100", "#777777", "#332288", "#D2B48C", "#000000", "#8A5A00"),
)
"""Nine colours that readers of any colour vision tell apart: see test_figures.py."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
WIDTHS = (1024, 128, 2048, 256, 4096, 512)
FILLS = ("full", "none", "left", "right", "top", "bottom")
"""How markers are filled, by the place of their width in `WIDTHS`."""
DASHES: tuple[tuple[float, ...], ...] = (
    *((), (4, 1.5), (1, 1.2), (7, 1.5, 1, 1.5), (9, 1.5)),
    (4, 1.5, 1, 1.5, 1, 1.5),
)
"""Lengths of dash and gap in line widths; none is a solid line."""
FIRST = ("bt", "mix")
"""Methods that have the first colours in every study."""
INK, GREY, PALE = "#222222", "#595959", "#E6E6E6"


@dataclass(frozen=True)
class Look:
    """How a line is drawn: the same mark for a method and a width in every study.

    Attributes:
        colour: of the method, in hex.
        marker: of the method, matplotlib's sign.
        fill: of the width, matplotlib's style of filling, see `FILLS`.
        dash: as in `DASHES`; of the width where lines have several.
    """

    colour: str
    marker: str
    fill: str = "full"
    dash: tuple[float, ...] = ()


BEHIND = Look("#B0B0B0", "o")
"""How a line is drawn that others are seen before."""


def ordered(methods: Iterable[str], known: Iterable[str] = ()) -> list[str]:
    """Each method once: `FIRST`, then in the order of the known, then the others sorted."""
    present = set(methods) | set(known)
    order = dict.fromkeys([*FIRST, *known, *sorted(present)])
    return [method for method in order if method in present]


def looks(
    lines: Iterable[tuple[str, int]], methods: Iterable[str] = ()
) -> dict[tuple[str, int], Look]:
    """The look of each (method, embedding width), in the order of a legend.

    A tenth method has the first one's colour with another marker.

    Args:
        lines: those that a figure draws.
        methods: all methods of the study in its order, so that each keeps its colour in figures
            that lack some of them; without them the drawn ones decide.
    """
    drawn = set(lines)
    order = ordered((method for method, _ in drawn), methods)
    unusual = sorted({dim for _, dim in drawn if dim} - {*WIDTHS})
    places = {dim: place for place, dim in enumerate([*WIDTHS, *unusual])} | {0: 0}
    several = len({dim for _, dim in drawn}) > 1
    slots = [*FIRST, *(method for method in order if method not in FIRST)]
    given = {}
    for method, dim in sorted(drawn, key=lambda line: (order.index(line[0]), line[1])):
        slot, width = slots.index(method), places[dim]
        turn = slot // len(COLOURS)
        given[method, dim] = Look(
            colour=COLOURS[slot % len(COLOURS)],
            marker=MARKERS[slot % len(MARKERS)],
            fill=FILLS[width % len(FILLS)],
            dash=DASHES[(width if several else turn) % len(DASHES)],
        )
    return given


def line_label(method: str, dim: int) -> str:
    """A line's name in legends; imported weights have no width (`frames.NONE`)."""
    return f"{method}, d = {dim}" if dim else method
