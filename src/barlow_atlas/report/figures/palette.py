"""How a method and a width look in every figure: colour, marker, dashes. Imports no matplotlib."""

from collections.abc import Iterable
from dataclasses import dataclass

COLOURS = (
    *("#0072B2", "#E69F00"),
    *("#56B4E9", "#661100", "#777777", "#332288", "#D2B48C", "#000000", "#8A5A00"),
)
"""Nine colours that readers of any colour vision tell apart: see test_figures.py."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
DASHES: tuple[tuple[float, ...], ...] = ((), (4, 1.5), (1, 1.2), (7, 1.5, 1, 1.5), (9, 1.5))
"""Lengths of dash and gap in line widths, by width of the embedding; none is a solid line."""
FIRST = ("bt", "mix")
"""Methods that have the first colours in every study."""
INK, GREY, PALE = "#222222", "#595959", "#E6E6E6"


@dataclass(frozen=True)
class Look:
    """How a line is drawn.

    Attributes:
        colour: of the method, in hex.
        marker: matplotlib's sign. It tells methods apart, or widths where methods have several.
        dash: as in `DASHES`.
        hollow: markers are open, the second code of a method where markers tell widths.
    """

    colour: str
    marker: str
    dash: tuple[float, ...]
    hollow: bool


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
    dims = sorted({dim for _, dim in drawn})
    several = len({method for method, _ in drawn}) < len(drawn)
    slots = [*FIRST, *(method for method in order if method not in FIRST)]
    given = {}
    for method, dim in sorted(drawn, key=lambda line: (order.index(line[0]), line[1])):
        slot, width = slots.index(method), dims.index(dim)
        turn = slot // len(COLOURS)
        given[method, dim] = Look(
            colour=COLOURS[slot % len(COLOURS)],
            marker=MARKERS[(width if several else slot + turn) % len(MARKERS)],
            dash=DASHES[width % len(DASHES)] if several else DASHES[turn % len(DASHES)],
            hollow=several and slot % 2 == 1,
        )
    return given


def line_label(method: str, dim: int) -> str:
    """A line's name in legends; imported weights have no width (`frames.NONE`)."""
    return f"{method}, d = {dim}" if dim else method
