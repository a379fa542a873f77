"""Fine-tuning on a share of the labels: semi-supervised evaluation, and the same from scratch.

Backbone and classifier are trained together, from a milestone's weights, at rates of their own
(Barlow Twins, arXiv:2103.03230, table 2 and appendix B; code evaluate.py). Milestone 0 is the same
network from scratch.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from barlow_atlas.data.catalog import LABEL_LISTS
from barlow_atlas.errors import AtlasError
from barlow_atlas.probes.base import Probe
from barlow_atlas.probes.heads import normal_start, shuffled
from barlow_atlas.probes.linear import (
    CROP_AND_FLIP,
    LIVE,
    Chosen,
    Rates,
    as_given,
    in_words,
    resized_and_cropped,
    with_epoch_rule,
)
from barlow_atlas.probes.state import State
from barlow_atlas.settings.training import Positive

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Self

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from barlow_atlas.data.choice import Protocol
    from barlow_atlas.probes.milestone import Milestone
    from barlow_atlas.probes.subject import Subject

FineTunedForm = Literal["standard", "bt-code", "bt-paper"]

# What the published forms are trained with, where it is not the form standard's value.
_PUBLISHED: dict[str, dict[str, Any]] = {
    "bt-code": {"backbone_rates": (0.005,), "head_rates": (0.5,)},
    "bt-paper": {"backbone_rates": (0.002,), "head_rates": (0.5,)},
}

# The paper's rate drops after 12 and 16 of its 20 epochs.
DROPS, FACTOR = (0.6, 0.8), 0.2


class FineTuned(Probe):
    """Fine-tuning of the whole network on a share of the training labels.

    Forms:

    - standard: the protocol's own. Clean: every pair of rates is trained, and the validation images
      choose the pair. Reference: bt-code, with the values of the study.
    - bt-code: Barlow Twins' README and code (evaluate.py): rates 0.005 and 0.5, a cosine.
    - bt-paper: Barlow Twins' paper: rates 0.002 and 0.5, x 0.2 after 60 % and 80 % of the epochs.

    The last two belong to the reference protocol. What a study leaves out has the form's published
    value. Without weight decay in any form, as published.
    """

    name: ClassVar[str] = "fine_tuned"

    labels: float | str = Field(
        description="share of the training labels, such as 0.01, drawn by class; or a list that "
        "was published with the data set, such as 1percent",
        json_schema_extra={"examples": [0.01, "1percent"]},
    )
    label_seed: Annotated[int, Field(ge=0)] | None = Field(
        0,
        description="seed of the labels that are drawn, the same for all runs; null: each run's "
        "own seed, so that intervals over seeds are for new labels, too",
    )
    form: FineTunedForm = "standard"
    epochs: Positive = 20
    batch_size: Positive = 256
    backbone_rates: Rates = Field((0.005, 0.05), description="of the backbone, first epoch")
    head_rates: Rates = Field((0.05, 0.5), description="of the classifier, first epoch")

    @model_validator(mode="before")
    @classmethod
    def _published_values(cls, value: Any) -> Any:
        return (
            _PUBLISHED.get(str(value.get("form")), {}) | value if isinstance(value, dict) else value
        )

    @field_validator("labels")
    @classmethod
    def _share_or_list(cls, value: float | str) -> float | str:
        fits = value in LABEL_LISTS if isinstance(value, str) else 0 < value <= 1
        if not fits:
            raise ValueError(
                "expected a share of the labels above 0 and up to 1, or a published list: "
                f"{', '.join(LABEL_LISTS)}"
            )
        return value

    @model_validator(mode="after")
    def _lists_are_not_drawn(self) -> FineTuned:
        if isinstance(self.labels, str) and self.label_seed != 0:
            raise ValueError("a published list is not drawn: leave `label_seed` out")
        return self

    def fault(self, protocol: Protocol) -> str | None:
        if protocol == "clean":
            if self.form == "standard":
                return None
            return (
                f"fine_tuned: form {self.form} chooses nothing on validation images: the clean "
                "protocol admits the form standard only"
            )
        if len(self.backbone_rates) * len(self.head_rates) == 1:
            return None
        return (
            "protocol reference has no validation images to choose by: probes.fine_tuned must give "
            "one of backbone_rates and one of head_rates"
        )

    def fault_of_run(self, run: Subject) -> str | None:
        if isinstance(self.labels, float) or run.data.stored == "original":
            return None
        return (
            f"fine_tuned: the list {self.labels} is read beside images that are stored as their "
            f"files have them, and {run.data.name} is stored as squares: draw a share, as "
            "`labels: 0.01`, or give the images by `path` with `stored: original`"
        )

    @classmethod
    def variant(cls, settings: Mapping[str, Any]) -> str:
        """Such as `1% standard`, `1% standard, labels 3` or `1percent bt-code best on test`."""
        labels, seed = settings["labels"], settings["label_seed"]
        share = labels if isinstance(labels, str) else f"{100 * labels:g}%"
        drawn = {0: "", None: ", labels by seed"}.get(seed, f", labels {seed}")
        return with_epoch_rule(
            f"{share} {settings['form']}{drawn}", {"epoch_rule": "last", **settings}
        )

    @classmethod
    def setting(cls, settings: Mapping[str, Any]) -> str:
        return f"{in_words(cls.variant(settings), settings)}, {settings['labelled']:,} labels"

    @classmethod
    def run(cls, asked: Sequence[Self], milestone: Milestone) -> Iterator[dict[str, Any]]:
        from barlow_atlas.probes.milestone import record

        for settings in asked:
            rows = labelled_rows(settings, milestone)
            for tuned in fine_tunings(settings, milestone, rows):
                told = fine_tuned_settings(milestone.subject, settings, tuned, len(rows))
                for split, scores in tuned.scores.items():
                    yield record(cls.name, told, split, scores, milestone.labels[split])


@dataclass(frozen=True, kw_only=True)
class Tuned(Chosen):
    """A fine-tuned network's class scores; `learning_rate` is that of its classifier."""

    backbone_rate: float


