"""A study's own training metrics as a tidy table."""

from collections.abc import Iterable

import pandas as pd

from barlow_atlas.atlas.records import Record
from barlow_atlas.study.models import Run

TRAINING_COLUMNS = ["run", "method", "embedding_dim", "seed", "epoch", "loss"]


def training_table(records: Iterable[tuple[Run, Record]]) -> pd.DataFrame:
    """The training loss of each epoch, columns `TRAINING_COLUMNS`; branches are left out.

    The loss is the method's own, mean over the epoch's steps: losses of different methods have no
    common scale.

    Args:
        records: each run with its record.
    """
    rows = [
        (run.name, run.method, run.embedding_dim, run.seed, epoch, loss)
        for run, record in records
        for stretch, metrics in record.training.items()
        if metrics and not stretch.cooled
        for epoch, loss in zip(metrics["epoch"], metrics["loss"], strict=True)
    ]
    return pd.DataFrame(rows, columns=TRAINING_COLUMNS).astype({"loss": float})
