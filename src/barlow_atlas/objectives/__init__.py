"""The methods, one file each, and the names by which a study asks for them.

A method is a frozen set of settings that can compute its loss terms (`base.Method`). Planning a
study reads the settings without loading torch, so a method's file imports torch for type checking
only, or inside its functions.

To add one: write its file, with one class whose `objective` is the file's name, and add that name
to `FILES`.
"""

from importlib import import_module
from typing import get_args

from barlow_atlas.objectives.base import Method

FILES = (
    "barlow_twins",
    "mixed_barlow_twins",
    "barlow_twins_variant",
    "asymmetric_barlow_twins",
    "simclr",
    "moco_v2",
    "byol",
    "simsiam",
    "swav",
    "w_mse",
    "vicreg",
)


def _method(file: str) -> type[Method]:
    """The class in `file` that a study asks for by the file's name."""
    module = import_module(f"{__name__}.{file}")
    classes = (thing for thing in vars(module).values() if isinstance(thing, type))
    for found in classes:
        if issubclass(found, Method) and _objective(found) == file:
            return found
    raise ImportError(f'{module.__file__} has no method with `objective: Literal["{file}"]`')


def _objective(method: type[Method]) -> str | None:
    return next(iter(get_args(method.model_fields["objective"].annotation)), None)


METHODS: dict[str, type[Method]] = {file: _method(file) for file in FILES}
