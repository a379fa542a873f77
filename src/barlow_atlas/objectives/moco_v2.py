"""MoCo v2 (Chen, Fan, Girshick, He, arXiv:2003.04297; MoCo: He et al., arXiv:1911.05722).

One process: the authors' shuffling of images between GPUs, which keeps batch norm from telling
queries their keys, has no counterpart here. Queries and keys have batch statistics of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from barlow_atlas.objectives.base import Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from barlow_atlas.nn.networks import Network
    from barlow_atlas.objectives.base import Moment


class MoCoV2(Method):
    """Tell the key of the same image from a queue of earlier keys, made by a slower encoder."""

    objective: Literal["moco_v2"]
    temperature: Annotated[float, Field(gt=0)] = Field(
        0.2, description="divides the cosines (MoCo v2: 0.2; MoCo: 0.07)"
    )
    queue_length: Annotated[int, Field(gt=0)] = Field(
        65536,
        description="earlier keys that serve as negatives, a multiple of batch_size (MoCo's code: "
        "65536)",
    )
    momentum: Annotated[float, Field(ge=0, le=1)] = Field(
        0.999, description="share of itself that the key encoder keeps at a step (MoCo: 0.999)"
    )

    def check(self, batch_size: int, embedding_dim: int) -> None:
        if self.queue_length % batch_size:
            raise ValueError(
                f"queue_length {self.queue_length} must be a multiple of batch_size {batch_size}: "
                f"give {max(1, self.queue_length // batch_size) * batch_size}"
            )

    def parts(self, network: Network, embedding_dim: int) -> nn.Module:
        """The key encoder, equal to the network, and a queue of random keys."""
        import copy

        import torch
        from torch import nn
        from torch.nn.functional import normalize

        parts = nn.Module()
        parts.key_encoder = copy.deepcopy(network).requires_grad_(False)
        parts.register_buffer("queue", normalize(torch.randn(self.queue_length, embedding_dim)))
        parts.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        return parts

    def terms(
        self, network: Network, parts: nn.Module, view_a: Tensor, view_b: Tensor, moment: Moment
    ) -> dict[str, Tensor]:
        return {"loss": first_is_right(self.logits(network, parts, view_a, view_b))}

    def logits(self, network: Network, parts: nn.Module, queries: Tensor, keys: Tensor) -> Tensor:
        """One step up to the logits (N, 1 + K): moves the key encoder first, the queue last.

        Args:
            queries, keys: images (N, 3, H, W) of the two views.
        """
        import torch
        from torch.nn.functional import normalize

        from barlow_atlas.objectives.borrowed import update_momentum

        q = normalize(network(queries))
        key_encoder, queue = parts.get_submodule("key_encoder"), parts.get_buffer("queue")
        with torch.no_grad():
            update_momentum(network, key_encoder, self.momentum)
            k = normalize(key_encoder(keys))
        logits = instance_logits(q, k, queue.clone(), self.temperature)
        enqueue(queue, parts.get_buffer("pointer"), k)
        return logits


def instance_logits(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Similarities of queries with their key, then with the queue (MoCo paper, eq. 1).

    Args:
        q, k: rows of length 1, (N, d).
        queue: rows of length 1, (K, d).

    Returns:
        (N, 1 + K); the right answer is the first column.
    """
    import torch

    positive = (q * k).sum(1, keepdim=True)
    return torch.cat([positive, q @ queue.T], dim=1) / temperature


def first_is_right(logits: Tensor) -> Tensor:
    """Mean cross-entropy of logits (N, 1 + K) whose right answer is the first column, a scalar."""
    import torch
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))


def enqueue(queue: Tensor, pointer: Tensor, keys: Tensor) -> None:
    """Replaces the oldest keys: writes `keys` (N, d) into `queue` (K, d) from `pointer` on."""
    import torch

    places = (pointer + torch.arange(len(keys), device=queue.device)) % len(queue)
    queue[places] = keys
    pointer.add_(len(keys)).remainder_(len(queue))
