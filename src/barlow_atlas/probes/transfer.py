"""Transfer: a linear probe of the frozen backbone on another data set.

Reference: Mixed Barlow Twins' evaluate_transfer.py. Clean: the clean linear probe on the target's
features. In both, the target's images are stored at the network's size and are not augmented, and
they are normalised by the target's statistics, as the reference does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from barlow_atlas.data.catalog import TARGETS
from barlow_atlas.probes.heads import momentum_sgd, uniform_start
from barlow_atlas.probes.linear import (
    FORMS,
    FROZEN,
    LIVE,
    Chosen,
    Decays,
    Form,
    Linear,
    Rates,
    as_given,
    clean_probe,
    in_words,
    no_augmentation,
    published_probe,
    several_pairs,
    with_epoch_rule,
)
from barlow_atlas.probes.targets import OfTargets
from barlow_atlas.settings.training import Positive

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Self

    from barlow_atlas.data.catalog import Target
    from barlow_atlas.data.choice import Protocol
    from barlow_atlas.data.prepared import Prepared
    from barlow_atlas.probes.milestone import Labelled, Milestone
    from barlow_atlas.probes.subject import Subject


class Transfer(OfTargets):
    """Linear probes on other data sets: one for each target.

    The defaults are Mixed Barlow Twins' (code evaluate_transfer.py). In the clean protocol features
    are extracted once, and the target's own validation images choose the pair of rate and decay.
    """

    name: ClassVar[str] = "transfer"
    known = TARGETS

    epochs: Positive = 100
    batch_size: Positive = 128
    learning_rates: Rates = (0.01,)
    weight_decays: Decays = (0.0,)

    def fault(self, protocol: str) -> str | None:
        return several_pairs(self, protocol)

    def facts(self) -> tuple[str, ...]:
        """Those of the targets: their statistics normalise the images."""
        return tuple(TARGETS[name].model_dump_json() for name in self.targets)

    @property
    def variants(self) -> tuple[str, ...]:
        return self.targets

    @classmethod
    def variant(cls, settings: Mapping[str, Any]) -> str:
        return with_epoch_rule(settings["target"], settings)

    @classmethod
    def setting(cls, settings: Mapping[str, Any]) -> str:
        return in_words(cls.variant(settings), settings)

    @classmethod
    def run(cls, asked: Sequence[Self], milestone: Milestone) -> Iterator[dict[str, Any]]:
        for transfer in asked:
            for name, data_set in transfer.named(milestone.subject):
                prepared = milestone.others[data_set.name]
                splits = target_splits(prepared, milestone.subject.protocol)
                classes = len(prepared.manifest.classes)
                there = replace(milestone, splits=splits, classes=classes)
                yield from transfer_probe(there, transfer, TARGETS[name])

    @property
    def linear(self) -> Linear:
        """What is trained on each target."""
        return Linear(**self.model_dump(exclude={"targets"}))


# The rate drops after 60 and 80 of the reference's 100 epochs.
DROPS = (0.6, 0.8)


def drops_factor(settings: Linear, epoch: int) -> float:
    """1, then 0.1 from 60 % and 0.01 from 80 % of the epochs on; `epoch` from 0."""
    from barlow_atlas.nn.optim import drops

    return drops(epoch, [round(share * settings.epochs) for share in DROPS], 0.1)


MIX_TRANSFER = Form(
    momentum_sgd,
    uniform_start,
    drops_factor,
    live=True,
    augmentation=no_augmentation,
    seen=as_given,
    best=True,
    words={
        "optimizer": "sgd, momentum 0.9",
        "schedule": "x 0.1 after 60 % and 80 % of the epochs",
        "training_images": "not augmented",
        "test_images": "not augmented",
    },
)


def target_splits(prepared: Prepared, protocol: Protocol) -> dict[str, Labelled]:
    """The parts of a prepared target: "train", "test", and in the clean protocol "validation".

    The clean protocol's validation images are taken out of the training part.
    """
    from barlow_atlas.data.originals import Originals
    from barlow_atlas.data.selection import select
    from barlow_atlas.probes.milestone import Labelled

    manifest = prepared.manifest
    chosen = select(
        prepared.train_labels,
        prepared.validation_index,
        protocol=protocol,
        fraction=1.0,
        seed=manifest.validation.seed,
        test_count=manifest.test.images,
    )
    train, labels, test = prepared.train_images, prepared.train_labels, prepared.test_images
    assert not isinstance(train, Originals)  # targets are stored as squares
    assert not isinstance(test, Originals)
    splits = {
        "train": Labelled(train[chosen.probe_training], labels[chosen.probe_training]),
        "test": Labelled(test, prepared.test_labels),
    }
    if len(chosen.validation):
        splits["validation"] = Labelled(train[chosen.validation], labels[chosen.validation])
    return splits


def transfer_probe(
    milestone: Milestone, settings: Transfer, target: Target
) -> list[dict[str, Any]]:
    """The probe of one target, as records.

    Reference: the last epoch's and, named as such, the best epoch's on the test images. Clean: the
    last epoch's of the pair of rate and decay that is best on the target's validation images, on
    validation and test.

    Args:
        milestone: with the target's splits, see `target_splits`, and classes; its network is left
            as it is.

    Raises:
        ProbeError: images of another size than the network's, or labels that are no classes.
    """
    from barlow_atlas.probes.milestone import record

    _fits(milestone, target)
    run, splits, classes = milestone.subject, milestone.splits, milestone.classes
    normalised = replace(milestone, subject=normalised_for(run, target))
    linear, place = settings.linear, f"transfer/{target.name}"
    if run.protocol == "clean":
        outcomes = [
            clean_probe(normalised.features, normalised.labels, classes, linear, run.seed, place)
        ]
    else:
        outcomes = published_probe(MIX_TRANSFER, normalised.with_own_backbone(), linear, place)
    counts = {split: len(labelled.labels) for split, labelled in splits.items()}
    return [
        record(
            "transfer",
            transfer_settings(run, settings, target, counts, classes, chosen),
            split,
            chosen.scores[split],
            normalised.labels[split],
        )
        for chosen in outcomes
        for split in normalised.evaluated
        if split in chosen.scores
    ]


def normalised_for(run: Subject, target: Target) -> Subject:
    """The run with the target's statistics, and an evaluation transform that only normalises."""
    changed = {"mean": target.mean, "std": target.std, "evaluation_resize": None}
    return run.model_copy(update={"recipe": run.recipe.model_copy(update=changed)})