def labelled_rows(settings: FineTuned, milestone: Milestone) -> NDArray[np.int64]:
    """The places (n,) among the training images, sorted, of those whose labels are used.

    A drawn share holds the classes in their proportions, and is contained in every larger one of
    the same seed. Of a published list, what is among the training images: in the clean protocol it
    lacks the hold-out.

    Raises:
        ProbeError: there is no such list, or a class has no label.
    """
    import numpy as np

    from barlow_atlas.probes.milestone import ProbeError

    labels = milestone.splits["train"].labels
    if isinstance(settings.labels, str):
        rows = _listed(settings.labels, milestone)
    else:
        seed = milestone.subject.seed if settings.label_seed is None else settings.label_seed
        rows = drawn_rows(labels, settings.labels, seed)
    missing = np.setdiff1d(np.arange(milestone.classes), labels[rows])
    if len(missing):
        raise ProbeError(
            f"fine_tuned: {settings.labels} of the {len(labels):,} training labels are "
            f"{len(rows):,}, and none is of class {', '.join(map(str, missing[:10]))}: raise "
            "probes.fine_tuned.labels"
        )
    return rows


def drawn_rows(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.int64]:
    """The sorted places of a stratified share of labels (N,), by a seed of the labels' own.

    PCG64's raw output, as for the splits (`data/selection.py`): NumPy promises not to change it.
    """
    import numpy as np

    from barlow_atlas.data.selection import stratified_order

    keys = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(len(labels))
    return np.sort(stratified_order(labels, keys)[: round(share * len(labels))])


def _listed(name: str, milestone: Milestone) -> NDArray[np.int64]:
    """The places of the training images that are in a published list of their data set."""
    import numpy as np

    from barlow_atlas.data.image_set import ImageSet
    from barlow_atlas.data.originals import OriginalSet
    from barlow_atlas.data.prepared import load
    from barlow_atlas.probes.milestone import ProbeError

    images = milestone.splits["train"].images
    assert isinstance(images, ImageSet | OriginalSet)  # what is prepared is seen through a choice
    ((stored, chosen),) = images.parts
    folder = _folder(stored)
    lists = load(folder).label_lists
    if name not in lists:
        there = f"there are {', '.join(lists)}" if lists else "there are none"
        raise ProbeError(
            f"fine_tuned: {folder} has no list of labels {name!r}, {there}. Put the published "
            f"{name}.txt beside the images' files and prepare them again, or draw a share, as "
            "`labels: 0.01`"
        )
    return np.flatnonzero(np.isin(chosen, lists[name]))


