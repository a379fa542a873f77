"""A study's probe files as arrays: what the statistics take."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from barlow_atlas.atlas.frames import HEADLINES, labels, subject
from barlow_atlas.probes.packing import unpack

OF_ALL_SEEDS = ("study", "method", "embedding_dim", "epochs", "protocol", "objective")
"""What the runs of a line have in common."""


@dataclass(frozen=True)
class Named:
    """A line of the map with its n seeds: one method at one width, as one probe sees it.

    Attributes:
        study, method, embedding_dim, epochs, protocol: as `frames.subject` names them.
        objective, probe, variant, setting: as in the tidy table.
        run: parameters of the runs, as in their probe files but without the seed.
        seeds: in rising order, (n,).
        milestones: pre-training epochs in rising order, (m,).
    """

    study: str
    method: str
    embedding_dim: int
    epochs: int
    protocol: str
    objective: str
    probe: str
    variant: str
    setting: str
    run: Mapping[str, Any]
    seeds: tuple[int, ...]
    milestones: np.ndarray


@dataclass(frozen=True)
class Line(Named):
    """A line of answers to each image.

    Attributes:
        validation: validation top-1 in percent, (n, m); None where nothing was held out.
        correct: whether each test image was classified right, bool (n, m, images).
        signals: label-free signals by (signal, space, split), (n, m) each; NaN where undefined.
    """

    validation: np.ndarray | None
    correct: np.ndarray
    signals: Mapping[tuple[str, str, str], np.ndarray]


@dataclass(frozen=True)
class Precision(Named):
    """A line of average precisions, which are of all test images together.

    Attributes:
        metric: how they are called, see `frames.HEADLINES`.
        values: on the test images in percent, (n, m).
    """

    metric: str
    values: np.ndarray


def read_lines(
    contents: Iterable[Mapping[str, Any]], planned: Mapping[str, Sequence[int]]
) -> list[Line]:
    """The lines of `read_all` that have an answer to each image."""
    return [line for line in read_all(contents, planned) if isinstance(line, Line)]


def read_all(
    contents: Iterable[Mapping[str, Any]], planned: Mapping[str, Sequence[int]]
) -> list[Line | Precision]:
    """The lines of a study, of its finished runs.

    A run that lacks a milestone is left out of all its lines: what is said about the end of
    training cannot be said of it. A line without any finished seed is left out, too.

    Args:
        contents: probe files, parsed.
        planned: each run's name -> the milestones it is to have.
    """
    runs: dict[str, dict[int, Mapping[str, Any]]] = defaultdict(dict)
    for content in contents:
        runs[content["name"]][content["epoch"]] = content
    groups: dict[tuple[Any, ...], list[list[Mapping[str, Any]]]] = defaultdict(list)
    for name, epochs in planned.items():
        if all(epoch in runs[name] for epoch in epochs):
            milestones = [runs[name][epoch] for epoch in epochs]
            of_run = subject(milestones[0])
            groups[tuple(of_run[key] for key in OF_ALL_SEEDS)].append(milestones)
    return [line for group in groups.values() for line in _lines_of(group)]


def _lines_of(group: list[list[Mapping[str, Any]]]) -> Iterator[Line | Precision]:
    """The lines of runs that differ in their seed only; `group` is seeds x milestones."""
    group = sorted(group, key=lambda contents: int(contents[0]["run"]["seed"]))
    first = group[0][0]
    of_all = subject(first)
    results = [[_by_probe(content) for content in contents] for contents in group]
    for probe in dict.fromkeys(key[:-1] for key in results[0][0]):
        test = _column(results, (*probe, "test"))
        if test is None:
            continue
        named: dict[str, Any] = {
            **{key: of_all[key] for key in OF_ALL_SEEDS},
            **dict(zip(("probe", "variant", "setting"), probe, strict=True)),
            "run": {key: value for key, value in first["run"].items() if key != "seed"},
            "seeds": tuple(int(contents[0]["run"]["seed"]) for contents in group),
            "milestones": np.array([content["epoch"] for content in group[0]]),
        }
        if "correct" not in test[0][0]:
            yield from _precision(named, test)
            continue
        validation = _column(results, (*probe, "validation"))
        yield Line(
            **named,
            validation=None
            if validation is None
            else np.array([[result["top1"] for result in row] for row in validation]),
            correct=np.array(
                [[unpack(result["correct"], result["count"]) for result in row] for row in test]
            ),
            signals=_signals(group),
        )


def _precision(
    named: Mapping[str, Any], test: Sequence[Sequence[Mapping[str, Any]]]
) -> Iterator[Precision]:
    """The line of what a probe is read by, where it is defined at all milestones."""
    for metric, called in HEADLINES.items():
        if all(metric in result for row in test for result in row):
            values = np.array([[result[metric] for result in row] for row in test])
            yield Precision(**named, metric=called, values=values)


def _by_probe(content: Mapping[str, Any]) -> dict[tuple[str, str, str, str], Mapping[str, Any]]:
    """The results of a probe file by probe, variant, setting and split."""
    return {(*labels(result).values(), result["split"]): result for result in content["results"]}


def _column(
    results: list[list[dict[tuple[str, str, str, str], Mapping[str, Any]]]],
    key: tuple[str, str, str, str],
) -> list[list[Mapping[str, Any]]] | None:
    """A probe's results on one split, seeds x milestones; None unless all milestones have them."""
    if not all(key in milestone for milestones in results for milestone in milestones):
        return None
    return [[milestone[key] for milestone in milestones] for milestones in results]


def _signals(group: list[list[Mapping[str, Any]]]) -> dict[tuple[str, str, str], np.ndarray]:
    """Each label-free signal (n, m) by name, space and split; NaN where it is undefined."""
    keys = [
        (name, record["space"], record["split"])
        for record in group[0][0]["signals"]
        for name in record["values"]
    ]
    tables = [
        [
            {
                (name, record["space"], record["split"]): value
                for record in content["signals"]
                for name, value in record["values"].items()
            }
            for content in contents
        ]
        for contents in group
    ]
    return {
        key: np.array([[values.get(key) for values in row] for row in tables], dtype=float)
        for key in keys
    }
