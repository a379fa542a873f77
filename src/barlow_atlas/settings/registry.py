"""Classes that a study asks for by name: one file each, named as what it holds.

The methods and the probes are kept so. Whoever adds one writes its file and adds the file's name
to the list beside it.
"""

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import TypeVar

from barlow_atlas.settings.frozen import Frozen

T = TypeVar("T", bound=Frozen)


def by_name(
    package: str, files: Iterable[str], kind: type[T], name: Callable[[type[T]], object]
) -> dict[str, type[T]]:
    """The class of each file that goes by the file's name.

    Args:
        package: where the files lie, such as `barlow_atlas.probes`.
        kind: what all of these classes are.
        name: the name that a class goes by.

    Raises:
        ImportError: a file without such a class.
    """
    return {file: _class(f"{package}.{file}", file, kind, name) for file in files}


def _class(module: str, file: str, kind: type[T], name: Callable[[type[T]], object]) -> type[T]:
    content = import_module(module)
    for member in vars(content).values():
        if isinstance(member, type) and issubclass(member, kind) and name(member) == file:
            return member
    raise ImportError(f"{content.__file__} has no {kind.__name__} of the name {file!r}")
