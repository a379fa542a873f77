"""Topic simsiam: the loss with gradients."""

from typing import Any

from barlow_atlas.objectives.simsiam import symmetric_prediction
from barlow_atlas.verify import inputs


def outputs(case: dict[str, Any]) -> dict[str, Any]:
    """Loss of predictions view_0, view_1 and embeddings view_2, view_3."""
    p_a, p_b, z_a, z_b = (inputs.leaf(view) for view in inputs.views(case, 4))
    loss = symmetric_prediction(p_a, p_b, z_a, z_b)
    return {"loss": loss, **inputs.gradients(loss, {"view_0": p_a, "view_1": p_b})}
