"""LARS as in Barlow Twins' code, or clipped as in solo-learn's: both parameters after each step."""

from typing import Any

from barlow_atlas.nn.optim import LARS
from barlow_atlas.verify import inputs


def outputs(case: dict[str, Any]) -> dict[str, Any]:
    params, drawn = case["params"], inputs.lars(case)
    weight, bias = inputs.leaf(drawn.weight), inputs.leaf(drawn.bias)
    optimizer = LARS(
        [{"params": [weight]}, {"params": [bias]}],
        lr=0.0,
        weight_decay=params["weight_decay"],
        momentum=params["momentum"],
        trust_coefficient=params["eta"],
        clipped=params.get("clipped", False),
    )
    after = []
    rates = zip(params["lr_weights"], params["lr_biases"], strict=True)
    for step, (both, gradients) in enumerate(zip(rates, drawn.gradients, strict=True), start=1):
        for group, rate in zip(optimizer.param_groups, both, strict=True):
            group["lr"] = rate
        weight.grad, bias.grad = (inputs.constant(gradient) for gradient in gradients)
        optimizer.step()
        now = {"weight": weight.detach().clone(), "bias": bias.detach().clone()}
        after.append({"step": step, **now})
    return {"after_each_step": after}
