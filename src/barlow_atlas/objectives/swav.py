"""SwAV (Caron et al., NeurIPS 2020, arXiv:2006.09882), trained with two crops of one size.

As in the authors' code, crops of one size pass the network in one batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from barlow_atlas.objectives.base import Method

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from barlow_atlas.nn.networks import Network
    from barlow_atlas.objectives.base import Moment

SMALLEST_EPSILON = 0.0125


class SwAV(Method):
    """Predict, from one view, the other view's assignment to prototypes.

    The defaults are those of the authors' main_swav.py.
    """

    objective: Literal["swav"]
    prototypes: Annotated[int, Field(ge=2)] = 3000
    temperature: Annotated[float, Field(gt=0)] = Field(
        0.1, description="divides the scores from which an assignment is predicted"
    )
    epsilon: Annotated[float, Field(gt=0)] = Field(
        0.05, description="divides the scores that are assigned"
    )
    sinkhorn_iterations: Annotated[int, Field(gt=0)] = 3
    queue_length: Annotated[int, Field(ge=0)] = Field(
        0, description="earlier embeddings of each view that are assigned along; 0: no queue"
    )
    queue_start_epoch: Annotated[int, Field(ge=0)] = Field(
        15, description="finished epochs before the queue is filled; it is used once it is full"
    )
    frozen_prototype_steps: Annotated[int, Field(ge=0)] = Field(
        313,
        description="first steps, in which the prototypes stay (313: an epoch of ImageNet at "
        "batch 4096)",
    )

    def check(self, batch_size: int, embedding_dim: int) -> None:
        if self.epsilon < SMALLEST_EPSILON:
            raise ValueError(
                f"epsilon {self.epsilon} is too small: exp(1 / epsilon) overflows in float32. Give "
                f"{SMALLEST_EPSILON} or more"
            )
        if self.queue_length % batch_size:
            raise ValueError(
                f"queue_length {self.queue_length} must be a multiple of batch_size {batch_size}: "
                f"give {self.queue_length // batch_size * batch_size} (0: no queue), as the "
                "authors' code would make it"
            )

    def parts(self, network: Network, embedding_dim: int) -> nn.Module:
        import torch
        from torch import nn

        parts = nn.Module()
        parts.prototypes = nn.Linear(embedding_dim, self.prototypes, bias=False)
        if self.queue_length:
            parts.register_buffer("queue", torch.zeros(2, self.queue_length, embedding_dim))
        return parts

    def terms(
        self, network: Network, parts: nn.Module, view_a: Tensor, view_b: Tensor, moment: Moment
    ) -> dict[str, Tensor]:
        from torch.nn.functional import normalize

        prototypes = normalise_prototypes(parts)
        if moment.epoch * moment.steps_per_epoch + moment.step < self.frozen_prototype_steps:
            prototypes = prototypes.detach()
        z = normalize(network.as_one_view(view_a, view_b)).chunk(2)
        queued = self.queued_scores(parts, z, moment)
        return {"loss": self.swapped_prediction([row @ prototypes.T for row in z], queued)}

    def queued_scores(
        self, parts: nn.Module, z: Sequence[Tensor], moment: Moment
    ) -> list[Tensor] | None:
        """Scores (L, K) of the queued embeddings of each view, once the queue is full.

        Then puts this batch's embeddings, (N, d) for each view, into the queue.
        """
        if not self.queue_length or moment.epoch < self.queue_start_epoch:
            return None
        queue = parts.get_buffer("queue")
        steps = (moment.epoch - self.queue_start_epoch) * moment.steps_per_epoch + moment.step
        prototypes = parts.get_parameter("prototypes.weight").detach()
        full = steps * len(z[0]) >= self.queue_length
        scores = [earlier @ prototypes.T for earlier in queue] if full else None
        enqueue(queue, z)
        return scores

    def swapped_prediction(
        self,
        scores: Sequence[Tensor],
        queued: Sequence[Tensor] | None = None,
        assigned: Sequence[int] = (0, 1),
    ) -> Tensor:
        """Cross-entropy of crops' assignments and other crops' predictions (SwAV paper, eq. 1).

        Args:
            scores: products of embeddings and prototypes of each crop, all of length 1, (N, K).
            queued: such scores (L, K) that are assigned along, for each of `assigned`.
            assigned: the crops that are assigned; each is predicted by all other crops.

        Returns:
            Mean over the predicting crops, then over the assigned ones, a scalar.
        """
        from barlow_atlas.objectives.borrowed import SwaVLoss

        loss = SwaVLoss(self.temperature, self.sinkhorn_iterations, self.epsilon)
        predicting = [score for crop, score in enumerate(scores) if crop not in assigned]
        cross_entropy: Tensor = loss([scores[crop] for crop in assigned], predicting, queued)
        return cross_entropy.squeeze()


def normalise_prototypes(parts: nn.Module) -> nn.Parameter | Tensor:
    """Gives each prototype length 1, in place, as the authors' code does before every step."""
    import torch
    from torch.nn.functional import normalize

    prototypes = parts.get_parameter("prototypes.weight")
    with torch.no_grad():
        prototypes.copy_(normalize(prototypes))
    return prototypes


def enqueue(queue: Tensor, z: Sequence[Tensor]) -> None:
    """Puts embeddings, (N, d) for each view, at the front of the queue (views, L, d)."""
    import torch

    newest = torch.stack([embeddings.detach() for embeddings in z])
    queue.copy_(torch.cat([newest, queue], dim=1)[:, : queue.shape[1]])
