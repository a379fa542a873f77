"""What the demo's end says of numbers that git has, when the demo was trained here again."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from demo_results import RECORDS, STUDY, milestone_of, write

from barlow_atlas.atlas.records import Record, encoded, recorded
from barlow_atlas.study.paths import probed_milestone, record_file
from barlow_atlas.tools.repetition import told

LAST = {run.name: milestone_of(run.name, 100) for run in STUDY.runs()}
SAME = "The same numbers as published here: they are reproduced"
BACK = "`git checkout -- results/demo reports` brings those back"


@pytest.fixture(autouse=True)
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's records in git, below the root of a repository."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(("git", "init", "-q"), check=True)
    (tmp_path / "clone").mkdir()
    monkeypatch.chdir(tmp_path / "clone")
    write(RECORDS)
    author = ("-c", "user.name=t", "-c", "user.email=t@t")
    for arguments in (("add", "."), (*author, "commit", "-qm", "all")):
        subprocess.run(("git", *arguments), check=True)


def train(**changes: Any) -> None:
    """Leaves the manifests of a training of today: of the published weights, but for changes."""
    for run in STUDY.runs():
        checkpoint = LAST[run.name]["checkpoint"]
        made_by = checkpoint["made_by"] | {"seconds": 1.5, "code": {"commit": "later"}}
        manifest = probed_milestone("demo", run, 100)
        manifest.parent.mkdir(parents=True)
        manifest.write_text(json.dumps(checkpoint | {"made_by": made_by} | changes))


def record(change: Callable[[dict[str, Any]], None]) -> None:
    """Records what came out otherwise in the last milestone of each run, as the jobs do."""
    for run in STUDY.runs():
        known = recorded("demo", run)
        content = json.loads(json.dumps(known.milestones[100]))
        change(content)
        now = Record(content["run"], known.training, {**known.milestones, 100: content})
        record_file("demo", run.name).write_bytes(encoded("demo", run.name, now))
        manifest = probed_milestone("demo", run, 100)
        manifest.parent.mkdir(parents=True)
        manifest.write_text(json.dumps(content["checkpoint"]))


def other_weights(content: dict[str, Any]) -> None:
    content["checkpoint"]["weights_sha256"] = "others"
    content["checkpoint"]["made_by"]["seconds"] = 1.5


def test_equal_numbers_are_said_to_be_reproduced() -> None:
    train()
    assert told("demo", STUDY) == SAME


def test_where_nothing_was_trained_again_nothing_is_said() -> None:
    assert told("demo", STUDY) == ""
    for run in STUDY.runs():  # such as pulled weights
        manifest = probed_milestone("demo", run, 100)
        manifest.parent.mkdir(parents=True)
        manifest.write_text(json.dumps(LAST[run.name]["checkpoint"]))
    assert told("demo", STUDY) == ""


def test_what_has_not_been_recorded_yet_is_not_spoken_of() -> None:
    """Weights of a training that still runs, or whose record was brought back from git."""
    train(weights_sha256="others")
    assert told("demo", STUDY) == ""


def test_what_git_does_not_have_is_not_spoken_of(monkeypatch: pytest.MonkeyPatch) -> None:
    train()
    monkeypatch.setenv("PATH", "")
    assert told("demo", STUDY) == ""
    monkeypatch.undo()
    assert told("another", STUDY) == ""


def test_other_numbers_of_the_same_code_and_versions_are_the_processors() -> None:
    record(other_weights)
    why = "same code, same versions: processors round differently"
    assert told("demo", STUDY) == f"Other numbers than published here ({why}); {BACK}"


def test_accuracies_alone_are_other_numbers_too() -> None:
    def change(content: dict[str, Any]) -> None:
        content["results"][-1]["top1"] -= 0.5
        content["checkpoint"]["made_by"]["seconds"] = 1.5

    record(change)
    assert told("demo", STUDY).startswith("Other numbers")


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("checkpoint", "made_by", "libraries", "torch"), "2.99.0", "torch {} there, 2.99.0 here"),
        (("checkpoint", "made_by", "python"), "3.99.1", "python {} there, 3.99.1 here"),
        (("checkpoint", "made_by", "device"), "cuda", "device {} there, cuda here"),
        (("checkpoint", "sources_sha256"), "later", "other code"),
        (("checkpoint", "data_sha256"), "later", "other images"),
        (("run", "batch_size"), 7, "other parameters"),
        (("asked", "knn"), [], "other probes"),
    ],
)
def test_what_differs_is_named(place: tuple[str, ...], value: object, said: str) -> None:
    def change(content: dict[str, Any]) -> None:
        other_weights(content)
        *parents, last = place
        for parent in parents:
            content = content[parent]
        content[last] = value

    published: Any = LAST["bt-d256-e100-clean-s1"]
    for key in place:
        published = published[key]
    record(change)
    named = said.format(published)
    assert told("demo", STUDY) == f"Other numbers than published here ({named}); {BACK}"
