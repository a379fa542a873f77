"""A run on two nodes of a real Slurm with two processes each, by ImageNet's recipe made small; and
a detector.

NODES_REPEATED=N has N such runs, one after the other.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from fresh_clone import Clone
from loopback_slurm import LoopbackSlurm
from small_data import change_catalog, write_voc_years
from submitit_project import wait_for

REPEATED = range(int(os.environ.get("NODES_REPEATED", "1")))
EPOCHS = 6
RUN = f"mix-d64-e{EPOCHS}-clean-s1"
MANIFEST = f"results/small/checkpoints/{RUN}/epoch_{EPOCHS:04d}.json"
SMALL = (
    ("width: 16", "width: 8"),
    ("seeds_together: 3", "seeds_together: 1"),
    ("milestones_together: 3", "milestones_together: 1"),
    ("hidden: [128]", "hidden: [32, 32]\n  output_bias: false"),
    ("lambda_reg: 4.0", "lambda_reg: 1.0\n    convention: imagenet\n    l2_normalise: false"),
    ("embedding_dims: [256]", "embedding_dims: [64]"),
    ("seeds: [1, 2, 3]", "seeds: [1]"),
    ("\nepochs: 100", f"\nepochs: {EPOCHS}"),
    ("name: adam", "name: lars"),
    ("name: mix_cosine", "name: bt_cosine"),
    ("warmup_epochs: 10", "warmup_epochs: 2"),
    ("milestones: [0, 5, 10, 25, 50, 100]", f"milestones: [0, {EPOCHS}]"),
)
DETECTOR = """\
base: small.yaml
title: A detector
probes:
  detection:
    target: voc0712
    detector: {short_sides: [32], long_side: 40, anchors: [8], proposals: 9, test_proposals: 9,
      regions: 8}
    training: {iterations: 3, batch_size: 4, learning_rate: 0.01, warmup: 2, drops: []}
resources:
"""
DETECTED = f"results/detector/probes/{RUN}/epoch_0000.json"
ASKED = "pretrain: {mem_mb: 2000, runtime: 30}"
ON_TWO_NODES = "pretrain: {nodes: 2, tasks_per_node: 2, mem_mb: 1400, runtime: 20}"
ON_ONE = "pretrain: {tasks_per_node: 4, mem_mb: 2800, runtime: 20}"


def clone_of(folder: Path, asked: str) -> Clone:
    clone = Clone(folder)
    clone.write_study("small", "demo", *SMALL, (ASKED, asked))
    return clone


def train(clone: Clone, profile: str, **environment: str) -> tuple[int, str]:
    command = ("snakemake", "--profile", profile, "--config", "study=small", "--", MANIFEST)
    done = clone.run(*command, **environment)
    return done.returncode, done.stdout + done.stderr


def manifest(clone: Clone) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((clone.folder / MANIFEST).read_text())
    return content


def process(clone: Clone, rank: int) -> psutil.Process | None:
    """The trainer of that number, once it works in the clone."""
    for each in psutil.process_iter():
        try:
            trains = each.cmdline()[1:4] == ["-m", "barlow_atlas", "pretrain"]
            place = each.environ().get("BARLOW_ATLAS_RANK")
            if trains and place == str(rank) and each.cwd() == str(clone.folder):
                return each
        except psutil.Error:
            continue
    return None


def said(clone: Clone) -> str:
    log = clone.folder / f"logs/small/pretrain/{RUN}/epoch_{EPOCHS:04d}.log"
    return log.read_text() if log.exists() else ""


def wait_for_training(clone: Clone, running: Future[tuple[int, str]]) -> psutil.Process:
    """The last of the processes, once they train; each start begins the log anew."""
    began = "continues at epoch"
    wait_for(
        lambda: running.done() or (began in said(clone) and process(clone, 3)), "training", 600
    )
    last = process(clone, 3)
    assert last is not None, running.result() if running.done() else said(clone)
    return last


def stop(clone: Clone, running: Future[tuple[int, str]], interrupt: Callable[[], object]) -> None:
    """Interrupts the job while it trains, which takes no longer than until it is told to stop.

    Until then one process stands still, and the others wait for it.
    """
    last = wait_for_training(clone, running)
    last.suspend()
    try:
        interrupt()
        wait_for(lambda: told(last), "a signal")
    finally:
        last.resume()
    wait_for(lambda: "stopped at epoch" in said(clone), "the last words")
    wait_for(lambda: not last.is_running(), "the end")


def told(suspended: psutil.Process) -> bool:
    """Whether a signal waits for a process, or it goes on: Slurm sends SIGCONT before SIGTERM."""
    if suspended.status() != psutil.STATUS_STOPPED:
        return True
    (waiting,) = re.findall(r"ShdPnd:\s*(\w+)", Path(f"/proc/{suspended.pid}/status").read_text())
    return bool(int(waiting, 16) & sum(1 << (n - 1) for n in (signal.SIGUSR2, signal.SIGTERM)))


@pytest.fixture(scope="module", params=REPEATED)
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return clone_of(tmp_path_factory.mktemp("nodes"), ON_TWO_NODES)


@pytest.fixture(scope="module")
def weights_here(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The sha256 of what four processes of this machine make of the run."""
    here = clone_of(tmp_path_factory.mktemp("here"), ON_ONE)
    status, words = train(here, "profiles/local")
    assert status == 0, words[-8000:]
    sha256: str = manifest(here)["weights_sha256"]
    return sha256


