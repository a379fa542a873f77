"""VICReg (Bardes, Ponce, LeCun, ICLR 2022, arXiv:2105.04906)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from barlow_atlas.objectives.base import Method, at_least_float32, batch_size

if TYPE_CHECKING:
    from torch import Tensor, nn

    from barlow_atlas.nn.networks import Network
    from barlow_atlas.objectives.base import Moment


class VICReg(Method):
    """Bring views together, keep every dimension's variance, and decorrelate dimensions.

    The defaults are those of the authors' main_vicreg.py.
    """

    objective: Literal["vicreg"]
    invariance_weight: Annotated[float, Field(ge=0)] = 25.0
    variance_weight: Annotated[float, Field(ge=0)] = 25.0
    covariance_weight: Annotated[float, Field(ge=0)] = 1.0

    def check(self, batch_size: int, embedding_dim: int) -> None:
        if batch_size < 2:
            raise ValueError("a batch of one image has no variance: raise batch_size")

    def terms(
        self, network: Network, parts: nn.Module, view_a: Tensor, view_b: Tensor, moment: Moment
    ) -> dict[str, Tensor]:
        return self.three_terms(*network.each(view_a, view_b))

    def three_terms(self, z_a: Tensor, z_b: Tensor) -> dict[str, Tensor]:
        """Loss and its unweighted terms from embeddings (N, d) (VICReg paper, eq. 1 to 6).

        As the authors define them: mean squared difference over all elements; half the sum over
        both views of the mean of max(0, 1 - sqrt(variance + 1e-4)); sum over both views of the
        squared off-diagonal covariances, divided by d. Variances have the divisor N - 1.
        """
        from barlow_atlas.nn.processes import own_rows
        from barlow_atlas.objectives.borrowed import invariance_loss, variance_loss

        z_a, z_b = at_least_float32(z_a), at_least_float32(z_b)
        invariance = invariance_loss(z_a, z_b)
        variance = (variance_loss(z_a) + variance_loss(z_b)) / 2
        rows = own_rows(len(z_a))
        covariance = covariance_term(z_a[rows]) + covariance_term(z_b[rows])
        loss = (
            self.invariance_weight * invariance
            + self.variance_weight * variance
            + self.covariance_weight * covariance
        )
        return {
            "loss": loss,
            "invariance": invariance,
            "variance": variance,
            "covariance": covariance,
        }


def covariance_term(z: Tensor) -> Tensor:
    """Sum of the squared off-diagonal covariances, divided by d (VICReg paper, eq. 4).

    The divisor of a covariance is N - 1. As in `barlow_twins.cross_correlation_terms` the whole
    matrix's squares come without the matrix where N < d, and the diagonal's are subtracted.

    Args:
        z: own rows of embeddings, (n, d).
    """
    from barlow_atlas.nn.processes import averaged, summed
    from barlow_atlas.objectives.squared_products import factor, squared_norm_of_product

    n, d = batch_size(z), z.shape[1]
    centred = factor(z - averaged(z.mean(0)))
    variance = summed(centred.x.square().sum(0)) / (n - 1)
    squares = squared_norm_of_product(centred, centred) / (n - 1) ** 2
    return (squares - variance.square().sum()) / d
