"""Studies for the page's tests: the demo's real numbers, and constructed ones of known answer."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from barlow_atlas.atlas.curves import mean_curves
from barlow_atlas.atlas.effects import effects
from barlow_atlas.atlas.frames import COLUMNS, LINE, SIGNAL_COLUMNS
from barlow_atlas.atlas.ledger import LEDGER_COLUMNS
from barlow_atlas.atlas.lines import Line
from barlow_atlas.atlas.runs import RUN_COLUMNS
from barlow_atlas.report import tables
from barlow_atlas.report.page import Figure, IndexView, Picture, StudyView, TableView
from barlow_atlas.report.tables import Column, Table

OBJECTIVES = {
    "bt": "barlow_twins lambda_bt=0.0078125",
    "mix": "mixed_barlow_twins lambda_bt=0.0078125 lambda_reg=4.0 convention=small-data",
}
MILESTONES = (0, 10, 50, 100, 200, 400)
SETTINGS = {
    ("linear", "standard"): "standard, 100 epochs, adam, chosen on validation",
    ("knn", "k=200 T=0.5"): "k=200 T=0.5",
}
Course = Callable[[np.ndarray], np.ndarray]


def rising(epochs: np.ndarray) -> np.ndarray:
    return 60 + 5 * np.log2(1 + epochs)


def falling(epochs: np.ndarray) -> np.ndarray:
    """Rises up to epoch 100, then loses 3 points a doubling."""
    return rising(np.minimum(epochs, 100)) - 3 * np.log2(np.maximum(epochs, 100) / 100)


def simulated(
    courses: Mapping[str, Course],
    study: str = "made-up",
    dims: Sequence[int] = (256,),
    seeds: Sequence[int] = (1, 2, 3),
    milestones: Sequence[int] = MILESTONES,
    validation: bool = True,
    images: int = 2000,
) -> list[Line]:
    """Lines whose expected accuracy is the course; every bit of an image is drawn by itself."""
    rng = np.random.default_rng(1)
    epochs = np.array(milestones)

    def bits(accuracy: np.ndarray) -> np.ndarray:
        return rng.random((len(seeds), len(epochs), images)) < accuracy[None, :, None] / 100

    return [
        Line(
            study=study,
            method=method,
            embedding_dim=dim,
            epochs=int(epochs[-1]),
            protocol="clean" if validation else "reference",
            objective=OBJECTIVES.get(method, method),
            probe=probe,
            variant=variant,
            setting=setting,
            run={"method": method, "embedding_dim": dim},
            seeds=tuple(seeds),
            milestones=epochs,
            validation=100 * bits(course(epochs)).mean(axis=2) if validation else None,
            correct=bits(course(epochs)),
            signals={},
        )
        for method, course in courses.items()
        for dim in dims
        for (probe, variant), setting in SETTINGS.items()
    ]


def probe_frame(lines: Sequence[Line]) -> pd.DataFrame:
    """probes.csv of these lines; a top-5 that lies between top-1 and 100 %."""
    rows = [
        {
            **{name: getattr(line, name) for name in LINE},
            "split": split,
            "metric": metric,
            "run": f"{line.method}-d{line.embedding_dim}-s{seed}",
            "seed": seed,
            "epoch": int(epoch),
            "count": line.correct.shape[2],
            "value": value if metric == "top1" else (value + 300) / 4,
        }
        for line in lines
        for split, table in (
            ("validation", line.validation),
            ("test", 100 * line.correct.mean(axis=2)),
        )
        if table is not None
        for seed, values in zip(line.seeds, table, strict=True)
        for epoch, value in zip(line.milestones, values, strict=True)
        for metric in ("top1", "top5")
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def run_frame(probes: pd.DataFrame, planned: Sequence[int] = MILESTONES) -> pd.DataFrame:
    """runs.csv of the runs that were probed."""
    keys = ["run", "method", "embedding_dim", "epochs", "protocol", "seed"]
    rows = []
    for key, rows_of in probes.groupby(keys, sort=True):
        there = sorted(set(rows_of["epoch"]))
        rows.append(
            {
                **dict(zip(keys, key, strict=True)),
                "milestones": len(there),
                "planned": len(planned),
                "missing": " ".join(str(epoch) for epoch in planned if epoch not in there),
                "commit": "0123456789abcdef0123456789abcdef01234567",
                "changed": False,
                "python": "3.11.7",
                "torch": "2.13.0",
                "torchvision": "0.28.0",
                "device": "cpu",
                "machine": "x86_64",
                "seconds": 61.25,
                "data_sha256": "d" * 64,
                "weights_sha256": "a" * 64,
                "lineage": "b" * 64,
            }
        )
    return pd.DataFrame(rows, columns=RUN_COLUMNS)


def claim_frame(rows: Sequence[Mapping[str, object]] = ()) -> pd.DataFrame:
    """Rows of the ledger."""
    row = {
        "claim": "mix-removes-the-fall",
        "entry": "mix-removes-the-fall/made-up/linear",
        "text": "With mixing the accuracy does not fall.",
        "source": "MIX paper, section 4.1",
        "study": "made-up",
        "role": "stand-in",
        "differs": "coin flips in place of images",
        "compared": "mix",
        "widths": "256",
        "seen_by": "linear standard",
        "test": "drop_from_best",
        "holds": "not above",
        "smallest": 0.5,
        "unit": "points",
        "estimate": 0.12,
        "low": -0.2,
        "high": 0.44,
        "n": 3,
        "df": 2,
        "verdict": "reproduced",
        "note": "",
    }
    return pd.DataFrame([{**row, **other} for other in rows], columns=list(LEDGER_COLUMNS))


CLAIMS = claim_frame(
    [
        {},
        {
            "claim": "bt-falls",
            "text": "Barlow Twins' accuracy falls past some epoch.",
            "compared": "bt",
            "holds": "above",
            "estimate": 6.1,
            "low": 3.9,
            "high": 8.3,
        },
        {
            "claim": "fall-grows-with-width",
            "text": "The fall grows with the width of the embedding.",
            "estimate": np.nan,
            "low": np.nan,
            "high": np.nan,
            "n": 0,
            "holds": "above",
            "smallest": 0.2,
            "verdict": "not yet run",
            "note": "the study has one width",
        },
    ]
)
DRAWING = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 200 80">'
    '<path d="M10 70L60 20L120 40L190 10" fill="none" stroke="#0072B2"/></svg>'
)
TABLE = tables.html(
    Table(
        "Accuracy at the milestones",
        (
            Column("method", "method"),
            Column("mean", "epoch 100", decimals=2, interval=("low", "high"), half=True),
        ),
        pd.DataFrame(
            [
                ("bt", 9.5, 9.3, 9.7),
                ("mix", 80.25, 80.15, 80.35),
                ("simclr", -3.0, np.nan, np.nan),
                ("byol", np.nan, np.nan, np.nan),
            ],
            columns=["method", "mean", "low", "high"],
        ),
    )
)


def stored(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame as it comes back from its CSV file."""
    return pd.read_csv(io.StringIO(frame.to_csv(index=False, float_format="%.6g")))


