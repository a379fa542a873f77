"""How cost grows: with batch, width, pixels, images, processes, runs and milestones, as powers."""

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import distributed

from barlow_atlas.objectives.barlow_twins import BarlowTwins
from barlow_atlas.study.models import Run
from barlow_atlas.tools.bench import memory, objective
from barlow_atlas.tools.bench.apart import Apart
from barlow_atlas.tools.bench.images import cifar10, demo, noise
from barlow_atlas.tools.bench.records import Record, alone
from barlow_atlas.tools.bench.startup import Copy, copied
from barlow_atlas.tools.bench.timing import by_turns, clocks_by_turns, seconds, taking
from barlow_atlas.tools.bench.training import trained
from barlow_atlas.tools.costs import MEGABYTE
from barlow_atlas.tools.measure import training

OURS = "ours"


@dataclass(frozen=True)
class Point:
    """The cost of one size."""

    law: str
    """What grows with what."""
    series: str
    """Whose cost: OURS, or that of what it is compared with."""
    size: float
    cost: float
    size_unit: str
    cost_unit: str


@dataclass(frozen=True)
class Sizes:
    """At which sizes each law is measured."""

    batch: Sequence[int] = (32, 64, 128, 256, 512, 1024)
    width: Sequence[int] = (64, 256, 1024, 4096)
    pixels: Sequence[int] = (8, 16, 32, 64, 128, 224)
    images: Sequence[int] = (512, 1024, 2048, 4096, 8192)
    objective: Sequence[int] = (256, 512, 1024, 2048, 4096, 8192)
    runs: Sequence[int] = (8, 32, 128)
    milestones: Sequence[int] = (4, 16, 64)
    processes: Sequence[int] = (1, 2)
    rounds: int = 5


def points(device: torch.device, sizes: Sizes | None = None) -> Iterator[Point]:
    """Measures every law; sizes of one law by turns."""
    sizes = sizes or Sizes()
    torch.set_num_threads(demo("mix").threads)
    for law, unit, key, values in (
        ("step against batch size", "N", "batch_size", sizes.batch),
        ("step against embedding width", "d", "embedding_dim", sizes.width),
        ("step against image size", "pixels a side", "image_size", sizes.pixels),
    ):
        smaller = {"batch_size": 32} if key == "image_size" else {}
        runs = {value: demo("mix", **{**smaller, key: value}) for value in values}
        steps = {
            value: taking(training(run, run.image_size, device)[1], 1)
            for value, run in runs.items()
        }
        yield from _timed(law, OURS, steps, device, sizes.rounds, unit, "s a step")
    run = demo("mix")
    epochs = {
        n: taking(trained(run, noise(n, 8), device)[1], n // run.batch_size) for n in sizes.images
    }
    law = "epoch against data set"
    yield from _timed(law, OURS, epochs, device, sizes.rounds, "images", "s an epoch")
    for size in sizes.batch:
        peak, bound = memory.peak_and_bound(demo("mix", batch_size=size), device)
        for series, cost in ((OURS, peak), ("bound", bound)):
            yield Point("memory of a step", series, size, cost / MEGABYTE, "N", "MB")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    settings = cifar10("mix").settings
    assert isinstance(settings, BarlowTwins)
    both = {d: objective.contestants(settings, 256, d, device) for d in sizes.objective}
    for place, series in enumerate((OURS, "d x d matrices")):
        each = {d: contestants[place] for d, contestants in both.items()}
        law = "objective against embedding width"
        yield from _timed(law, series, each, device, sizes.rounds, "d", "s, N = 256")
    if device.type == "cpu":
        times = steps_of_processes(demo("mix"), sizes.processes, sizes.rounds)
        for count, time in zip(sizes.processes, times, strict=True):
            yield Point("step against processes", OURS, count, time, "processes", "s a step")
    yield from planning(sizes)


class Member:
    """One of `count` processes of one thread that train a run together, by gloo.

    Args:
        meeting: a file of theirs alone, by which they find one another.
    """

    def __init__(self, run: Run, meeting: Path, rank: int, count: int) -> None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        torch.set_num_threads(1)
        distributed.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=count
        )
        _, self.steps = training(run, run.image_size, torch.device("cpu"))

    def take(self, count: int) -> float:
        """Seconds of the next `count` steps."""
        return seconds(taking(self.steps, count), torch.device("cpu"))


