"""Whole training steps of Mixed Barlow Twins' small-data code, and the network they lead to."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from barlow_atlas.nn.networks import Network
from barlow_atlas.nn.optim import build_optimizer, learning_rate, peak_rate, set_learning_rate
from barlow_atlas.objectives.mixed_barlow_twins import MixedBarlowTwins
from barlow_atlas.settings.training import Adam, MixCosine
from barlow_atlas.verify import inputs
from barlow_atlas.verify.topics.network import (
    mix_network,
    normalised_outputs,
    with_ruled_parameters,
)

WEIGHT_DECAY = 1e-6


class Training(NamedTuple):
    """What of a run decides its learning rates."""

    schedule: MixCosine
    batch_size: int
    epochs: int


def outputs(case: dict[str, Any]) -> dict[str, Any]:
    params = case["params"]
    drawn, probe = inputs.steps(case)
    network = mix_network(params["arch"], params["dataset"], params["embedding_dim"])
    network = with_ruled_parameters(network).train()
    method = MixedBarlowTwins(
        objective="mixed_barlow_twins",
        lambda_bt=params["lambda_bt"],
        lambda_reg=params.get("lambda_reg", 0.0),
    )
    schedule = MixCosine(name="mix_cosine", base_lr=params["lr"])
    training = Training(schedule, params["batch_size"], params["epochs"])
    adam = Adam(name="adam", weight_decay=WEIGHT_DECAY)
    optimizer = build_optimizer(adam, network, nn.Module())
    steps = []
    for number, step in enumerate(drawn):
        rate = learning_rate(training, params["epoch"] - 1, number, params["steps"])
        set_learning_rate(optimizer, rate, peak_rate(training))
        losses = _losses(method, network, step, params["mixed"])
        optimizer.zero_grad()
        torch.autograd.backward(losses["loss"])
        optimizer.step()
        steps.append({name: loss.item() for name, loss in losses.items()} | {"lr": rate})
    with torch.no_grad():
        feature, embedding = normalised_outputs(network.eval(), inputs.constant(probe))
        parameters = torch.cat([each.flatten() for each in network.parameters()])
    names = ("loss_bt", "loss_reg", "loss")
    return {
        "steps": steps,
        "epoch_mean": {name: sum(step[name] for step in steps) / len(steps) for name in names},
        "probe_feature": feature,
        "probe_embedding": embedding,
        "parameter_sum": parameters.sum(),
        "parameter_norm": parameters.norm(),
    }


def _losses(
    method: MixedBarlowTwins, network: Network, step: inputs.Step, mixed: bool
) -> dict[str, Tensor]:
    """Loss and its two parts, after one forward pass for each kind of images."""
    view_a, view_b = inputs.constant(step.view_a), inputs.constant(step.view_b)
    z_a, z_b = (method.prepare(network(view)) for view in (view_a, view_b))
    loss_bt = method.twin_terms(z_a, z_b)["loss"]
    if not mixed:
        return {"loss": loss_bt, "loss_bt": loss_bt, "loss_reg": torch.zeros(())}
    partner = torch.from_numpy(step.partner)
    images = step.alpha * view_a + (1 - step.alpha) * view_b[partner]
    terms = method.mixed_terms(z_a, z_b, method.prepare(network(images)), step.alpha, partner)
    loss_reg = method.lambda_reg * method.lambda_bt * terms["mixing"]
    return {"loss": terms["loss"], "loss_bt": loss_bt, "loss_reg": loss_reg}
