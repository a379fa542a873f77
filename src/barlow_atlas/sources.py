"""Which files of this package can change a step's numbers: the one list that Snakemake rules,
DVC stages and checkpoints compare.

A study's parameters reach a step through its run (compared as a whole), so the modules that only
carry them, store files or show progress are not here; tests/unit/test_sources.py asks of every
import of a step that it is listed, or excused with a reason.
"""

import ast
import functools
import hashlib
import inspect
from collections.abc import Iterable
from pathlib import Path

from barlow_atlas.objectives.base import Method

PACKAGE = Path(__file__).parent


def _files(*names: str) -> tuple[Path, ...]:
    return tuple(PACKAGE / name for name in names)


def _below(folder: str) -> tuple[Path, ...]:
    """All files of a part of the package: code, templates, styles."""
    files = (path for path in (PACKAGE / folder).rglob("*") if path.is_file())
    return tuple(sorted(path for path in files if "__pycache__" not in path.parts))


PREPARE_DATA = _files(
    "data/formats.py",
    "data/preparation.py",
    "data/prepared.py",
    "data/reading.py",
    "data/selection.py",
    "data/sources.py",
    "data/target_formats.py",
)
PRETRAIN = _files(
    "data/batches.py",
    "data/image_set.py",
    "data/prepared.py",
    "data/selection.py",
    "networks.py",
    "optim.py",
    "pretrain.py",
    "randomness.py",
    "views.py",
)
IMPORT = _files("foreign.py", "networks.py")
PROBE = _files(
    "data/image_set.py",
    "data/prepared.py",
    "data/selection.py",
    "networks.py",
    "objectives/base.py",
    "objectives/squared_products.py",
    "optim.py",
    "packing.py",
    "probes/__init__.py",
    "probes/features.py",
    "probes/knn.py",
    "probes/linear.py",
    "probes/signals.py",
    "probes/transfer.py",
    "randomness.py",
    "views.py",
)
# What parameters are resolved with: named recipes and defaults, facts of data sets.
RESOLVE_RUNS = _files("augmentation.py", "probe_settings.py", "settings.py", "study.py")
RESOLVE_DATA = _files("data/catalog.py")
COLLECT = _files("atlas/frames.py", "atlas/runs.py", "lineage.py", "reporting.py")
ANALYSE = _files(
    "atlas/curves.py",
    "atlas/effects.py",
    "atlas/frames.py",
    "atlas/label_free.py",
    "atlas/ledger.py",
    "atlas/lines.py",
    "atlas/overfitting.py",
    "atlas/statistics.py",
    "claims.py",
    "packing.py",
    "reporting.py",
)
REPORT = (
    *_files("atlas/beside.py", "atlas/training.py", "published.py", "reporting.py"),
    *_below("report"),
)
LEDGER = (*REPORT, *_files("atlas/ledger.py", "claims.py"))


def pretrain_sources(method: type[Method]) -> list[Path]:
    """The files that decide a run's weights: the loop's, and the method's with what it builds on.

    Other methods' files are not among them, so that adding a method retrains nothing.
    """
    return sorted({*PRETRAIN, *_with_imports(Path(inspect.getfile(method)))})


@functools.cache
def _with_imports(file: Path) -> frozenset[Path]:
    """A method's file and the files beside it that it imports, inside its functions too."""
    package = f"{Method.__module__.rpartition('.')[0]}."
    named = (
        file.with_name(f"{node.module.removeprefix(package)}.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(package)
    )
    return frozenset({file}.union(*(_with_imports(other) for other in named)))


def fingerprint(files: Iterable[Path]) -> str:
    """sha256 over the names and bytes of source files, in order of their names."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(PACKAGE)}\n".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
