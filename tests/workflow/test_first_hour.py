"""What somebody meets who has just cloned this: each step says what it should.

Nothing is trained here. Running, Ctrl-C, extending and changing a study are in test_small_study.py,
a method and a probe of one's own in test_own_method.py.
"""

import os
import re
import shutil
from pathlib import Path

import pytest
from fresh_clone import Clone
from small_data import write_image

README = Path("README.md")


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone with the README's first study."""
    clone = Clone(tmp_path_factory.mktemp("first_hour"))
    told = atlas(clone, "new first --from demo")
    assert "params/first.yaml is there: edit it, then `atlas plan --study first`" in told
    [study] = re.findall(r"```yaml\n(.*?)```", README.read_text(), flags=re.S)
    (clone.folder / "params/first.yaml").write_text(study)
    return clone


def atlas(clone: Clone, line: str, fails: bool = False, **environment: str) -> str:
    done = clone.run("python", "-m", "barlow_atlas", *line.split(), **environment)
    assert bool(done.returncode) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("rum first", "unknown command 'rum'. Did you mean 'run'?"),
        ("run frist", "unknown study 'frist'. Did you mean 'first'?"),
        ("answer demmo", "unknown study 'demmo'. Did you mean 'demo'?"),
        ("run first --set epoch=5", "epoch is no parameter. Did you mean 'epochs'?"),
        ("run first --set epochs=many", "epochs"),
        ("new first --from demo", "params/first.yaml is there already"),
        ("open first", "reports/first/index.html is not there; `atlas run first` makes it"),
    ],
)
def test_a_mistake_is_named_and_starts_nothing(newcomer: Clone, line: str, said: str) -> None:
    told = atlas(newcomer, line, fails=True)
    assert said in told
    assert "Traceback" not in told
    assert "Snakefile" not in told
    assert sorted(path.name for path in newcomer.folder.glob("params/first*")) == ["first.yaml"]
    assert not (newcomer.folder / "results/first").exists()


def test_the_first_study_is_planned(newcomer: Clone) -> None:
    told = atlas(newcomer, "plan --study first")
    assert "core hours reserved" in told
    assert "Room:" in told
    assert "pretrain" in atlas(newcomer, "run first --dry-run")
    assert atlas(newcomer, "status first").startswith("first: 0 of ")


def test_the_machine_and_the_study_are_checked(newcomer: Clone) -> None:
    assert "What every study needs is here" in atlas(newcomer, "doctor")
    assert "first can run here" in atlas(newcomer, "doctor --study first")


def test_what_is_published_can_be_read_at_once(newcomer: Clone) -> None:
    """From the records in git, before anything has run."""
    assert "Does Barlow Twins fall after its peak?" in atlas(newcomer, "answer demo")
    assert atlas(newcomer, "status demo").startswith("demo: ")
    assert "difference" in atlas(newcomer, "compare demo:mix demo:bt")
    assert "reports/demo/index.html" in atlas(newcomer, "open demo", BROWSER="true %s")


def test_dvc_tells_of_a_clone_in_few_lines(newcomer: Clone) -> None:
    """What is not here of the studies that have run; beside it, code that is being changed."""
    told = newcomer.run("dvc", "status")
    assert told.returncode == 0, told.stderr
    others = [line for line in told.stdout.splitlines() if "modified: " not in line]
    assert len(others) < 30, others
    assert any("not in cache: " in line and "results/demo/checkpoints" in line for line in others)


def test_dvc_says_what_would_run_once_the_images_are_here(newcomer: Clone) -> None:
    """Before, it asks for their hash (its issue 9818); docs/running.md says what to do."""
    before = newcomer.run("dvc", "repro", "--dry")
    assert "No such file or directory" in before.stderr
    assert "Running stage 'digits'" in before.stdout
    prepared = newcomer.run("dvc", "repro", "digits")
    assert prepared.returncode == 0, prepared.stdout + prepared.stderr
    after = newcomer.run("dvc", "repro", "--dry")
    assert after.returncode == 0, after.stderr
    assert "Running stage 'demo'" in after.stdout
    assert "-- all" in after.stdout


def test_own_images_are_looked_at_before_anything_is_done_with_them(newcomer: Clone) -> None:
    folder = newcomer.folder / "images"
    for part in ("train", "test"):
        for kind in ("cat", "dog"):
            for number in range(12):
                write_image(folder / part / kind / f"{number}.png", size=16, seed=number)
    (folder / "train/cat/notes.txt").write_text("words")
    study = newcomer.folder / "params/mine.yaml"
    own = f"{{name: mine, path: {folder}, stored_size: 8}}"
    study.write_text(f"base: demo.yaml\ntitle: Mine\ndata: {own}\n")
    assert "48 images, left out: 1 no image (.txt)" in atlas(newcomer, "doctor --study mine")
    shutil.rmtree(folder / "test/dog")
    assert "dog" in atlas(newcomer, "doctor --study mine", fails=True)
    assert not os.path.lexists(newcomer.folder / "results/data/mine")
