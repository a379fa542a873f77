"""The DVC stages of a study, derived from what its Snakemake rules depend on.

DVC decides whether to call Snakemake at all, so it must watch all that Snakemake's rules watch:
the lists come from `sources.py`. Where Snakemake compares resolved parameters, DVC watches the
files they are resolved from; Snakemake then finds out whether anything that matters has changed.
tests/unit/test_dvc.py compares the committed stages with these.
"""

import os
from pathlib import Path
from typing import Any

from barlow_atlas import sources
from barlow_atlas.study import Study

ROOT_STUDY = "demo"
# The profile is no part of the command that dvc.lock records: the same results may come from a
# laptop or a cluster. DVC's own templating makes the escape necessary.
SNAKEMAKE = "snakemake --profile \\${SNAKEMAKE_PROFILE:-profiles/local}"
HEAD = "# Made by `python -m barlow_atlas derive` from params/ and sources.py; do not edit.\n"


def stage_files(studies: dict[str, Study]) -> dict[Path, dict[str, Any]]:
    """Path and content of every DVC file: the demo's in the root, one for each other study, and
    one for each data set that is not the demo's."""
    files: dict[Path, dict[str, Any]] = {}
    root_names = {ROOT_STUDY, f"data/{studies[ROOT_STUDY].data.name}"}

    def place(name: str) -> Path:
        return Path("dvc.yaml") if name in root_names else Path("params") / name / "dvc.yaml"

    for name, study in studies.items():
        dataset = study.data.name
        for part, stage in (
            (f"data/{dataset}", _data_stage(name, dataset)),
            (name, _study_stage(name, study)),
        ):
            up = os.path.relpath(".", place(part).parent)
            content = files.setdefault(place(part), {"stages": {}})
            # Paths in a stage are relative to the repository, wherever its file lies.
            located = stage if up == "." else {"wdir": up} | stage
            content["stages"].setdefault(part.rpartition("/")[2], located)
        content["plots"] = _plots(name, study, up)
    return files


def _data_stage(study: str, dataset: str) -> dict[str, Any]:
    folder = f"results/data/{dataset}"
    return {
        "cmd": f"{SNAKEMAKE} --config study={study} -- {folder}/manifest.json",
        "deps": _relative({*sources.PREPARE_DATA, *sources.RESOLVE_DATA}),
        "params": [{f"params/{study}.yaml": ["data"]}],
        "outs": [{folder: {"persist": True}}],
    }


def _study_stage(name: str, study: Study) -> dict[str, Any]:
    results = f"results/{name}"
    files = {
        *(
            file
            for method in study.methods.values()
            for file in sources.pretrain_sources(type(method))
        ),
        *sources.PROBE,
        *sources.COLLECT,
        *sources.ANALYSE,
        *sources.REPORT,
        *sources.RESOLVE_RUNS,
    }
    return {
        "cmd": f"{SNAKEMAKE} --config study={name} -- all",
        "deps": [f"results/data/{study.data.name}", *_relative(files)],
        "params": [{f"params/{name}.yaml": None}],
        "outs": [
            {f"{results}/checkpoints": {"persist": True}},
            _kept_in_git(f"{results}/probes"),
            _kept_in_git(f"{results}/training"),
            _kept_in_git(f"{results}/probes.csv"),
            _kept_in_git(f"{results}/curves.csv"),
            _kept_in_git(f"{results}/accuracy.csv"),
            _kept_in_git(f"reports/{name}"),
        ],
        "metrics": [_kept_in_git(f"{results}/metrics.json")],
    }


def _kept_in_git(path: str) -> dict[str, Any]:
    return {path: {"cache": False, "persist": True}}


def _plots(name: str, study: Study, up: str) -> list[dict[str, Any]]:
    """The study's curves; unlike a stage's, these paths are relative to the DVC file."""
    probes = [*(f"knn {knn.label}" for knn in study.probes.knn), "linear"]
    columns = [
        f"{method}-d{dim} {probe}"
        for method in study.methods
        for dim in study.embedding_dims
        for probe in probes
    ]
    return [
        {
            f"accuracy-{name}": {
                "title": f"{study.title}: test top-1, %",
                "x": "epoch",
                "y": {os.path.normpath(f"{up}/results/{name}/accuracy.csv"): columns},
            }
        }
    ]


def _relative(files: Any) -> list[str]:
    """Paths from the repository's root, in alphabetical order."""
    return sorted(str(file.relative_to(sources.PACKAGE.parents[1])) for file in files)
