"""`watch`: what it says of a study, and that nothing else can be had from it."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from demo_results import JOB_FILES, RECORDS, write
from snakemake_executor_plugin_submitit.ledger import Entry, Ledger

from barlow_atlas.__main__ import main
from barlow_atlas.study.file import load_study
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import REPORTED, REPORTS
from barlow_atlas.tools.watch import Live, WatchError, listen, serve
from barlow_atlas.tools.watch.activity import _running, activity
from barlow_atlas.tools.watch.live import SECONDS_BETWEEN_QUESTIONS, TimeLeft, load
from barlow_atlas.tools.watch.server import Server, is_loopback, url
from barlow_atlas.workflow.jobs import step_file
from barlow_atlas.workflow.turns import wanted_file

ROOT = Path.cwd()
RUNS = [f"{method}-d256-e100-clean-s{seed}" for method in ("bt", "mix") for seed in (1, 2, 3)]
EPOCHS = (0, 5, 10, 25, 50, 100)
TABLES = ("results/demo/probes.csv", "results/demo/effects.csv")
REPORT = (f"reports/demo/{REPORTED[0]}", "reports/index.html")
BT = RUNS[0]
SUBMISSION = Path(f"logs/submitit/pretrain/study=demo,run={BT},epoch=0100")
SECRET = b"not for readers"
ALONE = {"seeds_together": 1, "milestones_together": 1}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The demo without any result, a job a seed and milestone, in a folder of its own."""
    shutil.copytree(ROOT / "params", tmp_path / "params")
    monkeypatch.chdir(tmp_path)
    return load_study(Path("params/demo.yaml")).model_copy(update=ALONE)


@pytest.fixture
def finished(study: Study) -> Study:
    """The demo with its probe files and, as far as `watch` looks at them, everything else."""
    write(JOB_FILES, "probes")
    weights = [checkpoint(run, epoch) for run in RUNS for epoch in EPOCHS]
    empty = [recorded(run) for run in RUNS]
    for file in ("results/data/digits/manifest.json", *weights, *empty, *TABLES, *REPORT):
        touch(Path(file))
    return study


def checkpoint(run: str, epoch: int) -> Path:
    return Path(f"results/demo/checkpoints/{run}/epoch_{epoch:04d}.json")


def probe(run: str, epoch: int) -> Path:
    return Path(f"results/demo/probes/{run}/epoch_{epoch:04d}.json")


def recorded(run: str) -> Path:
    return Path(f"results/demo/runs/{run}.jsonl")


def touch(file: Path, text: str = "") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def told(study: Study, ask: Callable[..., float | None] = lambda *_: None) -> dict[str, Any]:
    return Live("demo", study, ask).status()


def counts(status: dict[str, Any]) -> tuple[int, ...]:
    parts = ("queued", "running", "done", "failed")
    assert sum(status[part] for part in parts) == status["total"]
    return tuple(status[part] for part in parts)


# Jobs

JOBS = 1 + 2 * len(RUNS) * len(EPOCHS) + len(RUNS) + 4
"""Data, segments and probes, records, then collect, analyse, report and ledger."""
BEHIND = 5
"""What follows from a probe: its run's record, then collect, analyse, report and ledger."""


def test_before_anything_has_run_all_is_queued(study: Study) -> None:
    status = told(study)
    assert counts(status) == (JOBS, 0, 0, 0)
    assert not status["finished"]
    assert status["seconds_left"] is None
    assert status["running_now"] == []
    assert re.fullmatch(r"\d\d:\d\d:\d\d", status["updated"])


def test_when_all_is_there_it_is_finished(finished: Study) -> None:
    status = told(finished)
    assert counts(status) == (0, 0, JOBS, 0)
    assert status["finished"]


def test_a_missing_probe_waits_and_so_does_what_follows_from_it(finished: Study) -> None:
    probe(BT, 50).unlink()
    assert counts(told(finished)) == (1 + BEHIND, 0, JOBS - 1 - BEHIND, 0)


