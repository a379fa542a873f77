"""How many images a study's runs and probes see, before or after they are prepared, and whether
they are enough. Loads numpy only where a data set is prepared.
"""

import functools
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from barlow_atlas.data.catalog import Counts, DataSet
from barlow_atlas.errors import AtlasError
from barlow_atlas.probes.fine_tuned import FineTuned
from barlow_atlas.probes.knn import KNN
from barlow_atlas.study.errors import StudyError
from barlow_atlas.study.models import ForeignRun, Run, Study
from barlow_atlas.study.paths import DATA, data_manifest

if TYPE_CHECKING:
    from barlow_atlas.data.prepared import Manifest

LABEL_BYTES = 8
SIGNALS_NEED = 2
"""Images of each split that the label-free signals are computed on."""


class UnknownImages(AtlasError):
    """Numbers of images that cannot be told; the message says why and what to do."""


@dataclass(frozen=True)
class Sizes:
    """Numbers of images of a data set that a run and its probes see; no validation: 0."""

    pretraining: int
    probe_training: int
    validation: int
    test: int
    classes: int
    stored_size: int | None
    """Pixels a side; None where images are stored as their files have them."""

    @property
    def probed(self) -> int:
        """Those that the probes of a milestone look at."""
        return self.probe_training + self.validation + self.test


def sizes_of(study: Study, run: Run | ForeignRun) -> Sizes:
    """The numbers of images behind a run."""
    data_set, *_ = study.data_sets()
    return _sizes(data_set, run.protocol, run.data.fraction)


def target_sizes(study: Study) -> tuple[Sizes, ...]:
    """The numbers of images of the data sets that probes look at beside the study's."""
    _, *targets = study.data_sets()
    return tuple(_sizes(target, study.protocol, 1.0) for target in targets)


@functools.cache
def _sizes(data_set: DataSet, protocol: str, fraction: float) -> Sizes:
    """Of the prepared data set if it is here, else of the catalog's facts."""
    known = counted(data_set)
    counts, held_out = known.counts, known.held_out if protocol == "clean" else 0
    labelled = round(fraction * (counts.train - held_out))
    return Sizes(
        pretraining=labelled + round(fraction * counts.unlabeled),
        probe_training=labelled,
        validation=held_out,
        test=counts.test,
        classes=known.classes,
        stored_size=data_set.image_size,
    )


@dataclass(frozen=True)
class Counted:
    """Images of a data set by part, those of the hold-out among the train part, and by class.

    Attributes:
        per_class: of the train part without the hold-out.
        held_out_per_class: of the hold-out.
    """

    counts: Counts
    held_out: int
    per_class: tuple[int, ...]
    held_out_per_class: tuple[int, ...]

    @property
    def classes(self) -> int:
        return len(self.per_class)


def counted(data_set: DataSet) -> Counted:
    """What the manifest says if the data set is prepared, else the catalog.

    The catalog's parts are taken as balanced: of a class it knows no number.

    Raises:
        UnknownImages: nothing is prepared and the catalog does not know, or what is is damaged.
    """
    prepared = data_manifest(data_set.name)
    if prepared.is_file():
        return _prepared(prepared)
    if data_set.counts is None or data_set.classes is None:
        raise UnknownImages(
            f"how many images {data_set.name} has is known only once it is prepared; run "
            f"`prepare-data --data {data_set.name}` with this study first"
        )
    held_out = round(data_set.validation_share * data_set.counts.train)
    return Counted(
        data_set.counts,
        held_out,
        _balanced(data_set.counts.train - held_out, data_set.classes),
        _balanced(held_out, data_set.classes),
    )


def _balanced(images: int, classes: int) -> tuple[int, ...]:
    each, more = divmod(images, classes)
    return tuple(each + (label < more) for label in range(classes))


def _manifest(file: Path) -> "Manifest":
    from barlow_atlas.data.prepared import Manifest

    try:
        return Manifest.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise UnknownImages(
            f"{file} is damaged: remove {file.parent}, or `dvc checkout` it"
        ) from error


def _prepared(file: Path) -> Counted:
    manifest = _manifest(file)
    held_out = manifest.validation.per_class
    return Counted(
        Counts(
            train=manifest.train.images,
            test=manifest.test.images,
            unlabeled=manifest.unlabeled.images if manifest.unlabeled else 0,
        ),
        manifest.validation.images,
        tuple(map(operator.sub, manifest.train.per_class or (), held_out)),
        held_out,
    )


