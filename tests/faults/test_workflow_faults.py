"""The same of Snakemake around a trainer: whoever is killed, nothing is run twice."""

from pathlib import Path

import pytest
from all_faults import WORKFLOW, check
from workflow_faults import Workflows


@pytest.fixture(scope="module")
def workflows(tmp_path_factory: pytest.TempPathFactory) -> Workflows:
    return Workflows.make(tmp_path_factory.mktemp("workflows"))


@pytest.mark.parametrize("name", WORKFLOW)
def test_the_study_ends_as_if_nothing_had_happened(
    name: str, workflows: Workflows, tmp_path: Path
) -> None:
    check(name, WORKFLOW[name](workflows, tmp_path / "clone"))
