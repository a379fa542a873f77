"""How long a study's jobs take: as its past jobs did, else as was measured. Loads no torch."""

import heapq
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from barlow_atlas.study.models import PretrainResources, Resources, Run, Study
from barlow_atlas.study.sizes import sizes_of
from barlow_atlas.tools.costs import (
    Cost,
    Measurement,
    Shape,
    cost_of,
    measured_on,
    probes_shape,
    start_seconds,
    step_shape,
)
from barlow_atlas.workflow.jobs import Job, read_json, runs_of, step_file

BETWEEN_JOBS_S = 2.5
"""Snakemake, submitit and the shell around one job: benchmarks/demo.md, CPU seconds."""
FORWARD_AGAIN = 4 / 3
"""A step with a second forward pass over one without: a backward pass takes as long as two."""
Kind = Literal["pretrain", "probe"]
KINDS: tuple[Kind, ...] = ("pretrain", "probe")
"""Of jobs, by the resources that they ask for."""


def kind_of(job: Job) -> Kind:
    return "probe" if job.rule == "probe" else "pretrain"


def resources_of(study: Study, kind: Kind) -> Resources:
    return study.resources.probe if kind == "probe" else study.resources.pretrain


def device_of(study: Study, kind: Kind, known: Iterable[str]) -> str:
    """What jobs of a kind run on: the CPU, or the last GPU among the devices that are known."""
    if not resources_of(study, kind).gpu:
        return "cpu"
    gpus = [device for device in known if device != "cpu"]
    return gpus[-1] if gpus else "GPU"


def shape_of(study: Study, job: Job) -> Shape | None:
    """Of the steps or probes of a job; None where there are none."""
    if job.rule == "probe" and job.run is not None:
        return probes_shape(study, job.run)
    if job.rule == "take_milestone" or not isinstance(job.run, Run):
        return None
    return step_shape(job.run)


