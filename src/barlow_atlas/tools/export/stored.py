"""What is stored of a study, as far as an export takes it along."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from barlow_atlas.atlas.curves import mean_curves
from barlow_atlas.atlas.frames import probe_table
from barlow_atlas.atlas.records import Content, Stretch, contents, current, recorded
from barlow_atlas.atlas.runs import content_of, runs_table
from barlow_atlas.data.prepared import MANIFEST, Manifest
from barlow_atlas.errors import AtlasError
from barlow_atlas.study.file import files_of, study_file
from barlow_atlas.study.models import ForeignRun, Run, Study
from barlow_atlas.study.paths import (
    ANALYSED,
    DATA,
    PARAMS,
    REPORTED,
    REPORTS,
    RESULTS,
    is_kept,
    manifest_file,
    probe_file,
    probed_milestone,
    record_file,
    training_file,
)


class StoredError(AtlasError):
    """A stored file that is not what its place says."""


@dataclass(frozen=True)
class Stored:
    """A study and its files, from the repository's root.

    Attributes:
        name: as the study's file in `params/`.
    """

    name: str
    study: Study

    @property
    def parameters(self) -> list[Path]:
        """The study's file and those that it builds on."""
        return files_of(study_file(PARAMS, self.name))

    @property
    def planned(self) -> dict[str, tuple[int, ...]]:
        """Each run's name and the milestones it is to have."""
        return {run.name: self.study.milestones_of(run) for run in self.study.runs()}

    def record(self, run: Run | ForeignRun) -> Path:
        """Where a run's record lies."""
        return record_file(self.name, run.name)

    @property
    def shown(self) -> list[Path]:
        """Of tables, figures and page those that are kept; all that there are to be."""
        made = [
            *(RESULTS / self.name / table for table in ANALYSED),
            *(REPORTS / self.name / file for file in REPORTED),
        ]
        return [path for path in made if is_kept(path)]

    @cached_property
    def missing(self) -> list[Path]:
        """What a finished study has, and this one has not: what jobs write, and what is shown.

        Raises:
            RecordError: a record is damaged.
        """
        lacking = []
        for run in self.study.runs():
            known = recorded(self.name, run)
            for epoch in self.study.milestones_of(run):
                if epoch not in known.milestones:
                    lacking.append(probe_file(self.name, run, epoch))
                if isinstance(run, Run) and Stretch(epoch) not in known.training:
                    lacking.append(training_file(self.name, run.name, epoch))
        return [*lacking, *(path for path in self.shown if not path.is_file())]

    def manifests(self, run: Run | ForeignRun) -> list[Path]:
        """The manifests of a run's checkpoints that are here; they are stored with the weights."""
        paths = [
            manifest_file(self.name, run.name, epoch, cooled)
            for cooled in (False, True)
            for epoch in self.study.milestones_of(run)
        ]
        return [path for path in paths if path.is_file()]

    @cached_property
    def contents(self) -> list[Content]:
        """The milestones that are recorded, in the order of runs and epochs.

        Raises:
            StoredError: one was made with other parameters than the study has.
            RecordError: a record is damaged.
        """
        milestones = contents(self.name, self.study)
        runs = {run.name: run for run in self.study.runs()}
        for content in milestones:
            _check_parameters(content, runs[content["name"]])
        return milestones

    @cached_property
    def runs(self) -> pd.DataFrame:
        """How each run was made, as `runs_table` says it."""
        return runs_table(self.planned, self.contents)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Means over seeds, as `mean_curves` gives them."""
        return mean_curves(probe_table(self.contents))

    @property
    def images(self) -> dict[Path, Manifest]:
        """The manifests of prepared images that are here, the study's own and those of transfer."""
        paths = [DATA / data_set.name / MANIFEST for data_set in self.study.data_sets()]
        return {
            path: Manifest.model_validate_json(path.read_bytes())
            for path in paths
            if path.is_file()
        }

    @property
    def own_images(self) -> Path:
        """Where the manifest of the pre-training images lies."""
        return DATA / self.study.data.name / MANIFEST

    def milestone(self, run: Run | ForeignRun, epoch: int | None = None) -> Content:
        """What was found at a milestone, else its manifest in that form; by default the last.

        Raises:
            StoredError: there is neither, or it was made with other parameters.
            RecordError: the record or a probe file is damaged.
        """
        known = current(self.name, self.study, run).milestones
        epochs: Iterable[int] = self.study.milestones_of(run) if epoch is None else (epoch,)
        for wanted in reversed(tuple(epochs)):
            if wanted in known:
                _check_parameters(known[wanted], run)
                return known[wanted]
            manifest = probed_milestone(self.name, run, wanted)
            if manifest.is_file():
                return content_of(json.loads(manifest.read_text()))
        asked = "any milestone" if epoch is None else f"epoch {epoch}"
        raise StoredError(
            f"neither a result nor a manifest of {run.name} at {asked} is here. Milestones: "
            f"{', '.join(map(str, self.study.milestones_of(run)))}. Run `snakemake --profile "
            f"profiles/local --config study={self.name} -- all`"
        )


def _check_parameters(content: Content, run: Run | ForeignRun) -> None:
    if content["run"] != run.model_dump(mode="json"):
        raise StoredError(
            f"{content['name']}, epoch {content['epoch']}, was made with other parameters than the "
            "study now has. Run the study again, or check out its parameters of then"
        )
