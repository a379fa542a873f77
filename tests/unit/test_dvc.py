"""DVC's stages watch what Snakemake's rules watch."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from barlow_atlas.workflow.dvc_stages import stage_files

STAGES = stage_files(Path("params"))
FILES = sorted({Path("dvc.yaml"), *Path("params").glob("**/dvc.yaml")})


def test_each_study_and_data_set_has_its_file() -> None:
    assert sorted(STAGES) == FILES


@pytest.mark.parametrize("path", FILES, ids=str)
def test_committed_stages_follow_from_the_studies(path: Path) -> None:
    committed = YAML(typ="safe", pure=True).load(path)
    assert committed == STAGES[path], "run `make derive`"


def test_the_root_holds_the_demo_and_its_data_only() -> None:
    assert set(STAGES[Path("dvc.yaml")]["stages"]) == {"digits", "demo"}


def test_commands_name_no_profile_cores_or_host() -> None:
    for content in STAGES.values():
        for stage in content["stages"].values():
            adopt, snakemake = stage["cmd"]
            study = adopt.removeprefix("python -m barlow_atlas adopt --study ")
            escaped = "snakemake --profile \\${SNAKEMAKE_PROFILE:-profiles/local} "
            assert snakemake.startswith(f"{escaped}--config study={study} -- ")


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
