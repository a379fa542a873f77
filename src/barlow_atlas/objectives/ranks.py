"""What several processes compute in Mixed Barlow Twins' ImageNet code, within one process.

There each of W ranks standardises its own N / W rows, draws its own share alpha and its own
permutation, and divides its d x d matrices by the whole batch's N. The matrices are then summed
over the ranks in place, which autograd does not see. Two things follow:

- A sum over ranks of products of rows is one product over all rows. So with the rows of all ranks
  below each other, the loss is the one-process loss of what the functions below return.
- A rank's gradient reaches its own rows only, and there it is the true one, for the derivative of
  the sum by a rank's own term is 1. The ranks' gradients of the weights would have to be summed,
  but the data-parallel wrapper averages them: weights get 1 / W of the true gradient. LARS hides
  this from adapted weights, not from biases and batch norm, whose learning rate is therefore tied
  to W.

Barlow Twins' own code differs in one point: its batch norm is synchronised, so it standardises all
rows together and needs nothing from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from barlow_atlas.objectives.base import standardise

if TYPE_CHECKING:
    from torch import Tensor


def standardise_by_rank(z: Sequence[Tensor]) -> Tensor:
    """Each rank's embeddings (n, d) standardised by themselves, all below each other, (W n, d)."""
    import torch

    return torch.cat([standardise(rows) for rows in z])


def share_of_rows(alphas: Sequence[float], z: Sequence[Tensor]) -> Tensor:
    """Each row's share of view A, (W n, 1), from each rank's."""
    import torch

    return torch.cat(
        [rows.new_full((len(rows), 1), alpha) for alpha, rows in zip(alphas, z, strict=True)]
    )


def partners_of_all(partners: Sequence[Tensor]) -> Tensor:
    """Each row's partner among all rows, (W n,), from each rank's permutation (n,) of its own."""
    import torch

    n = len(partners[0])
    return torch.cat([rank * n + partner for rank, partner in enumerate(partners)])
