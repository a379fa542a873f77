"""Where a study's files lie, relative to the repository's root; docs/architecture.md lists them."""

from pathlib import Path

from barlow_atlas.study import ForeignRun, Run

PARAMS = Path("params")
RESULTS = Path("results")
REPORTS = Path("reports")
DATA = RESULTS / "data"
RAW_DATA = DATA / "raw"
SCHEMA = Path("workflow/schemas/study.schema.json")

REPORT_FILES = ("curves.png", "curves.pdf", "milestones.csv", "milestones.md", "milestones.tex")
"""What a study's report consists of, in `reports/<study>/`."""

COOLED = "cooled"
"""Folder of annealed branches, beside the milestones of their trunk."""


def milestone_path(folder: Path, epoch: int, suffix: str) -> Path:
    """`folder/epoch_0100<suffix>` (suffix with its dot)."""
    return folder / f"epoch_{epoch:04d}{suffix}"


def of_run(kind: str, study: str, run: str) -> Path:
    """The folder of a run's `checkpoints`, `training` metrics or `probes`."""
    return RESULTS / study / kind / run


def probed_milestone(study: str, run: Run | ForeignRun, epoch: int) -> Path:
    """The manifest of what is probed at `epoch`: under the schedule `trunk`, the annealed branch.

    Epoch 0 is probed as it is: nothing has been trained that could be annealed.
    """
    folder = of_run("checkpoints", study, run.name)
    branch = isinstance(run, Run) and run.cooldown_epochs and epoch
    return milestone_path(folder / COOLED if branch else folder, epoch, ".json")


def probe_file(study: str, run: Run | ForeignRun, epoch: int) -> Path:
    """What the probes found at a milestone."""
    return milestone_path(of_run("probes", study, run.name), epoch, ".json")
