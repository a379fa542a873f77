"""A whole study on digits, made small: everything between the study file and the report."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from fresh_clone import SMALL, Checkout, Clone

from barlow_atlas.study.file import load_study
from barlow_atlas.study.paths import REPORTED
from barlow_atlas.tools.watch.activity import folder_of
from barlow_atlas.workflow.jobs import jobs_of, submissions

STUDY = ("--config", "study=small", "--")
RUN = "mix-d64-e6-clean-s2"
ATLAS = ("collect", "analyse", "report_study", "ledger")
REPORT = ("--allowed-rules", "reports", "record", *ATLAS, "--forcerun", "record", "collect", "--")


def probe_file(clone: Checkout, epoch: int) -> dict[str, Any]:
    path = clone.folder / f"results/small/probes/{RUN}/epoch_{epoch:04d}.json"
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_every_point_of_the_map_is_there(finished: Checkout) -> None:
    tidy = pd.read_csv(finished.folder / "results/small/probes.csv")
    runs, milestones, probes, splits, metrics = 4, 3, 3, 2, 2
    assert len(tidy) == runs * milestones * probes * splits * metrics
    assert sorted(tidy["epoch"].unique()) == [0, 4, 6]
    assert tidy["value"].between(0, 100).all()
    curves = pd.read_csv(finished.folder / "results/small/curves.csv")
    assert (curves["seeds"] == 2).all()
    assert (curves["low"] <= curves["mean"]).all()


def test_the_report_is_there_in_all_its_forms(finished: Checkout) -> None:
    reports = finished.folder / "reports/small"
    assert {path.name for path in reports.iterdir()} == set(REPORTED)
    assert "±" in (reports / "milestones.md").read_text()


def test_results_say_what_they_were_made_from(finished: Checkout) -> None:
    checkpoint = finished.folder / f"results/small/checkpoints/{RUN}/epoch_0006.json"
    manifest = json.loads(checkpoint.read_text())
    content = probe_file(finished, 6)
    assert content["checkpoint"]["weights_sha256"] == manifest["weights_sha256"]
    assert content["run"] == manifest["run"]
    assert manifest["made_by"]["code"]["commit"]


def test_the_same_command_again_runs_nothing(finished: Checkout) -> None:
    assert "Nothing to be done" in finished.snakemake(*STUDY, "all")


def test_what_cannot_change_a_number_plans_nothing(finished: Checkout) -> None:
    readme = finished.folder / "README.md"
    readme.write_text(readme.read_text() + "\nMore words.\n")
    for path in finished.folder.glob("src/barlow_atlas/**/*.py"):
        os.utime(path)
    for path in finished.folder.glob("results/small/checkpoints/*/*"):
        os.utime(path)
    assert finished.plan(*STUDY, "all") == {}


def test_changes_plan_what_they_touch_and_no_more(finished: Checkout) -> None:
    folder = finished.folder
    study, views = folder / "params/small.yaml", folder / "src/barlow_atlas/nn/views.py"
    mix = folder / "src/barlow_atlas/objectives/mixed_barlow_twins.py"
    edited = ("\n\n\n", "\n\nEDITED = 1\n\n\n")
    atlas = dict.fromkeys(ATLAS, 1)
    for path, before, after, expected in (
        (study, "k: 20,", "k: 21,", {"probe": 12, "record": 4}),
        (study, "seeds: [1, 2]", "seeds: [1, 2, 3]", {"pretrain": 6, "probe": 6, "record": 2}),
        (study, "[0, 4, 6]", "[0, 4, 5, 6]", {"pretrain": 8, "probe": 8, "record": 4}),
        (study, "lambda_reg: 4.0", "lambda_reg: 2.0", {"pretrain": 6, "probe": 6, "record": 2}),
        (views, *edited, {"pretrain": 12, "probe": 12, "record": 4}),
        (mix, *edited, {"pretrain": 6, "probe": 6, "record": 2}),
    ):
        original = path.read_text()
        path.write_text(original.replace(before, after, 1))
        planned = finished.plan(*STUDY, "all")
        path.write_text(original)
        assert planned == {"all": 1, **expected, **atlas}, (path.name, after)


def test_a_run_made_again_has_the_same_weights_and_metrics(finished: Checkout) -> None:
    before = probe_file(finished, 6)
    record = finished.folder / f"results/small/runs/{RUN}.jsonl"
    recorded = record.read_bytes()
    for kind in ("checkpoints", "probes", "training"):
        shutil.rmtree(finished.folder / f"results/small/{kind}/{RUN}")
    said = finished.snakemake(*STUDY, "all")
    assert said.count(f"done: Training {RUN} of small to epoch ") == 3
    assert "Does Barlow Twins fall after its peak?" in said
    assert record.read_bytes() == recorded, "a repetition would change what git holds"
    after = probe_file(finished, 6)
    assert after["checkpoint"]["lineage"] == before["checkpoint"]["lineage"]
    assert after["results"] == before["results"]


def test_what_is_finished_is_not_trained_again_unasked(finished: Checkout) -> None:
    study = finished.folder / "params/small.yaml"
    original = study.read_text()
    study.write_text(original.replace("lambda_reg: 4.0", "lambda_reg: 2.0"))
    weights = {path: path.read_bytes() for path in finished.folder.glob("results/small/**/*.saf*")}
    atlas = (sys.executable, "-m", "barlow_atlas")
    refused = finished.run(*atlas, "run", "small")
    planned = finished.run(*atlas, "run", "small", "--dry-run")
    study.write_text(original)
    assert refused.returncode != 0
    said = refused.stdout + refused.stderr
    assert "2 runs of small are here, and would be made again in their place" in said
    assert "mix-d64-e6-clean-s1: other parameters: settings" in said
    assert "atlas run small --replace" in said
    assert all(path.read_bytes() == content for path, content in weights.items())
    assert planned.returncode == 0
    assert "pretrain" in planned.stderr
    told = finished.run(*atlas, "status", "small")
    assert told.stdout.startswith("small: 33 of 33 jobs done"), told.stdout + told.stderr


def test_seeds_trained_together_are_what_they_are_alone(finished: Checkout, tmp_path: Path) -> None:
    """One job a group and segment, the same weights; `plan` and `adopt` know of the groups."""
    other = Clone(tmp_path)
    alone = ("seeds_together: 3", "seeds_together: 1")
    together = (alone[0], "seeds_together: 2")
    changes = (together if change == alone else change for change in SMALL)
    other.write_study("small", "demo", *changes)
    # Data, two methods with three milestones each, four records, four steps more.
    planned = other.plan(*STUDY, "all")
    for rule in ("pretrain", "probe"):
        for epoch in (0, 4, 6):
            assert planned.pop(f"{rule}_small_s1_2_epoch_{epoch:04d}") == 2
    assert planned == {"prepare_data": 1, "record": 4} | dict.fromkeys(ATLAS, 1) | {"all": 1}
    told = other.run(sys.executable, "-m", "barlow_atlas", "plan", "--study", "small")
    assert "21 jobs, 0 done, 21 to run" in told.stdout
    # One run's probes ask for both seeds of its method, and bring both.
    probes = [f"results/small/probes/{RUN}/epoch_{epoch:04d}.json" for epoch in (0, 4, 6)]
    other.snakemake(*STUDY, *probes)
    for epoch in (0, 4, 6):
        mine, theirs = probe_file(other, epoch), probe_file(finished, epoch)
        assert mine["checkpoint"]["lineage"] == theirs["checkpoint"]["lineage"]
        assert mine["results"] == theirs["results"]
    assert len(list(tmp_path.glob("results/small/checkpoints/*/*.safetensors"))) == 2 * 3
    assert other.plan(*STUDY, *probes) == {}

    # Regrouped, the jobs after epoch 0 have other inputs: Snakemake would train again.
    study = tmp_path / "params/small.yaml"
    study.write_text(study.read_text().replace("seeds_together: 2", "seeds_together: 1"))
    assert other.plan(*STUDY, *probes)["pretrain"] == 3
    adopted = other.run(sys.executable, "-m", "barlow_atlas", "adopt", "--study", "small")
    # Six segments and six probes, which were of both seeds together.
    assert "12 of them new to Snakemake" in adopted.stdout, adopted.stdout + adopted.stderr
    assert other.plan(*STUDY, *probes) == {}


def test_milestones_trained_together_are_what_they_are_alone(
    finished: Checkout, tmp_path: Path
) -> None:
    """One job for two milestones, the same weights; `plan` and `adopt` know of it."""
    other = Clone(tmp_path)
    alone = ("milestones_together: 3", "milestones_together: 1")
    together = (alone[0], "milestones_together: 2")
    other.write_study("small", "demo", *(together if each == alone else each for each in SMALL))
    # Two methods; two seeds with two stretches each, [0, 4] and [6].
    planned = other.plan(*STUDY, "all")
    for rule in ("pretrain", "probe"):
        for group in ("s1_epoch_0004", "s1_epoch_0006", "s2_epoch_0004", "s2_epoch_0006"):
            assert planned.pop(f"{rule}_small_{group}") == 2
    assert planned == {"prepare_data": 1, "record": 4} | dict.fromkeys(ATLAS, 1) | {"all": 1}
    told = other.run(sys.executable, "-m", "barlow_atlas", "plan", "--study", "small")
    assert "25 jobs, 0 done, 25 to run" in told.stdout, told.stderr
    probes = [f"results/small/probes/{RUN}/epoch_{epoch:04d}.json" for epoch in (0, 4, 6)]
    said = other.snakemake(*STUDY, *probes)
    for told in ("Training {} of small to epoch 4", "Probing {} of small at epochs 0 4"):
        assert f"done: {told.format(RUN)}\n" in said
    study = tmp_path / "params/small.yaml"
    for job in submissions(jobs_of("small", load_study(study))):
        if job.rule in ("pretrain", "probe") and job.run.name == RUN:
            assert list((tmp_path / folder_of("small", job)).glob("*_log.out")), job
    for epoch in (0, 4, 6):
        mine, theirs = probe_file(other, epoch), probe_file(finished, epoch)
        assert mine["checkpoint"]["lineage"] == theirs["checkpoint"]["lineage"]
        assert mine["results"] == theirs["results"]
    assert other.plan(*STUDY, *probes) == {}

    study.write_text(study.read_text().replace(together[1], "milestones_together: 1"))
    adopted = other.run(sys.executable, "-m", "barlow_atlas", "adopt", "--study", "small")
    # All have other rules now.
    assert "6 of them new to Snakemake" in adopted.stdout, adopted.stdout + adopted.stderr
    assert other.plan(*STUDY, *probes) == {}


def test_reports_come_back_from_records_alone(finished: Checkout, tmp_path: Path) -> None:
    """What `make report` does, in a clone that has the records and nothing else."""
    bare = Clone(tmp_path)
    shutil.copy(finished.folder / "params/small.yaml", tmp_path / "params")
    records = Path("results/small/runs")
    shutil.copytree(finished.folder / records, tmp_path / records)
    bare.snakemake(*STUDY[:2], "partial=true", *REPORT, "reports")
    for file in (tmp_path / records).iterdir():
        assert file.read_bytes() == (finished.folder / records / file.name).read_bytes()
    assert not (tmp_path / "results/small/checkpoints").exists()
    assert set(REPORTED) <= {path.name for path in (tmp_path / "reports/small").iterdir()}
    for name in REPORTED:
        made = (tmp_path / "reports/small" / name).read_bytes()
        assert made == (finished.folder / "reports/small" / name).read_bytes(), name


def test_a_study_with_gaps_is_reported_and_completed_later(finished: Checkout) -> None:
    """What `make report` does while jobs are missing; nothing but these is made afterwards."""
    record = finished.folder / f"results/small/runs/{RUN}.jsonl"
    whole = record.read_bytes()
    (finished.folder / f"results/small/probes/{RUN}/epoch_0006.json").unlink()
    finished.snakemake(*STUDY[:2], "partial=true", *REPORT, "reports")
    assert record.read_bytes() == whole, "what was recorded was lost"
    record.unlink()
    finished.snakemake(*STUDY[:2], "partial=true", *REPORT, "reports")
    runs = finished.folder / "results/small/runs.csv"
    page = finished.folder / "reports/small/index.html"
    assert pd.read_csv(runs).set_index("run").loc[RUN, "missing"] == 6
    assert "This study is incomplete" in page.read_text()
    again = dict.fromkeys(("all", "probe", "record", *ATLAS), 1)
    assert finished.plan(*STUDY, "all") == again
    finished.snakemake(*STUDY, "all")
    assert pd.read_csv(runs)["missing"].isna().all()
    assert "This study is incomplete" not in page.read_text()
    assert finished.plan(*STUDY, "all") == {}


def test_snakemakes_own_report_has_the_figures_and_captions(finished: Checkout) -> None:
    finished.snakemake(*STUDY[:2], "--report", "report.html")
    page = (finished.folder / "report.html").read_text()
    assert "docs/reports.md says how to read it" in page
    assert "accuracy along pre-training" in page


def test_the_reference_protocol_runs_and_says_so(finished: Checkout) -> None:
    finished.write_study(
        "published",
        "small",
        ("protocol: clean", "protocol: reference"),
        ("epochs: 100\n    batch_size: 256", "epochs: 2\n    batch_size: 256"),
        ("learning_rates: [0.1, 0.03, 0.01, 0.003]", "learning_rates: [0.01]"),
        ("weight_decays: [0.0, 1e-4]", "weight_decays: [5e-6]"),
    )
    target = "results/published/probes/bt-d64-e6-reference-s1/epoch_0004.json"
    finished.snakemake("--config", "study=published", "--", target)
    content = json.loads((finished.folder / target).read_text())
    assert content["run"]["protocol"] == "reference"
    assert {result["split"] for result in content["results"]} == {"test"}
    settings = content["results"][-1]["settings"]
    assert settings["batch_norm"] == "batch statistics while training"


def test_a_failing_run_is_reported_and_does_not_stop_the_others(finished: Checkout) -> None:
    finished.write_study(
        "failing",
        "small",
        ("seeds: [1, 2]", "seeds: [1]"),
        ("base_lr: 0.01", "base_lr: 1e30"),
        ("milestones: [0, 4, 6]", "milestones: [0, 1]"),
    )
    command = ("snakemake", "--profile", "profiles/local", "--config", "study=failing")
    done = finished.run(*command, "--", "all")
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "the loss is not finite at epoch 1, step" in said
    assert "Likely causes: a learning rate that is too high" in said
    assert len(list(finished.folder.glob("results/failing/probes/*/epoch_0000.json"))) == 2
