"""Topic swav: scores, assignments, loss with gradients, and the queue."""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize

from barlow_atlas.nn.networks import Network
from barlow_atlas.objectives.base import Moment
from barlow_atlas.objectives.borrowed import sinkhorn
from barlow_atlas.objectives.swav import SwAV, normalise_prototypes
from barlow_atlas.verify import inputs


def outputs(case: dict[str, Any]) -> dict[str, Any]:
    """Loss of all crops, and what it goes through.

    `scores_i` and `assignment_i` are named by the assigned crop, and by its place among the
    assigned crops where that name is free.
    """
    params, d = case["params"], case["d"]
    settings = SwAV(
        objective="swav",
        prototypes=params["prototypes"],
        temperature=params["temperature"],
        epsilon=params["epsilon"],
        sinkhorn_iterations=params["sinkhorn_iterations"],
        queue_length=params["queue_length"],
        queue_start_epoch=0,
    )
    drawn = inputs.swav(case)
    parts = settings.parts(Network(nn.Identity(), nn.Identity()), d).double()
    with torch.no_grad():
        parts.get_parameter("prototypes.weight").copy_(torch.from_numpy(drawn.prototypes))
    prototypes = normalise_prototypes(parts)
    views = [inputs.leaf(view) for view in drawn.views]
    embeddings = [normalize(view, dim=1) for view in views]
    scores = [z @ prototypes.T for z in embeddings]

    assigned = params["crops_for_assign"]
    intermediates: dict[str, Any] = {}
    queued = None
    if drawn.queue is not None:
        whole = torch.from_numpy(drawn.queue)
        parts.queue = whole[: len(assigned)]
        # So many steps that the queue has been filled.
        later = Moment(0, params["queue_length"], params["queue_length"], None, torch.Generator())
        queued = settings.queued_scores(parts, [embeddings[crop] for crop in assigned], later)
        intermediates["queue_after"] = torch.cat(
            [parts.get_buffer("queue"), whole[len(assigned) :]]
        )
    loss = settings.swapped_prediction(scores, queued, assigned)

    for place, crop in enumerate(assigned):
        with_queue = scores[crop]
        if queued is not None:
            with_queue = torch.cat([queued[place], with_queue])
        assignment = sinkhorn(with_queue.detach(), settings.sinkhorn_iterations, settings.epsilon)[
            -len(scores[crop]) :
        ]
        sums = assignment.sum(1)
        for name in (crop, place):
            intermediates.setdefault(f"scores_{name}", with_queue)
            intermediates.setdefault(f"assignment_{name}", assignment)
            intermediates.setdefault(f"assignment_{name}_row_sum_min_max", [sums.min(), sums.max()])

    leaves = {f"view_{place}": view for place, view in enumerate(views)}
    gradients = inputs.gradients(loss, {**leaves, "prototypes": prototypes})
    return {
        "loss": loss,
        "prototypes_after_normalisation": prototypes,
        **intermediates,
        **gradients,
    }