def _folder(stored: Any) -> Path:
    """Where prepared images lie, which their memory-mapped files know; their lists lie beside."""
    from pathlib import Path

    from barlow_atlas.data.originals import Originals

    mapped: Any = stored.shards[0] if isinstance(stored, Originals) else stored
    return Path(mapped.filename).parent


def fine_tunings(settings: FineTuned, milestone: Milestone, rows: NDArray[np.int64]) -> list[Tuned]:
    """Clean: the pair of rates that is best on the validation images, after the last epoch.

    Equal validation accuracies are decided by the lower validation cross-entropy. Reference: the
    one pair after the last epoch, and after the first epoch with the highest test accuracy.

    Args:
        rows: the training images whose labels are used (n,).
        milestone: its network is left as it is.

    Raises:
        ProbeError: the network diverged at all rates.
    """
    from torch.nn.functional import cross_entropy

    from barlow_atlas.probes.milestone import ProbeError

    pairs = list(itertools.product(settings.backbone_rates, settings.head_rates))
    tried = [_Training(settings, milestone, rows, *pair).outcome() for pair in pairs]
    finite = [one for one in tried if all(s.isfinite().all() for s in one[0].scores.values())]
    if not finite:
        rates = ", ".join(f"{backbone:g} and {head:g}" for backbone, head in pairs)
        raise ProbeError(
            f"fine_tuned: the network diverged at the rates of backbone and classifier {rates}: "
            "add lower ones to probes.fine_tuned.backbone_rates and head_rates"
        )
    if len(finite) == 1:
        return finite[0]
    labels = milestone.labels["validation"]

    def wrong(one: list[Tuned]) -> tuple[int, float]:
        scores = one[0].scores["validation"]
        errors = int((scores.argmax(1) != labels).sum())
        return errors, float(cross_entropy(scores, labels))

    return min(finite, key=wrong)


