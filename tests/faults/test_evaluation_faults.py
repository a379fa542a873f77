"""Killed at random, each long evaluation goes on to the numbers that it would have had.

The evaluations that train for hours on official images, on made ones: fine-tuning of few labels, a
linear classifier on crops, VISSL's on another data set, and a detector.
"""

import json
import os
import random
import time
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from small_data import small_places, small_voc0712
from workspace import CHANGES, ROOT, STUDY, Workspace, ended

from barlow_atlas.data.preparation import prepare
from barlow_atlas.nn.processes import named_tensors
from barlow_atlas.probes import state

KILLS = int(os.environ.get("EVALUATIONS_KILLED", "6"))
RUN = "mix-d64-e12-reference-s1"
ASKED = ["--study", STUDY, "--run", RUN]
STATES = Path("states")
STEPS = 5
EVALUATIONS = {
    "fine_tuned": f"{{labels: 0.1, form: bt-code, epochs: {STEPS}, batch_size: 32}}",
    "linear": f"{{form: imagenet, epochs: {STEPS}}}",
    "transfer": f"{{targets: [places205], form: vissl, epochs: {STEPS}, batch_size: 4}}",
    "detection": f"""
    target: voc0712
    detector: {{short_sides: [32], long_side: 40, anchors: [8], proposals: 9, test_proposals: 9,
      regions: 8}}
    training: {{iterations: {STEPS}, batch_size: 4, learning_rate: 0.01, warmup: 2, drops: [4]}}""",
}


pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A milestone, and the images of all evaluations."""
    workspace = Workspace(tmp_path_factory.mktemp("evaluations") / "untrained", RUN)
    (workspace.folder / "params").mkdir(parents=True)
    write_study(workspace, "{knn: {k: 5, temperature: 0.1}}")
    scenes, lie_at = small_places(workspace.folder / "places")
    as_files = scenes.model_copy(update={"name": "places205-original", "image_size": None})
    for facts, folder in ((as_files, lie_at), small_voc0712(workspace.folder / "voc")):
        at = workspace.folder / "results/data" / facts.name
        prepare(facts, at, workspace.folder / "raw", [str(folder.parent)])
    prepared = workspace.run(
        ["prepare-data", "--study", STUDY], ["pretrain", *ASKED, "--until", "0"]
    )
    assert ended(prepared) == 0, workspace.said()
    return workspace


def write_study(workspace: Workspace, probes: str) -> None:
    text = (ROOT / "params/demo.yaml").read_text()
    for before, after in (*CHANGES, ("protocol: clean", "protocol: reference")):
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    head, rest = text.split("probes:\n")
    tail = rest[rest.index("threads:") :]
    content = f"{head}probes: {probes}\n{tail}"
    (workspace.folder / f"params/{STUDY}.yaml").write_text(content)


def answers(workspace: Workspace) -> list[dict[str, Any]]:
    """What the milestone's probe file holds, to the last bit; nothing: there is none yet."""
    file = workspace.folder / f"results/{STUDY}/probes/{RUN}/epoch_0000.json"
    return json.loads(file.read_text())["results"] if file.exists() else []


def keep_states() -> None:
    """A state after every epoch or iteration, each of which is kept: none is made twice."""
    state.SAVED_EVERY = 0.0
    saved = state.State.save

    def save(self: state.State, progress: Mapping[str, Any]) -> None:
        saved(self, progress)
        assert self.file is not None
        STATES.mkdir(exist_ok=True)
        os.link(self.file, STATES / f"{progress['done']}.state")

    state.State.save = save  # type: ignore[method-assign]


def states(workspace: Workspace) -> dict[str, Path]:
    return {file.name: file for file in (workspace.folder / STATES).glob("*")}


def tensors(file: Path) -> dict[str, torch.Tensor]:
    return dict(named_tensors(torch.load(file, weights_only=True)))


def killed(process: BaseProcess, workspace: Workspace, saves: int, after: float) -> bool:
    """Whether an evaluation dies some seconds after it has saved so many states, or ends before."""
    enough = len(states(workspace)) + saves
    while len(states(workspace)) < enough and process.exitcode is None:
        time.sleep(0.001)
    process.join(after)
    if process.exitcode is not None:
        return False
    process.kill()
    process.join()
    return True


@pytest.mark.parametrize("name", EVALUATIONS)
def test_killed_at_random_it_ends_with_the_same_numbers(
    name: str, untrained: Workspace, tmp_path: Path
) -> None:
    write_study(untrained, f"\n  {name}: {EVALUATIONS[name]}")
    command = ["probe", *ASKED, "--epoch", "0"]
    whole = untrained.copy(tmp_path / "whole")
    begin = time.monotonic()
    assert ended(whole.run(command, change=keep_states)) == 0, whole.said()[-3000:]
    life = time.monotonic() - begin
    expected = {at: tensors(file) for at, file in states(whole).items()}
    assert len(expected) == STEPS
    chance = random.Random(name)
    kills = gone_on = runs = 0
    while kills < KILLS:
        runs += 1
        workspace = untrained.copy(tmp_path / str(runs))
        while not answers(workspace):
            gone_on += bool(states(workspace))
            process = workspace.run(command, change=keep_states)
            saves = chance.randrange(3)
            after = chance.uniform(0, life / 10 if saves else life)
            if kills < KILLS and killed(process, workspace, saves, after):
                kills += 1
            else:
                assert ended(process) == 0, workspace.said()[-3000:]
        assert answers(workspace) == answers(whole)
        for at, file in states(workspace).items():
            found = tensors(file)
            assert found.keys() == expected[at].keys()
            assert all(torch.equal(found[k], x) for k, x in expected[at].items()), at
    assert gone_on >= KILLS // 3, "hardly ever was there a state to go on from"
