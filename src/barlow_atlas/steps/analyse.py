"""Tidy tables -> curves, effects and claims."""

import json
from pathlib import Path

import pandas as pd

from barlow_atlas.atlas import curves, effects, ledger, lines
from barlow_atlas.atlas.stored import (
    DIGITS,
    HERE,
    claims_of,
    contents,
    planned,
)
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import RESULTS


def analyse(name: str, study: Study, into: Path = HERE) -> None:
    """Computes a study's curves, effects and claims, with their intervals."""
    results = into / RESULTS / name
    mean = curves.mean_curves(pd.read_csv(results / "probes.csv"))
    found = lines.read_lines(contents(name, study), planned(study))
    computed = {
        "curves.csv": mean,
        "accuracy.csv": curves.accuracy_columns(mean),
        "effects.csv": effects.effects(found),
        "losses.csv": effects.losses(found),
        "label_free.csv": effects.label_free(found),
        "claims.csv": ledger.study_claims(claims_of(name), found),
    }
    for file, table in computed.items():
        table.to_csv(results / file, index=False, float_format=DIGITS)
    headline = json.dumps(curves.headline(mean), indent=1)
    (results / "metrics.json").write_text(f"{headline}\n")
