"""One image among its files, and how its bytes are read."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from barlow_atlas.data import tables
from barlow_atlas.data.errors import DataError


class Entry(NamedTuple):
    """One image among its files."""

    name: str
    """Of the image, below the folder or within its archive."""
    file: str
    """That holds its bytes, below the folder."""
    offset: int
    """Where they begin; in a table the row."""
    size: int
    """Bytes; in a Parquet table about."""
    label: int

    @property
    def base_name(self) -> str:
        """The image's name without its folders."""
        return self.name.rpartition("/")[2]


def contents(place: Path, entries: Sequence[Entry]) -> Iterator[tuple[Entry, bytes]]:
    """Images whose files lie in the folder `place`, with their bytes; each file is opened once.

    Those of one file follow each other, in a table in the order of its rows.

    Raises:
        DataError: a file cannot be read.
    """
    for file, group in groupby(entries, lambda entry: entry.file):
        inside = list(group)
        if file.endswith(tables.ENDINGS):
            rows = [entry.offset for entry in inside]
            yield from zip(inside, tables.images(place / file, rows), strict=True)
            continue
        try:
            with (place / file).open("rb") as opened:
                for entry in inside:
                    opened.seek(entry.offset)
                    yield entry, opened.read(entry.size)
        except OSError as error:
            raise DataError(f"{place} cannot be read: {error}") from error
