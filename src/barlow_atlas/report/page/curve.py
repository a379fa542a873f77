"""What page.js draws: every curve of a study, as plain lists."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from barlow_atlas.atlas.curves import peak_epoch
from barlow_atlas.atlas.frames import LINE
from barlow_atlas.report.figures.palette import looks

DECIMALS = 4
"""As many as curves.csv has between 10 and 100 %, or a value would be rounded twice."""


def curve_data(
    curves: pd.DataFrame, probes: pd.DataFrame, methods: Iterable[str] = ()
) -> dict[str, Any]:
    """The interactive curve's data, embedded in the page and served as data.json.

    Args:
        curves: columns of curves.csv, of one study.
        probes: columns of probes.csv, for the lines of single seeds.
        methods: all methods in the study's order, so that colours are those of the figures.

    Returns:
        `lines`, an entry a line of the atlas with its `curves[split][metric]`: lists `epoch`,
        `mean`, `low`, `high` (percent; None where there is no interval), `n` and, for each of
        `seeds`, a list of values (None where a seed lacks the milestone). `peak` is the
        `peak_epoch` of validation top-1, None without validation images. `look` is
        that of the figures, dashes in line widths.
    """
    drawn = looks(zip(curves["method"], curves["embedding_dim"], strict=True), methods)
    values = {
        key: dict(zip(rows["epoch"], rows["value"], strict=True))
        for key, rows in probes.groupby([*LINE, "split", "metric", "seed"], sort=True)
    }
    seeds_of: dict[tuple[object, ...], list[Any]] = {}
    for key in values:
        seeds_of.setdefault(tuple(key[:-1]), []).append(key[-1])
    lines: dict[tuple[object, ...], dict[str, Any]] = {}
    for key, rows in curves.groupby([*LINE, "split", "metric"], sort=False):
        *line, split, metric = key
        named = dict(zip(LINE, line, strict=True))
        look = drawn[str(named["method"]), _integer(named["embedding_dim"])]
        entry = lines.setdefault(
            tuple(line), {**named, "look": asdict(look), "peak": None, "curves": {}}
        )
        epochs = [int(epoch) for epoch in rows["epoch"]]
        entry["curves"].setdefault(split, {})[metric] = {
            "epoch": epochs,
            **{name: [_short(value) for value in rows[name]] for name in ("mean", "low", "high")},
            "n": [int(n) for n in rows["seeds"]],
            "seeds": {
                str(seed): [_short(values[*key, seed].get(epoch)) for epoch in epochs]
                for seed in seeds_of.get(tuple(key), [])
            },
        }
        if (split, metric) == ("validation", "top1"):
            entry["peak"] = peak_epoch(rows)
    return {"lines": list(lines.values())}


def script_json(content: Mapping[str, Any]) -> str:
    """JSON that can stand inside a <script> element, whatever its strings hold."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    escapes: Iterable[str] = "<>&\u2028\u2029"
    for sign in escapes:
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _integer(value: object) -> int:
    return int(str(value))


def _short(value: float | None) -> float | None:
    return None if value is None or pd.isna(value) else round(float(value), DECIMALS)
