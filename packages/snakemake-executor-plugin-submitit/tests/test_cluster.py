"""What is made of what Slurm's programs say; stand-ins say it here."""

from __future__ import annotations

import json
import pickle
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from slurm_stand_in import FACTS, SETTINGS, SILENT, Programs, submission
from snakemake_executor_plugin_submitit import slurm, takeover
from snakemake_executor_plugin_submitit import submission as submissions
from snakemake_executor_plugin_submitit.call import user_name
from snakemake_executor_plugin_submitit.executor import Executor, identity_of
from snakemake_executor_plugin_submitit.ledger import Entry, Ledger
from snakemake_executor_plugin_submitit.local import LocalCluster, _Running
from snakemake_executor_plugin_submitit.slurm import SlurmCluster, SlurmSettings
from snakemake_executor_plugin_submitit.submission import Outcome, Submission, read_result
from snakemake_executor_plugin_submitit.watch import Seen
from submitit_project import wait_for

TAKEN = "echo Submitted batch job 7"
# As submitit writes it when `scontrol requeue` has failed.
NOT_REQUEUED = (
    "Traceback\nsubprocess.CalledProcessError: Command '['scontrol', 'requeue', '7']' returned "
    "non-zero exit status 1."
)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """A Slurm that tells its facts, takes jobs and cancels them."""
    found = Programs(tmp_path, monkeypatch)
    found.say("sbatch", TAKEN)
    found.say("scancel", "")
    return found


@pytest.fixture
def said() -> list[str]:
    return []


def make(folder: Path, said: list[str], settings: SlurmSettings = SETTINGS) -> SlurmCluster:
    return SlurmCluster(settings, Ledger(folder / "ledger"), said.append)


def place(cluster: SlurmCluster, job: Submission) -> Outcome | None:
    """Hands the job over; its outcome, if Slurm does not take it."""
    cluster.accept([job])
    found: dict[Submission, Outcome] = {}
    wait_for(
        lambda: found.update(cluster.step([job], False)) or found or job.info.external_jobid,
        "an answer of sbatch",
    )
    return found.get(job)


def test_sbatch_is_tried_for_a_bounded_time(
    programs: Programs, said: list[str], tmp_path: Path
) -> None:
    programs.say("sbatch", SILENT)
    outcome = place(
        make(tmp_path, said, replace(SETTINGS, controller_timeout_s=1)), submission(tmp_path)
    )
    assert outcome is not None
    assert "sbatch refused it: Unable to contact slurm controller" in outcome.reason
    assert "tried for 1 s" in outcome.reason
    assert len(said) == 1
    assert list((tmp_path / "logs").iterdir()) == []


def test_cancelling_ends_the_tries(programs: Programs, said: list[str], tmp_path: Path) -> None:
    programs.say("sbatch", SILENT)
    cluster = make(tmp_path, said)
    cluster.accept([submission(tmp_path)])
    began = time.monotonic()
    cluster.cancel()
    assert time.monotonic() - began < 20


def test_facts_are_waited_for_while_slurm_is_silent(
    programs: Programs, said: list[str], tmp_path: Path
) -> None:
    programs.say("scontrol", SILENT)
    cluster = make(tmp_path, said)
    job = submission(tmp_path, runtime=None, cluster="here")
    cluster.accept([job])
    wait_for(lambda: len(programs.calls("scontrol")) > 2, "more than one try")
    assert programs.calls("sbatch") == []
    programs.say("scontrol", FACTS)
    wait_for(lambda: cluster.step([job], False) or job.info.external_jobid, "sbatch")
    assert job.request.runtime_min == 30
    (entry,) = (json.loads(file.read_text()) for file in (tmp_path / "ledger").glob("*.json"))
    assert entry["cluster"] == "here"