def test_a_clone_without_weights_is_finished(finished: Study) -> None:
    shutil.rmtree("results/demo/checkpoints")
    assert told(finished)["finished"]


def test_a_clone_with_its_records_is_finished(finished: Study) -> None:
    shutil.rmtree("results/demo/checkpoints")
    shutil.rmtree("results/demo/probes")
    assert not told(finished)["finished"], "empty records hold no milestone"
    write(RECORDS)
    Path(TABLES[0]).unlink()
    live = Live("demo", finished, lambda _: None)
    assert live.status()["finished"]
    Path("results/demo/effects.csv").unlink()
    assert not live.status()["finished"]


def test_what_is_recorded_is_shown_and_a_file_goes_before_it(finished: Study) -> None:
    live = Live("demo", finished, lambda _: None)
    before = live.data()
    write(RECORDS)
    assert live.data() == before
    shutil.rmtree("results/demo/probes")
    assert live.data() == before
    content = json.loads(JOB_FILES[probe(BT, 100)])
    content["results"][0]["top1"] = 0.0
    touch(probe(BT, 100), json.dumps(content))
    assert live.data() != before


def test_what_snakemake_was_started_to_make_again_waits(finished: Study) -> None:
    """Such as in a clone: its probe files are there, and Snakemake trains and probes again."""
    started_for = touch(wanted_file("demo"), f"{probe(BT, 0)}\n{probe(BT, 5)}\n")
    started = time.time() - 100
    os.utime(started_for, (started, started))
    os.utime(probe(BT, 0), (started - 1, started - 1))
    os.utime(probe(BT, 5), (started + 1, started + 1))
    assert counts(told(finished)) == (1 + BEHIND, 0, JOBS - 1 - BEHIND, 0)


# What runs


@pytest.fixture
def submitted(finished: Study) -> Iterator[subprocess.Popen[bytes]]:
    """A process as the executor starts one for a segment that is not done."""
    checkpoint(BT, 100).unlink()
    probe(BT, 100).unlink()
    SUBMISSION.mkdir(parents=True)
    # An entry of the command line names the folder, as that of submitit's process does.
    command = [sys.executable, "-c", "import time; time.sleep(600)", str(SUBMISSION.absolute())]
    process = subprocess.Popen(command)
    # Just after its start a process has no command line yet.
    wait_for(lambda: SUBMISSION.name in Path(f"/proc/{process.pid}/cmdline").read_text())
    touch(SUBMISSION / f"{process.pid}_submitted.pkl")
    touch(SUBMISSION / f"{process.pid}_0_log.out")
    yield process
    process.kill()
    process.wait()


def test_a_job_runs_while_its_process_lives(
    finished: Study, submitted: subprocess.Popen[bytes]
) -> None:
    status = told(finished)
    assert counts(status) == (1 + BEHIND, 1, JOBS - 2 - BEHIND, 0)
    assert status["running_now"] == [f"Training {BT} to epoch 100"]
    submitted.kill()
    submitted.wait()
    assert counts(told(finished)) == (2 + BEHIND, 0, JOBS - 2 - BEHIND, 0)


def test_a_result_ends_a_job(finished: Study, submitted: subprocess.Popen[bytes]) -> None:
    touch(SUBMISSION / f"{submitted.pid}_0_result.pkl")
    assert told(finished)["running"] == 0


def test_a_process_that_has_come_to_an_old_id_is_none(finished: Study) -> None:
    checkpoint(BT, 100).unlink()
    probe(BT, 100).unlink()
    touch(SUBMISSION / f"{os.getpid()}_submitted.pkl")
    assert told(finished)["running"] == 0