def test_a_task_that_is_killed_ends_the_job(clone: Clone, slurm: LoopbackSlurm) -> None:
    with ThreadPoolExecutor() as pool:
        running = pool.submit(train, clone, "slurm", **slurm.environment)
        wait_for_training(clone, running).kill()
        status, words = running.result(timeout=600)
    assert status != 0
    assert re.search(r"(process 3 of 4|one of [\d, ]*3[\d, ]*) was ended from outside", words)
    wait_for(lambda: not any(process(clone, rank) for rank in range(4)), "its end", 60)


def test_the_next_start_ends_with_the_weights_of_four_processes_here(
    clone: Clone, slurm: LoopbackSlurm, weights_here: str
) -> None:
    """Though the job meets its time limit, goes on, and has to make room for another one."""
    with ThreadPoolExecutor() as pool:
        running = pool.submit(train, clone, "slurm", **slurm.environment)

        def job() -> str:
            lines = slurm.run("squeue", "--noheader", "--format=%i|%Z").splitlines()
            (number,) = (line.split("|")[0] for line in lines if line.endswith(f"|{clone.folder}"))
            return number

        def limit(minutes: int) -> None:
            slurm.run("scontrol", "update", f"JobId={job()}", f"TimeLimit={minutes}")

        def limit_comes_near() -> None:
            told = slurm.run("scontrol", "show", "job", job())
            hours, minutes = map(int, re.findall(r"RunTime=(\d+):(\d+)", told)[0])
            limit(60 * hours + minutes + 2)  # so that the signal, 90 s before it, is due

        def preempt() -> None:
            nodes = slurm.run("squeue", f"--jobs={job()}", "--noheader", "--format=%N").strip()
            first = slurm.run("scontrol", "show", "hostnames", nodes).split()[0]
            high = ("--partition=high", f"--nodelist={first}", "--exclusive", "--mem=100")
            slurm.run("sbatch", *high, "--output=/dev/null", "--wrap=sleep 2")

        stop(clone, running, limit_comes_near)
        limit(20)
        stop(clone, running, preempt)
        restarts = slurm.run("scontrol", "show", "job", job())
        status, words = running.result(timeout=600)
    assert status == 0, words[-8000:]
    assert re.search("Restarts=[12]", restarts)
    assert manifest(clone)["made_by"]["processes"] == 4
    assert manifest(clone)["weights_sha256"] == weights_here


def detect(clone: Clone, profile: str, asked: str, **environment: str) -> list[dict[str, Any]]:
    """What a detector finds, to the last bit; its job asks for so much."""
    resources = f"  {ASKED}\n  probe: {asked}\n"
    (clone.folder / "params/detector.yaml").write_text(DETECTOR + resources)
    command = ("snakemake", "--profile", profile, "--config", "study=detector", "--", DETECTED)
    done = clone.run(*command, **environment)
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
    found: list[dict[str, Any]] = json.loads((clone.folder / DETECTED).read_text())["results"]
    return found


def test_a_detector_of_two_nodes_is_that_of_four_processes_here(
    slurm: LoopbackSlurm, tmp_path: Path
) -> None:
    clone = clone_of(tmp_path, ON_ONE)
    change_catalog(clone.folder, *write_voc_years(clone.folder / "results/data/raw"))
    here = detect(clone, "profiles/local", "{tasks_per_node: 4, mem_mb: 4000, runtime: 20}")
    (clone.folder / DETECTED).unlink()
    on_nodes = "{nodes: 2, tasks_per_node: 2, mem_mb: 2000, runtime: 20}"
    assert detect(clone, "slurm", on_nodes, **slurm.environment) == here
    listed = slurm.run(
        *("sacct", "--noheader", "--parsable2", "--starttime=now-1hour"),
        "--format=JobIDRaw,NNodes,NTasks,WorkDir",
    )
    rows = [line.split("|") for line in listed.splitlines()]
    (job,) = (number for number, *_, folder in rows if folder == str(clone.folder))
    steps = [row[1:3] for row in rows if row[0].startswith(f"{job}.")]
    assert ["2", "4"] in steps, "its four processes are a step on both nodes"
