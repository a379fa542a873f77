"""The DVC stages of a study, derived from what its Snakemake rules depend on.

DVC decides whether to call Snakemake at all, so it must watch all that Snakemake's rules watch:
the lists come from `sources.py`. Where Snakemake compares resolved parameters, DVC watches the
files they are resolved from; Snakemake then finds out whether anything that matters has changed.
Of other stages' results it watches what git has: DVC asks for the hash of what a stage depends on
before it says what would run, also in a clone that has neither images nor weights.
tests/unit/workflow/test_dvc.py compares the committed stages with these.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from barlow_atlas.atlas.curves import column_name
from barlow_atlas.study.file import (
    file_with,
    files_of,
    find_studies,
    load_studies,
    load_study,
    study_file,
)
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import CLAIMS, KEPT_TABLES, PAPER_TABLES, PUBLISHED
from barlow_atlas.workflow import sources
from barlow_atlas.workflow.private import refresh_stage, stage_status

# The demo and its data: a plain `dvc repro` runs these.
ROOT_PARTS = ("demo", "data/digits")
# The profile is no part of the command that dvc.lock records: the same results may come from a
# laptop or a cluster. DVC's own templating makes the escape necessary.
SNAKEMAKE = "snakemake --profile \\${SNAKEMAKE_PROFILE:-profiles/local}"
BEHIND_TRAINING: tuple[sources.Step, ...] = (
    *("probe", "record"),
    *("collect", "analyse", "report", "ledger"),
)
STAGES = Path("workflow/dvc")
# What parameters are resolved with: named recipes and defaults, facts of data sets.
RESOLVE_RUNS = tuple(
    sources.PACKAGE / name
    for name in ("settings/augmentation.py", "settings/training.py", "study/models.py")
)
RESOLVE_DATA = (sources.PACKAGE / "data/catalog.py",)
HEAD = "# Made by `python -m barlow_atlas derive` from params/ and sources.py; do not edit.\n"


def stage_files(params: Path, warn: Callable[[str], None]) -> dict[Path, dict[str, Any]]:
    """Path and content of every DVC file: the demo's in the root, one for each other study of
    `params`, and one for each data set that is not the demo's. Of a study that cannot be read
    `warn` gets a line."""
    files: dict[Path, dict[str, Any]] = {}
    paths = find_studies(params)
    studies = load_studies(params, warn)
    for name, study in studies.items():
        parts = [
            *(
                (f"data/{d.name}", _data_stage(name, d.name, study, paths[name]))
                for d in study.data_sets()
            ),
            (name, _study_stage(name, study, files_of(paths[name]))),
        ]
        for part, stage in parts:
            file = dvc_file(part)
            up = os.path.relpath(".", file.parent)
            content = files.setdefault(file, {"stages": {}})
            # Paths in a stage are relative to the repository, wherever its file lies.
            located = stage if up == "." else {"wdir": up} | stage
            content["stages"].setdefault(part.rpartition("/")[2], located)
        content["plots"] = _plots(name, study, up)
    return files


def kept_files(params: Path, asked: Iterable[str]) -> set[Path]:
    """Paths of the DVC files that this clone has, and of those that studies need.

    DVC tells of every stage that it finds, also of a study that never ran. So there are stages of
    what has run, and of what somebody wants to run by DVC.

    Args:
        asked: names of studies: their stages, those of their images, and the same of the study
            that they take milestones from.

    Raises:
        StudyError: a study of `asked` cannot be read.
    """
    files = {dvc_file(part) for part in ROOT_PARTS} | set(STAGES.glob("**/dvc.yaml"))
    for name in asked:
        study = load_study(study_file(params, name))
        files |= {dvc_file(name), *(dvc_file(f"data/{d.name}") for d in study.data_sets())}
        files |= kept_files(params, filter(None, [study.milestones_from]))
    return files


def dvc_file(part: str) -> Path:
    """Where the stage of a study or data set (`data/digits`) stands, if it has one."""
    return Path("dvc.yaml") if part in ROOT_PARTS else STAGES / part / "dvc.yaml"


def refresh(part: str) -> bool:
    """Makes DVC's record of a stage, if it has one, that of the code and parameters of today."""
    file = dvc_file(part)
    return file.is_file() and refresh_stage(file, part.rpartition("/")[2])


