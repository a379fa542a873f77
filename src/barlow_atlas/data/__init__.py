"""The one owner of data sets: facts, official files, preparation, loading, selection.

The facts and `parse_mirrors` load at once; what needs NumPy loads on first use, so that planning
a study stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from barlow_atlas.data.catalog import CATALOG, TARGETS, DataSet, Target, class_folder, resolve
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.sources import parse_mirrors

if TYPE_CHECKING:
    from barlow_atlas.data.preparation import prepare
    from barlow_atlas.data.prepared import Manifest, Prepared, load
    from barlow_atlas.data.selection import Selection, select

__all__ = [
    "CATALOG",
    "TARGETS",
    "DataError",
    "DataSet",
    "Manifest",
    "Prepared",
    "Selection",
    "Target",
    "class_folder",
    "load",
    "parse_mirrors",
    "prepare",
    "resolve",
    "select",
]

_HOME = {
    "prepare": "preparation",
    "Manifest": "prepared",
    "Prepared": "prepared",
    "load": "prepared",
    "Selection": "selection",
    "select": "selection",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
