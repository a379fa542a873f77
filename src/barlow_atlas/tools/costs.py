"""What a training step and the probes of a milestone cost: seconds that were measured.

`benchmarks/costs.json` holds measurements, which `measure` makes. A shape that was measured takes
what it took; one that was not takes what the nearest of its kind did, in proportion to its pixels;
one of another kind is not guessed. Loads no torch.
"""

import contextlib
import json
import math
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from barlow_atlas.atomic import write_atomically
from barlow_atlas.settings.frozen import Frozen
from barlow_atlas.study.models import ForeignRun, Run, Study
from barlow_atlas.study.sizes import sizes_of, target_sizes

MEASUREMENTS = Path("benchmarks/costs.json")
MEGABYTE = 1e6


class Shape(Frozen):
    """What decides how long a training step, or all probes of a milestone, take on a device."""

    what: Literal["step", "probes"]
    kind: dict[str, Any]
    """Of a step method, network and precision; of probes their settings, network and protocol. What
    is of another kind says nothing of this one."""
    embedding_dim: int | None
    """None of probes, which work on features before all."""
    images: int
    """Of the batch; of probes all that they look at."""
    image_size: int
    """Pixels a side of what the network sees."""

    def __str__(self) -> str:
        width = "" if self.embedding_dim is None else f", d={self.embedding_dim}"
        return f"{self.images} images of {self.image_size} x {self.image_size}{width}"

    @property
    def pixels(self) -> int:
        return self.images * self.image_size**2


def step_shape(run: Run) -> Shape:
    """Of a run's training steps."""
    kind = run.model_dump(mode="json", include={"backbone", "projector", "precision", "compiled"})
    return Shape(
        what="step",
        kind={"method": run.settings.objective, **kind},
        embedding_dim=run.embedding_dim,
        images=run.batch_size,
        image_size=run.image_size,
    )


def probes_shape(study: Study, run: Run | ForeignRun) -> Shape:
    """Of all probes of a milestone of a run: those of its study."""
    kind = run.model_dump(mode="json", include={"backbone", "protocol"})
    return Shape(
        what="probes",
        kind={**study.probes.model_dump(mode="json"), **kind},
        embedding_dim=None,
        images=sum(one.probed for one in (sizes_of(study, run), *target_sizes(study))),
        image_size=run.image_size,
    )


class Measurement(Frozen):
    """The time of one training step, of all probes of a milestone, or of starting a program."""

    shape: Shape | None
    """None of the start of a job's program."""
    study: str
    run: str
    """The first run of this shape."""
    seconds: float
    """Lower quartile of `repeated` times: other programs on the machine only lengthen them."""
    repeated: int
    kept_mb: float | None
    """Of a step: what its forward pass keeps for its backward pass."""
    device: str
    processor: str
    threads: int
    python: str
    torch: str
    date: str
    command: str

    def told(self, threads: int) -> str:
        """Where and when it was measured, for jobs with `threads` threads."""
        told = f"measured on {self.date}, {self.processor}, torch {self.torch}"
        if self.device != "cpu":
            return told
        told += f", {self.threads} threads"
        if self.threads != threads:
            told += f" (the study asks for {threads}, which may be faster or slower)"
        if self.processor != processor():
            told += "; not this machine: `python -m barlow_atlas measure` measures it"
        return told


def read_measurements(path: Path = MEASUREMENTS) -> list[Measurement]:
    """The stored measurements; none where there is no file."""
    if not path.is_file():
        return []
    return [Measurement.model_validate(row) for row in json.loads(path.read_text())]


def append_measurements(new: Iterable[Measurement], path: Path = MEASUREMENTS) -> None:
    """Adds measurements; one of the same shape on the same machine is replaced."""
    same = {"shape", "device", "processor", "threads", "torch"}
    kept = {one.model_dump_json(include=same): one for one in [*read_measurements(path), *new]}
    rows = ",\n".join(f" {one.model_dump_json()}" for one in kept.values())
    write_atomically(path, f"[\n{rows}\n]\n".encode())


def measured_on(
    measurements: Sequence[Measurement], device: str, threads: int
) -> list[Measurement]:
    """The measurements that speak for jobs with `threads` threads on a device.

    On the CPU those of the nearest lower number of threads (of the lowest, if all are higher), and
    of one processor: this machine's if there are any, else that of the last measurement.
    """
    there = [one for one in measurements if one.device == device]
    if device != "cpu" or not there:
        return there
    names = [one.processor for one in there]
    name = processor() if processor() in names else names[-1]
    there = [one for one in there if one.processor == name]
    counts = sorted({one.threads for one in there})
    nearest = max((n for n in counts if n <= threads), default=counts[0])
    return [one for one in there if one.threads == nearest]


class Cost(NamedTuple):
    """What something takes, and what that rests on."""

    seconds: float
    basis: str
    kept_mb: float | None = None
    """See `Measurement`."""


def cost_of(shape: Shape, known: Sequence[Measurement], threads: int) -> Cost | None:
    """The measured cost of a shape, or that of the nearest of its kind; None if there is none.

    The nearest has the most similar number of pixels, then of dimensions. Its cost is taken in
    proportion to the pixels: embeddings are small beside the images of most networks.

    Args:
        known: measurements of one device, see `measured_on`.
        threads: that the jobs have.
    """

    def distance(other: Shape) -> tuple[float, ...]:
        widths = (shape.embedding_dim or 1) / (other.embedding_dim or 1)
        return abs(math.log(shape.pixels / other.pixels)), abs(math.log(widths)), other != shape

    alike = [
        (distance(one.shape), one)
        for one in known
        if one.shape and (one.shape.what, one.shape.kind) == (shape.what, shape.kind)
    ]
    if not alike:
        return None
    _, nearest = min(alike, key=lambda pair: pair[0])
    assert nearest.shape is not None
    if nearest.shape == shape:
        return Cost(nearest.seconds, nearest.told(threads), nearest.kept_mb)
    ratio = shape.pixels / nearest.shape.pixels
    return Cost(
        ratio * nearest.seconds,
        f"{shape} as {ratio:.3g} times {nearest.shape}, {nearest.told(threads)}",
        None if nearest.kept_mb is None else ratio * nearest.kept_mb,
    )


def start_seconds(known: Sequence[Measurement]) -> float:
    """The start of a job's program, from measurements of one device; 0 if it was not measured."""
    starts = [one.seconds for one in known if one.shape is None]
    return statistics.median(starts) if starts else 0.0


def processor() -> str:
    """The CPU's product name and the number of cores, such as `Intel Xeon, 2 cores`."""
    name = platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {os.cpu_count()} cores"