def changes(part: str) -> set[str] | None:
    """What differs from DVC's last record of a stage: paths, and parameters as `file:key`.

    None if there is no record. Other than `dvc status`, it can be asked while DVC runs the stage.
    """
    file = dvc_file(part)
    statuses = stage_status(file, part.rpartition("/")[2]) if file.is_file() else None
    if statuses is None:
        return None
    keys: set[str] = set()
    for path, status in statuses.items():
        name = os.path.relpath(path)
        keys |= {f"{name}:{key}" for key in status} if isinstance(status, dict) else {name}
    return keys


def _data_stage(study: str, dataset: str, asked: Study, file: Path) -> dict[str, Any]:
    folder, kept = f"results/data/{dataset}", _kept_manifest(dataset)
    manifest = f"{folder}/manifest.json"
    stage: dict[str, Any] = {
        "cmd": [*_commands(study, manifest), f"cp {manifest} {kept}"],
        "deps": relative({*sources.watched("prepare_data"), *RESOLVE_DATA}),
    }
    if dataset == asked.data.name:
        stage["params"] = [{str(file_with("data", file)): ["data"]}]
    return stage | {"outs": [{folder: {"persist": True}}, _kept_in_git(kept)]}


def _kept_manifest(dataset: str) -> str:
    """What git has of prepared images: a copy of their manifest, with the hash of each file."""
    return f"results/data/{dataset}.json"


def _study_stage(name: str, study: Study, read: list[Path]) -> dict[str, Any]:
    results = f"results/{name}"
    taken = study.milestones_from
    methods = [] if taken else [type(method) for method in study.methods.values()]
    files = {
        *(sources.watched("pretrain", methods) if methods else ()),
        *(sources.watched("import_weights") if study.foreign else ()),
        *behind_training(study),
        *RESOLVE_RUNS,
    }
    tables = [f"{results}/{table}" for table in KEPT_TABLES]
    metrics = f"{results}/metrics.json"
    told = [str(path) for path in (CLAIMS, PUBLISHED, PAPER_TABLES)]
    return {
        "cmd": _commands(name, "all"),
        "deps": [
            *(_kept_manifest(d.name) for d in study.data_sets()),
            *([f"results/{taken}/runs"] if taken else ()),
            *told,
            *relative(files),
        ],
        "params": [{str(path): None} for path in read],
        "outs": [
            {f"{results}/checkpoints": {"persist": True}},
            _kept_in_git(f"{results}/runs"),
            *(_kept_in_git(table) for table in tables if table != metrics),
            _kept_in_git(f"reports/{name}"),
        ],
        "metrics": [_kept_in_git(metrics)],
    }


def behind_training(study: Study) -> list[Path]:
    """The code that probes a study's milestones and reports what was found."""
    kinds = study.probes.kinds()
    return [file for step in BEHIND_TRAINING for file in sources.watched(step, kinds)]


def _commands(study: str, target: str) -> list[str]:
    """What DVC calls; after a pull Snakemake must first know what is here."""
    return [
        f"python -m barlow_atlas adopt --study {study}",
        # What it replaces DVC has kept.
        f"{SNAKEMAKE} --config study={study} replace=true -- {target}",
    ]


def _kept_in_git(path: str) -> dict[str, Any]:
    return {path: {"cache": False, "persist": True}}


def _plots(name: str, study: Study, up: str) -> list[dict[str, Any]]:
    """The study's curves; unlike a stage's, these paths are relative to the DVC file."""
    lines = dict.fromkeys((run.method, run.embedding_dim or 0) for run in study.runs())
    columns = [column_name(*line, *probe) for line in lines for probe in study.probes.variants()]
    return [
        {
            f"accuracy-{name}": {
                "title": f"{study.title}: test top-1, %, protocol {study.protocol}",
                "x": "epoch",
                "y": {os.path.normpath(f"{up}/results/{name}/accuracy.csv"): columns},
            }
        }
    ]


def relative(files: Any) -> list[str]:
    """Paths from the repository's root, in alphabetical order."""
    return sorted(str(file.relative_to(sources.PACKAGE.parents[1])) for file in files)
