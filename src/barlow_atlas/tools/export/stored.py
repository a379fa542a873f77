"""What is stored of a study, as far as an export takes it along."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from barlow_atlas.atlas.runs import content_of, runs_table
from barlow_atlas.data.prepared import MANIFEST, Manifest
from barlow_atlas.errors import AtlasError
from barlow_atlas.study.file import files_of, study_file
from barlow_atlas.study.models import ForeignRun, Run, Study
from barlow_atlas.study.paths import (
    ANALYSED,
    COLLECTED,
    COOLED,
    DATA,
    PARAMS,
    REPORTED,
    REPORTS,
    RESULTS,
    milestone_path,
    of_run,
    probe_file,
    probed_milestone,
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

    @property
    def probe_files(self) -> list[Path]:
        """All that there are to be."""
        return [
            probe_file(self.name, run, epoch)
            for run in self.study.runs()
            for epoch in self.study.milestones_of(run)
        ]

    @property
    def shown(self) -> list[Path]:
        """Tables, figures and page; all that there are to be."""
        return [
            *(RESULTS / self.name / table for table in (*COLLECTED, *ANALYSED)),
            *(REPORTS / self.name / file for file in REPORTED),
        ]

    @cached_property
    def missing(self) -> list[Path]:
        """What a finished study has in `results/` and `reports/`, and this one has not."""
        training = [
            milestone_path(of_run("training", self.name, run.name), epoch, ".jsonl")
            for run in self.study.trained()
            for epoch in self.study.milestones_of(run)
        ]
        wanted = [*self.probe_files, *training, *self.shown]
        return [path for path in wanted if not path.is_file()]

    def training(self, run: Run | ForeignRun) -> list[Path]:
        """The files of a run's training metrics that are here."""
        return self._here(run, "training", ".jsonl")

    def manifests(self, run: Run | ForeignRun) -> list[Path]:
        """The manifests of a run's checkpoints that are here; they are stored with the weights."""
        return self._here(run, "checkpoints", ".json")

    def _here(self, run: Run | ForeignRun, kind: str, ending: str) -> list[Path]:
        """A run's files of one kind, of its milestones and of their branches."""
        folder = of_run(kind, self.name, run.name)
        paths = [
            milestone_path(place, epoch, ending)
            for place in (folder, folder / COOLED)
            for epoch in self.study.milestones_of(run)
        ]
        return [path for path in paths if path.is_file()]

    @cached_property
    def contents(self) -> list[dict[str, Any]]:
        """The probe files that are here, parsed, in the order of runs and epochs.

        Raises:
            StoredError: if one is not of the run and epoch it is named for, or was made with other
                parameters.
        """
        contents = []
        for run in self.study.runs():
            for epoch in self.study.milestones_of(run):
                path = probe_file(self.name, run, epoch)
                if path.is_file():
                    content = json.loads(path.read_text())
                    _check_place(path, content, self.name, run, epoch)
                    contents.append(content)
        return contents

    @cached_property
    def runs(self) -> pd.DataFrame:
        """How each run was made, as `runs_table` says it."""
        return runs_table(self.planned, self.contents)

    @property
    def curves(self) -> pd.DataFrame:
        """Means over seeds; empty if they have not been computed."""
        path = RESULTS / self.name / "curves.csv"
        return pd.read_csv(path) if path.is_file() else pd.DataFrame()

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

    def milestone(self, run: Run | ForeignRun, epoch: int | None = None) -> Mapping[str, Any]:
        """A milestone's probe file, parsed, else its manifest in that form; by default the last.

        Raises:
            StoredError: if there is neither.
        """
        epochs: Iterable[int] = self.study.milestones_of(run) if epoch is None else (epoch,)
        for wanted in reversed(tuple(epochs)):
            probed = probe_file(self.name, run, wanted)
            if probed.is_file():
                content: dict[str, Any] = json.loads(probed.read_text())
                _check_place(probed, content, self.name, run, wanted)
                return content
            manifest = probed_milestone(self.name, run, wanted)
            if manifest.is_file():
                return content_of(json.loads(manifest.read_text()))
        asked = "any milestone" if epoch is None else f"epoch {epoch}"
        raise StoredError(
            f"neither a probe file nor a manifest of {run.name} at {asked} is here. Milestones: "
            f"{', '.join(map(str, self.study.milestones_of(run)))}. Run `snakemake --profile "
            f"profiles/local --config study={self.name} -- all`"
        )


def _check_place(
    path: Path, content: Mapping[str, Any], study: str, run: Run | ForeignRun, epoch: int
) -> None:
    if (content["study"], content["name"], content["epoch"]) != (study, run.name, epoch):
        raise StoredError(
            f"{path} is of {content['name']}, epoch {content['epoch']}, in the study "
            f"{content['study']}: files were exchanged. `git checkout` it"
        )
    if content["run"] != run.model_dump(mode="json"):
        raise StoredError(
            f"{path} was made with other parameters than the study now gives to {run.name}. Run "
            "the study again, or check out its parameters of then"
        )
