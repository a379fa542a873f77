"""W-MSE (Ermolov et al., ICML 2021, arXiv:2007.06346), in the form of the baselines `ssl-sota`.

As there, the backbone sees one view at a time and the projector both views at once, so that the
projector's batch norm has the statistics of 2 N rows.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from barlow_atlas.errors import AtlasError
from barlow_atlas.objectives.base import Method, batch_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from barlow_atlas.nn.networks import Network
    from barlow_atlas.objectives.base import Moment


class SingularCovariance(AtlasError):
    """Embeddings that cannot be whitened; the message says why and what to do."""


class WMSE(Method):
    """Make two views' embeddings equal after whitening, which keeps them from collapsing."""

    objective: Literal["w_mse"]
    sub_batch: Annotated[int, Field(gt=0)] = Field(
        128,
        description="rows that are whitened together, more than the embedding's width (MIX's "
        "scripts: 128 at width 64, 256 at 128)",
    )
    epsilon: Annotated[float, Field(ge=0, le=1)] = Field(
        0.01, description="share of the identity in the covariance (MIX's scripts: 0.01)"
    )
    iterations: Annotated[int, Field(gt=0)] = Field(
        1, description="partitions into sub-batches over which the loss is averaged (w_iter)"
    )
    l2_normalise: bool = Field(
        True, description="2 - 2 cosine; false: mean squared error (ssl-sota's --no_norm)"
    )

    def check(self, batch_size: int, embedding_dim: int) -> None:
        if self.sub_batch <= embedding_dim:
            raise ValueError(
                f"{self.sub_batch} rows cannot be whitened in {embedding_dim} dimensions: give a "
                "sub_batch above embedding_dim, at best twice as large"
            )
        if batch_size % self.sub_batch:
            raise ValueError(
                f"batch_size {batch_size} must be a multiple of sub_batch {self.sub_batch}"
            )

    def terms(
        self, network: Network, parts: nn.Module, view_a: Tensor, view_b: Tensor, moment: Moment
    ) -> dict[str, Tensor]:
        import torch

        from barlow_atlas.nn.devices import sent

        n, device = batch_size(view_a), view_a.device
        orders = [
            sent(torch.randperm(n, generator=moment.draws), device) for _ in range(self.iterations)
        ]
        z = network.together(view_a, view_b)
        return {"loss": self.whitened_error(z.chunk(2), orders)}

    def whitened_error(self, views: Sequence[Tensor], orders: Sequence[Tensor]) -> Tensor:
        """Error between whitened views (W-MSE paper, eq. 1 and 6), mean over pairs and orders.

        Args:
            views: embeddings of each view, (N, d).
            orders: permutations (N,) whose consecutive pieces are the sub-batches.
        """
        import torch
        from torch.nn.functional import mse_loss

        from barlow_atlas.objectives.borrowed import norm_mse_loss

        error = norm_mse_loss if self.l2_normalise else mse_loss
        whitened = [[self.whiten(z, order) for z in views] for order in orders]
        return torch.stack([error(*pair) for z in whitened for pair in combinations(z, 2)]).mean()

    def whiten(self, z: Tensor, order: Tensor) -> Tensor:
        """Rows of z (N, d), each whitened by its own sub-batch (W-MSE paper, section 3.1).

        A sub-batch is centred and multiplied by L^-1, where L L^T is its covariance (divisor
        n - 1), shrunk towards the identity by `epsilon`.

        Args:
            order: (N,), its consecutive pieces are the sub-batches.

        Raises:
            SingularCovariance: a dimension of the embeddings follows from the others.
        """
        import torch

        from barlow_atlas.objectives.borrowed import Whitening2d

        whitening = Whitening2d(z.shape[1], track_running_stats=False, eps=self.epsilon)
        try:
            rows = torch.cat([whitening(z[piece]) for piece in order.view(-1, self.sub_batch)])
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise SingularCovariance(
                f"embeddings of width {z.shape[1]} cannot be whitened: over a sub-batch of "
                f"{self.sub_batch} a dimension has no variance or follows from the others, or is "
                "not finite. Raise epsilon or sub_batch, or lower the learning rate or "
                "embedding_dim"
            ) from error
        return rows[order.argsort()]
