"""Topic bt_variants: the Barlow Twins paper's loss ablations, from its formulas."""

from typing import Any

from barlow_atlas.objectives.barlow_twins import BarlowTwins
from barlow_atlas.objectives.barlow_twins_variant import BarlowTwinsVariant
from barlow_atlas.verify import inputs
from barlow_atlas.verify.values import Mismatch

VARIANTS = {
    # The paper's correlations, which each ablation starts from.
    "baseline": "only_invariance",
    "only_invariance": "only_invariance",
    "only_redundancy": "only_redundancy",
    "feature_normalisation": "feature_normalisation",
    "no_normalisation": "no_normalisation",
    "cross_entropy_temperature": "cross_entropy",
}


def outputs(case: dict[str, Any]) -> dict[str, Any]:
    """Loss of two views, and facts of the matrix that it is a function of."""
    params = case["params"]
    if params["variant"] not in VARIANTS:
        raise Mismatch(f"no variant {params['variant']!r} here; known: {', '.join(VARIANTS)}")
    settings = BarlowTwinsVariant.model_validate(
        {
            "objective": "barlow_twins_variant",
            "variant": VARIANTS[params["variant"]],
            "lambda_bt": params["lambda"],
            "temperature": params.get("tau"),
            "divide_by_n": params.get("divide_by_N"),
        }
    )
    z_a, z_b = (settings.prepare(inputs.leaf(view)) for view in inputs.views(case, 2))
    matrix = z_a.T @ z_b / len(z_a)
    baseline = BarlowTwins.twin_terms(settings, z_a, z_b)
    terms = baseline if params["variant"] == "baseline" else settings.twin_terms(z_a, z_b)
    return {
        "matrix_sum": matrix.sum(),
        "matrix_00": matrix[0, 0],
        "matrix_01": matrix[0, 1],
        "on_diagonal_sum": terms["invariance"],
        "off_diagonal_sum": terms["redundancy"],
        "loss": terms["loss"],
    }
