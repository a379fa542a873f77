"""Which files of this package can change a step's numbers: the one list that Snakemake rules,
DVC stages and checkpoints compare.

A study's parameters reach a step through its run (compared as a whole), so the modules that only
carry them, store files or show progress are not here; tests/unit/test_sources.py asks of every
import of a step that it is listed, or excused with a reason.
"""

import hashlib
import inspect
from collections.abc import Iterable
from pathlib import Path

from barlow_atlas.objectives.base import Method

PACKAGE = Path(__file__).parent


def _files(*names: str) -> tuple[Path, ...]:
    return tuple(PACKAGE / name for name in names)


PREPARE_DATA = _files(
    "data/formats.py",
    "data/preparation.py",
    "data/prepared.py",
    "data/selection.py",
    "data/sources.py",
)
PRETRAIN = _files(
    "data/prepared.py",
    "data/selection.py",
    "networks.py",
    "optim.py",
    "pretrain.py",
    "randomness.py",
    "views.py",
)
PROBE = _files(
    "data/prepared.py",
    "data/selection.py",
    "networks.py",
    "optim.py",
    "probes/__init__.py",
    "probes/features.py",
    "probes/knn.py",
    "probes/linear.py",
    "randomness.py",
    "views.py",
)
# What parameters are resolved with: named recipes and defaults, facts of data sets.
RESOLVE_RUNS = _files("augmentation.py", "study.py")
RESOLVE_DATA = _files("data/catalog.py")
COLLECT = _files("atlas/frames.py")
ANALYSE = _files("atlas/curves.py")
REPORT = _files("report/figures.py", "report/tables.py", "report/style.mplstyle")


def pretrain_sources(method: type[Method]) -> list[Path]:
    """The files that decide a run's weights: the loop's, and the method's with its base classes.

    Other methods' files are not among them, so that adding a method retrains nothing.
    """
    classes = [base for base in inspect.getmro(method) if issubclass(base, Method)]
    return sorted({*PRETRAIN, *(Path(inspect.getfile(base)) for base in classes)})


def fingerprint(files: Iterable[Path]) -> str:
    """sha256 over the names and bytes of source files, in order of their names."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(PACKAGE)}\n".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
