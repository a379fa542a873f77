"""What a milestone is asked: nearest neighbours and linear probes on its frozen backbone."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from barlow_atlas.data.image_set import ImageSet
from barlow_atlas.errors import AtlasError
from barlow_atlas.nn.networks import Network
from barlow_atlas.probes.features import Images, extract
from barlow_atlas.probes.knn import knn_scores
from barlow_atlas.probes.linear import linear_probe, linear_settings
from barlow_atlas.probes.packing import pack
from barlow_atlas.probes.subject import Subject
from barlow_atlas.study.models import Probes


class ProbeError(AtlasError):
    """A probe that these images cannot answer."""


@dataclass(frozen=True)
class Labelled:
    """Images uint8 (n, 3, H, W) and their classes, int64 (n,)."""

    images: Images
    labels: np.ndarray


def choose(images: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> Labelled:
    """The rows (n,) of stored images uint8 (N, 3, H, W) and labels (N,); images stay in files."""
    return Labelled(ImageSet(((images, rows),)), labels[rows])


def extract_splits(
    backbone: nn.Module, run: Subject, splits: dict[str, Labelled], device: torch.device
) -> dict[str, Tensor]:
    """Features (n, f) of each split, extracted once for all probes and signals of a milestone.

    Raises:
        ProbeError: features that are not finite.
    """
    features = {
        split: extract(backbone, run, labelled.images, device) for split, labelled in splits.items()
    }
    for split, found in features.items():
        bad = int((~found.isfinite()).any(1).sum())
        if bad:
            raise ProbeError(
                f"the features of {bad} of {len(found)} images of {split} are not finite: the "
                "weights are damaged or have diverged"
            )
    return features


def probe(
    network: Network,
    run: Subject,
    probes: Probes,
    splits: dict[str, Labelled],
    features: dict[str, Tensor],
    classes: int,
) -> list[dict[str, Any]]:
    """All probes of a milestone.

    Args:
        network: the milestone's, on the device of the features; left as it is.
        splits: "train" and "test", and in the clean protocol "validation".
        features: (n, f) of each split, see `extract_splits`.

    Returns:
        One record for each probe and evaluated split: `probe`, `settings`, `split`, `count`,
        `top1` and `top5` in percent, and `correct`, the top-1 answers as packed bits.

    Raises:
        ProbeError: labels that give no answer, such as those of a class without images.
    """
    _answerable(probes, {name: split.labels for name, split in splits.items()}, classes)
    device = features["train"].device
    labels = {
        split: torch.from_numpy(np.array(labelled.labels)).to(device)
        for split, labelled in splits.items()
    }
    evaluated = [split for split in ("validation", "test") if split in splits]
    records = []
    for name, space in feature_spaces(network, features, probes).items():
        neighbours = [knn for knn in probes.knn if knn.feature == name]
        for split in evaluated:
            known, queries = space["train"], space[split]
            scores = knn_scores(known, labels["train"], queries, neighbours, classes)
            for knn, found in zip(neighbours, scores, strict=True):
                records.append(record("knn", knn.model_dump(), split, found, labels[split]))
    images = {split: labelled.images for split, labelled in splits.items()}
    for asked in probes.linear:
        trained = linear_probe(
            network.backbone, run, asked, features, images, labels, classes, device
        )
        for chosen in trained:
            told = linear_settings(run, asked, chosen)
            records += [
                record("linear", told, split, scores, labels[split])
                for split, scores in chosen.scores.items()
            ]
    return records


@torch.inference_mode()
def feature_spaces(
    network: Network, features: dict[str, Tensor], probes: Probes
) -> dict[str, dict[str, Tensor]]:
    """The features of each split, (n, f), in every space that a kNN probe asks for.

    "projector" is what the objective sees, in evaluation mode, before any normalisation. Imported
    weights have none: there, probes that ask for it are left out.
    """
    spaces = {"backbone": features}
    asked = any(knn.feature == "projector" for knn in probes.knn)
    if asked and not isinstance(network.projector, nn.Identity):
        network.projector.eval()
        spaces["projector"] = {split: network.projector(found) for split, found in features.items()}
    return spaces


def _answerable(probes: Probes, labels: dict[str, np.ndarray], classes: int) -> None:
    """Raises ProbeError for labels (n,) of the splits that the probes cannot answer."""
    for split, found in labels.items():
        present = set(np.unique(found).tolist())
        strange = sorted(present - set(range(classes)))
        if strange:
            raise ProbeError(
                f"labels of {split} must lie between 0 and {classes - 1}, found {strange[:10]}: "
                "prepare the data set anew"
            )
        missing = sorted(set(range(classes)) - present)
        if missing:
            raise ProbeError(
                f"no image of class {missing[:10]} among the {len(found)} of {split}: add images "
                "or, if this is a share of the training images, raise data.fraction"
            )
    memory = len(labels["train"])
    largest = max(knn.k for knn in probes.knn)
    if largest > memory:
        raise ProbeError(
            f"kNN with k = {largest} needs at least as many training images, here are "
            f"{memory}: lower probes.knn.k or raise data.fraction"
        )
    if memory < 2:
        raise ProbeError("the linear probe cannot standardise the features of one training image")


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
