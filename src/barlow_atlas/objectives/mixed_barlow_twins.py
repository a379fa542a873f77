"""Mixed Barlow Twins (Bandara, De Melo, Patel, arXiv:2312.02151), in its small-data form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from barlow_atlas.objectives.barlow_twins import BarlowTwins

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from barlow_atlas.objectives.base import Embed


class MixedBarlowTwins(BarlowTwins):
    """Barlow Twins, and embeddings of mixed images that are mixtures of embeddings.

    The gradient flows through the targets as well, and the mixed images enter the batch-norm
    statistics like any others, both as in the reference code.
    """

    objective: Literal["mixed_barlow_twins"]  # type: ignore[assignment]
    lambda_reg: Annotated[float, Field(ge=0)] = Field(
        description="weight of the mixing term, on top of lambda_bt; small-data convention: no "
        "factor 1/2 (1 here is 2 in the ImageNet code)"
    )

    def terms(
        self, embed: Embed, view_a: Tensor, view_b: Tensor, draws: Generator
    ) -> dict[str, Tensor]:
        import torch

        alpha = torch.rand((), generator=draws).item()
        partner = torch.randperm(len(view_a), generator=draws).to(view_a.device)
        mixed = alpha * view_a + (1 - alpha) * view_b[partner]
        z_a, z_b, z_m = (self.prepare(embed(view)) for view in (view_a, view_b, mixed))
        return self.mixed_terms(z_a, z_b, z_m, alpha, partner)

    def mixed_terms(
        self, z_a: Tensor, z_b: Tensor, z_m: Tensor, alpha: float, partner: Tensor
    ) -> dict[str, Tensor]:
        """Loss and its terms from standardised embeddings (N, d); `partner` (N,) permutes z_b."""
        twins = self.twin_terms(z_a, z_b)
        with_a, with_b = mixing_terms(z_a, z_b, z_m, alpha, partner)
        mixing = with_a + with_b
        loss = twins["loss"] + self.lambda_reg * self.lambda_bt * mixing
        return {**twins, "loss": loss, "mixing": mixing}


def mixing_terms(
    z_a: Tensor, z_b: Tensor, z_m: Tensor, alpha: float, partner: Tensor
) -> tuple[Tensor, Tensor]:
    """How far the mixed images' correlations are from the mixture of the twins' correlations.

    The paper asks z_m^T z_v / N to equal (alpha z_a + (1 - alpha) z_b[partner])^T z_v / N for both
    v = a and v = b, in squared Frobenius norm over all d x d entries. Both differences share one
    residual, so that two products serve in place of six:

        r = z_m - alpha z_a - (1 - alpha) z_b[partner],   terms = |r^T z_v / N|_F^2.

    Args:
        z_a, z_b, z_m: standardised embeddings of the two views and of the mixed images, (N, d).
        alpha: share of view A in the mixed images.
        partner: (N,), for each row of view A the row of view B it was mixed with.

    Returns:
        The terms for v = a and v = b, both scalars.
    """
    residual = z_m - alpha * z_a - (1 - alpha) * z_b[partner]
    with_a, with_b = ((residual.T @ z / len(z)).square().sum() for z in (z_a, z_b))
    return with_a, with_b
