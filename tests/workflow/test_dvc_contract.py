"""Sharing by DVC: what a pull, a change and a step back in time cost; docs/sharing.md."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fresh_clone import Checkout

STUDY = "ablations/shared"
STAGE = f"workflow/dvc/{STUDY}/dvc.yaml"
STUDY_FILE = f"params/{STUDY}.yaml"
# A chain without an end, whose milestones are annealed in branches, beside one with four epochs.
PARAMETERS = """\
base: ../demo.yaml
title: Shared
backbone: {name: small, stem: 3x3, width: 8}
methods:
  endless: &bt {objective: barlow_twins, lambda_bt: 0.0078125}
  cosine: *bt
schedule: {name: trunk, base_lr: 0.01, warmup_epochs: 1, cooldown_epochs: 1}
overrides:
  cosine:
    schedule: {name: mix_cosine, base_lr: 0.01, warmup_epochs: 1}
    epochs: 4
embedding_dims: [32]
seeds: [1]
seeds_together: 1
milestones_together: 1
epochs: null
milestones: [0, 2]
probes:
  knn:
    - {k: 20, temperature: 0.07}
  linear: {epochs: 1, batch_size: 256, learning_rates: [0.1], weight_decays: [0.0]}
"""
# What takes seconds: of two runs the records, then the tables and the report.
BEHIND = {"all": 1, "record": 2, "collect": 1, "analyse": 1, "report_study": 1, "ledger": 1}
ALL = {"pretrain": 4, "cool_down": 1, "probe": 4, **BEHIND}
LONG = {"pretrain", "cool_down", "probe"}
ONE_METHOD = {"pretrain": 2, "probe": 2, **BEHIND}


def clone_of(origin: Checkout, folder: Path) -> Checkout:
    """A clone by git, with the code of its own."""
    command = ["git", "clone", "--quiet", str(origin.folder), str(folder)]
    subprocess.run(command, check=True)
    return Checkout(folder)


def do(clone: Checkout, command: str) -> str:
    """A command, which must succeed; returns all it said."""
    author = {
        f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    done = clone.run(*command.split(" "), **author)
    said = done.stdout + done.stderr
    assert done.returncode == 0, f"{command}\n{said[-8000:]}"
    return said


def adopt(clone: Checkout) -> str:
    return do(clone, f"python -m barlow_atlas adopt --study {STUDY}")


def plan(clone: Checkout) -> dict[str, int]:
    return clone.plan("--config", f"study={STUDY}", "--", "all")


def dvc_is_content(clone: Checkout) -> bool:
    """Whether DVC sees no reason to call Snakemake."""
    return "up to date" in do(clone, f"dvc status {STAGE}")


def edit(clone: Checkout, path: str, before: str, after: str) -> None:
    file = clone.folder / path
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after, 1))


def trained(said: str) -> list[str]:
    """What Snakemake said it trains, in order of its words."""
    return sorted(
        line.partition(": ")[2]
        for line in said.splitlines()
        if " Training " in line or " Cooling " in line
    )


@pytest.fixture(scope="module")
def home(clone: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Where the study was run, committed and pushed to a folder."""
    (clone.folder / STUDY_FILE).write_text(PARAMETERS)
    store = tmp_path_factory.mktemp("store")
    do(clone, f"python -m barlow_atlas derive --study {STUDY}")
    do(clone, f"dvc remote add --default store {store}")
    do(clone, f"dvc repro {STAGE}")
    do(clone, "git add --all")
    do(clone, "git commit --quiet --message=results")
    do(clone, f"dvc push --with-deps {STAGE}")
    return clone


