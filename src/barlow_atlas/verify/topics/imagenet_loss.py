"""The losses of the two ImageNet codes, on one process and on several."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import batch_norm

from barlow_atlas.objectives.barlow_twins import BarlowTwins
from barlow_atlas.objectives.mixed_barlow_twins import MixedBarlowTwins
from barlow_atlas.objectives.ranks import partners_of_all, share_of_rows
from barlow_atlas.verify import inputs
from barlow_atlas.verify.values import Mismatch


def outputs(case: dict[str, Any]) -> dict[str, Any]:
    pairs, twins = inputs.ranks(case)
    rows = {
        name: [inputs.leaf(pair[place]) for pair in pairs]
        for place, name in enumerate(("z1", "z2"))
    }
    match case["params"]["variant"]:
        case "bt_official":
            return _barlow_twins(case["params"], rows)
        case "mix_imagenet":
            return _mixed(case["params"], rows, twins)
        case unknown:
            raise Mismatch(f"unknown variant {unknown!r}; known: bt_official, mix_imagenet")


def _barlow_twins(params: dict[str, Any], rows: dict[str, list[Tensor]]) -> dict[str, Any]:
    method = BarlowTwins(
        objective="barlow_twins",
        lambda_bt=params["lambda_bt"],
        l2_normalise=False,
        standardisation="batch_norm",
    )
    z1, z2 = (torch.cat(ranks) for ranks in rows.values())
    loss = method.twin_terms(method.prepare(z1), method.prepare(z2))["loss"]
    # The product keeps no running statistics of this layer, since nothing reads them; torch does.
    mean, variance = z1.new_zeros(z1.shape[1]), z1.new_ones(z1.shape[1])
    for z in (z1, z2):
        batch_norm(z.detach(), mean, variance, training=True, momentum=0.1)
    statistics = {"running_mean_after": mean, "running_var_after": variance}
    return {"loss_bt": loss, "loss": loss} | statistics | _gradients(loss, rows)


def _mixed(
    params: dict[str, Any], rows: dict[str, list[Tensor]], twins: list[inputs.Twin]
) -> dict[str, Any]:
    method = MixedBarlowTwins(
        objective="mixed_barlow_twins",
        lambda_bt=params["lambda_bt"],
        l2_normalise=False,
        lambda_reg=params["reg_scale"],
        convention="imagenet",
        ranks=len(rows["z1"]),
    )
    z1, z2 = (method.prepare(torch.cat(ranks)) for ranks in rows.values())
    loss_bt = method.twin_terms(z1, z2)["loss"]
    if not params["mixed"]:
        plain = {"loss_bt": loss_bt, "loss_reg_unscaled": 0.0, "loss": loss_bt}
        return plain | _gradients(loss_bt, rows)
    rows["zm"] = [inputs.leaf(twin.zm) for twin in twins]
    zm = method.prepare(torch.cat(rows["zm"]))
    alpha = share_of_rows(params["alpha"], zm)
    partner = partners_of_all([torch.from_numpy(twin.partner) for twin in twins])
    terms = method.mixed_terms(z1, z2, zm, alpha, partner)
    regulariser = method.lambda_bt * terms["mixing"]
    losses = {"loss_bt": loss_bt, "loss_reg_unscaled": regulariser, "loss": terms["loss"]}
    return losses | _gradients(terms["loss"], rows)


def _gradients(loss: Tensor, rows: dict[str, list[Tensor]]) -> dict[str, Any]:
    """grad_<name> of each rank's rows; not as a list where there is one rank."""
    named = {f"{name}@{k}": rank for name, ranks in rows.items() for k, rank in enumerate(ranks)}
    gradients = inputs.gradients(loss, named)
    of = {name: [gradients[f"grad_{name}@{k}"] for k in range(len(rows[name]))] for name in rows}
    return {f"grad_{name}": each if len(each) > 1 else each[0] for name, each in of.items()}
