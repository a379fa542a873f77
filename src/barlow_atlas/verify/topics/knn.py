"""Weighted nearest neighbours of Mixed Barlow Twins, and the unweighted ones of its baselines."""

from typing import Any

import torch
from torch import Tensor

from barlow_atlas.probes.knn import KNN, knn_scores
from barlow_atlas.probes.milestone import record
from barlow_atlas.verify import inputs
from barlow_atlas.verify.values import Difference, Mismatch, Within


def outputs(case: dict[str, Any]) -> dict[str, Any]:
    params, drawn = case["params"], inputs.clusters(case)
    match case["protocol"]:
        case "mix":
            setting = KNN(k=params["k"], temperature=params["T"])
        case "ssl_sota":
            setting = KNN(k=params["k"], temperature=None, distance="euclidean")
        case unknown:
            raise Mismatch(f"unknown protocol {unknown!r}; known: mix, ssl_sota")
    memory, memory_labels, queries, labels = map(torch.from_numpy, drawn)
    (scores,) = knn_scores(memory, memory_labels, queries, [setting], params["classes"])
    probed = record("knn", {}, "test", scores, labels)
    ranked = scores.sort(dim=1, descending=True, stable=True)
    best, second = ranked.values[:, 0], ranked.values[:, 1:2].sum(1)
    closest = (best - second).argmin()
    count = len(labels)
    top5, unsure = round(probed["top5"] * count / 100), _decided_by_order(scores, labels)
    return {
        "top1_percent": probed["top1"],
        "top5_percent": Within(probed["top5"], 100 * unsure / count),
        "top1_correct": round(probed["top1"] * count / 100),
        "top5_correct": Within(top5, unsure),
        "predicted": ranked.indices[:, 0],
        "scores_first3": scores[:3],
        "queries_whose_top5_depends_on_order_of_zero_scores": unsure,
        "smallest_top1_margin": Difference((best - second)[closest].item(), best[closest].item()),
        "queries_with_tied_majority": int((best == second).sum()),
    }


def _decided_by_order(scores: Tensor, labels: Tensor) -> int:
    """Queries whose class scores 0 while fewer than five classes score more.

    Whether such a class is among the five best depends on how a sort orders equal zeros.
    """
    missed = scores.gather(1, labels[:, None])[:, 0] == 0
    return int((missed & ((scores > 0).sum(1) < 5)).sum())