def steps_of(study: Study, job: Job) -> int:
    """How often a job does what was measured: steps of one run, or probes of its milestones."""
    if job.rule == "probe":
        return max(1, len(job.makes))
    if not isinstance(job.run, Run):
        return 0
    return job.epochs * (sizes_of(study, job.run).pretraining // job.run.batch_size)


def turns_of(job: Job) -> int:
    """How many runs a job trains, each with `steps_of`; probes are counted there."""
    return 1 if job.rule == "probe" else max(1, len(runs_of(job)))


@dataclass(frozen=True)
class Past:
    """A job that has run."""

    job: Job
    device: str
    seconds: float
    """By the clock on the wall: of a segment without the start of its program, of a probe with it.
    A job that was interrupted counts from its last start."""


def past_jobs(name: str, study: Study, jobs: Iterable[Job]) -> Iterator[Past]:
    """The jobs that have trained or probed as the study now is, and left their duration.

    Segments say it in their manifest, or in the probe file made from it (`made_by`); probes in
    Snakemake's benchmark file. A probe is taken to have run where its milestone was trained.
    """
    jobs = list(jobs)
    described = {run.name: run.model_dump(mode="json") for run in study.runs()}
    probes = {job.after[0]: job for job in jobs if job.rule == "probe"}
    for job in jobs:
        if job.rule not in ("pretrain", "cool_down") or job.run is None:
            continue
        probe = probes.get(job.file)
        made_by = _made_by([job.file, *([probe.file] if probe else [])], described[job.run.name])
        if made_by is None:
            continue
        asked = study.resources.pretrain
        how = made_by.get("processes", 1), made_by.get("accumulated", False)
        if job.epochs and how == (asked.processes, asked.accumulate):
            yield Past(job, made_by["device"], made_by["seconds"])
        took = benchmark_seconds(name, probe) if probe else None
        if probe and took is not None:
            yield Past(probe, made_by["device"], took)


def _made_by(files: Iterable[Path], run: dict[str, Any]) -> dict[str, Any] | None:
    """How a milestone was made, from the first of these files that says it of this run."""
    for file in files:
        told = read_json(file) if file.is_file() else {}
        made_by: dict[str, Any] | None = told.get("checkpoint", told).get("made_by")
        if made_by and told.get("run") == run:
            return made_by
    return None


def benchmark_seconds(name: str, job: Job) -> float | None:
    """What Snakemake's benchmark file says of a job's program, by the clock on the wall."""
    with suppress(OSError, ValueError):
        _, row = step_file(name, job, ".tsv").read_text().splitlines()
        return float(row.split("\t")[0])
    return None


class Expectation:
    """What a study's jobs are expected to take."""

    def __init__(
        self, study: Study, measurements: Sequence[Measurement], past: Sequence[Past] = ()
    ) -> None:
        """
        Args:
            past: jobs of the study, whose median goes before what was measured.
        """
        seen = [*(one.device for one in past), *(one.device for one in measurements)]
        self.study = study
        self.device = {kind: device_of(study, kind, seen) for kind in KINDS}
        self._known = {
            kind: measured_on(measurements, device, study.threads)
            for kind, device in self.device.items()
        }
        self.start_s = {kind: start_seconds(known) for kind, known in self._known.items()}
        self._took: dict[str, list[float]] = defaultdict(list)
        for one in past:
            kind, shape = kind_of(one.job), shape_of(study, one.job)
            if shape is not None and one.device == self.device[kind]:
                alone = one.seconds - (self.start_s[kind] if kind == "probe" else 0.0)
                each = max(0.0, alone) / steps_of(study, one.job)
                self._took[shape.model_dump_json()].append(each)

    def once(self, job: Job) -> Cost | None:
        """One of the job's steps, or its probes; None if that is not known."""
        shape = shape_of(self.study, job)
        if shape is None:
            return Cost(0.0, "")
        took = self._took.get(shape.model_dump_json())
        if took:
            return Cost(statistics.median(took), f"as {len(took)} jobs of this study took")
        cost = cost_of(shape, self._known[kind_of(job)], self.study.threads)
        asked = resources_of(self.study, kind_of(job))
        if cost is not None and asked.processes > 1:
            cost = _shared(cost, asked.processes)
        if cost is not None and isinstance(asked, PretrainResources) and asked.accumulate:
            cost = _accumulated(cost, self.study.local_statistics // asked.processes)
        return cost

    def computed(self, job: Job) -> float | None:
        """Seconds that a job computes, if it trains for one run; its program's start left out."""
        once = self.once(job)
        return None if once is None else once.seconds * steps_of(self.study, job)

    def seconds(self, job: Job) -> float | None:
        """From a job's submission to its end, waiting in a queue left out; None if not known."""
        if job.run is None:
            return BETWEEN_JOBS_S
        computed = self.computed(job)
        if computed is None:
            return None
        return BETWEEN_JOBS_S + self.start_s[kind_of(job)] + computed * turns_of(job)


def _shared(cost: Cost, count: int) -> Cost:
    """What one process takes, by several: no less than this, how much more is not measured."""
    loss = f"shared by {count} processes without any loss, an assumption that nobody measured"
    kept_mb = None if cost.kept_mb is None else cost.kept_mb / count
    return Cost(cost.seconds / count, f"{cost.basis}; {loss}", kept_mb)


def _accumulated(cost: Cost, parts: int) -> Cost:
    """What a process takes whose parts of the batch pass one after another, each of them twice."""
    if parts == 1:
        return cost
    more = f"accumulated over {parts} parts, each with a forward pass more, taken as a third"
    kept_mb = None if cost.kept_mb is None else cost.kept_mb / parts
    return Cost(cost.seconds * FORWARD_AGAIN, f"{cost.basis}; {more}, not measured", kept_mb)


def wall_seconds(jobs: Sequence[Job], seconds: Callable[[Job], float], at_once: int) -> float:
    """The time until the last of `jobs` ends if up to `at_once` run at a time, first come first.

    A job starts once those of `jobs` that it waits for have ended.
    """
    files = {job.file for job in jobs}
    place = {job.file: i for i, job in enumerate(jobs)}
    blocked = [len([f for f in job.after if f in files]) for job in jobs]
    waiting = defaultdict(list)
    for i, job in enumerate(jobs):
        for file in job.after:
            if file in files:
                waiting[place[file]].append(i)
    ready = [i for i, count in enumerate(blocked) if count == 0]
    heapq.heapify(ready)
    running: list[tuple[float, int]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < at_once:
            i = heapq.heappop(ready)
            heapq.heappush(running, (now + seconds(jobs[i]), i))
        now, ended = heapq.heappop(running)
        for i in waiting[ended]:
            blocked[i] -= 1
            if blocked[i] == 0:
                heapq.heappush(ready, i)
    return now


def longest_chain(jobs: Sequence[Job], seconds: Callable[[Job], float]) -> list[Job]:
    """The jobs, first to last, that no number of machines makes faster; `jobs` in their order."""
    ends: dict[Path, float] = {}
    before: dict[Path, Job] = {}
    by_file = {job.file: job for job in jobs}
    for job in jobs:
        parents = [file for file in job.after if file in ends]
        latest = max(parents, key=ends.__getitem__, default=None)
        ends[job.file] = seconds(job) + (ends[latest] if latest else 0.0)
        if latest:
            before[job.file] = by_file[latest]
    if not ends:
        return []
    chain = [by_file[max(ends, key=ends.__getitem__)]]
    while chain[-1].file in before:
        chain.append(before[chain[-1].file])
    return chain[::-1]
