"""Linear SVMs on frozen features, one for each class: VISSL's protocol for VOC07.

From VISSL's `vissl/utils/svm_utils/svm_trainer.py` and its configuration for VOC07
(`voc07/eval_resnet_8gpu_transfer_voc07_svm.yaml`): the last stage's maps in 2 x 2 windows, scaled
to norm 1; scikit-learn's LinearSVC with the squared hinge, L2, the dual, at most 2,000 iterations,
a tolerance of 1e-4 and positives that weigh twice as much; of a list of costs that with the best
mean average precision in three folds of the training images, for each class by itself. The mean
over classes of the average precision on the test images is told, by the rule `area`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

from pydantic import Field

from barlow_atlas.data.catalog import SQUASHED
from barlow_atlas.probes.state import State
from barlow_atlas.probes.targets import OfTargets
from barlow_atlas.settings.training import PositiveNumber

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Self

    import numpy as np
    from numpy.typing import NDArray
    from sklearn.svm import LinearSVC
    from torch import nn

    from barlow_atlas.data.prepared import Prepared
    from barlow_atlas.data.selection import Index
    from barlow_atlas.probes.average_precision import Numbers, Rule
    from barlow_atlas.probes.milestone import Labelled, Milestone
    from barlow_atlas.probes.subject import Subject

COSTS = (0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0)
ITERATIONS = 2000
TOLERANCE = 1e-4
POSITIVE_WEIGHT = 2
RULE: Rule = "area"
FEATURES = "last stage in 2 x 2 windows"


class SVM(OfTargets):
    """Linear SVMs on other data sets, one for each class; mean average precision.

    The defaults are VISSL's for VOC07. In its code, and in the protocol reference, an image that is
    uncertain of a class ("difficult") is trained on as one without it and not tested on; in the
    protocol clean it is left out of both. Data sets with one class an image are asked one class
    against all others.
    """

    name: ClassVar[str] = "svm"
    known = SQUASHED

    costs: Annotated[tuple[PositiveNumber, ...], Field(min_length=1, strict=False)] = COSTS
    folds: int = Field(3, ge=2, description="of the training images, to choose a cost in")

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(self.variant({"target": target}) for target in self.targets)

    @classmethod
    def variant(cls, settings: Mapping[str, Any]) -> str:
        return f"{settings['target']} mAP"

    @classmethod
    def setting(cls, settings: Mapping[str, Any]) -> str:
        costs = ", ".join(f"{cost:g}" for cost in settings["costs"])
        folds = (
            f" by {settings['folds']} folds for each class" if len(settings["costs"]) > 1 else ""
        )
        return (
            f"{cls.variant(settings)}: mean average precision ({settings['average_precision']}), "
            f"C of {costs}{folds}, positives x "
            f"{settings['positive_weight']}, {settings['feature']} of norm 1, difficult images "
            f"{settings['uncertain']}"
        )

    @classmethod
    def run(cls, asked: Sequence[Self], milestone: Milestone) -> Iterator[dict[str, Any]]:
        for svm in asked:
            for target, data_set in svm.named(milestone.subject):
                prepared = milestone.others[data_set.name]
                splits = splits_of(prepared, milestone.subject.protocol)
                yield from svm.answers(milestone, target, splits, prepared.manifest.classes)

    def answers(
        self,
        milestone: Milestone,
        target: str,
        splits: Mapping[str, Labelled],
        classes: Sequence[str],
    ) -> Iterator[dict[str, Any]]:
        """A record for each evaluated split of a target.

        Args:
            splits: "train", "test" and, in the clean protocol, "validation"; labels as
                `objects.presence` has them.

        Raises:
            ProbeError: too few images of a class to choose its cost.
        """
        import numpy as np
        from torch import nn

        from barlow_atlas.nn.networks import Network
        from barlow_atlas.probes.average_precision import class_precisions

        check(splits, classes, self.folds, target)
        there = replace(
            milestone,
            network=Network(seen_by_machines(milestone), nn.Identity()),
            splits=splits,
            classes=len(classes),
            subject=as_stored(milestone),
        )
        features = {split: unit(x.cpu().numpy()) for split, x in there.features.items()}
        clean = milestone.subject.protocol == "clean"
        fitted = self._fitted(milestone, target, features["train"], splits["train"].labels)
        settings = {
            "protocol": milestone.subject.protocol,
            "target": target,
            "classes": len(classes),
            "counts": {split: len(labelled.labels) for split, labelled in splits.items()},
            "image_size": milestone.subject.image_size,
            "costs": list(self.costs),
            "folds": self.folds,
            "chosen_costs": [each.cost for each in fitted],
            "positive_weight": POSITIVE_WEIGHT,
            "iterations": ITERATIONS,
            "tolerance": TOLERANCE,
            "average_precision": RULE,
            "uncertain": "left out" if clean else "trained on as negatives, not tested on",
            "feature": FEATURES if has_stages(milestone.subject) else "backbone",
        }
        for split in there.evaluated:
            scores = np.stack([each.scores(features[split]) for each in fitted], axis=1)
            precisions = class_precisions(scores, splits[split].labels, RULE)
            yield {
                "probe": self.name,
                "settings": settings,
                "split": split,
                "count": len(splits[split].labels),
                "map": 100 * float(np.nanmean(precisions)),
                "of_class": {
                    name: None if np.isnan(each) else 100 * float(each)
                    for name, each in zip(classes, precisions, strict=True)
                },
            }

    def _fitted(
        self, milestone: Milestone, target: str, features: Numbers, labels: Index
    ) -> list[Fitted]:
        """Each class's machine; ended after one, it goes on with the next."""
        import torch

        subject = milestone.subject
        told = f"{self.model_dump_json()} {target}"
        state = State(milestone.kept, milestone.device, f"svm-{target}", told, ())
        fitted = [
            Fitted(weights.cpu().numpy(), bias, cost)
            for weights, bias, cost in (state.resume() or {"fitted": []})["fitted"]
        ]
        for column in labels.T[len(fitted) :]:
            leave_out = subject.protocol == "clean"
            one = fit(features, column, self.costs, self.folds, subject.seed, leave_out)
            fitted.append(one)
            stored = [(torch.from_numpy(each.weights), each.bias, each.cost) for each in fitted]
            state.save({"done": len(fitted), "fitted": stored})
        return fitted


