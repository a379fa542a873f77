"""What every method is: settings that turn two views into loss terms."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from barlow_atlas.settings.frozen import Frozen

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from barlow_atlas.nn.networks import Network


@dataclass(frozen=True)
class Moment:
    """Where in pre-training a step is, and what it may draw from."""

    epoch: int
    """Finished epochs."""
    step: int
    """Steps already done in this epoch."""
    steps_per_epoch: int
    epochs: int | None
    """All epochs of the run; None where the schedule has no end (`trunk`)."""
    draws: Generator
    """CPU generator of this step, for whatever the method draws besides its views."""


class Method(Frozen):
    """A pre-training method and its settings.

    `objective` is the method's name in `METHODS`; a study file chooses the class by it.
    """

    objective: str

    @property
    def needs_an_end(self) -> bool:
        """Whether the method follows the share of training done, which `trunk` does not know."""
        return False

    @property
    def virtual_ranks(self) -> int | None:
        """Of how many GPUs the method does what its authors' code does; None: of one.

        A number of processes must divide it.
        """
        return None

    def parts(self, network: Network, embedding_dim: int) -> nn.Module:
        """Modules of the method's own beside backbone and projector: a predictor, a target network.

        They are made in the run's generator context, trained where their parameters require a
        gradient, saved in training states, and left out of the published weights.
        """
        from torch import nn

        return nn.Module()

    def check(self, batch_size: int, embedding_dim: int) -> None:
        """Raises ValueError, with what to do, if the method cannot work at these sizes."""

    @abstractmethod
    def terms(
        self, network: Network, parts: nn.Module, view_a: Tensor, view_b: Tensor, moment: Moment
    ) -> dict[str, Tensor]:
        """The loss terms of one step.

        Args:
            network: images to the embeddings of the whole batch, (N, d). Each call is one forward
                pass with batch-norm statistics of its own; `network.each(view_a, view_b)` is a
                call for each view, together faster.
            parts: what `parts` made.
            view_a, view_b: (n, 3, H, W), normalised; row i of both shows the same image. All of
                the batch or a part of it (`nn.processes`), whose N is `batch_size(view_a)`: what
                is asked of other images is asked of embeddings, or by `rows_at`. They pass the
                network first and in this order, before whatever else does (`training.online`).
            moment: epoch, step and random draws.

        Returns:
            Scalars by name. "loss" is what is minimised; the others are recorded beside it.
        """

    def constant_rate_parameters(self, parts: nn.Module) -> list[nn.Parameter]:
        """Parameters among the parts whose learning rate stays at the schedule's peak."""
        return []

    def after_step(self, network: Network, parts: nn.Module, moment: Moment) -> None:
        """What the method does once the optimizer has moved the weights, such as an average."""


def standardise(z: Tensor, correction: int = 1) -> Tensor:
    """Each dimension of own rows z (n, ..., d) to zero mean and unit variance over the batch.

    The divisor of the variance is N - correction: N - 1 in Mixed Barlow Twins' code, N in the
    Barlow Twins paper. Nothing is added to it, so that a dimension without variance gives NaN,
    which stops the run.
    """
    from barlow_atlas.nn.processes import averaged, first_row, summed

    # Seen from one of its own rows, a constant dimension is exactly 0, whatever its mean rounds to.
    centred = z - first_row(z)
    centred = centred - averaged(centred.mean(0))
    variance = summed(centred.square().sum(0)) / (batch_size(z) - correction)
    return centred * variance.rsqrt()


def batch_size(z: Tensor) -> int:
    """N of the batch of which z (n, ...) are a process' own rows."""
    from barlow_atlas.nn.processes import count

    return count() * len(z)


def at_least_float32(z: Tensor) -> Tensor:
    """z in float32 if it came in a shorter format, in which sums over a batch lose their digits."""
    import torch

    return z.to(torch.promote_types(z.dtype, torch.float32))
