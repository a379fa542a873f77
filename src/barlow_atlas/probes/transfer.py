"""Transfer: a linear probe of the frozen backbone on another data set.

Reference: Mixed Barlow Twins' evaluate_transfer.py, or VISSL's linear evaluation. Clean: the clean
linear probe on the target's features. The target's images are stored at the network's size and are
not augmented; VISSL's are stored as their files have them, and cropped. All are normalised by the
target's statistics, as the references do.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from barlow_atlas.data.catalog import ORIGINALS, TARGETS
from barlow_atlas.probes.heads import MomentumSGD, NormedHead, uniform_start
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
    crop_and_flip,
    in_words,
    no_augmentation,
    plain,
    published_probe,
    resized_and_cropped,
    several_pairs,
    with_epoch_rule,
)
from barlow_atlas.probes.targets import OfTargets
from barlow_atlas.settings.training import Positive

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Self

    from torch import Generator, device, nn

    from barlow_atlas.data.catalog import DataSet, Target
    from barlow_atlas.data.choice import Protocol
    from barlow_atlas.data.prepared import Prepared
    from barlow_atlas.probes.heads import Trained
    from barlow_atlas.probes.milestone import Labelled, Milestone
    from barlow_atlas.probes.subject import Subject


TransferForm = Literal["standard", "vissl"]
VISSL_EPOCHS = {"places205": 14, "inaturalist-2018": 84}
"""VISSL's configurations linear_image_classification/places205 and /inaturalist18 for ResNets."""
_VISSL: dict[str, Any] = {"batch_size": 256, "weight_decays": (5e-4,)}


class Transfer(OfTargets):
    """Linear probes on other data sets: one for each target.

    Forms:

    - standard: the protocol's own. Reference: Mixed Barlow Twins' (code evaluate_transfer.py), with
      its values as defaults. Clean: features are extracted once, and the target's own validation
      images choose the pair of rate and decay.
    - vissl: VISSL's linear evaluation on Places205 and iNaturalist 2018, which Barlow Twins'
      numbers follow: random crops and flips, a classifier of the last stage's maps. What a study
      leaves out has VISSL's value for the target. It belongs to the reference protocol.
    """

    name: ClassVar[str] = "transfer"
    known = TARGETS

    form: TransferForm = Field("standard", exclude_if=lambda form: form == "standard")
    epochs: Positive = 100
    batch_size: Positive = 128
    learning_rates: Rates = (0.01,)
    weight_decays: Decays = (0.0,)

    @model_validator(mode="before")
    @classmethod
    def _published_values(cls, value: Any) -> Any:
        if not isinstance(value, dict) or value.get("form") != "vissl":
            return value
        targets = value.get("targets", ())
        epochs = {VISSL_EPOCHS[target] for target in targets if target in VISSL_EPOCHS}
        if "epochs" not in value and len(epochs) > 1:
            told = ", ".join(f"{target} {n}" for target, n in VISSL_EPOCHS.items())
            raise ValueError(
                f"form vissl has other epochs for each target ({told}): ask each by itself, as a "
                "list of settings, or give `epochs`"
            )
        return _VISSL | dict(zip(("epochs",), epochs, strict=False)) | value

    @model_validator(mode="after")
    def _has_crops(self) -> Transfer:
        strange = [target for target in self.targets if target not in VISSL_EPOCHS]
        if self.form == "vissl" and strange:
            raise ValueError(
                f"form vissl is of {' and '.join(VISSL_EPOCHS)}, not of {', '.join(strange)}"
            )
        return self

    def fault(self, protocol: str) -> str | None:
        if protocol == "clean" and self.form == "vissl":
            return (
                "transfer: form vissl chooses nothing on validation images: the clean protocol "
                "admits the form standard only"
            )
        return several_pairs(self, protocol)

    def fault_of_run(self, run: Subject) -> str | None:
        if self.form == "vissl" and run.backbone.timm is not None:
            return (
                f"transfer: the form vissl looks at a ResNet's last stage, and {run.backbone.name} "
                "is not torchvision's: ask the form standard"
            )
        return None

    def data_sets(self, image_size: int) -> tuple[DataSet, ...]:
        if self.form == "vissl":
            return tuple(ORIGINALS[name] for name in self.targets)
        return super().data_sets(image_size)

    def facts(self) -> tuple[str, ...]:
        """Those of the targets: their statistics normalise the images."""
        return tuple(TARGETS[name].model_dump_json() for name in self.targets)

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(_named(target, self.form) for target in self.targets)

    @classmethod
    def variant(cls, settings: Mapping[str, Any]) -> str:
        """Such as `dtd`, `places205 vissl` or `dtd best on test`."""
        return with_epoch_rule(_named(settings["target"], settings["form"]), settings)

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
        return Linear(**self.model_dump(exclude={"targets", "form"}))


