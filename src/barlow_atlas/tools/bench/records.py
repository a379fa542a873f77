"""What is measured: records that a machine can compare, and the page that people read."""

import json
import math
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch
from pydantic import ValidationError

from barlow_atlas.errors import AtlasError
from barlow_atlas.settings.frozen import Frozen
from barlow_atlas.store.provenance import LIBRARIES, code_version, device_name
from barlow_atlas.tools.costs import processor

KEPT = 0.7
"""The share of a committed ratio that a new one must reach; what is lost above it may be noise."""


class BenchError(AtlasError):
    """A benchmark that does not exist, or files that cannot be compared."""


class Record(Frozen):
    """One figure of the repository's code beside a yardstick's of the same run."""

    name: str
    """`benchmark/what is measured`."""
    unit: str
    """Of `ours` and `baseline`."""
    ours: float | None
    """None: not measured here; `settings` says why."""
    baseline: float | None
    """The yardstick, which `settings` names; None: there is none."""
    ratio: float | None
    """How many times better ours is than the baseline; a share, where the yardstick is a ceiling
    or a whole."""
    target: float | None
    """What the ratio should reach or, where there is no baseline, what ours should not exceed."""
    met: bool | None
    settings: str

    @property
    def benchmark(self) -> str:
        return self.name.partition("/")[0]


def faster(
    name: str, seconds: Sequence[float], settings: str, target: float | None = None
) -> Record:
    """Ours and the baseline's seconds, of which fewer are better."""
    return fewer(name, "s", seconds, settings, target)


def fewer(
    name: str, unit: str, values: Sequence[float], settings: str, target: float | None = None
) -> Record:
    """Ours and the baseline's of something of which less is better."""
    ours, baseline = values
    return _compared(name, unit, values, baseline / ours, settings, target)


def more(
    name: str, unit: str, values: Sequence[float], settings: str, target: float | None = None
) -> Record:
    """Ours and the baseline's of something of which more is better; the baseline may be a ceiling
    or a whole, of which ours is a share."""
    ours, baseline = values
    return _compared(name, unit, values, ours / baseline, settings, target)


def of_rounds(name: str, unit: str, rounds: Sequence[Sequence[float]], settings: str) -> Record:
    """Ours and a rival's of each round, of which more is better: medians, and that of the rounds'
    ratios, as what disturbs a round disturbs both."""
    values = [median(column) for column in zip(*rounds, strict=True)]
    ratio = median(ours / theirs for ours, theirs in rounds)
    return _compared(name, unit, values, ratio, settings, None)


def beside(name: str, unit: str, values: Sequence[float], settings: str) -> Record:
    """Ours and the baseline's where a ratio would say nothing."""
    return _compared(name, unit, values, None, settings, None)


def alone(name: str, unit: str, ours: float, settings: str, at_most: float | None = None) -> Record:
    """A figure without a yardstick."""
    return Record(
        name=name,
        unit=unit,
        ours=_rounded(ours),
        baseline=None,
        ratio=None,
        target=at_most,
        met=None if at_most is None else ours <= at_most,
        settings=settings,
    )


def difference(
    name: str, unit: str, values: Sequence[float], half_interval: float, settings: str
) -> Record:
    """Ours and the baseline's of something that must be equal: met if the interval of their
    difference contains 0."""
    ours, baseline = values
    record = _compared(name, unit, values, ours / baseline, settings, None)
    return record.model_copy(update={"met": abs(ours - baseline) <= half_interval})


def not_measured(name: str, unit: str, target: float, settings: str) -> Record:
    """A figure that this machine cannot give; `settings` says why."""
    return Record(
        name=name,
        unit=unit,
        ours=None,
        baseline=None,
        ratio=None,
        target=target,
        met=None,
        settings=settings,
    )


def _compared(
    name: str,
    unit: str,
    values: Sequence[float],
    ratio: float | None,
    settings: str,
    target: float | None,
) -> Record:
    ours, baseline = values
    return Record(
        name=name,
        unit=unit,
        ours=_rounded(ours),
        baseline=_rounded(baseline),
        ratio=None if ratio is None else _rounded(ratio),
        target=target,
        met=None if target is None or ratio is None else ratio >= target,
        settings=settings,
    )


def _rounded(value: float) -> float:
    if not math.isfinite(value):
        raise ArithmeticError(f"a measurement is not finite: {value}")
    return float(f"{value:.4g}")


