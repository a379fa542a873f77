"""Linear probes: softmax regression on what the backbone gives, in the protocols of the papers.

One loop, `train`, serves all of them. They differ in how the classifier starts, its optimizer and
schedule, which images it is shown, and what batch norm does below it: a `Form` says so.
"""

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from barlow_atlas.errors import AtlasError
from barlow_atlas.nn import views
from barlow_atlas.nn.optim import exponential, half_cosine
from barlow_atlas.nn.randomness import generator
from barlow_atlas.probes.features import Images, evaluation_view, extract
from barlow_atlas.probes.settings import Linear
from barlow_atlas.probes.subject import Subject
from barlow_atlas.settings.augmentation import Augmentation

Batches = Iterable[tuple[Tensor, Tensor]]
"""Features (n, f) and their classes (n,), a batch at a time."""

LIVE = "batch statistics while training"
FROZEN = "running statistics"

# torchvision's RandomResizedCrop and RandomHorizontalFlip with their defaults.
CROP_AND_FLIP = Augmentation(crop_scale=(0.08, 1.0), interpolation="bilinear", flip_p=0.5)


@dataclass(frozen=True)
class Chosen:
    """A trained probe's class scores (n, classes) by split, and how it was trained and chosen."""

    scores: dict[str, Tensor]
    learning_rate: float
    weight_decay: float
    epoch: int
    epoch_rule: Literal["last", "best on test"] = "last"

    def rule(self, run: Subject) -> dict[str, Any]:
        """Which epoch this is, and which images it or its rate and decay were chosen on."""
        chosen_on = "validation" if run.protocol == "clean" else "nothing"
        if self.epoch_rule == "best on test":
            chosen_on = "test"
        return {"chosen_on": chosen_on, "epoch_rule": self.epoch_rule, "epoch": self.epoch}


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
        features, n = _with_one(features), len(features)
        errors = self._scores(features).softmax(1)
        errors[:, labels, torch.arange(n, device=labels.device)] -= 1
        decayed = (self.weights * self.decays).flatten(0, 1)
        found = torch.addmm(decayed, errors.flatten(0, 1), features, alpha=1 / n)
        return found.view_as(self.weights)

    def _scores(self, features: Tensor) -> Tensor:
        found: Tensor = self.weights.flatten(0, 1) @ features.T
        return found.view(*self.weights.shape[:2], len(features))


def _with_one(features: Tensor) -> Tensor:
    """Features (n, f + 1) with the one that the bias is the weight of."""
    return pad(features, (0, 1), value=1.0)


def uniform_start(features: int, classes: int, draws: torch.Generator) -> Tensor:
    """torch's default for a linear layer: weights and bias within 1 / sqrt(features) of 0."""
    bound = features**-0.5
    return torch.empty(features + 1, classes).uniform_(-bound, bound, generator=draws)


def normal_start(features: int, classes: int, draws: torch.Generator) -> Tensor:
    """Barlow Twins' evaluate.py: weights from N(0, 0.01), bias 0."""
    start = torch.empty(features + 1, classes).normal_(0, 0.01, generator=draws)
    start[-1] = 0
    return start


Direction = Callable[[Tensor], Tensor]
"""From a gradient to what the weights, times the rate, are moved against."""


def adam(weights: Tensor) -> Direction:
    """Adam with torch's defaults (Kingma and Ba, ICLR 2015, algorithm 1)."""
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
    velocity = torch.zeros_like(weights)

    def direction(gradient: Tensor) -> Tensor:
        return velocity.mul_(0.9).add_(gradient)

    return direction


def exponential_factor(settings: Linear, epoch: int) -> float:
    ratio = settings.final_lr_ratio
    if ratio is None:
        raise ValueError(f"form {settings.form} needs final_lr_ratio")
    return exponential(epoch, settings.epochs, ratio)


def cosine_factor(settings: Linear, epoch: int) -> float:
    return half_cosine(epoch, settings.epochs)


@torch.no_grad()
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
    direction = optimizer(heads.weights)
    for epoch in range(epochs):
        steps = heads.rates * -factor(epoch)
        for features, labels in batches(epoch):
            heads.weights.addcmul_(direction(heads.gradient(features, labels)), steps)
        yield epoch + 1


def shuffled(n: int, batch_size: int, seed: int, place: str, epoch: int) -> tuple[Tensor, ...]:
    """The rows 0 to n - 1 in an epoch's order, in batches of which the last may be smaller."""
    order = torch.randperm(n, generator=generator(seed, place, epoch))
    return tuple(order.split(batch_size))


def frozen_batches(
    features: Tensor, labels: Tensor, batch_size: int, seed: int, place: str
) -> Callable[[int], Batches]:
    """The batches of an epoch of features (n, f) that were extracted once; labels (n,)."""

    def batches(epoch: int) -> Batches:
        # One transfer an epoch, not one that the host waits for at every step.
        order = torch.cat(shuffled(len(features), batch_size, seed, place, epoch))
        for rows in order.to(features.device).split(batch_size):
            yield features.index_select(0, rows), labels[rows]

    return batches