def _named(target: str, form: str) -> str:
    return target if form == "standard" else f"{target} {form}"


# The rate drops after 60 and 80 of the reference's 100 epochs.
DROPS = (0.6, 0.8)


def drops_factor(settings: Linear, epoch: int) -> float:
    """1, then 0.1 from 60 % and 0.01 from 80 % of the epochs on; `epoch` from 0."""
    from barlow_atlas.nn.optim import drops

    return drops(epoch, [round(share * settings.epochs) for share in DROPS], 0.1)


# VISSL's after 4, 8 and 12 of 14, or 24, 48 and 72 of 84.
VISSL_DROPS = (2 / 7, 4 / 7, 6 / 7)


def vissl_factor(settings: Linear, epoch: int) -> float:
    """A tenth more often at each of `VISSL_DROPS`; `epoch` from 0."""
    from barlow_atlas.nn.optim import drops

    return drops(epoch, [round(share * settings.epochs) for share in VISSL_DROPS], 0.1)


def normed_head(
    settings: Linear, shape: Sequence[int], classes: int, draws: Generator, device: device
) -> Trained:
    """VISSL's classifier, behind a batch norm."""
    (rate,), (decay,) = settings.learning_rates, settings.weight_decays
    return NormedHead(rate, decay, shape, classes, draws, device)


def last_stage(backbone: nn.Module) -> nn.Module:
    from barlow_atlas.nn.maps import last_maps

    return last_maps(backbone)


MIX_TRANSFER = Form(
    plain(MomentumSGD, uniform_start),
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
        "feature": "backbone",
    },
)
VISSL = Form(
    normed_head,
    vissl_factor,
    live=False,
    augmentation=crop_and_flip,
    seen=resized_and_cropped,
    best=True,
    words={
        "optimizer": "sgd, Nesterov's momentum 0.9",
        "schedule": "x 0.1 after 2/7, 4/7 and 6/7 of the epochs",
        "training_images": "cropped and flipped",
        "test_images": "resized to 8/7 and cropped",
        "feature": "last stage in 2 x 2 windows, batch norm",
    },
    features=last_stage,
)
TRANSFER_FORMS = {"standard": MIX_TRANSFER, "vissl": VISSL}


def target_splits(prepared: Prepared, protocol: Protocol) -> dict[str, Labelled]:
    """The parts of a prepared target: "train", "test", and in the clean protocol "validation".

    The clean protocol's validation images are taken out of the training part.
    """
    from barlow_atlas.data.selection import select
    from barlow_atlas.probes.milestone import choose

    manifest = prepared.manifest
    chosen = select(
        prepared.train_labels,
        prepared.validation_index,
        protocol=protocol,
        fraction=1.0,
        seed=manifest.validation.seed,
        test_count=manifest.test.images,
    )
    train = prepared.train_images, prepared.train_labels
    splits = {
        "train": choose(*train, chosen.probe_training),
        "test": choose(prepared.test_images, prepared.test_labels, chosen.test),
    }
    if len(chosen.validation):
        splits["validation"] = choose(*train, chosen.validation)
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
    form = TRANSFER_FORMS[settings.form]
    if run.protocol == "clean":
        asked = normalised.features, normalised.labels, classes, linear, run.seed, place
        outcomes = [clean_probe(*asked, kept=milestone.kept)]
    else:
        probed = normalised.with_own_backbone() if form.live else normalised
        outcomes = published_probe(form, probed, linear, place)
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
        own = (run.image_size, run.image_size)
        size = own if isinstance(labelled.images, OriginalSet) else labelled.images.shape[2:]
        if size != own:
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
    form = TRANSFER_FORMS[settings.form]
    words = form.words
    if clean:
        words = words | {key: FORMS["ssl-sota"].words[key] for key in ("optimizer", "schedule")}
    return {
        "protocol": run.protocol,
        "form": settings.form,
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
        "batch_norm": LIVE if form.live and not clean else FROZEN,
        "standardised": clean,
        **chosen.rule(run),
    }
