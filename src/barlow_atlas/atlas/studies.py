"""What is planned and claimed: of a study, and of all of them."""

import functools
import sys
from collections import defaultdict
from collections.abc import Mapping

from barlow_atlas.atlas.claims import ClaimError, Claims, Entry, entries, load_claims
from barlow_atlas.errors import not_allowed
from barlow_atlas.study.file import load_studies
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import CLAIMS, PARAMS, RESULTS


def all_studies() -> dict[str, Study]:
    """Every study that can be read, by name; the others are warned of."""
    return load_studies(PARAMS, warn)


@functools.cache
def warn(line: str) -> None:
    """Says what is left out, once."""
    print(f"warning: {line}", file=sys.stderr, flush=True)


def is_analysed(name: str) -> bool:
    """Whether a study has results here that the ledger reads."""
    return (RESULTS / name / "claims.csv").is_file()


def planned(study: Study) -> dict[str, tuple[int, ...]]:
    """The milestones that each run of a study is to have."""
    return {run.name: study.milestones_of(run) for run in study.runs()}


def claims_of(name: str, study: Study) -> list[Entry]:
    """The ledger's entries about a study.

    Raises:
        ClaimError: a claim names what the study has not.
    """
    return entries(_about(name, load_claims(CLAIMS)), {name: study})


def all_entries(studies: Mapping[str, Study]) -> list[Entry]:
    """The ledger's entries, in the order of the claims and their studies.

    Studies that cannot be read, or that claims do not fit, are warned of and left out.
    """
    claims = load_claims(CLAIMS)
    ledger: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for name in claims.studies:
        try:
            if name not in studies:
                raise ClaimError(str(not_allowed("study", name, list(studies))))
            for entry in entries(_about(name, claims), studies):
                ledger[entry.claim.id, name].append(entry)
        except ClaimError as error:
            warn(f"{CLAIMS}: claims on {name} are left out: {error}")
    return [
        entry
        for claim in claims.claims
        for name in claim.studies
        for entry in ledger[claim.id, name]
    ]


def _about(name: str, claims: Claims) -> Claims:
    """The claims that a study tests, on it alone."""
    tested = (claim for claim in claims.claims if name in claim.studies)
    alone = tuple(claim.model_copy(update={"studies": (name,)}) for claim in tested)
    return claims.model_copy(update={"claims": alone})
