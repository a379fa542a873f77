"""Nothing is lost beyond the last saved state, and nothing is run twice, whatever happens."""

from pathlib import Path

import pytest
from all_faults import TRAINER, Fault, check, kills
from trainer_faults import NotPossibleHere
from workspace import Stages

KILLS = kills(20)


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
