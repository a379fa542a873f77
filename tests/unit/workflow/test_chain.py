"""`checkpoint verify`: every kind of damage is found and told from what is only elsewhere."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from segments import pretrain_segment

from barlow_atlas.settings.training import Trunk
from barlow_atlas.store import snapshot
from barlow_atlas.study.models import ForeignRun, Run
from barlow_atlas.study.paths import of_run
from barlow_atlas.training.segment import Monitor, Segment
from barlow_atlas.workflow import chain
from barlow_atlas.workflow.chain import Link

MILESTONES = (0, 1, 2)


def train(run: Run, parent: int | None, until: int, images: np.ndarray, cooldown: int = 0) -> None:
    folder = of_run("training", "small", run.name)
    segment = Segment(
        study="small",
        run=run,
        parent=parent,
        until=until,
        cooldown=cooldown,
        checkpoints=of_run("checkpoints", "small", run.name),
        training=folder / "cooled" if cooldown else folder,
        resume=Path("resume"),
        data_sha256="data",
        sources_sha256="sources",
    )
    pretrain_segment(segment, images, torch.device("cpu"), 1e9, Monitor())


@pytest.fixture
def run(
    tmp_path: Path,
    tiny_run: Run,
    digits: tuple[np.ndarray, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """A trunk of three milestones, the last one annealed, in the working directory."""
    monkeypatch.chdir(tmp_path)
    schedule = Trunk(name="trunk", base_lr=0.01, warmup_epochs=1, cooldown_epochs=1)
    run = tiny_run.model_copy(update={"schedule": schedule, "epochs": None})
    images = digits[0][:64]
    for parent, until in ((None, 0), (0, 1), (1, 2)):
        train(run, parent, until, images)
    train(run, 2, 2, images, cooldown=1)
    return run


def walk(run: Run) -> dict[str, Link]:
    return {link.name: link for link in chain.walk("small", run, MILESTONES)}


def test_a_whole_chain_leads_to_the_seed(run: Run) -> None:
    links = walk(run)
    assert list(links) == ["epoch 2", "epoch 2 cooled", "epoch 1", "epoch 0"]
    assert {link.condition for link in links.values()} == {"whole"}
    assert "follows from epoch 1; epochs 2 to 2 once each" in str(links["epoch 2"])
    assert "epochs 3 to 3 once each" in str(links["epoch 2 cooled"])
    assert f"follows from seed {run.seed}" in str(links["epoch 0"])
    assert chain.summary(list(links.values())) == "whole: 4 milestones"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def repeat_an_epoch(path: Path) -> None:
    path.write_text(path.read_text() * 2)


@pytest.mark.parametrize(
    ("kind", "file", "spoil", "link", "expected"),
    [
        ("checkpoints", "epoch_0001.safetensors", flip, "epoch 1", "has sha256"),
        ("checkpoints", "epoch_0001.state", flip, "epoch 1", "delete it"),
        ("checkpoints", "epoch_0001.json", flip, "epoch 1", "no manifest"),
        ("checkpoints", "cooled/epoch_0002.safetensors", flip, "epoch 2 cooled", "has sha256"),
        ("training", "epoch_0002.jsonl", repeat_an_epoch, "epoch 2", "has epochs [2, 2]"),
        ("training", "cooled/epoch_0002.jsonl", cut, "epoch 2 cooled", "no list of epochs"),
    ],
)
def test_damage_is_named(
    kind: str, file: str, spoil: Callable[[Path], None], link: str, expected: str, run: Run
) -> None:
    spoil(of_run(kind, "small", run.name) / file)
    links = walk(run)
    assert [name for name, found in links.items() if found.condition == "damaged"] == [link]
    assert expected in str(links[link])
    assert chain.summary(list(links.values())).startswith("damaged: 1 of 4")


@pytest.mark.parametrize(
    ("kind", "file", "link", "hint"),
    [
        ("checkpoints", "epoch_0001.safetensors", "epoch 1", "dvc pull results/small/checkpoints"),
        ("checkpoints", "epoch_0001.json", "epoch 1", "dvc pull"),
        ("training", "epoch_0002.jsonl", "epoch 2", "barlow_atlas adopt"),
    ],
)
def test_what_is_elsewhere_is_no_damage(
    kind: str, file: str, link: str, hint: str, run: Run
) -> None:
    (of_run(kind, "small", run.name) / file).unlink()
    links = walk(run)
    assert "damaged" not in {found.condition for found in links.values()}
    assert links[link].condition == "not here"
    assert hint in str(links[link])
    assert chain.summary(list(links.values())).startswith("incomplete")


def test_a_parent_of_another_history_is_found(run: Run, tmp_path: Path) -> None:
    folder = of_run("checkpoints", "small", run.name)
    manifest = snapshot.read_manifest(folder / "epoch_0001.json")
    snapshot.write_milestone(
        folder,
        study="small",
        run=run,
        epoch=1,
        parent=snapshot.read_manifest(folder / "epoch_0000.json"),
        weights=snapshot.read_weights(folder / "epoch_0001.json", manifest),
        state=None,
        data_sha256="other data",
        sources_sha256="sources",
        made_by={},
    )
    (folder / "epoch_0001.state").unlink()
    assert "a checkout of other results?" in str(walk(run)["epoch 2"])
    assert walk(run)["epoch 2"].condition == "damaged"


def test_a_first_milestone_of_another_seed_is_found(run: Run) -> None:
    folder = of_run("checkpoints", "small", run.name)
    first = snapshot.read_manifest(folder / "epoch_0000.json")
    last = snapshot.read_manifest(folder / "epoch_0002.json")
    snapshot.write_milestone(
        folder,
        study="small",
        run=run,
        epoch=0,
        parent=None,
        weights=snapshot.read_weights(folder / "epoch_0002.json", last),
        state=None,
        data_sha256="data",
        sources_sha256="sources",
        made_by=first.made_by,
    )
    assert "gives other weights with the same libraries" in str(walk(run)["epoch 0"])


def test_later_milestones_are_not_missed_before_they_are_made(run: Run) -> None:
    links = chain.walk("small", run, (*MILESTONES, 3, 4))
    assert links[0].name == "epoch 2"
    assert chain.walk("small", run.model_copy(update={"seed": 9}), MILESTONES) == []


def test_foreign_weights_have_no_chain(tmp_path: Path, run: Run) -> None:
    given = [name for name in ForeignRun.model_fields if name in Run.model_fields]
    shared = {name: getattr(run, name) for name in given}
    foreign = ForeignRun(**shared | {"embedding_dim": None, "method": "paper"}, layout="lightly")
    folder = of_run("checkpoints", "small", foreign.name)
    for epoch in (5, 10):
        snapshot.write_milestone(
            folder,
            study="small",
            run=foreign,
            epoch=epoch,
            parent=None,
            weights={"w": torch.ones(2) * epoch},
            state=None,
            data_sha256="data",
            sources_sha256="sources",
            made_by={},
        )
    flip(folder / "epoch_0005.safetensors")
    links = chain.walk("small", foreign, (5, 10))
    assert [(link.name, link.condition) for link in links] == [
        ("epoch 10", "whole"),
        ("epoch 5", "damaged"),
    ]
