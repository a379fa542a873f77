"""Mixed Barlow Twins (Bandara, De Melo, Patel, arXiv:2312.02151).

Two conventions: that of its small-data code, which follows the paper's formula, and that of its
ImageNet code, which differs from it in two places (docs/fidelity.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from barlow_atlas.objectives.barlow_twins import BarlowTwins, cross_correlation_terms
from barlow_atlas.objectives.base import batch_size

if TYPE_CHECKING:
    from torch import Tensor, nn

    from barlow_atlas.nn.networks import Network
    from barlow_atlas.objectives.base import Moment
    from barlow_atlas.objectives.squared_products import Factor


class MixedBarlowTwins(BarlowTwins):
    """Barlow Twins, and embeddings of mixed images that are mixtures of embeddings.

    The gradient flows through the targets as well, and the mixed images enter the batch-norm
    statistics like any others, both as in the reference code.
    """

    objective: Literal["mixed_barlow_twins"]  # type: ignore[assignment]
    lambda_reg: Annotated[float, Field(ge=0)] = Field(
        description="weight of the mixing term, on top of lambda_bt"
    )
    convention: Literal["small-data", "imagenet"] = Field(
        "small-data",
        description="imagenet: a factor 1/2, so that lambda_reg 1 there is 0.5 in small-data, and "
        "z_b in place of z_a in the second target's first product",
    )
    reg_warmup_epochs: Annotated[int, Field(ge=0)] = Field(
        0, description="epochs over which lambda_reg rises linearly from 0 (ImageNet code: 10)"
    )

    def terms(
        self, network: Network, parts: nn.Module, view_a: Tensor, view_b: Tensor, moment: Moment
    ) -> dict[str, Tensor]:
        import torch

        from barlow_atlas.nn.processes import rows_at
        from barlow_atlas.objectives.ranks import mixing_by_rank

        alpha: float | Tensor
        share: float | Tensor
        if self.ranks > 1:
            alpha, partner = mixing_by_rank(view_a, self.ranks, moment.draws)
            share = alpha.view(-1, 1, 1, 1)
        else:
            alpha = share = torch.rand((), generator=moment.draws).item()
            partner = torch.randperm(batch_size(view_a), generator=moment.draws)
        mixed = share * view_a + (1 - share) * rows_at(view_b, partner)
        z_a, z_b, z_m = self.prepared(network.own_rows_of_each(view_a, view_b, mixed))
        place = moment.epoch + moment.step / moment.steps_per_epoch
        scale = regulariser_scale(place, self.reg_warmup_epochs)
        return self.scaled(self.mixed_terms(z_a, z_b, z_m, alpha, partner, scale))

    def mixed_terms(
        self,
        z_a: Tensor,
        z_b: Tensor,
        z_m: Tensor,
        alpha: float | Tensor,
        partner: Tensor,
        scale: float = 1.0,
    ) -> dict[str, Tensor]:
        """Loss and its terms from own rows (n, d) of standardised embeddings.

        Args:
            partner: (N,), permutes z_b.
            scale: share of lambda_reg that is in force.
        """
        from barlow_atlas.objectives.squared_products import factor

        a, b = factor(z_a), factor(z_b)
        twins = self.weighted(*cross_correlation_terms(a, b))
        imagenet = self.convention == "imagenet"
        with_a, with_b = mixing_terms(a, b, z_m, alpha, partner, "b" if imagenet else "a")
        mixing = (with_a + with_b) * (0.5 if imagenet else 1.0)
        loss = twins["loss"] + scale * self.lambda_reg * self.lambda_bt * mixing
        return {**twins, "loss": loss, "mixing": mixing}


def mixing_terms(
    z_a: Tensor | Factor,
    z_b: Tensor | Factor,
    z_m: Tensor,
    alpha: float | Tensor,
    partner: Tensor,
    second_target: Literal["a", "b"] = "a",
) -> tuple[Tensor, Tensor]:
    """How far the mixed images' correlations are from the mixture of the twins' correlations.

    The paper asks z_m^T z_v / N to equal (alpha z_a + (1 - alpha) z_b[partner])^T z_v / N for both
    v = a and v = b, in squared Frobenius norm over all d x d entries. Both differences share one
    residual, so that two products serve in place of six, of which only the norms are needed
    (`squared_products`):

        r = z_m - alpha z_a - (1 - alpha) z_b[partner],   terms = |r^T z_v / N|_F^2.

    The ImageNet code has z_b^T z_b where the formula for v = b has z_a^T z_b; its second residual
    is z_m - alpha z_b - (1 - alpha) z_b[partner].

    Args:
        z_a, z_b, z_m: standardised embeddings of the two views and of the mixed images,
            own rows (n, d).
        alpha: share of view A in the mixed images; one number, or (n, 1).
        partner: (N,), for each row of view A the row of view B it was mixed with.
        second_target: the view in the first product of the target for v = b: "a" as in the paper
            and the small-data code, "b" as in the ImageNet code.

    Returns:
        The terms for v = a and v = b, both scalars.
    """
    from barlow_atlas.nn.processes import rows_at
    from barlow_atlas.objectives.squared_products import factor, squared_norm_of_product

    a, b = factor(z_a), factor(z_b)
    unmixed = z_m - (1 - alpha) * rows_at(b.x, partner)
    residual_a = factor(unmixed - alpha * a.x)
    residual_b = residual_a if second_target == "a" else factor(unmixed - alpha * b.x)
    with_a = squared_norm_of_product(residual_a, a) / batch_size(z_m) ** 2
    with_b = squared_norm_of_product(residual_b, b) / batch_size(z_m) ** 2
    return with_a, with_b


def regulariser_scale(place: float, warmup_epochs: int) -> float:
    """Share of lambda_reg at `place` (in epochs): linear from 0 to 1 over the warm-up."""
    return min(1.0, place / warmup_epochs) if warmup_epochs else 1.0
