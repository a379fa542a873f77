"""The demo study, whole: `dvc repro` in a fresh clone, and what its numbers say."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from fresh_clone import Checkout, Clone

# What pre-training must add to random weights, in points of test top-1. Seen with three seeds:
# kNN (k = 200) +27 to +38, kNN (k = 20) +13 to +18, linear +10 to +18.
MARGINS = {"k=200 T=0.5": 20.0, "k=20 T=0.07": 8.0, "linear": 4.0}


@pytest.fixture(scope="module")
def reproduced(clone: Clone) -> Clone:
    """A clone with committed results and no weights, after `dvc repro`."""
    done = clone.run("dvc", "repro")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-8000:]
    assert len(said.splitlines()) <= 150, said
    return clone


def test_the_demo_really_ran(reproduced: Clone) -> None:
    weights = list(reproduced.folder.glob("results/demo/checkpoints/*/*.safetensors"))
    assert len(weights) == 2 * 3 * 6
    # A job trains three seeds to three milestones.
    assert len(list(reproduced.folder.glob("logs/demo/pretrain/*/*.log"))) == 2 * 2


def test_a_second_repro_and_snakemake_itself_run_nothing(reproduced: Clone) -> None:
    again = reproduced.run("dvc", "repro")
    assert again.returncode == 0
    assert "Data and pipelines are up to date" in again.stdout + again.stderr
    assert reproduced.plan("all") == {}


def test_its_end_says_whether_git_has_the_same_numbers(reproduced: Clone) -> None:
    """Equal ones leave nothing changed; others are what is brought back as the end says."""
    told = reproduced.run("python", "-m", "barlow_atlas", "answer", "demo").stdout
    assert re.search(r"Barlow Twins ends at \d\d\.\d\d.%, Mixed Barlow Twins at \d\d\.\d\d.%", told)
    if not (changed := changes_of_results(reproduced)):
        assert "The same numbers as published here: they are reproduced" in told
        return
    assert "Other numbers than published here (" in told, changed
    (back,) = re.findall(r"`(git checkout -- .*)` brings those back", told)
    other = Checkout(reproduced.folder.parent / "brought_back")
    reproduced.copy_to(other.folder)
    assert other.run(*back.split()).returncode == 0
    assert changes_of_results(other) == ""


def changes_of_results(clone: Checkout) -> str:
    return clone.run("git", "status", "--porcelain", "results", "reports").stdout


def test_both_methods_learn_for_every_seed_and_probe(reproduced: Clone) -> None:
    tidy = pd.read_csv(reproduced.folder / "results/demo/probes.csv")
    test = tidy[(tidy["split"] == "test") & (tidy["metric"] == "top1")]
    kind = test["variant"].where(test["probe"] == "knn", "linear")
    values = test.assign(kind=kind).pivot(index=["method", "seed", "kind"], columns="epoch")
    gain = values["value"][100] - values["value"][0]
    assert len(gain) == 2 * 3 * 3
    for (method, seed, name), points in gain.items():
        assert points >= MARGINS[name], (method, seed, name)


def test_dvc_shows_the_atlas_numbers(reproduced: Clone) -> None:
    shown = reproduced.run("dvc", "metrics", "show", "results/demo/metrics.json", "--json")
    assert shown.returncode == 0, shown.stderr
    metrics = json.loads((reproduced.folder / "results/demo/metrics.json").read_text())
    assert f'"last": {metrics["mix-d256"]["linear standard"]["last"]}' in shown.stdout
    row = reproduced.run("dvc", "metrics", "show", "results/demo/metrics.json").stdout
    assert max(map(len, row.splitlines())) < 200, row
    plotted = reproduced.run("dvc", "plots", "show", "accuracy-demo", "--out", "plots")
    assert plotted.returncode == 0, plotted.stderr
    page = (reproduced.folder / "plots/index.html").read_text()
    assert "mix-d256 knn k=200 T=0.5" in page
    shutil.rmtree(reproduced.folder / "plots")


def test_committed_tables_and_figures_follow_from_committed_records(tmp_path: Path) -> None:
    fresh = Clone(tmp_path)
    for step in ("collect", "analyse", "report"):
        done = fresh.run("python", "-m", "barlow_atlas", step, "--study", "demo")
        assert done.returncode == 0, done.stderr
    changed = fresh.run("git", "status", "--porcelain", "results", "reports").stdout
    assert changed == ""
