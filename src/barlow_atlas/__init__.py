"""Barlow Atlas: where representations get better along pre-training, and where they get worse."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from barlow_atlas.library import load, results, signals

__version__ = "0.1.0"
__all__ = ["load", "results", "signals"]


def __getattr__(name: str) -> Any:
    # Steps and the console start in a fraction of the time that torch and pandas take.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from barlow_atlas import library

    return getattr(library, name)
