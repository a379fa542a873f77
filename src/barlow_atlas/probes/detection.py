"""Detection: a detector on a milestone's backbone, trained on annotated objects as a whole.

Barlow Twins' evaluation on VOC07+12 and COCO (arXiv:2103.03230, table 4 and appendix), which
follows MoCo's: `nn/detection.py` says what is trained, docs/objects.md where it departs. In the
protocol reference all training images are trained on, in the protocol clean a tenth is held out and
evaluated as validation. Nothing is chosen in either.

Several processes may train a detector before one evaluates it: it goes on from what they leave.
"""

from __future__ import annotations

import copy
import functools
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BeforeValidator, model_validator

from barlow_atlas.data.catalog import WITH_OBJECTS
from barlow_atlas.probes import state
from barlow_atlas.probes.base import Probe
from barlow_atlas.settings.detection import (
    COCO_1X,
    COCO_C4,
    SMALL,
    VOC_24K,
    Detector,
    DetectorTraining,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Self

    from torch import Tensor

    from barlow_atlas.data.catalog import DataSet
    from barlow_atlas.data.objects import Annotations, Found, Objects
    from barlow_atlas.data.originals import Originals
    from barlow_atlas.data.prepared import Prepared, StoredImages
    from barlow_atlas.data.selection import Index
    from barlow_atlas.nn.detection import Target
    from barlow_atlas.probes.average_precision import Rule
    from barlow_atlas.probes.coco import Kind
    from barlow_atlas.probes.milestone import Milestone
    from barlow_atlas.probes.subject import Subject

TargetName = Literal["voc0712", "coco"]
PUBLISHED = {"voc0712": (Detector(), VOC_24K), "coco": (COCO_C4, COCO_1X)}
VOC_RULES: dict[str, Rule] = {"11-point": "11-point", "area": "area"}
"""The first is detectron2's for VOC 2007, which the papers report."""
KINDS: dict[str, Kind] = {"boxes": "bbox", "masks": "segm"}
"""How COCO's numbers are called here -> as pycocotools has them."""
PRECISIONS = {"AP": "ap", "AP50": "ap50", "AP75": "ap75"}
"""What the papers report -> as metrics call it."""
OVERLAPS = {
    "AP": "overlaps of 0.5 to 0.95",
    "AP50": "an overlap of 0.5",
    "AP75": "an overlap of 0.75",
}


def never() -> bool:
    """No wish to stop."""
    return False


def _small_by_name(value: Any) -> Any:
    return SMALL if value == "small" else value


class Detection(Probe):
    """Faster or Mask R-CNN, trained from a milestone's backbone; average precision.

    What a study leaves out of `detector` and `training` has the published value of the target:
    ResNet-50 C4 with 24k iterations on VOC07+12, or with masks and 90k (1x) on COCO.
    """

    name: ClassVar[str] = "detection"
    of_processes: ClassVar[bool] = True

    target: TargetName
    detector: Annotated[
        Detector,
        BeforeValidator(_small_by_name, json_schema_input_type=Literal["small"] | Detector),
    ] = PUBLISHED["voc0712"][0]
    training: DetectorTraining = PUBLISHED["voc0712"][1]

    @model_validator(mode="before")
    @classmethod
    def _published_values(cls, value: Any) -> Any:
        if not isinstance(value, dict) or value.get("target") not in PUBLISHED:
            return value
        published = zip(("detector", "training"), PUBLISHED[value["target"]], strict=True)
        given = {name: (value.get(name, {}), settings.model_dump()) for name, settings in published}
        whole = {k: left | told for k, (told, left) in given.items() if isinstance(told, dict)}
        return value | whole

    @model_validator(mode="after")
    def _masks_are_annotated(self) -> Detection:
        if self.detector.masks and self.target == "voc0712":
            raise ValueError("voc0712 has no masks: leave `masks` out, or take the target coco")
        return self

    def fault_of_run(self, run: Subject) -> str | None:
        if run.backbone.timm is not None:
            return (
                f"detection takes a backbone apart by a ResNet's stages, and {run.backbone.name} "
                "is not torchvision's: take one of its ResNets or `small`, or leave the probe out"
            )
        if run.backbone.name == "small" and self.detector.form == "fpn":
            return "detection: the form fpn needs a ResNet's stages: with `small` take the form c4"
        return None

    def fault_of_processes(self, count: int) -> str | None:
        size = self.training.batch_size
        if size % count == 0:
            return None
        return (
            f"{count} processes cannot share probes.detection.training.batch_size {size} evenly: "
            "let resources.probe ask for a number that divides it"
        )

    def data_sets(self, image_size: int) -> tuple[DataSet, ...]:
        return (WITH_OBJECTS[self.target],)

    @property
    def measures(self) -> tuple[str, ...]:
        """Which average precisions are told: of VOC by two rules, of COCO of boxes and masks."""
        if self.target == "voc0712":
            return tuple(VOC_RULES)
        return tuple(KINDS) if self.detector.masks else ("boxes",)

    @property
    def variants(self) -> tuple[str, ...]:
        told = self.model_dump()
        return tuple(
            self.variant({**told, "measure": measure, "precision": precision})
            for measure in self.measures
            for precision in PRECISIONS
        )

    @classmethod
    def variant(cls, settings: Mapping[str, Any]) -> str:
        """Such as `voc0712 c4 24000 11-point AP` or `coco c4 90000 masks AP75`."""
        form, iterations = settings["detector"]["form"], settings["training"]["iterations"]
        told = f"{settings['measure']} {settings['precision']}"
        return f"{settings['target']} {form} {iterations} {told}"

    @classmethod
    def setting(cls, settings: Mapping[str, Any]) -> str:
        training, sides = settings["training"], settings["detector"]["short_sides"]
        drops = " and ".join(str(each) for each in training["drops"])
        return (
            f"{cls.variant(settings)}: AP at {OVERLAPS[settings['precision']]}, "
            f"{training['iterations']} iterations of {training['batch_size']} images, rate "
            f"{training['learning_rate']:g}{f' x 0.1 at {drops}' if drops else ''}, shorter side "
            f"{' to '.join(str(side) for side in sorted({sides[0], sides[-1]}))}, whole network"
        )

    @classmethod
    def run(cls, asked: Sequence[Self], milestone: Milestone) -> Iterator[dict[str, Any]]:
        for detection in asked:
            prepared = milestone.others[WITH_OBJECTS[detection.target].name]
            yield from detection.answers(milestone, prepared)

    def answers(self, milestone: Milestone, prepared: Prepared) -> Iterator[dict[str, Any]]:
        """A record for each measure, each of `PRECISIONS` and each evaluated split.

        Raises:
            ProbeError: as `_trainable`, or a training that diverges.
        """
        training, splits = self._trainable(milestone, prepared)
        training.finish()
        training.settle_norms()
        classes = len(prepared.manifest.classes)
        told = self.model_dump(mode="json") | {
            "protocol": milestone.subject.protocol,
            "classes": classes,
            "counts": {name: len(split.rows) for name, split in splits.items()},
            "training_images": "flipped, with objects only",
            "optimizer": "sgd, momentum 0.9",
            "feature": "whole network",
            "batch_norm": "batch statistics while training, then their mean",
        }
        for name in ("validation", "test"):
            if name not in splits:
                continue
            truth = [splits[name].objects[row] for row in splits[name].rows.tolist()]
            detections = list(training.detections(splits[name]))
            for measure in self.measures:
                found = self._precisions(measure, truth, detections, classes)
                of_sizes = {k: v for k, v in found.items() if k not in PRECISIONS.values()}
                for precision, metric in PRECISIONS.items():
                    yield {
                        "probe": self.name,
                        "settings": {**told, "measure": measure, "precision": precision},
                        "split": name,
                        "count": len(truth),
                        **({"ap": found[metric]} if metric in found else {}),
                        **(of_sizes if precision == "AP" else {}),
                    }

    def train(self, milestone: Milestone, stop: Callable[[], bool]) -> bool:
        """Trains the detector, with the other processes, as far as `answers` goes on from there.

        Args:
            stop: whether this process was asked to.

        Returns:
            Whether it came to the end; if not, how far it came is stored.

        Raises:
            ProbeError: as `answers`, or a batch that the processes cannot share.
            Divergence: processes whose detectors should be equal and are not.
            PeerLost: another process does not answer any more.
        """
        from barlow_atlas.nn import processes
        from barlow_atlas.probes.milestone import ProbeError

        if fault := self.fault_of_processes(processes.count()):
            raise ProbeError(fault)
        prepared = milestone.others[WITH_OBJECTS[self.target].name]
        training, _ = self._trainable(milestone, prepared)
        return training.finish(stop)

    def _trainable(
        self, milestone: Milestone, prepared: Prepared
    ) -> tuple[_Training, dict[str, Split]]:
        """The detector of a milestone, not trained further yet, and the parts of its data.

        Raises:
            ProbeError: parts without objects, a backbone without the form's stages, or no
                pycocotools where it is needed.
        """
        if self.target == "coco":
            from barlow_atlas.probes.coco import check_installed

            check_installed()
        splits = splits_of(prepared, milestone.subject.protocol)
        check(splits, prepared.manifest.title)
        classes = len(prepared.manifest.classes)
        return _Training(self, milestone, splits["train"], classes), splits

    def _precisions(
        self, measure: str, truth: Sequence[Objects], detections: Sequence[Found], classes: int
    ) -> dict[str, float]:
        """Percent; what is not defined, as of a size that no object has, is left out."""
        from barlow_atlas.probes.average_precision import voc_metrics
        from barlow_atlas.probes.coco import coco_metrics

        if self.target == "coco":
            metrics = coco_metrics(truth, detections, classes, KINDS[measure])
        else:
            metrics = voc_metrics(truth, detections, classes, VOC_RULES[measure])
        return {name: value for name, value in metrics.items() if not math.isnan(value)}


class Split(NamedTuple):
    """Images of a part, encoded, with what is annotated in each, and those that are chosen (n,)."""

    images: Originals
    objects: Annotations
    rows: Index


def splits_of(prepared: Prepared, protocol: str) -> dict[str, Split]:
    """The parts: "train", without images in which nothing is to be learnt, "test", and in the clean
    protocol "validation", which is taken out of the training images."""
    import numpy as np

    train = _annotated(prepared.train_images, prepared.train_objects)
    test = _annotated(prepared.test_images, prepared.test_objects)
    _, objects = train
    held_out = np.zeros(len(objects), dtype=bool)
    if protocol == "clean":
        held_out[prepared.validation_index] = True
    learnt = [k for k in np.flatnonzero(~held_out).tolist() if (~objects[k].crowd).any()]
    splits = {
        "train": Split(*train, np.array(learnt, dtype=np.int64)),
        "test": Split(*test, np.arange(len(prepared.test_labels), dtype=np.int64)),
    }
    if held_out.any():
        splits["validation"] = Split(*train, np.flatnonzero(held_out))
    return splits


def _annotated(images: StoredImages, objects: Annotations | None) -> tuple[Originals, Annotations]:
    """A part of a data set that was prepared with its objects."""
    from barlow_atlas.data.originals import Originals

    assert isinstance(images, Originals)
    assert objects is not None
    return images, objects


def check(splits: Mapping[str, Split], title: str) -> None:
    """Raises ProbeError unless every part has an object that is to be found."""
    from barlow_atlas.probes.milestone import ProbeError

    for name, split in splits.items():
        objects = (split.objects[row] for row in split.rows.tolist())
        if not any((~one.crowd & ~one.difficult).any() for one in objects):
            raise ProbeError(
                f"{title}: no image of {name} has an object that is to be found: prepare it anew"
            )


class _Training:
    """A detector on a copy of a milestone's backbone, and how far it is trained.

    Ended after an iteration, it goes on to the same numbers; see `state`.
    """

    def __init__(
        self, settings: Detection, milestone: Milestone, split: Split, classes: int
    ) -> None:
        import torch

        from barlow_atlas.nn.detection import detector, sgd
        from barlow_atlas.nn.randomness import generator
        from barlow_atlas.probes.milestone import ProbeError

        subject = milestone.subject
        self.settings, self.split, self.device = settings, split, milestone.device
        self.draws = functools.partial(generator, subject.seed, "detection")
        backbone = copy.deepcopy(milestone.network.backbone)
        recipe = subject.recipe
        try:
            model = detector(
                settings.detector, backbone, classes, recipe.mean, recipe.std, self.draws("weights")
            )
        except ValueError as error:
            raise ProbeError(f"probes.detection.detector: {error}") from error
        self.model = model.to(milestone.device)
        self.optimizer = sgd(self.model, settings.training)
        parts = self.model, self.optimizer
        self.state = state.State(
            milestone.kept, milestone.device, "detection", settings.model_dump_json(), parts
        )
        self.threads = torch.get_num_threads()
        self.order = functools.lru_cache(2)(self._order)

    def finish(self, stop: Callable[[], bool] = never) -> bool:
        """Trains what is left of all iterations, or until one of the processes is to stop.

        Returns:
            Whether it came to the end.
        """
        import torch

        from barlow_atlas.nn import processes
        from barlow_atlas.nn.detection import train
        from barlow_atlas.probes.milestone import ProbeError

        stored = self.state.resume()
        first = stored["done"] if stored else 0
        processes.must_be_equal({"number of iterations done": torch.tensor(first)})
        processes.must_be_equal(self._parts())
        with self._pool() as pool:
            steps = train(
                self.model,
                self.optimizer,
                self.settings.training,
                functools.partial(self._batch, pool),
                functools.partial(self.draws, "iteration"),
                first,
            )
            for done, losses in steps:
                if not all(map(math.isfinite, losses.values())):
                    told = ", ".join(f"{name} {loss:g}" for name, loss in losses.items())
                    raise ProbeError(
                        f"the detector diverged in iteration {done}: {told}. Lower "
                        "probes.detection.training.learning_rate, or make warmup longer"
                    )
                last = done == self.settings.training.iterations
                stopped, due = processes.any_of(stop(), processes.leads() and self._is_due())
                if stopped or due or last:
                    self._save(done)
                if stopped and not last:
                    return False
        return True

    def settle_norms(self) -> None:
        """Gives the trained detector the running statistics that it is evaluated with."""
        from barlow_atlas.nn.detection import settle_norms

        with self._pool() as pool:
            settle_norms(
                self.model,
                self.settings.training,
                functools.partial(self._batch, pool),
                functools.partial(self.draws, "iteration"),
            )

    def _pool(self) -> ThreadPoolExecutor:
        """Threads that read images."""
        import torch

        single = functools.partial(torch.set_num_threads, 1)
        return ThreadPoolExecutor(self.threads, "images", initializer=single)

    def _is_due(self) -> bool:
        return time.monotonic() - self.state.saved >= state.SAVED_EVERY

    def _save(self, done: int) -> None:
        """Stores how far all processes are, if the milestone has a folder: the first one does."""
        from barlow_atlas.nn import processes

        processes.must_be_equal(self._parts())
        if processes.leads():
            self.state.saved = -math.inf  # they have agreed that it is time
            self.state.save({"done": done})

    def _parts(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self.state.parts]

    def detections(self, split: Split) -> Iterator[Found]:
        """What is found in each chosen image."""
        import torch

        from barlow_atlas.nn.detection import found_in

        self.model.eval()
        with torch.inference_mode():
            for row in split.rows.tolist():
                (output,) = self.model([image_of(split, row).to(self.device)])
                yield found_in(output)

    def _batch(self, pool: ThreadPoolExecutor, iteration: int) -> tuple[list[Tensor], list[Target]]:
        """This process' images and targets of an iteration: pass after pass over all images, each
        shuffled."""
        import torch

        from barlow_atlas.nn import processes

        size, count = self.settings.training.batch_size, len(self.split.rows)
        own = processes.own_rows(size)
        places = range(iteration * size, (iteration + 1) * size)[own]
        rows = [self.order(place // count)[place % count] for place in places]
        turned = torch.rand(size, generator=self.draws("flips", iteration)) < 0.5
        examples = list(pool.map(self._example, rows, turned[own].tolist()))
        images = [image.to(self.device) for image, _ in examples]
        targets = [{k: x.to(self.device) for k, x in target.items()} for _, target in examples]
        return images, targets

    def _order(self, number: int) -> list[int]:
        """The rows of the chosen images in the order of a pass over all of them."""
        import torch

        order = torch.randperm(len(self.split.rows), generator=self.draws("order", number))
        rows: list[int] = self.split.rows[order.numpy()].tolist()
        return rows

    def _example(self, row: int, turned: bool) -> tuple[Tensor, Target]:
        from barlow_atlas.nn.detection import flipped, target_of

        image = image_of(self.split, row)
        target = target_of(self.split.objects[row], self.settings.detector.masks)
        return flipped(image, target) if turned else (image, target)


def image_of(split: Split, row: int) -> Tensor:
    """An image (3, H, W), float32 between 0 and 1."""
    import torch

    from barlow_atlas.data.loader import decode

    return decode(torch.from_numpy(split.images.encoded(row))).float() / 255
