"""A study of one's own, from one that there is."""

from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from barlow_atlas.atomic import write_atomically
from barlow_atlas.errors import AtlasError
from barlow_atlas.study.errors import StudyError
from barlow_atlas.study.file import content_of, load_study, study_file
from barlow_atlas.study.paths import PARAMS

NEW = """\
# {name}: what {origin} is, but for the keys below. docs/studies.md explains every key.
# What it would take:   atlas plan --study {name}
# Run it:               atlas run {name}
"""
ONE_OFF = """\
# {origin} with other values; made by `atlas run {origin} {asked}`.
"""


class OwnStudyError(AtlasError):
    """A study that cannot be made."""


def new_study(name: str, origin: str) -> Path:
    """Writes `params/<name>.yaml`, which builds on the study `origin` and names what one changes.

    Raises:
        OwnStudyError: there is a study of that name.
        StudyError: a name that no study can have, or no study `origin`.
    """
    path = study_file(PARAMS, name)
    if path.exists():
        raise OwnStudyError(f"{path} is there already. Choose another name, or edit it")
    content = content_of(study_file(PARAMS, origin))
    shown = ("methods", "embedding_dims", "seeds", "epochs", "milestones")
    changes = {key: content[key] for key in shown if key in content}
    changes["title"] = name.rpartition("/")[2].replace("-", " ").replace("_", " ").capitalize()
    return _written(path, NEW.format(name=name, origin=origin), origin, changes)


def one_off(origin: str, settings: list[str]) -> str:
    """The study that `origin` is with other values, as a study of its own name.

    It is written as `params/<origin>-<settings>.yaml`, so that what runs is recorded, and nothing
    of `origin` is overwritten.

    Args:
        settings: such as `batch_size=64` or `methods.bt.lambda_bt=0.01`; values are YAML.

    Returns:
        Its name.

    Raises:
        OwnStudyError: a setting without a value, or of a key below what is no mapping; a study of
            that name that says something else.
        StudyError: values that no study can have.
    """
    content = content_of(study_file(PARAMS, origin))
    changes: dict[str, Any] = {}
    for setting in settings:
        keys, separator, text = setting.partition("=")
        if not separator or not keys:
            raise OwnStudyError(f"{setting!r}: give KEY=VALUE, such as batch_size=64")
        first, *others = keys.split(".")
        changes.setdefault(first, content.get(first))
        place, key = changes, first
        for inner in others:
            if not isinstance(place.get(key), dict):
                raise OwnStudyError(f"{setting!r}: {key} has no keys below it")
            place[key] = dict(place[key])
            place, key = place[key], inner
        place[key] = YAML(typ="safe", pure=True).load(text)
    told = "-".join("".join(c if c.isalnum() else "-" for c in one) for one in settings)
    name = f"{origin}-{'-'.join(filter(None, told.lower().split('-')))}"
    asked = " ".join(f"--set {setting}" for setting in settings)
    changes["title"] = f"{content.get('title', origin)}; {', '.join(settings)}"
    _written(study_file(PARAMS, name), ONE_OFF.format(origin=origin, asked=asked), origin, changes)
    return name


def _written(path: Path, head: str, origin: str, changes: dict[str, Any]) -> Path:
    """Writes a study file that builds on another one, and checks it; a wrong one is not left."""
    up = "../" * (len(path.relative_to(PARAMS).parts) - 1)
    text = StringIO(head)
    text.seek(0, 2)
    yaml = YAML()
    yaml.default_flow_style = None
    title = changes.pop("title")
    yaml.dump({"base": f"{up}{origin}.yaml", "title": title, **changes}, text)
    made = text.getvalue().encode()
    if path.exists():
        if path.read_bytes() == made:
            return path
        raise OwnStudyError(f"{path} is there already and says something else. Remove or rename it")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, made)
    try:
        load_study(path)
    except StudyError:
        path.unlink()
        raise
    return path
