"""The atlas itself on a real Slurm: `snakemake --profile slurm`, a study on digits, made small."""

import json

import pytest
from fresh_clone import Clone
from loopback_slurm import LoopbackSlurm

SMALL = (
    ("width: 16", "width: 8"),
    ("seeds_together: 3", "seeds_together: 1"),
    ("milestones_together: 3", "milestones_together: 1"),
    ("embedding_dims: [256]", "embedding_dims: [64]"),
    ("seeds: [1, 2, 3]", "seeds: [1]"),
    ("\nepochs: 100", "\nepochs: 4"),
    ("warmup_epochs: 10", "warmup_epochs: 2"),
    ("milestones: [0, 5, 10, 25, 50, 100]", "milestones: [0, 4]"),
    ("pretrain: {mem_mb: 2000, runtime: 30}", "pretrain: {gpu: 1, mem_mb: 700, runtime: 17}"),
    ("probe: {mem_mb: 2000, runtime: 10}", "probe: {mem_mb: 600, runtime: 13}"),
)


@pytest.fixture(scope="module")
def submitted(slurm: LoopbackSlurm, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which the study has run on the cluster through the committed profile."""
    clone = Clone(tmp_path_factory.mktemp("clone"))
    clone.write_study("small", "demo", *SMALL)
    command = ("snakemake", "--profile", "slurm", "--config", "study=small", "--", "all")
    done = clone.run(*command, **slurm.environment)
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
    return clone


def test_the_report_is_made(submitted: Clone) -> None:
    assert (submitted.folder / "reports/small/curves.png").is_file()
    probed = list(submitted.folder.glob("results/small/probes/*/*.json"))
    assert len(probed) == 2 * 2
    assert json.loads(probed[0].read_text())["results"]


def test_jobs_got_what_the_study_asks_for(submitted: Clone, slurm: LoopbackSlurm) -> None:
    listed = slurm.run(
        *("sacct", "--allocations", "--noheader", "--parsable2", "--duplicates"),
        *("--format=JobName,State,ReqTRES,Timelimit,WorkDir", "--starttime=now-1hour"),
    )
    rows = [line.split("|") for line in listed.splitlines()]
    jobs = [row for row in rows if row[4] == str(submitted.folder)]
    assert len(jobs) == 2 * 2 + 2 * 2
    assert {state for _, state, *_ in jobs} == {"COMPLETED"}
    asked = {
        (limit, "gres/gpu=1" in resources, "700M" in resources)
        for _, _, resources, limit, _ in jobs
    }
    assert asked == {("00:17:00", True, True), ("00:13:00", False, False)}
