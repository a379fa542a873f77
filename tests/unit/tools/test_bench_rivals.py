"""Other people's programs beside ours: lightly computes what it says, commands are understood."""

import sys
from functools import partial

import numpy as np
import pytest
import torch

from barlow_atlas.__main__ import main
from barlow_atlas.nn.randomness import generator
from barlow_atlas.settings.augmentation import RECIPES
from barlow_atlas.study.models import Run
from barlow_atlas.tools import bench
from barlow_atlas.tools.bench import rivals
from barlow_atlas.tools.bench.images import cifar10, demo, noise
from barlow_atlas.tools.bench.records import BenchError, of_rounds

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def small() -> Run:
    changes = {"image_size": 8, "batch_size": 16, "embedding_dim": 8}
    return cifar10("bt", backbone=demo("bt").backbone, **changes)


def test_lightlys_loss_is_the_papers(small: Run) -> None:
    """Eq. 1 and 2 of the BT paper, from numpy's own correlations."""
    rival = rivals.Lightly(small, noise(32, 8), CPU)
    draws = generator(0, "test")
    images = [torch.randn(16, 3, 8, 8, generator=draws) for _ in range(2)]
    loss = rival._loss(*images).item()
    embedded = [rival.network(each).detach().numpy().astype(float) for each in images]
    c = np.corrcoef(*embedded, rowvar=False)[:8, 8:]
    diagonal = np.diagonal(c)
    lambda_bt = small.settings.lambda_bt  # type: ignore[union-attr]
    expected = ((diagonal - 1) ** 2).sum() + lambda_bt * ((c**2).sum() - (diagonal**2).sum())
    assert loss == pytest.approx(expected, rel=1e-3)


def test_lightlys_view_has_the_recipes_settings(small: Run) -> None:
    view = small.recipe.view_a
    listed = rivals.lightly_view(view, small).transform.transforms
    kinds = {type(each).__name__: each for each in listed}
    assert kinds["RandomResizedCrop"].scale == (0.08, 1.0)
    assert kinds["RandomResizedCrop"].size in ((8, 8), [8, 8])
    assert kinds["RandomHorizontalFlip"].p == 0.5
    assert kinds["RandomApply"].p == 0.8
    assert tuple(kinds["RandomApply"].transforms[0].hue) == (-0.1, 0.1)
    assert kinds["RandomGrayscale"].p == 0.2
    assert kinds["GaussianBlur"].prob == 0
    with pytest.raises(BenchError, match="cannot express"):
        rivals.lightly_view(RECIPES["byol-imagenet"].view_a, small)


def test_what_lightly_has_not_is_refused(small: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BenchError, match="has Barlow Twins, and not mixed"):
        rivals.Lightly(cifar10("mix"), noise(1, 8), CPU)
    monkeypatch.setitem(sys.modules, "lightly.loss", None)
    with pytest.raises(BenchError, match="python -m pip install 'lightly"):
        rivals.Lightly(small, noise(1, 8), CPU)


def test_medians_are_those_of_rounds() -> None:
    record = of_rounds("a/b", "images/s", [(4, 1), (6, 3), (50, 5)], "made up")
    assert (record.ours, record.baseline, record.ratio) == (6, 3, 4)


COMMAND = 'echo "it starts"; echo $((BENCH_STEPS * BENCH_BATCH)) 0.5'


@pytest.mark.slow
def test_lightly_and_commands_are_measured_by_rounds(small: Run) -> None:
    commands = {"mine": COMMAND, "timed": f"{COMMAND} 0.25"}
    found = {one.name: one for one in rivals.records(CPU, commands, {"tiny": (small, 2)}, rounds=1)}
    assert list(found) == [
        f"rivals/tiny beside {name}"
        for name in (
            "lightly, images/s",
            "lightly, images/CPU s",
            "mine, images/s",
            "timed, images/s",
            "timed, images/CPU s",
        )
    ]
    assert found["rivals/tiny beside mine, images/s"].baseline == 64
    assert found["rivals/tiny beside timed, images/CPU s"].baseline == 128
    for one in found.values():
        assert one.ours
        assert one.ratio
    assert "1 core" in one.settings


@pytest.mark.parametrize(
    "command", ["exit 3", "echo fast", "echo 1", "echo 1 0", "echo 1 2 3 4", "echo 16 1; exit 1"]
)
def test_a_command_that_tells_no_speed_is_refused_with_what_it_should_tell(
    command: str, small: Run
) -> None:
    with pytest.raises(BenchError, match=r"the rival mine, `.*Expected: status 0, and a last line"):
        rivals._commanded("mine", command, small, 1, CPU)


def test_a_command_is_told_what_is_wanted(small: Run) -> None:
    command = 'test "$BENCH_SIZE $BENCH_DIMENSIONS $BENCH_NETWORK $BENCH_DEVICE" = "8 8 small cpu"'
    turn = partial(rivals._commanded, "mine", f"{command} && echo 32 2 1.5", small, 2, CPU)
    assert turn() == (32, 2.0, 1.5)


def test_rivals_come_by_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {}

    def records(device: torch.device, commands: dict[str, str]) -> list[object]:
        asked.update(commands)
        return []

    monkeypatch.setattr(rivals, "records", records)
    command = ["bench", "--only", "rivals", "--device", "cpu"]
    assert main([*command, "--rival", "mine=python train.py --x=1", "--rival", "b=true"]) == 0
    assert asked == {"mine": "python train.py --x=1", "b": "true"}
    with pytest.raises(SystemExit):
        main([*command, "--rival", "python train.py"])
    assert "NAME=COMMAND, such as" in capsys.readouterr().err
    assert "rivals" in bench.NAMES
