"""Everything behind `probe`, of what the demo's jobs wrote, with gaps, under a hostile title."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from demo_results import JOB_FILES, RECORDS, write

from barlow_atlas.__main__ import main
from barlow_atlas.study.paths import (
    ANALYSED,
    COLLECTED,
    KEPT_TABLES,
    LEDGER,
    REPORTED,
    is_kept,
)

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
LOST, CUT = "bt-d256-e100-clean-s3", "mix-d256-e100-clean-s2"
SCRIPT = "<script>alert(1)</script>"
TITLE = f'{SCRIPT} & $x_1$ 100 % \\input{{/etc/passwd}} | "quoted" ../../{{{{ 7 * 7 }}}}'
STEPS = ("record", "collect", "analyse", "report")


@pytest.fixture(scope="module")
def gappy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo without one run's results and another's end, under another title; no weights."""
    folder = tmp_path_factory.mktemp("gappy")
    shutil.copytree(ROOT / "params", folder / "params")
    file = folder / "params/demo.yaml"
    kept = [line for line in file.read_text().splitlines() if not line.startswith("title:")]
    quoted = TITLE.replace("'", "''")
    file.write_text("\n".join([*kept, f"title: '{quoted}'", ""]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write(JOB_FILES)
        shutil.rmtree(Path("results/demo/probes") / LOST)
        (Path("results/demo/probes") / CUT / "epoch_0100.json").unlink()
        for step in STEPS:
            assert main([step, "--study", "demo"]) == 0
        assert main(["ledger"]) == 0
    return folder


def test_every_file_is_written_without_weights(gappy: Path) -> None:
    assert {path.name for path in (gappy / "reports/demo").iterdir()} == set(REPORTED)
    assert set(LEDGER) | {"tables", "demo"} == {p.name for p in (gappy / "reports").iterdir()}
    assert not (gappy / "results/demo/checkpoints").exists()


def test_what_is_missing_is_named(gappy: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(gappy)
    assert main(["collect", "--study", "demo"]) == 0
    assert f"7 milestones are not recorded, such as results/demo/probes/{LOST}" in (
        capsys.readouterr().out
    )
    runs = pd.read_csv("results/demo/runs.csv", dtype={"missing": str}).set_index("run")
    assert runs.loc[LOST, "missing"] == "0 5 10 25 50 100"
    assert runs.loc[CUT, "missing"] == "100"
    assert runs["missing"].isna().sum() == 4
    page = Path("reports/demo/index.html").read_text()
    assert "This study is incomplete" in page
    for run in (LOST, CUT):
        assert run in page
        assert run in Path("reports/demo/runs.md").read_text()


def test_effects_are_of_finished_runs_only(gappy: Path) -> None:
    effects = pd.read_csv(gappy / "results/demo/effects.csv")
    last = effects[effects["statistic"] == "last"].set_index(["method", "variant"])
    assert set(last["n"]) == {2}
    # Paired by seed: bt has 1 and 2, mix 1 and 3.
    difference = effects[effects["statistic"] == "difference_last"]
    assert set(difference["n"]) == {1}
    assert difference[["low", "high"]].isna().all(axis=None)
    # What did run is on the curve: two seeds of mix at the end, three before it.
    curves = pd.read_csv(gappy / "results/demo/curves.csv")
    mix = curves[(curves["method"] == "mix") & (curves["metric"] == "top1")]
    assert set(mix[mix["epoch"] == 100]["seeds"]) == {2}
    assert set(mix[mix["epoch"] == 50]["seeds"]) == {3}


def test_claims_say_of_how_many_seeds_they_are(gappy: Path) -> None:
    claims = pd.read_csv(gappy / "results/demo/claims.csv")
    assert set(claims["n"]) <= {0, 1, 2}
    assert claims["note"].notna().all()


def test_a_hostile_title_is_text_everywhere(gappy: Path) -> None:
    for file in (gappy / "reports").rglob("*"):
        if file.suffix in (".html", ".md"):
            assert SCRIPT not in file.read_text(), file
        if file.suffix == ".tex":
            assert "\\input{" not in file.read_text(), file
    assert "&lt;script&gt;alert(1)" in (gappy / "reports/demo/index.html").read_text()
    assert "{{ 7 * 7 }}" in (gappy / "reports/demo/index.html").read_text()


def test_verify_results_sees_every_byte(
    gappy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(gappy)
    assert main(["verify-results", "--study", "demo"]) == 0
    told = capsys.readouterr().out
    assert "1 of 1 studies made anew: demo" in told
    assert "0 are not" in told
    besides = {file for file in REPORTED if not is_kept(Path("reports/demo") / file)}
    tables = {*COLLECTED, *ANALYSED} - {*KEPT_TABLES}
    assert f"{len(besides) + len(tables)} more were made, which git does not hold" in told
    table, figure = Path("reports/demo/effects.md"), Path("reports/demo/map.png")
    kept = table.read_bytes(), figure.read_bytes()
    try:
        table.write_bytes(kept[0].replace(b"0", b"1", 1))
        figure.unlink()
        assert main(["verify-results", "--study", "demo"]) == 1
    finally:
        table.write_bytes(kept[0])
        figure.write_bytes(kept[1])
    told = capsys.readouterr().out
    assert f"{table} differs" in told
    assert f"{figure} is not here" in told
    assert "2 are not" in told


def test_without_any_result_it_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "params", tmp_path / "params")
    monkeypatch.chdir(tmp_path)
    assert main(["collect", "--study", "demo"]) == 1
    assert "no milestone of demo is recorded" in capsys.readouterr().err


def test_a_clone_without_results_has_a_ledger_of_open_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "params", tmp_path / "params")
    monkeypatch.chdir(tmp_path)
    assert main(["ledger"]) == 0
    text = Path("reports/claims.md").read_text()
    assert "not yet run" in text
    assert "reproduced |" not in text
    assert "No study has results yet." in Path("reports/index.html").read_text()


def test_the_ledger_needs_what_git_keeps_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a clone no study has been analysed; the ledger is the same before and after."""
    shutil.copytree(ROOT / "params", tmp_path / "params")
    monkeypatch.chdir(tmp_path)
    write(RECORDS)
    for table in ("effects.csv", "claims.csv"):
        shutil.copy(ROOT / "results/demo" / table, "results/demo")
    assert main(["ledger"]) == 0
    clone = written(tmp_path / "reports")
    assert "results yet" not in Path("reports/index.html").read_text()
    for step in ("collect", "analyse", "ledger"):
        assert main([step, *(["--study", "demo"] if step != "ledger" else [])]) == 0
    assert written(tmp_path / "reports") == clone


def written(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
