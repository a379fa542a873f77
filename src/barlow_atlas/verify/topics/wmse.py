"""Topic wmse: whitening in sub-batches, and the loss with gradients."""

from typing import Any

import torch

from barlow_atlas.objectives.w_mse import WMSE
from barlow_atlas.verify import inputs


def outputs(case: dict[str, Any]) -> dict[str, Any]:
    """Loss of `params.views` views, its gradients, and the views as first whitened."""
    params = case["params"]
    settings = WMSE(
        objective="w_mse",
        sub_batch=params["w_size"],
        epsilon=params["w_eps"],
        iterations=params["w_iter"],
        l2_normalise=params["norm"],
    )
    arrays, permutations = inputs.wmse(case)
    views = [inputs.leaf(view) for view in arrays]
    orders = [torch.from_numpy(order) for order in permutations]
    loss = settings.whitened_error(views, orders)
    results = {"loss": loss}
    for place, view in enumerate(views):
        results[f"whitened_view_{place}_first_iteration"] = settings.whiten(view, orders[0])
    named = {f"view_{place}": view for place, view in enumerate(views)}
    return {**results, **inputs.gradients(loss, named)}
