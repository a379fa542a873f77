"""Planning: what a fresh clone would run, without data, weights, GPU or cluster."""

import time

from fresh_clone import Clone

from barlow_atlas.study.file import load_study

PAPER = ("cifar10", "cifar100", "tiny-imagenet", "stl10")


def test_the_slurm_profile_plans_the_papers_studies_in_seconds_without_torch(clone: Clone) -> None:
    started = time.monotonic()
    done = clone.run(
        *("snakemake", "--profile", "slurm", "--dry-run", "all"), PYTHONPROFILEIMPORTTIME="1"
    )
    took = time.monotonic() - started
    assert done.returncode == 0, done.stderr[-4000:]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "barlow_atlas.study" in imported
    assert not {"torch", "submitit"} & imported
    assert took < 30


def test_every_run_milestone_and_data_set_is_planned(clone: Clone) -> None:
    studies = [load_study(clone.folder / f"params/{name}.yaml") for name in PAPER]
    segments = sum(len(study.runs()) * len(study.milestones) for study in studies)
    assert clone.plan("all", profile="slurm") == {
        "all": 1,
        "prepare_data": 4,
        "pretrain": segments,
        "probe": segments,
        "record": sum(len(study.runs()) for study in studies),
        "collect": 4,
        "analyse": 4,
        "report_study": 4,
        "ledger": 1,
    }


def test_config_overrides_the_profiles_studies(clone: Clone) -> None:
    planned = clone.plan("--config", "study=cifar10", "--", "all", profile="slurm")
    assert planned["pretrain"] == 72


def test_committed_results_do_not_satisfy_a_clone_without_weights(clone: Clone) -> None:
    assert list(clone.folder.glob("results/demo/runs/*.jsonl"))
    assert not (clone.folder / "results/demo/checkpoints").exists()
    planned = clone.plan("all")
    assert (planned["pretrain"], planned["probe"]) == (36, 36)


def test_an_unknown_study_is_named_with_the_nearest(clone: Clone) -> None:
    done = clone.run("snakemake", "--dry-run", "--config", "study=cifar-10")
    assert done.returncode != 0
    assert "params/cifar-10.yaml does not exist" in done.stderr + done.stdout
    assert "Did you mean 'cifar10'?" in done.stderr + done.stdout


def test_a_broken_study_stops_a_start_but_no_job_of_another_study(clone: Clone) -> None:
    """A study may be written while others run: what is submitted reads its own study only."""
    broken = clone.folder / "params/half-written.yaml"
    broken.write_text("title: Not yet\n")
    first = "results/demo/checkpoints/bt-d256-e100-clean-s1/epoch_0000.json"
    try:
        start = clone.run("snakemake", "--dry-run", "--", first)
        job = clone.run("snakemake", "--mode", "remote", "--cores=1", "--dry-run", "--", first)
    finally:
        broken.unlink()
    assert start.returncode != 0
    assert "params/half-written.yaml" in start.stdout + start.stderr
    assert job.returncode == 0, job.stdout + job.stderr
