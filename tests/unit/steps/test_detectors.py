"""Detectors trained by the processes that a study asks for, before one process probes."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from ruamel.yaml import YAML
from small_data import small_voc0712

from barlow_atlas.__main__ import main
from barlow_atlas.data.catalog import resolve
from barlow_atlas.data.preparation import prepare
from barlow_atlas.errors import EXIT_INTERRUPTED
from barlow_atlas.probes import detection as probing
from barlow_atlas.training import launch

RUN = "bt-d16-e2-clean-s1"
SMALL: dict[str, Any] = {
    "backbone": {"name": "small", "stem": "3x3", "width": 8},
    "projector": {"hidden": [16]},
    "methods": {"bt": {"objective": "barlow_twins", "lambda_bt": 0.05}},
    "embedding_dims": [16],
    "seeds": [1],
    "seeds_together": 1,
    "epochs": 2,
    "schedule": {"name": "mix_cosine", "base_lr": 0.01, "warmup_epochs": 1},
    "milestones": [0, 2],
    "probes": {
        "detection": {
            "target": "voc0712",
            "detector": {
                "short_sides": [32],
                "long_side": 40,
                "anchors": [8],
                "proposals": 9,
                "test_proposals": 9,
                "regions": 8,
            },
            "training": {
                "iterations": 2,
                "batch_size": 2,
                "learning_rate": 0.01,
                "warmup": 1,
                "drops": [],
            },
        }
    },
}


def write_study(processes: int) -> None:
    demo = YAML(typ="safe").load(Path(__file__).parents[3] / "params/demo.yaml")
    probe = {"tasks_per_node": processes, "mem_mb": 2000, "runtime": 10}
    resources = {"pretrain": demo["resources"]["pretrain"], "probe": probe}
    Path("params").mkdir(exist_ok=True)
    YAML().dump({**demo, **SMALL, "resources": resources}, Path("params/boxes.yaml"))


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The step of an untrained milestone, whose images and objects are prepared."""
    monkeypatch.chdir(tmp_path)
    write_study(2)
    facts, folder = small_voc0712(tmp_path / "mirror")
    prepare(facts, Path("results/data/voc0712"), Path("raw"), [str(folder.parent)])
    prepare(resolve("digits"), Path("results/data/digits"), Path("raw"))
    assert main(["pretrain", "--study", "boxes", "--run", RUN, "--until", "0"]) == 0
    return ["probe", "--study", "boxes", "--run", RUN, "--epoch", "0"]


@pytest.mark.slow
def test_one_process_goes_on_from_what_several_have_trained(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trains: list[int] = []
    brought = probing._Training._batch

    def counted(self: probing._Training, pool: Any, iteration: int) -> Any:
        trains.append(iteration)
        return brought(self, pool, iteration)

    monkeypatch.setattr(probing._Training, "_batch", counted)
    assert main(asked) == 0
    assert trains == [2, 3], "the detector was trained again, where only its norms are settled"
    told = json.loads(Path(f"results/boxes/probes/{RUN}/epoch_0000.json").read_text())
    assert {one["settings"]["precision"] for one in told["results"]} == {"AP", "AP50", "AP75"}
    assert not list(Path("results/features").rglob("*.state"))
    write_study(1)
    assert main(asked) == 0
    assert trains == [2, 3, 0, 1, 2, 3]
    alone = json.loads(Path(f"results/boxes/probes/{RUN}/epoch_0000.json").read_text())
    assert [one["settings"] for one in alone["results"]] == [
        one["settings"] for one in told["results"]
    ]


def test_as_many_are_started_as_are_asked_for_and_a_stop_is_told(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[list[str], int, int]] = []

    def stopped(words: list[str], nodes: int, per_node: int) -> bool:
        started.append((words, nodes, per_node))
        return True

    monkeypatch.setattr(launch, "run_processes", stopped)
    assert main([*asked, "--device", "cpu"]) == EXIT_INTERRUPTED
    ((words, nodes, per_node),) = started
    assert words[2:] == ["barlow_atlas", *asked, "--device", "cpu"]
    assert (nodes, per_node) == (1, 2)
    assert not Path(f"results/boxes/probes/{RUN}").exists()


@pytest.mark.slow
def test_all_stop_when_the_step_is_asked_to(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGUSR2, as before a time limit: the processes save, and the step wants to be repeated."""
    study = Path("params/boxes.yaml")
    study.write_text(study.read_text().replace("iterations: 2", "iterations: 100000"))
    hand_on = launch._Group._hand_on

    def as_soon_as_they_listen(self: launch._Group) -> None:
        if self._signal is None:
            started = (psutil.Process(process.pid).cmdline() for process in self.processes)
            if all(words[:1] == [sys.executable] for words in started):
                self._signal = signal.SIGUSR2
        hand_on(self)

    monkeypatch.setattr(launch._Group, "_hand_on", as_soon_as_they_listen)
    assert main(asked) == EXIT_INTERRUPTED
    assert list(Path("results/features").rglob("*.state"))
