"""What is planned and claimed: of a study, and of all of them."""

from barlow_atlas.atlas.claims import Entry, entries, load_claims
from barlow_atlas.study.file import find_studies, load_study
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import CLAIMS, PARAMS, RESULTS


def all_studies() -> dict[str, Study]:
    """Every study there is, by name."""
    return {name: load_study(path) for name, path in find_studies(PARAMS).items()}


def is_analysed(name: str) -> bool:
    """Whether a study has results here that the ledger reads."""
    return (RESULTS / name / "claims.csv").is_file()


def planned(study: Study) -> dict[str, tuple[int, ...]]:
    """The milestones that each run of a study is to have."""
    return {run.name: study.milestones_of(run) for run in study.runs()}


def claims_of(name: str) -> list[Entry]:
    """The ledger's entries about a study, checked against all studies there are."""
    return [entry for entry in entries(load_claims(CLAIMS), all_studies()) if entry.study == name]