@pytest.fixture(scope="module")
def pulled(home: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Another machine, after the pull."""
    copy = clone_of(home, tmp_path_factory.mktemp("pulled") / "clone")
    do(copy, f"dvc pull --with-deps {STAGE}")
    return copy


@pytest.fixture
def away(pulled: Checkout) -> Iterator[Checkout]:
    """The other machine; what a test edits there is undone."""
    yield pulled
    do(pulled, "git checkout --quiet .")


@pytest.fixture(scope="module")
def appended(home: Checkout, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, str]:
    """A third machine, where a milestone was appended right after the pull, and what was said."""
    copy = clone_of(home, tmp_path_factory.mktemp("appended") / "clone")
    do(copy, f"dvc pull --with-deps {STAGE}")
    edit(copy, STUDY_FILE, "[0, 2]", "[0, 2, 3]")
    said = do(copy, f"dvc repro {STAGE}")
    do(copy, "git add --all")
    do(copy, "git commit --quiet --message=appended")
    return copy, said


def test_after_a_pull_dvc_runs_nothing(away: Checkout) -> None:
    assert "Data and pipelines are up to date" in do(away, f"dvc repro {STAGE}")
    assert not (away.folder / ".snakemake").exists()


def test_once_adopted_snakemake_trains_and_probes_nothing(away: Checkout) -> None:
    # Four probe files, and the metrics of five stretches of training.
    assert not (away.folder / f"results/{STUDY}/probes").exists()
    said = adopt(away)
    assert "those of 10 up to date, 10 of them new" in said
    assert "9 files were written from the runs' records" in said
    assert plan(away) == BEHIND
    again = adopt(away)
    assert "0 of them new" in again
    assert "written from" not in again


def test_what_is_adopted_is_watched_by_both(away: Checkout) -> None:
    adopt(away)
    for path, before, after, expected in (
        (STUDY_FILE, "cosine: *bt", "cosine: {<<: *bt, lambda_bt: 0.01}", ONE_METHOD),
        (STUDY_FILE, "k: 20", "k: 21", {"probe": 4, **BEHIND}),
        (STUDY_FILE, "seeds: [1]", "seeds: [1, 2]", {**ALL, "record": 4}),
        ("src/barlow_atlas/nn/views.py", "\n\n\n", "\n\nEDITED = 1\n\n\n", ALL),
    ):
        edit(away, path, before, after)
        assert plan(away) == expected, (path, after)
        assert not dvc_is_content(away)
        do(away, f"git checkout --quiet {path}")
    edit(away, "README.md", "Barlow", "The Barlow")
    assert plan(away) == BEHIND
    assert dvc_is_content(away)


def test_what_no_longer_fits_is_not_adopted(away: Checkout) -> None:
    """Nor does a missing record hide it: without one, Snakemake would not see the change."""
    for before, after, expected in (
        ("cosine: *bt", "cosine: {<<: *bt, lambda_bt: 0.01}", ONE_METHOD),
        ("k: 20", "k: 21", {"probe": 4, **BEHIND}),
    ):
        (away.folder / ".snakemake").rename(away.folder.parent / f"records {before}")
        edit(away, STUDY_FILE, before, after)
        adopt(away)
        assert plan(away) == expected, after
        do(away, f"git checkout --quiet {STUDY_FILE}")
        adopt(away)
        assert plan(away) == BEHIND


def test_what_a_killed_snakemake_left_is_adopted_too(away: Checkout) -> None:
    """Milestones are whole or not there, whatever became of who made them."""
    (away.folder / ".snakemake").rename(away.folder.parent / "records of before")
    milestones = away.folder.glob(f"results/{STUDY}/checkpoints/*/epoch_*.json")
    away.mark_as_begun(*(str(file.relative_to(away.folder)) for file in milestones))
    assert "those of 10 up to date, 10 of them new" in adopt(away)
    assert plan(away) == BEHIND


def test_copied_images_without_a_record_are_named(
    pulled: Checkout, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Copied and not pulled, nothing vouches for them, nor for what was made from them."""
    copy = clone_of(pulled, tmp_path_factory.mktemp("copied") / "clone")
    shutil.copytree(pulled.folder / "results", copy.folder / "results", dirs_exist_ok=True)
    lock = copy.folder / "dvc.lock"
    lock.unlink()
    said = adopt(copy)
    assert "those of 0 up to date" in said
    assert "of results/data/digits neither DVC nor Snakemake has a record" in said
    assert "dvc repro dvc.yaml" in said
    do(copy, f"git checkout --quiet {lock.name}")
    assert "those of 10 up to date, 10 of them new" in adopt(copy)


def test_appending_right_after_a_pull_trains_only_what_is_new(
    appended: tuple[Checkout, str],
) -> None:
    clone, said = appended
    assert trained(said) == [
        "Cooling down endless-d32-trunk-clean-s1 of ablations/shared from epoch 3",
        "Training cosine-d32-e4-clean-s1 of ablations/shared to epoch 3",
        "Training endless-d32-trunk-clean-s1 of ablations/shared to epoch 3",
    ]
    assert said.count(": Probing ") == 2
    assert plan(clone) == {}
    assert dvc_is_content(clone)


def test_inserting_trains_the_later_segments_again(away: Checkout) -> None:
    adopt(away)
    edit(away, STUDY_FILE, "[0, 2]", "[0, 1, 2]")
    assert plan(away) == {"pretrain": 4, "cool_down": 2, "probe": 4, **BEHIND}
    assert "put between others" in do(away, f"python -m barlow_atlas plan --study {STUDY}")


def test_going_back_and_forth_between_commits_trains_nothing(
    appended: tuple[Checkout, str],
) -> None:
    """What takes seconds is made again, and comes out as it was committed."""
    clone, _ = appended
    manifests = "checkpoints/cosine-d32-e4-clean-s1/*.json"
    for commit, milestones in (("HEAD~1", 2), ("-", 3)):
        do(clone, f"git checkout --quiet {commit}")
        do(clone, f"dvc checkout {STAGE}")
        assert len(list((clone.folder / "results" / STUDY).glob(manifests))) == milestones
        adopt(clone)
        assert not LONG & plan(clone).keys()
        assert dvc_is_content(clone)
        clone.snakemake("--config", f"study={STUDY}", "--", "all")
        assert do(clone, "git status --porcelain") == ""
        assert plan(clone) == {}


def test_an_experiment_changes_parameters_and_leaves_the_workspace(away: Checkout) -> None:
    epochs = f"{STUDY_FILE}:overrides.cosine.epochs=3"
    rate = f"{STUDY_FILE}:overrides.cosine.schedule.base_lr=0.02"
    said = do(away, f"dvc exp run --temp --name shorter -S {epochs} -S {rate} {STAGE}")
    assert len(trained(said)) == 2, said
    assert do(away, "git status --porcelain") == ""
    shown = do(away, "dvc exp show --json")
    content = json.loads(shown[shown.index("[") :])
    (shorter,) = [row for row in content[1]["experiments"][0]["revs"] if row["name"] == "shorter"]
    metrics = shorter["data"]["metrics"][f"results/{STUDY}/metrics.json"]["data"]
    assert set(metrics) == {"endless-d32", "cosine-d32"}
    do(away, "dvc exp branch shorter kept")
    for branch in ("kept", "-"):
        do(away, f"git checkout --quiet {branch}")
        do(away, f"dvc checkout {STAGE}")
        adopt(away)
        assert not LONG & plan(away).keys()
        assert dvc_is_content(away)


def test_what_nothing_is_known_of_is_left_as_it_is(away: Checkout) -> None:
    """Images that were prepared by hand, for instance, and have no record of either tool."""
    manifest = away.folder / "results/data/digits/manifest.json"
    (away.folder / ".snakemake").rename(away.folder.parent / "records")
    (away.folder / "dvc.lock").unlink()
    before = manifest.stat().st_mtime
    assert "those of 0 up to date" in adopt(away)
    assert manifest.stat().st_mtime == before


def test_studies_on_the_same_images_share_them(home: Checkout) -> None:
    """Another study's name is no reason to prepare them, and train on them, again."""
    assert home.plan("--config", "study=demo", "--", "results/data/digits/manifest.json") == {}


def test_dvc_reads_all_stages_together(away: Checkout) -> None:
    listed = do(away, "dvc stage list --all --name-only").split()
    data = [name for name in listed if name.startswith("workflow/dvc/data/") or name == "digits"]
    assert f"{STAGE}:shared" in listed
    assert len({name.rpartition(":")[2] for name in data}) == len(data)
    do(away, "dvc dag --dot")