class Report(Frozen):
    """The records of one run of the benchmarks, and where and how they came about."""

    machine: str
    device: str
    versions: dict[str, str]
    commit: str | None
    """Of the code that was measured, with `+` if it was changed since; None without git."""
    date: str
    command: str
    records: list[Record]
    later: tuple["Report", ...] = ()
    """Of single benchmarks that were measured since, each with its own machine and date."""

    @property
    def all_records(self) -> list[Record]:
        return [*self.records, *(record for each in self.later for record in each.records)]

    def followed_by(self, new: "Report") -> "Report":
        """This and a later report, whose benchmarks take the place of the same ones here."""
        measured = {record.benchmark for record in new.records}

        def others(report: Report) -> Report:
            kept = [record for record in report.records if record.benchmark not in measured]
            return report.model_copy(update={"records": kept})

        later = [each for each in map(others, self.later) if each.records]
        return others(self).model_copy(update={"later": (*later, new)})

    def to_json(self) -> str:
        """JSON with one record a line."""
        head = self.model_dump(exclude={"records", "later"})
        rows = ",\n".join(f"  {record.model_dump_json()}" for record in self.records)
        later = ",\n".join(each.to_json().rstrip() for each in self.later)
        since = f',\n "later": [\n{later}\n ]' if self.later else ""
        return f'{json.dumps(head, indent=1)[:-2]},\n "records": [\n{rows}\n ]{since}\n}}\n'


def report(records: Sequence[Record], device: torch.device, command: str) -> Report:
    """The records with the present machine, versions and date."""
    code = code_version()
    versions = {name: version(name) for name in (*LIBRARIES, "snakemake")}
    return Report(
        machine=processor(),
        device=device_name(device),
        versions={"python": platform.python_version(), **versions},
        commit=None if code is None else code["commit"] + ("+" if code["changed"] else ""),
        date=datetime.now(UTC).date().isoformat(),
        command=command,
        records=list(records),
    )


def read(path: Path) -> Report:
    """A report as `to_json` wrote it.

    Raises:
        BenchError: no such file, or not a report.
    """
    try:
        return Report.model_validate_json(path.read_text())
    except (OSError, ValidationError) as error:
        raise BenchError(
            f"{path} is not a report of `bench`: {error}. `python -m barlow_atlas bench --json "
            f"{path}` writes one"
        ) from error


def regressions(new: Report, committed: Report, benchmarks: Iterable[str]) -> list[str]:
    """What has become slower, one line each: ratios below KEPT of the committed ones.

    Times are not compared: they belong to their machine and hour.

    Args:
        benchmarks: those that were asked for; others' committed ratios are left alone.

    Raises:
        BenchError: the reports are of different kinds of devices.
    """
    if new.device != committed.device:
        raise BenchError(
            f"ratios on {new.device} cannot be compared with ratios on {committed.device}: check "
            "against a report of the same kind of device"
        )
    asked = set(benchmarks)
    ratios = {record.name: record.ratio for record in new.records}
    worse = []
    for record in committed.all_records:
        if record.ratio is None or record.benchmark not in asked:
            continue
        ratio = ratios.get(record.name)
        if ratio is None:
            worse.append(f"{record.name}: was {record.ratio:g}, is no longer measured")
        elif ratio < KEPT * record.ratio:
            worse.append(
                f"{record.name}: ratio {ratio:g}, less than {KEPT:g} of {record.ratio:g} in "
                f"the report of {committed.date}"
            )
    return worse


HEAD = ("what", "ours", "yardstick", "ratio", "target", "met")
MET = {True: "yes", False: "**no**", None: ""}


def markdown(report: Report) -> str:
    """The page: where and how it was measured, then a table for each benchmark."""
    lines = [
        "# How fast it is",
        "",
        f"Written by `{report.command}` on {report.date}; do not edit.",
        "",
        _origin(report),
        "",
        "Ours and the yardstick were measured by turns in one run. The ratio says how many times "
        "better ours is; where the yardstick is a ceiling or a whole, it is a share.",
        *_tables(report.records),
    ]
    for later in report.later:
        lines += ["", f"Measured later, by `{later.command}` on {later.date}. {_origin(later)}"]
        lines += _tables(later.records)
    return "\n".join(lines) + "\n"


def _origin(report: Report) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    return f"Machine: {report.machine}, {report.device}. {versions}. Commit {report.commit}."


def _tables(records: Sequence[Record]) -> list[str]:
    """The lines of a table for each benchmark."""
    lines: list[str] = []
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.benchmark, []).append(record)
    for benchmark, records in groups.items():
        lines += ["", f"## {benchmark}", "", _row(HEAD), _row(["---"] * len(HEAD))]
        lines += [_row(_cells(record)) for record in records]
        for settings in dict.fromkeys(record.settings for record in records):
            names = [r.name.partition("/")[2] for r in records if r.settings == settings]
            lines += ["", f"{', '.join(names)}: {settings}."]
    return lines


def _cells(record: Record) -> list[str]:
    bound = "at least" if record.ratio is not None else "at most"
    if record.ours is None:
        bound = "wanted:"
    return [
        record.name.partition("/")[2],
        "not measured" if record.ours is None else f"{record.ours:g} {record.unit}",
        "" if record.baseline is None else f"{record.baseline:g} {record.unit}",
        "" if record.ratio is None else f"{record.ratio:.3g}",
        "" if record.target is None else f"{bound} {record.target:g}",
        MET[record.met],
    ]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
