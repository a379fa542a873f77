"""What is finished is not trained again unasked."""

import json
from pathlib import Path

import pytest
from demo_results import RECORDS, STUDY, write

from barlow_atlas.study.paths import milestone_path, of_run
from barlow_atlas.workflow.replacing import ReplaceError, check_replaced

RUN = "bt-d256-e100-clean-s1"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def with_other_rate() -> object:
    content = STUDY.model_dump(mode="json")
    content["methods"]["bt"]["lambda_bt"] = 0.01
    return type(STUDY).model_validate(content)


def test_nothing_here_and_what_is_as_it_would_be_made_pass() -> None:
    check_replaced("demo", STUDY)
    write(RECORDS)
    check_replaced("demo", STUDY)


def test_records_of_other_values_are_named() -> None:
    write(RECORDS)
    with pytest.raises(ReplaceError) as refused:
        check_replaced("demo", with_other_rate())
    said = str(refused.value)
    assert said.startswith("3 runs of demo are here")
    assert f"{RUN}: recorded with other parameters" in said
    assert "mix-" not in said
    assert "atlas run demo --replace" in said


def test_checkpoints_of_other_code_are_named() -> None:
    manifest = milestone_path(of_run("checkpoints", "demo", RUN), 100, ".json")
    manifest.parent.mkdir(parents=True)
    run = STUDY.run(RUN).model_dump(mode="json")
    manifest.write_text(json.dumps({"run": run, "sources_sha256": "another", "lineage": "x"}))
    with pytest.raises(ReplaceError, match=f"{RUN}: other code"):
        check_replaced("demo", STUDY)