class Fitted(NamedTuple):
    """A class's machine, trained on all training images, and the cost that was chosen for it."""

    weights: Numbers
    """(f,)"""
    bias: float
    cost: float

    def scores(self, features: Numbers) -> Numbers:
        """Of features (n, f): above 0 where the class is thought to be present."""
        scores: Numbers = features @ self.weights + self.bias
        return scores


def fit(
    features: Numbers,
    labels: Index,
    costs: Sequence[float],
    folds: int,
    seed: int,
    leave_out: bool,
) -> Fitted:
    """The machine of one class, of the cost with the best mean average precision over the folds.

    Of equal ones the first cost is taken.

    Args:
        features: (n, f).
        labels: `PRESENT`, `UNCERTAIN` or `ABSENT`, (n,).
        seed: of the order in which the solver takes the images.
        leave_out: uncertain images, which otherwise count as absent.
    """
    import numpy as np
    from sklearn.model_selection import cross_val_score
    from sklearn.svm import LinearSVC

    from barlow_atlas.data.objects import ABSENT, PRESENT, UNCERTAIN

    used = labels != UNCERTAIN if leave_out else np.ones(len(labels), dtype=bool)
    features, wanted = features[used], np.where(labels[used] == PRESENT, PRESENT, ABSENT)

    def machine(cost: float) -> LinearSVC:
        return LinearSVC(
            C=cost,
            class_weight={PRESENT: POSITIVE_WEIGHT, ABSENT: 1},
            penalty="l2",
            loss="squared_hinge",
            dual=True,
            tol=TOLERANCE,
            max_iter=ITERATIONS,
            random_state=seed,
        )

    means = [0.0]
    if len(costs) > 1:
        means = [
            cross_val_score(
                machine(cost), features, wanted, cv=folds, scoring="average_precision"
            ).mean()
            for cost in costs
        ]
    cost = costs[int(np.argmax(means))]
    fitted = machine(cost).fit(features, wanted)
    return Fitted(fitted.coef_[0], float(fitted.intercept_[0]), cost)


