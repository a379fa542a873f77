"""One set of requirements, written down three times: these tests keep them one."""

import re
import tomllib
from pathlib import Path

from ruamel.yaml import YAML

CONDA_NAMES = {"torch": "pytorch"}
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
    for requirement in PUBLISHED:
        name, bounds = re.fullmatch(r"([\w.-]+)(.*)", requirement).groups()
        expected.add(CONDA_NAMES.get(name, name) + bounds)
    assert packages == expected
    assert {
        "pip": ["--no-deps", "-e packages/snakemake-executor-plugin-submitit", "-e ."]
    } in listed


def test_the_lock_pins_every_requirement_once_and_exactly() -> None:
    text = Path("requirements.lock").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert len(pins) == len(lines)
    optional = PROJECT["optional-dependencies"]
    for requirement in [*PUBLISHED, *optional["dev"], *optional["tracking"]]:
        name = re.match(r"[\w.-]+", requirement)[0]
        assert re.sub(r"[-_.]+", "-", name).lower() in pins
    assert (pins["torch"], pins["torchvision"]) == ("2.14.1", "0.29.1")
    assert not [version for version in pins.values() if "+" in version]