def check_sizes(name: str, study: Study) -> None:
    """Refuses what cannot work with the images there are, before any job; unknown is no fault.

    Raises:
        StudyError: with one line for each thing that cannot work.
    """
    data_set, *_ = study.data_sets()
    try:
        known = counted(data_set)
    except UnknownImages:
        return
    faults = dict.fromkeys(fault for run in study.runs() for fault in _faults(study, run, known))
    if data_manifest(data_set.name).is_file():
        faults |= dict.fromkeys(
            f"probes.fine_tuned.labels = {name}: {data_set.name} was prepared without this list: "
            f"put {name}.txt beside the images' files, remove {DATA / data_set.name} and prepare "
            "it again"
            for name in unlisted(study)
        )
    if faults:
        raise StudyError("\n".join(f"{name}: {fault}" for fault in faults))


def _faults(study: Study, run: Run | ForeignRun, known: Counted) -> Iterator[str]:
    """What cannot work of a run and its probes with the images of its data set."""
    sizes, data = sizes_of(study, run), f"{run.data.name} (fraction {run.data.fraction:g})"
    if isinstance(run, Run) and run.batch_size > sizes.pretraining:
        yield (
            f"{run.method}: batch_size = {run.batch_size} is more than the {sizes.pretraining:,} "
            f"images of {data} that are trained on: lower it, or raise data.fraction"
        )
    most = max((probe.k for probe in study.probes.asked() if isinstance(probe, KNN)), default=0)
    if most > sizes.probe_training:
        yield (
            f"{run.method}: probes.knn.k = {most} is more than the {sizes.probe_training:,} "
            f"labelled training images of {data}: lower it, or raise data.fraction"
        )
    clean = run.protocol == "clean"
    per_class = known.per_class
    if not clean:
        per_class = tuple(map(operator.add, per_class, known.held_out_per_class))
    if sizes.probe_training < max(SIGNALS_NEED, needed(per_class)):
        yield (
            f"{run.method}: the {sizes.probe_training:,} labelled training images of {data} do not "
            f"hold each of its {known.classes} classes: raise data.fraction or add images"
        )
    held_out = known.held_out_per_class
    if clean and (sizes.validation < SIGNALS_NEED or 0 in held_out):
        yield (
            f"{run.method}: the hold-out of {run.data.name} has {sizes.validation:,} images and "
            f"none of {held_out.count(0)} of its {known.classes} classes, where the protocol clean "
            f"needs {SIGNALS_NEED} and one of each: add images and prepare them again, or take "
            "`protocol: reference`"
        )


def unlisted(study: Study) -> tuple[str, ...]:
    """The published lists of labels that probes ask and that the study's images come without.

    As the prepared images have them, else as lie beside the files that they will be made from.
    """
    asked = (probe.labels for probe in study.probes.asked() if isinstance(probe, FineTuned))
    wanted = dict.fromkeys(labels for labels in asked if isinstance(labels, str))
    if wanted and data_manifest(study.data.name).is_file():
        from barlow_atlas.data.prepared import LabelLists

        there = LabelLists.of(DATA / study.data.name).files
        return tuple(name for name in wanted if name not in there)
    beside = Path(study.data.path or "").expanduser()
    return tuple(name for name in wanted if not (beside / f"{name}.txt").is_file())


def needed(per_class: tuple[int, ...]) -> int:
    """The least number of images, taken as `selection.stratified_order` takes them, that may hold
    every class: all that come before the rarest class's first image, which stands at half a part
    of one in its number, and those of its kind.
    """
    rarest = min(per_class)
    if rarest == 0:
        return sum(per_class) + 1
    before = sum(-((rarest - number) // (2 * rarest)) for number in per_class)
    return before + per_class.count(rarest)


def data_bytes(study: Study) -> int:
    """Bytes of the prepared files; of stored squares, whether they are here or not.

    Raises:
        UnknownImages: originals are not prepared.
    """
    total = 0
    for data_set in study.data_sets():
        counts = counted(data_set).counts
        images = counts.train + counts.test + counts.unlabeled
        if data_set.image_size is None:
            folder = DATA / data_set.name
            if not folder.is_dir():
                raise UnknownImages(
                    f"how much room {data_set.name} takes is known only once it is prepared; run "
                    f"`prepare-data --data {data_set.name}` with this study first"
                )
            total += sum(file.stat().st_size for file in folder.iterdir())
        else:
            total += images * (3 * data_set.image_size**2 + LABEL_BYTES)
    return total
