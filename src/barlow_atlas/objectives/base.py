"""What every method is: settings that turn two views into loss terms."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from barlow_atlas.frozen import Frozen

if TYPE_CHECKING:
    from torch import Generator, Tensor

    Embed = Callable[[Tensor], Tensor]


class Method(Frozen):
    """A pre-training method and its settings.

    `objective` is the method's name in `METHODS`; a study file chooses the class by it.
    """

    objective: str

    @abstractmethod
    def terms(
        self, embed: Embed, view_a: Tensor, view_b: Tensor, draws: Generator
    ) -> dict[str, Tensor]:
        """The loss terms of one step.

        Args:
            embed: backbone and projector; images (N, 3, H, W) to embeddings (N, d). Each call is
                one forward pass with batch-norm statistics of its own.
            view_a, view_b: (N, 3, H, W), normalised; row i of both shows the same image.
            draws: CPU generator of this step, for whatever else the method draws.

        Returns:
            Scalars by name. "loss" is what is minimised; the others are recorded beside it.
        """


def standardise(z: Tensor) -> Tensor:
    """Each dimension of z (N, d) to zero mean and unit variance over the batch.

    The variance is the unbiased one (divisor N - 1) and nothing is added to it, as in Mixed Barlow
    Twins' small-data code. A dimension without variance gives NaN, which stops the run.
    """
    return (z - z.mean(0)) / z.std(0)
