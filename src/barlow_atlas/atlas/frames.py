"""Tidy tables: one row for each run, milestone, probe, split and metric."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from barlow_atlas.study import KNN

CURVE = ["study", "method", "embedding_dim", "epochs", "protocol", "probe", "setting", "split"]
COLUMNS = [*CURVE, "metric", "run", "seed", "epoch", "count", "value"]
METRICS = ("top1", "top5")


def read_probes(files: Iterable[Path]) -> pd.DataFrame:
    """The tidy table of probe files, columns `COLUMNS`; `value` is in percent."""
    rows = [row for file in files for row in probe_rows(json.loads(file.read_text()))]
    return pd.DataFrame(rows, columns=COLUMNS)


def probe_rows(content: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """The rows of one milestone's probe file."""
    run = content["run"]
    shared = {
        "study": content["study"],
        "method": run["method"],
        "embedding_dim": run["embedding_dim"],
        "epochs": run["epochs"],
        "protocol": run["protocol"],
        "run": content["name"],
        "seed": run["seed"],
        "epoch": content["epoch"],
    }
    for result in content["results"]:
        for metric in METRICS:
            yield {
                **shared,
                "probe": result["probe"],
                "setting": setting(result["probe"], result["settings"]),
                "split": result["split"],
                "count": result["count"],
                "metric": metric,
                "value": result[metric],
            }


def setting(probe: str, settings: dict[str, Any]) -> str:
    """What a number of this probe must be printed with; the same for all runs of a study."""
    if probe == "knn":
        return KNN.model_validate(settings).label
    return (
        f"{settings['epochs']} epochs {settings['training_images']} BN {settings['batch_norm']} "
        f"{settings['feature']}"
    )
