"""DVC's stages watch what Snakemake's rules watch."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from barlow_atlas.dvc_stages import stage_files
from barlow_atlas.study import load_study

STAGES = stage_files(
    {path.stem: load_study(path) for path in sorted(Path("params").glob("*.yaml"))}
)
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
            assert stage["cmd"].startswith("snakemake --profile \\${SNAKEMAKE_PROFILE:-")