def view_of(lines: Sequence[Line], **others: object) -> StudyView:
    """The view of constructed lines."""
    probes = probe_frame(lines)
    view = StudyView(
        name="made-up",
        title="A made-up study",
        protocol=lines[0].protocol if lines else "clean",
        data="2,000 coin flips",
        curves=stored(mean_curves(probes)),
        probes=stored(probes),
        signals=pd.DataFrame(columns=SIGNAL_COLUMNS).astype({"value": float}),
        effects=stored(effects(lines)),
        claims=CLAIMS,
        runs=stored(run_frame(probes)),
        pictures=(Picture(DRAWING, "Accuracy rises, then falls."),),
        figures=(
            Figure("curves", "Accuracy along pre-training", "Bands are 95 %.", "It rises.", (9, 5)),
            Figure("map", "The map: accuracy lost", "Warm cells have lost.", "It falls.", (9, 5)),
        ),
        tables=(TableView("milestones", "Accuracy at the milestones", TABLE),),
        command="make report STUDY=made-up",
    )
    return replace(view, **others)


def index_view(*studies: StudyView) -> IndexView:
    """The page over these studies."""
    return IndexView(
        studies=studies,
        claims=CLAIMS,
        figures=(Figure("claims", "The papers' claims", "Effects.", "Two of three.", (9, 5)),),
        tables=(TableView("small", "Small data sets", TABLE),),
        command="make reports",
    )
