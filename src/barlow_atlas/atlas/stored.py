"""What lies in the repository: of a study, and of all of them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from barlow_atlas.atlas import frames
from barlow_atlas.atlas.claims import Entry, entries, load_claims
from barlow_atlas.study import paths
from barlow_atlas.study.file import find_studies, load_study
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import PARAMS, RESULTS, probe_file

HERE = Path()


DIGITS = "%.6g"
"""Of derived numbers: more than any interval needs, fewer than rounding errors reach."""


def all_studies() -> dict[str, Study]:
    """Every study there is, by name."""
    return {name: load_study(path) for name, path in find_studies(PARAMS).items()}


def analysed() -> list[str]:
    """The studies that have tables here."""
    return [name for name in find_studies(PARAMS) if (RESULTS / name / "claims.csv").is_file()]


def planned(study: Study) -> dict[str, tuple[int, ...]]:
    """The milestones that each run of a study is to have."""
    return {run.name: study.milestones_of(run) for run in study.runs()}


def claims_of(name: str) -> list[Entry]:
    """The ledger's entries about a study, checked against all studies there are."""
    return [
        entry for entry in entries(load_claims(paths.CLAIMS), all_studies()) if entry.study == name
    ]


def probe_files(name: str, study: Study) -> list[Path]:
    return [
        probe_file(name, run, epoch) for run in study.runs() for epoch in study.milestones_of(run)
    ]


def contents(name: str, study: Study) -> list[dict[str, Any]]:
    return frames.read_contents(file for file in probe_files(name, study) if file.is_file())


def training_files(name: str, study: Study) -> Iterator[tuple[Any, Path]]:
    for run in study.trained():
        folder = paths.of_run("training", name, run.name)
        for epoch in study.milestones_of(run):
            file = paths.milestone_path(folder, epoch, ".jsonl")
            if file.is_file():
                yield run, file


def reader(results: Path) -> Callable[[str], pd.DataFrame]:
    """Reads a study's tables by name; texts that are empty stay texts."""
    return lambda name: frames.read_table(results / f"{name}.csv")


def folder_at(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