def unit(features: NDArray[np.float32]) -> Numbers:
    """Features (n, f) scaled to norm 1, as float64; nought stays nought."""
    import numpy as np

    features = features.astype(np.float64)
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    scaled: Numbers = features / np.where(norms > 0, norms, 1)
    return scaled


def splits_of(prepared: Prepared, protocol: str) -> dict[str, Labelled]:
    """The parts of a prepared target: "train", "test", and in the clean protocol "validation",
    which is taken out of the training images.

    Labels are (n, classes): of a data set with one class an image, that one is present.
    """
    import numpy as np

    from barlow_atlas.probes.milestone import choose

    classes = len(prepared.manifest.classes)
    train, test = (
        presences(labels, classes) for labels in (prepared.train_labels, prepared.test_labels)
    )
    held_out = np.zeros(len(train), dtype=bool)
    if protocol == "clean":
        held_out[prepared.validation_index] = True
    splits = {
        "train": choose(prepared.train_images, train, np.flatnonzero(~held_out)),
        "test": choose(prepared.test_images, test, np.arange(len(test))),
    }
    if held_out.any():
        splits["validation"] = choose(prepared.train_images, train, np.flatnonzero(held_out))
    return splits


def presences(labels: Index, classes: int) -> Index:
    """Labels (n, classes) of one class an image (n,); others as they are."""
    import numpy as np

    from barlow_atlas.data.objects import ABSENT, PRESENT

    if labels.ndim == 2:
        return labels
    return np.where(labels[:, None] == np.arange(classes), PRESENT, ABSENT).astype(np.int64)


def check(splits: Mapping[str, Labelled], classes: Sequence[str], folds: int, target: str) -> None:
    """Raises ProbeError unless every class can be trained in every fold, and something be found."""
    import numpy as np

    from barlow_atlas.data.objects import ABSENT, PRESENT
    from barlow_atlas.probes.milestone import ProbeError

    title = SQUASHED[target].title
    for what, mark in (("with", PRESENT), ("without", ABSENT)):
        counts = np.count_nonzero(splits["train"].labels == mark, axis=0)
        few = [f"{classes[k]} ({counts[k]})" for k in np.flatnonzero(counts < folds).tolist()]
        if few:
            raise ProbeError(
                f"{title}: {folds} folds need as many training images {what} each class, too few "
                f"are there of {', '.join(few[:5])}: lower probes.svm.folds, or take another target"
            )
    for split, labelled in splits.items():
        if not (labelled.labels == PRESENT).any():
            raise ProbeError(f"{title}: no image of {split} holds any class: prepare it anew")


def has_stages(subject: Subject) -> bool:
    """Whether the backbone is torchvision's, or `small`; others are seen by their output."""
    return subject.backbone.timm is None


def seen_by_machines(milestone: Milestone) -> nn.Module:
    """From images to features (n, f); its modules stay the backbone's."""
    from torch import nn

    from barlow_atlas.nn.maps import last_maps

    backbone = milestone.network.backbone
    if not has_stages(milestone.subject):
        return backbone
    return nn.Sequential(last_maps(backbone), nn.Flatten())


def as_stored(milestone: Milestone) -> Subject:
    """The subject with an evaluation transform that only normalises, as by its own recipe: images
    are stored at the network's size."""
    subject = milestone.subject
    recipe = subject.recipe.model_copy(update={"evaluation_resize": None})
    return subject.model_copy(update={"recipe": recipe})
