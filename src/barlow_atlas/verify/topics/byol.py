"""Topic byol: the loss with gradients, and the target network's update."""

from typing import Any

import torch
from torch import nn

from barlow_atlas.objectives.borrowed import update_momentum
from barlow_atlas.objectives.byol import BYOL, target_momentum
from barlow_atlas.verify import inputs


def outputs(case: dict[str, Any]) -> dict[str, Any]:
    """Of a case of the recipe byol the loss, of byol_target the target after each step."""
    return target_update(case) if case["recipe"] == "byol_target" else prediction_error(case)


def prediction_error(case: dict[str, Any]) -> dict[str, Any]:
    """Loss of `params.views` views and its gradients."""
    predictions, targets = ([inputs.leaf(view) for view in half] for half in inputs.byol(case))
    settings = BYOL(objective="byol", l2_normalise=case["params"]["norm"])
    loss = settings.prediction_error(predictions, targets)
    named = {f"prediction_{place}": view for place, view in enumerate(predictions)}
    return {"loss": loss, **inputs.gradients(loss, named)}


def target_update(case: dict[str, Any]) -> dict[str, Any]:
    """Momentum and target parameter at each of `params.steps` steps."""
    params = case["params"]
    drawn, start = inputs.byol_target(case)
    target = nn.ParameterList([torch.from_numpy(start)]).requires_grad_(False)
    momenta = [target_momentum(progress, params["byol_tau"]) for progress in params["progress"]]
    targets = []
    for momentum, online in zip(momenta, drawn, strict=True):
        with torch.no_grad():
            update_momentum(nn.ParameterList([torch.from_numpy(online)]), target, momentum)
        targets.append(target[0].clone())
    return {"tau": momenta, "target_after_each_step": targets}
