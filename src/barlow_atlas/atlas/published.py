"""Published numbers (`params/published.csv`) and the papers' tables (`params/tables.yaml`).

Planning imports this module, so it loads neither torch, numpy nor pandas.
"""

import csv
import difflib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from barlow_atlas.errors import AtlasError
from barlow_atlas.settings.frozen import Frozen
from barlow_atlas.settings.training import Positive

Probe = Literal["knn", "linear", "online_linear", "fine_tuned", "transfer", "svm", "detection"]
WEIGHTS = ("lambda_bt", "lambda_reg")
"""Weights of an objective that published numbers are compared in."""
DATA_SETS = {
    "CIFAR-10": "cifar10",
    "CIFAR-100": "cifar100",
    "TinyImageNet": "tiny-imagenet",
    "STL-10": "stl10",
    **dict.fromkeys(
        (
            "ImageNet-1k",
            "Places-205 (ImageNet pretrain)",
            "VOC07 (ImageNet pretrain)",
            "iNaturalist18 (ImageNet pretrain)",
            "VOC07+12",
            "COCO 2017",
        ),
        "imagenet",
    ),
}
"""Data sets as the published numbers name them -> those of the pre-training behind, as the catalog
and the studies do."""

# Units of accuracies and average precisions -> the power of ten that makes them percent.
_PERCENT = {
    "fraction": 2,
    **dict.fromkeys(("%", "% (about)", "% (about; all d)", "mAP %", "AP %"), 0),
}
_METRIC = re.compile(
    r"(?P<online>online_)?(?P<probe>knn|linear|semisup)(?P<number>\d+)?_top1(?P<rest>_\w+)?"
)
_PROBES: dict[str, Probe] = {"knn": "knn", "linear": "linear", "semisup": "fine_tuned"}
_SELECTABLE = (
    *("paper", "table", "method", "dataset", "backbone"),
    *("embedding_dim", "pretrain_epochs", "metric"),
)


class TableError(AtlasError):
    """Published numbers or a table's specification that cannot be used; names file and row."""


class Published(Frozen):
    """One published number, as its source prints it; what the source does not state is None."""

    paper: str = Field(min_length=1)
    table: str = Field(min_length=1, description="table, figure or section in the source")
    method: str = Field(min_length=1, description="with what the source says of its settings")
    dataset: str = Field(min_length=1)
    backbone: str | None
    embedding_dim: Positive | str | None = Field(description="text where the source has a range")
    pretrain_epochs: Positive | None
    batch_size: Positive | None
    lambda_bt: float | None
    lambda_reg: float | None
    metric: str = Field(pattern=r"^[a-z0-9_]+$")
    value: Decimal = Field(description="with the source's digits")
    unit: str = Field(min_length=1)
    source: str = Field(min_length=1)

    @property
    def percent(self) -> Decimal | None:
        """The value in percent, with its digits; None where it is no accuracy or precision."""
        power = _PERCENT.get(self.unit)
        return None if power is None else self.value.scaleb(power)

    @property
    def probe(self) -> "PublishedProbe | None":
        """How the accuracy was measured, as far as the metric's name says; None if not top-1."""
        name = _METRIC.fullmatch(self.metric)
        if name is None or self.percent is None:
            return None
        number = int(name["number"]) if name["number"] else None
        return PublishedProbe(
            probe=_PROBES[name["probe"]],
            k=number if name["probe"] == "knn" else None,
            labels=number if name["probe"] == "semisup" else None,
            online=bool(name["online"]),
            best_epoch=name["rest"] in ("_best", "_max_over_epochs"),
            approximate=name["rest"] == "_approx" or self.unit.startswith("% (about"),
        )


class PublishedProbe(Frozen):
    """What the name of a top-1 metric says about the probe."""

    probe: Probe
    k: int | None
    labels: int | None = Field(None, description="of fine-tuning, percent of the training labels")
    online: bool = Field(description="trained along with the network, not after it")
    best_epoch: bool = Field(description="the best epoch's accuracy, not the last one's")
    approximate: bool


class Selector(Frozen):
    """Which published number: every key that is given must be the number's, to the letter."""

    paper: str | None = None
    table: str | None = None
    method: str | None = None
    dataset: str | None = None
    backbone: str | None = None
    embedding_dim: Positive | None = None
    pretrain_epochs: Positive | None = None
    metric: str | None = None
    none: str | None = Field(None, min_length=1, description="why there is no such number")

    @model_validator(mode="after")
    def _has_labels(self) -> "Selector":
        missing = [key for key in ("method", "dataset", "metric") if getattr(self, key) is None]
        if self.none and missing:
            raise ValueError(
                f"`none` says that nothing is published: the row needs {', '.join(missing)} "
                "to be told from others"
            )
        return self

    @property
    def wanted(self) -> dict[str, Any]:
        """The keys that are given."""
        return {k: v for k in _SELECTABLE if (v := getattr(self, k)) is not None}


class Ours(Frozen):
    """Which line of which study is set beside it."""

    study: str | None = None
    method: str | None = None
    embedding_dim: Positive | None = None
    probe: Probe | None = None
    variant: str | None = Field(None, description="the probe's short name in the study's tables")
    statistic: Literal["last", "best_on_test"] = Field(
        "last", description="at the last milestone, or at the one that is best on the test images"
    )
    none: str | None = Field(None, min_length=1, description="why there is none")

    @model_validator(mode="after")
    def _is_whole(self) -> "Ours":
        keys = ("study", "method", "embedding_dim", "probe", "variant")
        missing = [key for key in keys if getattr(self, key) is None]
        if missing and not self.none:
            raise ValueError(f"missing: {', '.join(missing)}; or say in `none` why there is none")
        return self


