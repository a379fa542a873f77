"""SimSiam (Chen, He, CVPR 2021, arXiv:2011.10566).

The authors' projector ends in batch norm without weight and bias: `projector.output_norm: plain`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from barlow_atlas.objectives.base import Method
from barlow_atlas.settings.training import Projector

if TYPE_CHECKING:
    from torch import Tensor, nn

    from barlow_atlas.nn.networks import Network
    from barlow_atlas.objectives.base import Moment


class SimSiam(Method):
    """Predict one view's embedding from the other's, without gradient to what is predicted."""

    objective: Literal["simsiam"]
    predictor: Projector = Field(
        Projector(hidden=(512,)),
        description="layers from embedding to predicted embedding, a bottleneck (the authors' "
        "code: 512 at an embedding of 2048)",
    )
    constant_predictor_rate: bool = Field(
        True, description="the predictor's learning rate does not decay (authors' --fix-pred-lr)"
    )

    def parts(self, network: Network, embedding_dim: int) -> nn.Module:
        from torch import nn

        from barlow_atlas.nn.networks import projector_layers

        layers = projector_layers(embedding_dim, self.predictor, embedding_dim)
        return nn.ModuleDict({"predictor": nn.Sequential(*layers)})

    def constant_rate_parameters(self, parts: nn.Module) -> list[nn.Parameter]:
        return list(parts.parameters()) if self.constant_predictor_rate else []

    def terms(
        self, network: Network, parts: nn.Module, view_a: Tensor, view_b: Tensor, moment: Moment
    ) -> dict[str, Tensor]:
        predictor = parts.get_submodule("predictor")
        z_a, z_b = network.each(view_a, view_b)
        return {"loss": symmetric_prediction(predictor(z_a), predictor(z_b), z_a, z_b)}


def symmetric_prediction(p_a: Tensor, p_b: Tensor, z_a: Tensor, z_b: Tensor) -> Tensor:
    """Negative cosines of predictions and the other view's embedding (SimSiam paper, eq. 2).

    Args:
        p_a, p_b: predictions, (N, d).
        z_a, z_b: embeddings, (N, d), taken as constants.

    Returns:
        A scalar from -1 (all agree) to 1.
    """
    from barlow_atlas.objectives.borrowed import NegativeCosineSimilarity

    distance = NegativeCosineSimilarity()
    loss: Tensor = (distance(p_a, z_b.detach()) + distance(p_b, z_a.detach())) / 2
    return loss
