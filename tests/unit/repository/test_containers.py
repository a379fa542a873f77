"""The recipes of containers: that they take the lock and are well-formed. Nothing is built here."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

DOCKER = Path("containers/Dockerfile")
APPTAINER = Path("containers/barlow-atlas.def")
INSTALLS = "pip install --no-cache-dir --requirement /requirements.lock"


def sections(definition: str) -> dict[str, str]:
    """The parts of an apptainer definition by name; what stands before them is its header."""
    header, *parts = re.split(r"^%(\w+)\n", definition, flags=re.M)
    return {"header": header} | dict(zip(parts[::2], parts[1::2], strict=True))


def test_both_install_the_lock_on_the_same_python() -> None:
    docker, apptainer = DOCKER.read_text(), sections(APPTAINER.read_text())
    [base] = re.findall(r"^FROM (\S+)$", docker, flags=re.M)
    assert re.findall(r"^(\w+): (\S+)$", apptainer["header"], flags=re.M) == [
        ("Bootstrap", "docker"),
        ("From", base),
    ]
    assert base.startswith("python:3.11")
    assert f"RUN {INSTALLS}\n" in docker
    assert f"    {INSTALLS}\n" in apptainer["post"]
    assert apptainer["files"].split() == ["requirements.lock", "/requirements.lock"]
    assert "COPY requirements.lock /requirements.lock\n" in docker
    assert set(apptainer) == {"header", "files", "post", "environment", "runscript"}


def test_both_run_the_code_of_the_clone() -> None:
    for text, clone in ((DOCKER.read_text(), "/clone"), (APPTAINER.read_text(), "$PWD")):
        [path] = re.findall(r'PYTHONPATH="?([^"\s]+)', text)
        for folder in path.split(":"):
            assert folder.startswith(f"{clone}/")
            assert Path(folder.removeprefix(f"{clone}/")).is_dir()


@pytest.mark.parametrize("part", ["post", "environment", "runscript"])
def test_what_apptainer_runs_is_a_shell_script(part: str) -> None:
    script = sections(APPTAINER.read_text())[part]
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_the_dockerfile_is_linted() -> None:
    done = subprocess.run(["hadolint", DOCKER], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
