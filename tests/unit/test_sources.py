"""The lists of files that can change a step's numbers are whole."""

import ast
import inspect
from pathlib import Path

import pytest

from barlow_atlas import sources
from barlow_atlas.objectives import METHODS
from barlow_atlas.objectives.barlow_twins import BarlowTwins
from barlow_atlas.objectives.mixed_barlow_twins import MixedBarlowTwins
from barlow_atlas.sources import PACKAGE

# Imported by a step, and yet not watched. A module gets here only for one of these reasons.
EXCUSED = {
    "__init__.py": "holds the version only",
    "frozen.py": "checks parameters, which reach a step through its run",
    "study.py": "carries parameters, which reach a step through its run",
    "augmentation.py": "carries parameters, which reach a step through its run",
    "data/__init__.py": "names only",
    "data/catalog.py": "facts, which reach preparation through its params",
    "data/errors.py": "names an exception",
    "errors.py": "names an exception",
    "objectives/__init__.py": "names the methods; a run watches its own method's file",
    "objectives/borrowed.py": "watched by the runs whose method imports it",
    "objectives/base.py": "watched through each method's imports",
    "probe_settings.py": "carries parameters, which reach a step through its params",
    "settings.py": "carries parameters, which reach a step through its run",
    "lineage.py": "hashes what is compared at every reading",
    "lock.py": "keeps a second trainer away",
    "paths.py": "says where files lie",
    "provenance.py": "describes results, does not make them",
    "snapshot.py": "stores what it is given; verified by hash at every reading",
    "sources.py": "this list",
    "vision.py": "imports torchvision",
    "probes/__init__.py": "imported for its sub-modules where it is not watched",
    "report/__init__.py": "names only",
    "atlas/__init__.py": "names only",
}
OBJECTIVES = PACKAGE / "objectives"
METHOD_FILES = {
    str(Path(inspect.getfile(method)).relative_to(PACKAGE)) for method in METHODS.values()
}
# A step behind `probe` is made again where one before it is.
ANALYSIS = (*sources.COLLECT, *sources.ANALYSE)
STEPS = {
    "data/preparation.py": sources.PREPARE_DATA,
    "pretrain.py": sources.PRETRAIN,
    "probes/__init__.py": sources.PROBE,
    "probes/signals.py": sources.PROBE,
    "probes/transfer.py": sources.PROBE,
    "foreign.py": sources.IMPORT,
    "atlas/frames.py": sources.COLLECT,
    "atlas/runs.py": sources.COLLECT,
    "atlas/curves.py": ANALYSIS,
    "atlas/effects.py": ANALYSIS,
    "atlas/ledger.py": ANALYSIS,
    "report/figures/__init__.py": (*ANALYSIS, *sources.REPORT),
    "report/page/__init__.py": (*ANALYSIS, *sources.REPORT),
    "report/tables.py": (*ANALYSIS, *sources.REPORT),
    "reporting.py": (*ANALYSIS, *sources.LEDGER),
}


def imported(file: Path) -> set[Path]:
    """The package's files that a module names in its imports, those inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.partition(".")[0] == "barlow_atlas":
                place = PACKAGE.joinpath(*name.split(".")[1:])
                found |= {
                    p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()
                }
    return found


def closure(*files: Path) -> set[Path]:
    """The files and all that they import; what methods import is the next test's affair."""
    seen, waiting = set(), set(files)
    while waiting:
        seen |= waiting
        read = (file for file in waiting if file in files or file.parent != OBJECTIVES)
        waiting = set().union(*(imported(file) for file in read)) - seen
    return seen


@pytest.mark.parametrize("entry", STEPS)
def test_every_import_is_watched_or_excused(entry: str) -> None:
    watched = {str(path.relative_to(PACKAGE)) for path in STEPS[entry]}
    reached = {str(path.relative_to(PACKAGE)) for path in closure(PACKAGE / entry)}
    # A method's file is watched by its own runs.
    assert reached <= watched | EXCUSED.keys() | METHOD_FILES, "watch these files or say why not"


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_imports_is_watched_or_excused(name: str) -> None:
    watched = sources.pretrain_sources(METHODS[name])
    own = [file for file in watched if file.parent == OBJECTIVES]
    reached = closure(*own) - set(watched)
    assert {str(path.relative_to(PACKAGE)) for path in reached} <= EXCUSED.keys() | METHOD_FILES


def test_every_listed_file_exists() -> None:
    lists = (*STEPS.values(), sources.PROBE, sources.LEDGER)
    assert [path for files in lists for path in files if not path.is_file()] == []
    assert [name for name in EXCUSED if not (PACKAGE / name).is_file()] == []


def test_a_run_watches_its_own_method_only() -> None:
    names = {path.name for path in sources.pretrain_sources(BarlowTwins)}
    assert "barlow_twins.py" in names
    assert "mixed_barlow_twins.py" not in names
    mixed = {path.name for path in sources.pretrain_sources(MixedBarlowTwins)}
    assert {"base.py", "barlow_twins.py", "mixed_barlow_twins.py"} <= mixed
    byol = {path.name for path in sources.pretrain_sources(METHODS["byol"])}
    assert "borrowed.py" in byol


def test_every_method_has_a_file_of_its_own() -> None:
    assert len(METHOD_FILES) == len(METHODS)


def test_the_fingerprint_sees_every_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PACKAGE", tmp_path)
    file = tmp_path / "a.py"
    file.write_text("x = 1\n")
    before = sources.fingerprint([file])
    file.write_text("x = 2\n")
    assert sources.fingerprint([file]) != before
