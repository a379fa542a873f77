"""What a GPU would be asked to do, looked at on a machine that has none (docs/costs.md)."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent

# Counted in float32 and bfloat16, ResNet-18 at 32 pixels, N = 256 (docs/costs.md).
KERNELS = {
    "bt": (450, 498),
    "mix": (534, 582),
    "simclr": (568, 619),
    "moco-v2": (432, 508),
    "byol": (658, 760),
    "simsiam": (461, 507),
    "swav": (410, 458),
    "w-mse": (747, 798),
    "vicreg": (532, 584),
}
ROOM = 10
STEPS = [
    f"{method}-{how}" for method in KERNELS for how in ("float32-resident", "bfloat16-streamed")
]
# Whitening inverts a Cholesky factor, and is told whether there is one; lightly's makes an identity
# matrix on the host. Each for two sub-batches of two views.
WHITENING: dict[str, float] = {
    "_linalg_check_errors at objectives/w_mse.py": 4,
    "a copy from memory that is not pinned at objectives/w_mse.py": 4,
}


def rehearse(program: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which has the device before it has torch."""
    if shutil.which("g++") is None:
        if os.environ.get("CI"):
            pytest.fail("CI is set, so steps must be rehearsed, but there is no g++")
        pytest.skip("there is no g++ to make the device with: install your distribution's")
    told = subprocess.run(
        [sys.executable, FOLDER / "device.py", FOLDER / program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    return told


@pytest.fixture(scope="module")
def rehearsed() -> dict[str, Any]:
    told = rehearse("steps.py")
    return {each["name"]: each for each in map(json.loads, told.stdout.splitlines())}


def without_lines(counts: dict[str, float]) -> dict[str, float]:
    return {what.rsplit(":", 1)[0]: count for what, count in counts.items()}


@pytest.mark.parametrize("name", STEPS)
def test_the_host_never_waits_in_a_step(rehearsed: dict[str, Any], name: str) -> None:
    expected = WHITENING if name.startswith("w-mse") else {}
    assert without_lines(rehearsed[name]["waits"]) == expected


@pytest.mark.parametrize("name", STEPS)
def test_a_step_stays_within_its_kernels(rehearsed: dict[str, Any], name: str) -> None:
    counted = dict(zip(STEPS, itertools.chain(*KERNELS.values()), strict=True))
    assert 300 < rehearsed[name]["kernels"] <= counted[name] + ROOM


def test_barlow_twins_starts_at_most_450_kernels_a_step(rehearsed: dict[str, Any]) -> None:
    assert rehearsed["bt-float32-resident"]["kernels"] <= 450


def test_no_operation_mixes_devices(rehearsed: dict[str, Any]) -> None:
    assert set(STEPS) < set(rehearsed)
    assert {name: each["mixed"] for name, each in rehearsed.items() if each["mixed"]} == {}


# The linear probe's first weights and its rates go there, and the best pair comes back.
PROBES: dict[str, dict[str, float]] = {
    "knn": {},
    "linear": {
        "a copy from memory that is not pinned at probes/linear.py": 1,
        "a copy from memory that is not pinned at probes/heads.py": 1,
        "_local_scalar_dense at probes/linear.py": 2,
    },
    "extraction": {},
}


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_is_waited_for_at_its_ends_alone(rehearsed: dict[str, Any], name: str) -> None:
    assert without_lines(rehearsed[name]["waits"]) == PROBES[name]


def test_each_kind_of_wait_is_seen() -> None:
    told = rehearse("faults.py")
    assert told.stdout.splitlines() == [
        "item: _local_scalar_dense",
        "to the host: a copy to the host",
        "not pinned: a copy from memory that is not pinned",
        "not asynchronous: a copy that is not asynchronous",
        "pinned and asynchronous: nothing",
        "a mask: a mask",
        "places on the host: indices from the host",
        "nonzero: nonzero",
        "two devices: mul with [(3,)] of the CPU",
        "a number of the host: nothing",
        "backwards: nothing",
    ]
