"""How each run was made, and the chain of hashes behind it, from probe files alone."""

import copy
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from demo_results import RECORDED, milestone_of

from barlow_atlas.atlas.runs import (
    CHAIN_COLUMNS,
    RUN_COLUMNS,
    UNCHECKED,
    ChainError,
    chain_table,
    content_of,
    runs_table,
)
from barlow_atlas.study.file import load_study
from barlow_atlas.study.lineage import lineage
from barlow_atlas.study.models import Run

STUDY = load_study(Path("params/demo.yaml"))
PLANNED = {run.name: STUDY.milestones_of(run) for run in STUDY.runs()}
NAME = "mix-d256-e100-clean-s2"
EPOCHS = (0, 5, 10, 25, 50, 100)


@pytest.fixture
def contents() -> list[dict[str, Any]]:
    """The demo's own milestones, each by itself."""
    return [copy.deepcopy(content) for content in RECORDED]


def of(contents: Sequence[dict[str, Any]], name: str, epoch: int) -> dict[str, Any]:
    (found,) = [c for c in contents if (c["name"], c["epoch"]) == (name, epoch)]
    return found


def relinked(content: dict[str, Any], run: Run, **changes: Any) -> dict[str, Any]:
    """A probe file whose checkpoint was changed, and whose lineage follows from the change."""
    checkpoint = content["checkpoint"] | changes
    keys = ("epoch", "weights_sha256", "data_sha256", "sources_sha256", "parent")
    checkpoint["lineage"] = lineage(run, *(checkpoint[key] for key in keys))
    return content | {"checkpoint": checkpoint}


def test_a_row_a_run_with_what_its_probe_files_say(contents: list[dict[str, Any]]) -> None:
    table = runs_table(PLANNED, contents)
    assert list(table.columns) == RUN_COLUMNS
    assert list(table["run"]) == list(PLANNED)
    row = table.set_index("run").loc[NAME]
    files = [milestone_of(NAME, epoch) for epoch in EPOCHS]
    made = [file["checkpoint"]["made_by"] for file in files]
    assert row["seconds"] == pytest.approx(sum(entry["seconds"] for entry in made))
    assert (row["method"], row["embedding_dim"], row["epochs"], row["seed"]) == ("mix", 256, 100, 2)
    assert (row["milestones"], row["planned"], row["missing"]) == (6, 6, "")
    assert row["commit"] == made[0]["code"]["commit"]
    assert row["torch"] == made[0]["libraries"]["torch"]
    assert row["lineage"] == files[-1]["checkpoint"]["lineage"]
    assert row["weights_sha256"] == files[-1]["checkpoint"]["weights_sha256"]


def test_missing_milestones_are_named_and_missing_runs_are_rows(
    contents: list[dict[str, Any]],
) -> None:
    gone = {(NAME, 50), (NAME, 100)}
    left = [c for c in contents if (c["name"], c["epoch"]) not in gone and c["run"]["seed"] != 3]
    table = runs_table(PLANNED, left).set_index("run")
    assert table.loc[NAME, "missing"] == "50 100"
    assert table.loc[NAME, "milestones"] == 4
    assert table.loc[NAME, "lineage"] == of(contents, NAME, 25)["checkpoint"]["lineage"]
    empty = table.loc["bt-d256-e100-clean-s3"]
    assert (empty["milestones"], empty["planned"]) == (0, 6)
    assert empty["missing"] == "0 5 10 25 50 100"
    assert empty.drop(["milestones", "planned", "missing"]).isna().all()


def test_whole_numbers_stay_whole_in_csv_where_a_run_has_none(
    contents: list[dict[str, Any]],
) -> None:
    text = runs_table(PLANNED, contents[:6]).to_csv(index=False)
    first, *_ = list(pd.read_csv(io.StringIO(text), dtype=str)["embedding_dim"])
    assert first == "256"


