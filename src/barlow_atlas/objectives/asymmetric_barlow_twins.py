"""Barlow Twins with the symmetry between its networks broken (arXiv:2103.03230, section 4).

The paper asks whether Barlow Twins needs what keeps BYOL and SimSiam from collapsing; it does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from barlow_atlas.objectives.barlow_twins import BarlowTwins
from barlow_atlas.settings.training import Projector

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor, nn

    from barlow_atlas.nn.networks import Network
    from barlow_atlas.objectives.base import Moment


class AsymmetricBarlowTwins(BarlowTwins):
    """Barlow Twins with a predictor after view A's embedding, no gradient to view B's, or both.

    No code was published: that each view keeps its side in every step is our reading.
    """

    objective: Literal["asymmetric_barlow_twins"]  # type: ignore[assignment]
    stop_gradient: bool = Field(description="view B's embedding is taken as a constant")
    predictor: Projector | None = Field(
        description="layers after view A's embedding (the paper: hidden [8192] at width 8192); "
        "null: none"
    )

    @model_validator(mode="after")
    def _breaks_the_symmetry(self) -> Self:
        if not self.stop_gradient and self.predictor is None:
            raise ValueError("give a predictor or `stop_gradient: true`; else it is barlow_twins")
        return self

    def parts(self, network: Network, embedding_dim: int) -> nn.Module:
        from torch import nn

        from barlow_atlas.nn.networks import projector_layers

        if self.predictor is None:
            return nn.Module()
        layers = projector_layers(embedding_dim, self.predictor, embedding_dim)
        return nn.ModuleDict({"predictor": nn.Sequential(*layers)})

    def terms(
        self, network: Network, parts: nn.Module, view_a: Tensor, view_b: Tensor, moment: Moment
    ) -> dict[str, Tensor]:
        from barlow_atlas.nn.processes import own_rows

        z_a, z_b = network.each(view_a, view_b)
        if self.predictor is not None:
            z_a = parts.get_submodule("predictor")(z_a)
        if self.stop_gradient:
            z_b = z_b.detach()
        rows = own_rows(len(z_a))
        return self.twin_terms(self.prepare(z_a[rows]), self.prepare(z_b[rows]))
