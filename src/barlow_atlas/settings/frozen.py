"""The base of every parameter model: immutable, strict about names and types."""

import re

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """An immutable set of parameters that refuses unknown keys.

    Numbers are not coerced from text, so a quoted `"256"` in a study file is an error and not a
    silent conversion; infinities and NaN are refused.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )


NAME = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+)*")
