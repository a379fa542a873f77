"""DVC's stages watch what Snakemake's rules watch."""

import hashlib
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from barlow_atlas.atlas.records import contents
from barlow_atlas.study.file import load_study, study_file
from barlow_atlas.study.paths import (
    ANALYSED,
    COLLECTED,
    KEPT_TABLES,
    REPORTED,
    REPORTS,
    is_kept,
)
from barlow_atlas.workflow.dvc_stages import dvc_file, kept_files, stage_files

PARAMS = Path("params")
STAGES = stage_files(PARAMS, pytest.fail)
FILES = sorted(kept_files(PARAMS, ()))


def test_git_has_the_stages_of_what_has_run_alone() -> None:
    """`dvc status` has lines for each file that any other stage depends on."""
    command = ["git", "ls-files", "--", "dvc.*", "workflow/dvc"]
    tracked = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    stages = {name for name in tracked if name.endswith("dvc.yaml")}
    assert stages == {name.replace(".lock", ".yaml") for name in tracked if name.endswith(".lock")}
    assert set(map(Path, stages)) <= set(STAGES)


def test_a_study_that_is_asked_for_gets_all_stages_it_needs() -> None:
    """Its own, those of its images, and of the study whose milestones it asks."""
    needed = kept_files(PARAMS, ["semi-supervised/cifar10"])
    assert needed - set(FILES) == {
        dvc_file(name) for name in ("semi-supervised/cifar10", "comparison/cifar10")
    }
    images = {f"data/{name}-32" for name in ("aircraft", "dtd", "flowers-102", "traffic-signs")}
    transferred = kept_files(PARAMS, ["transfer/cifar10"])
    assert {dvc_file(part) for part in ("transfer/cifar10", *images)} <= transferred
    assert transferred | needed <= set(STAGES)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_committed_stages_follow_from_the_studies(path: Path) -> None:
    committed = YAML(typ="safe", pure=True).load(path)
    assert committed == STAGES[path], "run `make derive`"


def test_the_root_holds_the_demo_and_its_data_only() -> None:
    assert set(STAGES[Path("dvc.yaml")]["stages"]) == {"digits", "demo"}


def test_commands_name_no_profile_cores_or_host() -> None:
    for content in STAGES.values():
        for stage in content["stages"].values():
            adopt, snakemake, *copied = stage["cmd"]
            study = adopt.removeprefix("python -m barlow_atlas adopt --study ")
            escaped = "snakemake --profile \\${SNAKEMAKE_PROFILE:-profiles/local} "
            assert snakemake.startswith(f"{escaped}--config study={study} replace=true -- ")
            assert all(command.startswith("cp results/data/") for command in copied)


def test_an_output_belongs_to_one_stage() -> None:
    """As the images that several studies share."""
    outputs = [
        path
        for content in STAGES.values()
        for stage in content["stages"].values()
        for output in (*stage["outs"], *stage.get("metrics", ()))
        for path in output
    ]
    assert len(set(outputs)) == len(outputs)


def test_a_lock_names_outputs_of_its_stages_only() -> None:
    for path, content in STAGES.items():
        lock = path.with_suffix(".lock")
        if not lock.is_file():
            continue
        for name, locked in YAML(typ="safe", pure=True).load(lock)["stages"].items():
            stage = content["stages"][name]
            outputs = {
                output for entry in (*stage["outs"], *stage.get("metrics", ())) for output in entry
            }
            assert {entry["path"] for entry in locked["outs"]} == outputs, (lock, name)


def test_what_dvc_leaves_to_git_is_in_git() -> None:
    """An output without a cache that git ignores as well would be nowhere."""
    for name in ("demo", "cifar10-small"):
        for file in (*KEPT_TABLES, "runs/some-run.jsonl"):
            assert not is_ignored(f"results/{name}/{file}")
        for file in REPORTED:
            assert is_ignored(f"reports/{name}/{file}") != is_kept(REPORTS / name / file)
        for table in {*COLLECTED, *ANALYSED} - {*KEPT_TABLES}:
            assert is_ignored(f"results/{name}/{table}")
        assert is_ignored(f"results/{name}/probes/some-run/epoch_0100.json")
        assert is_ignored(f"results/{name}/training/some-run/epoch_0100.jsonl")
    for images in ("digits", "digits/manifest.json", "raw/cifar-10-python.tar.gz"):
        assert is_ignored(f"results/data/{images}")


def test_a_stage_depends_on_nothing_that_a_clone_lacks() -> None:
    """DVC asks for the hash of each dependency before it says what would run."""
    stages = [stage for content in STAGES.values() for stage in content["stages"].values()]
    paths = "\n".join({path for stage in stages for path in stage["deps"]})
    command = ["git", "check-ignore", "--no-index", "--stdin"]
    ignored = subprocess.run(command, input=paths, capture_output=True, text=True, check=False)
    assert ignored.stdout.split() == []
    outputs = {path for stage in stages for output in stage["outs"] for path in output}
    asked = {path for path in paths.split() if path.startswith("results/")}
    assert asked <= outputs


@pytest.mark.parametrize(
    "name",
    [
        *("demo", "cifar10-small", "ablations/few-images-small", "semi-supervised/cifar10-small"),
        "fixed-rate/pilot",
    ],
)
def test_git_has_the_manifest_of_the_images_that_runs_saw(name: str) -> None:
    study = load_study(study_file(PARAMS, name))
    manifest = Path(f"results/data/{study.data.name}.json").read_bytes()
    seen = {content["checkpoint"]["data_sha256"] for content in contents(name, study)}
    assert seen == {hashlib.sha256(manifest).hexdigest()}


def is_ignored(path: str) -> bool:
    command = ["git", "check-ignore", "--no-index", "--quiet", path]
    return subprocess.run(command, check=False).returncode == 0
