"""Tidy tables of what the probes found: a row for each accuracy, and for each label-free signal."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from barlow_atlas.atomic import write_atomically
from barlow_atlas.errors import AtlasError
from barlow_atlas.probes import PROBES

LINE = (
    *("study", "method", "objective", "embedding_dim", "epochs", "protocol"),
    *("probe", "variant", "setting"),
)
"""What names a line of the map in every table."""
CURVE = [*LINE, "split"]
COLUMNS = [*CURVE, "metric", "run", "seed", "epoch", "count", "value"]
ACCURACIES = ("top1", "top5")
METRICS = (*ACCURACIES, "map", "ap")
"""In percent, those that a probe tells: accuracies, mean average precision of classes, or average
precision of detections, at the overlaps that its variant names."""
HEADLINES = {"top1": "top-1", "map": "mAP", "ap": "AP"}
"""Of each probe one: what it is read by, and how that is called."""
SIGNAL_COLUMNS = [
    *("run", "method", "embedding_dim", "protocol", "seed", "epoch"),
    *("space", "split", "count", "signal", "value"),
]
TEXTS = (
    *("against", "level", "note", "missing", "commit", "python", "torch", "torchvision"),
    *("device", "machine", "adopted", "data_sha256", "weights_sha256", "lineage"),
)
"""Columns whose texts may be empty, or look like numbers."""
DIGITS = "%.6g"
"""Of derived numbers: more than any interval needs, fewer than rounding errors reach."""
NONE = 0
"""Stands for an embedding width or a last epoch that does not exist, so that columns stay whole
numbers and no row is lost in grouping: imported weights have neither, a trunk has no last epoch."""


class UnknownProbe(AtlasError):
    """A probe file of other code."""


def write_table(table: pd.DataFrame, file: Path, digits: str | None = DIGITS) -> None:
    """Writes a table of derived numbers; of measured ones, without `digits`, every digit.

    Raises:
        WriteError: the file cannot be written; the old one is as it was.
    """
    text = table.to_csv(index=False, float_format=digits, lineterminator="\n")
    write_atomically(file, text.encode())


def table_of(results: Path, name: str) -> pd.DataFrame:
    """A table in a study's folder of results: what is text stays text, also where it looks
    otherwise or is empty."""
    table = pd.read_csv(results / f"{name}.csv", dtype=dict.fromkeys(TEXTS, str))
    texts = [name for name in TEXTS if name in table]
    table[texts] = table[texts].fillna("")
    return table


def probe_table(contents: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The tidy table of parsed probe files, columns `COLUMNS`; `value` is in percent."""
    rows = [row for content in contents for row in probe_rows(content)]
    return pd.DataFrame(rows, columns=COLUMNS)


def signal_table(contents: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The tidy table of the label-free signals in probe files, columns `SIGNAL_COLUMNS`.

    A signal that is not defined (alpha-ReQ after a collapse) has the value NaN.
    """
    rows = [row for content in contents for row in signal_rows(content)]
    return pd.DataFrame(rows, columns=SIGNAL_COLUMNS).astype({"value": float})


def headlines(rows: pd.DataFrame) -> pd.DataFrame:
    """Those rows of a table with a column `metric` that probes are read by."""
    return rows[rows["metric"].isin(list(HEADLINES))]


def probe_rows(content: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """The accuracies of one milestone's probe file, and what else its probes are read by."""
    shared = subject(content)
    for result in content["results"]:
        for metric in METRICS:
            if metric not in result:
                continue
            yield {
                **shared,
                **labels(result),
                "split": result["split"],
                "count": result["count"],
                "metric": metric,
                "value": result[metric],
            }


def signal_rows(content: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """The label-free signals of one milestone's probe file."""
    shared = subject(content)
    for record in content["signals"]:
        for name, value in record["values"].items():
            yield {
                **shared,
                "space": record["space"],
                "split": record["split"],
                "count": record["count"],
                "signal": name,
                "value": value,
            }


def subject(content: Mapping[str, Any]) -> dict[str, Any]:
    """What all rows of a probe file share: whose milestone it is, a run's or imported weights'."""
    run = content["run"]
    return {
        "study": content["study"],
        "method": run["method"],
        "objective": objective(run),
        "embedding_dim": run["embedding_dim"] or NONE,
        "epochs": run.get("epochs") or NONE,
        "protocol": run["protocol"],
        "run": content["name"],
        "seed": run["seed"],
        "epoch": content["epoch"],
    }


def labels(result: Mapping[str, Any]) -> dict[str, str]:
    """The `probe`, `variant` and `setting` of a probe's record.

    Raises:
        UnknownProbe: it was asked by other code.
    """
    name, settings = result["probe"], result["settings"]
    if name not in PROBES:
        raise UnknownProbe(
            f"there are answers to a probe {name!r}, which this code does not have: add its file, "
            "or probe again"
        )
    kind = PROBES[name]
    return {"probe": name, "variant": kind.variant(settings), "setting": kind.setting(settings)}


def objective(run: Mapping[str, Any]) -> str:
    """What was minimised, with the weights and convention that a number must be printed with."""
    if "settings" not in run:
        return f"imported, layout {run['layout']}"
    settings = run["settings"]
    shown = ("variant", "lambda_bt", "lambda_reg", "convention")
    told = [f"{key}={settings[key]}" for key in shown if key in settings]
    return " ".join([settings["objective"], *told])
