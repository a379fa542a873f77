"""Two sides of the demo's committed records, put beside each other."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from demo_results import RECORDS, milestone_of, write

from barlow_atlas.__main__ import main
from barlow_atlas.probes.packing import unpack
from barlow_atlas.study.errors import StudyError
from barlow_atlas.tools.compare import CompareError, compare, lines_of

ROOT = Path(__file__).parents[3]


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demo's study and records, in git."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params").mkdir()
    (tmp_path / "params/demo.yaml").write_bytes((ROOT / "params/demo.yaml").read_bytes())
    write(RECORDS)
    author = ("-c", "user.name=t", "-c", "user.email=t@t")
    for arguments in (("init", "-q"), ("add", "."), (*author, "commit", "-qm", "all")):
        subprocess.run(("git", *arguments), check=True)
    return tmp_path


def right(run: str) -> np.ndarray:
    """Which test images the linear probe of a run's end has right."""
    result = milestone_of(run, 100)["results"][-1]
    return unpack(result["correct"], result["count"])


def test_methods_are_compared_by_seed_and_image(clone: Path) -> None:
    found = compare("demo:mix", "demo:bt")
    assert [one.lines[0].probe for one in found] == ["knn", "knn", "linear"]
    linear = found[-1]
    ends = {
        method: np.array([right(f"{method}-d256-e100-clean-s{seed}") for seed in (1, 2, 3)])
        for method in ("bt", "mix")
    }
    assert linear.first == pytest.approx(100 * ends["mix"].mean())
    assert linear.second == pytest.approx(100 * ends["bt"].mean())
    assert linear.difference is not None
    assert linear.difference.estimate == pytest.approx(linear.first - linear.second)
    assert linear.difference.low < linear.difference.estimate < linear.difference.high
    assert linear.seeds == 3


def test_one_run_is_compared_over_images_alone(clone: Path) -> None:
    *_, linear = compare("demo:mix-d256-e100-clean-s2", "demo:bt")
    assert linear.seeds == 1
    assert linear.difference is not None
    expected = 100 * (
        right("mix-d256-e100-clean-s2").mean() - right("bt-d256-e100-clean-s2").mean()
    )
    assert linear.difference.estimate == pytest.approx(expected)
    assert linear.difference.n == 359, "the images of the test set"


def test_a_study_against_itself_at_a_commit_differs_in_nothing(clone: Path) -> None:
    found = compare("demo", "demo@HEAD")
    assert len(found) == 6, "two methods, three probes"
    assert [one.difference and one.difference.estimate for one in found] == [0] * 6
    assert Path.cwd() == clone


@pytest.mark.parametrize(
    ("side", "error", "words"),
    [
        ("demo:mixx", CompareError, "unknown method or run of demo 'mixx'. Did you mean 'mix'?"),
        ("demo@nothing", CompareError, "the results of nothing cannot be read"),
        ("demoo", StudyError, "Did you mean 'demo'?"),
        (":", CompareError, "give STUDY, STUDY:METHOD or STUDY:RUN"),
    ],
)
def test_a_side_that_is_none_is_named(
    clone: Path, side: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words.replace("?", r"\?")):
        lines_of(side)


def test_what_is_not_recorded_is_not_compared(clone: Path) -> None:
    for file in RECORDS:
        if "bt-" in file.name:
            file.unlink()
    with pytest.raises(CompareError, match="unknown method"):
        lines_of("demo:bt")
    left = compare("demo@HEAD", "demo:mix")
    assert [one.difference and one.difference.estimate for one in left] == [0] * 3


def test_the_table_says_both_sides_and_the_difference(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "demo:mix", "demo:bt"]) == 0
    said = capsys.readouterr().out
    assert "demo:mix" in said.splitlines()[0]
    (linear,) = (line for line in said.splitlines() if " linear standard" in line)
    assert "98.42" in linear
    assert "+0.09 (-1.18 to +1.36)" in linear