def test_a_job_of_another_cluster_stands_in_the_way_of_its_own_outputs_only(
    programs: Programs, said: list[str], tmp_path: Path
) -> None:
    programs.say("squeue", "")
    programs.say("sacct", "")
    jobs = [submission(tmp_path, name=name) for name in ("a", "b")]
    for job, cluster in zip(jobs, ("there", "here"), strict=True):
        Ledger(tmp_path / "ledger").record(
            Entry("5", str(job.folder), job.identity.outputs, "", user_name(), cluster)
        )
    cluster = make(tmp_path, said)
    cluster.accept(jobs)
    found: dict[Submission, Outcome] = {}
    wait_for(
        lambda: found.update(cluster.step(jobs, False)) or (found and jobs[1].info.external_jobid),
        "both jobs",
    )
    assert list(found) == jobs[:1]
    reason = found[jobs[0]].reason
    assert "Slurm job 5 of cluster there may make the same outputs, and this is here" in reason
    file = Path(reason.rpartition("delete ")[2])
    assert file.exists()
    cluster.cancel()
    assert programs.calls("scancel") == ["--quiet 7"]
    assert file.exists()


def test_jobs_that_were_not_taken_over_yet_are_cancelled_if_they_are_ours(
    programs: Programs, said: list[str], tmp_path: Path
) -> None:
    jobs = [submission(tmp_path, name=name) for name in ("mine", "theirs", "elsewhere")]
    origins = ((user_name(), "here"), ("somebody", "here"), (user_name(), "there"))
    for number, (job, origin) in enumerate(zip(jobs, origins, strict=True), start=5):
        same = (str(job.folder), job.identity.outputs, job.identity.fingerprint())
        Ledger(tmp_path / "ledger").record(Entry(str(number), *same, *origin))
    cluster = make(tmp_path, said)
    cluster.accept(jobs)
    wait_for(lambda: programs.calls("squeue"), "the question that Slurm does not answer")
    cluster.cancel()
    assert programs.calls("scancel") == ["--quiet 5"]
    entries = [json.loads(file.read_text()) for file in (tmp_path / "ledger").glob("*.json")]
    assert sorted(entry["job_id"] for entry in entries) == ["6", "7"]


def test_a_job_of_an_earlier_start_is_cancelled_again_if_scancel_failed(
    programs: Programs, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takeover, "_ENDING_POLL_S", 0.1)
    programs.say("sacct", "")
    programs.say("squeue", f"test -e {tmp_path}/gone || echo '5|RUNNING|n1|None'")
    again = f"touch {tmp_path}/gone"
    programs.say(
        "scancel", f"test -e {tmp_path}/asked && {again} || {{ touch {tmp_path}/asked; {SILENT}; }}"
    )
    job = submission(tmp_path)
    Ledger(tmp_path / "ledger").record(
        Entry("5", str(job.folder), job.identity.outputs, "another", user_name(), "here")
    )
    assert place(make(tmp_path, said), job) is None
    assert job.info.external_jobid == "7"
    assert programs.calls("scancel") == ["--quiet 5"] * 2


def test_failed_nodes_are_avoided_by_single_node_jobs_if_others_take_them(
    programs: Programs, said: list[str], tmp_path: Path
) -> None:
    cluster = make(tmp_path, said)
    cluster._bad_nodes = ("n1",)
    programs.say("sbatch", f'cp "$1" {tmp_path}/script; {TAKEN}')
    assert place(cluster, submission(tmp_path, name="a")) is None
    assert "--exclude=n1" in (tmp_path / "script").read_text()
    assert place(cluster, submission(tmp_path, name="b", nodes=2)) is None
    assert "--exclude" not in (tmp_path / "script").read_text()
    programs.say(
        "sbatch",
        f'cp "$1" {tmp_path}/script; grep -q exclude "$1" || {{ {TAKEN}; exit; }};'
        " echo 'sbatch: error: Requested node configuration is not available' >&2; exit 1",
    )
    assert place(cluster, submission(tmp_path, name="c")) is None