def test_milestones_made_in_several_ways_are_all_named(contents: list[dict[str, Any]]) -> None:
    changed = copy.deepcopy(of(contents, NAME, 50))
    changed["checkpoint"]["made_by"] |= {
        "code": {"commit": "f" * 40, "changed": True},
        "device": "NVIDIA <A100> | 80GB",
    }
    others = [c for c in contents if (c["name"], c["epoch"]) != (NAME, 50)]
    row = runs_table(PLANNED, [changed, *others]).set_index("run").loc[NAME]
    first = of(contents, NAME, 0)["checkpoint"]["made_by"]["code"]["commit"]
    assert row["commit"] == f"{first}; {'f' * 40}"
    assert row["device"] == "cpu; NVIDIA <A100> | 80GB"
    assert bool(row["changed"]) is True


def test_a_wheel_has_no_commit(contents: list[dict[str, Any]]) -> None:
    for content in contents:
        content["checkpoint"]["made_by"]["code"] = None
    table = runs_table(PLANNED, contents)
    assert table["commit"].isna().all()
    assert table["changed"].isna().all()


def test_no_runs_and_no_files_keep_their_columns() -> None:
    assert list(runs_table({}, []).columns) == RUN_COLUMNS
    assert list(chain_table({}, []).columns) == CHAIN_COLUMNS
    assert chain_table(PLANNED, []).empty


def test_the_demo_is_one_chain_from_each_seed(contents: list[dict[str, Any]]) -> None:
    table = chain_table(PLANNED, contents)
    assert len(table) == 36
    own = table[table["run"] == NAME]
    assert list(own["follows"]) == ["seed", *(f"epoch {epoch}" for epoch in EPOCHS[:-1])]
    # The hash written out, for one milestone.
    last = own.iloc[-1]
    run = STUDY.run(NAME)
    hashed = "\n".join(
        [
            run.model_dump_json(),
            "100",
            last["weights_sha256"],
            last["data_sha256"],
            last["sources_sha256"],
            own.iloc[-2]["lineage"],
        ]
    )
    assert last["lineage"] == hashlib.sha256(hashed.encode()).hexdigest()


@pytest.mark.parametrize("key", ["weights_sha256", "data_sha256", "sources_sha256", "parent"])
def test_an_edited_hash_is_refused_by_name(contents: list[dict[str, Any]], key: str) -> None:
    of(contents, NAME, 25)["checkpoint"][key] = "0" * 64
    with pytest.raises(ChainError, match=rf"{NAME}, epoch 25: the probe file has lineage"):
        chain_table(PLANNED, contents)


def test_edited_parameters_are_refused_by_name(contents: list[dict[str, Any]]) -> None:
    of(contents, NAME, 10)["run"]["settings"]["lambda_reg"] = 2.0
    with pytest.raises(ChainError, match=rf"{NAME}, epoch 10"):
        chain_table(PLANNED, contents)
    of(contents, NAME, 10)["run"]["settings"]["lambda_reg"] = "<script>"
    with pytest.raises(ChainError, match=rf"{NAME}, epoch 10: its parameters are not those"):
        chain_table(PLANNED, contents)


def test_a_milestone_of_another_training_is_refused_though_its_own_hash_holds(
    contents: list[dict[str, Any]],
) -> None:
    run = STUDY.run(NAME)
    assert isinstance(run, Run)
    place = contents.index(of(contents, NAME, 50))
    contents[place] = relinked(contents[place], run, weights_sha256="1" * 64)
    with pytest.raises(ChainError, match=rf"{NAME}, epoch 100: it follows from"):
        chain_table(PLANNED, contents)


def test_two_files_of_one_milestone_must_agree(contents: list[dict[str, Any]]) -> None:
    run = STUDY.run(NAME)
    assert isinstance(run, Run)
    last = of(contents, NAME, 100)
    assert len(chain_table(PLANNED, [*contents, last])) == 36
    with pytest.raises(ChainError, match=rf"{NAME}, epoch 100: two files"):
        chain_table(PLANNED, [*contents, relinked(last, run, weights_sha256="1" * 64)])


