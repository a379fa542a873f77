"""Which code can change a step's numbers, and a fingerprint of what that code means.

A step watches its own file in `steps/` and all that it imports, functions and methods included. A
study's parameters reach a step through its run, which is compared as a whole, so the modules that
only carry them, store files or show progress are excused, each with its reason. Methods and probes
are known by name; those that a job uses are watched beside its step, so that adding one changes
nothing for the others.

The fingerprint is that of the syntax tree, without comments, docstrings, formatting and the files'
own paths: moving a file or explaining it better makes nothing anew.
"""

import ast
import functools
import hashlib
import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, TypeGuard

from barlow_atlas.errors import AtlasError
from barlow_atlas.study.models import ForeignRun, Run, Study

PACKAGE = Path(__file__).parents[1]

Step = Literal[
    "prepare_data",
    "pretrain",
    "import_weights",
    "probe",
    "record",
    "collect",
    "analyse",
    "report",
    "ledger",
]

EXCUSED = {
    "atomic.py": "stores what it is given",
    "data/catalog.py": "facts, which reach preparation through its params",
    "data/choice.py": "carries parameters, which reach a step through its run",
    "data/errors.py": "names an exception",
    "errors.py": "names exceptions",
    "probes/__init__.py": "names all probes; those that a study asks are watched beside a step",
    "probes/base.py": "says what a probe is, computes nothing",
    "settings/augmentation.py": "carries parameters, which reach a step through its run",
    "settings/frozen.py": "checks parameters, which reach a step through its run",
    "settings/training.py": "carries parameters, which reach a step through its run",
    "store/lock.py": "keeps a second trainer away",
    "store/provenance.py": "describes results, does not make them",
    "store/snapshot.py": "stores what it is given; verified by hash at every reading",
    "study/errors.py": "names an exception",
    "study/file.py": "reads parameters, which reach a step through its run",
    "study/lineage.py": "hashes what is compared at every reading",
    "study/models.py": "carries parameters, which reach a step through its run",
    "study/paths.py": "says where files lie",
    "study/sizes.py": "refuses what cannot work, changes no result",
    "workflow/sources.py": "this list",
    "training/console.py": "shows progress",
    "training/launch.py": "starts processes and joins them, computes nothing",
}
"""Imported by steps, and yet not watched."""

PYTHON = (".py", ".pyc")


class SourceError(AtlasError):
    """Code whose meaning cannot be told."""


class Import(NamedTuple):
    """One name that an import statement binds."""

    bound: str
    attribute: str
    """What of the module it is; empty if it is the module itself."""
    module: str
    file: Path | None
    """The module's file, if it belongs to this package and is watched."""

    def __str__(self) -> str:
        if self.file is not None:
            return f"{self.bound} {self.attribute} {meaning(self.file)}"
        # Modules of the package may be moved, others go by their names.
        first_party = self.module.partition(".")[0] == PACKAGE.name
        return f"{self.bound} {self.attribute} {'' if first_party else self.module}"


def watched(step: Step, plugins: Iterable[type] = ()) -> list[Path]:
    """The files that can change a step's numbers.

    Args:
        plugins: the classes of the methods and probes that the job uses.
    """
    return sorted(_watched(_entries(step, plugins)))


def fingerprint(step: Step, plugins: Iterable[type] = ()) -> str:
    """sha256 of what the watched files mean; of those that are no Python, of their bytes.

    Args:
        plugins: the classes of the methods and probes that the job uses.

    Raises:
        SourceError: modules that import one another.
    """
    return _fingerprint(_entries(step, plugins))


def training_code(run: Run | ForeignRun) -> str:
    """Fingerprint of the code that makes a run's milestones."""
    if isinstance(run, Run):
        return fingerprint("pretrain", [type(run.settings)])
    return fingerprint("import_weights")


def probing_code(study: Study) -> str:
    """Fingerprint of the code that asks a milestone what its study asks."""
    return fingerprint("probe", study.probes.kinds())


def _entries(step: Step, plugins: Iterable[type]) -> tuple[Path, ...]:
    """The files from which a job's code is reached."""
    files = {Path(inspect.getfile(plugin)) for plugin in plugins}
    return PACKAGE / "steps" / f"{step}.py", *sorted(files)