def steps_of_processes(
    run: Run, counts: Sequence[int], rounds: int, steps: int = 8
) -> tuple[float, ...]:
    """Seconds of a step of a run's whole batch, for each number of processes that share it.

    By turns, as others are; a step has ended when it has in every process.
    """
    with (
        TemporaryDirectory() as folder,
        ExitStack() as stack,
        ThreadPoolExecutor(max(counts)) as pool,
    ):
        groups = [
            [
                stack.enter_context(
                    Apart(partial(Member, run, Path(folder) / f"{count}", rank, count))
                )
                for rank in range(count)
            ]
            for count in counts
        ]

        def turn(members: Sequence[Apart]) -> float:
            return max(pool.map(lambda member: float(member.call("take", steps)), members)) / steps

        return clocks_by_turns([partial(turn, members) for members in groups], rounds)


def _timed(
    law: str,
    series: str,
    computations: Mapping[int, Callable[[], object]],
    device: torch.device,
    rounds: int,
    size_unit: str,
    cost_unit: str,
) -> Iterator[Point]:
    times = by_turns(list(computations.values()), device, rounds)
    for size, cost in zip(computations, times, strict=True):
        yield Point(law, series, size, cost, size_unit, cost_unit)


def planning(sizes: Sizes) -> Iterator[Point]:
    """Processor seconds of Snakemake's dry run of the demo with more runs, and more milestones."""
    with copied() as copy:
        for runs in sizes.runs:
            cost = _dry_run(copy, seeds=runs // 2, milestones=6)
            yield Point("planning against runs", OURS, runs, cost, "runs", "s")
        for milestones in sizes.milestones:
            cost = _dry_run(copy, seeds=4, milestones=milestones)
            yield Point("planning against milestones", OURS, milestones, cost, "milestones", "s")


def _dry_run(copy: Copy, seeds: int, milestones: int) -> float:
    """Processor seconds of the plan of 2 methods with so many seeds and milestones."""
    copy.write_demo("planned", seeds, [*range(milestones - 1), 100])
    before = os.times()
    arguments = ("--dry-run", "--quiet", "all", "--config", "study=planned", "--", "all")
    copy.run("snakemake", "--profile", "profiles/local", *arguments)
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


def exponent(costs: Sequence[Point]) -> float:
    """Slope p of the least-squares line through log cost: cost = c size^p."""
    logs = np.log([[point.size, point.cost] for point in costs])
    slope, _ = np.polyfit(logs[:, 0], logs[:, 1], 1).tolist()
    return float(slope)


def grouped(costs: Iterable[Point]) -> dict[str, dict[str, list[Point]]]:
    """Points by law and series, in the order in which they came."""
    groups: dict[str, dict[str, list[Point]]] = {}
    for point in costs:
        groups.setdefault(point.law, {}).setdefault(point.series, []).append(point)
    return groups


def records(costs: Sequence[Point]) -> Iterator[Record]:
    """The fitted exponents, each with its range."""
    for law, series in grouped(costs).items():
        for name, row in series.items():
            label = law if name == OURS else f"{law}, {name}"
            low, high = row[0].size, row[-1].size
            about = f"p in cost = c size^p, fitted to {len(row)} sizes, {low:g} to {high:g} "
            yield alone(f"scaling/{label}", "p", exponent(row), about + row[0].size_unit)


def save(costs: Sequence[Point], table: Path) -> None:
    """Writes the points as CSV; the same give the same."""
    with table.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(Point))
        for point in costs:
            writer.writerow(
                f"{value:.6g}" if isinstance(value, float) else value for value in astuple(point)
            )
