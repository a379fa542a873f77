"""Linear probes: softmax regression by Adam on what the backbone gives."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from barlow_atlas import views
from barlow_atlas.optim import exponential
from barlow_atlas.probes.features import extract
from barlow_atlas.randomness import generator
from barlow_atlas.study import Linear, Run


@dataclass(frozen=True)
class Chosen:
    """A trained probe's class scores by split, and the rate and decay it was trained with."""

    scores: dict[str, Tensor]
    learning_rate: float
    weight_decay: float


class Heads(nn.Module):
    """One linear classifier for each pair of learning rate and weight decay, trained together."""

    def __init__(
        self, settings: Linear, features: int, classes: int, draws: torch.Generator
    ) -> None:
        super().__init__()
        self.pairs = list(itertools.product(settings.learning_rates, settings.weight_decays))
        # torch's default for a linear layer, the same start for every pair.
        bound = features**-0.5
        start = torch.empty(features + 1, classes).uniform_(-bound, bound, generator=draws)
        self.weights = nn.ParameterList(start.clone() for _ in self.pairs)
        self.settings = settings

    def optimizer(self) -> torch.optim.Adam:
        groups = [
            {"params": [weight], "lr": rate, "weight_decay": decay}
            for weight, (rate, decay) in zip(self.weights, self.pairs, strict=True)
        ]
        return torch.optim.Adam(groups)

    def forward(self, features: Tensor) -> Tensor:
        """Class scores (pairs, n, classes) of features (n, f); the last weight row is the bias."""
        weights = torch.stack(list(self.weights))
        return features @ weights[:, :-1] + weights[:, -1:]

    def step(self, optimizer: torch.optim.Adam, features: Tensor, labels: Tensor) -> None:
        """One Adam step of every pair on its own mean cross-entropy."""
        scores = self(features)
        pairs, n, classes = scores.shape
        losses = cross_entropy(
            scores.reshape(pairs * n, classes), labels.repeat(pairs), reduction="sum"
        )
        optimizer.zero_grad()
        (losses / n).backward()
        optimizer.step()

    def set_epoch(self, optimizer: torch.optim.Adam, epoch: int) -> None:
        """The rates of epoch `epoch` (from 0): each falls by one factor an epoch."""
        factor = exponential(epoch, self.settings.epochs, self.settings.final_lr_ratio)
        for group, (rate, _) in zip(optimizer.param_groups, self.pairs, strict=True):
            group["lr"] = rate * factor


def clean_probe(
    features: dict[str, Tensor],
    labels: dict[str, Tensor],
    classes: int,
    settings: Linear,
    seed: int,
) -> Chosen:
    """The clean protocol: frozen features, and the pair that is best on the validation images.

    Features are standardised by the training images' mean and standard deviation. Equal validation
    accuracies are decided by the lower validation cross-entropy.

    Args:
        features, labels: (n, f) and (n,) of "train", "validation" and "test".
    """
    train = features["train"]
    mean, std = train.mean(0), train.std(0).clamp_min(1e-6)
    features = {split: (value - mean) / std for split, value in features.items()}
    heads = Heads(settings, train.shape[1], classes, generator(seed, "linear")).to(train.device)
    optimizer = heads.optimizer()
    n = len(train)
    for epoch in range(settings.epochs):
        heads.set_epoch(optimizer, epoch)
        order = torch.randperm(n, generator=generator(seed, "linear", epoch)).to(train.device)
        for batch in order.split(settings.batch_size):
            heads.step(optimizer, features["train"][batch], labels["train"][batch])
    with torch.inference_mode():
        scores = {split: heads(features[split]) for split in ("validation", "test")}
    best = _best_pair(scores["validation"], labels["validation"])
    rate, decay = heads.pairs[best]
    return Chosen({split: value[best] for split, value in scores.items()}, rate, decay)


def _best_pair(scores: Tensor, labels: Tensor) -> int:
    """The pair with the most correct images; scores (pairs, n, classes), labels (n,)."""
    correct = (scores.argmax(2) == labels).sum(1).tolist()
    losses = [cross_entropy(pair, labels).item() for pair in scores]
    return min(range(len(losses)), key=lambda pair: (-correct[pair], losses[pair]))


def reference_probe(
    backbone: nn.Module,
    run: Run,
    images: dict[str, np.ndarray],
    labels: dict[str, Tensor],
    classes: int,
    settings: Linear,
    device: torch.device,
) -> Chosen:
    """Mixed Barlow Twins' code: the probe trains on augmented views through a live batch norm.

    The backbone's weights are frozen but it stays in train mode: features use the statistics of
    each batch, and the running statistics, which the test then uses, go on changing. The result is
    the last epoch's.

    Args:
        backbone: changed in place (its running statistics).
        images, labels: uint8 (n, 3, H, W) and (n,) of "train" and "test".
    """
    augmentation, recipe = run.recipe.view_a, run.recipe
    pixels = torch.from_numpy(np.ascontiguousarray(images["train"])).to(device)
    n, _, height, width = pixels.shape
    heads: Heads | None = None
    for epoch in range(settings.epochs):
        order = torch.randperm(n, generator=generator(run.seed, "linear", epoch))
        for step, batch in enumerate(order.split(settings.batch_size)):
            draws = generator(run.seed, "linear", epoch, step)
            parameters = views.draw(augmentation, len(batch), height, width, draws)
            view = views.apply(
                pixels[batch.to(device)],
                parameters,
                augmentation,
                run.image_size,
                recipe.mean,
                recipe.std,
            )
            backbone.train()
            with torch.no_grad():
                features = backbone(view)
            if heads is None:
                start = generator(run.seed, "linear")
                heads = Heads(settings, features.shape[1], classes, start).to(device)
                optimizer = heads.optimizer()
            heads.set_epoch(optimizer, epoch)
            heads.step(optimizer, features, labels["train"][batch.to(device)])
    assert heads is not None  # settings.epochs and n are positive
    with torch.inference_mode():
        scores = heads(extract(backbone, run, images["test"], device))[0]
    rate, decay = heads.pairs[0]
    return Chosen({"test": scores}, rate, decay)
