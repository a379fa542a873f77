"""Barlow Twins (Zbontar et al., ICML 2021, arXiv:2103.03230).

Two forms: that of Mixed Barlow Twins' small-data code (the default), and that of Barlow Twins' own
ImageNet code (`l2_normalise: false`, `standardisation: batch_norm`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from barlow_atlas.objectives.base import Method, at_least_float32, batch_size, standardise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from barlow_atlas.nn.networks import Network
    from barlow_atlas.objectives.base import Moment
    from barlow_atlas.objectives.squared_products import Factor


class BarlowTwins(Method):
    """Make the cross-correlation matrix of two views' embeddings the identity."""

    objective: Literal["barlow_twins"]
    lambda_bt: Annotated[float, Field(gt=0)] = Field(
        description="weight of the off-diagonal (redundancy) term"
    )
    l2_normalise: bool = Field(
        True,
        description="scale each embedding to length 1 before the batch standardisation, as the "
        "small-data code does; the papers and the ImageNet code do not",
    )
    standardisation: Literal["unbiased", "biased", "batch_norm"] = Field(
        "unbiased",
        description="unbiased: variance with divisor N - 1 (MIX's code); biased: divisor N, which "
        "makes the correlations those of the paper's eq. 2; batch_norm: divisor N and epsilon 1e-5 "
        "(Barlow Twins' ImageNet code)",
    )
    loss_scale: Annotated[float, Field(gt=0)] = Field(
        1.0,
        # Runs on record, which have none, stay equal to today's.
        exclude_if=lambda scale: scale == 1.0,
        description="multiplies the loss (solo-learn on CIFAR: 0.1)",
    )

    ranks: Annotated[int, Field(gt=0)] = Field(
        1,
        exclude_if=lambda ranks: ranks == 1,
        description="GPUs whose reference code this is: weights get 1 / ranks of the gradient; "
        "without batch_norm, each rank's part of the batch is standardised, and mixed, by itself",
    )

    @property
    def virtual_ranks(self) -> int | None:
        return self.ranks if self.ranks > 1 else None

    def check(self, batch_size: int, embedding_dim: int) -> None:
        if batch_size % self.ranks:
            raise ValueError(f"{self.ranks} ranks cannot share batch_size {batch_size} evenly")
        if batch_size // self.ranks < 2:
            raise ValueError("a batch of one image has no variance to divide by: raise batch_size")

    def terms(
        self, network: Network, parts: nn.Module, view_a: Tensor, view_b: Tensor, moment: Moment
    ) -> dict[str, Tensor]:
        z_a, z_b = self.prepared(network.own_rows_of_each(view_a, view_b))
        return self.scaled(self.twin_terms(z_a, z_b))

    def scaled(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """The terms with the loss that is minimised; the others are recorded as they are."""
        return {**terms, "loss": self.loss_scale / self.ranks * terms["loss"]}

    def prepared(self, views: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """As `prepare`, of each of several views (n, d).

        On a GPU all at once: half of the kernels. A CPU would only copy them for that.
        """
        import torch

        if views[0].device.type != "cuda":
            return tuple(self.prepare(view) for view in views)
        return self.prepare(torch.stack([*views], dim=1)).unbind(1)

    def prepare(self, z: Tensor) -> Tensor:
        """Raw embeddings to what the correlations are taken of, in the shape in which they come:
        own rows (n, d), or (n, V, d) of V views.
        """
        from torch.nn.functional import normalize

        from barlow_atlas.nn.norms import over_batch
        from barlow_atlas.objectives.ranks import standardise_by_rank

        z = at_least_float32(z)
        if self.l2_normalise:
            z = normalize(z, dim=-1)
        if self.standardisation == "batch_norm":
            return over_batch(z.flatten(1), eps=1e-5).view_as(z)
        correction = 0 if self.standardisation == "biased" else 1
        if self.ranks > 1:
            return standardise_by_rank(z, self.ranks, correction)
        return standardise(z, correction)

    def twin_terms(self, z_a: Tensor, z_b: Tensor) -> dict[str, Tensor]:
        """Loss and its two terms from standardised embeddings, own rows (n, d)."""
        return self.weighted(*cross_correlation_terms(z_a, z_b))

    def weighted(self, invariance: Tensor, redundancy: Tensor) -> dict[str, Tensor]:
        """The two terms, scalars, and the loss they make."""
        return {
            "loss": invariance + self.lambda_bt * redundancy,
            "invariance": invariance,
            "redundancy": redundancy,
        }


def cross_correlation_terms(z_a: Tensor | Factor, z_b: Tensor | Factor) -> tuple[Tensor, Tensor]:
    """Distance of the cross-correlation matrix from the identity (BT paper, eq. 1 and 2).

    C = z_a^T z_b / N; the terms are sum_i (1 - C_ii)^2 and sum_{i != j} C_ij^2. The latter is
    |C|_F^2 less the diagonal's part, and |C|_F^2 needs no C (`squared_products`). The difference
    keeps its digits: where N < d, the rank of C is below d, and |C|_F^2 at least d / N times
    d (mean_i C_ii)^2.

    The divisor is N although the standardisation uses N - 1, as in the reference code: identical
    views leave d / N^2 on the diagonal.

    Args:
        z_a, z_b: own rows of standardised embeddings, (n, d).

    Returns:
        Invariance and redundancy term, both scalars: sums, not means.
    """
    from barlow_atlas.objectives.squared_products import factor, squared_norm_of_product

    a, b = factor(z_a), factor(z_b)
    diagonal = correlation_diagonal(a.x, b.x)
    redundancy = squared_norm_of_product(a, b) / batch_size(a.x) ** 2 - diagonal.square().sum()
    return (diagonal - 1).square().sum(), redundancy


def correlation_diagonal(z_a: Tensor, z_b: Tensor) -> Tensor:
    """C_ii of C = z_a^T z_b / N, (d,), of own rows (n, d) of standardised embeddings."""
    from barlow_atlas.nn.processes import averaged

    return averaged((z_a * z_b).mean(0))