def test_without_the_milestone_before_nothing_is_said_of_it(
    contents: list[dict[str, Any]],
) -> None:
    left = [c for c in contents if c["epoch"] != 25]
    follows = chain_table(PLANNED, left).set_index(["run", "epoch"])["follows"]
    assert follows[NAME, 50] == UNCHECKED
    assert follows[NAME, 100] == "epoch 50"


def test_older_probe_files_have_a_lineage_only(contents: list[dict[str, Any]]) -> None:
    for content in contents:
        kept = ("weights_sha256", "lineage", "made_by")
        content["checkpoint"] = {key: content["checkpoint"][key] for key in kept}
    table = chain_table(PLANNED, contents)
    assert set(table["follows"]) == {UNCHECKED}
    assert table["parent"].isna().all()
    assert runs_table(PLANNED, contents)["data_sha256"].isna().all()


def test_branches_of_a_trunk_hang_on_it_once_its_manifests_are_here() -> None:
    study = load_study(Path("params/ablations/digits-budget.yaml"))
    run = next(run for run in study.trained() if run.cooldown_epochs)
    planned = {run.name: study.milestones_of(run)[:3]}
    trunk, branches, parent = [], [], None
    for epoch in planned[run.name]:
        base = {
            "study": "s",
            "name": run.name,
            "epoch": epoch,
            "run": run.model_dump(mode="json"),
            "checkpoint": {"cooldown_epochs": 0},
        }
        hashes = {
            "epoch": epoch,
            "weights_sha256": f"{epoch}",
            "data_sha256": "d",
            "sources_sha256": "s",
        }
        own = relinked(base, run, **hashes, parent=parent)
        before, parent = parent, own["checkpoint"]["lineage"]
        trunk.append(own)
        cooled = {"weights_sha256": f"{epoch} cooled", "cooldown_epochs": run.cooldown_epochs}
        branches.append(relinked(base, run, **(hashes | cooled), parent=parent) if epoch else own)
    alone = chain_table(planned, branches)
    assert list(alone["follows"]) == ["seed", UNCHECKED, UNCHECKED]
    manifests = [
        {"format": 1, "study": "s", "run": content["run"], **content["checkpoint"]}
        for content in trunk
    ]
    whole = chain_table(planned, [*branches, *map(content_of, manifests)])
    first, second, third = planned[run.name]
    assert list(zip(whole["epoch"], whole["cooldown_epochs"], whole["follows"], strict=True)) == [
        (first, 0, "seed"),
        (second, 0, f"epoch {first}"),
        (second, run.cooldown_epochs, f"epoch {second}"),
        (third, 0, f"epoch {second}"),
        (third, run.cooldown_epochs, f"epoch {third}"),
    ]
    wrong = relinked(branches[2], run, parent=before)
    with pytest.raises(ChainError, match=rf"epoch {third}: it follows from"):
        chain_table(planned, [*trunk, wrong])


def test_imported_weights_follow_from_nothing() -> None:
    study = STUDY.model_copy(update={"foreign": {}})
    text = json.loads(study.model_dump_json())
    text["foreign"] = {
        "published": {
            "layout": "torchvision",
            "files": {"7": "w.pth", "9": "v.pth"},
            "backbone": {"name": "resnet18", "stem": "3x3"},
        }
    }
    (run,) = type(study).model_validate_json(json.dumps(text)).imported()
    contents = []
    for epoch in (7, 9):
        hashes = {"weights_sha256": "w", "data_sha256": "d", "sources_sha256": "s", "parent": None}
        digest = lineage(run, epoch, "w", "d", "s", None)
        made = {"seconds": 0.0, "libraries": {}, "code": None, "python": "3"}
        contents.append(
            {
                "study": "s",
                "name": run.name,
                "epoch": epoch,
                "run": run.model_dump(mode="json"),
                "checkpoint": {"epoch": epoch, "lineage": digest, "made_by": made, **hashes},
            }
        )
    assert list(chain_table({run.name: (7, 9)}, contents)["follows"]) == ["imported", "imported"]
    (row,) = runs_table({run.name: (7, 9)}, contents).to_dict("records")
    assert (row["embedding_dim"], row["epochs"]) == (0, 0)
