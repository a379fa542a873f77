"""That Snakemake and DVC still have what `workflow/private.py` takes from them."""

import subprocess
import sys
from pathlib import Path

import pytest

from barlow_atlas.workflow.private import Record, SnakemakeRecords, stage_status

SNAKEFILE = """
rule copied:
    input: "given.txt"
    output: "made.txt"
    shell: "cp {input} {output}"
"""
STAGE = """
stages:
  copied:
    cmd: cp given.txt made.txt
    deps: [given.txt]
    params: [{params.yaml: [size]}]
    outs: [made.txt]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("given.txt").write_text("given")
    return tmp_path


def do(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_snakemake_remembers_what_it_made_and_from_what(folder: Path) -> None:
    Path("Snakefile").write_text(SNAKEFILE)
    made = Path("made.txt")
    assert SnakemakeRecords().of(made) is None
    do("snakemake", "--cores", "1", "made.txt")
    records = SnakemakeRecords()
    assert records.of(made) == Record(
        made.stat().st_mtime, frozenset({Path("given.txt")}), "copied"
    )
    records.forget(made)
    assert SnakemakeRecords().of(made) is None


@pytest.mark.slow
def test_dvc_tells_what_differs_from_its_record(folder: Path) -> None:
    file = Path("dvc.yaml")
    file.write_text(STAGE)
    Path("params.yaml").write_text("size: 1")
    do("dvc", "init", "--no-scm", "--quiet")
    assert stage_status(file, "copied") is None
    do("dvc", "repro", "--quiet")
    assert stage_status(file, "copied") == {}
    Path("given.txt").write_text("changed")
    Path("params.yaml").write_text("size: 2")
    found = stage_status(file, "copied")
    assert found is not None
    assert found.keys() == {"given.txt", "params.yaml"}
    assert found["params.yaml"].keys() == {"size"}
