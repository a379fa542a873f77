"""Comparison of what a topic computes with what a golden file says."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from barlow_atlas.errors import AtlasError

# Errors are relative. Of smaller values than these they are relative to these, since rounding is.
SCALAR_FLOOR = 1e-6
ARRAY_FLOOR = 1e-3  # times the array's root mean square for its elements, its norm for their sum
ARRAY_FACTS = {"shape", "sum", "norm", "first", "last", "values"}


class Mismatch(AtlasError):
    """A golden case that cannot be compared; the message says why."""


@dataclass(frozen=True)
class Difference:
    """A number that is the difference of two larger ones, whose rounding it carries."""

    value: float
    of: float
    """Size of the two numbers, which rounding follows."""


@dataclass(frozen=True)
class Within:
    """A number that the reference determines only up to `slack`."""

    value: float
    slack: float


class Comparison(NamedTuple):
    """One thing that a golden file says, beside ours."""

    place: str
    error: float
    """Relative error; infinite where the two cannot be compared."""
    problem: str = ""
    """Why they cannot."""


def compare(expected: Any, output: Any, place: str = "outputs") -> Iterator[Comparison]:
    """A comparison for everything that `expected` says; what `output` has beyond it does not count.

    Integers, text and truth values are equal or not: error 0 or infinity.

    Args:
        expected: a golden file's outputs, or a part of them.
        output: our numbers, tensors, arrays, lists and dicts of the same structure.
        place: where in the file they stand.
    """
    if isinstance(expected, dict) and "shape" in expected:
        yield from _compare_arrays(expected, output, place)
    elif isinstance(expected, dict) and isinstance(output, dict):
        for key, value in expected.items():
            if key in output:
                yield from compare(value, output[key], f"{place}.{key}")
            else:
                yield _incomparable(f"{place}.{key}", "is not computed here")
    elif isinstance(expected, list):
        yield from _compare_lists(expected, output, place)
    elif _is_number(expected):
        yield _compare_numbers(expected, output, place)
    elif type(output) is type(expected):
        yield Comparison(place, 0.0 if output == expected else math.inf)
    else:
        yield _incomparable(place, f"is {_kind(expected)} in the file and {_kind(output)} here")


def _compare_numbers(expected: float, output: Any, place: str) -> Comparison:
    scale, slack = max(abs(expected), SCALAR_FLOOR), 0.0
    if isinstance(output, Within):
        output, slack = output.value, output.slack
    elif isinstance(output, Difference):
        output, scale = output.value, max(abs(expected), ARRAY_FLOOR * abs(output.of))
    if isinstance(output, Tensor | np.ndarray | np.generic) and output.ndim == 0:
        output = output.item()
    if not _is_number(output):
        return _incomparable(place, f"is a number in the file and {_kind(output)} here")
    if abs(output - expected) <= slack:
        return Comparison(place, 0.0)
    if isinstance(expected, int) and isinstance(output, int):
        return Comparison(place, math.inf)
    return Comparison(place, _worst(np.array(expected), np.array(output), np.array(scale)))


def _compare_lists(expected: list[Any], output: Any, place: str) -> Iterator[Comparison]:
    """Fractions are compared as an array, anything else entry by entry."""
    if isinstance(output, Tensor | np.ndarray):
        output = output.tolist()
    if not isinstance(output, list | tuple) or len(output) != len(expected):
        yield _incomparable(place, f"has {len(expected)} entries in the file; here {_kind(output)}")
    elif any(isinstance(value, float) for value in expected) and all(
        _is_number(value) for value in (*expected, *output)
    ):
        theirs, ours = np.array(expected, np.float64), np.array(output, np.float64)
        floor = ARRAY_FLOOR * float(np.sqrt(np.square(theirs).mean()))
        for index in range(len(expected)):
            scale = _scale(theirs[index], floor)
            yield Comparison(f"{place}[{index}]", _worst(theirs[index], ours[index], scale))
    else:
        for index, (value, other) in enumerate(zip(expected, output, strict=True)):
            yield from compare(value, other, f"{place}[{index}]")


def _compare_arrays(expected: dict[str, Any], output: Any, place: str) -> Iterator[Comparison]:
    """All facts that the file gives of an array."""
    for fact in sorted(expected.keys() - ARRAY_FACTS):
        yield _incomparable(f"{place}.{fact}", "is no fact of an array that is known here")
    if not isinstance(output, Tensor | np.ndarray):
        yield _incomparable(place, f"is an array in the file and {_kind(output)} here")
        return
    array = np.asarray(output.detach() if isinstance(output, Tensor) else output, np.float64)
    if list(array.shape) != expected["shape"]:
        yield _incomparable(
            place, f"has shape {expected['shape']} in the file and {list(array.shape)} here"
        )
        return
    yield Comparison(f"{place}.shape", 0.0)
    flat = array.ravel()
    norm = np.linalg.norm(flat)
    floor = ARRAY_FLOOR * float(expected.get("norm", norm))
    element_floor = floor / max(1, flat.size) ** 0.5
    facts = {
        "sum": (flat.sum(), floor),
        "norm": (norm, floor),
        "first": (flat[: len(expected.get("first", ()))], element_floor),
        "last": (flat[-1:].reshape(()) if flat.size else np.array(np.nan), element_floor),
        "values": (array, element_floor),
    }
    for fact in facts.keys() & expected.keys():
        theirs, (ours, least) = np.array(expected[fact], np.float64), facts[fact]
        if theirs.shape == ours.shape:
            error = _worst(theirs, ours, _scale(theirs, least))
            yield Comparison(f"{place}.{fact}", error)
        else:
            yield _incomparable(f"{place}.{fact}", f"has shape {list(theirs.shape)} in the file")


def _scale(expected: Any, floor: float) -> npt.NDArray[np.float64]:
    """What errors are relative to: the value, or the floor of its array, or that of a scalar."""
    scale: npt.NDArray[np.float64] = np.maximum(np.abs(expected), floor or SCALAR_FLOOR)
    return scale


def _worst(expected: Any, output: Any, scale: Any) -> float:
    """The largest |output - expected| / scale; equal infinities, and two NaN, do not differ."""
    same = (output == expected) | (np.isnan(output) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        ratio = np.where(same, 0.0, np.abs(output - expected) / scale)
    return float(np.where(np.isnan(ratio), np.inf, ratio).max(initial=0.0))


def _incomparable(place: str, problem: str) -> Comparison:
    return Comparison(place, math.inf, f"{place} {problem}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    return f"{type(value).__name__} {value!r:.40}"
