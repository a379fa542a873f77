"""Where a study's files lie, relative to the repository's root; docs/architecture.md lists them."""

from collections.abc import Iterable
from pathlib import Path

from barlow_atlas.study.models import ForeignRun, Run

PARAMS = Path("params")
RESULTS = Path("results")
REPORTS = Path("reports")
DATA = RESULTS / "data"
RAW_DATA = DATA / "raw"
FEATURES = RESULTS / "features"
"""Of encoded images, while a milestone is probed."""
SCHEMA = Path("workflow/schemas/study.schema.json")
LOCKS = Path(".snakemake/atlas")
"""Who works on a study, on images, on the ledger."""

CLAIMS = PARAMS / "claims.yaml"
PUBLISHED = PARAMS / "published.csv"
PAPER_TABLES = PARAMS / "tables.yaml"

COLLECTED = ("probes.csv", "signals.csv", "runs.csv")
ANALYSED = (
    *("curves.csv", "accuracy.csv", "effects.csv", "factors.csv", "losses.csv"),
    *("label_free.csv", "claims.csv", "metrics.json"),
)
"""With those of `COLLECTED`, the tables of a study in `results/<study>/`."""
KEPT_TABLES = ("accuracy.csv", "effects.csv", "claims.csv", "metrics.json")
"""Those in git; the others are made of the records in seconds."""

FIGURES = {
    "answer": "the answer: accuracy along pre-training, and the objective below it",
    "curves": "accuracy along pre-training",
    "map": "accuracy lost against the peak, by epoch and width",
    "effects": "effects and their intervals",
    "factors": "accuracy and its fall, one setting at a time",
    "signals": "label-free signals against accuracy",
    "dynamics": "loss terms on training and held-out images",
    "correlations": "cross-correlation matrices before and after training",
}
TABLES = ("milestones", "effects", "label_free", "published", "runs")
TABLE_ENDINGS = (".csv", ".md", ".tex")
CAPTION = ".caption.tex"
FIGURE_ENDINGS = (".png", ".pdf", CAPTION)
FIGURE_PAGE = "figures.md"
PAGE = "index.html"


def files_of(names: Iterable[str], endings: Iterable[str]) -> tuple[str, ...]:
    """Each name with each ending."""
    return tuple(f"{name}{ending}" for name in names for ending in endings)


REPORTED = (
    *(PAGE, FIGURE_PAGE),
    *files_of(FIGURES, FIGURE_ENDINGS),
    *files_of(TABLES, TABLE_ENDINGS),
)
"""What a study's report consists of, in `reports/<study>/`."""

LEDGER = (
    *(PAGE, FIGURE_PAGE, "claims.md", "claims.csv"),
    *files_of(("answer", "claims", "published"), FIGURE_ENDINGS),
)
"""What is said over all studies, in `reports/`, beside the papers' tables in `reports/tables/`."""

KEPT_ENDINGS = (".html", ".png", ".md")
"""Of what is in git of the reports: what people look at."""
ON_THE_PAGE = (FIGURE_PAGE, "runs.md")
"""And of that, what the page has as well, and nobody links to."""

COOLED = "cooled"
"""Folder of annealed branches, beside the milestones of their trunk."""


def milestone_path(folder: Path, epoch: int, suffix: str) -> Path:
    """`folder/epoch_0100<suffix>` (suffix with its dot)."""
    return folder / f"epoch_{epoch:04d}{suffix}"


def data_manifest(data_set: str) -> Path:
    """What says that a data set is prepared, and what it is."""
    return DATA / data_set / "manifest.json"


def of_run(kind: str, study: str, run: str) -> Path:
    """The folder of a run's `checkpoints`, `training` metrics or `probes`."""
    return RESULTS / study / kind / run


def probed_milestone(study: str, run: Run | ForeignRun, epoch: int) -> Path:
    """The manifest of what is probed at `epoch`: under the schedule `trunk`, the annealed branch.

    Epoch 0 is probed as it is: nothing has been trained that could be annealed.
    """
    branch = isinstance(run, Run) and run.cooldown_epochs and epoch
    return manifest_file(study, run.name, epoch, bool(branch))


def manifest_file(study: str, run: str, epoch: int, cooled: bool = False) -> Path:
    """The manifest of a milestone's checkpoint, or of the branch annealed from there."""
    folder = of_run("checkpoints", study, run)
    return milestone_path(folder / COOLED if cooled else folder, epoch, ".json")


def probe_file(study: str, run: Run | ForeignRun, epoch: int) -> Path:
    """What the probes found at a milestone."""
    return milestone_path(of_run("probes", study, run.name), epoch, ".json")


def training_file(study: str, run: str, until: int, cooled: bool = False) -> Path:
    """The metrics of a run's training up to a milestone, or of the branch annealed from there."""
    folder = of_run("training", study, run)
    return milestone_path(folder / COOLED if cooled else folder, until, ".jsonl")


def record_file(study: str, run: str) -> Path:
    """All that is kept of a run: training metrics, and what the probes found."""
    return RESULTS / study / "runs" / f"{run}.jsonl"


def is_kept(file: Path) -> bool:
    """Whether a table, figure or page is kept in git."""
    if file.is_relative_to(RESULTS):
        return file.name in KEPT_TABLES
    return file.suffix in KEPT_ENDINGS and file.name not in ON_THE_PAGE
