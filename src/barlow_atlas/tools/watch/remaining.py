"""How long a study that runs will still take: `plan`'s expectation, corrected by what has run."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from barlow_atlas.study.models import Study
from barlow_atlas.tools.costs import read_measurements
from barlow_atlas.tools.durations import (
    Expectation,
    benchmark_seconds,
    steps_of,
    turns_of,
    wall_seconds,
)
from barlow_atlas.workflow.jobs import Job, jobs_of, step_file, submissions

LATEST = 10
"""Jobs of a rule that tell how fast it goes now: those before them may have run beside other work,
on another machine, or on another day."""


def seconds_left(
    name: str,
    study: Study,
    pending: Iterable[Path],
    running: Mapping[Path, float | None],
    at_once: int,
) -> float | None:
    """Seconds until the last job ends, `at_once` at a time; None where that cannot be told.

    A job takes what `plan` expects, times the ratio of measured to expected seconds of the `LATEST`
    jobs of its rule that have run here. Where it was never measured its steps are counted instead.
    One that runs takes what its step says, or as long as any.

    Args:
        pending: the files of the jobs that are not done, among them those that run.
        running: of those that run, the seconds that each says to need.
    """
    jobs = submissions(jobs_of(name, study))
    wanted = set(pending)
    rules = {job.rule for job in jobs if job.file in wanted}
    jobs = [job for job in jobs if job.rule in rules]
    expectation = Expectation(study, read_measurements())
    expected = {job.file: expectation.seconds(job) for job in jobs}
    unknown = {job.rule for job in jobs if expected[job.file] is None}
    weights = {
        job.file: float(steps_of(study, job) * turns_of(job))
        if job.rule in unknown
        else expected[job.file] or 0.0
        for job in jobs
    }
    past: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for job, seconds in _measured(name, jobs):
        past[job.rule].append((seconds, weights[job.file]))
    durations = {}
    for job in (job for job in jobs if job.file in wanted):
        told, scale = running.get(job.file), _ratio(past[job.rule])
        if told is None and scale is None and job.rule in unknown:
            return None
        durations[job.file] = told if told is not None else (scale or 1.0) * weights[job.file]
    # Those that run come first, as they do.
    order = sorted(durations, key=lambda file: file not in running)
    by_file = {job.file: job for job in jobs}
    return wall_seconds([by_file[file] for file in order], lambda job: durations[job.file], at_once)


def _measured(name: str, jobs: Sequence[Job]) -> Iterator[tuple[Job, float]]:
    """Jobs that have run here, in the order they ended, with the seconds in Snakemake's benchmark.

    Those of untrained networks train nothing: their time is the start of a program.
    """
    measured = []
    for job in jobs:
        if job.run is None or (job.rule == "pretrain" and not job.epochs):
            continue
        seconds = benchmark_seconds(name, job)
        with suppress(OSError):
            ended = step_file(name, job, ".tsv").stat().st_mtime
            if seconds is not None:
                measured.append((ended, job, seconds))
    for _, job, seconds in sorted(measured, key=lambda one: one[0]):
        yield job, seconds


def _ratio(past: Sequence[tuple[float, float]]) -> float | None:
    """Measured over expected seconds of the latest jobs: long ones count for more."""
    latest = past[-LATEST:]
    expected = sum(seconds for _, seconds in latest)
    return sum(seconds for seconds, _ in latest) / expected if expected else None
