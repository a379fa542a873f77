"""A study's own training metrics as a tidy table."""

import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from barlow_atlas.study.models import Run

TRAINING_COLUMNS = ["run", "method", "embedding_dim", "seed", "epoch", "loss"]


def read_training(files: Iterable[tuple[Run, Path]]) -> pd.DataFrame:
    """The training loss of each epoch, columns `TRAINING_COLUMNS`.

    The loss is the method's own, mean over the epoch's steps: losses of different methods have no
    common scale.

    Args:
        files: each file of training metrics (JSON lines, one an epoch) with the run it is of.

    Raises:
        ValueError: a line that is no JSON object with an epoch and a loss; the message names it.
    """
    rows = [
        (run.name, run.method, run.embedding_dim, run.seed, *_point(line, path, number))
        for run, path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
    ]
    return pd.DataFrame(rows, columns=TRAINING_COLUMNS).astype({"loss": float})


def _point(line: str, path: Path, number: int) -> tuple[int, float]:
    try:
        record = json.loads(line)
        return int(record["epoch"]), float(record["loss"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}, line {number}: expected a JSON object with epoch and loss, found "
            f"{line[:80]!r}; remove the file, the segment's job writes it again"
        ) from error
