"""Words that several tables and pages share, and text from anywhere, escaped.

For LaTeX and Markdown; HTML is escaped by `html.escape` or Jinja.
"""

import re
import unicodedata
from collections.abc import Iterable

MINUS = "\N{MINUS SIGN}"
PROTOCOLS = {
    "clean": "validation images held out of pre-training and probing choose peaks and settings",
    "reference": "as the papers' code does it, without validation images",
}
"""Protocols in words."""

PROBES = ("linear", "knn")
"""In the order in which papers report them; others come after."""


def probe_order(probe: object) -> tuple[int, str]:
    """Sorts probes as `PROBES` has them."""
    known = PROBES.index(str(probe)) if probe in PROBES else len(PROBES)
    return known, str(probe)


def probe_words(probe: str, variant: str) -> str:
    """A probe's name in a sentence, such as "linear probe (standard)"."""
    known = {"knn": "kNN", "fine_tuned": "fine-tuning", "online_linear": "online linear probe"}
    return f"{known.get(probe, f'{probe} probe')} ({variant})"


def duration(seconds: float) -> str:
    """Such as 45 s, 12 min, 3.5 h or 21 d."""
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


# What LaTeX reads as a command or prints as another sign, and signs that a font lacks in text.
_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    # After the end of a line these two would be its options.
    **{sign: f"{{{sign}}}" for sign in "[*"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    MINUS: r"$-$",
    "\N{INFINITY}": r"$\infty$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{LESS-THAN OR EQUAL TO}": r"$\leq$",
    "\N{GREATER-THAN OR EQUAL TO}": r"$\geq$",
    "\N{RIGHTWARDS ARROW}": r"$\to$",
    "\N{GREEK SMALL LETTER ALPHA}": r"$\alpha$",
    "\N{GREEK SMALL LETTER LAMDA}": r"$\lambda$",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
    "\N{LEFT SINGLE QUOTATION MARK}": "`",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{LEFT DOUBLE QUOTATION MARK}": r"\textquotedblleft{}",
    "\N{RIGHT DOUBLE QUOTATION MARK}": r"\textquotedblright{}",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
}
# Two signs that a font would print as one.
_LIGATURE = re.compile(r"(?<=-)(?=-)|(?<=,)(?=,)")
_MARKDOWN = re.compile(
    r"[\\`*|~$#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"
    # Brackets only where they could be a link, a footnote or a check box.
    r"|^\[|\[(?=\^)|\](?=[(\[:])"
)
# What begins a list, a rule or a heading: escaped, it begins a line of text.
_BLOCK = re.compile(r"^(\d*)([-+=.)])(?=\2|\s|$)")


def plain(text: str) -> str:
    """The text in one line: white space of any kind is one space, control characters are gone."""
    seen = (sign for sign in text if sign.isspace() or unicodedata.category(sign)[0] != "C")
    return " ".join("".join(seen).split())


def latex(text: str) -> str:
    """One line that LaTeX prints as it stands, with `\\usepackage[T1]{fontenc}`.

    Letters beyond Western European ones and the signs above, which pdflatex would stop at, become
    their code point, as [U+4E2D].
    """
    signs = unicodedata.normalize("NFC", plain(text))
    apart = _LIGATURE.sub("\0", signs)
    return "".join("{}" if sign == "\0" else _in_latex(sign) for sign in apart)


def _in_latex(sign: str) -> str:
    if sign in _LATEX:
        return _LATEX[sign]
    return sign if ord(sign) < 0x100 else f"{{[}}U+{ord(sign):04X}]"


def markdown(text: str) -> str:
    """One line that CommonMark and GitHub's tables print as it stands, in a cell or anywhere."""
    safe = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    escaped = _MARKDOWN.sub(r"\\\g<0>", safe)
    return _BLOCK.sub(r"\1\\\2", escaped)


def markdown_table(rows: Iterable[Iterable[str]]) -> str:
    """Rows of cells that are Markdown already; the second one is the rule below the head."""
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)
