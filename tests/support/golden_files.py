"""Writes golden files, and asks `verify` for their verdict."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from barlow_atlas.verify import table, verify

Json = dict[str, Any]


def facts(array: Any) -> Json:
    array = np.asarray(array.detach() if isinstance(array, Tensor) else array)
    flat = array.ravel()
    found = {
        "shape": list(array.shape),
        "sum": float(flat.sum()),
        "norm": float(np.sqrt((flat**2).sum())),
        "first": flat[:4].tolist(),
        "last": float(flat[-1]),
    }
    return found | ({"values": array.tolist()} if flat.size <= 64 else {})


def input_check(**arrays: np.ndarray) -> Json:
    return {
        name: {
            "sum": math.fsum(array.ravel()),
            "first": float(array.flat[0]),
            "last": float(array.flat[-1]),
        }
        for name, array in arrays.items()
    }


def assert_verified(topic: str, cases: list[Json], folder: Path) -> None:
    content = {"topic": topic, "format_version": 1, "dtype": "float64", "cases": cases}
    (folder / f"other_{topic}.json").write_text(json.dumps(content))
    outcomes = verify(folder)
    assert len(outcomes) == len(cases)
    assert all(outcome.passed for outcome in outcomes), "\n" + table(outcomes)


def draw_views(draws: np.random.Generator, n: int, d: int, count: int) -> list[np.ndarray]:
    scaled = draws.standard_normal((n, d))
    for column, factor in enumerate(np.linspace(0.5, 2, d)):
        scaled[:, column] *= factor
    base = scaled + draws.standard_normal((1, d))
    return [base + 0.5 * draws.standard_normal((n, d)) for _ in range(count)]


def leaves(*arrays: np.ndarray) -> list[Tensor]:
    return [torch.tensor(array, requires_grad=True) for array in arrays]
