"""Whether anything has changed since a run of a study found all done, by times and sizes of files.

Snakemake would find the same, in seconds in which it reads all studies, code and records. Here
whatever it could have looked at counts, and any change of a file, a touch included, is for it to
judge.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from barlow_atlas.atomic import write_atomically
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import (
    KEPT_TABLES,
    LOCKS,
    PARAMS,
    REPORTS,
    RESULTS,
    data_manifest,
)

SOURCES = (Path("Snakefile"), Path("workflow"), Path("profiles"), PARAMS)
"""With the package and the executor, what Snakemake reads."""
LIBRARIES = ("snakemake", "torch")


def sources(name: str) -> str:
    """A fingerprint of what a run of a study reads and does not write: to be taken before it."""
    import snakemake_executor_plugin_submitit as executor

    code = (Path(__file__).parents[1], Path(executor.__file__).parent)
    others = (
        file
        for table in KEPT_TABLES
        for file in RESULTS.glob(f"**/{table}")
        if file.parent != RESULTS / name
    )
    programs = [sys.version, *(f"{library} {version(library)}" for library in LIBRARIES)]
    return _digest([*programs, *_states((*SOURCES, *code, *sorted(others)))])


def results(name: str, study: Study) -> str:
    """A fingerprint of what a run of a study writes: to be taken after it."""
    images = (data_manifest(data_set.name) for data_set in study.data_sets())
    return _digest(_states((RESULTS / name, REPORTS, *images)))


def is_unchanged(name: str, study: Study) -> bool:
    """Whether all is as it was when a run of the study had nothing left to do."""
    with suppress(OSError, ValueError):
        noted = json.loads(_note(name).read_bytes())
        return bool(noted == [sources(name), results(name, study)])
    return False


def note_finished(name: str, study: Study, before: str) -> None:
    """Notes that a run of a study has left nothing to do.

    Args:
        before: `sources` of before it.
    """
    # What lies elsewhere is not looked at here.
    elsewhere = study.foreign or any(data_set.path for data_set in study.data_sets())
    if not elsewhere and not study.milestones_from:
        told = json.dumps([before, results(name, study)])
        write_atomically(_note(name), told.encode())


def _note(name: str) -> Path:
    return LOCKS / "studies" / name / "finished.json"


def _states(places: Iterable[Path]) -> Iterator[str]:
    """Path, time and size of each file in folders, and of files; what is not there is told, too."""
    for place in places:
        if not place.is_dir():
            yield _state(place)
        for folder, folders, files in os.walk(place):
            folders[:] = sorted(set(folders) - {"__pycache__"})
            yield from (_state(Path(folder, file)) for file in sorted(files))


def _state(file: Path) -> str:
    try:
        stat = file.stat()
    except OSError:
        return f"{file} is not there"
    return f"{file} {stat.st_mtime_ns} {stat.st_size}"


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
