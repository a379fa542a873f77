"""Images in tables: Arrow and Parquet files, as Hugging Face's `datasets` writes them.

pyarrow reads them; it is loaded with the first of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from barlow_atlas.data.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

ENDINGS = (".arrow", ".parquet")
_AT_ONCE = 16
"""Images of a Parquet file that are read together."""
_BUFFER = 1 << 20
"""Bytes of a Parquet file that are read together."""


class Row(NamedTuple):
    """One image of a table."""

    path: str | None
    """Of the file that it was, if it is told."""
    size: int
    """Bytes; in a Parquet file, which does not tell, their mean in its group of rows."""
    label: int | None


class _Columns(NamedTuple):
    image: str
    label: str
    names: tuple[str, ...]
    """Of the classes; () where they are numbers only."""
    structure: bool
    """Whether an image has `bytes` and `path`, or is its bytes."""

    @property
    def content(self) -> str:
        """Where the bytes are."""
        return f"{self.image}.bytes" if self.structure else self.image

    @property
    def paths(self) -> list[str]:
        return [f"{self.image}.path"] if self.structure else []


def rows(path: Path) -> tuple[list[Row], tuple[str, ...]]:
    """The images of a table, none of which is read, and the names of its classes, if it has any.

    Raises:
        DataError: it cannot be read, or has not one column of images and one of classes.
    """
    with _reading(path):
        if path.suffix == ".arrow":
            table = _arrow(path)
            columns = _columns(path, table.schema)
            return _rows(table, columns, _lengths(table, columns)), columns.names
        with _parquet(path) as file:
            columns = _columns(path, file.schema_arrow)
            sizes = [size for group in _groups(file, columns) for size in group]
            table = file.read([*columns.paths, columns.label])
            return _rows(table, columns, sizes), columns.names


def images(path: Path, places: Sequence[int]) -> Iterator[bytes]:
    """The files of the images in the rows at `places`, which rise; b"" where there is none.

    Raises:
        DataError: it cannot be read.
    """
    read = _of_arrow if path.suffix == ".arrow" else _of_parquet
    with _reading(path):
        missing = len(places)
        for content in read(path, places):
            missing -= 1
            yield content
        if missing:
            raise ValueError(f"{missing:,} of its rows are not there")


def _of_arrow(path: Path, places: Sequence[int]) -> Iterator[bytes]:
    table = _arrow(path)
    column = table[_columns(path, table.schema).image]
    return (_content(path, column[place]) for place in places)


def _of_parquet(path: Path, places: Sequence[int]) -> Iterator[bytes]:
    wanted, first = set(places), 0
    with _parquet(path) as file:
        columns = _columns(path, file.schema_arrow)
        for group in range(file.num_row_groups):
            last = first + file.metadata.row_group(group).num_rows
            numbers, first = range(first, min(last, places[-1] + 1)), last
            if not wanted.isdisjoint(numbers):
                leaves = [columns.content, *columns.paths]
                batches = file.iter_batches(_AT_ONCE, [group], leaves, use_threads=False)
                values = chain.from_iterable(batch.column(0) for batch in batches)
                for number, value in zip(numbers, values, strict=False):
                    if number in wanted:
                        yield _content(path, value)


def _content(path: Path, value: Any) -> bytes:
    image = value.as_py()
    if not isinstance(image, dict):
        return image or b""
    if image["bytes"] is None and image["path"]:
        raise DataError(
            f"{path} names the file {image['path']} and does not hold it. Write the data set with "
            "`save_to_disk` of `datasets`, which puts the images inside."
        )
    return image["bytes"] or b""


def _rows(table: pa.Table, columns: _Columns, sizes: Sequence[int]) -> list[Row]:
    import pyarrow.compute as pc

    labels = table[columns.label].to_pylist()
    paths = [None] * len(labels)
    if columns.structure:
        paths = pc.struct_field(table[columns.image], "path").to_pylist()
    return [Row(*told) for told in zip(paths, sizes, labels, strict=True)]


def _lengths(table: pa.Table, columns: _Columns) -> list[int]:
    """Bytes of each image of an Arrow table; 0 where there is none."""
    import pyarrow.compute as pc

    column = table[columns.image]
    content = pc.struct_field(column, "bytes") if columns.structure else column
    return [length or 0 for length in pc.binary_length(content).to_pylist()]


def _groups(file: Any, columns: _Columns) -> Iterator[list[int]]:
    """The mean bytes of an image, for each image of each group of rows of a Parquet file."""
    for group in map(file.metadata.row_group, range(file.num_row_groups)):
        parts = map(group.column, range(group.num_columns))
        size = sum(
            part.total_uncompressed_size for part in parts if part.path_in_schema == columns.content
        )
        yield [-(-size // group.num_rows)] * group.num_rows


def _columns(path: Path, schema: pa.Schema) -> _Columns:
    """Which columns hold images and classes: those that `datasets` noted, else those that may."""
    features = _noted(schema)

    def kind(field: pa.Field) -> str:
        return str(features[field.name].get("_type")) if field.name in features else _kind(field)

    by_kind = {
        wanted: [field for field in schema if kind(field) == wanted]
        for wanted in ("Image", "ClassLabel")
    }
    for wanted, fields in by_kind.items():
        if len(fields) != 1:
            raise DataError(
                f"{path} has {len(fields)} columns of {wanted}; expected one. Its columns are "
                f"{', '.join(schema.names)}. Write it anew with one image and one whole number, "
                "its class, a row: `datasets` removes columns (remove_columns) and casts them "
                "(cast_column)."
            )
    (image,), (label,) = by_kind.values()
    names = features.get(label.name, {}).get("names", ())
    return _Columns(image.name, label.name, tuple(names), _is_structure(image))


def _noted(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """What `datasets` says of columns; of lists of values it says nothing that is asked for here.

    Raises:
        ValueError: it is damaged.
    """
    noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    try:
        features = noted["info"]["features"]
    except (KeyError, TypeError):
        return {}
    return {name: told for name, told in features.items() if isinstance(told, dict)}


def _kind(field: pa.Field) -> str:
    """What a column of which nothing is noted may be."""
    import pyarrow.types as types

    if _is_structure(field) or types.is_binary(field.type) or types.is_large_binary(field.type):
        return "Image"
    return "ClassLabel" if types.is_integer(field.type) and field.name == "label" else ""


def _is_structure(field: pa.Field) -> bool:
    import pyarrow.types as types

    return types.is_struct(field.type) and {"bytes", "path"} <= {each.name for each in field.type}


def _arrow(path: Path) -> pa.Table:
    """All of an Arrow file, mapped into memory; where its images lie is checked."""
    import pyarrow as pa

    source = pa.memory_map(str(path))
    try:
        table = pa.ipc.open_stream(source).read_all()
    except pa.ArrowInvalid:  # not the form that is written row by row, but the one with an index
        table = pa.ipc.open_file(source).read_all()
    table.validate(full=True)
    return table


def _parquet(path: Path) -> Any:
    from pyarrow.parquet import ParquetFile

    return ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn the errors of a missing library and of damaged files into a DataError."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise DataError(
            f"{path} is read by pyarrow, which is not installed: pip install 'barlow-atlas[tables]'"
        ) from error
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}. Fetch it again.") from error
