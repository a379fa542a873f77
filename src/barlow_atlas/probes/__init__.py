"""What a milestone is asked: nearest neighbours and linear probes on its frozen backbone."""

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from barlow_atlas.errors import AtlasError
from barlow_atlas.networks import Network
from barlow_atlas.probes.features import extract
from barlow_atlas.probes.knn import knn_scores
from barlow_atlas.probes.linear import Chosen, clean_probe, reference_probe
from barlow_atlas.study import Linear, Probes, Run


class ProbeError(AtlasError):
    """A probe that these images cannot answer."""


@dataclass(frozen=True)
class Labelled:
    """Images uint8 (n, 3, H, W) and their classes, int64 (n,)."""

    images: np.ndarray
    labels: np.ndarray


def probe(
    network: Network,
    run: Run,
    probes: Probes,
    splits: dict[str, Labelled],
    classes: int,
    device: torch.device,
) -> list[dict[str, Any]]:
    """All probes of a milestone, from features that are extracted once.

    Args:
        network: the milestone's; changed in place by the reference protocol's linear probe.
        splits: "train" and "test", and in the clean protocol "validation".

    Returns:
        One record for each probe and evaluated split: `probe`, `settings`, `split`, `count`,
        `top1` and `top5` in percent, and `correct`, the top-1 answers as packed bits.

    Raises:
        ProbeError: a k that is larger than the memory, or a class without training images.
    """
    labels = {
        split: torch.from_numpy(np.array(labelled.labels)).to(device)
        for split, labelled in splits.items()
    }
    _answerable(probes, labels["train"], classes)
    features = {
        split: extract(network.backbone, run, labelled.images, device)
        for split, labelled in splits.items()
    }
    evaluated = [split for split in ("validation", "test") if split in splits]
    records = []
    for name, space in feature_spaces(network, features, probes).items():
        asked = [knn for knn in probes.knn if knn.feature == name]
        for split in evaluated:
            scores = knn_scores(space["train"], labels["train"], space[split], asked, classes)
            for knn, found in zip(asked, scores, strict=True):
                records.append(record("knn", knn.model_dump(), split, found, labels[split]))
    if run.protocol == "clean":
        chosen = clean_probe(features, labels, classes, probes.linear, run.seed)
    else:
        images = {split: labelled.images for split, labelled in splits.items()}
        chosen = reference_probe(
            network.backbone, run, images, labels, classes, probes.linear, device
        )
    settings = linear_settings(run, probes.linear, chosen)
    for split in evaluated:
        records.append(record("linear", settings, split, chosen.scores[split], labels[split]))
    return records


@torch.inference_mode()
def feature_spaces(
    network: Network, features: dict[str, Tensor], probes: Probes
) -> dict[str, dict[str, Tensor]]:
    """The features of each split, (n, f), in every space that a kNN probe asks for.

    "projector" is what the objective sees, in evaluation mode, before any normalisation.
    """
    spaces = {"backbone": features}
    if any(knn.feature == "projector" for knn in probes.knn):
        network.projector.eval()
        spaces["projector"] = {split: network.projector(found) for split, found in features.items()}
    return spaces


def _answerable(probes: Probes, train_labels: Tensor, classes: int) -> None:
    largest = max(knn.k for knn in probes.knn)
    if largest > len(train_labels):
        raise ProbeError(
            f"kNN with k = {largest} needs at least as many training images, here are "
            f"{len(train_labels)}: lower probes.knn.k or raise data.fraction"
        )
    missing = sorted(set(range(classes)) - set(train_labels.unique().tolist()))
    if missing:
        raise ProbeError(f"no training image of class {missing[:10]} among {len(train_labels)}")


def linear_settings(run: Run, settings: Linear, chosen: Chosen) -> dict[str, Any]:
    """Everything that a reader must know to compare the linear probe's number with another."""
    clean = run.protocol == "clean"
    return {
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "learning_rate": chosen.learning_rate,
        "final_lr_ratio": settings.final_lr_ratio,
        "weight_decay": chosen.weight_decay,
        "optimizer": "adam",
        "feature": settings.feature,
        "batch_norm": "running statistics" if clean else "batch statistics while training",
        "training_images": "not augmented" if clean else "augmented",
        "standardised": clean,
        "chosen_on": "validation" if clean else "nothing",
        "epoch_rule": "last",
    }


def record(
    name: str, settings: dict[str, Any], split: str, scores: Tensor, labels: Tensor
) -> dict[str, Any]:
    """One probe's result on one split, from class scores (n, classes) and labels (n,).

    Equal scores are taken in the order of the classes, which `topk` would not promise.
    """
    n, classes = scores.shape
    ranked = scores.sort(dim=1, descending=True, stable=True).indices
    correct = ranked[:, 0] == labels
    among_five = (ranked[:, : min(5, classes)] == labels[:, None]).any(1)
    return {
        "probe": name,
        "settings": settings,
        "split": split,
        "count": n,
        "top1": 100 * correct.sum().item() / n,
        "top5": 100 * among_five.sum().item() / n,
        "correct": pack(correct.cpu().numpy()),
    }


def pack(correct: np.ndarray) -> str:
    """Booleans (n,) as base64 of their bits, first image in the highest bit of the first byte."""
    return base64.b64encode(np.packbits(correct).tobytes()).decode()


def unpack(text: str, count: int) -> np.ndarray:
    """The booleans (count,) that `pack` packed."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=count).astype(bool)
