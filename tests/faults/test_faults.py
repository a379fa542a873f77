"""Nothing is lost beyond the last saved state, and nothing is run twice, whatever happens."""

from pathlib import Path

import pytest
from all_faults import TRAINER, WORKFLOW, Fault, kills
from row import Row
from trainer_faults import NotPossibleHere
from workflow_faults import Workflows
from workspace import Stages

KILLS = kills(20)
NOTHING_LOST = {"sigterm", "sigusr2", "two_trainers", "outer_killed", "two_users", "two_clones"}


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    return Stages.make(tmp_path_factory.mktemp("stages"))


@pytest.mark.parametrize("name", [*TRAINER, *KILLS])
def test_the_run_ends_as_if_nothing_had_happened(name: str, stages: Stages, tmp_path: Path) -> None:
    fault: Fault = {**TRAINER, **KILLS}[name]
    try:
        check(name, fault(stages, tmp_path / "run"))
    except NotPossibleHere as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def workflows(tmp_path_factory: pytest.TempPathFactory) -> Workflows:
    return Workflows.make(tmp_path_factory.mktemp("workflows"))


@pytest.mark.parametrize("name", WORKFLOW)
def test_the_study_ends_as_if_nothing_had_happened(
    name: str, workflows: Workflows, tmp_path: Path
) -> None:
    check(name, WORKFLOW[name](workflows, tmp_path / "clone"))


def check(name: str, row: Row) -> None:
    assert row.equal, row
    if name in NOTHING_LOST:
        assert row.repeated == "nothing", row
