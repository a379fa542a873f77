"""What a study will take, before anything is submitted: jobs, hours, room, what is run again."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from tabulate import tabulate

from barlow_atlas.report.text import duration
from barlow_atlas.study.models import Run, Study
from barlow_atlas.study.sizes import UnknownImages, data_bytes
from barlow_atlas.tools.costs import read_measurements
from barlow_atlas.tools.durations import (
    Expectation,
    Past,
    kind_of,
    longest_chain,
    past_jobs,
    resources_of,
    wall_seconds,
)
from barlow_atlas.tools.storage import memory_mb, storage_of
from barlow_atlas.workflow.jobs import (
    MILESTONES,
    Job,
    jobs_of,
    runs_of,
    stale_milestones,
    submissions,
    targets,
    to_run,
)


def describe(name: str, study: Study, at_once: int) -> Iterator[str]:
    """The plan of a study in lines of text.

    Args:
        at_once: jobs that run at a time.
    """
    segments = jobs_of(name, study)
    stale = stale_milestones(name, segments)
    running = to_run(segments, targets(name, study), stale, Path.is_file)
    jobs = submissions(segments)
    pending = [job for job in jobs if job.file in running]
    unknown = _unknown_images(study)
    measurements, past = read_measurements(), list(past_jobs(name, study, segments))
    measured, expected = (Expectation(study, measurements, known) for known in ((), past))
    told = {} if unknown else {job.file: expected.seconds(job) for job in pending}
    known = {file: seconds for file, seconds in told.items() if seconds is not None}

    yield f"{name}: {study.title}"
    yield f"{len(jobs)} jobs, {len(jobs) - len(pending)} done, {len(pending)} to run"
    yield ""
    rows = list(_job_rows(study, jobs, running, known))
    flush = ("left", *("right" for _ in rows[0][1:]))
    yield from tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=flush).splitlines()
    yield ""
    if unknown:
        yield f"Time and room: unknown. {unknown}"
    else:
        yield from _durations_told(study, pending, known, at_once)
        yield from _bases_told(name, pending, expected)
        yield from _errors_told(measured, past)
        yield ""
        yield from _storage_told(study, segments, at_once)
        yield from _limits_told(study, pending, known)
        yield from _memory_told(study, pending, measured)
    yield from _stale_told(stale, segments, running)


def _unknown_images(study: Study) -> str | None:
    """Why numbers or bytes of images are unknown; None if they are known."""
    try:
        data_bytes(study)
    except UnknownImages as error:
        return str(error)
    return None


def _job_rows(
    study: Study, jobs: Sequence[Job], running: set[Path], known: dict[Path, float]
) -> Iterator[tuple[str, ...]]:
    head = ("rule", "jobs", "to run", "a job", "in all", "gpu", "threads", "mem_mb", "runtime")
    yield head
    for rule in dict.fromkeys(job.rule for job in jobs):
        rule_jobs = [job for job in jobs if job.rule == rule]
        pending = [job for job in rule_jobs if job.file in running]
        times = [known[job.file] for job in pending if job.file in known]
        longest = duration(max(times)) if times else "-"
        whole = duration(sum(times)) if times and len(times) == len(pending) else "-"
        if rule not in ("pretrain", "cool_down", "probe"):
            longest, whole = "-", "-"
            queue = ("", "", "", "beside Snakemake" if rule != "import_weights" else "")
        else:
            asked = resources_of(study, kind_of(rule_jobs[0]))
            limit = duration(60 * asked.runtime)
            nodes = asked.processes // asked.processes_per_node
            of_each = f"{nodes} x " if nodes > 1 else ""
            threads = study.threads * asked.processes_per_node
            gpu, cpus, mem_mb = (f"{of_each}{n}" for n in (asked.gpu, threads, asked.mem_mb))
            queue = (gpu, cpus, mem_mb, limit)
        yield (rule, str(len(rule_jobs)), str(len(pending)), longest, whole, *queue)


def size(count: float) -> str:
    """Bytes in decimal units, such as 1.2 GB."""
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= length:
            return f"{count / length:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def _durations_told(
    study: Study, pending: Sequence[Job], known: dict[Path, float], at_once: int
) -> Iterator[str]:
    if not pending:
        yield "Nothing is to be run."
        return
    if len(known) < len(pending):
        yield "Time: unknown, since the device of some jobs is not measured"
        return
    rows = [(job, known[job.file], resources_of(study, kind_of(job))) for job in pending if job.run]
    gpu_hours = (
        sum(s * one.gpu * one.processes / one.processes_per_node for _, s, one in rows) / 3600
    )
    core_hours = sum(s * study.threads * one.processes for _, s, one in rows) / 3600
    wall = wall_seconds(pending, lambda job: known[job.file], at_once)
    chain = longest_chain(pending, lambda job: known[job.file])
    yield (
        f"Time: {gpu_hours:.4g} GPU hours and {core_hours:.4g} CPU core hours reserved; "
        f"{duration(wall)} with {at_once} jobs at a time"
    )
    yield (
        f"  longest chain: {len(chain)} jobs, {duration(sum(known[job.file] for job in chain))}, "
        f"through {next((job.run.name for job in chain if job.run), 'no run')}"
    )


def _bases_told(name: str, pending: Sequence[Job], expected: Expectation) -> Iterator[str]:
    """What the durations rest on, and how to measure those that are unknown."""
    for kind, device in expected.device.items():
        costs = [expected.once(job) for job in pending if job.run and kind_of(job) == kind]
        bases = Counter(one.basis for one in costs if one is not None and one.basis)
        for basis, count in bases.items():
            yield f"  {kind} on {device}, {count} jobs: {basis}"
        if None in costs:
            yield (
                f"  {kind} on {device}: not measured for {costs.count(None)} jobs. Run "
                f"`python -m barlow_atlas measure --study {name}` there"
            )


def _errors_told(measured: Expectation, past: Sequence[Past]) -> Iterator[str]:
    """How wrong the measurements are, beside jobs that have run."""
    ratios = defaultdict(list)
    for one in past:
        kind, computed = kind_of(one.job), measured.computed(one.job)
        if computed is not None and one.seconds > 0 and one.device == measured.device[kind]:
            start = measured.start_s[kind] if kind == "probe" else 0.0
            ratios[one.job.rule, one.device].append((start + computed) / one.seconds - 1)
    for (rule, device), errors in ratios.items():
        yield (
            f"Error on {len(errors)} past jobs, {rule} on {device}: measured steps over wall-clock "
            f"time {statistics.median(errors):+.0%} in the median, {min(errors):+.0%} to "
            f"{max(errors):+.0%}"
        )


def _storage_told(study: Study, jobs: Sequence[Job], at_once: int) -> Iterator[str]:
    room = storage_of(study, jobs, at_once)
    yield (
        f"Room: {size(room.kept)} once done: data {size(room.data)}, weights "
        f"{size(room.weights)}, training states {size(room.states)}, probes {size(room.probes)}; "
        f"while it runs up to {size(room.resume)} more for {at_once} unfinished segments"
    )


def _stale_told(stale: dict[Path, str], jobs: Sequence[Job], running: set[Path]) -> Iterator[str]:
    """Which milestones that are here are made again, run by run."""
    milestones = [job for job in jobs if job.rule in MILESTONES]
    again: dict[str, list[Job]] = defaultdict(list)
    for job in milestones:
        if job.file in running and job.file.is_file() and job.run:
            again[job.run.name].append(job)
    if not again:
        return
    count = sum(map(len, again.values()))
    yield ""
    yield f"Made again, though they are here: {count} milestones of {len(again)} runs"
    for run, made in again.items():
        epochs = ", ".join(str(job.epoch) for job in made)
        why = "; ".join(dict.fromkeys(stale[job.file] for job in made if job.file in stale))
        yield f"  {run}: epoch {epochs} ({why or 'a milestone before them is not here'})"
    if any("between" in reason for reason in stale.values()):
        yield (
            "  A milestone that is put between others makes the later ones be trained again; one "
            "behind the last does not."
        )


def _limits_told(study: Study, pending: Sequence[Job], known: dict[Path, float]) -> Iterator[str]:
    """Jobs that will not end within their `runtime`."""
    for rule in ("pretrain", "cool_down", "probe"):
        rule_jobs = [job for job in pending if job.rule == rule]
        if not rule_jobs:
            continue
        kind = kind_of(rule_jobs[0])
        limit = 60.0 * resources_of(study, kind).runtime
        late = [job for job in rule_jobs if known.get(job.file, 0) > limit]
        if late:
            worst = max(late, key=lambda job: known[job.file])
            assert worst.run is not None
            what = (
                "probes that train go on where they were, others start again: raise it"
                if rule == "probe"
                else "they are saved at the limit, queued again and go on"
            )
            yield (
                f"warning: {len(late)} {rule} jobs are expected to take longer than their runtime "
                f"of {duration(limit)}, such as {worst.run.name} epoch {worst.epoch} with "
                f"{duration(known[worst.file])}; {what} (resources.{kind}.runtime)"
            )


def _memory_told(study: Study, pending: Sequence[Job], measured: Expectation) -> Iterator[str]:
    """Training jobs that will not fit into their `mem_mb`."""
    asked = study.resources.pretrain
    needs = {}
    for job in pending:
        if isinstance(job.run, Run) and kind_of(job) == "pretrain":
            step = measured.once(job)
            kept_mb = step.kept_mb if step else None
            needs[job.run.name] = memory_mb(study, job.run, len(runs_of(job)), kept_mb)
    large = [run for run, need in needs.items() if need > asked.mem_mb]
    if large:
        worst = max(large, key=needs.__getitem__)
        yield (
            f"warning: {len(large)} runs are expected to need more than their {asked.mem_mb} MB, "
            f"such as {worst} with at least {needs[worst]:.0f} MB (resources.pretrain.mem_mb)"
        )
