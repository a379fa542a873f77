"""Squared Frobenius norms of products x^T y, without the product where it is the larger matrix.

    |x^T y|_F^2 = tr(x^T y y^T x) = <x x^T, y y^T>

A process holds its own rows of x and y, (n, d) of the batch's (N, d) (`nn.processes`). It computes
its own rows of each Gram matrix, of which all then add up what they need.

For x and y of shape (N, d) the left side needs a matrix of d x d and 2 N d^2 operations, the right
one two Gram matrices of N x N and 2 N^2 d operations each. The derivative of the right side by x is
2 (y y^T) x, so that a Gram matrix that is kept serves every norm its matrix is part of, and takes
one product forwards and one backwards however many these are.

Sums are taken in float32 at least, under autocast too. Backward belongs outside autocast, as
PyTorch asks.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from barlow_atlas.nn.processes import gathered, own_rows, summed
from barlow_atlas.objectives.base import at_least_float32, batch_size


@dataclass(frozen=True, eq=False)
class Factor:
    """A matrix that several products share; made by `factor`."""

    x: Tensor
    """Own rows (n, d), float32 or float64."""
    gram: Tensor | None
    """Own rows of x x^T, (n, N); None where x^T y is no larger."""


def factor(x: Tensor | Factor) -> Factor:
    """Own rows x (n, d) as a factor of products; with their Gram matrix where N < d.

    bfloat16 and half become float32. What is a factor already stays as it is.
    """
    if isinstance(x, Factor):
        return x
    x = at_least_float32(x)
    n, d = batch_size(x), x.shape[1]
    with _in_full_precision(x):
        return Factor(x, _Gram.apply(x) if n < d else None)


def squared_norm_of_product(x: Tensor | Factor, y: Tensor | Factor) -> Tensor:
    """|x^T y|_F^2, the sum of the squares of all d x d entries, a scalar.

    Args:
        x, y: own rows (n, d) of both. What several norms have in common is worth a `factor`.

    Raises:
        ValueError: x and y differ in shape.
    """
    x, y = factor(x), factor(y)
    if x.x.shape != y.x.shape:
        raise ValueError(
            f"x^T y of x {tuple(x.x.shape)} and y {tuple(y.x.shape)}: give both one shape (N, d)"
        )
    if x.gram is not None and y.gram is not None:
        return summed((x.gram * y.gram).sum())
    return product(x.x, y.x).square().sum()


def product(x: Tensor, y: Tensor) -> Tensor:
    """x^T y, (d, d), of own rows x and y (n, d), in their own precision under autocast too."""
    with _in_full_precision(x):
        return summed(x.T @ y)


def _in_full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Outside of autocast, which torch's meta device, where work is counted, does not know."""
    kind = x.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)


class _Gram(torch.autograd.Function):
    """x x^T with one product backwards, where autograd would take one for each of the two x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        batch = gathered(x)
        ctx.save_for_backward(batch)
        return x @ batch.T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        batch: Tensor = ctx.saved_tensors[0]
        columns = gathered(gradient)[:, own_rows(len(batch))]
        return (gradient + columns.T) @ batch
