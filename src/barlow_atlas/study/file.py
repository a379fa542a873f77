"""Study files: found, read with what they build on, and checked; each fault is said in words."""

import difflib
import functools
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from barlow_atlas.errors import AtlasError, not_allowed
from barlow_atlas.settings.frozen import NAME, Frozen
from barlow_atlas.study.errors import StudyError
from barlow_atlas.study.models import TAGGED, Study

NO_STUDIES = ("claims.yaml", "tables.yaml")
"""YAML files beside the studies: the ledger of claims, the papers' tables."""


def find_studies(params: Path) -> dict[str, Path]:
    """Study files below `params` by name, such as `cifar10` or `ablations/lambda-reg`.

    Those that others build on come first: files in `params` itself.
    """
    files = [path for path in params.rglob("*.yaml") if path.name not in NO_STUDIES]
    names = {path.relative_to(params).with_suffix("").as_posix(): path for path in files}
    return dict(sorted(names.items(), key=lambda item: (item[0].count("/"), item[0])))


def study_file(params: Path, name: str) -> Path:
    """The file below `params` of the study of that name.

    Raises:
        StudyError: no name of a study. It names folders below results/ and reports/, too, so
            nothing that leads elsewhere may be in it.
    """
    if not all(NAME.fullmatch(part) for part in name.split("/")):
        raise StudyError(
            f"{name!r} cannot be a study: its name is lower-case words joined by - or _, with / "
            "where its file lies in a folder, such as cifar10 or ablations/bt-loss"
        )
    return params / f"{name}.yaml"


def study_named(params: Path, said: str) -> str:
    """The name of a study as people say it: whole, as a file below `params`, or by its last word.

    A name that is none is returned as it is: reading it says which there are.

    Raises:
        StudyError: a last word that several studies have.
    """
    name = said.removesuffix(".yaml")
    if said.endswith(".yaml"):
        with suppress(ValueError):
            name = Path(name).resolve().relative_to(params.resolve()).as_posix()
    studies = find_studies(params)
    if name in studies:
        return name
    meant = [known for known in studies if known.rpartition("/")[2] == name]
    if len(meant) > 1:
        raise StudyError(f"{said!r} may be {' or '.join(meant)}. Give one of these names")
    return meant[0] if meant else name


def load_study(path: Path) -> Study:
    """Reads and checks a study file, and the study files it builds on.

    Raises:
        StudyError: with one line for each thing that is wrong.
    """
    try:
        return Study.model_validate(content_of(path))
    except ValidationError as error:
        lines = [f"{path}: {_explain(detail)}" for detail in error.errors()]
        raise StudyError("\n".join(lines)) from error


def load_studies(params: Path, warn: Callable[[str], None]) -> dict[str, Study]:
    """Every study below `params` that can be read, by name; of each other one `warn` gets a line.

    What is wrong with one study is its own: nothing of another may depend on it.
    """
    studies = {}
    for name, path in find_studies(params).items():
        try:
            studies[name] = load_study(path)
        except AtlasError as error:
            first, *more = str(error).splitlines()
            others = f" (and {len(more)} more faults)" if more else ""
            warn(f"{first}{others}. This study is left out of what is compared")
    return studies


def check_taken(name: str, study: Study, studies: Mapping[str, Study]) -> None:
    """Refuses milestones of another study that does not make them.

    Args:
        studies: all that can be read, by name.

    Raises:
        StudyError: there is no such study, it takes its own elsewhere, it does not train one of
            these runs, or has not one of these milestones.
    """
    other = study.milestones_from
    if other is None:
        return
    if other not in studies:
        raise StudyError(f"{name}: {not_allowed('study in milestones_from', other, list(studies))}")
    theirs = studies[other]
    if theirs.milestones_from:
        raise StudyError(
            f"{name}: milestones_from names {other}, which takes them from "
            f"{theirs.milestones_from} itself: name that study"
        )
    trained = {run.name: run for run in theirs.trained()}
    for run in study.trained():
        if trained.get(run.name) != run:
            raise StudyError(
                f"{name}: milestones_from names {other}, which does not train {run.name} with "
                "these parameters: build on it by `base`, and change no key of its runs"
            )
        missing = set(study.milestones_of(run)) - set(theirs.milestones_of(trained[run.name]))
        if missing:
            raise StudyError(
                f"{name}: {other} has no milestone {min(missing)}: it has {list(theirs.milestones)}"
            )


