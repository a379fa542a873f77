"""What Python programs get: networks with their transform, and tables."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import barlow_atlas
from barlow_atlas.nn.networks import build
from barlow_atlas.nn.randomness import generator
from barlow_atlas.probes.features import extract
from barlow_atlas.store.snapshot import SnapshotError, write_milestone
from barlow_atlas.study.models import Run


@pytest.fixture(scope="module")
def milestone(tmp_path_factory: pytest.TempPathFactory, tiny_run: Run) -> Path:
    """Two files of a network, in a folder that is no clone."""
    folder = tmp_path_factory.mktemp("elsewhere")
    weights = build(tiny_run.architecture, generator(7, "weights")).state_dict()
    write_milestone(
        folder,
        study="demo",
        run=tiny_run,
        epoch=0,
        parent=None,
        weights=weights,
        state={},
        data_sha256="d",
        sources_sha256="s",
        made_by={},
    )
    return folder / "epoch_0000"


def test_a_milestone_gives_the_features_that_are_probed(
    milestone: Path, tiny_run: Run, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    images = digits[0][:5]
    encoder = barlow_atlas.load(milestone)
    backbone = build(tiny_run.architecture, generator(7, "weights")).backbone
    with torch.inference_mode():
        found = encoder(encoder.transform(images))
    assert torch.equal(found, extract(backbone, tiny_run, images, torch.device("cpu")))
    assert encoder.manifest.run == tiny_run
    assert not encoder.training


@pytest.mark.parametrize("ending", ["", ".json", ".safetensors"])
def test_either_of_its_files_names_it(milestone: Path, ending: str) -> None:
    assert barlow_atlas.load(f"{milestone}{ending}").manifest.epoch == 0


def test_what_is_not_there_or_damaged_is_said(milestone: Path, tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="no manifest"):
        barlow_atlas.load(tmp_path / "epoch_0001")
    for ending in ("json", "safetensors"):
        content = milestone.with_suffix(f".{ending}").read_bytes()
        (tmp_path / f"epoch_0000.{ending}").write_bytes(content)
    with (tmp_path / "epoch_0000.safetensors").open("ab") as file:
        file.write(b"more")
    with pytest.raises(SnapshotError, match="damaged"):
        barlow_atlas.load(tmp_path / "epoch_0000")


def test_it_needs_no_clone(milestone: Path) -> None:
    program = f"import barlow_atlas; print(type(barlow_atlas.load({str(milestone)!r})).__name__)"
    told = subprocess.run(
        [sys.executable, "-c", program],
        cwd=milestone.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.stdout == "Encoder\n", told.stderr


def test_the_tables_of_a_study_are_what_its_means_are_made_of() -> None:
    rows = barlow_atlas.results("demo")
    asked = (rows["split"] == "test") & (rows["metric"] == "top1") & (rows["probe"] == "linear")
    mean = rows[asked & (rows["epoch"] == 100)].groupby("method")["value"].mean()
    shown = pd.read_csv("results/demo/accuracy.csv", index_col="epoch").loc[100]
    for method in ("bt", "mix"):
        assert mean[method] == pytest.approx(shown[f"{method}-d256 linear standard"], abs=1e-4)
    assert set(barlow_atlas.signals("demo")["signal"]) >= {"rankme", "alignment"}


def test_other_names_are_no_attributes() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        barlow_atlas.lod  # noqa: B018
