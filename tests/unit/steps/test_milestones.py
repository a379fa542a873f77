"""Several milestones by one job; tests/faults/test_trainer_faults.py interrupts it."""

from pathlib import Path

import pytest

from barlow_atlas.steps import milestones
from barlow_atlas.study.file import load_study

STUDY = load_study(Path("params/demo.yaml"))
RUN = "bt-d256-e100-clean-s1"


@pytest.mark.parametrize("epochs", [[5], [5, 10]])
def test_what_a_job_keeps_goes_with_the_end_of_this_job_alone(
    epochs: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that train a milestone together each end before the job that started them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(milestones, "pretrain", lambda *given: None)
    for epoch in epochs:
        for file in milestones._made("demo", RUN, epoch):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    kept = Path(f"results/resume/demo/{RUN}/milestones/epoch_0000.json")
    kept.parent.mkdir(parents=True)
    kept.touch()
    milestones.pretrain_in_turn("demo", STUDY, [RUN], epochs, None, 60.0)
    assert kept.exists() == (len(epochs) == 1)
