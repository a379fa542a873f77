"""How a result was made: code, libraries, machine."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from barlow_atlas import __version__

PACKAGE = Path(__file__).parents[1]

LIBRARIES = ("torch", "torchvision", "numpy", "safetensors")


def made_by(
    device: str, seconds: float, processes: int = 1, accumulated: bool = False
) -> dict[str, Any]:
    """Versions, commit, device name, instructions of the processor (`AVX2`: its last bits depend on
    them), duration and, if not one at once, how, for a manifest."""
    several: dict[str, Any] = {"processes": processes} if processes > 1 else {}
    if accumulated:
        several["accumulated"] = True
    return {
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "barlow_atlas": __version__,
        "code": code_version(),
        "device": device,
        "machine": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "seconds": round(seconds, 3),
        **several,
    }


def device_name(device: torch.device) -> str:
    """The GPU's product name, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def code_version() -> dict[str, Any] | None:
    """Commit of the checkout this package runs from, and whether its code was changed since.

    None outside a git checkout, as for an installed wheel.
    """
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "changed": bool(_git("status", "--porcelain", "--", "."))}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=PACKAGE, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
