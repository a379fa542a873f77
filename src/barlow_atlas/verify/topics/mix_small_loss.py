"""Mixed Barlow Twins' loss in its small-data form: terms and gradients."""

from typing import Any

import torch

from barlow_atlas.objectives.mixed_barlow_twins import MixedBarlowTwins, mixing_terms
from barlow_atlas.verify import inputs


def outputs(case: dict[str, Any]) -> dict[str, Any]:
    params, drawn = case["params"], inputs.twin(case)
    method = MixedBarlowTwins(
        objective="mixed_barlow_twins",
        lambda_bt=params["lambda_bt"],
        lambda_reg=params.get("lambda_reg", 0.0),
        l2_normalise=params["l2_normalise"],
    )
    leaves = {"z1": inputs.leaf(drawn.z1), "z2": inputs.leaf(drawn.z2)}
    z1, z2 = map(method.prepare, leaves.values())
    terms = method.twin_terms(z1, z2)
    loss_terms = {
        "on_diagonal_sum": terms["invariance"],
        "off_diagonal_sum": terms["redundancy"],
        "loss_bt": terms["loss"],
        "loss_reg": 0.0,
    }
    if params["mixed"]:
        leaves["zm"] = inputs.leaf(drawn.zm)
        zm, partner = method.prepare(leaves["zm"]), torch.from_numpy(drawn.partner)
        terms = method.mixed_terms(z1, z2, zm, params["alpha"], partner)
        with_a, with_b = mixing_terms(z1, z2, zm, params["alpha"], partner)
        loss_terms |= {
            "loss_reg": method.lambda_reg * method.lambda_bt * terms["mixing"],
            "reg_frobenius2_A": with_a,
            "reg_frobenius2_B": with_b,
        }
    return loss_terms | {"loss": terms["loss"]} | inputs.gradients(terms["loss"], leaves)
