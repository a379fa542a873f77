"""A run on two nodes of a real Slurm with two processes each, by ImageNet's recipe made small."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from fresh_clone import Clone
from loopback_slurm import LoopbackSlurm
from submitit_project import wait_for

EPOCHS = 12
RUN = f"mix-d64-e{EPOCHS}-clean-s1"
MANIFEST = f"results/small/checkpoints/{RUN}/epoch_{EPOCHS:04d}.json"
SMALL = (
    ("width: 16", "width: 8"),
    ("seeds_together: 3", "seeds_together: 1"),
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


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return clone_of(tmp_path_factory.mktemp("nodes"), ON_TWO_NODES)


def test_a_task_that_is_killed_ends_the_job(clone: Clone, slurm: LoopbackSlurm) -> None:
    with ThreadPoolExecutor() as pool:
        running = pool.submit(train, clone, "slurm", **slurm.environment)
        began = "continues at epoch 0"
        wait_for(lambda: running.done() or began in said(clone), 600, "training")
        victim = process(clone, 3)
        assert victim is not None, running.result() if running.done() else said(clone)
        victim.kill()
        status, words = running.result(timeout=300)
    assert status != 0
    assert re.search(r"(process 3 of 4|one of [\d, ]*3[\d, ]*) was ended from outside", words)
    wait_for(lambda: not any(process(clone, rank) for rank in range(4)), 30, "its end")


def test_the_next_start_ends_with_the_weights_of_four_processes_here(
    clone: Clone, slurm: LoopbackSlurm, tmp_path: Path
) -> None:
    status, words = train(clone, "slurm", **slurm.environment)
    assert status == 0, words[-8000:]
    assert manifest(clone)["made_by"]["processes"] == 4
    here = clone_of(tmp_path / "here", ON_ONE)
    status, words = train(here, "profiles/local")
    assert status == 0, words[-8000:]
    assert manifest(here)["weights_sha256"] == manifest(clone)["weights_sha256"]
