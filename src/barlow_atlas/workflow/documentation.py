"""What the documentation tells of the code, derived from it: keys of a study, modules, the graph.

A page holds such a part between `<!-- derived: NAME -->` and `<!-- end -->`; `derive` writes it
anew. tests/unit/workflow/test_documentation.py compares the committed pages with these.
"""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from barlow_atlas.errors import AtlasError
from barlow_atlas.study.file import file_schema
from barlow_atlas.workflow.sources import PACKAGE

PAGES = (Path("docs/architecture.md"), Path("docs/studies.md"))
ROOMS = (
    *(
        "errors",
        "atomic",
        "instructions",
        "settings",
        "data",
        "nn",
        "objectives",
        "probes",
        "study",
        "store",
        "training",
    ),
    *("atlas", "report", "workflow", "steps", "tools", "verify", "library", "__main__"),
)
"""Of the package, from the ground up: each imports from those before it and from itself."""
DRAWN = "ablations/digits-budget"
"""The study whose graph is drawn: a small one that has cool-downs too."""

_PART = re.compile(r"(?s)(<!-- derived: (\w+) -->\n).*?(<!-- end -->)")


class DocumentationError(AtlasError):
    """A part of a page that cannot be derived."""


def derived(page: str) -> str:
    """A page's text with its derived parts made anew.

    Raises:
        DocumentationError: a part that is not known, or a graph that Snakemake does not draw.
    """
    return _PART.sub(lambda match: f"{match[1]}\n{_part(match[2])}\n{match[3]}", page)


def _part(name: str) -> str:
    if name not in _PARTS:
        raise DocumentationError(f"no part {name!r} can be derived. Known: {', '.join(_PARTS)}")
    return _PARTS[name]()


def keys() -> str:
    """Every key of a study file, a table for each model of its JSON schema."""
    schema = file_schema()
    models = {"Study": schema | schema["else"]} | schema["$defs"]
    told = (line for name in dict.fromkeys(_met("Study", models)) for line in _table(name, models))
    return "\n".join(told)


def _met(name: str, models: dict[str, Any]) -> Iterator[str]:
    """A model and those that its keys hold, in the order in which a reader meets them."""
    yield name
    for held in _referred(models[name]):
        yield from _met(held, models)


def _referred(schema: dict[str, Any]) -> list[str]:
    """The models that the keys of one refer to."""
    told = json.dumps(schema.get("properties", {}))
    return list(dict.fromkeys(re.findall(r'"\$ref": "#/\$defs/(\w+)"', told)))


def _table(name: str, models: dict[str, Any]) -> Iterator[str]:
    model = models[name]
    yield from (f"### {name}", "", _summary(model["description"]), "")
    yield from ("| key | type | default | meaning |", "|---|---|---|---|")
    for key, schema in model["properties"].items():
        default = "" if key in model.get("required", ()) else _default(schema)
        yield _row(f"`{key}`", _type(schema), default, _meaning(schema, models))
    yield ""


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _summary(docstring: str) -> str:
    return " ".join(docstring.partition("\n\n")[0].split())


def _meaning(schema: dict[str, Any], models: dict[str, Any]) -> str:
    """A key's own description, or that of the model it holds."""
    if "description" in schema:
        return str(schema["description"])
    referred = _referred({"properties": schema})
    return _summary(models[referred[0]]["description"]) if len(referred) == 1 else ""


def _default(schema: dict[str, Any]) -> str:
    default = schema.get("default")
    return "none" if default is None else f"`{_yaml(default)}`"


def _yaml(value: Any) -> str:
    """A value as a study file has it, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def _type(schema: dict[str, Any]) -> str:
    """What a key may hold, in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return " or ".join(dict.fromkeys(map(_type, schema[choice])))
    kind = schema["type"]
    if kind == "array":
        if "prefixItems" in schema:
            return f"{len(schema['prefixItems'])} numbers"
        return f"list of {_type(schema['items']).replace('number', 'numbers')}"
    if kind == "object":
        return f"mapping to {_type(schema['additionalProperties'])}"
    return f"{_WORDS[kind]} {' and '.join(_bounds(schema))}".rstrip()


_WORDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "`true`, `false`",
    "null": "`null`",
}


def _bounds(schema: dict[str, Any]) -> Iterator[str]:
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    return (f"{word} {schema[key]}" for key, word in words.items() if key in schema)


def modules() -> str:
    """Every module of the package by room, with the first sentence of its docstring."""
    lines = ["| module | what it is |", "|---|---|"]
    for room in ROOMS:
        place = PACKAGE / room
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
        lines += [_module_row(file) for file in files]
    return "\n".join(lines) + "\n"


def _module_row(file: Path) -> str:
    told = _summary(ast.get_docstring(ast.parse(file.read_bytes())) or "")
    name = file.relative_to(PACKAGE).as_posix()
    if file.name != "__init__.py":
        return _row(f"`{name}`", told)
    return _row(f"**`{name.removesuffix('__init__.py')}`**", f"**{told}**")


def graph() -> str:
    """The rules of the study `DRAWN` and what each waits for, as Snakemake tells it.

    Raises:
        DocumentationError: if Snakemake does not draw it.
    """
    command = (sys.executable, "-m", "snakemake", "--config", f"study={DRAWN}")
    asked = (*command, "--rulegraph", "mermaid-js")
    drawn = subprocess.run(asked, capture_output=True, text=True, check=False)
    if drawn.returncode:
        raise DocumentationError(f"Snakemake does not draw its graph: {drawn.stderr}")
    rules = dict(re.findall(r"(id\d+)\[(\w+)\]", drawn.stdout))
    # Snakemake numbers rules and lists edges in another order each time.
    edges = sorted(
        f"    {rules[before]} --> {rules[after]}"
        for before, after in re.findall(r"(id\d+) --> (id\d+)", drawn.stdout)
    )
    return "\n".join(("```mermaid", "flowchart LR", *edges, "```")) + "\n"


_PARTS: dict[str, Callable[[], str]] = {"keys": keys, "modules": modules, "graph": graph}
