"""Topic moco: steps of MoCo with linear encoders; loss, logits, queue and key encoder."""

from typing import Any

import torch
from torch import Tensor, nn

from barlow_atlas.nn.networks import Network
from barlow_atlas.objectives.moco_v2 import MoCoV2, first_is_right
from barlow_atlas.verify import inputs


def outputs(case: dict[str, Any]) -> dict[str, Any]:
    """What each of `params.steps` steps computes and leaves behind."""
    params = case["params"]
    settings = MoCoV2(
        objective="moco_v2",
        temperature=params["T"],
        queue_length=params["K"],
        momentum=params["m"],
    )
    drawn = inputs.moco(case)
    projector = nn.Linear(case["d"], params["dim"], bias=False)
    network = Network(nn.Identity(), projector).double()
    parts = settings.parts(network, params["dim"]).double()
    with torch.no_grad():
        projector.weight.copy_(torch.from_numpy(drawn.query_weight))
        key_weight(parts).copy_(torch.from_numpy(drawn.key_weight))
        parts.get_buffer("queue").copy_(torch.from_numpy(drawn.queue.T))
    return {"steps": [step(settings, network, parts, *images) for images in drawn.images]}


def step(
    settings: MoCoV2, network: Network, parts: nn.Module, queries: inputs.Array, keys: inputs.Array
) -> dict[str, Any]:
    """One step from query and key images (N, d)."""
    settings.move_keys(network, parts, settings.momentum)
    images = (torch.from_numpy(each) for each in (queries, keys))
    logits = settings.logits(network, parts, parts, *images)
    loss = first_is_right(logits)
    weight = network.get_parameter("projector.weight")
    return {
        "loss": loss,
        "logits": logits,
        "first_row_logits_first8": logits[0, :8],
        "queue_pointer_after": int(parts.get_buffer("pointer")),
        "queue_after": parts.get_buffer("queue").T.clone(),
        "key_weight_after": key_weight(parts).clone(),
        **inputs.gradients(loss, {"query_weight": weight}),
    }


def key_weight(parts: nn.Module) -> Tensor:
    """Wk, (dim, d)."""
    return parts.get_parameter("key_encoder.projector.weight")