def test_the_step_says_how_far_it_is(finished: Study, submitted: subprocess.Popen[bytes]) -> None:
    log = Path(f"logs/demo/pretrain/{BT}/epoch_0100.log")
    told_before = {"time": "2026-11-22T15:59:13+0000", "run": BT, "message": "continues"}
    progress = {"run": BT, "epoch": 63, "step": 5, "of": 8, "images_per_second": 1280.0}
    cut_off = '{"time": "2026-11'
    touch(log, "\n".join([json.dumps(told_before), json.dumps(progress), cut_off]))
    asked = []
    live = Live("demo", finished, lambda *question: asked.append(question))
    assert live.status()["running_now"] == [f"Training {BT} to epoch 100, now in epoch 63"]
    wait_for(lambda: asked)
    _, running, at_once = asked[0]
    # 37 epochs and 3 steps of 128 images.
    assert running == {checkpoint(BT, 100): pytest.approx(29.9)}
    assert at_once == 1


def test_slurm_jobs_run_once_they_have_a_log(finished: Study) -> None:
    probe(BT, 50).unlink()
    # A task of an array: its folder is the rule's.
    folder = Path("logs/submitit/probe")
    entry = Entry("71_4", str(folder.absolute()), (str(probe(BT, 50)),), "fingerprint")
    Ledger(Path(".snakemake/submitit")).record(entry)
    assert counts(told(finished)) == (1 + BEHIND, 0, JOBS - 1 - BEHIND, 0)
    touch(folder / "71_4_0_log.out")
    assert counts(told(finished)) == (BEHIND, 1, JOBS - 1 - BEHIND, 0)
    assert told(finished)["running_now"] == [f"Probing {BT} at epoch 50"]
    touch(folder / "71_4_0_result.pkl")
    assert counts(told(finished)) == (1 + BEHIND, 0, JOBS - 1 - BEHIND, 0)


def test_seeds_trained_together_are_one_job(finished: Study) -> None:
    together = finished.model_copy(update={"seeds_together": 2})
    for run in RUNS[:3]:
        checkpoint(run, 100).unlink()
        probe(run, 100).unlink()
    # Groups (1, 2) and (3,): their rules have the same wildcards, and those of their probes too.
    name = "study=demo,stem=bt-d256-e100-clean"
    for seeds in ("1_2", "3"):
        rule = f"pretrain_demo_s{seeds}_epoch_0100"
        touch(Path(f"logs/submitit/{rule}/{name}/999999_0_log.out"), FAILED)
    jobs = Live("demo", together)._submissions
    pending = [job for job in jobs if job.rule in ("pretrain", "probe") and job.epoch == 100]
    assert [job.rule for job in pending] == ["pretrain"] * 4 + ["probe"] * 4
    failed = [one.job.file for one in activity("demo", pending).failed]
    assert failed == [checkpoint(RUNS[0], 100), checkpoint(RUNS[2], 100)]
    first = next(job for job in pending if job.file == checkpoint(RUNS[0], 100))
    log = Path("logs/demo/pretrain/bt-d256-e100-clean-s1_2/epoch_0100.log")
    assert step_file("demo", first, ".log") == log


def test_milestones_trained_together_are_one_job(finished: Study) -> None:
    together = finished.model_copy(update={"seeds_together": 2, "milestones_together": 4})
    for run in RUNS[:3]:
        for epoch in (50, 100):
            checkpoint(run, epoch).unlink()
            probe(run, epoch).unlink()
    jobs = Live("demo", together)._submissions
    chain = [job for job in jobs if job.rule == "pretrain" and job.run and job.run.name == BT]
    assert [(job.epoch, job.epochs) for job in chain] == [(25, 25), (100, 75)]
    data = Path("results/data/digits/manifest.json")
    assert [set(job.after) for job in chain] == [{data}, {chain[0].file, data}]
    folder = Path("logs/submitit/pretrain_demo_s1_2_epoch_0100/study=demo,stem=bt-d256-e100-clean")
    touch(folder / "999999_0_log.out", FAILED)
    pending = [job for job in jobs if job.rule == "pretrain"]
    (failed,) = activity("demo", pending).failed
    assert str(failed) == f"pretrain {RUNS[0]}, {RUNS[1]} at epoch 100"
    log = Path("logs/demo/pretrain/bt-d256-e100-clean-s1_2/epoch_0100.log")
    assert step_file("demo", failed.job, ".log") == log
    # Of the epochs from 25 to 100, 70 are left, each with 8 steps of 128 images.
    told = json.dumps({"run": BT, "epoch": 30, "step": 8, "of": 8, "images_per_second": 1024.0})
    touch(log, told)
    (failed,) = activity("demo", pending).failed
    assert failed.said == (told,)
    assert _running("demo", failed.job).seconds_left == pytest.approx(70.0)


