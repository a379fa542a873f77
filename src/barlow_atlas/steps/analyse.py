"""Tidy tables and records -> curves, effects and claims."""

import json
from pathlib import Path

import pandas as pd

from barlow_atlas.atlas import curves, effects, frames, ledger, lines, records
from barlow_atlas.atlas.studies import claims_of, planned
from barlow_atlas.atomic import write_atomically
from barlow_atlas.report.text import probe_order
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import RESULTS


def analyse(name: str, study: Study, root: Path = Path()) -> None:
    """Computes a study's curves, effects and claims, with their intervals.

    Args:
        root: below which the tables lie and are written, as `results/<study>/`.

    Raises:
        RecordError: a record is damaged.
        WriteError: a table cannot be written; the old one is as it was.
    """
    results = root / RESULTS / name
    mean = curves.mean_curves(pd.read_csv(results / "probes.csv"))
    every = lines.read_all(records.contents(name, study), planned(study))
    study_lines = [line for line in every if isinstance(line, lines.Line)]
    precisions = [line for line in every if isinstance(line, lines.Precision)]
    computed = {
        "curves.csv": mean,
        "accuracy.csv": curves.accuracy_columns(mean),
        "effects.csv": effects.effects(study_lines, precisions),
        "factors.csv": effects.factors(study_lines),
        "losses.csv": effects.losses(study_lines),
        "label_free.csv": effects.label_free(study_lines),
        "claims.csv": ledger.study_claims(claims_of(name, study), every),
    }
    for file, table in computed.items():
        frames.write_table(table, results / file)
    headline = json.dumps(curves.headline(_of_main_probe(mean)), indent=1)
    write_atomically(results / "metrics.json", f"{headline}\n".encode())


def _of_main_probe(mean: pd.DataFrame) -> pd.DataFrame:
    """The curves by the probe that the study's answer rests on.

    DVC shows a study's metrics in one row, which people can read if there are few.
    """
    probes = mean[["probe", "variant"]].drop_duplicates().itertuples(index=False, name=None)
    main = min(probes, key=lambda one: probe_order(one[0]), default=("", ""))
    shown: pd.DataFrame = mean[(mean["probe"] == main[0]) & (mean["variant"] == main[1])]
    return shown
