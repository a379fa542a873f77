"""Linear classifiers on features, and the one loop that trains them.

Optimizers are written out, so that any number of classifiers is trained at once, each as torch's
optimizer alone would train it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Generator, Tensor, device

    Batches = Iterable[tuple[Tensor, Tensor]]
    """Features (n, f) and their classes (n,), a batch at a time."""


class Direction(Protocol):
    """From a gradient to what the weights, times the rate, are moved against."""

    def __call__(self, gradient: Tensor) -> Tensor: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Trained(Protocol):
    """Classifiers that `train` trains, and of which `state.State` keeps what training changes."""

    @property
    def pairs(self) -> Sequence[tuple[float, float]]:
        """Of rate and decay, one for each classifier."""

    def scores(self, features: Tensor) -> Tensor:
        """Class scores (pairs, classes, n) of the features of n images."""

    def step(self, features: Tensor, labels: Tensor, factor: float) -> None:
        """A step on a batch, at `factor` times the rates."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Heads:
    """One linear classifier for each pair of learning rate and weight decay, trained together.

    Attributes:
        pairs: of rate and decay.
        weights: (pairs, classes, features + 1); the last column is the bias.

    Args:
        start: the weights that every classifier starts with, (features + 1, classes).
        optimizer: made for the weights.
    """

    def __init__(
        self,
        rates: Iterable[float],
        decays: Iterable[float],
        start: Tensor,
        optimizer: Callable[[Tensor], Direction],
    ) -> None:
        self.pairs = list(itertools.product(rates, decays))
        self.weights = start.T.repeat(len(self.pairs), 1, 1)
        # Each (pairs, 1, 1).
        self.rates, self.decays = start.new_tensor(self.pairs).T[:, :, None, None]
        self.direction = optimizer(self.weights)

    def step(self, features: Tensor, labels: Tensor, factor: float) -> None:
        """A step of every pair on its own mean cross-entropy, at `factor` times its rate."""
        direction = self.direction(self.gradient(features, labels))
        self.weights.addcmul_(direction, self.rates * -factor)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights, "direction": self.direction.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights.copy_(state["weights"])
        self.direction.load_state_dict(state["direction"])

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


class _Resumable:
    """Its attributes are all that training changes."""

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


class Adam(_Resumable):
    """Adam with torch's defaults (Kingma and Ba, ICLR 2015, algorithm 1)."""

    def __init__(self, weights: Tensor) -> None:
        import torch

        self.mean, self.square = torch.zeros_like(weights), torch.zeros_like(weights)
        self.steps = 0

    def __call__(self, gradient: Tensor) -> Tensor:
        self.steps += 1
        self.mean.lerp_(gradient, 1 - 0.9)
        self.square.mul_(0.999).addcmul_(gradient, gradient, value=1 - 0.999)
        spread = (self.square / (1 - 0.999**self.steps)).sqrt_().add_(1e-8)
        return (self.mean / (1 - 0.9**self.steps)).div_(spread)


class MomentumSGD(_Resumable):
    """torch's SGD with momentum 0.9: no dampening, the rate outside of the velocity."""

    def __init__(self, weights: Tensor) -> None:
        import torch

        self.velocity = torch.zeros_like(weights)

    def __call__(self, gradient: Tensor) -> Tensor:
        return self.velocity.mul_(0.9).add_(gradient)


class NormedHead:
    """One linear classifier behind a batch norm of its own: VISSL's `eval_mlp`.

    Trained by torch's SGD with Nesterov's momentum of 0.9; the norm's weights do not decay.

    Attributes:
        pairs: the one of rate and decay.

    Args:
        shape: of an image's features, (channels, height, width); the norm is of the channels.
        draws: the first weights, as torch's default has them.
    """

    def __init__(
        self,
        rate: float,
        decay: float,
        shape: Sequence[int],
        classes: int,
        draws: Generator,
        device: device,
    ) -> None:
        import torch
        from torch import nn

        self.pairs = [(rate, decay)]
        start = uniform_start(math.prod(shape), classes, draws)
        norm, linear = nn.BatchNorm2d(shape[0]), nn.Linear(len(start) - 1, classes)
        with torch.no_grad():
            linear.weight.copy_(start[:-1].T)
            linear.bias.copy_(start[-1])
        self.layers = nn.Sequential(norm, nn.Flatten(), linear).to(device)
        groups: list[dict[str, Any]] = [
            {"params": list(norm.parameters()), "weight_decay": 0.0},
            {"params": list(linear.parameters())},
        ]
        self.optimizer = torch.optim.SGD(
            groups, lr=rate, momentum=0.9, nesterov=True, weight_decay=decay
        )

    def scores(self, features: Tensor) -> Tensor:
        """Class scores (1, classes, n) of features (n, channels, height, width)."""
        import torch

        self.layers.eval()
        with torch.no_grad():
            return torch.cat([self.layers(part) for part in features.split(ROWS)]).T[None]

    def step(self, features: Tensor, labels: Tensor, factor: float) -> None:
        """A step on the mean cross-entropy, at `factor` times the rate."""
        import torch
        from torch.nn.functional import cross_entropy

        ((rate, _),) = self.pairs
        for group in self.optimizer.param_groups:
            group["lr"] = rate * factor
        self.layers.train()
        with torch.enable_grad():
            loss = cross_entropy(self.layers(features), labels)
            self.optimizer.zero_grad()
            torch.autograd.backward(loss)
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {"layers": self.layers.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.layers.load_state_dict(state["layers"])
        self.optimizer.load_state_dict(state["optimizer"])


ROWS = 1 << 12
"""Of maps of features that a classifier is asked together."""


def train(
    heads: Trained,
    factor: Callable[[int], float],
    batches: Callable[[int], Batches],
    epochs: int,
    done: int = 0,
) -> Iterator[int]:
    """Trains classifiers; yields the number of epochs behind them.

    Args:
        factor: of the rates in epoch e (from 0), which the epoch keeps.
        batches: those of epoch e.
        done: epochs that they have been trained for before.
    """
    import torch

    for epoch in range(done, epochs):
        with torch.no_grad():
            for features, labels in batches(epoch):
                heads.step(features, labels, factor(epoch))
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
