"""k-nearest-neighbour classification of features (Wu et al., 2018, arXiv:1805.01978)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from barlow_atlas.probes.base import Probe
from barlow_atlas.settings.training import Positive, PositiveNumber

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Self

    from torch import Tensor

    from barlow_atlas.probes.milestone import Milestone


class KNN(Probe):
    """One k-nearest-neighbour probe."""

    name: ClassVar[str] = "knn"

    k: Positive
    temperature: PositiveNumber | None = Field(
        description="T in a neighbour's weight exp(cosine / T); null: each neighbour counts one"
    )
    distance: Literal["cosine", "euclidean"] = "cosine"
    feature: Literal["backbone", "projector"] = "backbone"

    @model_validator(mode="after")
    def _only_cosines_have_a_temperature(self) -> KNN:
        if self.distance == "euclidean" and self.temperature is not None:
            raise ValueError("euclidean neighbours are not weighted: give `temperature: null`")
        return self

    @property
    def label(self) -> str:
        """All that a number of this probe must be printed with."""
        return f"{self._votes} {self.distance} {self.feature}"

    @property
    def _votes(self) -> str:
        weight = "unweighted" if self.temperature is None else f"T={self.temperature:g}"
        return f"k={self.k} {weight}"

    @classmethod
    def variant(cls, settings: Mapping[str, Any]) -> str:
        """Such as k=200 T=0.5: cosines of the backbone's features are what most papers ask."""
        knn = cls.model_validate(settings)
        unusual = {knn.distance, knn.feature} - {"cosine", "backbone"}
        return " ".join([knn._votes, *sorted(unusual)])

    @classmethod
    def setting(cls, settings: Mapping[str, Any]) -> str:
        return cls.model_validate(settings).label

    @classmethod
    def run(cls, asked: Sequence[Self], milestone: Milestone) -> Iterator[dict[str, Any]]:
        """Imported weights have no projector: there, what asks for its output is left out."""
        from barlow_atlas.probes.milestone import ProbeError, record

        labels, memory = milestone.labels, len(milestone.labels["train"])
        most = max(knn.k for knn in asked)
        if most > memory:
            raise ProbeError(
                f"kNN with k = {most} needs at least as many training images, here are {memory}: "
                "lower probes.knn.k or raise data.fraction"
            )
        for feature in ("backbone", "projector"):
            settings = [knn for knn in asked if knn.feature == feature]
            if not settings:
                continue
            space = milestone.features if feature == "backbone" else milestone.embeddings
            if space is None:
                continue
            for split in milestone.evaluated:
                known, queries = space["train"], space[split]
                scores = knn_scores(known, labels["train"], queries, settings, milestone.classes)
                for knn, votes in zip(settings, scores, strict=True):
                    yield record("knn", knn.model_dump(), split, votes, labels[split])


def knn_scores(
    memory: Tensor, memory_labels: Tensor, queries: Tensor, settings: Sequence[KNN], classes: int
) -> list[Tensor]:
    """Class scores (q, classes) of all queries, for each of `settings`.

    Settings of one distance share one search. Which feature they ask for is the caller's business.

    Args:
        memory, queries: features (M, f) and (q, f), of which parts go to the labels' device.
        memory_labels: (M,).
        settings: their k are at most M.
    """
    import torch

    from barlow_atlas.probes.neighbours import neighbours

    scores: list[list[Tensor]] = [[] for _ in settings]
    with torch.inference_mode():
        for distance in sorted({knn.distance for knn in settings}):
            asked = [place for place, knn in enumerate(settings) if knn.distance == distance]
            most = max(settings[place].k for place in asked)
            there = memory_labels.device
            for closeness, rows in neighbours(memory, queries, most, distance, there):
                labels = memory_labels[rows]
                for place in asked:
                    k, temperature = settings[place].k, settings[place].temperature
                    votes = class_scores(closeness[:, :k], labels[:, :k], temperature, classes)
                    scores[place].append(votes)
        return [torch.cat(chunks) for chunks in scores]


def class_scores(
    cosines: Tensor, labels: Tensor, temperature: float | None, classes: int
) -> Tensor:
    """The sum of exp(cosine / T) over the neighbours of each class, or their number, (q, classes).

    Args:
        cosines: (q, k).
        labels: classes of these neighbours, (q, k).
        temperature: T; None to count neighbours.
    """
    import torch

    weights = torch.ones_like(cosines) if temperature is None else (cosines / temperature).exp()
    return weights.new_zeros(len(labels), classes).scatter_add_(1, labels, weights)
