"""Linear classifiers on features, and the one loop that trains them.

Optimizers are written out, so that any number of classifiers is trained at once, each as torch's
optimizer alone would train it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor

    Batches = Iterable[tuple[Tensor, Tensor]]
    """Features (n, f) and their classes (n,), a batch at a time."""
    Direction = Callable[[Tensor], Tensor]
    """From a gradient to what the weights, times the rate, are moved against."""


class Heads:
    """One linear classifier for each pair of learning rate and weight decay, trained together.

    Attributes:
        pairs: of rate and decay.
        weights: (pairs, classes, features + 1); the last column is the bias.

    Args:
        start: the weights that every classifier starts with, (features + 1, classes).
    """

    def __init__(self, rates: Iterable[float], decays: Iterable[float], start: Tensor) -> None:
        self.pairs = list(itertools.product(rates, decays))
        self.weights = start.T.repeat(len(self.pairs), 1, 1)
        # Each (pairs, 1, 1).
        self.rates, self.decays = start.new_tensor(self.pairs).T[:, :, None, None]

    def scores(self, features: Tensor) -> Tensor:
        """Class scores (pairs, classes, n) of features (n, f)."""
        return self._scores(_with_one(features))

    def gradient(self, features: Tensor, labels: Tensor) -> Tensor:
        """Of each pair's mean cross-entropy + decay / 2 |weights|^2, shaped as the weights.

        By hand, as it is (softmax(scores) - one_hot(labels)) features / n + decay weights.

        Args:
            features, labels: (n, f) and (n,).
        """
        import torch

        features, n = _with_one(features), len(features)
        errors = self._scores(features).softmax(1)
        errors[:, labels, torch.arange(n, device=labels.device)] -= 1
        decayed = (self.weights * self.decays).flatten(0, 1)
        gradient = torch.addmm(decayed, errors.flatten(0, 1), features, alpha=1 / n)
        return gradient.view_as(self.weights)

    def _scores(self, features: Tensor) -> Tensor:
        scores: Tensor = self.weights.flatten(0, 1) @ features.T
        return scores.view(*self.weights.shape[:2], len(features))


def _with_one(features: Tensor) -> Tensor:
    """Features (n, f + 1) with the one that the bias is the weight of."""
    from torch.nn.functional import pad

    return pad(features, (0, 1), value=1.0)


def uniform_start(features: int, classes: int, draws: Generator) -> Tensor:
    """torch's default for a linear layer: weights and bias within 1 / sqrt(features) of 0."""
    import torch

    bound = features**-0.5
    return torch.empty(features + 1, classes).uniform_(-bound, bound, generator=draws)


def normal_start(features: int, classes: int, draws: Generator) -> Tensor:
    """Barlow Twins' evaluate.py: weights from N(0, 0.01), bias 0."""
    import torch

    start = torch.empty(features + 1, classes).normal_(0, 0.01, generator=draws)
    start[-1] = 0
    return start


def adam(weights: Tensor) -> Direction:
    """Adam with torch's defaults (Kingma and Ba, ICLR 2015, algorithm 1)."""
    import torch

    mean, square = torch.zeros_like(weights), torch.zeros_like(weights)
    steps = itertools.count(1)

    def direction(gradient: Tensor) -> Tensor:
        step = next(steps)
        mean.lerp_(gradient, 1 - 0.9)
        square.mul_(0.999).addcmul_(gradient, gradient, value=1 - 0.999)
        spread = (square / (1 - 0.999**step)).sqrt_().add_(1e-8)
        return (mean / (1 - 0.9**step)).div_(spread)

    return direction


def momentum_sgd(weights: Tensor) -> Direction:
    """torch's SGD with momentum 0.9: no dampening, the rate outside of the velocity."""
    import torch

    velocity = torch.zeros_like(weights)

    def direction(gradient: Tensor) -> Tensor:
        return velocity.mul_(0.9).add_(gradient)

    return direction


def train(
    heads: Heads,
    optimizer: Callable[[Tensor], Direction],
    factor: Callable[[int], float],
    batches: Callable[[int], Batches],
    epochs: int,
) -> Iterator[int]:
    """Trains every pair on its own mean cross-entropy; yields the number of epochs behind it.

    Args:
        factor: of the rates in epoch e (from 0), which the epoch keeps.
        batches: those of epoch e.
    """
    import torch

    direction = optimizer(heads.weights)
    for epoch in range(epochs):
        with torch.no_grad():
            steps = heads.rates * -factor(epoch)
            for features, labels in batches(epoch):
                heads.weights.addcmul_(direction(heads.gradient(features, labels)), steps)
        yield epoch + 1


def shuffled(n: int, batch_size: int, seed: int, place: str, epoch: int) -> tuple[Tensor, ...]:
    """The rows 0 to n - 1 in an epoch's order, in batches of which the last may be smaller."""
    import torch

    from barlow_atlas.nn.randomness import generator

    order = torch.randperm(n, generator=generator(seed, place, epoch))
    return tuple(order.split(batch_size))


def frozen_batches(
    features: Tensor,
    labels: Tensor,
    batch_size: int,
    seed: int,
    place: str,
    changed: Callable[[Tensor], Tensor],
) -> Callable[[int], Batches]:
    """The batches of an epoch of features (n, f) that were extracted once; labels (n,).

    Args:
        changed: what is done to the features of a batch, which brings them to the labels' device.
    """
    import torch

    from barlow_atlas.nn.devices import sent

    def batches(epoch: int) -> Batches:
        # One transfer an epoch, not one that the host waits for at every step.
        order = torch.cat(shuffled(len(features), batch_size, seed, place, epoch))
        theirs = sent(order, labels.device).split(batch_size)
        for rows, label_rows in zip(
            sent(order, features.device).split(batch_size), theirs, strict=True
        ):
            yield changed(features.index_select(0, rows)), labels[label_rows]

    return batches
