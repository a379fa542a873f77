"""The methods, one file each, and the names by which a study asks for them.

A method is a frozen set of settings that can compute its loss terms (`base.Method`). Planning a
study reads the settings without loading torch, so a method's file imports torch for type checking
only, or inside its functions.

To add one: write its file, with one class whose `objective` is the file's name, and add that name
to `FILES`.
"""

from typing import get_args

from barlow_atlas.objectives.base import Method
from barlow_atlas.settings.registry import by_name

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


def _objective(method: type[Method]) -> str | None:
    return next(iter(get_args(method.model_fields["objective"].annotation)), None)


METHODS = by_name(__name__, FILES, Method, _objective)  # type: ignore[type-abstract]
