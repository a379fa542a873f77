"""Linear probes: softmax regression on what the backbone gives, in the protocols of the papers.

One loop, `heads.train`, serves all of them. They differ in how the classifier starts, its optimizer
and schedule, which images it is shown, and what batch norm does below it: a `Form` says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from barlow_atlas.errors import AtlasError
from barlow_atlas.probes.base import Probe
from barlow_atlas.probes.heads import (
    Adam,
    Heads,
    MomentumSGD,
    frozen_batches,
    normal_start,
    shuffled,
    train,
    uniform_start,
)
from barlow_atlas.probes.state import State
from barlow_atlas.probes.subject import Subject
from barlow_atlas.settings.augmentation import Augmentation
from barlow_atlas.settings.training import NotNegative, Positive, PositiveNumber

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from torch import Generator, Tensor, device, nn

    from barlow_atlas.probes.heads import Batches, Direction, Trained
    from barlow_atlas.probes.milestone import Milestone

LinearForm = Literal["standard", "mix-small", "mix-small-500", "imagenet", "ssl-sota"]
Rates = Annotated[tuple[PositiveNumber, ...], Field(min_length=1, strict=False)]
Decays = Annotated[tuple[NotNegative, ...], Field(min_length=1, strict=False)]


_MIX_SMALL = {"epochs": 200, "learning_rates": (0.01,), "weight_decays": (5e-6,)}
# What the published forms are trained with, where it is not the form standard's value.
_PUBLISHED: dict[str, dict[str, Any]] = {
    "mix-small": _MIX_SMALL,
    "mix-small-500": _MIX_SMALL | {"epochs": 500},
    "imagenet": {
        "batch_size": 256,
        "learning_rates": (0.3,),
        "weight_decays": (1e-6,),
        "final_lr_ratio": None,
    },
    "ssl-sota": {
        "epochs": 500,
        "batch_size": 1000,
        "learning_rates": (0.01,),
        "weight_decays": (5e-6,),
    },
}


class Linear(Probe):
    """A linear probe: softmax regression on the backbone's features.

    Forms:

    - standard: the protocol's own. Clean: features are extracted once, all pairs of rate and weight
      decay are trained at once, and the validation images choose the pair. Reference: mix-small,
      with the values of the study.
    - mix-small: Mixed Barlow Twins on small data (code linear.py).
    - mix-small-500: the same for 500 epochs, as that code's first scripts for ResNet-50 ask on
      STL-10 and Tiny ImageNet.
    - imagenet: Barlow Twins on ImageNet (code evaluate.py), scaled to the study's image size.
    - ssl-sota: the baselines of Mixed Barlow Twins (code ssl-sota/, from htdt/self-supervised).

    All but standard belong to the reference protocol. What a study leaves out has the form's
    published value; the defaults are those of the form standard.
    """

    name: ClassVar[str] = "linear"

    form: LinearForm = "standard"
    epochs: Positive = 100
    batch_size: Positive = 512
    learning_rates: Rates = (0.1, 0.03, 0.01, 0.003, 0.001)
    final_lr_ratio: PositiveNumber | None = Field(
        1e-4,
        description="last epoch's rate over the first's; imagenet's cosine ends at 0 and has none",
    )
    weight_decays: Decays = (0.0, 5e-6, 1e-4)
    feature: Literal["backbone"] = "backbone"

    @model_validator(mode="before")
    @classmethod
    def _published_values(cls, value: Any) -> Any:
        return (
            _PUBLISHED.get(str(value.get("form")), {}) | value if isinstance(value, dict) else value
        )

    @model_validator(mode="after")
    def _only_exponential_rates_have_a_ratio(self) -> Linear:
        if (self.form == "imagenet") != (self.final_lr_ratio is None):
            raise ValueError(
                "`final_lr_ratio` belongs to rates that fall exponentially: all forms but "
                "imagenet, whose rate falls to 0"
            )
        return self

    def fault(self, protocol: str) -> str | None:
        if protocol == "clean" and self.form != "standard":
            return (
                f"form {self.form} chooses nothing on validation images: the clean protocol admits "
                "the form standard only"
            )
        return several_pairs(self, protocol)

    @property
    def variants(self) -> tuple[str, ...]:
        return (self.form,)

    @classmethod
    def variant(cls, settings: Mapping[str, Any]) -> str:
        return with_epoch_rule(settings["form"], settings)

    @classmethod
    def setting(cls, settings: Mapping[str, Any]) -> str:
        return in_words(cls.variant(settings), settings)

    @classmethod
    def run(cls, asked: Sequence[Self], milestone: Milestone) -> Iterator[dict[str, Any]]:
        from barlow_atlas.probes.milestone import ProbeError, record

        if len(milestone.labels["train"]) < 2:
            raise ProbeError(
                "the linear probe cannot standardise the features of one training image"
            )
        for linear in asked:
            for chosen in linear_probe(milestone, linear):
                told = linear_settings(milestone.subject, linear, chosen)
                for split, scores in chosen.scores.items():
                    yield record("linear", told, split, scores, milestone.labels[split])


def several_pairs(probe: Any, protocol: str) -> str | None:
    """The fault of more pairs of rate and decay than a protocol can choose from; None if it can."""
    if protocol == "clean" or len(probe.learning_rates) * len(probe.weight_decays) == 1:
        return None
    return (
        "protocol reference has no validation images to choose by: "
        f"probes.{probe.name} must give one learning rate and one weight decay"
    )


def with_epoch_rule(name: str, settings: Mapping[str, Any]) -> str:
    """A variant's name, with the rule by which its epoch was chosen if it is not the last."""
    rule = settings["epoch_rule"]
    return name if rule == "last" else f"{name} {rule}"


