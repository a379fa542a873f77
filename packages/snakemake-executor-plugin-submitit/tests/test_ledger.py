"""What is remembered of jobs that are on their way, and who takes them over."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_stand_in import SETTINGS, Programs, submission
from snakemake_executor_plugin_submitit.call import user_name
from snakemake_executor_plugin_submitit.ledger import Entry, Identity, Ledger
from snakemake_executor_plugin_submitit.local import LocalCluster
from snakemake_executor_plugin_submitit.slurm import SlurmCluster
from snakemake_executor_plugin_submitit.submission import delete_logs, log_tail
from snakemake_executor_plugin_submitit.watch import Seen
from submitit.core.utils import DelayedSubmission

A = Entry("7_1", "/logs/train", ("a.txt", "b.txt"), "same")


def test_only_what_an_earlier_ledger_recorded_is_inherited(tmp_path: Path) -> None:
    first = Ledger(tmp_path / "new")
    first.record(A)
    assert first.inherited(A.outputs) == []
    second = Ledger(tmp_path / "new")
    assert second.inherited(["b.txt", "a.txt"]) == [A]
    assert second.inherited(["b.txt"]) == [A]  # groups are formed in another way
    assert second.inherited(["c.txt"]) == []
    assert second.unclaimed() == [A]


def test_an_entry_is_replaced_and_forgotten(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.record(A)
    again = Entry("8", A.folder, A.outputs, A.fingerprint)
    ledger.record(again)
    later = Ledger(tmp_path)
    assert later.inherited(["a.txt"]) == [again]
    later.forget(["b.txt"])
    assert later.inherited(["a.txt"]) == []
    assert later.unclaimed() == []
    assert list(tmp_path.iterdir()) == []


def test_an_entry_can_be_read_by_others_that_work_in_the_folder(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        Ledger(tmp_path).record(A)
    finally:
        os.umask(before)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o044 == 0o044


def test_a_ledger_knows_whether_another_snakemake_lives(tmp_path: Path) -> None:
    """Also one that is killed, whose lock nobody gives back."""
    code = (
        "import sys; from pathlib import Path;"
        "from snakemake_executor_plugin_submitit.ledger import Ledger;"
        "ledger = Ledger(Path(sys.argv[1]));"
        "print(ledger.is_alone(), flush=True); sys.stdin.read()"
    )
    folder = tmp_path / "snakemake/ledger"
    ledger = Ledger(folder)
    assert ledger.is_alone()
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "False\n"
        assert not ledger.is_alone()
        other.kill()
    assert ledger.is_alone()
    assert not folder.exists()


def test_what_a_killed_call_of_sbatch_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    ledger = Ledger(tmp_path / "ledger")
    with ledger.submitting(logs) as unique:
        for name in (f"{unique}.sh", f"{unique}_0.pkl", "7_0_log.out"):
            (logs / name).touch()
        Ledger(tmp_path / "ledger").remove_rests()
        assert [path.name for path in logs.iterdir()] == ["7_0_log.out"]
        assert list((tmp_path / "ledger").iterdir()) == []
    with ledger.submitting(logs):
        pass
    assert list((tmp_path / "ledger").iterdir()) == []


def test_what_cannot_be_removed_stays(tmp_path: Path) -> None:
    """As another user's files, for which folders stand here: root may remove any file."""
    ledger = Ledger(tmp_path / "ledger")
    with ledger.submitting(tmp_path / "logs") as unique:
        (tmp_path / "logs" / f"{unique}.sh").mkdir(parents=True)
        Ledger(tmp_path / "ledger").remove_rests()
    ledger.file(A.outputs).mkdir()
    ledger.forget(A.outputs)
    assert ledger.file(A.outputs).exists()


def test_the_log_is_shown_up_to_the_task_that_failed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    trace = "a peer's trace\n" * 100
    log.write_text(f"the reason\nsrun: error: n1: task 2: Exited with exit code 1\n{trace}")
    assert log_tail(log).splitlines() == [
        "the reason",
        "srun: error: n1: task 2: Exited with exit code 1",
    ]
    log.write_text("one\ntwo\n")
    assert log_tail(log) == "one\ntwo"


def test_old_logs_are_deleted_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "rule").mkdir()
    old, new, other = (tmp_path / "rule" / name for name in ("1_0_log.out", "2_0_log.out", "x"))
    for path in (old, new, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (time.time() - 3 * 86400,) * 2)
    delete_logs(tmp_path, days=2)
    assert sorted((tmp_path / "rule").iterdir()) == [new, other]