class Row(Frozen):
    """A row of a table: a published number, ours, and further published ones by column."""

    published: Selector
    ours: Ours
    also: dict[str, Selector] = Field(default_factory=dict)


class TableSpec(Frozen):
    """One of the papers' tables."""

    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", description="name of its files")
    title: str = Field(min_length=1)
    notes: tuple[str, ...] = Field((), strict=False)
    rows: tuple[Row, ...] = Field(min_length=1, strict=False)


def read_published(path: Path) -> list[Published]:
    """All published numbers.

    Raises:
        TableError: a row that cannot be read, or that repeats another one's place.
    """
    with path.open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        if table.fieldnames != list(Published.model_fields):
            raise TableError(
                f"{path}: columns {table.fieldnames}, expected {list(Published.model_fields)}"
            )
        rows = [_published(path, number, row) for number, row in enumerate(table, start=2)]
    places: dict[tuple[Any, ...], int] = {}
    for number, row in enumerate(rows, start=2):
        place = tuple(getattr(row, key) for key in _SELECTABLE)
        if place in places:
            raise TableError(f"{path}: row {number} has the place of row {places[place]}: {place}")
        places[place] = number
    return rows


def _published(path: Path, number: int, cells: Mapping[str | None, Any]) -> Published:
    values = {key: text or None for key, text in cells.items()}
    width = str(values.get("embedding_dim") or "")
    values["embedding_dim"] = int(width) if width.isdigit() else width or None
    try:
        return Published.model_validate(values, strict=False)
    except ValidationError as error:
        raise TableError(f"{path}: row {number}: {_explain(error)}") from error


def read_tables(path: Path) -> dict[str, TableSpec]:
    """The tables' specifications by name, with every row written out.

    A row may have `each`: lists of parts of a row. It stands for one row for each choice of one
    part from every list; a part's keys are added to the row's own `published`, `ours`, `also`.

    Raises:
        TableError: with table, row and key of what is wrong.
    """
    try:
        content = YAML(typ="safe", pure=True).load(path)
    except YAMLError as error:
        raise TableError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("tables"), dict):
        raise TableError(f"{path}: expected `tables:`, a mapping of names to tables")
    unknown = sorted(set(content) - {"parts", "tables"})
    if unknown:
        raise TableError(f"{path}: unknown key {unknown[0]!r}; known: parts, tables")
    return {name: _table(path, name, given) for name, given in content["tables"].items()}


def _table(path: Path, name: str, given: Any) -> TableSpec:
    if not isinstance(given, dict) or not isinstance(given.get("rows"), list):
        raise TableError(f"{path}: table {name!r}: expected a mapping with `title` and `rows`")
    try:
        rows = [
            row
            for place, part in enumerate(given["rows"], start=1)
            for row in _rows(f"{path}: table {name!r}, entry {place}", part)
        ]
        return TableSpec.model_validate({**given, "name": name, "rows": rows})
    except ValidationError as error:
        raise TableError(f"{path}: table {name!r}: {_explain(error)}") from error


def _rows(where: str, given: Any) -> Iterable[Row]:
    """The rows that one entry of a specification stands for."""
    if not isinstance(given, dict):
        raise TableError(f"{where}: expected a mapping, found: {given!r}")
    common = {key: part for key, part in given.items() if key != "each"}
    for choice in itertools.product(*given.get("each", [])):
        merged: dict[str, Any] = {}
        for part in (common, *choice):
            _merge(merged, part)
        try:
            yield Row.model_validate(merged)
        except ValidationError as error:
            raise TableError(f"{where}, {merged}: {_explain(error)}") from error


def _merge(into: dict[str, Any], part: Mapping[str, Any]) -> None:
    for key, value in part.items():
        if isinstance(value, Mapping):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


def _explain(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(str(part) for part in detail['loc']) or 'row'}: "
        f"{detail['msg'].removeprefix('Value error, ')}"
        for detail in error.errors()
    )


def find(selector: Selector, published: Sequence[Published]) -> Published:
    """The one published number that a selector means.

    Raises:
        TableError: none or several; the message has the nearest one, or those that match.
    """
    wanted = selector.wanted
    matching = [row for row in published if _agreeing(row, wanted) == len(wanted)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        listed = "; ".join(describe(row) for row in matching[:3])
        raise TableError(
            f"{len(matching)} published numbers match {wanted}: {listed}. Give more keys"
        )
    if not published:
        raise TableError(f"no published number matches {wanted}: there are none at all")
    nearest = max(published, key=lambda row: _nearness(row, wanted))
    raise TableError(f"no published number matches {wanted}. The nearest: {describe(nearest)}")


def _agreeing(row: Published, wanted: Mapping[str, Any]) -> int:
    return sum(getattr(row, key) == value for key, value in wanted.items())


def _nearness(row: Published, wanted: Mapping[str, Any]) -> float:
    return sum(
        difflib.SequenceMatcher(None, str(getattr(row, key)), str(value)).ratio()
        for key, value in wanted.items()
    )


def describe(row: Published) -> str:
    """All that tells a published number from the others."""
    return ", ".join(f"{key} {getattr(row, key)!r}" for key in _SELECTABLE)
