"""Planning: `plan` counts the jobs that Snakemake plans, and 10,000 of them plan in minutes."""

import os
import time
from collections import Counter
from pathlib import Path

import pytest
from fresh_clone import Clone

from barlow_atlas.study.file import load_study
from barlow_atlas.workflow.jobs import jobs_of, stale_milestones, submissions, targets, to_run

LIMIT_S = 120
MILESTONES = "0, 5, 10, 25, 50, 100"


def counted(clone: Clone, name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The jobs to run of a study in the clone, as `plan` finds them, and Snakemake's `all`."""
    monkeypatch.chdir(clone.folder)
    study = load_study(Path(f"params/{name}.yaml"))
    jobs = jobs_of(name, study)
    running = to_run(jobs, targets(name, study), stale_milestones(name, jobs), Path.is_file)
    submitted = (job for job in submissions(jobs) if job.file in running)
    return {"all": 1, **Counter(job.rule for job in submitted)}


TRUNK = (
    ("base: ../demo.yaml", "base: demo.yaml"),
    ("seeds: [1]", "seeds: [1, 2]"),
    ("milestones_together: 1", "milestones_together: 3"),
)
"""What makes a study of branches, beside runs that end earlier, one whose jobs go together."""


@pytest.mark.parametrize("name", ["demo", "ablations/digits-budget", "trunk", "cifar10"])
def test_plan_counts_what_snakemake_plans(
    clone: Clone, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "trunk":
        clone.write_study(name, "ablations/digits-budget", *TRUNK)
    planned = clone.plan("--config", f"study={name}", "--", "all")
    # The rule of a group is named after it.
    named: Counter[str] = Counter()
    for rule, number in planned.items():
        named[rule.partition(f"_{name}_s")[0]] += number
    assert counted(clone, name, monkeypatch) == named


def test_ten_thousand_jobs_are_planned_within_two_minutes(
    clone: Clone, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """50 seeds x 2 methods x 5 widths x 10 milestones, trained and probed.

    Limited is the processor time, of which Snakemake uses one core: other programs on the machine
    do not add to it.
    """
    clone.write_study(
        "large",
        "demo",
        ("embedding_dims: [256]", "embedding_dims: [16, 32, 64, 128, 256]"),
        ("seeds: [1, 2, 3]", f"seeds: {list(range(1, 51))}"),
        ("seeds_together: 3", "seeds_together: 1"),
        ("milestones_together: 3", "milestones_together: 1"),
        (f"milestones: [{MILESTONES}]", "milestones: [0, 5, 10, 20, 30, 40, 50, 60, 80, 100]"),
    )
    before, began = os.times(), time.monotonic()
    planned = clone.plan("--config", "study=large", "--", "all")
    wall, after = time.monotonic() - began, os.times()
    processor = sum(after[2:4]) - sum(before[2:4])
    began = time.monotonic()
    assert counted(clone, "large", monkeypatch) == planned
    own = time.monotonic() - began
    assert (planned["pretrain"], planned["probe"]) == (5000, 5000)
    with capsys.disabled():
        print(
            f"\n{sum(planned.values())} jobs: Snakemake plans them in {wall:.0f} s "
            f"({processor:.0f} s of processor time), `plan` counts them in {own:.0f} s"
        )
    assert processor < LIMIT_S
