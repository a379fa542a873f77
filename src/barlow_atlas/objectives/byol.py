"""BYOL (Grill et al., NeurIPS 2020, arXiv:2006.07733), in the form of the baselines `ssl-sota`."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from barlow_atlas.objectives.base import Method
from barlow_atlas.settings.training import Projector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from barlow_atlas.nn.networks import Network
    from barlow_atlas.objectives.base import Moment


class BYOL(Method):
    """Predict, from one view, how a slow average of the network embeds the other view."""

    objective: Literal["byol"]
    base_momentum: Annotated[float, Field(ge=0, le=1)] = Field(
        0.99,
        description="share of itself that the target keeps at a step of the first epoch; rises to "
        "1 (ssl-sota: 0.99; the paper: 0.996)",
    )
    predictor: Projector = Field(
        Projector(hidden=(1024,), hidden_bias=True),
        description="layers from embedding to predicted embedding (ssl-sota: 1024)",
    )
    l2_normalise: bool = Field(
        True, description="2 - 2 cosine; false: mean squared error (ssl-sota's --no_norm)"
    )

    @property
    def needs_an_end(self) -> bool:
        return True

    def parts(self, network: Network, embedding_dim: int) -> nn.Module:
        """The predictor, and the target network, equal to the network."""
        import copy

        from torch import nn

        from barlow_atlas.nn.networks import projector_layers

        parts = nn.Module()
        parts.predictor = nn.Sequential(
            *projector_layers(embedding_dim, self.predictor, embedding_dim)
        )
        parts.target = copy.deepcopy(network).requires_grad_(False)
        return parts

    def terms(
        self, network: Network, parts: nn.Module, view_a: Tensor, view_b: Tensor, moment: Moment
    ) -> dict[str, Tensor]:
        import torch

        predictor, target = parts.get_submodule("predictor"), parts.get_submodule("target")
        predictions = [predictor(z) for z in network.each(view_a, view_b)]
        with torch.no_grad():
            targets = [target(view) for view in (view_a, view_b)]
        return {"loss": self.prediction_error(predictions, targets)}

    def prediction_error(self, predictions: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Each view's prediction (N, d) against the other's target (BYOL paper, eq. 2).

        The two directions of a pair of views are added, and the pairs are averaged.
        """
        import torch
        from torch.nn.functional import mse_loss

        from barlow_atlas.objectives.borrowed import norm_mse_loss

        error = norm_mse_loss if self.l2_normalise else mse_loss
        targets = [target.detach() for target in targets]
        return torch.stack(
            [
                error(predictions[i], targets[j]) + error(predictions[j], targets[i])
                for i, j in combinations(range(len(predictions)), 2)
            ]
        ).mean()

    def after_step(self, network: Network, parts: nn.Module, moment: Moment) -> None:
        """Moves the target's parameters; its batch-norm statistics are its own."""
        from barlow_atlas.objectives.borrowed import update_momentum

        assert moment.epochs is not None  # needs_an_end
        momentum = target_momentum(moment.epoch / moment.epochs, self.base_momentum)
        update_momentum(network, parts.get_submodule("target"), momentum)


def target_momentum(progress: float, base: float, final: float = 1.0) -> float:
    """A slow network's momentum, from `base` to `final` along half a cosine.

    To 1: BYOL paper, section 3.1. To 0.999: solo-learn's MoCo v2.

    Args:
        progress: share of training done; in ssl-sota finished epochs over all, so that it is
            constant within an epoch.
    """
    return final - (final - base) * (math.cos(math.pi * progress) + 1) / 2
