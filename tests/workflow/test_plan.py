"""Planning: what a fresh clone would run, without data, weights, GPU or cluster."""

import shutil
import time
from pathlib import Path

from fresh_clone import Clone
from small_data import write_image

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
    # Of each method three milestones of three seeds are trained together, and probed together.
    for rule in ("pretrain", "probe"):
        assert planned[f"{rule}_demo_s1_2_3_epoch_0010"] == 2
        assert planned[f"{rule}_demo_s1_2_3_epoch_0100"] == 2


def test_what_a_killed_snakemake_left_is_planned_again(clone: Clone) -> None:
    """Not refused until somebody says --rerun-incomplete."""
    page = "reports/demo/index.html"
    clone.mark_as_begun(page)
    try:
        done = clone.run("snakemake", "--dry-run", "--", page)
    finally:
        shutil.rmtree(clone.folder / ".snakemake/incomplete")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "report_study" in done.stdout


def test_an_unknown_study_is_named_with_the_nearest(clone: Clone) -> None:
    done = clone.run("snakemake", "--dry-run", "--config", "study=cifar-10")
    assert done.returncode != 0
    assert "params/cifar-10.yaml does not exist" in done.stderr + done.stdout
    assert "Did you mean 'cifar10'?" in done.stderr + done.stdout


def test_a_broken_study_stops_no_other(clone: Clone) -> None:
    """It is named, and what is compared goes on without it."""
    broken = [clone.folder / f"params/{name}.yaml" for name in ("half-written", "latin")]
    broken[0].write_text("title: Not yet\n")
    broken[1].write_bytes("title: caf\u00e9\n".encode("latin1"))
    first = "results/demo/checkpoints/bt-d256-e100-clean-s1/epoch_0000.json"
    steps = (("plan", "--study", "demo"), ("runs", "--study", "demo"), ("derive",), ("ledger",))
    try:
        start = clone.run("snakemake", "--dry-run", "--", first)
        job = clone.run("snakemake", "--mode", "remote", "--cores=1", "--dry-run", "--", first)
        done = [clone.run("python", "-m", "barlow_atlas", *step) for step in steps]
        own = clone.run("snakemake", "--dry-run", "--config", "study=latin")
    finally:
        for file in broken:
            file.unlink()
    for each in (start, job, *done):
        assert each.returncode == 0, each.stdout + each.stderr
    for each in (start, *done[2:]):
        assert "params/half-written.yaml: data is missing. (and " in each.stdout + each.stderr
        assert "params/latin.yaml is not valid YAML" in each.stdout + each.stderr
    assert own.returncode != 0
    assert "params/latin.yaml is not valid YAML" in own.stdout + own.stderr


def test_an_unknown_key_of_config_is_refused_with_the_nearest(clone: Clone) -> None:
    done = clone.run("snakemake", "--dry-run", "--config", "studdy=cifar10")
    assert done.returncode != 0
    assert "unknown key of --config 'studdy'. Did you mean 'study'?" in done.stdout + done.stderr


def test_sizes_that_cannot_work_are_refused_before_any_job(clone: Clone) -> None:
    study = clone.folder / "params/too-large.yaml"
    study.write_text("base: demo.yaml\nbatch_size: 4096\n")
    told = "too-large: bt: batch_size = 4096 is more than the 1,150 images of digits"
    try:
        done = [
            clone.run("snakemake", "--dry-run", "--config", "study=too-large"),
            *(
                clone.run("python", "-m", "barlow_atlas", step, "--study", "too-large")
                for step in ("runs", "plan", "doctor")
            ),
        ]
    finally:
        study.unlink()
    for each in done:
        assert each.returncode == 1
        assert told in each.stdout + each.stderr


def test_a_changed_folder_of_images_is_told_by_a_dry_run(clone: Clone, tmp_path: Path) -> None:
    for place, name in enumerate(("train/a", "train/b", "test/a", "test/b") * 40):
        write_image(tmp_path / f"pets/{name}/{place}.png", 8, seed=place)
    study = clone.folder / "params/pets.yaml"
    probes = "probes: {knn: {k: 5, temperature: null}}"
    data = f"data: {{name: pets, path: {tmp_path / 'pets'}, stored_size: 8}}"
    study.write_text(f"base: demo.yaml\n{data}\nbatch_size: 64\n{probes}\n")
    dry_run = ("snakemake", "--dry-run", "--config", "study=pets")
    try:
        clone.run("python", "-m", "barlow_atlas", "prepare-data", "--study", "pets")
        before = clone.run(*dry_run)
        (tmp_path / "pets/train/a/0.png").unlink()
        after = clone.run(*dry_run)
    finally:
        study.unlink()
    assert before.returncode == after.returncode == 0, before.stdout + before.stderr
    assert "has changed since" not in before.stdout + before.stderr
    assert "159 images, 160 were prepared" in after.stdout + after.stderr
