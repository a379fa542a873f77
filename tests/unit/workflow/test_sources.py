"""What a fingerprint of code sees, and that every import of a step is watched or excused."""

import ast
import subprocess
from pathlib import Path

import pytest

from barlow_atlas.objectives import METHODS
from barlow_atlas.objectives.barlow_twins import BarlowTwins
from barlow_atlas.objectives.mixed_barlow_twins import MixedBarlowTwins
from barlow_atlas.probes import PROBES
from barlow_atlas.study.file import load_study
from barlow_atlas.workflow import sources
from barlow_atlas.workflow.documentation import ROOMS
from barlow_atlas.workflow.sources import EXCUSED, PACKAGE, SourceError, fingerprint, watched

STEPS: tuple[sources.Step, ...] = (
    "prepare_data",
    "pretrain",
    "import_weights",
    "probe",
    "collect",
    "analyse",
    "report",
    "ledger",
)

MODULE = '''"""A step."""

import math
from typing import TYPE_CHECKING

from barlow_atlas.nn.rates import half, whole as all_of_it

if TYPE_CHECKING:
    from barlow_atlas.store.shelf import Shelf


def rate(epoch: int, total: int = 10) -> float:
    """The rate."""
    # Falls.
    return half(1 - epoch / total) + all_of_it(math.pi)
'''
RATES = "def half(x):\n    return x / 2\n\n\ndef whole(x):\n    return x\n"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of two rooms: a step that imports a module."""
    folder = tmp_path / "barlow_atlas"
    for room in ("steps", "nn", "store"):
        (folder / room).mkdir(parents=True)
    (folder / "steps/pretrain.py").write_text(MODULE)
    (folder / "nn/rates.py").write_text(RATES)
    (folder / "store/shelf.py").write_text("class Shelf:\n    boards = 3\n")
    monkeypatch.setattr(sources, "PACKAGE", folder)
    monkeypatch.setattr(sources, "EXCUSED", {"store/shelf.py": "stores"})
    return folder


def seen() -> str:
    """The step's fingerprint, read anew."""
    forget()
    return fingerprint("pretrain")


@pytest.fixture(autouse=True)
def forgotten() -> None:
    forget()


def forget() -> None:
    for cached in vars(sources).values():
        if hasattr(cached, "cache_clear"):
            cached.cache_clear()


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    # Falls.\n", ""),
        ("# Falls.", "# Falls linearly."),
        ('    """The rate."""\n', '    """The rate, as a share."""\n'),
        ('"""A step."""\n', ""),
        ("\n\ndef rate", "\n\n\n\ndef rate"),
        ("(1 - epoch / total)", "((1 - (epoch / total)))"),
        ("half, whole as all_of_it", "whole as all_of_it, half"),
        (
            "import math\nfrom typing import TYPE_CHECKING",
            "from typing import TYPE_CHECKING\nimport math",
        ),
        ("import Shelf", "import Shelf, Board"),
    ],
    ids=[
        "no comment",
        "another comment",
        "another docstring",
        "no docstring",
        "blank lines",
        "parentheses",
        "order of names",
        "order of imports",
        "for type checking",
    ],
)
def test_what_changes_no_meaning_changes_no_fingerprint(package: Path, old: str, new: str) -> None:
    before = seen()
    edit(package / "steps/pretrain.py", old, new)
    assert seen() == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1 - epoch", "2 - epoch"),
        ("total: int = 10", "total: int = 11"),
        ("total: int = 10", "total: float = 10"),
        ("half(1 ", "all_of_it(1 "),
        ("import half, whole as all_of_it", "import whole as half, half as all_of_it"),
        ("import math\n", "import cmath as math\n"),
        ("    return half", "    epoch += 1\n    return half"),
    ],
    ids=["expression", "default", "type", "call", "names", "library", "statement"],
)
def test_what_changes_a_meaning_changes_the_fingerprint(package: Path, old: str, new: str) -> None:
    before = seen()
    edit(package / "steps/pretrain.py", old, new)
    assert seen() != before


def test_a_step_watches_what_it_imports(package: Path) -> None:
    before = seen()
    edit(package / "nn/rates.py", "x / 2", "x / 3")
    assert seen() != before


def test_a_moved_or_renamed_file_is_the_same_code(package: Path) -> None:
    before = seen()
    (package / "training").mkdir()
    (package / "nn/rates.py").rename(package / "training/schedules.py")
    edit(package / "steps/pretrain.py", "barlow_atlas.nn.rates", "barlow_atlas.training.schedules")
    assert seen() == before


def test_the_same_name_from_another_module_is_other_code(package: Path) -> None:
    before = seen()
    (package / "nn/others.py").write_text(RATES.replace("x / 2", "x / 4"))
    edit(package / "steps/pretrain.py", "nn.rates", "nn.others")
    assert seen() != before


def test_an_excused_module_may_change_but_what_is_taken_from_it_counts(package: Path) -> None:
    step, taken = package / "steps/pretrain.py", "from barlow_atlas.store.shelf import Shelf"
    edit(step, "import math\n", f"import math\n\n{taken}\n")
    before = seen()
    edit(package / "store/shelf.py", "3", "4")
    assert seen() == before
    edit(step, f"math\n\n{taken}", f"math\n\n{taken.replace('Shelf', 'Board')}")
    assert seen() != before


def test_what_lies_beside_and_is_no_python_is_watched(package: Path) -> None:
    (package / "nn/table.csv").write_text("1\n")
    before = seen()
    (package / "nn/table.csv").write_text("2\n")
    assert seen() != before


