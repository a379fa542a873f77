"""Numbers that depend on no width of vectors, and threads that share cores with others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from barlow_atlas.__main__ import main
from barlow_atlas.instructions import AVX2, use_common_instructions

CODE = """
import os
from barlow_atlas.instructions import use_common_instructions
use_common_instructions(os.environ)
import torch
print(torch.backends.cpu.get_cpu_capability())
"""


def processor(folder: Path, flags: str) -> Path:
    file = folder / "cpuinfo"
    file.write_text(f"model name\t: X\nflags\t\t: fpu {flags} sse2\nbugs\t\t:\n")
    return file


def test_avx2_where_there_is_more(tmp_path: Path) -> None:
    environment = {"PATH": "/bin", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    use_common_instructions(environment, processor(tmp_path, "avx2 avx512f"))
    assert environment == {**AVX2, "PATH": "/bin", "ONEDNN_MAX_CPU_ISA": "SSE41"}


@pytest.mark.parametrize("flags", ["avx", "asimd"])
def test_nothing_where_there_is_none(tmp_path: Path, flags: str) -> None:
    environment: dict[str, str] = {}
    use_common_instructions(environment, processor(tmp_path, flags))
    use_common_instructions(environment, tmp_path / "missing")
    assert environment == {}


@pytest.mark.parametrize(("said", "holds"), [(None, "passive"), ("active", "active")])
def test_threads_that_wait_sleep(
    monkeypatch: pytest.MonkeyPatch, said: str | None, holds: str
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", said or "")
    if said is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    assert main(["no-such-command"]) == 2
    assert os.environ["OMP_WAIT_POLICY"] == holds


def test_torch_listens() -> None:
    if "avx2" not in Path("/proc/cpuinfo").read_text().split():
        pytest.skip("this processor has no AVX2")
    environment = {name: value for name, value in os.environ.items() if name not in AVX2}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "AVX2"
