"""One set of requirements, written down three times: these tests keep them one."""

import re
import tomllib
from pathlib import Path

from ruamel.yaml import YAML

CONDA_NAMES = {"torch": "pytorch"}
PROJECT = tomllib.loads(Path("pyproject.toml").read_text())["project"]


def test_conda_environment_has_the_same_packages_and_bounds() -> None:
    listed = YAML(typ="safe", pure=True).load(Path("environment.yml"))["dependencies"]
    packages = {entry for entry in listed if isinstance(entry, str) and entry != "pip"}
    expected = {f"python{PROJECT['requires-python']}"}
    for requirement in PROJECT["dependencies"]:
        name, bounds = re.fullmatch(r"([\w.-]+)(.*)", requirement).groups()
        expected.add(CONDA_NAMES.get(name, name) + bounds)
    assert packages == expected
    assert {"pip": ["--no-deps", "-e ."]} in listed


def test_the_lock_pins_every_requirement_once_and_exactly() -> None:
    text = Path("requirements.lock").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert len(pins) == len(lines)
    optional = PROJECT["optional-dependencies"]
    for requirement in [*PROJECT["dependencies"], *optional["dev"], *optional["tracking"]]:
        name = re.match(r"[\w.-]+", requirement)[0]
        assert re.sub(r"[-_.]+", "-", name).lower() in pins
    assert (pins["torch"], pins["torchvision"]) == ("2.14.1", "0.29.1")
    assert not [version for version in pins.values() if "+" in version]
