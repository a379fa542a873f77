"""Nothing is lost beyond the last saved state, and nothing is run twice, whatever happens."""

from pathlib import Path

import pytest
from all_faults import TRAINER, Fault, check, kills
from trainer_faults import NotPossibleHere
from workspace import MILESTONES, OFTEN, RUN, STUDY, Stages, Workspace, ended, wait_for

from barlow_atlas.errors import EXIT_INTERRUPTED

KILLS = kills(20)
ALL_MILESTONES = [
    *("pretrain", "--study", STUDY, "--run", RUN, "--save-every", str(OFTEN)),
    *("--until", *map(str, MILESTONES)),
]


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


def stopped_behind_the_second_milestone(
    stages: Stages, folder: Path, stop: str, save: int = 2
) -> Workspace:
    """A job of all milestones that was stopped on its way to the last one, with so many saved
    states; Snakemake has removed what it had made."""
    workspace = stages.fresh.copy(folder)
    process = workspace.run(ALL_MILESTONES)
    kept = workspace.resume / f"milestones/epoch_{MILESTONES[-2]:04d}.json"
    wait_for(lambda: kept.is_file() and len(workspace.states()) >= save)
    getattr(process, stop)()
    process.join()
    if stop == "terminate":
        assert process.exitcode == EXIT_INTERRUPTED, workspace.said()[-3000:]
    made = [*workspace.checkpoints.glob("*.safetensors"), *workspace.checkpoints.glob("*.json")]
    assert len(made) == 2 * len(MILESTONES[:-1])
    for file in [*made, *workspace.training.iterdir()]:
        file.unlink()
    return workspace


@pytest.mark.parametrize(("stop", "save"), [("terminate", 2), ("kill", 2), ("kill", 0)])
def test_a_job_of_all_milestones_goes_on_where_it_was_stopped(
    stop: str, save: int, stages: Stages, tmp_path: Path
) -> None:
    workspace = stopped_behind_the_second_milestone(stages, tmp_path / "run", stop, save)
    before = len(workspace.steps())
    assert ended(workspace.run(ALL_MILESTONES)) == 0, workspace.said()
    assert workspace.content() == stages.finished.content()
    again = workspace.steps()[before:]
    assert min(again)[0] > MILESTONES[-2], "an earlier milestone was trained again"
    if stop == "terminate":
        assert workspace.repeated_steps() == 0
    assert not list(workspace.resume.rglob("epoch_*")), "kept although nothing is missing"


@pytest.mark.parametrize("fault", ["damaged", "other parameters"])
def test_what_was_kept_is_taken_for_nothing_else(
    fault: str, stages: Stages, tmp_path: Path
) -> None:
    workspace = stopped_behind_the_second_milestone(stages, tmp_path / "run", "terminate")
    before = len(workspace.steps())
    if fault == "damaged":
        for weights in workspace.resume.glob("milestones/*.safetensors"):
            weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    else:
        study = workspace.folder / f"params/{STUDY}.yaml"
        study.write_text(study.read_text().replace("base_lr: 0.01", "base_lr: 0.02"))
    assert ended(workspace.run(ALL_MILESTONES)) == 0, workspace.said()
    assert min(workspace.steps()[before:])[0] == 1, "nothing was trained from the seed"
    same = workspace.content() == stages.finished.content()
    assert same == (fault == "damaged")
