"""How many images a study's runs and probes see, before or after they are prepared."""

import functools
from dataclasses import dataclass

from pydantic import ValidationError

from barlow_atlas.data.catalog import Counts, DataSet
from barlow_atlas.data.prepared import MANIFEST, Manifest
from barlow_atlas.errors import AtlasError
from barlow_atlas.study.models import ForeignRun, Run, Study
from barlow_atlas.study.paths import DATA

LABEL_BYTES = 8


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
    stored_size: int
    """Pixels a side."""

    @property
    def probed(self) -> int:
        """Those that the probes of a milestone look at."""
        return self.probe_training + self.validation + self.test


def sizes_of(study: Study, run: Run | ForeignRun) -> Sizes:
    """The numbers of images behind a run."""
    own, *_ = study.data_sets()
    return _sizes(own, run.protocol, run.data.fraction)


def target_sizes(study: Study) -> tuple[Sizes, ...]:
    """The numbers of images of the data sets that probes look at beside the study's."""
    _, *targets = study.data_sets()
    return tuple(_sizes(target, study.protocol, 1.0) for target in targets)


@functools.cache
def _sizes(data_set: DataSet, protocol: str, fraction: float) -> Sizes:
    """Of the prepared data set if it is here, else of the catalog's facts."""
    counts, held_out, classes = counts_of(data_set)
    held_out = held_out if protocol == "clean" else 0
    labelled = round(fraction * (counts.train - held_out))
    return Sizes(
        pretraining=labelled + round(fraction * counts.unlabeled),
        probe_training=labelled,
        validation=held_out,
        test=counts.test,
        classes=classes,
        stored_size=data_set.image_size,
    )


def counts_of(data_set: DataSet) -> tuple[Counts, int, int]:
    """Images by part, those of the hold-out among the train part, and classes.

    Raises:
        UnknownImages: nothing is prepared and the catalog does not know, or what is is damaged.
    """
    prepared = DATA / data_set.name / MANIFEST
    if prepared.is_file():
        try:
            manifest = Manifest.model_validate_json(prepared.read_bytes())
        except ValidationError as error:
            raise UnknownImages(
                f"{prepared} is damaged: remove {prepared.parent}, or `dvc checkout` it"
            ) from error
        counts = Counts(
            train=manifest.train.images,
            test=manifest.test.images,
            unlabeled=manifest.unlabeled.images if manifest.unlabeled else 0,
        )
        return counts, manifest.validation.images, len(manifest.classes)
    if data_set.counts is None or data_set.classes is None:
        raise UnknownImages(
            f"how many images {data_set.name} has is known only once it is prepared; run "
            f"`prepare-data --data {data_set.name}` with this study first"
        )
    held_out = round(data_set.validation_share * data_set.counts.train)
    return data_set.counts, held_out, data_set.classes


def data_bytes(study: Study) -> int:
    """Bytes of the prepared arrays, whether they are here or not."""
    total = 0
    for data_set in study.data_sets():
        counts, _, _ = counts_of(data_set)
        images = counts.train + counts.test + counts.unlabeled
        total += images * (3 * data_set.image_size**2 + LABEL_BYTES)
    return total
