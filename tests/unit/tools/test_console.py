"""What is said of studies that run."""

import io
import logging
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from demo_results import JOB_FILES, RECORDS, STUDY, milestone_of, write
from snakemake_interface_logger_plugins.common import LogEvent

from barlow_atlas.__main__ import main
from barlow_atlas.atlas.records import recorded
from barlow_atlas.study.paths import probe_file
from barlow_atlas.tools import console
from barlow_atlas.tools.console import Console, describe, in_a_line, progress
from barlow_atlas.workflow.jobs import jobs_of
from snakemake_logger_plugin_atlas import LogHandler

ROOT = Path(__file__).parents[3]
BT = "bt-d256-e100-clean-s1"
TOP1 = f"{milestone_of(BT, 10)['results'][-1]['top1']:.1f} %"


@pytest.fixture(autouse=True)
def half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demo as its jobs wrote it, one run up to epoch 10, the other five whole."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "params", tmp_path / "params")
    write(JOB_FILES)
    for job in jobs_of("demo", STUDY):
        job.file.parent.mkdir(parents=True, exist_ok=True)
        job.file.touch()
    for kind in ("checkpoints", "training", "probes"):
        for epoch in (25, 50, 100):
            (file,) = Path(f"results/demo/{kind}/{BT}").glob(f"epoch_{epoch:04d}.*")
            file.unlink()
    for manifest in Path("results/demo/checkpoints").rglob("*.json"):
        manifest.with_suffix(".safetensors").touch()
    return tmp_path


def test_a_line_says_jobs_time_and_what_runs() -> None:
    status = {
        "study": "demo",
        "done": 28,
        "total": 77,
        "running": 2,
        "failed": 1,
        "seconds_left": 185.0,
        "running_now": [f"Training {BT} to epoch 100, now in epoch 63", "Probing"],
        "losses_now": [(9.0, 8.25), ()],
    }
    assert in_a_line(status) == (
        "demo: 28 of 77 jobs done, 2 running, 1 failed, about 3 min left: "
        f"Training {BT} to epoch 100, now in epoch 63 (loss 8.25)"
    )


def test_runs_say_their_last_milestone_accuracy_and_loss() -> None:
    pending = [probe_file("demo", STUDY.run(BT), epoch) for epoch in (25, 50, 100)]
    first, *others = progress("demo", STUDY, STUDY.runs(), pending)
    assert (first.run, first.done, first.total, first.epoch) == (BT, 3, 6, 10)
    assert first.top1 == milestone_of(BT, 10)["results"][-1]["top1"]
    write(RECORDS)
    losses = recorded("demo", STUDY.run(BT)).training[10, False]["loss"]
    assert first.loss == pytest.approx(losses[-1])
    assert {(row.done, row.epoch) for row in others} == {(6, 100)}


def test_status_names_what_is_unfinished(capsys: pytest.CaptureFixture[str]) -> None:
    head, line, *siblings = describe("demo", STUDY)
    assert re.fullmatch(r"demo: \d+ of 19 jobs done", head)
    # What trains this seed's last segments trains those of the others with it.
    assert [each.partition(":")[0].strip() for each in siblings] == [f"{BT[:-1]}2", f"{BT[:-1]}3"]
    assert line.startswith(f"  {BT}: 3 of 6 milestones, epoch 10, {TOP1}, loss ")
    assert main(["status"]) == 0
    assert f"{BT}: 3 of 6 milestones" in capsys.readouterr().out


def test_status_tells_results_from_weights() -> None:
    shutil.rmtree("results/demo/checkpoints")
    _, line, *_ = describe("demo", STUDY)
    assert line.startswith("  of 18 recorded milestones the weights are not here: `dvc pull ")
    assert line.endswith("`atlas run demo` makes them")


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.05)
    stream = io.StringIO()
    told = Console(stream)
    told.close()  # as logging does when somebody configures it
    told.follow("demo")
    told.follow("no-such-study")
    deadline = time.monotonic() + 30
    while stream.getvalue().count("demo: ") < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    told.close()
    assert stream.getvalue().count("of 19 jobs done") >= 2
    length = len(stream.getvalue())
    time.sleep(0.2)
    assert len(stream.getvalue()) == length, "nothing is said once it is closed"


def test_a_terminal_gets_a_line_a_job_and_a_bar_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    told = Console(stream)
    told.follow("demo")
    told.done(f"Probing {BT} of demo at epoch 0025")
    deadline = time.monotonic() + 30
    while "mix-d256-e100-clean-s3" not in stream.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)
    told.close()
    assert f"done: Probing {BT} of demo at epoch 0025" in stream.getvalue()
    (row, *_) = (
        line for line in stream.getvalue().splitlines() if f"{BT} " in line and "%" in line
    )
    assert "epoch 10" in row
    assert TOP1 in row


def record(
    event: LogEvent | None, level: int = logging.INFO, **fields: object
) -> logging.LogRecord:
    made = logging.LogRecord("snakemake", level, "", 0, fields.pop("msg", ""), None, None)
    made.__dict__.update(event=event, **fields)
    return made


def test_of_snakemakes_words_those_remain_that_somebody_must_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = SimpleNamespace(dryrun=False, verbose=False, printshellcmds=False)
    handler = LogHandler(asked, None)
    for one in (
        record(LogEvent.WORKFLOW_STARTED, msg="started"),
        record(LogEvent.JOB_INFO, jobid=1, rule_name="probe", rule_msg="", wildcards={}),
        record(LogEvent.PROGRESS, msg="1 of 2 steps"),
        record(None, msg="Select jobs to execute..."),
        record(None, msg="Nothing to be done (all requested files are present)."),
        record(None, msg="Job 1 runs as 47, log: a", note=""),
        record(None, msg="Job 1 runs as 48 (goes on after job 47 ended as PREEMPTED)", note="x"),
        record(None, logging.WARNING, msg="params/x.yaml: title is missing"),
        record(LogEvent.JOB_ERROR, logging.ERROR, msg="Error in rule probe"),
    ):
        handler.emit(one)
    handler.close()
    assert capsys.readouterr().err.splitlines() == [
        "Nothing to be done (all requested files are present).",
        "Job 1 runs as 48 (goes on after job 47 ended as PREEMPTED)",
        "params/x.yaml: title is missing",
        "Error in rule probe",
    ]


def test_a_dry_run_is_told_in_snakemakes_words(capsys: pytest.CaptureFixture[str]) -> None:
    handler = LogHandler(SimpleNamespace(dryrun=True, verbose=False, printshellcmds=False), None)
    handler.emit(record(None, msg="Building DAG of jobs..."))
    assert capsys.readouterr().err == "Building DAG of jobs...\n"


def test_help_loads_nothing_that_takes_long() -> None:
    code = "import sys; sys.argv[1:] = ['--help']; from barlow_atlas.__main__ import main; main()"
    heavy = "{'torch', 'pandas', 'numpy', 'pydantic', 'rich', 'snakemake'}"
    program = f"import sys, atexit; atexit.register(lambda: print({heavy} & set(sys.modules)))\n"
    done = subprocess.run([sys.executable, "-c", program + code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr
