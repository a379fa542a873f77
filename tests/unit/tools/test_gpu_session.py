"""The command for a lent GPU, as far as a CPU can try it: limits, results, and a dry run."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from barlow_atlas.study.file import load_study
from barlow_atlas.study.paths import PARAMS
from barlow_atlas.tools.costs import (
    cost_of,
    measured_on,
    processor,
    read_measurements,
    step_shape,
)

sys.path.append("benchmarks")
from gpu_session import GPU_TESTS, TOTAL_S, Part, main, parts, session


def told(folder: Path) -> list[dict[str, str]]:
    return [dict(row) for row in json.loads((folder / "session.json").read_text())]


def bash(name: str, script: str, limit_s: float = 20, needs_data: bool = False) -> Part:
    return Part(name, ("bash", "-c", script), limit_s, needs_data)


def test_each_part_is_told_however_it_ends(tmp_path: Path) -> None:
    chosen = [
        bash("good", "echo well"),
        bash("bad", "echo badly >&2; exit 3"),
        bash("slow", f"sleep 60 & echo $! > {tmp_path}/pid; wait", limit_s=4),
        bash("unfed", "true", needs_data=True),
        bash("last", f"cp {tmp_path}/session.json {tmp_path}/before"),
    ]
    assert session(tmp_path, chosen, 60, None) == 3
    statuses = {row["name"]: row["status"] for row in told(tmp_path)}
    assert statuses == {
        "good": "passed",
        "bad": "failed",
        "slow": "late",
        "unfed": "left out: it needs --data",
        "last": "passed",
    }
    assert (tmp_path / "good.log").read_text() == "well\n"
    assert (tmp_path / "bad.log").read_text() == "badly\n"
    # What was known is written before the next part begins, and what was late is gone.
    assert len(json.loads((tmp_path / "before").read_text())) == 4
    left = int((tmp_path / "pid").read_text())
    assert not alive(left)


def test_what_stands_still_in_a_group_of_its_own_ends_as_well(tmp_path: Path) -> None:
    # Job control gives what it starts a process group, as apart.py does.
    script = f"set -m; sleep 600 & kill -STOP $!; echo $! > {tmp_path}/pid; sleep 600"
    assert session(tmp_path, [bash("still", script, limit_s=4)], 60, None) == 1
    assert not alive(int((tmp_path / "pid").read_text()))


def alive(pid: int) -> bool:
    end = time.monotonic() + 5
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return False
        if state in "ZX":
            return False
        time.sleep(0.02)
    return True


def test_no_part_begins_without_time_and_data_reaches_those_that_do(tmp_path: Path) -> None:
    part = bash("one", 'echo "$BARLOW_ATLAS_DATA"', needs_data=True)
    assert session(tmp_path, [part], 60, tmp_path) == 0
    assert (tmp_path / "one.log").read_text() == f"{tmp_path}\n"
    assert session(tmp_path, [part], 0, tmp_path) == 1
    assert [row["status"] for row in told(tmp_path)] == ["left out: no time was left"]


def test_limits_fit_into_the_lent_time_and_tests_exist() -> None:
    assert sum(part.limit_s for part in parts(Path("to"), dry=False)) <= TOTAL_S
    assert all(Path(test.partition("::")[0]).is_file() for test in GPU_TESTS)
    function = GPU_TESTS[1].partition("::")[2]
    assert f"def {function}(" in Path("tests/unit/nn/test_views.py").read_text()


@pytest.mark.slow
def test_a_dry_session_agrees_measures_trains_and_plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = ["machine", "agreement", "speed", "chain", "costs"]
    command = ["gpu_session.py", "--dry", "--to", str(tmp_path), "--only", *chosen]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    failed = main()
    assert not failed, "\n".join(each.read_text()[-2000:] for each in tmp_path.glob("*.log"))
    assert [(row["name"], row["status"]) for row in told(tmp_path)] == [
        (name, "passed") for name in chosen
    ]
    agreed = json.loads((tmp_path / "agreement.json").read_text())
    assert [row["largest_loss_apart"] for row in agreed] == [0, 0]
    measured = json.loads((tmp_path / "performance.json").read_text())
    names = [row["name"] for row in measured["records"]]
    assert names[0] == "rivals/tiny beside lightly, images/s"
    assert "knn/time" in [row["name"] for each in measured["later"] for row in each["records"]]
    steps = json.loads((tmp_path / "chain.json").read_text())
    assert [row["step"][0] for row in steps] == ["prepare-data", "pretrain", "pretrain", "probe"]
    assert list((tmp_path / "chain/probes").rglob("*.json"))
    # In the place of the committed file, `plan` reads it: what was known, and what is new.
    known, times = read_measurements(), read_measurements(tmp_path / "costs.json")
    new = [one for one in times if one not in known]
    assert {one.shape.what if one.shape else "start" for one in new} == {"step", "probes", "start"}
    assert len({one.run for one in new if one.shape and one.shape.what == "step"}) == 2
    replaced = [one for one in known if one not in times]
    assert len(times) == len(known) + len(new) - len(replaced)
    study = load_study(PARAMS / "demo.yaml")
    expected = cost_of(step_shape(study.trained()[0]), measured_on(new, "cpu", 1), 1)
    assert expected is not None
    assert processor() in expected.basis
