"""How long a study that runs will still take: `plan`'s expectation, corrected by what has run.

`plan` counts work with torch, which a server that may sit on a login node for days should not
hold in memory. So this module is also a program, asked in a process of its own: it reads a
question as JSON and prints seconds, or null.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from barlow_atlas.errors import AtlasError
from barlow_atlas.study.file import load_study, study_file
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import PARAMS
from barlow_atlas.tools.costs import Rates, read_measurements
from barlow_atlas.tools.plan import Speeds, device_of, seconds_of, wall_seconds
from barlow_atlas.tools.watch.activity import step_file
from barlow_atlas.workflow.jobs import Job, jobs_of, submissions

LATEST = 10
"""Jobs of a rule that tell how fast it goes now: those before them may have run beside other work,
on another machine, or on another day."""
ONE_FLOP_A_SECOND = Rates(0.0, 1.0, 0.0, 0.0, {})
"""Stands in for a device that is not measured, until jobs that ran there tell how fast it is."""


def seconds_left(
    name: str,
    study: Study,
    pending: Iterable[Path],
    running: Mapping[Path, float | None],
    at_once: int,
) -> float | None:
    """Seconds until the last job ends, `at_once` at a time; None where that cannot be told.

    A job takes what `plan` expects, times the ratio of measured to expected seconds of the `LATEST`
    jobs of its rule that have run here. One that runs takes what its step says, or as long as any.

    Args:
        pending: the files of the jobs that are not done, among them those that run.
        running: of those that run, the seconds that each says to need.
    """
    measurements = read_measurements()
    rates = {
        kind: device_of(
            measurements, getattr(study.resources, kind), study.threads, None, None
        ).rates
        for kind in ("pretrain", "probe")
    }
    expected = seconds_of(study, Speeds(**{k: r or ONE_FLOP_A_SECOND for k, r in rates.items()}))
    jobs = submissions(jobs_of(name, study))
    wanted = set(pending)
    past: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for job, seconds in _measured(name, jobs):
        past[job.rule].append((seconds, expected(job) or 0.0))
    durations = {}
    for job in (job for job in jobs if job.file in wanted):
        told = running.get(job.file)
        scale = _ratio(past[job.rule])
        if scale is None and (job.run is None or rates[_kind(job)]):
            scale = 1.0
        if told is None and scale is None:
            return None
        durations[job.file] = told if told is not None else (expected(job) or 0.0) * (scale or 1.0)
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
        with suppress(OSError, ValueError, IndexError):
            file = step_file(name, job, ".tsv")
            _, row = file.read_text().splitlines()
            measured.append((file.stat().st_mtime, job, float(row.split("\t")[0])))
    for _, job, seconds in sorted(measured, key=lambda one: one[0]):
        yield job, seconds


def _ratio(past: Sequence[tuple[float, float]]) -> float | None:
    """Measured over expected seconds of the latest jobs: long ones count for more."""
    latest = past[-LATEST:]
    expected = sum(seconds for _, seconds in latest)
    return sum(seconds for seconds, _ in latest) / expected if expected else None


def _kind(job: Job) -> str:
    return "probe" if job.rule == "probe" else "pretrain"


def main() -> int:
    """Answers one question, {"study", "pending", "running", "at_once"}, on standard output."""
    asked = json.load(sys.stdin)
    name = asked["study"]
    try:
        left = seconds_left(
            name,
            load_study(study_file(PARAMS, name)),
            map(Path, asked["pending"]),
            {Path(file): seconds for file, seconds in asked["running"].items()},
            asked["at_once"],
        )
    except AtlasError as error:
        print(error, file=sys.stderr)
        left = None
    print(json.dumps(left))
    return 0


if __name__ == "__main__":
    sys.exit(main())
