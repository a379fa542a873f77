"""A change of code that changes no number costs no training: proven, accepted, or refused."""

import json
import subprocess
from pathlib import Path

import pytest
from fresh_clone import Checkout

LOOP = "src/barlow_atlas/training/loop.py"
TERMS = "list(terms.values())"
SUM = f"    added = torch._foreach_add([sums[name] for name in terms], {TERMS})\n"


@pytest.fixture(scope="module")
def trained(finished: Checkout) -> Checkout:
    """A clone in which a small study has been run, and is in git."""
    commit(finished)
    return finished


@pytest.fixture
def study(trained: Checkout) -> Checkout:
    """The trained clone, as it was left by git."""
    subprocess.run(["git", "checkout", "--quiet", "."], cwd=trained.folder, check=True)
    (trained.folder / "results/small/adopted.json").unlink(missing_ok=True)
    return trained


def commit(clone: Checkout) -> None:
    author = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for arguments in (["add", "--all"], [*author, "commit", "--quiet", "--message=small"]):
        subprocess.run(["git", *arguments], cwd=clone.folder, check=True)


def edit(clone: Checkout, file: str, old: str, new: str) -> None:
    path = clone.folder / file
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))


def adopt(clone: Checkout, *arguments: str) -> tuple[int, str]:
    done = clone.run("python", "-m", "barlow_atlas", "adopt", "--study", "small", *arguments)
    return done.returncode, done.stdout + done.stderr


def planned(clone: Checkout) -> dict[str, int]:
    return clone.plan("--config", "study=small", "--", "all")


def adopted(clone: Checkout) -> list[dict[str, object]]:
    file = clone.folder / "results/small/adopted.json"
    return json.loads(file.read_text()) if file.is_file() else []


def test_comments_and_moves_plan_nothing(study: Checkout) -> None:
    edit(study, LOOP, SUM, f"    # One more.\n{SUM}")
    assert planned(study) == {}


def test_a_refactoring_is_proven_by_stored_states_and_then_plans_nothing(study: Checkout) -> None:
    # In other words, and to the same bits.
    edit(
        study,
        LOOP,
        SUM,
        "    before = [sums[name] for name in terms]\n"
        f"    added = torch._foreach_add(before, {TERMS})\n",
    )
    assert planned(study)["pretrain"] == 12
    status, said = adopt(study, "--prove", "2")
    assert status == 0, said
    assert "largest difference 0" in said
    entries = adopted(study)
    assert {entry["code"] for entry in entries} == {
        "training barlow_twins",
        "training mixed_barlow_twins",
    }
    repetitions = entries[0]["proof"]["repetitions"]
    # The last segments follow on the states of the milestones before.
    assert {(each["trained_from"], each["epoch"]) for each in repetitions} == {(4, 6)}
    assert set(planned(study)) <= {"collect", "analyse", "report_study", "ledger", "all"}
    told = study.run(
        *("python", "-m", "barlow_atlas", "checkpoint", "verify", "mix-d64-e6-clean-s1"),
        *("--study", "small"),
    )
    assert "made by earlier code; training mixed_barlow_twins: 2 milestones made again" in (
        told.stdout
    )


def test_another_number_is_refused_and_named(study: Checkout) -> None:
    edit(study, LOOP, SUM, SUM.replace(TERMS, "[1.001 * each for each in terms.values()]"))
    status, said = adopt(study, "--prove", "2")
    assert status == 1
    assert "first at training metrics, epoch" in said
    assert "Nothing was adopted" in said
    assert adopted(study) == []
    status, said = adopt(study, "--prove", "2", "--tolerance", "0.01")
    assert status == 0, said
    assert adopted(study)[0]["proof"]["tolerance"] == 0.01


def test_the_code_of_a_commit_is_run_beside_todays(study: Checkout) -> None:
    edit(study, LOOP, SUM, SUM.replace(TERMS, "[1 * each for each in terms.values()]"))
    status, said = adopt(study, "--prove", "2", "--beside", "HEAD")
    assert status == 0, said
    assert "to the code of HEAD on the same machine" in said
    status, said = adopt(study, "--prove", "2")
    assert "nothing to prove" in said


def test_results_may_be_accepted_and_are_shown_as_such(study: Checkout) -> None:
    edit(study, LOOP, SUM, SUM.replace(TERMS, "[1.001 * each for each in terms.values()]"))
    status, said = adopt(study, "--accept", "only the sums that are shown")
    assert status == 0, said
    assert "accepted without proof" in said
    study.snakemake("--config", "study=small", "--", "all")
    page = (study.folder / "reports/small/runs.md").read_text()
    assert "accepted without proof" in page
    assert "only the sums that are shown" in page
    crate: Path = study.folder / "crate"
    done = study.run(
        *("python", "-m", "barlow_atlas", "export", "--study", "small", "--to", str(crate)),
        "--partial",
    )
    assert done.returncode == 0, done.stderr
    assert (crate / "results/small/adopted.json").is_file()
