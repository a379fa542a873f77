"""What probes look at: a milestone's network, and images with their classes and features."""

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from barlow_atlas.data.originals import OriginalSet
from barlow_atlas.data.prepared import Prepared, StoredImages, chosen
from barlow_atlas.errors import AtlasError
from barlow_atlas.nn.networks import Network
from barlow_atlas.probes.features import Images, extract, kept
from barlow_atlas.probes.packing import pack
from barlow_atlas.probes.subject import Subject

ROWS = 1 << 16
"""Of features and scores that are looked at together."""


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
        kept: a folder of this milestone's own in which features of encoded images are kept, so
            that they need no memory and, after an end, are not extracted again. None: in memory.
    """

    network: Network
    subject: Subject
    splits: Mapping[str, Labelled]
    classes: int
    device: torch.device
    others: Mapping[str, Prepared] = field(default_factory=dict)
    kept: Path | None = None

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

        On `device`, or in files where these are kept. Under the evaluation transform; batch norm
        uses its running statistics.

        Raises:
            ProbeError: features that are not finite.
        """
        features = {split: self._extracted(split) for split in self.splits}
        for split, rows in features.items():
            parts = rows.split(ROWS)
            bad = sum(int((~part.isfinite()).any(1).sum()) for part in parts)
            if bad:
                raise ProbeError(
                    f"the features of {bad} of {len(rows)} images of {split} are not finite: the "
                    "weights are damaged or have diverged"
                )
        return features

    def _extracted(self, split: str) -> Tensor:
        images, network = self.splits[split].images, self.network.backbone
        if self.kept is None or not isinstance(images, OriginalSet):
            return extract(network, self.subject, images, self.device)
        return kept(network, self.subject, images, self.device, self.kept / f"{split}.float32")

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
        network = Network(copy.deepcopy(self.network.backbone), self.network.projector)
        return replace(self, network=network)

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
    n = len(scores)
    # In parts, as the ranks of all classes take twice the room of the scores.
    ranked = torch.cat(
        [
            part.sort(dim=1, descending=True, stable=True).indices[:, :5].clone()
            for part in scores.split(ROWS)
        ]
    )
    correct = ranked[:, 0] == labels
    among_five = (ranked == labels[:, None]).any(1)
    return {
        "probe": name,
        "settings": settings,
        "split": split,
        "count": n,
        "top1": 100 * correct.sum().item() / n,
        "top5": 100 * among_five.sum().item() / n,
        "correct": pack(correct.cpu().numpy()),
    }
