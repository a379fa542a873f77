"""A second run that has nothing to do says so without Snakemake, and only then."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from barlow_atlas.study.file import load_study
from barlow_atlas.study.models import Study
from barlow_atlas.tools.unchanged import is_unchanged, note_finished, sources

ROOT = Path.cwd()


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The demo, in a folder with what is watched of it, noted as finished."""
    for name in ("params", "workflow/rules", "profiles"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "Snakefile", tmp_path)
    monkeypatch.chdir(tmp_path)
    for file in ("results/demo/probes/run/epoch_0000.json", "results/other/claims.csv"):
        _touch(Path(file))
    for file in ("reports/index.html", "results/data/digits/manifest.json"):
        _touch(Path(file))
    demo = load_study(Path("params/demo.yaml"))
    note_finished("demo", demo, sources("demo"))
    return demo


def _touch(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("made\n")


def test_what_was_left_as_it_was_has_nothing_to_be_done(study: Study) -> None:
    assert is_unchanged("demo", study)
    _touch(Path("results/resume/demo/state"))
    _touch(Path("logs/any.log"))
    assert is_unchanged("demo", study)
    assert not is_unchanged("cifar10", study), "another study has not run"


@pytest.mark.parametrize(
    "change",
    [
        lambda: Path("params/cifar10.yaml").touch(),
        lambda: Path("params/mine.yaml").write_text("base: demo.yaml\n"),
        lambda: Path("Snakefile").write_text("# other\n"),
        lambda: Path("workflow/rules/data.smk").unlink(),
        lambda: Path("results/demo/probes/run/epoch_0000.json").write_text("other\n"),
        lambda: Path("results/demo/probes/run/epoch_0000.json").unlink(),
        lambda: Path("results/other/claims.csv").write_text("others\n"),
        lambda: Path("results/data/digits/manifest.json").unlink(),
        lambda: os.utime("reports/index.html", (1, 1)),
    ],
)
def test_any_change_is_for_snakemake_to_judge(study: Study, change: Callable[[], None]) -> None:
    change()
    assert not is_unchanged("demo", study)


def test_a_change_while_a_study_ran_is_seen_the_next_time(study: Study) -> None:
    before = sources("demo")
    Path("params/demo.yaml").touch()
    note_finished("demo", study, before)
    assert not is_unchanged("demo", study)


def test_what_lies_outside_of_the_clone_is_never_taken_as_unchanged(study: Study) -> None:
    shutil.rmtree(".snakemake")
    images = study.data.model_copy(update={"name": "mine", "path": "/elsewhere"})
    own = study.model_copy(update={"data": images})
    note_finished("demo", own, sources("demo"))
    assert not is_unchanged("demo", own)
