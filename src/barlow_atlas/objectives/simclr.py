"""SimCLR (Chen et al., ICML 2020, arXiv:2002.05709), in the form of the baselines `ssl-sota`.

As there, the backbone sees one view at a time and the projector both views at once, so that the
projector's batch norm has the statistics of 2 N rows.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from barlow_atlas.objectives.base import Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from barlow_atlas.nn.networks import Network
    from barlow_atlas.objectives.base import Moment


class SimCLR(Method):
    """Tell the other view of the same image from all other images of the batch."""

    objective: Literal["simclr"]
    temperature: Annotated[float, Field(gt=0)] = Field(
        0.5, description="divides the similarities (ssl-sota: 0.5)"
    )
    bn_last: bool = Field(
        True,
        description="batch norm with weight and bias over the embeddings of both views, between "
        "projector and loss, as in ssl-sota; the paper has none",
    )
    l2_normalise: bool = Field(
        True, description="cosine similarities; false: plain products (ssl-sota's --no_norm)"
    )

    def check(self, batch_size: int, embedding_dim: int) -> None:
        if batch_size < 2:
            raise ValueError("a batch of one image has no negatives: raise batch_size")

    def parts(self, network: Network, embedding_dim: int) -> nn.Module:
        from torch import nn

        return nn.ModuleDict({"bn_last": nn.BatchNorm1d(embedding_dim)} if self.bn_last else {})

    def terms(
        self, network: Network, parts: nn.Module, view_a: Tensor, view_b: Tensor, moment: Moment
    ) -> dict[str, Tensor]:
        return {"loss": self.contrast(parts, network.together(view_a, view_b), views=2)}

    def contrast(self, parts: nn.Module, z: Tensor, views: int) -> Tensor:
        """The loss of embeddings (views * N, d), view by view: mean over the pairs of views."""
        import torch
        from torch.nn.functional import normalize

        if self.bn_last:
            z = parts.get_submodule("bn_last")(z)
        if self.l2_normalise:
            z = normalize(z, dim=1)
        pairs = combinations(z.chunk(views), 2)
        return torch.stack([nt_xent(z_a, z_b, self.temperature) for z_a, z_b in pairs]).mean()


def nt_xent(z_a: Tensor, z_b: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each row's partner among all 2 N - 1 other rows (SimCLR paper, eq. 1).

    Args:
        z_a, z_b: (N, d); row i of both shows the same image. Similarity is the product as given,
            so rows of length 1 make it the cosine.

    Returns:
        Mean over all 2 N rows, a scalar.
    """
    import torch
    from torch.nn.functional import cross_entropy

    z = torch.cat([z_a, z_b])
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(itself, float("-inf"))
    partner = torch.arange(len(z), device=z.device).roll(len(z_a))
    return cross_entropy(logits, partner)
