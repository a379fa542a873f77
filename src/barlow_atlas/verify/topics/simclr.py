"""Topic simclr: NT-Xent and SimCLR's loss, with gradients."""

from typing import Any

import torch
from torch import nn

from barlow_atlas.nn.networks import Network
from barlow_atlas.objectives.simclr import SimCLR
from barlow_atlas.verify import inputs


def outputs(case: dict[str, Any]) -> dict[str, Any]:
    """Loss of `params.views` views and its gradients."""
    params = case["params"]
    settings = SimCLR(
        objective="simclr",
        temperature=params["tau"],
        bn_last=params["bn_last"],
        l2_normalise=params["norm"],
    )
    views = [inputs.leaf(view) for view in inputs.views(case, params["views"])]
    parts = settings.parts(Network(nn.Identity(), nn.Identity()), case["d"]).double()
    loss = settings.contrast(parts, torch.cat(views), len(views))
    named = {f"view_{place}": view for place, view in enumerate(views)}
    return {"loss": loss, **inputs.gradients(loss, named)}