def _fits(milestone: Milestone, target: Target) -> None:
    from barlow_atlas.data.originals import OriginalSet
    from barlow_atlas.probes.milestone import ProbeError

    run, splits, classes = milestone.subject, milestone.splits, milestone.classes
    for split, labelled in splits.items():
        assert not isinstance(labelled.images, OriginalSet)
        size = labelled.images.shape[2:]
        if size != (run.image_size, run.image_size):
            raise ProbeError(
                f"{target.title}: the images of {split} have {size[0]} x {size[1]} pixels, the "
                f"network sees {run.image_size} x {run.image_size}: prepare the target as "
                f"{target.name}-{run.image_size}"
            )
        if len(labelled.labels) == 0:
            raise ProbeError(f"{target.title}: there are no images of {split}")
        least, most = int(labelled.labels.min()), int(labelled.labels.max())
        if least < 0 or most >= classes:
            raise ProbeError(
                f"{target.title}: labels of {split} must lie between 0 and {classes - 1}, found "
                f"{least} to {most}: prepare the target anew"
            )


def transfer_settings(
    run: Subject,
    settings: Transfer,
    target: Target,
    counts: dict[str, int],
    classes: int,
    chosen: Chosen,
) -> dict[str, Any]:
    """Everything that a reader must know to compare the number with another."""
    clean = run.protocol == "clean"
    words = MIX_TRANSFER.words
    if clean:
        words = FORMS["ssl-sota"].words | {"test_images": "not augmented"}
    return {
        "protocol": run.protocol,
        "target": target.name,
        "classes": classes,
        "counts": counts,
        "image_size": run.image_size,
        "mean": list(target.mean),
        "std": list(target.std),
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "learning_rate": chosen.learning_rate,
        "weight_decay": chosen.weight_decay,
        **words,
        "feature": "backbone",
        "batch_norm": FROZEN if clean else LIVE,
        "standardised": clean,
        **chosen.rule(run),
    }
