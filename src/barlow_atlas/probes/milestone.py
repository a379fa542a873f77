"""What probes look at: a milestone's network, and images with their classes and features."""

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from barlow_atlas.data.prepared import Prepared, StoredImages, chosen
from barlow_atlas.errors import AtlasError
from barlow_atlas.nn.networks import Network
from barlow_atlas.probes.features import Images, extract
from barlow_atlas.probes.packing import pack
from barlow_atlas.probes.subject import Subject


class ProbeError(AtlasError):
    """A probe that these images cannot answer."""


@dataclass(frozen=True)
class Labelled:
    """Images (n) and their classes, int64 (n,)."""

    images: Images
    labels: np.ndarray


def choose(images: StoredImages, labels: np.ndarray, rows: np.ndarray) -> Labelled:
    """The rows (n,) of stored images (N) and labels (N,); images stay in their files."""
    return Labelled(chosen((images, rows)), labels[rows])


@dataclass(frozen=True)
class Milestone:
    """A network at one epoch, and the images that it is probed with.

    Attributes:
        network: on `device`.
        subject: the chain of checkpoints that it belongs to.
        splits: "train" and "test", and in the clean protocol "validation".
        classes: how many there are.
        others: the prepared data sets that probes look at beside these images, by name.
    """

    network: Network
    subject: Subject
    splits: Mapping[str, Labelled]
    classes: int
    device: torch.device
    others: Mapping[str, Prepared] = field(default_factory=dict)

    @functools.cached_property
    def labels(self) -> dict[str, Tensor]:
        """Classes (n,) of each split."""
        return {
            split: torch.from_numpy(np.array(labelled.labels)).to(self.device)
            for split, labelled in self.splits.items()
        }

    @functools.cached_property
    def features(self) -> dict[str, Tensor]:
        """The backbone's output (n, f) for each split, extracted once for all that ask.

        Under the evaluation transform; batch norm uses its running statistics.

        Raises:
            ProbeError: features that are not finite.
        """
        features = {
            split: extract(self.network.backbone, self.subject, labelled.images, self.device)
            for split, labelled in self.splits.items()
        }
        for split, found in features.items():
            bad = int((~found.isfinite()).any(1).sum())
            if bad:
                raise ProbeError(
                    f"the features of {bad} of {len(found)} images of {split} are not finite: the "
                    "weights are damaged or have diverged"
                )
        return features

    @functools.cached_property
    def embeddings(self) -> dict[str, Tensor] | None:
        """What the objective sees (n, d), of each split: the projector's output for `features`.

        In evaluation mode, before any normalisation. None for imported weights, which have no
        projector.
        """
        if isinstance(self.network.projector, nn.Identity):
            return None
        self.network.projector.eval()
        with torch.inference_mode():
            return {split: self.network.projector(x) for split, x in self.features.items()}

    @property
    def evaluated(self) -> list[str]:
        """The splits that are evaluated."""
        return [split for split in ("validation", "test") if split in self.splits]

    def with_own_backbone(self) -> "Milestone":
        """The same with a backbone of its own, which may be changed."""
        own = Network(copy.deepcopy(self.network.backbone), self.network.projector)
        return replace(self, network=own)

    def check_labels(self) -> None:
        """Raises ProbeError for labels that give no answer, as of a class without images."""
        classes = self.classes
        for split, labelled in self.splits.items():
            present = set(np.unique(labelled.labels).tolist())
            strange = sorted(present - set(range(classes)))
            if strange:
                raise ProbeError(
                    f"labels of {split} must lie between 0 and {classes - 1}, found "
                    f"{strange[:10]}: prepare the data set anew"
                )
            missing = sorted(set(range(classes)) - present)
            if missing:
                raise ProbeError(
                    f"no image of class {missing[:10]} among the {len(labelled.labels)} of "
                    f"{split}: add images or, if this is a share of the training images, raise "
                    "data.fraction"
                )


def record(
    name: str, settings: dict[str, Any], split: str, scores: Tensor, labels: Tensor
) -> dict[str, Any]:
    """One probe's result on one split, from class scores (n, classes) and labels (n,).

    Equal scores are taken in the order of the classes, which `topk` would not promise.

    Returns:
        `probe`, `settings`, `split`, `count`, `top1` and `top5` in percent, and `correct`, the
        top-1 answers as packed bits.
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
