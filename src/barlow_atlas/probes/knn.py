"""k-nearest-neighbour classification of features (Wu et al., 2018, arXiv:1805.01978)."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

from barlow_atlas.probe_settings import KNN

CHUNK = 512


@torch.inference_mode()
def knn_scores(
    memory: Tensor, memory_labels: Tensor, queries: Tensor, settings: list[KNN], classes: int
) -> list[Tensor]:
    """Class scores (q, classes) of all queries, for each of `settings`.

    Settings of one distance share one search. Which feature they ask for is the caller's business.

    Args:
        memory, queries: features (M, f) and (q, f).
        memory_labels: (M,).
    """
    scores: list[list[Tensor]] = [[] for _ in settings]
    for distance in sorted({knn.distance for knn in settings}):
        asked = [place for place, knn in enumerate(settings) if knn.distance == distance]
        most = max(settings[place].k for place in asked)
        for closeness, rows in neighbours(memory, queries, most, distance):
            labels = memory_labels[rows]
            for place in asked:
                k, temperature = settings[place].k, settings[place].temperature
                found = class_scores(closeness[:, :k], labels[:, :k], temperature, classes)
                scores[place].append(found)
    return [torch.cat(found) for found in scores]


def neighbours(
    memory: Tensor, queries: Tensor, k: int, distance: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """The k nearest rows of memory (M, f) for each query (q, f), a chunk of queries at a time.

    Yields:
        Closeness in falling order and the rows, both (chunk, k). The closeness is the cosine; for
        the Euclidean distance |q - m| it is q.m - |m|^2 / 2, which falls as the distance rises.
    """
    cosine = distance == "cosine"
    memory = normalize(memory, dim=1) if cosine else memory
    offset = 0 if cosine else memory.square().sum(1) / 2
    for chunk in queries.split(CHUNK):
        chunk = normalize(chunk, dim=1) if cosine else chunk
        yield (chunk @ memory.T - offset).topk(k, dim=1)


def class_scores(
    cosines: Tensor, labels: Tensor, temperature: float | None, classes: int
) -> Tensor:
    """The sum of exp(cosine / T) over the neighbours of each class, or their number, (q, classes).

    Args:
        cosines: (q, k).
        labels: classes of these neighbours, (q, k).
        temperature: T; None to count neighbours.
    """
    weights = torch.ones_like(cosines) if temperature is None else (cosines / temperature).exp()
    return weights.new_zeros(len(labels), classes).scatter_add_(1, labels, weights)
