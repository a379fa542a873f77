"""Topic vicreg: the loss, its three terms, and gradients."""

from typing import Any

from barlow_atlas.objectives.vicreg import VICReg
from barlow_atlas.verify import inputs


def outputs(case: dict[str, Any]) -> dict[str, Any]:
    """Loss of two views, scaled by `params.scale`."""
    params = case["params"]
    settings = VICReg(
        objective="vicreg",
        invariance_weight=params["sim_coeff"],
        variance_weight=params["std_coeff"],
        covariance_weight=params["cov_coeff"],
    )
    z_a, z_b = (inputs.leaf(view) for view in inputs.views(case, 2, params["scale"]))
    terms = settings.three_terms(z_a, z_b)
    return {**terms, **inputs.gradients(terms["loss"], {"view_0": z_a, "view_1": z_b})}
