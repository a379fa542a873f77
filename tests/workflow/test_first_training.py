"""The first hour goes on: two own studies are trained at once, compared, opened and extended.

Each is started as by somebody who knows nothing of the other, in one clone.
"""

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest
from fresh_clone import SMALL, Clone, source_path

ONE_RUN = """\
base: base.yaml
title: {name}
methods: {{bt: {{objective: barlow_twins, lambda_bt: {weight}}}}}
seeds: [1]
milestones: [0, 1]
"""
ATLAS = (sys.executable, "-m", "barlow_atlas")
STUDIES = {"first": 0.0078125, "second": 0.001}
JOBS = 10
"""Of a study: images, two segments, two probes, a record, and four of tables and pages."""


@dataclass(frozen=True)
class Trained:
    """A clone in which two studies were run at once.

    Attributes:
        status: of each study's `atlas run`, and what it said.
        refused: a second `atlas run first` meanwhile.
    """

    clone: Clone
    status: dict[str, tuple[int, str]]
    refused: subprocess.CompletedProcess[str]

    def atlas(self, *words: str, **environment: str) -> str:
        done = self.clone.run(*ATLAS, *words, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    clone = Clone(tmp_path_factory.mktemp("trained"))
    clone.write_study("base", "demo", *SMALL)
    environment = os.environ | {"PYTHONPATH": source_path(clone.folder)}
    running = {}
    for name, weight in STUDIES.items():
        text = ONE_RUN.format(name=name, weight=weight)
        (clone.folder / f"params/{name}.yaml").write_text(text)
    for name in STUDIES:
        with (clone.folder / f"{name}.out").open("w") as file:
            command = [*ATLAS, "run", name]
            running[name] = subprocess.Popen(
                command, cwd=clone.folder, env=environment, stdout=file, stderr=file
            )
    holders = clone.folder / ".snakemake/atlas/studies/first"
    while running["first"].poll() is None and not list(holders.glob("holder_*.json")):
        time.sleep(0.1)
    refused = clone.run(*ATLAS, "run", "first")
    status = {
        name: (process.wait(), (clone.folder / f"{name}.out").read_text())
        for name, process in running.items()
    }
    return Trained(clone, status, refused)


def test_two_studies_run_beside_each_other_in_few_lines(trained: Trained) -> None:
    for name, (status, said) in trained.status.items():
        assert status == 0, said
        assert f"atlas open {name}" in said
        # With `all`; who finds the images prepared has a job less.
        assert sum("done: " in line for line in said.splitlines()) in (JOBS, JOBS + 1)
        # Beside a line a job and one a minute: the demo's 59 jobs stay below 150.
        others = [line for line in said.splitlines() if " done" not in line]
        assert len(others) <= 12, others


def test_none_runs_twice_and_nobody_is_told_to_unlock(trained: Trained) -> None:
    said = trained.refused.stdout + trained.refused.stderr
    assert trained.refused.returncode != 0
    assert "first is being worked on by process" in said
    assert "Traceback" not in said
    assert "Snakefile" not in said
    assert "unlock" not in said


def test_images_are_prepared_once_and_the_ledger_has_both(trained: Trained) -> None:
    folder = trained.clone.folder
    page = (folder / "reports/index.html").read_text()
    assert all(f"{name}/index.html" in page for name in STUDIES)


def test_running_again_asks_snakemake_where_something_has_changed_alone(trained: Trained) -> None:
    # The ledger at most: when the studies began, neither had results that it could take.
    said = trained.atlas("run", *STUDIES)
    assert not re.search("done: (Preparing|Training|Probing|Drawing)", said), said
    before = os.times()
    said = trained.atlas("run", *STUDIES)
    after = os.times()
    assert all(f"{name}: nothing to be done" in said for name in STUDIES)
    assert "snakemake" not in said.lower()
    spent = after.children_user + after.children_system
    assert spent - before.children_user - before.children_system < 2
    (trained.clone.folder / "params/first.yaml").touch()
    assert "Nothing to be done" in trained.atlas("run", "first")


def test_what_was_trained_is_compared_and_opened(trained: Trained) -> None:
    told = trained.atlas("compare", "first:bt", "second:bt")
    assert "difference" in told
    assert "first:bt" in told
    assert "first/index.html" in trained.atlas("open", "first", BROWSER="true %s")
    assert trained.atlas("status", "first").startswith(f"first: {JOBS} of {JOBS} jobs done")
    assert "Does Barlow Twins fall after its peak?" in trained.atlas("answer", "first")


def test_a_milestone_more_trains_what_is_new_alone(trained: Trained) -> None:
    study = trained.clone.folder / "params/first.yaml"
    original = study.read_text()
    study.write_text(original.replace("[0, 1]", "[0, 1, 2]"))
    planned = trained.clone.plan("--config", "study=first", "--", "all")
    study.write_text(original)
    assert {rule: planned[rule] for rule in ("pretrain", "probe")} == {"pretrain": 1, "probe": 1}
