"""The figures of a study and of the ledger: pure functions, tidy frames in, figures out.

Each is as wide as a page's text, in one style; its caption says under which protocol it stands,
from how many seeds and what its bands are. docs/reports.md says how to read them.
"""

from barlow_atlas.report.figures.answer import answer_figure
from barlow_atlas.report.figures.canvas import COLUMN, STYLE, Drawing, in_pdf, save, svg
from barlow_atlas.report.figures.comparison import published
from barlow_atlas.report.figures.correlation import correlations
from barlow_atlas.report.figures.curves import accuracy_curves
from barlow_atlas.report.figures.factors import one_factor
from barlow_atlas.report.figures.forests import claims_forest, forest
from barlow_atlas.report.figures.label_free import signals
from barlow_atlas.report.figures.lost import lost_map
from barlow_atlas.report.figures.training import dynamics

__all__ = [
    "COLUMN",
    "STYLE",
    "Drawing",
    "accuracy_curves",
    "answer_figure",
    "claims_forest",
    "correlations",
    "dynamics",
    "forest",
    "in_pdf",
    "lost_map",
    "one_factor",
    "published",
    "save",
    "signals",
    "svg",
]