def viewed_batches(
    backbone: nn.Module,
    live: bool,
    augmentation: Augmentation | None,
    run: Subject,
    images: Images,
    labels: Tensor,
    batch_size: int,
    place: str,
) -> Callable[[int], Batches]:
    """The batches of an epoch of views of images (n, 3, H, W), drawn anew; labels (n,)."""

    def view(batch: Tensor, epoch: int, step: int) -> Tensor:
        shown = np.ascontiguousarray(images[batch.numpy()])
        if augmentation is None:
            return evaluation_view(run, shown, labels.device)
        draws = generator(run.seed, place, epoch, step)
        pixels = torch.from_numpy(shown).to(labels.device)
        mean, std = run.recipe.mean, run.recipe.std
        return views.drawn(pixels, augmentation, run.image_size, mean, std, draws)

    def batches(epoch: int) -> Batches:
        order = shuffled(len(images), batch_size, run.seed, place, epoch)
        for step, batch in enumerate(order):
            backbone.train(live)
            with torch.no_grad():
                features = _features(backbone, view(batch, epoch, step))
            yield features, labels[batch.to(labels.device)]

    return batches


def _features(backbone: nn.Module, view: Tensor) -> Tensor:
    """Features (n, f) of the network's input (n, 3, S, S), in the backbone's present mode."""
    try:
        found: Tensor = backbone(view)
    except ValueError as error:
        # Maps of one pixel, and one image: a batch without a variance.
        raise AtlasError(
            f"batch norm cannot use the statistics of a batch of {len(view)} image: {error}. "
            "Choose a batch size of the probe that leaves no single image over."
        ) from error
    return found


def clean_probe(
    features: dict[str, Tensor],
    labels: dict[str, Tensor],
    classes: int,
    settings: Linear,
    seed: int,
    place: str = "linear",
) -> Chosen:
    """The clean protocol: frozen features, and the pair that is best on the validation images.

    Features are standardised by the training images' mean and standard deviation. Equal validation
    accuracies are decided by the lower validation cross-entropy.

    Args:
        features, labels: (n, f) and (n,) of "train", "validation" and "test".
        place: what the random draws are keyed by.
    """
    known = features["train"]
    mean, std = known.mean(0), known.std(0).clamp_min(1e-6)
    features = {split: (value - mean) / std for split, value in features.items()}
    start = uniform_start(known.shape[1], classes, generator(seed, place)).to(known.device)
    heads = Heads(settings.learning_rates, settings.weight_decays, start)

    batches = frozen_batches(features["train"], labels["train"], settings.batch_size, seed, place)

    def factor(epoch: int) -> float:
        return exponential_factor(settings, epoch)

    for _ in train(heads, adam, factor, batches, settings.epochs):
        pass
    scores = {split: heads.scores(features[split]) for split in ("validation", "test")}
    best = _best_pair(scores["validation"], labels["validation"])
    rate, decay = heads.pairs[best]
    chosen = {split: value[best].T for split, value in scores.items()}
    return Chosen(chosen, rate, decay, settings.epochs)


def _best_pair(scores: Tensor, labels: Tensor) -> int:
    """The pair with the most correct images; scores (pairs, classes, n), labels (n,)."""
    correct = (scores.argmax(1) == labels).sum(1).tolist()
    losses = (
        cross_entropy(scores, labels.expand(len(scores), -1), reduction="none").mean(1).tolist()
    )
    return min(range(len(losses)), key=lambda pair: (-correct[pair], losses[pair]))


def as_given(run: Subject) -> Subject:
    return run


def resized_and_cropped(run: Subject) -> Subject:
    """The run with Barlow Twins' test transform: Resize 256, CenterCrop 224, in its proportions."""
    changed = {
        "evaluation_resize": round(run.image_size * 256 / 224),
        "evaluation_interpolation": "bilinear",
    }
    return run.model_copy(update={"recipe": run.recipe.model_copy(update=changed)})


def first_view(run: Subject) -> Augmentation | None:
    return run.recipe.view_a


def crop_and_flip(_: Subject) -> Augmentation | None:
    return CROP_AND_FLIP


def no_augmentation(_: Subject) -> Augmentation | None:
    return None


@dataclass(frozen=True)
class Form:
    """One published way to train a linear probe without validation images.

    Attributes:
        start: the first weights, from numbers of features and classes.
        factor: of the rate in an epoch (from 0).
        live: the backbone stays in train mode while the probe trains: its features use the
            statistics of each batch, and its running statistics go on changing and serve the test.
        augmentation: of the training images.
        seen: the run whose recipe is the evaluation transform.
        best: the epoch that is best on the test images is reported beside the last one.
        words: what of this a number is printed with.
    """

    optimizer: Callable[[Tensor], Direction]
    start: Callable[[int, int, torch.Generator], Tensor]
    factor: Callable[[Linear, int], float]
    live: bool
    augmentation: Callable[[Subject], Augmentation | None]
    seen: Callable[[Subject], Subject]
    best: bool
    words: dict[str, str]


