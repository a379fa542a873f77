"""Topic moco: steps of MoCo with linear encoders; loss, logits, queue and key encoder.

With `parts`, batch norm follows each encoder, of so many parts of the batch, and keys are shuffled.
"""

from typing import Any

import torch
from torch import Tensor, nn

from barlow_atlas.nn.networks import Network
from barlow_atlas.nn.norms import PerViewBatchNorm1d
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
    linear = nn.Linear(case["d"], params["dim"], bias=False)
    norms = [PerViewBatchNorm1d(params["dim"], affine=False)] if drawn.orders else []
    network = Network(nn.Identity(), nn.Sequential(linear, *norms)).double().train()
    network.take_parts(params.get("parts", 1))
    parts = settings.parts(network, params["dim"]).double()
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(drawn.query_weight))
        key_weight(parts).copy_(torch.from_numpy(drawn.key_weight))
        parts.get_buffer("queue").copy_(torch.from_numpy(drawn.queue.T))
    orders: list[Tensor | None] = [torch.from_numpy(order) for order in drawn.orders]
    orders = orders or [None] * len(drawn.images)
    return {
        "steps": [
            step(settings, network, parts, *images, order)
            for images, order in zip(drawn.images, orders, strict=True)
        ]
    }


def step(
    settings: MoCoV2,
    network: Network,
    parts: nn.Module,
    queries: inputs.Array,
    keys: inputs.Array,
    order: Tensor | None,
) -> dict[str, Any]:
    """One step from query and key images (N, d); the keys are encoded in an order (N,)."""
    settings.move_keys(network, parts, settings.momentum)
    query_images, key_images = torch.from_numpy(queries), torch.from_numpy(keys)
    logits = settings.logits(network, parts, parts, query_images, key_images, order)
    loss = first_is_right(logits)
    weight = network.get_parameter("projector.0.weight")
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
    return parts.get_parameter("key_encoder.projector.0.weight")
