"""What several GPUs compute in Mixed Barlow Twins' ImageNet code, by any number of processes.

There each of R ranks standardises its own N / R rows, draws its own share alpha and its own
permutation, and divides its d x d matrices by the whole batch's N. The matrices are then summed
over the ranks in place, which autograd does not see. Two things follow:

- A sum over ranks of products of rows is one product over all rows. So with the rows of all ranks
  below each other, the loss is the one-process loss of what the functions below return.
- A rank's gradient reaches its own rows only, and there it is the true one, for the derivative of
  the sum by a rank's own term is 1. The ranks' gradients of the weights would have to be summed,
  but the data-parallel wrapper averages them: weights get 1 / R of the true gradient. LARS hides
  this from adapted weights, not from biases and batch norm, whose learning rate is therefore tied
  to R.

The network's own batch norms are synchronised there. Barlow Twins' own code differs in one point:
its last batch norm is synchronised too, so it standardises all rows together and needs nothing from
here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from barlow_atlas.objectives.base import batch_size, standardise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Generator, Tensor


def standardise_by_rank(z: Tensor, ranks: int, correction: int = 1) -> Tensor:
    """Own rows z (n, ..., d) of embeddings, those of each rank standardised by themselves."""
    import torch

    from barlow_atlas.nn.processes import alone, count

    chunks = z.chunk(ranks // count())
    with alone():
        return torch.cat([standardise(rows, correction) for rows in chunks])


def mixing_by_rank(view: Tensor, ranks: int, draws: Generator) -> tuple[Tensor, Tensor]:
    """What each rank draws for own rows (n, ...) of a batch.

    Returns:
        Each own row's share of view A, (n, 1), and each row's partner of all rows, (N,).
    """
    import torch

    alphas = torch.rand(ranks, generator=draws).tolist()
    n = batch_size(view) // ranks
    partners = [torch.randperm(n, generator=draws) for _ in range(ranks)]
    return share_of_rows(alphas, view), partners_of_all(partners)


def share_of_rows(alphas: Sequence[float], z: Tensor) -> Tensor:
    """The share of view A, (n, 1), of own rows z (n, ...), from each rank's."""
    from barlow_atlas.nn.processes import own_rows

    rows = batch_size(z)
    return z.new_tensor(alphas).repeat_interleave(rows // len(alphas))[own_rows(rows)][:, None]


def partners_of_all(partners: Sequence[Tensor]) -> Tensor:
    """Each row's partner among all rows, (N,), from each rank's permutation of its own."""
    import torch

    n = len(partners[0])
    return torch.cat([rank * n + partner for rank, partner in enumerate(partners)])
