"""The loss variants of the Barlow Twins paper (arXiv:2103.03230): its ablations of section 4, for
which no code was published, and the single network's auto-correlation that its discussion names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from barlow_atlas.objectives.barlow_twins import (
    BarlowTwins,
    correlation_diagonal,
    cross_correlation_terms,
)
from barlow_atlas.objectives.base import at_least_float32, batch_size

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor


class BarlowTwinsVariant(BarlowTwins):
    """Barlow Twins with one thing in its loss left out or replaced.

    - only_invariance, only_redundancy: one of the two terms.
    - feature_normalisation: the standardised embeddings are scaled to length 1 each, and the matrix
      is that of their products.
    - no_normalisation: the cross-covariance matrix.
    - cross_entropy: see `cross_entropy_loss`.
    - auto_correlation: redundancy of view A's correlation with itself in place of view B.

    Invariance and redundancy are recorded for all of them, as Barlow Twins defines them.
    """

    objective: Literal["barlow_twins_variant"]  # type: ignore[assignment]
    variant: Literal[
        "only_invariance",
        "only_redundancy",
        "feature_normalisation",
        "no_normalisation",
        "cross_entropy",
        "auto_correlation",
    ]
    temperature: Annotated[float, Field(gt=0)] | None = Field(
        None, description="of cross_entropy; the paper's is not published"
    )
    divide_by_n: bool | None = Field(
        None,
        description="of feature_normalisation: whether the products are divided by the batch size, "
        "which the paper does not say",
    )
    l2_normalise: bool = Field(
        False, description="scale each embedding to length 1 first, which the paper does not"
    )
    standardisation: Literal["unbiased", "biased", "batch_norm"] = Field(
        "biased", description="as in barlow_twins"
    )

    @model_validator(mode="after")
    def _options_belong_to_variants(self) -> Self:
        owners = {"temperature": "cross_entropy", "divide_by_n": "feature_normalisation"}
        for option, variant in owners.items():
            if (getattr(self, option) is not None) != (self.variant == variant):
                raise ValueError(f"`{option}` must be given for {variant}, and for no other")
        if self.variant == "no_normalisation" and self.l2_normalise:
            raise ValueError("no_normalisation cannot have `l2_normalise: true`")
        return self

    def prepare(self, z: Tensor) -> Tensor:
        from torch.nn.functional import normalize

        from barlow_atlas.nn.processes import averaged

        if self.variant == "no_normalisation":
            z = at_least_float32(z)
            return z - averaged(z.mean(0))
        if self.variant == "feature_normalisation":
            # cross_correlation_terms divides products by N.
            scale = 1.0 if self.divide_by_n else batch_size(z) ** 0.5
            return scale * normalize(super().prepare(z), dim=-1)
        return super().prepare(z)

    def twin_terms(self, z_a: Tensor, z_b: Tensor) -> dict[str, Tensor]:
        from barlow_atlas.objectives.squared_products import factor, product

        if self.variant == "auto_correlation":
            invariance = (correlation_diagonal(z_a, z_b) - 1).square().sum()
            a = factor(z_a)
            _, redundancy = cross_correlation_terms(a, a)
        else:
            invariance, redundancy = cross_correlation_terms(z_a, z_b)
        terms = self.weighted(invariance, redundancy)
        if self.variant == "only_invariance":
            terms["loss"] = invariance
        elif self.variant == "only_redundancy":
            terms["loss"] = self.lambda_bt * redundancy
        elif self.variant == "cross_entropy":
            assert self.temperature is not None  # guaranteed by the settings' own check
            matrix = product(z_a, z_b) / batch_size(z_a)
            terms["loss"] = cross_entropy_loss(matrix, self.lambda_bt, self.temperature)
        return terms


def cross_entropy_loss(matrix: Tensor, weight: float, temperature: float) -> Tensor:
    """Cross-entropy with temperature of a correlation matrix C (d, d), in place of squares.

    -log sum_i exp(C_ii / T) + weight * log sum_{i != j} exp(max(C_ij, 0) / T)
    """
    import torch

    scaled = matrix / temperature
    diagonal = torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)
    others = scaled.clamp(min=0).masked_fill(diagonal, float("-inf")).flatten()
    return weight * others.logsumexp(0) - scaled.diagonal().logsumexp(0)
