"""The wheel that `make wheels` builds, installed where nothing else of this repository is.

What it requires is lent by the environment that runs the tests, so nothing is downloaded.
"""

import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

from barlow_atlas.nn.networks import build
from barlow_atlas.nn.randomness import generator
from barlow_atlas.store.snapshot import write_milestone
from barlow_atlas.study.models import Run

PROGRAM = """
import sys
import torch
import barlow_atlas
from barlow_atlas import load
from barlow_atlas.nn.views import apply, draw
from barlow_atlas.objectives import METHODS
from barlow_atlas.objectives.barlow_twins import cross_correlation_terms
from barlow_atlas.settings.augmentation import RECIPES
from barlow_atlas.verify import REFERENCE, verify_file

random = torch.Generator().manual_seed(0)
images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=random)
recipe = next(iter(RECIPES.values()))
view = apply(images, draw(recipe.view_a, 4, 8, 8, random), recipe.view_a, 8, (0.0,) * 3, (1.0,) * 3)
z = torch.randn(8, 4, generator=random)
encoder = load(sys.argv[1])
outcomes = list(verify_file(REFERENCE / "mix_small_loss.json"))
print(barlow_atlas.__file__)
print(tuple(view.shape), len(cross_correlation_terms(z, z)), "barlow_twins" in METHODS)
print(tuple(encoder(encoder.transform(images.numpy())).shape))
print(bool(outcomes) and all(outcome.passed for outcome in outcomes))
"""


@dataclass(frozen=True)
class Outside:
    """An environment with the wheel, and an empty folder in which its programs start."""

    environment: Path
    folder: Path

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        settings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(
            [self.environment / "bin" / program, *arguments],
            cwd=self.folder,
            env=settings,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Outside:
    wheels = sorted(Path("dist").glob("barlow_atlas-*.whl"))
    if not wheels:
        pytest.skip("dist/ has no wheel: `make wheels` builds it")
    place = tmp_path_factory.mktemp("outside")
    outside = Outside(place / "environment", place / "empty")
    outside.folder.mkdir()
    for command in (
        ("venv", "--without-pip", str(outside.environment)),
        ("pip", "--python", str(outside.environment), "install", "--quiet", "--no-deps", *wheels),
    ):
        subprocess.run([sys.executable, "-m", *command], check=True)
    [packages] = outside.environment.glob("lib/python*/site-packages")
    (packages / "lent.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return outside


def test_milestones_methods_views_and_golden_values(
    outside: Outside, tiny_run: Run, tmp_path: Path
) -> None:
    weights = build(tiny_run.architecture, generator(7, "weights")).state_dict()
    write_milestone(
        tmp_path,
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
    done = outside.run("python", "-c", PROGRAM, str(tmp_path / "epoch_0000"))
    assert done.returncode == 0, done.stderr
    where, *told = done.stdout.splitlines()
    assert Path(where).is_relative_to(outside.environment)
    assert told == ["(4, 3, 8, 8) 2 True", "(4, 64)", "True"]


def test_help_is_there_and_a_clone_is_asked_for_where_one_is_needed(outside: Outside) -> None:
    assert "verify" in outside.run("atlas", "--help").stdout
    for command in ("status", "run demo", "doctor", "new first", "ledger"):
        done = outside.run("atlas", *command.split())
        assert done.returncode == 1
        assert "is in no clone of Barlow Atlas" in done.stderr
        assert "Traceback" not in done.stderr
    assert not list(outside.folder.iterdir())