def test_a_file_that_was_not_written_to_its_end_is_no_entry(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"job_id": "7"')
    (tmp_path / "y.json").write_text('{"job_id": "7"}')
    (tmp_path / "z.5.tmp").write_text("{")
    assert Ledger(tmp_path).unclaimed() == []


def test_the_fingerprint_tells_whether_a_job_still_computes_the_same(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text("one")
    same = Identity(("out",), "command", (str(source), str(tmp_path), "missing"))
    before = same.fingerprint()
    os.utime(source, (1, 1))
    assert same.fingerprint() == before  # a small file is compared by its content
    assert Identity(("out",), "other", same.inputs).fingerprint() != before
    source.write_text("two")
    assert same.fingerprint() != before


def test_a_large_input_is_compared_by_size_and_time(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(1_000_001))
    job = Identity(("out",), "command", (str(large),))
    before = job.fingerprint()
    assert job.fingerprint() == before
    os.utime(large, (1, 1))
    assert job.fingerprint() != before


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmCluster:
    Programs(tmp_path, monkeypatch)
    return SlurmCluster(SETTINGS, Ledger(tmp_path / "ledger"), print)


@pytest.mark.parametrize(
    ("state", "result", "output", "changed", "forced", "wanted"),
    [
        ("RUNNING", None, False, False, False, True),
        ("PENDING", None, False, False, True, True),
        ("RUNNING", None, False, True, False, False),
        ("PREEMPTED", None, False, False, False, True),  # it is to go on
        ("NODE_FAIL", None, False, False, False, True),
        ("COMPLETED", None, True, False, False, True),  # its result is late
        ("FAILED", None, False, False, False, False),
        ("CANCELLED", None, False, False, False, False),
        (None, None, False, False, False, False),
        ("COMPLETED", "success", True, False, False, True),
        (None, "success", True, False, False, True),
        (None, "success", True, True, False, False),
        (None, "success", False, False, False, False),  # somebody removed its output
        (None, "success", True, False, True, False),
        ("FAILED", "error", True, False, False, False),
    ],
)
def test_which_job_of_an_earlier_start_is_taken_over(
    cluster: SlurmCluster,
    tmp_path: Path,
    state: str | None,
    result: str | None,
    output: bool,
    changed: bool,
    forced: bool,
    wanted: bool,
) -> None:
    job = submission(tmp_path, forced=forced)
    job.folder.mkdir()
    fingerprint = "other" if changed else job.identity.fingerprint()
    entry = Entry("7", str(job.folder), job.identity.outputs, fingerprint)
    if state is not None:
        cluster._watch._note(["7"], {"7": Seen(state)}, {})
    if result is not None:
        file = job.folder / "7_0_result.pkl"
        file.write_bytes(pickle.dumps((result, "Traceback\nCommandFailed: why")))
        os.utime(file, (1, 1))  # before this start
    if output:
        Path(job.identity.outputs[0]).touch()
    assert cluster._take_over.is_wanted(job, entry) == wanted


def test_a_job_of_another_cluster_is_not_what_has_its_number_here(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    cluster._watch._note(["7"], {"7": Seen("RUNNING")}, {})
    job = submission(tmp_path)
    job.folder.mkdir()
    same = (str(job.folder), job.identity.outputs, job.identity.fingerprint())
    for name, wanted in (("here", True), ("", True), ("there", False)):
        entry = Entry("7", *same, user_name(), name)
        assert cluster._take_over.is_wanted(job, entry) == wanted
        assert cluster._is_ours(entry) == wanted
    # Its result tells, wherever it ran.
    (job.folder / "7_0_result.pkl").write_bytes(pickle.dumps(("success", None)))
    Path(job.identity.outputs[0]).touch()
    assert cluster._take_over.is_wanted(job, entry)


def test_one_that_ended_after_the_start_is_not_run_again_for_being_forced(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    """Snakemake forces jobs that it found incomplete when it started."""
    job = submission(tmp_path, forced=True)
    job.folder.mkdir()
    (job.folder / "7_0_result.pkl").write_bytes(pickle.dumps(("success", None)))
    Path(job.identity.outputs[0]).touch()
    entry = Entry("7", str(job.folder), job.identity.outputs, job.identity.fingerprint())
    os.utime(job.folder / "7_0_result.pkl", (time.time() + 60,) * 2)
    assert cluster._take_over.is_wanted(job, entry)


@pytest.mark.parametrize(("left", "goes_on"), [(4, True), (5, False), (10, False)])
def test_a_local_job_goes_on_when_submitit_has_started_it_as_often_as_it_does(
    tmp_path: Path, left: int, goes_on: bool
) -> None:
    job = submission(tmp_path)
    job.info.external_jobid = "7"
    job.folder.mkdir()
    delayed = DelayedSubmission(print)
    delayed.set_timeout(60, left)
    delayed.dump(job.folder / "7_submitted.pkl")
    outcome = LocalCluster(2, 120, print)._ended_without_result(job)
    assert (outcome is None) == goes_on
    assert job.continuations == (left if goes_on else 10)
    assert (job.info.external_jobid is None) == goes_on
