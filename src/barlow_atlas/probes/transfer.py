"""Transfer: a linear probe of the frozen backbone on another data set.

Reference: Mixed Barlow Twins' evaluate_transfer.py. Clean: the clean linear probe on the target's
features. In both, the target's images are stored at the network's size and are not augmented, and
they are normalised by the target's statistics, as the reference does.
"""

import copy
from typing import Any

import numpy as np
import torch
from torch import nn

from barlow_atlas.data.catalog import Target
from barlow_atlas.data.choice import Protocol
from barlow_atlas.data.prepared import Prepared
from barlow_atlas.data.selection import select
from barlow_atlas.nn.optim import drops
from barlow_atlas.probes.features import extract
from barlow_atlas.probes.linear import (
    FORMS,
    FROZEN,
    LIVE,
    Chosen,
    Form,
    as_given,
    clean_probe,
    momentum_sgd,
    no_augmentation,
    published_probe,
    uniform_start,
)
from barlow_atlas.probes.milestone import Labelled, ProbeError, record
from barlow_atlas.probes.settings import Linear, Transfer
from barlow_atlas.probes.subject import Subject

# The rate drops after 60 and 80 of the reference's 100 epochs.
DROPS = (0.6, 0.8)


def drops_factor(settings: Linear, epoch: int) -> float:
    """1, then 0.1 from 60 % and 0.01 from 80 % of the epochs on; `epoch` from 0."""
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
    manifest = prepared.manifest
    chosen = select(
        prepared.train_labels,
        prepared.validation_index,
        protocol=protocol,
        fraction=1.0,
        seed=manifest.validation.seed,
        test_count=manifest.test.images,
    )
    train, labels = prepared.train_images, prepared.train_labels
    splits = {
        "train": Labelled(train[chosen.probe_training], labels[chosen.probe_training]),
        "test": Labelled(prepared.test_images, prepared.test_labels),
    }
    if len(chosen.validation):
        splits["validation"] = Labelled(train[chosen.validation], labels[chosen.validation])
    return splits


def transfer(
    backbone: nn.Module,
    run: Subject,
    settings: Transfer,
    target: Target,
    splits: dict[str, Labelled],
    classes: int,
    device: torch.device,
) -> list[dict[str, Any]]:
    """The probe of one target, as records of the form of `probes.record`.

    Reference: the last epoch's and, named as such, the best epoch's on the test images. Clean: the
    last epoch's of the pair of rate and decay that is best on the target's validation images, on
    validation and test.

    Args:
        backbone: left as it is; the reference protocol works on a copy.
        splits: of the target, see `target_splits`.

    Raises:
        ProbeError: images of another size than the network's, or labels that are no classes.
    """
    _fits(run, target, splits, classes)
    own = normalised_for(run, target)
    images = {split: labelled.images for split, labelled in splits.items()}
    labels = {
        split: torch.from_numpy(np.array(labelled.labels)).to(device)
        for split, labelled in splits.items()
    }
    linear = Linear(**settings.model_dump(exclude={"targets"}))
    place = f"transfer/{target.name}"
    if run.protocol == "clean":
        features = {split: extract(backbone, own, found, device) for split, found in images.items()}
        outcomes = [clean_probe(features, labels, classes, linear, run.seed, place)]
    else:
        live = copy.deepcopy(backbone)
        outcomes = published_probe(
            MIX_TRANSFER, live, own, linear, images, labels, classes, device, place
        )
    counts = {split: len(labelled.labels) for split, labelled in splits.items()}
    return [
        record(
            "transfer",
            transfer_settings(run, settings, target, counts, classes, chosen),
            split,
            chosen.scores[split],
            labels[split],
        )
        for chosen in outcomes
        for split in ("validation", "test")
        if split in chosen.scores
    ]


def normalised_for(run: Subject, target: Target) -> Subject:
    """The run with the target's statistics, and an evaluation transform that only normalises."""
    changed = {"mean": target.mean, "std": target.std, "evaluation_resize": None}
    return run.model_copy(update={"recipe": run.recipe.model_copy(update=changed)})


def _fits(run: Subject, target: Target, splits: dict[str, Labelled], classes: int) -> None:
    for split, labelled in splits.items():
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