@functools.cache
def _watched(entries: tuple[Path, ...]) -> frozenset[Path]:
    reached: set[Path] = set()
    waiting = frozenset(entries)
    while waiting:
        reached |= waiting
        waiting = frozenset[Path]().union(*map(_imported, waiting)) - reached
    folders = {file.parent for file in reached}
    beside = (file for folder in folders for file in folder.iterdir() if file.is_file())
    return frozenset(reached.union(file for file in beside if file.suffix not in PYTHON))


@functools.cache
def _imported(file: Path) -> frozenset[Path]:
    """The watched files that a file imports."""
    return frozenset(each.file for each in imports(_parsed(file)) if each.file is not None)


@functools.cache
def _fingerprint(entries: tuple[Path, ...]) -> str:
    data = (file for file in _watched(entries) if file.suffix not in PYTHON)
    told = [
        *(meaning(file) for file in entries),
        *(hashlib.sha256(file.read_bytes()).hexdigest() for file in data),
    ]
    return hashlib.sha256("\n".join(sorted(told)).encode()).hexdigest()


_in_progress: list[Path] = []


@functools.cache
def meaning(file: Path) -> str:
    """sha256 of a Python file's syntax tree, with the meanings of the watched files it imports.

    Left out are comments, docstrings, formatting, the order of imports, what is imported for type
    checking only, and where files lie.

    Raises:
        SourceError: it imports itself by way of others.
    """
    if file in _in_progress:
        circle = " -> ".join(each.stem for each in (*_in_progress, file))
        raise SourceError(f"these modules import one another: {circle}. Take one import out")
    _in_progress.append(file)
    try:
        told = _told(_parsed(file))
    finally:
        _in_progress.pop()
    return hashlib.sha256(told.encode()).hexdigest()


def _told(node: object) -> str:
    """A syntax tree as text, the same under every version of Python."""
    if isinstance(node, list):
        bound = sorted(f"(import {each})" for each in imports(node))
        rest = (each for each in node if not isinstance(each, ast.Import | ast.ImportFrom))
        return "".join((*bound, *map(_told, rest)))
    if not isinstance(node, ast.AST):
        return f"{type(node).__name__}:{node!r}"
    told = [f"({type(node).__name__}"]
    for name in node._fields:
        value = getattr(node, name, None)
        # What is empty is left out, as other versions of Python do not have it.
        if value is not None and value != [] and not isinstance(value, ast.expr_context):
            told += (f" {name}=", _told(value))
    return "".join((*told, ")"))


@functools.cache
def _parsed(file: Path) -> ast.Module:
    """A module's syntax tree without documentation and what is for type checking only."""
    tree = ast.parse(file.read_bytes())
    _keep_what_matters(tree)
    return tree


def _keep_what_matters(node: ast.AST) -> None:
    for field, statements in _statement_lists(node):
        kept: list[ast.AST] = []
        for statement in statements:
            _keep_what_matters(statement)
            if _is_text(statement):
                continue
            kept += statement.orelse if _is_for_typing(statement) else [statement]
        setattr(node, field, kept)


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _is_for_typing(node: ast.AST) -> TypeGuard[ast.If]:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def _statement_lists(node: ast.AST) -> Iterator[tuple[str, list[ast.AST]]]:
    """The lists of statements that a node holds, by their fields: no expression holds any."""
    for field in ("body", "handlers", "orelse", "finalbody", "cases"):
        below = getattr(node, field, None)
        if isinstance(below, list):
            yield field, below


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    for _, below in _statement_lists(node):
        for statement in below:
            yield statement
            yield from _statements(statement)


def imports(tree: ast.AST | list[ast.AST]) -> Iterator[Import]:
    """What is imported in a syntax tree; in a list of statements, by these themselves."""
    statements = tree if isinstance(tree, list) else _statements(tree)
    for node in statements:
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.partition(".")[0]
                yield Import(bound, "", alias.name, _watched_file(alias.name))
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                bound, inner = alias.asname or alias.name, f"{module}.{alias.name}"
                if _file(inner):
                    yield Import(bound, "", inner, _watched_file(inner))
                else:
                    yield Import(bound, alias.name, module, _watched_file(module))


@functools.cache
def _file(module: str) -> Path | None:
    """The file of a module of this package."""
    package, *parts = module.split(".")
    if package != PACKAGE.name:
        return None
    place = PACKAGE.joinpath(*parts)
    files = (place / "__init__.py", place.with_suffix(".py"))
    return next((file for file in files if file.is_file()), None)


def _watched_file(module: str) -> Path | None:
    file = _file(module)
    return None if file is None or str(file.relative_to(PACKAGE)) in EXCUSED else file