def test_variables_that_would_override_rules_are_kept_from_sbatch_and_named(
    programs: Programs, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_TIMELIMIT", "5")
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    programs.say("sbatch", f"env > {tmp_path}/environment; {TAKEN}")
    cluster = make(tmp_path, said)
    for name in ("a", "b"):
        assert place(cluster, submission(tmp_path, name=name)) is None
    environment = (tmp_path / "environment").read_text()
    assert "SBATCH_ACCOUNT=mine" in environment
    assert "SBATCH_TIMELIMIT" not in environment
    assert [words for words in said if "left out: SBATCH_TIMELIMIT." in words] == said


def test_the_line_of_a_job_is_that_of_its_partition_by_the_file(
    programs: Programs, said: list[str], tmp_path: Path
) -> None:
    programs.say("sbatch", "echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2; exit 1")
    cluster = make(tmp_path, said, replace(SETTINGS, partitions={"low": {}}))
    first, second = submission(tmp_path, name="a"), submission(tmp_path, name="b")
    cluster.accept([first])
    wait_for(lambda: cluster.step([first], False) or said, "the limit")
    cluster.accept([second])
    assert len(programs.calls("sbatch")) == 1
    assert cluster._backlog.give_back() == [first, second]


# Jobs that wait, and the end of jobs ---------------------------------------------------------


def with_slurm(cluster: SlurmCluster, job: Submission, job_id: str = "7") -> None:
    """As if Slurm had taken the job."""
    job.folder.mkdir(exist_ok=True)
    job.info.external_jobid = job_id
    cluster._placed[job] = job_id


@pytest.fixture
def cluster(programs: Programs, said: list[str], tmp_path: Path) -> SlurmCluster:
    """Which gives hopeless jobs up at once."""
    return make(tmp_path, said, replace(SETTINGS, lost_after_s=-1))


def test_a_failed_scancel_is_told_and_repeated(
    cluster: SlurmCluster,
    programs: Programs,
    said: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slurm, "TRY_EVERY_S", 0.2)
    programs.say("scancel", SILENT)
    job = submission(tmp_path)
    with_slurm(cluster, job)
    cluster._watch._note(["7"], {"7": Seen("PENDING", reason="DependencyNeverSatisfied")}, {})
    wait_for(
        lambda: cluster.step([job], True) or len(programs.calls("scancel")) > 2, "more than one try"
    )
    assert sum("could not be cancelled: Unable to contact" in words for words in said) == 1
    programs.say("scancel", "")
    wait_for(lambda: cluster.step([job], True) or cluster._hopeless, "scancel")
    calls = len(programs.calls("scancel"))
    cluster.step([job], False)
    assert len(programs.calls("scancel")) <= calls + 1  # by the end of the workflow
    assert "it can never start (DependencyNeverSatisfied)" in cluster._hopeless["7"]


def test_a_hopeless_job_of_another_user_is_only_told(
    cluster: SlurmCluster, programs: Programs, said: list[str], tmp_path: Path
) -> None:
    job = submission(tmp_path)
    job.owner = "nobody"
    with_slurm(cluster, job)
    cluster._watch._note(["7"], {"7": Seen("PENDING", reason="BadConstraints")}, {})
    for _ in range(2):
        cluster.step([job], False)
    assert programs.calls("scancel") == []
    assert [words for words in said if "waits (BadConstraints)" in words] == said
    assert len(said) == 1


def test_a_job_that_could_not_be_requeued_is_submitted_again_and_is_ours(
    cluster: SlurmCluster, programs: Programs, tmp_path: Path
) -> None:
    job = submission(tmp_path)
    job.owner = "nobody"
    with_slurm(cluster, job, "6")
    result = job.folder / "6_0_result.pkl"
    result.write_bytes(pickle.dumps(("error", NOT_REQUEUED)))
    wait_for(lambda: cluster.step([job], False) or job.info.external_jobid == "7", "sbatch")
    assert job.note == "goes on after job 6 could not be requeued"
    assert (job.continuations, job.owner) == (9, "")
    assert programs.calls("scancel") == ["--quiet 6"]  # it may be about to be requeued
    assert cluster._rules == {"6": "train"}  # for the report on efficiency
    assert not result.exists()


def test_one_that_is_to_go_on_waits_for_scancel(
    cluster: SlurmCluster, programs: Programs, tmp_path: Path
) -> None:
    programs.say("scancel", SILENT)
    job = submission(tmp_path)
    with_slurm(cluster, job, "6")
    (job.folder / "6_0_result.pkl").write_bytes(pickle.dumps(("error", NOT_REQUEUED)))
    wait_for(lambda: cluster.step([job], False) or programs.calls("scancel")[1:], "two tries")
    assert programs.calls("sbatch") == []
    programs.say("scancel", "")
    wait_for(lambda: cluster.step([job], False) or job.info.external_jobid == "7", "sbatch")


def test_a_result_that_cannot_be_read_just_now_is_looked_for_again(
    cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submission(tmp_path)
    with_slurm(cluster, job)
    result = job.folder / "7_0_result.pkl"
    result.mkdir()  # it is there and reading it is an OSError
    assert cluster.step([job], False) == {}
    result.rmdir()
    result.write_bytes(pickle.dumps(("success", None)))
    assert cluster.step([job], False) == {job: Outcome(True)}
    again = submission(tmp_path)
    with_slurm(cluster, again)
    result.mkdir()
    monkeypatch.setattr(submissions, "_READABLE_WITHIN_S", -1.0)
    wait_for(
        lambda: "cannot be read" in str(cluster.step([again], False).get(again)), "the failure"
    )


def test_a_file_system_that_fails_for_a_moment_ends_nothing(
    cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submission(tmp_path)
    with_slurm(cluster, job)

    def stale(*_: object, **__: object) -> None:
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patched:
        patched.setattr("os.stat", stale)
        assert cluster.step([job], False) == {}


def test_advice_to_cancel_works_in_any_shell(
    cluster: SlurmCluster, programs: Programs, said: list[str], tmp_path: Path
) -> None:
    for task in range(2):
        with_slurm(cluster, submission(tmp_path, name=str(task)), f"7_{task}")
    programs.say("scancel", SILENT)
    cluster.cancel()
    assert said[-1].endswith("To end them: scancel '7_[0-1]'")


def test_a_requeue_that_failed_is_told_from_a_command_that_did(tmp_path: Path) -> None:
    file = tmp_path / "result"
    file.write_bytes(pickle.dumps(("error", NOT_REQUEUED)))
    assert read_result(file).to_continue
    file.write_bytes(pickle.dumps(("error", "Traceback\njob.CommandFailed: it ended")))
    assert read_result(file) == Outcome(False, "it ended")


# The executor, and this machine --------------------------------------------------------------


def test_what_a_group_makes_for_itself_is_no_input() -> None:
    """It is there or not, as far as the group has got."""

    def one(name: str, inputs: list[str]) -> SimpleNamespace:
        rule = SimpleNamespace(name=name, script=None, notebook=None, wrapper=None)
        return SimpleNamespace(
            rule=rule,
            wildcards_dict={},
            input=inputs,
            output=[f"{name}.out"],
            shellcmd="",
            params=[],
        )

    jobs = [one("a", ["source"]), one("b", ["a.out", "source"])]
    for job in jobs:
        job.rule.run_func_src = "code"
    group = SimpleNamespace(is_group=lambda: True, jobs=jobs)
    assert identity_of(group).inputs == ("source",)


def test_a_log_that_cannot_be_deleted_stays(tmp_path: Path) -> None:
    """As another user's, for which a folder stands here."""
    job = submission(tmp_path)
    job.info.external_jobid = "7"
    assert job.log is not None
    job.log.mkdir(parents=True)
    executor = MagicMock()
    Executor._report(executor, job, Outcome(True))
    executor.report_job_success.assert_called_once_with(job.info)


def test_a_local_job_leaves_the_result_of_a_running_one_in_the_same_folder(tmp_path: Path) -> None:
    """Those of one group have one folder."""
    local = LocalCluster(2, 120, print)
    running, starting = submission(tmp_path, name="a"), submission(tmp_path, name="b")
    running.info.external_jobid = "1"
    running.folder.mkdir()
    for job_id in ("1", "2"):
        (running.folder / f"{job_id}_0_result.pkl").write_bytes(pickle.dumps(("success", None)))
    local._running[running] = _Running(SimpleNamespace(job_id="1", done=lambda: False), 1, ())
    assert local.step([running, starting], False) == {}
    assert (running.folder / "1_0_result.pkl").exists()
    assert not (running.folder / "2_0_result.pkl").exists()
    local._running[running].job.done = lambda: True
    assert local.step([running, starting], False)[running].succeeded
    wait_for(lambda: starting in local.step([starting], False), "the other job")