class _Training:
    """A copy of a milestone's backbone and a new classifier, trained at one pair of rates.

    SGD with momentum 0.9; batch norm in train mode, with the statistics of the whole batch;
    training images cropped and flipped. Ended after an epoch, it goes on to the same scores; see
    `state`.
    """

    def __init__(
        self,
        settings: FineTuned,
        milestone: Milestone,
        rows: NDArray[np.int64],
        backbone_rate: float,
        head_rate: float,
    ) -> None:
        import torch
        from torch import nn

        from barlow_atlas.nn.randomness import generator
        from barlow_atlas.probes.features import extract

        self.settings, self.milestone = settings, milestone
        self.places = torch.from_numpy(rows)
        self.rates = backbone_rate, head_rate
        self.clean = milestone.subject.protocol == "clean"
        self.subject = (as_given if self.clean else resized_and_cropped)(milestone.subject)
        self.backbone = milestone.with_own_backbone().network.backbone
        image = milestone.splits["test"].images[:1]
        width = extract(self.backbone, self.subject, image, milestone.device).shape[1]
        start = normal_start(width, milestone.classes, generator(self.subject.seed, "fine_tuned"))
        self.head = nn.Linear(width, milestone.classes)
        with torch.no_grad():
            self.head.weight.copy_(start[:-1].T)
            self.head.bias.copy_(start[-1])
        self.head.to(milestone.device)
        groups = [{"params": list(part.parameters())} for part in (self.backbone, self.head)]
        self.optimizer = torch.optim.SGD(groups, lr=0.0, momentum=0.9)
        self.done = 0
        self.best: Tuned | None = None
        told = f"{settings.model_dump_json()} {self.rates}"
        parts = self.backbone, self.head, self.optimizer
        self.state = State(milestone.kept, milestone.device, "fine_tuned", told, parts)

    def outcome(self) -> list[Tuned]:
        """What is reported of it, trained to the last epoch."""
        self._resume()
        while self.done < self.settings.epochs:
            self._epoch()
            if not self.clean:
                candidate = self._tested("best on test")
                if self.best is None or self._correct(candidate) > self._correct(self.best):
                    self.best = candidate
            self._save()
        last = self._tested("last")
        return [last] if self.best is None else [last, self.best]

    def _epoch(self) -> None:
        import torch
        from torch.nn.functional import cross_entropy

        from barlow_atlas.nn.randomness import generator
        from barlow_atlas.probes.features import drawn

        milestone, seed, epoch = self.milestone, self.subject.seed, self.done
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * rate_factor(self.settings, epoch)
        order = shuffled(len(self.places), self.settings.batch_size, seed, "fine_tuned", epoch)
        batches = [self.places[batch] for batch in order]
        labels, images = milestone.labels["train"], milestone.splits["train"].images

        def draws(step: int) -> torch.Generator:
            return generator(seed, "fine_tuned", epoch, step)

        views = drawn(self.subject, images, batches, [CROP_AND_FLIP], draws, milestone.device)
        self.backbone.train()
        for batch, (view,) in zip(batches, views, strict=True):
            try:
                scores = self.head(self.backbone(view))
            except ValueError as error:
                # Maps of one pixel, and one image: a batch without a variance.
                raise AtlasError(
                    f"batch norm cannot use the statistics of a batch of {len(view)} image: "
                    f"{error}. Choose a batch_size of fine_tuned that leaves no single image of "
                    f"{len(self.places):,} over"
                ) from error
            loss = cross_entropy(scores, labels[batch.to(labels.device)])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        self.done += 1

    def _tested(self, rule: Literal["last", "best on test"]) -> Tuned:
        import torch

        from barlow_atlas.probes.features import extract

        milestone = self.milestone
        with torch.no_grad():
            scores = {
                split: self.head(
                    extract(
                        self.backbone,
                        self.subject,
                        milestone.splits[split].images,
                        milestone.device,
                    )
                )
                for split in milestone.evaluated
            }
        return self._tuned(scores, self.done, rule)

    def _tuned(
        self, scores: dict[str, Tensor], epoch: int, rule: Literal["last", "best on test"]
    ) -> Tuned:
        backbone_rate, head_rate = self.rates
        return Tuned(scores, head_rate, 0.0, epoch, rule, backbone_rate=backbone_rate)

    def _correct(self, outcome: Tuned) -> int:
        return int((outcome.scores["test"].argmax(1) == self.milestone.labels["test"]).sum())

    def _save(self) -> None:
        best = None if self.best is None else (self.best.scores, self.best.epoch)
        self.state.save({"done": self.done, "best": best})

    def _resume(self) -> None:
        stored = self.state.resume()
        if stored is None:
            return
        self.done = stored["done"]
        if stored["best"] is not None:
            scores, epoch = stored["best"]
            self.best = self._tuned(scores, epoch, "best on test")


def rate_factor(settings: FineTuned, epoch: int) -> float:
    """Of both rates in an epoch (from 0), which the epoch keeps."""
    from barlow_atlas.nn.optim import drops, half_cosine

    if settings.form != "bt-paper":
        return half_cosine(epoch, settings.epochs)
    return drops(epoch, [round(share * settings.epochs) for share in DROPS], FACTOR)


def fine_tuned_settings(
    run: Subject, settings: FineTuned, tuned: Tuned, labelled: int
) -> dict[str, Any]:
    """Everything that a reader must know to compare the number with another."""
    clean = run.protocol == "clean"
    steps = settings.form == "bt-paper"
    return {
        "protocol": run.protocol,
        "form": settings.form,
        "labels": settings.labels,
        "label_seed": settings.label_seed,
        "labelled": labelled,
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "backbone_rate": tuned.backbone_rate,
        "head_rate": tuned.learning_rate,
        "weight_decay": tuned.weight_decay,
        "optimizer": "sgd, momentum 0.9",
        "schedule": "x 0.2 after 60 % and 80 % of the epochs" if steps else "cosine, by epoch",
        "training_images": "cropped and flipped",
        "test_images": "evaluation transform" if clean else "resized to 8/7 and cropped",
        "feature": "whole network",
        "batch_norm": LIVE,
        **tuned.rule(run),
    }