FAILED = "job.CommandFailed: the command ended with status 1"


@pytest.mark.parametrize(
    ("last", "failed"),
    [(FAILED, 1), (f"{FAILED} after SIGTERM", 0), ("Storing output in storage.", 0), ("", 0)],
)
def test_a_failed_job_says_so_in_its_log(finished: Study, last: str, failed: int) -> None:
    checkpoint(BT, 100).unlink()
    probe(BT, 100).unlink()
    log = touch(SUBMISSION / "999999_0_log.out", f"Traceback\n{last}\n")
    found = told(finished)
    assert counts(found) == (2 + BEHIND - failed, 0, JOBS - 2 - BEHIND, failed)
    assert [one["said"][-1] for one in found["failed_now"]] == [last] * failed
    for one in found["failed_now"]:
        assert one["name"].endswith(f"{BT} at epoch 100")
        assert one["command"].endswith(f"-- {checkpoint(BT, 100)}")
    assert not found["snakemake"]
    # A Snakemake that was started since tries it again.
    touch(wanted_file("demo"), f"{checkpoint(BT, 100)}\n")
    earlier = time.time() - 10
    os.utime(log, (earlier, earlier))
    assert told(finished)["failed"] == 0


def test_a_snakemake_that_works_is_told_from_one_that_was_killed(finished: Study) -> None:
    probe(BT, 100).unlink()
    assert not told(finished)["snakemake"]
    # As `python -m snakemake` stands among the processes.
    command = [sys.executable, "-c", "import time; time.sleep(600)", "snakemake"]
    process = subprocess.Popen(command)
    try:
        wait_for(lambda: "snakemake" in Path(f"/proc/{process.pid}/cmdline").read_text())
        assert not told(finished)["snakemake"], "it works on nothing of this study"
        touch(wanted_file("other"), f"{probe(BT, 100)}\n")
        assert not told(finished)["snakemake"]
        touch(wanted_file("demo"), f"{probe(BT, 100)}\n")
        assert told(finished)["snakemake"]
    finally:
        process.kill()
        process.wait()
    assert not told(finished)["snakemake"], "what it was to make is left behind"


