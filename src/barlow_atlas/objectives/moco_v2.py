"""MoCo v2 (Chen, Fan, Girshick, He, arXiv:2003.04297; MoCo: He et al., arXiv:1911.05722).

Where parts of the batch have batch-norm statistics of their own, as on the authors' GPUs, keys are
shuffled over the parts, or the statistics would tell a query its key. Where batch norm has those of
the whole batch, there is nothing to tell.
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
    final_momentum: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="to which it rises from `momentum` along half a cosine (solo-learn: 0.999); "
        "left out: it stays",
    )
    symmetric: bool = Field(
        False,
        exclude_if=lambda value: not value,
        description="each view is query and key, with a queue for each view's keys (solo-learn)",
    )

    def check(self, batch_size: int, embedding_dim: int) -> None:
        if self.queue_length % batch_size:
            raise ValueError(
                f"queue_length {self.queue_length} must be a multiple of batch_size {batch_size}: "
                f"give {max(1, self.queue_length // batch_size) * batch_size}"
            )

    @property
    def needs_an_end(self) -> bool:
        """A momentum that rises needs to know where it shall be at the end."""
        return self.final_momentum is not None

    def parts(self, network: Network, embedding_dim: int) -> nn.Module:
        """The key encoder, equal to the network, and a queue of random keys, or one a view."""
        import copy

        from torch import nn

        parts = nn.Module()
        parts.key_encoder = copy.deepcopy(network).requires_grad_(False)
        self._hold(parts, embedding_dim)
        if self.symmetric:
            parts.swapped = nn.Module()
            self._hold(parts.swapped, embedding_dim)
        return parts

    def _hold(self, holder: nn.Module, embedding_dim: int) -> None:
        import torch
        from torch.nn.functional import normalize

        holder.register_buffer("queue", normalize(torch.randn(self.queue_length, embedding_dim)))
        holder.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    def terms(
        self, network: Network, parts: nn.Module, view_a: Tensor, view_b: Tensor, moment: Moment
    ) -> dict[str, Tensor]:
        import torch

        from barlow_atlas.objectives.base import batch_size

        def order() -> Tensor | None:
            shuffled = network.parts > 1
            return torch.randperm(batch_size(view_a), generator=moment.draws) if shuffled else None

        self.move_keys(network, parts, self.momentum_at(moment))
        loss = first_is_right(self.logits(network, parts, parts, view_a, view_b, order()))
        if self.symmetric:
            swapped = parts.get_submodule("swapped")
            logits = self.logits(network, parts, swapped, view_b, view_a, order())
            loss = (loss + first_is_right(logits)) / 2
        return {"loss": loss}

    def momentum_at(self, moment: Moment) -> float:
        """The key encoder's momentum at a step."""
        from barlow_atlas.objectives.byol import target_momentum

        if self.final_momentum is None:
            return self.momentum
        assert moment.epochs is not None  # needs_an_end
        done = moment.epoch + moment.step / moment.steps_per_epoch
        return target_momentum(done / moment.epochs, self.momentum, self.final_momentum)

    def move_keys(self, network: Network, parts: nn.Module, momentum: float) -> None:
        """Moves the key encoder towards the network."""
        import torch

        from barlow_atlas.objectives.borrowed import update_momentum

        with torch.no_grad():
            update_momentum(network, parts.get_submodule("key_encoder"), momentum)

    def logits(
        self,
        network: Network,
        parts: nn.Module,
        holder: nn.Module,
        queries: Tensor,
        keys: Tensor,
        order: Tensor | None = None,
    ) -> Tensor:
        """The logits (N, 1 + K); then puts the keys into the queue.

        Args:
            holder: has the queue, (K, d), and the place of its oldest key.
            queries, keys: images (n, 3, H, W) of the two views.
            order: a permutation (N,) of the batch, in which the keys are encoded.
        """
        import torch
        from torch.nn.functional import normalize

        q = normalize(network(queries))
        queue = holder.get_buffer("queue")
        with torch.no_grad():
            k = normalize(encoded(parts.get_submodule("key_encoder"), keys, order))
        logits = instance_logits(q, k, queue.clone(), self.temperature)
        enqueue(queue, holder.get_buffer("pointer"), k)
        return logits


def encoded(encoder: nn.Module, images: Tensor, order: Tensor | None) -> Tensor:
    """Embeddings (N, d) of own images (n, 3, H, W), encoded in an order and put back into theirs.

    MoCo paper, section 3.3 ("shuffling BN"); code moco/builder.py, _batch_shuffle_ddp.
    """
    from barlow_atlas.nn.devices import sent
    from barlow_atlas.nn.processes import rows_at

    if order is None:
        in_place: Tensor = encoder(images)
        return in_place
    shuffled: Tensor = encoder(rows_at(images, order))
    return shuffled[sent(order.argsort(), images.device)]


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
