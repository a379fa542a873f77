"""Barlow Twins (Zbontar et al., ICML 2021, arXiv:2103.03230), in its small-data form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from barlow_atlas.objectives.base import Method, standardise

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from barlow_atlas.objectives.base import Embed


class BarlowTwins(Method):
    """Make the cross-correlation matrix of two views' embeddings the identity."""

    objective: Literal["barlow_twins"]
    lambda_bt: Annotated[float, Field(gt=0)] = Field(
        description="weight of the off-diagonal (redundancy) term"
    )
    l2_normalise: bool = Field(
        True,
        description="scale each embedding to length 1 before the batch standardisation, as the "
        "small-data code does and the paper does not",
    )

    def terms(
        self, embed: Embed, view_a: Tensor, view_b: Tensor, draws: Generator
    ) -> dict[str, Tensor]:
        z_a, z_b = (self.prepare(embed(view)) for view in (view_a, view_b))
        return self.twin_terms(z_a, z_b)

    def prepare(self, z: Tensor) -> Tensor:
        """Raw embeddings (N, d) to what the correlations are taken of, (N, d)."""
        from torch.nn.functional import normalize

        return standardise(normalize(z, dim=1) if self.l2_normalise else z)

    def twin_terms(self, z_a: Tensor, z_b: Tensor) -> dict[str, Tensor]:
        """Loss and its two terms from standardised embeddings (N, d)."""
        invariance, redundancy = cross_correlation_terms(z_a, z_b)
        return {
            "loss": invariance + self.lambda_bt * redundancy,
            "invariance": invariance,
            "redundancy": redundancy,
        }


def cross_correlation_terms(z_a: Tensor, z_b: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of the cross-correlation matrix from the identity (BT paper, eq. 1 and 2).

    C = z_a^T z_b / N; the terms are sum_i (1 - C_ii)^2 and sum_{i != j} C_ij^2.

    The divisor is N although the standardisation uses N - 1, as in the reference code: identical
    views leave d / N^2 on the diagonal.

    Args:
        z_a, z_b: standardised embeddings, (N, d).

    Returns:
        Invariance and redundancy term, both scalars: sums, not means.
    """
    correlation = z_a.T @ z_b / len(z_a)
    diagonal = correlation.diagonal()
    invariance = (diagonal - 1).square().sum()
    redundancy = correlation.square().sum() - diagonal.square().sum()
    return invariance, redundancy