def test_a_circle_is_named(package: Path) -> None:
    edit(
        package / "nn/rates.py",
        "def half",
        "from barlow_atlas.steps.pretrain import rate\n\n\ndef half",
    )
    with pytest.raises(SourceError, match="pretrain -> rates -> pretrain"):
        seen()


# The other Python has none of the libraries: what sources.py only names is stood in for.
FINGERPRINTS = """
import sys, types
from importlib.util import module_from_spec, spec_from_file_location
for name, names in (
    ("barlow_atlas", ()),
    ("barlow_atlas.errors", ("AtlasError",)),
    ("barlow_atlas.study", ()),
    ("barlow_atlas.study.models", ("ForeignRun", "Run", "Study")),
):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(dict.fromkeys(names, Exception))
spec = spec_from_file_location("sources", "src/barlow_atlas/workflow/sources.py")
sources = module_from_spec(spec)
spec.loader.exec_module(sources)
print(*(sources.fingerprint(step) for step in sys.argv[1:]), sep="\\n")
"""


@pytest.mark.parametrize("version", ["python3.12", "python3.13"])
def test_other_versions_of_python_see_the_same(version: str) -> None:
    try:
        told = subprocess.run(
            [version, "-c", FINGERPRINTS, *STEPS], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip(f"{version} is not on the path")
    if told.returncode == 127:
        pytest.skip(f"{version} is not installed")
    assert told.stdout.split() == [fingerprint(step) for step in STEPS], told.stderr


@pytest.mark.parametrize("step", STEPS)
def test_a_step_is_a_file_named_as_it(step: sources.Step) -> None:
    files = watched(step)
    assert PACKAGE / "steps" / f"{step}.py" in files
    # What is excused is not followed further either: nothing that computes hides behind it.
    assert not {str(file.relative_to(PACKAGE)) for file in files} & EXCUSED.keys()


@pytest.mark.slow
def test_every_excused_file_exists_and_is_imported_by_a_step() -> None:
    reached = {
        sources._file(each.module)
        for step in STEPS
        for file in watched(step, [*METHODS.values(), *PROBES.values()])
        if file.suffix == ".py"
        for each in sources.imports(sources._parsed(file))
    }
    of_this_package = {str(file.relative_to(PACKAGE)) for file in reached if file is not None}
    assert EXCUSED.keys() <= of_this_package, "no step imports it: it needs no excuse"


def test_the_steps_watch_what_decides_numbers() -> None:
    """Which images, the composition of a probe file and the device's settings among it."""
    for step in ("pretrain", "probe"):
        names = {str(file.relative_to(PACKAGE)) for file in watched(step)}
        assert {f"steps/{step}.py", "nn/devices.py", "data/selection.py"} <= names
        assert {"data/prepared.py", "nn/views.py", "nn/networks.py"} <= names
    report = {file.name for file in watched("report")}
    assert {"style.mplstyle", "page.css", "page.js", "study.html.j2"} <= report


def test_a_run_watches_its_own_method_only() -> None:
    names = {path.name for path in watched("pretrain", [BarlowTwins])}
    assert "barlow_twins.py" in names
    assert "mixed_barlow_twins.py" not in names
    mixed = {path.name for path in watched("pretrain", [MixedBarlowTwins])}
    assert {"base.py", "barlow_twins.py", "mixed_barlow_twins.py"} <= mixed
    byol = {path.name for path in watched("pretrain", [METHODS["byol"]])}
    assert "borrowed.py" in byol


def test_every_method_has_a_file_and_a_fingerprint_of_its_own() -> None:
    assert len({fingerprint("pretrain", [method]) for method in METHODS.values()}) == len(METHODS)


def test_a_study_watches_the_probes_that_it_asks_only() -> None:
    demo = load_study(Path("params/demo.yaml"))
    for step in ("probe", "collect", "analyse"):
        names = {path.name for path in watched(step, demo.probes.kinds())}
        assert {"knn.py", "neighbours.py", "linear.py", "heads.py"} <= names
        assert "transfer.py" not in names
        assert not {path.name for path in watched(step)} & {f"{name}.py" for name in PROBES}
    assert len({fingerprint("probe", [probe]) for probe in PROBES.values()}) == len(PROBES)
    assert sources.probing_code(demo) == fingerprint("probe", [PROBES["knn"], PROBES["linear"]])


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_imports_point_one_way() -> None:
    """Between rooms, what is imported for type checking included."""
    against = []
    for file in PACKAGE.rglob("*.py"):
        if file == PACKAGE / "__init__.py":
            continue
        assert room_of(file) in ROOMS, f"{file}: a new room needs its place in ROOMS"
        for each in sources.imports(ast.parse(file.read_bytes())):
            target = sources._file(each.module)
            if target in (None, PACKAGE / "__init__.py"):
                continue
            if ROOMS.index(room_of(target)) > ROOMS.index(room_of(file)):
                against.append(f"{file.relative_to(PACKAGE)} -> {each.module}")
    assert against == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Inside rooms too, what is imported for type checking included."""
    edges = {
        file: {
            target
            for each in sources.imports(ast.parse(file.read_bytes()))
            if (target := sources._file(each.module)) is not None and target != file
        }
        for file in PACKAGE.rglob("*.py")
    }
    left = {file: set(targets) for file, targets in edges.items()}
    while free := [file for file, targets in left.items() if not targets & left.keys()]:
        for file in free:
            del left[file]
    assert sorted(str(file.relative_to(PACKAGE)) for file in left) == []