MIX_SMALL = Form(
    adam,
    uniform_start,
    exponential_factor,
    live=True,
    augmentation=first_view,
    seen=as_given,
    best=False,
    words={
        "optimizer": "adam",
        "schedule": "exponential",
        "training_images": "augmented",
        "test_images": "evaluation transform",
    },
)
FORMS = {
    "standard": MIX_SMALL,
    "mix-small": MIX_SMALL,
    "imagenet": Form(
        momentum_sgd,
        normal_start,
        cosine_factor,
        live=False,
        augmentation=crop_and_flip,
        seen=resized_and_cropped,
        best=True,
        words={
            "optimizer": "sgd, momentum 0.9",
            "schedule": "cosine, by epoch",
            "training_images": "cropped and flipped",
            "test_images": "resized to 8/7 and cropped",
        },
    ),
    "ssl-sota": Form(
        adam,
        uniform_start,
        exponential_factor,
        live=False,
        augmentation=no_augmentation,
        seen=as_given,
        best=False,
        words={
            "optimizer": "adam",
            "schedule": "exponential",
            "training_images": "not augmented",
            "test_images": "evaluation transform",
        },
    ),
}


def linear_probe(
    backbone: nn.Module,
    run: Subject,
    settings: Linear,
    features: dict[str, Tensor],
    images: dict[str, Images],
    labels: dict[str, Tensor],
    classes: int,
    device: torch.device,
) -> list[Chosen]:
    """One linear probe of a milestone: the last epoch, and the best one where its form has that.

    Args:
        backbone: left as it is.
        features: (n, f) of each split under the evaluation transform, running statistics.
        images, labels: uint8 (n, 3, H, W) and (n,) of each split.
    """
    if run.protocol == "clean":
        return [clean_probe(features, labels, classes, settings, run.seed)]
    form = FORMS[settings.form]
    own = copy.deepcopy(backbone) if form.live else backbone
    return published_probe(form, own, run, settings, images, labels, classes, device)


def published_probe(
    form: Form,
    backbone: nn.Module,
    run: Subject,
    settings: Linear,
    images: dict[str, Images],
    labels: dict[str, Tensor],
    classes: int,
    device: torch.device,
    place: str = "linear",
) -> list[Chosen]:
    """A probe of one pair of rate and decay, trained as `form` says and tested on "test".

    Args:
        backbone: its running statistics change if the form is live; nothing else ever does.
        images, labels: uint8 (n, 3, H, W) and (n,) of "train" and "test".
        place: what the random draws are keyed by.

    Returns:
        The last epoch's scores, and those of the first epoch with the highest test accuracy if the
        form reports it.
    """
    seen = form.seen(run)
    augmentation = form.augmentation(run)
    width = extract(backbone, seen, images["train"][:1], device).shape[1]
    start = form.start(width, classes, generator(run.seed, place)).to(device)
    heads = Heads(settings.learning_rates, settings.weight_decays, start)
    (pair,) = heads.pairs
    if form.live or augmentation:
        batches = viewed_batches(
            backbone,
            form.live,
            augmentation,
            seen,
            images["train"],
            labels["train"],
            settings.batch_size,
            place,
        )
    else:
        known = extract(backbone, seen, images["train"], device)
        batches = frozen_batches(known, labels["train"], settings.batch_size, run.seed, place)
    frozen_test = None if form.live else extract(backbone, seen, images["test"], device)

    def factor(epoch: int) -> float:
        return form.factor(settings, epoch)

    def tested(epoch: int, rule: Literal["last", "best on test"]) -> Chosen:
        test = frozen_test
        if test is None:
            test = extract(backbone, seen, images["test"], device)
        return Chosen({"test": heads.scores(test)[0].T}, *pair, epoch, rule)

    def correct(found: Chosen) -> int:
        return int((found.scores["test"].argmax(1) == labels["test"]).sum())

    best: list[Chosen] = []
    for epoch in train(heads, form.optimizer, factor, batches, settings.epochs):
        if form.best:
            found = tested(epoch, "best on test")
            best = max(best or [found], [found], key=lambda one: correct(one[0]))
    return [tested(settings.epochs, "last"), *best]


def linear_settings(run: Subject, settings: Linear, chosen: Chosen) -> dict[str, Any]:
    """Everything that a reader must know to compare the linear probe's number with another."""
    clean = run.protocol == "clean"
    form = FORMS[settings.form]
    words = FORMS["ssl-sota"].words if clean else form.words
    return {
        "protocol": run.protocol,
        "form": settings.form,
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "learning_rate": chosen.learning_rate,
        "final_lr_ratio": settings.final_lr_ratio,
        "weight_decay": chosen.weight_decay,
        **words,
        "feature": settings.feature,
        "batch_norm": LIVE if form.live and not clean else FROZEN,
        "standardised": clean,
        **chosen.rule(run),
    }