def files_of(path: Path) -> list[Path]:
    """A study file and those it builds on, nearest first."""
    base = _read(path).get("base")
    return [path, *(files_of(_base_path(path, base)) if base else ())]


def file_with(key: str, path: Path) -> Path:
    """Of a study file and those it builds on, the one whose `key` holds."""
    return next(file for file in files_of(path) if key in _read(file))


def content_of(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A study's parameters as its files have them: its base's, where it has not the key itself.

    Raises:
        StudyError: a file that is missing or no YAML, or that builds on itself.
    """
    content = _read(path)
    base = content.pop("base", None)
    if base is None:
        return content
    under = _base_path(path, base)
    if under in (*above, path):
        raise StudyError(f"{path}: base {base!r} leads back to a file that builds on it")
    return content_of(under, (*above, path)) | content


def _base_path(path: Path, base: Any) -> Path:
    if not isinstance(base, str) or not base.endswith(".yaml"):
        raise StudyError(
            f"{path}: base = {base!r}: expected a study file seen from this one, as ../cifar10.yaml"
        )
    return Path(os.path.normpath(path.parent / base))


def _read(path: Path) -> dict[str, Any]:
    if not NAME.fullmatch(path.stem):
        raise StudyError(f"{path}: a study's name must be lower-case words joined by - or _")
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.yaml") if p.name not in NO_STUDIES)
        raise StudyError(f"{path} does not exist. {not_allowed('study', path.stem, known)}")
    try:
        # YAML 1.2 as ruamel reads it: 1e-6 is a number and a key given twice is an error.
        content = _parsed(path.read_bytes())
    except OSError as error:
        raise StudyError(f"{path} cannot be read: {error.strerror}") from error
    except (YAMLError, ValueError, TypeError, RecursionError) as error:
        # The parser raises its own errors, those of bytes that are no UTF-8, and those of values.
        raise StudyError(f"{path} is not valid YAML: {_in_a_line(error)}") from error
    if not isinstance(content, dict):
        raise StudyError(f"{path} must be a mapping of parameters, found: {content!r}")
    return dict(content)


@functools.cache
def _parsed(text: bytes) -> Any:
    """Of a file on which many build, once."""
    return YAML(typ="safe", pure=True).load(text)


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def file_schema() -> dict[str, Any]:
    """JSON schema of a study file, for editors: with a `base`, no key must be there."""
    schema = Study.model_json_schema()
    required = schema.pop("required")
    schema["properties"]["base"] = {
        "type": "string",
        "description": "study file, seen from this one, whose keys hold where this one has none",
    }
    return schema | {"if": {"required": ["base"]}, "else": {"required": required}}


def _explain(detail: Any) -> str:
    """One pydantic error as: key, value, what is allowed, nearest name."""
    # What is chosen by a name is reported below that name, which is no key in the file.
    keys = [str(part) for part in detail["loc"] if part not in TAGGED]
    key = ".".join(keys) or "study"
    if detail["type"] == "extra_forbidden":
        known = sorted(_model_at(detail["loc"][:-1]).model_fields)
        near = difflib.get_close_matches(keys[-1], known, n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        return f"{key} is no parameter.{meant} Known here: {', '.join(known)}."
    if detail["type"] == "missing":
        return f"{key} is missing."
    if detail["type"].startswith("union_tag"):
        chosen_by = detail["ctx"]["discriminator"].strip("'")
        known = re.findall(r"'([^']+)'", detail["ctx"].get("expected_tags", ""))
        if detail["type"] == "union_tag_not_found":
            return f"{key}.{chosen_by} is missing."
        return f"{key}.{chosen_by}: {not_allowed(chosen_by, detail['ctx']['tag'], known)}"
    message = detail["msg"].removeprefix("Value error, ")
    if isinstance(detail["input"], dict):
        return f"{key}: {message}"
    return f"{key} = {detail['input']!r}: {message}"


def _model_at(location: tuple[int | str, ...]) -> type[Frozen]:
    """The model whose parameters stand at `location` (pydantic's `loc`) of a study."""
    model: type[Frozen] = Study
    for part in location:
        if part in TAGGED:
            model = TAGGED[str(part)]
        elif part in model.model_fields:
            model = _model_in(model.model_fields[str(part)].annotation) or model
    return model


def _model_in(annotation: Any) -> type[Frozen] | None:
    """The parameter model that an annotation such as `tuple[KNN, ...]` holds, if it holds one."""
    if isinstance(annotation, type) and issubclass(annotation, Frozen):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)
