"""How fast and how frugal the package is on this machine, beside a plain rival of the same run.

`run` measures what it is asked for; each benchmark is a function of a device that yields records.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from barlow_atlas.nn.devices import device_for
from barlow_atlas.tools.bench import (
    accuracy,
    augmenting,
    memory,
    neighbours,
    objective,
    operations,
    photographs,
    rivals,
    scaling,
    startup,
    training,
)
from barlow_atlas.tools.bench.records import (
    BenchError,
    Record,
    Report,
    markdown,
    read,
    regressions,
    report,
)

BENCHMARKS: dict[str, Callable[[torch.device], Iterator[Record]]] = {
    "objective": objective.records,
    "views": augmenting.records,
    "photographs": photographs.records,
    "demo": training.demo_records,
    "methods": training.methods_records,
    "resnet18": training.resnet18_records,
    "rivals": rivals.records,
    "operations": operations.records,
    "knn": neighbours.records,
    "memory": memory.records,
    "startup": startup.records,
    "accuracy": accuracy.records,
}
"""By the first part of their records' names; `scaling` has points beside its records."""
NAMES = (*BENCHMARKS, "scaling")


def run(
    only: Sequence[str],
    device: torch.device,
    output: Path | None,
    committed: Path | None,
    command: str,
    say: Callable[[str], None],
    commands: Mapping[str, str] | None = None,
) -> list[str]:
    """Measures, tells each record as it comes, and returns what has become slower.

    Args:
        only: names of benchmarks; all if empty.
        output: where the report goes as JSON after each benchmark; its page (.md) and, if it was
            asked for, scaling.csv go beside it. What a report there tells of benchmarks that have
            not been measured anew is kept.
        committed: an earlier report; ratios that fell below a share of its ones are returned.
        commands: programs that are measured as rivals, by name.

    Raises:
        BenchError: an unknown name, or a report that cannot be compared.
    """
    unknown = sorted(set(only) - set(NAMES))
    if unknown:
        raise BenchError(f"no benchmark {', '.join(unknown)}: there are {', '.join(NAMES)}")
    asked = [name for name in NAMES if name in only or not only]
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler tells each use of it
    earlier = None if committed is None else read(committed)
    kept = read(output) if output is not None and output.is_file() else None
    records: list[Record] = []
    points: list[scaling.Point] = []
    for name in asked:
        began = time.monotonic()
        # As in a job; a benchmark that takes fewer cores takes them for itself.
        device_for(str(device), len(os.sched_getaffinity(0)))
        if name == "scaling":
            points = list(scaling.points(device))
            measured = scaling.records(points)
        elif name == "rivals" and commands:
            measured = rivals.records(device, commands)
        else:
            measured = BENCHMARKS[name](device)
        for record in measured:
            records.append(record)
            say(told(record))
        say(f"{name}: {time.monotonic() - began:.0f} s")
        new = report(records, device, command)
        if output is not None:
            whole = name == NAMES[-1] and not only
            write(new if kept is None or whole else kept.followed_by(new), points, output)
    if output is None:
        say(new.to_json())
    return [] if earlier is None else regressions(new, earlier, asked)


def told(record: Record) -> str:
    """A record as a line."""
    if record.ours is None:
        return f"{record.name}: not measured, {record.settings}"
    line = f"{record.name}: {record.ours:g} {record.unit}"
    if record.baseline is not None:
        line += f", yardstick {record.baseline:g}"
    if record.ratio is not None:
        line += f", ratio {record.ratio:.3g}"
    if record.target is not None:
        line += f", target {record.target:g} {'met' if record.met else 'MISSED'}"
    return line


def write(new: Report, points: Sequence[scaling.Point], output: Path) -> None:
    """The report as JSON, its page beside it, and the scaling's table."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(new.to_json())
    output.with_suffix(".md").write_text(markdown(new))
    if points:
        scaling.save(points, output.with_name("scaling.csv"))
