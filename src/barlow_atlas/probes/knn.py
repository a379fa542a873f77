"""Weighted k-nearest-neighbour classification of features (Wu et al., 2018, arXiv:1805.01978)."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

CHUNK = 512


def neighbours(memory: Tensor, queries: Tensor, k: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The k rows of memory (M, f) with the largest cosine to each query, a chunk at a time.

    Yields:
        Cosines in falling order and their rows in memory, both (chunk, k).
    """
    memory = normalize(memory, dim=1).T
    for chunk in normalize(queries, dim=1).split(CHUNK):
        cosines, rows = (chunk @ memory).topk(k, dim=1)
        yield cosines, rows


def class_scores(cosines: Tensor, labels: Tensor, temperature: float, classes: int) -> Tensor:
    """The sum of exp(cosine / T) over the neighbours of each class, (q, classes).

    Args:
        cosines: (q, k).
        labels: classes of these neighbours, (q, k).
    """
    weights = (cosines / temperature).exp()
    return weights.new_zeros(len(labels), classes).scatter_add_(1, labels, weights)


@torch.inference_mode()
def weighted_knn(
    memory: Tensor,
    memory_labels: Tensor,
    queries: Tensor,
    settings: list[tuple[int, float]],
    classes: int,
) -> list[Tensor]:
    """Class scores (q, classes) of all queries, for each pair (k, temperature) in one pass."""
    most = max(k for k, _ in settings)
    scores: list[list[Tensor]] = [[] for _ in settings]
    for cosines, rows in neighbours(memory, queries, most):
        labels = memory_labels[rows]
        for found, (k, temperature) in zip(scores, settings, strict=True):
            found.append(class_scores(cosines[:, :k], labels[:, :k], temperature, classes))
    return [torch.cat(found) for found in scores]