def in_words(variant: str, settings: Mapping[str, Any]) -> str:
    """How a linear probe was trained and chosen, from a record's settings."""
    chosen_on = settings["chosen_on"]
    return (
        f"{variant}, {settings['epochs']} epochs, {settings['optimizer']}, images "
        f"{settings['training_images']}, BN {settings['batch_norm']}, {settings['feature']}, "
        f"epoch: {settings['epoch_rule']}, "
        + ("settings fixed" if chosen_on == "nothing" else f"chosen on {chosen_on}")
    )


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


def exponential_factor(settings: Linear, epoch: int) -> float:
    from barlow_atlas.nn.optim import exponential

    ratio = settings.final_lr_ratio
    if ratio is None:
        raise ValueError(f"form {settings.form} needs final_lr_ratio")
    return exponential(epoch, settings.epochs, ratio)


def cosine_factor(settings: Linear, epoch: int) -> float:
    from barlow_atlas.nn.optim import half_cosine

    return half_cosine(epoch, settings.epochs)


def viewed_batches(
    form: Form, milestone: Milestone, batch_size: int, place: str
) -> Callable[[int], Batches]:
    """The batches of an epoch of views of the training images, drawn anew where they are."""
    import torch

    from barlow_atlas.nn.devices import sent
    from barlow_atlas.nn.randomness import generator
    from barlow_atlas.probes.features import drawn, evaluation_views

    subject, backbone = form.seen(milestone.subject), form.features(milestone.network.backbone)
    augmentation = form.augmentation(subject)
    images, labels = milestone.splits["train"].images, milestone.labels["train"]

    def shown(order: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
        device = labels.device
        if augmentation is None:
            for batch in order:
                yield from evaluation_views(subject, images[batch.numpy()], device, len(batch))
            return

        def draws(step: int) -> Generator:
            return generator(subject.seed, place, epoch, step)

        for (view,) in drawn(subject, images, order, [augmentation], draws, device):
            yield view

    def batches(epoch: int) -> Batches:
        order = shuffled(len(images), batch_size, subject.seed, place, epoch)
        for batch, view in zip(order, shown(order, epoch), strict=True):
            backbone.train(form.live)
            with torch.no_grad():
                features = _features(backbone, view)
            yield features, labels[sent(batch, labels.device)]

    return batches


def _features(backbone: nn.Module, view: Tensor) -> Tensor:
    """Features of the network's input (n, 3, S, S), in the backbone's present mode."""
    try:
        features: Tensor = backbone(view)
    except ValueError as error:
        # Maps of one pixel, and one image: a batch without a variance.
        raise AtlasError(
            f"batch norm cannot use the statistics of a batch of {len(view)} image: {error}. "
            "Choose a batch size of the probe that leaves no single image over."
        ) from error
    return features


def clean_probe(
    features: dict[str, Tensor],
    labels: dict[str, Tensor],
    classes: int,
    settings: Linear,
    seed: int,
    place: str = "linear",
    kept: Path | None = None,
) -> Chosen:
    """The clean protocol: frozen features, and the pair that is best on the validation images.

    Features are standardised by the training images' mean and standard deviation. Equal validation
    accuracies are decided by the lower validation cross-entropy. Ended after an epoch, it goes on
    to the same scores; see `state`.

    Args:
        features, labels: (n, f) and (n,) of "train", "validation" and "test".
        place: what the random draws are keyed by.
        kept: the milestone's folder, see `Milestone.kept`.
    """
    import torch

    from barlow_atlas.nn.devices import sent
    from barlow_atlas.nn.randomness import generator

    known, device = features["train"], labels["train"].device
    mean, std = known.mean(0).to(device), known.std(0).clamp_min(1e-6).to(device)

    def standardised(rows: Tensor) -> Tensor:
        return (sent(rows, device) - mean) / std

    start = uniform_start(known.shape[1], classes, generator(seed, place)).to(device)
    heads = Heads(settings.learning_rates, settings.weight_decays, start, Adam)

    batches = frozen_batches(known, labels["train"], settings.batch_size, seed, place, standardised)

    def factor(epoch: int) -> float:
        return exponential_factor(settings, epoch)

    told = settings.model_dump_json()
    state = State(kept, device, place.replace("/", "-"), told, (heads,))
    done = (state.resume() or {"done": 0})["done"]
    for epoch in train(heads, factor, batches, settings.epochs, done):
        state.save({"done": epoch})

    def scores(split: str) -> Iterator[Tensor]:
        """Those of all pairs, (pairs, classes, n), of parts of a split."""
        rows = max(1, SCORES // (len(heads.pairs) * classes))
        return (heads.scores(standardised(part)) for part in features[split].split(rows))

    best = _best_pair(scores("validation"), labels["validation"])
    rate, decay = heads.pairs[best]
    chosen = {
        split: torch.cat([part[best].T for part in scores(split)])
        for split in ("validation", "test")
    }
    return Chosen(chosen, rate, decay, settings.epochs)


SCORES = 1 << 28
"""Of all pairs, classes and images that are held at a time: 1 GiB."""


def _best_pair(parts: Iterable[Tensor], labels: Tensor) -> int:
    """The pair with the most correct images; scores (pairs, classes, n) of parts, labels (N,)."""
    import torch
    from torch.nn.functional import cross_entropy

    correct, losses = [], []
    first = 0
    for scores in parts:
        truth = labels[first : first + scores.shape[2]]
        correct.append((scores.argmax(1) == truth).sum(1))
        losses.append(cross_entropy(scores, truth.expand(len(scores), -1), reduction="none"))
        first += scores.shape[2]
    most, mean = torch.stack(correct).sum(0).tolist(), torch.cat(losses, dim=1).mean(1).tolist()
    return min(range(len(mean)), key=lambda pair: (-most[pair], mean[pair]))


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


def as_they_are(backbone: nn.Module) -> nn.Module:
    return backbone


if TYPE_CHECKING:
    Started = Callable[[Linear, Sequence[int], int, Generator, device], Trained]
    """A classifier before its training: from its settings, the shape of an image's features, the
    number of classes, the draws of its first weights, and where it is trained."""


def plain(
    optimizer: Callable[[Tensor], Direction], start: Callable[[int, int, Generator], Tensor]
) -> Started:
    """A linear classifier and nothing else.

    Args:
        start: the first weights, from numbers of features and classes.
    """

    def started(
        settings: Linear, shape: Sequence[int], classes: int, draws: Generator, device: device
    ) -> Trained:
        (width,) = shape
        weights = start(width, classes, draws).to(device)
        return Heads(settings.learning_rates, settings.weight_decays, weights, optimizer)

    return started


@dataclass(frozen=True)
class Form:
    """One published way to train a linear probe without validation images.

    Attributes:
        head: the classifier before its training.
        factor: of the rate in an epoch (from 0).
        live: the backbone stays in train mode while the probe trains: its features use the
            statistics of each batch, and its running statistics go on changing and serve the test.
        augmentation: of the training images.
        seen: the run whose recipe is the evaluation transform.
        best: the epoch that is best on the test images is reported beside the last one.
        words: what of this a number is printed with.
        features: from the backbone to what gives the classifier its features.
    """

    head: Started
    factor: Callable[[Linear, int], float]
    live: bool
    augmentation: Callable[[Subject], Augmentation | None]
    seen: Callable[[Subject], Subject]
    best: bool
    words: dict[str, str]
    features: Callable[[nn.Module], nn.Module] = as_they_are


MIX_SMALL = Form(
    plain(Adam, uniform_start),
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
    "mix-small-500": MIX_SMALL,
    "imagenet": Form(
        plain(MomentumSGD, normal_start),
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
        plain(Adam, uniform_start),
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


def linear_probe(milestone: Milestone, settings: Linear) -> list[Chosen]:
    """One linear probe of a milestone: the last epoch, and the best one where its form has that.

    The milestone's network is left as it is.
    """
    subject = milestone.subject
    if subject.protocol == "clean":
        asked = milestone.features, milestone.labels, milestone.classes, settings, subject.seed
        return [clean_probe(*asked, kept=milestone.kept)]
    form = FORMS[settings.form]
    probed = milestone.with_own_backbone() if form.live else milestone
    return published_probe(form, probed, settings)


def published_probe(
    form: Form, milestone: Milestone, settings: Linear, place: str = "linear"
) -> list[Chosen]:
    """A probe of one pair of rate and decay, trained as `form` says and tested on "test".

    Ended after an epoch, it goes on to the same scores; see `state`.

    Args:
        milestone: the network's running statistics change if the form is live; nothing else does.
        place: what the random draws are keyed by.

    Returns:
        The last epoch's scores, and those of the first epoch with the highest test accuracy if the
        form reports it.
    """
    from barlow_atlas.nn.randomness import generator
    from barlow_atlas.probes.features import extract

    subject, backbone = form.seen(milestone.subject), form.features(milestone.network.backbone)
    device, labels = milestone.device, milestone.labels
    images = {split: labelled.images for split, labelled in milestone.splits.items()}
    (first,) = extract(backbone, subject, images["train"][:1], device)
    draws = generator(subject.seed, place)
    heads = form.head(settings, first.shape, milestone.classes, draws, device)
    (pair,) = heads.pairs
    if form.live or form.augmentation(subject):
        batches = viewed_batches(form, milestone, settings.batch_size, place)
    else:
        known = extract(backbone, subject, images["train"], device)
        batches = frozen_batches(
            known, labels["train"], settings.batch_size, subject.seed, place, lambda rows: rows
        )
    frozen_test = None if form.live else extract(backbone, subject, images["test"], device)

    def factor(epoch: int) -> float:
        return form.factor(settings, epoch)

    def tested() -> Tensor:
        test = frozen_test
        if test is None:
            test = extract(backbone, subject, images["test"], device)
        return heads.scores(test)[0].T

    def correct(scores: Tensor) -> int:
        return int((scores.argmax(1) == labels["test"]).sum())

    parts = (heads, backbone) if form.live else (heads,)
    told = f"{settings.model_dump_json()} {form.words}"
    state = State(milestone.kept, device, place.replace("/", "-"), told, parts)
    stored = state.resume() or {"done": 0, "best": None}
    best: tuple[Tensor, int] | None = stored["best"]
    for epoch in train(heads, factor, batches, settings.epochs, stored["done"]):
        if form.best:
            scores = tested()
            if best is None or correct(scores) > correct(best[0]):
                best = scores, epoch
        state.save({"done": epoch, "best": best})
    last = Chosen({"test": tested()}, *pair, settings.epochs)
    if best is None:
        return [last]
    scores, epoch = best
    return [last, Chosen({"test": scores}, *pair, epoch, "best on test")]


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