@pytest.mark.parametrize(
    ("driver", "gpus"),
    [
        (
            "echo '41 %, 1024 MiB'; echo '0 %, 3 MiB'",
            ["GPU 0: 41 %, 1024 MiB", "GPU 1: 0 %, 3 MiB"],
        ),
        ("echo 'no devices were found'; exit 9", []),
        (None, []),
    ],
)
def test_how_busy_the_machine_is(
    driver: str | None, gpus: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if driver:
        program = touch(tmp_path / "nvidia-smi", f"#!/bin/sh\n{driver}\n")
        program.chmod(0o755)
    cores, *told_gpus = load().split(" \N{MIDDLE DOT} ")
    assert re.fullmatch(rf"\d+\.\d jobs on {os.cpu_count()} cores", cores)
    assert told_gpus == gpus


# Time left


def test_time_left_is_counted_down_and_asked_again_when_jobs_end(
    finished: Study, submitted: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = Live("demo", finished)._submissions
    active = activity("demo", [job for job in jobs if job.file == checkpoint(BT, 100)])
    pending = {checkpoint(BT, 100)}
    asked: list[Any] = []
    left = TimeLeft(lambda *question: asked.append(question) or 1000.0)
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    left(pending, active)
    wait_for(lambda: left(pending, active) == 1000.0)
    now[0] = 40.0
    assert left(pending, active) == 960.0
    assert left(pending, type(active)()) is None, "nothing runs"
    now[0] = 2 * SECONDS_BETWEEN_QUESTIONS
    left(pending, active)
    assert len(asked) == 1, "nothing has ended"
    left(pending | {probe(BT, 100)}, active)
    wait_for(lambda: len(asked) == 2)


def test_the_time_of_a_job_is_that_of_its_like(finished: Study) -> None:
    """Without any measurement: probes of one shape take the mean of those that ran here."""
    # As before the images are prepared: their numbers are those of the catalogue.
    Path("results/data/digits/manifest.json").unlink()
    from barlow_atlas.tools.durations import BETWEEN_JOBS_S
    from barlow_atlas.tools.watch.remaining import seconds_left

    seconds = dict(zip(EPOCHS, (3.0, 4.0, 8.0, 5.0), strict=False))
    for epoch, took in seconds.items():
        touch(Path(f"logs/demo/probe/{BT}/epoch_{epoch:04d}.tsv"), f"s\th:m:s\n{took}\t0:00:01\n")
    pending = [probe(BT, 50), probe(BT, 100), Path(TABLES[0])]
    mean = sum(seconds.values()) / len(seconds)

    def left(running: dict[Path, float | None], at_once: int) -> float | None:
        return seconds_left("demo", finished, pending, running, at_once)

    assert left({}, 1) == pytest.approx(2 * mean + BETWEEN_JOBS_S)
    assert left({}, 2) == pytest.approx(mean + BETWEEN_JOBS_S)
    assert left({probe(BT, 100): 1.5}, 1) == pytest.approx(1.5 + mean + BETWEEN_JOBS_S)
    assert seconds_left("demo", finished, [checkpoint(BT, 100)], {}, 1) is None


def test_only_the_latest_jobs_tell_how_fast_it_goes(finished: Study) -> None:
    """A job that once shared its core with other work does not spoil the estimate for good."""
    Path("results/data/digits/manifest.json").unlink()
    from barlow_atlas.tools.watch.remaining import LATEST, seconds_left

    ran = [(run, epoch) for run in (BT, BT.replace("s1", "s2")) for epoch in sorted(EPOCHS)]
    assert len(ran) > LATEST
    for age, (run, epoch) in enumerate(ran):
        file = Path(f"logs/demo/probe/{run}/epoch_{epoch:04d}.tsv")
        touch(file, f"s\th:m:s\n{60.0 if age < len(ran) - LATEST else 5.0}\t0:00:01\n")
        os.utime(file, (age, age))
    third = probe(BT.replace("s1", "s3"), 100)
    assert seconds_left("demo", finished, [third], {}, 1) == pytest.approx(5.0)


def test_what_serves_holds_no_torch(finished: Study) -> None:
    """It may sit on a login node for days."""
    program = """
import sys
from pathlib import Path
from barlow_atlas.study.file import load_study
from barlow_atlas.tools.watch import Live
from barlow_atlas.tools.watch.remaining import seconds_left
study = load_study(Path("params/demo.yaml"))
live = Live("demo", study)
live.status(), live.data(), live.page()
print(seconds_left("demo", study, [Path("results/demo/probes.csv")], {}, 1), "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "2.5 False\n", done.stderr


# What is served


@pytest.fixture
def server(finished: Study) -> Iterator[Server]:
    """The demo, with something to be had beside reports/."""
    probe(BT, 100).unlink()
    touch(Path("reports/demo/curves.csv"), "epoch\n1\n")
    touch(Path("reports/demo/sub/a file.txt"), "spaced")
    touch(Path("secret.txt"), SECRET.decode())
    touch(Path("reports/.hidden/page.html"), SECRET.decode())
    touch(Path("reports/demo/.env"), SECRET.decode())
    Path("reports/demo/link.txt").symlink_to(Path("secret.txt").absolute())
    Path("reports/out").symlink_to(Path.cwd())
    Path("reports/demo/loop").symlink_to("loop")
    Path("reports/demo/inside.csv").symlink_to("curves.csv")
    yield from serving(Live("demo", finished, lambda _: None))


def serving(live: Live, host: str = "127.0.0.1") -> Iterator[Server]:
    with listen(live, host, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:  # also where a test fails: nothing ends while a thread serves
            server.shutdown()
            thread.join()


class Answer:
    """An HTTP answer, read to its end."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        first, *rest = head.decode().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): text for name, _, text in (x.partition(": ") for x in rest)}


def send(server: Server, request: bytes) -> Answer:
    """What is answered to exactly these bytes."""
    with socket.create_connection(server.server_address[:2], timeout=20) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return Answer(b"".join(iter(lambda: connection.recv(65536), b"")))


def get(server: Server, path: str, method: str = "GET", host: str = "localhost:8000") -> Answer:
    return send(server, f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1"))


def wait_for(happened: Callable[[], object]) -> None:
    deadline = time.time() + 20
    while not happened():
        assert time.time() < deadline
        time.sleep(0.02)


def test_the_page_leads_to_its_files(server: Server) -> None:
    first = get(server, "/")
    assert (first.status, first.headers["location"]) == (302, "/demo/")
    page = get(server, "/demo/")
    assert page.status == 200
    assert b'id="live"' in page.body
    for path in ("/status.json", "/demo/status.json", "/status.json?again=1"):
        assert json.loads(get(server, path).body)["study"] == "demo"
    assert get(server, "/data.json").body == get(server, "/demo/data.json").body
    assert get(server, "/demo/curves.csv").body == b"epoch\n1\n"
    assert get(server, "/demo/inside.csv").body == b"epoch\n1\n"
    assert get(server, "/demo/sub/a%20file.txt").body == b"spaced"


def test_the_finished_page_is_the_reported_one(server: Server) -> None:
    touch(Path("reports/demo/index.html"), "reported")
    assert get(server, "/demo/").body != b"reported"
    touch(probe(BT, 100), "{}")
    assert get(server, "/demo/").body == b"reported"


def test_every_answer_has_the_headers_that_protect(server: Server) -> None:
    paths = ("/", "/demo/", "/status.json", "/data.json", "/demo/curves.csv", "/nothing")
    for answer in (*(get(server, path) for path in paths), get(server, "/", "POST")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "python" not in answer.headers["server"].lower()
    assert get(server, "/status.json").headers["content-type"] == "application/json; charset=utf-8"


def test_head_is_get_without_a_body(server: Server) -> None:
    for path in ("/demo/", "/data.json", "/demo/curves.csv", "/nothing"):
        whole, head = get(server, path), get(server, path, "HEAD")
        assert (head.status, head.body) == (whole.status, b"")
        assert head.headers["content-length"] == str(len(whole.body))


METHODS = [
    *("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "MKCOL"),
    *("get", "__init__"),
]


@pytest.mark.parametrize("method", METHODS)
def test_it_can_only_be_read(server: Server, method: str) -> None:
    answer = get(server, "/demo/curves.csv", method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


PATHS = [
    *("/../secret.txt", "/demo/../../secret.txt", "/./secret.txt", "/demo/./curves.csv"),
    *(
        "/%2e%2e/secret.txt",
        "/%2E%2E%2Fsecret.txt",
        "/..%2fsecret.txt",
        "/demo/..%2f..%2fsecret.txt",
    ),
    *("/%252e%252e/secret.txt", "/..%c0%afsecret.txt", "/%c0%ae%c0%ae/secret.txt", "/%ff"),
    *("/..\\secret.txt", "/demo\\curves.csv", "/..%5csecret.txt", "/demo%5ccurves.csv"),
    *("/demo/curves.csv%00", "/demo/curves.csv%00.png", "/demo/curves.csv\0", "/%00"),
    *("/etc/passwd", "//etc/passwd", "/%2fetc/passwd", "/%2Fetc%2Fpasswd", "/demo//curves.csv"),
    *(
        "etc/passwd",
        "..",
        "../secret.txt",
        "*",
        "http://localhost/secret.txt",
        "file:///etc/passwd",
    ),
    *("/demo", "/demo/sub", "/demo/sub/", "/reports/", "/out/", "/demo/curves.csv/"),
    *("/demo/.env", "/.hidden/page.html", "/demo/%2eenv", "/demo/link.txt", "/out/secret.txt"),
    *("/demo/loop", "/results/demo/metrics.json", "/params/demo.yaml", "/secret.txt"),
    *("/demo/status.json/", "/other/status.json", "/STATUS.JSON", "/demo/" + 5000 * "a"),
    *(
        "/demo/" + 300 * "../" + "etc/passwd",
        "/demo/curves.csv;.png",
        "/~",
        "/%",
        "/%zz",
        "/\u00e4",
    ),
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ascii(path)[:40])
def test_nothing_else_is_served(server: Server, path: str) -> None:
    answer = get(server, path)
    assert answer.status == 404
    assert SECRET not in answer.body
    assert answer.body == b"Not Found\n"


def test_nothing_but_a_request_is_answered(server: Server) -> None:
    for request in (b"\0\0\0\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\r\n\r\n"):
        with socket.create_connection(server.server_address[:2], timeout=20) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert b" 200 " not in answer
        assert SECRET not in answer


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:1", "127.0.0.1:8000", "[::1]:80", "LocalHost"]
)
def test_local_names_are_answered(server: Server, host: str) -> None:
    assert get(server, "/status.json", host=host).status == 200


HOSTS = [
    *("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example"),
    *(
        "",
        "localhost evil.example",
        "localhost:8000:80",
        "192.168.1.2",
        "0.0.0.0",
        "127.0.0.1@evil",
    ),
]


@pytest.mark.parametrize("host", HOSTS)
def test_other_names_are_refused(server: Server, host: str) -> None:
    """A web page may let its own name point to this machine, to be let in by the browser."""
    for path in ("/", "/demo/", "/status.json", "/demo/curves.csv"):
        assert get(server, path, host=host).status == 403


def test_one_name_must_be_told(server: Server) -> None:
    assert send(server, b"GET / HTTP/1.0\r\n\r\n").status == 403
    twice = b"GET /status.json HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
    assert send(server, twice).status == 403


def test_an_open_address_is_asked_by_any_name(finished: Study) -> None:
    for server in serving(Live("demo", finished, lambda _: None), "0.0.0.0"):
        assert get(server, "/status.json", host="cluster.example").status == 200
        assert get(server, "/../secret.txt", host="cluster.example").status == 404


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *(("127.0.0.1", True), ("::1", True), ("localhost", True), ("127.9.9.9", True)),
        *(("0.0.0.0", False), ("", False), ("10.0.0.1", False), ("login.cluster", False)),
    ],
)
def test_which_addresses_are_private(host: str, local: bool) -> None:
    assert is_loopback(host) is local


# Growing


def test_a_new_probe_file_shows(server: Server) -> None:
    before = get(server, "/data.json")
    assert get(server, "/data.json").body == before.body
    content = JOB_FILES[probe(BT, 100)].decode()
    touch(probe(BT, 100), content[: len(content) // 2])
    assert get(server, "/data.json").body == before.body, "half a file is none"
    touch(probe(BT, 100), content)
    after = get(server, "/data.json")

    def seed_at_the_end(answer: Answer) -> list[float | None]:
        lines = json.loads(answer.body)["lines"]
        (line,) = (x for x in lines if (x["method"], x["probe"]) == ("bt", "linear"))
        return [seed[-1] for seed in line["curves"]["test"]["top1"]["seeds"].values()]

    stored = json.loads(content)["results"]
    (top1,) = (x["top1"] for x in stored if (x["probe"], x["split"]) == ("linear", "test"))
    assert seed_at_the_end(before)[0] is None
    assert seed_at_the_end(after)[0] == pytest.approx(top1, abs=5e-4)
    assert seed_at_the_end(after)[1:] == seed_at_the_end(before)[1:]
    probe(BT, 100).unlink()
    assert get(server, "/data.json").body == before.body


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"results": []}', "\xff\xfe"])
def test_a_damaged_probe_file_is_left_out(server: Server, text: str) -> None:
    before = get(server, "/data.json").body
    probe(BT, 100).write_bytes(text.encode("latin-1"))
    assert get(server, "/data.json").body == before
    assert get(server, "/demo/").status == 200


def test_an_empty_study_has_a_page(study: Study) -> None:
    for server in serving(Live("demo", study, lambda _: None)):
        told = json.loads(get(server, "/data.json").body)
        assert told["lines"] == []
        assert "No answer yet" in told["parts"]["verdicts"]
        assert get(server, "/demo/").status == 200
        assert get(server, "/demo/curves.csv").status == 404


def test_one_reader_does_not_keep_others_waiting(server: Server) -> None:
    with socket.create_connection(server.server_address[:2]) as silent:
        silent.sendall(b"GET / HT")
        answers: list[Answer] = []
        paths = 4 * ["/status.json", "/data.json", "/demo/"]
        readers = [
            threading.Thread(target=lambda path=path: answers.append(get(server, path)))
            for path in paths
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(30)
        assert [answer.status for answer in answers] == [200] * len(paths)


def test_it_writes_nothing(server: Server) -> None:
    def listing() -> dict[Path, tuple[int, int]]:
        files = [(file, file.lstat()) for file in Path().rglob("*")]
        return {file: (stat.st_mtime_ns, stat.st_size) for file, stat in files}

    before = listing()
    for path in ("/", "/demo/", "/status.json", "/data.json", "/demo/curves.csv", "/../x"):
        get(server, path)
        get(server, path, "PUT")
    assert listing() == before


def test_a_study_of_500_checkpoints_answers_at_once(study: Study) -> None:
    large = study.model_copy(update={"seeds": tuple(range(1, 43))})
    files = Live("demo", large)._probe_files.values()
    assert len(files) == 504
    template = json.loads(JOB_FILES[probe(BT, 0)])
    for file in files:
        run, epoch = file.parent.name, int(file.stem.removeprefix("epoch_"))
        own = {**template["run"], "seed": int(run.rpartition("-s")[2]), "method": run.split("-")[0]}
        touch(file, json.dumps({**template, "name": run, "epoch": epoch, "run": own}))
        touch(checkpoint(run, epoch))
    live = Live("demo", large, lambda _: None)

    def seconds(ask: Callable[[], object]) -> float:
        times = []
        for _ in range(5):
            began = time.thread_time()
            ask()
            times.append(time.thread_time() - began)
        return min(times)

    assert seconds(live.status) < 0.2
    assert seconds(live.data) < 0.2


# The program


def test_a_port_that_is_taken_is_named(server: Server, finished: Study) -> None:
    port = server.server_address[1]
    with pytest.raises(WatchError, match=rf"port {port}: .*in use.*--port"):
        serve("demo", finished, "127.0.0.1", port, print)
    with pytest.raises(WatchError, match="--port"):
        serve("demo", finished, "127.0.0.1", 70000, print)


def test_ctrl_c_ends_it_well(finished: Study) -> None:
    command = [sys.executable, "-m", "barlow_atlas", "watch", "--study", "demo", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first.startswith("demo (finished) is shown at http://127.0.0.1:")
    port = int(first.partition("127.0.0.1:")[2].partition("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/status.json")
    assert json.load(connection.getresponse())["finished"]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert out == "No longer shown; jobs that run are left alone.\n"


def test_an_unknown_study_is_named(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "--study", "demmo"]) == 1
    said = capsys.readouterr()
    assert "demmo.yaml" in said.err
    assert said.out == ""


def test_the_address_is_one_that_browsers_take(finished: Study) -> None:
    for host, start in (("127.0.0.1", "http://127.0.0.1:"), ("::1", "http://[::1]:")):
        try:
            server = listen(Live("demo", finished), host, 0)
        except WatchError:
            pytest.skip(f"this machine has no {host}")
        with server:
            assert url(server).startswith(start)
            assert REPORTS.name not in url(server)
