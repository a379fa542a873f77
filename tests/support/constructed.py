"""A study constructed for the figures: curves of a known course, through the real statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from barlow_atlas.atlas import effects
from barlow_atlas.atlas.curves import mean_curves
from barlow_atlas.atlas.frames import COLUMNS, SIGNAL_COLUMNS
from barlow_atlas.atlas.label_free import SENSES
from barlow_atlas.atlas.lines import Line
from barlow_atlas.atlas.training import TRAINING_COLUMNS

PROBES = (
    ("knn", "k=200 T=0.5", "k=200 T=0.5 cosine backbone"),
    ("linear", "standard", "standard, 100 epochs, adam, images not augmented"),
)
NINE = ("bt", "mix", "byol", "moco-v2", "simclr", "simsiam", "swav", "vicreg", "w-mse")
MILESTONES = (0, 10, 50, 100, 200, 400, 600, 800, 1000)


@dataclass(frozen=True)
class Constructed:
    """The tables of a study."""

    lines: list[Line]
    probes: pd.DataFrame
    curves: pd.DataFrame
    signals: pd.DataFrame
    training: pd.DataFrame
    effects: pd.DataFrame
    factors: pd.DataFrame
    losses: pd.DataFrame
    label_free: pd.DataFrame


@cache
def construct(
    methods: Sequence[str] = ("bt", "mix"),
    dims: Sequence[int] = (128, 1024, 2048, 4096),
    milestones: Sequence[int] = MILESTONES,
    seeds: int = 6,
    validation: bool = True,
    images: int = 400,
) -> Constructed:
    """All methods rise from 30 % to about 85 %; those but mix fall from epoch 200 on, wide ones
    more. One width a method if there are more than three."""
    random = np.random.default_rng(1)
    each = [(m, d) for m in methods for d in (dims if len(methods) <= 3 else dims[:1])]
    lines = [
        _line(random, method, dim, probe, milestones, seeds, validation, images)
        for method, dim in each
        for probe in PROBES
    ]
    probes = pd.DataFrame([row for line in lines for row in _rows(line)], columns=COLUMNS)
    of_runs = [line for line in lines if line.probe == "knn"]
    signals = pd.DataFrame(
        [row for line in of_runs for row in _signal_rows(line)], columns=SIGNAL_COLUMNS
    )
    training = pd.DataFrame(
        [row for line in of_runs for row in _training_rows(line)], columns=TRAINING_COLUMNS
    )
    return Constructed(
        lines,
        probes,
        mean_curves(probes),
        signals,
        training,
        effects.effects(lines),
        effects.factors(lines),
        effects.losses(lines),
        effects.label_free(lines),
    )


def _line(
    random: np.random.Generator,
    method: str,
    dim: int,
    probe: tuple[str, str, str],
    milestones: Sequence[int],
    seeds: int,
    validation: bool,
    images: int,
) -> Line:
    epochs = np.array(milestones)
    rise = 0.3 + 0.55 * (1 - np.exp(-epochs / 60)) + 0.01 * len(method)
    fall = (
        0 if method == "mix" else 0.02 * np.log2(dim / 64) * np.log10(np.maximum(epochs / 200, 1))
    )
    course = np.clip(rise - fall + (0.02 if probe[0] == "linear" else 0), 0, 1)
    of_seed = np.clip(course + random.normal(0, 0.006, (seeds, len(epochs))), 0, 1)
    hardness = random.random(images)
    noise = random.normal(0, 0.05, (seeds, len(epochs), images))
    signals: dict[tuple[str, str, str], np.ndarray] = {}
    for name in SENSES:
        for space in ("backbone", "projector"):
            for split in ("train", "validation" if validation else "test"):
                level = {"invariance": 40, "redundancy": 4000, "bt_loss": 70}.get(name, 5)
                worse = 1 + (split != "train") * 0.3 * np.log10(1 + epochs)
                values = level * worse * np.exp(-of_seed * 3) + random.random(of_seed.shape)
                signals[name, space, split] = values
    signals["alpha_req", "projector", "train"][:, 0] = np.nan
    held_out = 100 * of_seed + random.normal(0, 0.8, of_seed.shape) if validation else None
    return Line(
        study="constructed",
        method=method,
        embedding_dim=dim,
        epochs=int(epochs[-1]),
        protocol="clean" if validation else "reference",
        objective=f"{method}_objective lambda=0.0078125",
        probe=probe[0],
        variant=probe[1],
        setting=probe[2],
        run={"method": method, "embedding_dim": dim, "settings": {"objective": method}},
        seeds=tuple(range(1, seeds + 1)),
        milestones=epochs,
        validation=held_out,
        correct=hardness + noise < of_seed[:, :, None],
        signals=signals,
    )


def _names(line: Line) -> dict[str, object]:
    return {
        key: getattr(line, key)
        for key in ("study", "method", "objective", "embedding_dim", "epochs", "protocol")
    }


def _rows(line: Line) -> list[Mapping[str, object]]:
    splits = {"test": 100 * line.correct.mean(axis=2)}
    if line.validation is not None:
        splits["validation"] = line.validation
    return [
        {
            **_names(line),
            **{key: getattr(line, key) for key in ("probe", "variant", "setting")},
            "split": split,
            "metric": "top1",
            "run": f"{line.method}-d{line.embedding_dim}-s{seed}",
            "seed": seed,
            "epoch": int(epoch),
            "count": 400,
            "value": values[s, e],
        }
        for split, values in splits.items()
        for s, seed in enumerate(line.seeds)
        for e, epoch in enumerate(line.milestones)
    ]


def _signal_rows(line: Line) -> list[Mapping[str, object]]:
    return [
        {
            **_names(line),
            "run": f"{line.method}-d{line.embedding_dim}-s{seed}",
            "seed": seed,
            "epoch": int(epoch),
            "space": space,
            "split": split,
            "count": 256,
            "batch_size": 128,
            "signal": signal,
            "value": values[s, e],
        }
        for (signal, space, split), values in line.signals.items()
        for s, seed in enumerate(line.seeds)
        for e, epoch in enumerate(line.milestones)
    ]


def _training_rows(line: Line) -> list[tuple[object, ...]]:
    """A tenth of the epochs; SimSiam's loss is negative."""
    return [
        (
            f"{line.method}-d{line.embedding_dim}-s{seed}",
            line.method,
            line.embedding_dim,
            seed,
            epoch,
            -1 + 1 / epoch + 0.01 * seed if line.method == "simsiam" else 200 / epoch**0.5 + seed,
        )
        for seed in line.seeds
        for epoch in range(1, int(line.milestones[-1]) + 1, max(1, int(line.milestones[-1]) // 10))
    ]
