"""What a study will take, before anything is submitted: jobs, hours, room, what is run again."""

import functools
import heapq
import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from barlow_atlas.data.catalog import Counts, DataSet
from barlow_atlas.data.prepared import MANIFEST, Manifest
from barlow_atlas.errors import AtlasError
from barlow_atlas.probes.signals import CORNER
from barlow_atlas.study.file import find_studies, load_study
from barlow_atlas.study.models import ForeignRun, Resources, Run, Study
from barlow_atlas.study.paths import COOLED, DATA, PARAMS, RESULTS
from barlow_atlas.tools import costs
from barlow_atlas.tools.costs import Footprint, Rates, Sizes
from barlow_atlas.workflow.jobs import (
    Job,
    jobs_of,
    read_json,
    stale_milestones,
    submissions,
    targets,
    to_run,
)

BETWEEN_JOBS_S = 2.5
"""Snakemake, submitit and the shell around one job: benchmarks/demo.md, CPU seconds."""
LABEL_BYTES = 8
PROGRAM_MB = 350
"""A job's program before it holds any image: peak resident memory of the demo's epoch 0, CPU."""
SAVED_STATES = 2
"""Private states that an unfinished segment keeps, and milestones of a run that keep theirs."""


class PlanError(AtlasError):
    """A plan that cannot be made; the message says what is missing and what to do."""


# Images


def sizes_of(study: Study, run: Run | ForeignRun) -> Sizes:
    """The numbers of images behind a run."""
    own, *_ = study.data_sets()
    return _sizes(own, run.protocol, run.data.fraction)


def target_sizes(study: Study) -> tuple[Sizes, ...]:
    """The numbers of images of the data sets that probes are transferred to."""
    _, *targets = study.data_sets()
    return tuple(_sizes(target, study.protocol, 1.0) for target in targets)


@functools.cache
def _sizes(data_set: DataSet, protocol: str, fraction: float) -> Sizes:
    """Of the prepared data set if it is here, else of the catalog's facts."""
    counts, held_out, classes = _counts(data_set)
    held_out = held_out if protocol == "clean" else 0
    labelled = round(fraction * (counts.train - held_out))
    return Sizes(
        pretraining=labelled + round(fraction * counts.unlabeled),
        probe_training=labelled,
        validation=held_out,
        test=counts.test,
        classes=classes,
        stored_size=data_set.image_size,
    )


def _counts(data_set: DataSet) -> tuple[Counts, int, int]:
    """Images by part, those of the hold-out among the train part, and classes."""
    prepared = DATA / data_set.name / MANIFEST
    if prepared.is_file():
        try:
            manifest = Manifest.model_validate_json(prepared.read_bytes())
        except ValidationError as error:
            raise PlanError(
                f"{prepared} is damaged: remove {prepared.parent}, or `dvc checkout` it"
            ) from error
        counts = Counts(
            train=manifest.train.images,
            test=manifest.test.images,
            unlabeled=manifest.unlabeled.images if manifest.unlabeled else 0,
        )
        return counts, manifest.validation.images, len(manifest.classes)
    if data_set.counts is None or data_set.classes is None:
        raise PlanError(
            f"how many images {data_set.name} has is known only once it is prepared; run "
            f"`prepare-data --data {data_set.name}` with this study first"
        )
    held_out = round(data_set.validation_share * data_set.counts.train)
    return data_set.counts, held_out, data_set.classes


def data_bytes(study: Study) -> int:
    """Bytes of the prepared arrays, whether they are here or not."""
    total = 0
    for data_set in study.data_sets():
        counts, _, _ = _counts(data_set)
        images = counts.train + counts.test + counts.unlabeled
        total += images * (3 * data_set.image_size**2 + LABEL_BYTES)
    return total


# Durations


@dataclass(frozen=True)
class Speeds:
    """The rates of the device that each kind of job runs on; None where it is not measured."""

    pretrain: Rates | None
    probe: Rates | None


def seconds_of(study: Study, speeds: Speeds) -> Callable[[Job], float | None]:
    """The expected duration of a study's jobs; None where the device is not measured."""

    def seconds(job: Job) -> float | None:
        kind = "probe" if job.rule == "probe" else "pretrain"
        rates: Rates | None = getattr(speeds, kind)
        if rates is None or job.run is None:
            return BETWEEN_JOBS_S if job.run is None else None
        alone = seconds_of_step(job, study, rates)
        return BETWEEN_JOBS_S + rates.start_s + alone * max(1, len(job.makes))

    return seconds


def seconds_of_step(job: Job, study: Study, rates: Rates) -> float:
    """What a job computes, without starting and ending its program."""
    if job.run is None or job.rule == "import_weights":
        return 0.0
    sizes = sizes_of(study, job.run)
    if isinstance(job.run, Run) and job.rule != "probe":
        work = costs.footprint(job.run, sizes.stored_size).work
        return job.epochs * (sizes.pretraining // job.run.batch_size) * rates.seconds(work)
    return rates.fitted(costs.probe_work(job.run, study.probes, sizes, target_sizes(study)))


def wall_seconds(jobs: Sequence[Job], seconds: Callable[[Job], float], at_once: int) -> float:
    """The time until the last of `jobs` ends if up to `at_once` run at a time, first come first.

    A job starts once those of `jobs` that it waits for have ended.
    """
    here = {job.file for job in jobs}
    place = {job.file: i for i, job in enumerate(jobs)}
    blocked = [len([f for f in job.after if f in here]) for job in jobs]
    waiting = defaultdict(list)
    for i, job in enumerate(jobs):
        for file in job.after:
            if file in here:
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


# Room


@dataclass(frozen=True)
class Storage:
    """Bytes on disk once a study is done."""

    data: int
    weights: int
    states: int
    probes: int
    resume: int
    """Private states while jobs run, at most."""

    @property
    def total(self) -> int:
        return self.data + self.weights + self.states + self.probes + self.resume


def storage_of(study: Study, jobs: Sequence[Job], at_once: int) -> Storage:
    """What a study keeps, done or to be done. Raw files and downloads are not in it."""
    weights = states = largest = probes = 0
    for run in study.trained():
        one = _footprint(study, run)
        milestones = len(study.milestones_of(run))
        branches = milestones - 1 if run.cooldown_epochs else 0
        weights += (milestones + branches) * one.weights
        states += one.state * (milestones if branches else min(SAVED_STATES, milestones))
        largest = max(largest, one.state)
    for job in jobs:
        if job.rule == "import_weights" and job.file.with_suffix(".safetensors").is_file():
            weights += job.file.with_suffix(".safetensors").stat().st_size
        if job.rule == "probe" and job.run is not None:
            probes += probe_bytes(study, job.run)
    return Storage(
        data=data_bytes(study),
        weights=weights,
        states=states,
        probes=probes,
        resume=SAVED_STATES * at_once * study.seeds_together * largest,
    )


def probe_bytes(study: Study, run: Run | ForeignRun) -> int:
    """Bytes of one probe file: the run, and for each probe and split its settings and answers."""
    sizes = sizes_of(study, run)
    splits = [count for count in (sizes.validation, sizes.test) if count]
    probes = [*study.probes.knn, *study.probes.linear]
    described = len(json.dumps(run.model_dump(mode="json"), indent=1))
    # Answers are bits in base64; a record around them has about 400 bytes, the file's head with its
    # hashes 1,300, the label-free signals of a space and a split 900. Correlations are bytes.
    own = sum(400 + count // 6 for count in splits) * len(probes)
    targets = sum(
        400 + count // 6 for one in target_sizes(study) for count in (one.validation, one.test)
    )
    spaces = 2 if isinstance(run, Run) else 1
    corner = 4 * min(CORNER, run.embedding_dim or CORNER) ** 2 // 3
    return 1300 + described + own + targets + 2 * 900 * spaces + corner


def memory_mb(study: Study, job: Job, gpu: bool) -> float:
    """Memory of the host, in MB, that a training job needs at least: program, images, tensors.

    Images lie there while they are copied to a GPU; on a CPU they stay in their files. A step's
    tensors lie on the device.
    """
    assert isinstance(job.run, Run)
    sizes = sizes_of(study, job.run)
    one = _footprint(study, job.run)
    states = 2 * one.state * max(1, len(job.makes))
    images = sizes.pretraining * 3 * sizes.stored_size**2
    tensors = states + images if gpu else states + one.activations
    return PROGRAM_MB + tensors / costs.MEGABYTE


def _footprint(study: Study, run: Run) -> Footprint:
    return costs.footprint(run, sizes_of(study, run).stored_size)


# Past runs


@dataclass(frozen=True)
class Past:
    """A job that has run: how long it took and how long it would be expected to."""

    rule: str
    device: str
    measured_s: float
    expected_s: float


def past_jobs(measurements: Sequence[costs.Measurement]) -> tuple[list[Past], int]:
    """All that ran and left its duration in results/ or logs/, and how many are not comparable.

    Training segments say it in their manifests and probe files (`made_by`), without the start of
    their program; probes in Snakemake's benchmark files, with it. Not comparable are runs that
    their study no longer gives, and devices that are not measured.
    """
    found, strange = [], 0
    for name, path in find_studies(PARAMS).items():
        if not (RESULTS / name).is_dir():
            continue
        study = load_study(path)
        jobs = {(job.rule, job.run.name, job.epoch): job for job in jobs_of(name, study) if job.run}
        described = {run.name: run.model_dump(mode="json") for run in study.runs()}
        for rule, run, epoch, device, seconds, same in _durations(name, described):
            job = jobs.get((rule, run, epoch))
            speaking = costs.measured_on(measurements, device, study.threads)
            if not same or job is None or not any(one.what == "step" for one in speaking):
                strange += 1
                continue
            rates = costs.rates(speaking)
            start = rates.start_s if rule == "probe" else 0.0
            expected = start + seconds_of_step(job, study, rates)
            found.append(Past(rule, device, seconds, expected))
    return found, strange


def _durations(
    name: str, described: dict[str, dict[str, Any]]
) -> Iterator[tuple[str, str, int, str, float, bool]]:
    """Rule, run, epoch, device, seconds of past jobs, and whether the run is still the study's."""
    seen = set()
    folders = (RESULTS / name / kind for kind in ("checkpoints", "probes"))
    devices = {}
    for file in (file for folder in folders for file in sorted(folder.rglob("epoch_*.json"))):
        content = read_json(file)
        run = content.get("run", {})
        stored = file.parent.name if file.parent.name != COOLED else file.parent.parent.name
        made = content.get("checkpoint", content)
        if not made.get("made_by") or content.get("epoch") == 0:
            continue
        devices[stored, content["epoch"]] = made["made_by"]["device"]
        if made["lineage"] in seen:
            continue
        seen.add(made["lineage"])
        rule = "cool_down" if run.get("schedule", {}).get("name") == "trunk" else "pretrain"
        if rule == "cool_down" and "checkpoints" in file.parts and file.parent.name != COOLED:
            rule = "pretrain"
        same = run == described.get(stored)
        seconds = made["made_by"]["seconds"]
        yield rule, stored, content["epoch"], made["made_by"]["device"], seconds, same
    for file in sorted((Path("logs") / name / "probe").rglob("epoch_*.tsv")):
        lines = file.read_text().splitlines()
        run, epoch = file.parent.name, int(file.stem.removeprefix("epoch_"))
        if len(lines) == 2 and (run, epoch) in devices:
            yield "probe", run, epoch, devices[run, epoch], float(lines[1].split("\t")[0]), True


# What is said


@dataclass(frozen=True)
class Device:
    """What the jobs of a kind run on."""

    name: str
    rates: Rates | None
    basis: str
    """What the rates rest on, or what is missing."""


def device_of(
    measurements: Sequence[costs.Measurement],
    asked: Resources,
    threads: int,
    name: str | None,
    tflops: float | None,
) -> Device:
    """The device of a kind of jobs: the CPU, or the GPU that was measured last.

    Args:
        name: the GPU's product name, if it is not to be the one that was measured last.
        tflops: 10^12 operations a second that a GPU is assumed to sustain, unmeasured.
    """
    if asked.gpu and tflops:
        assumed = Rates(0.0, 1e-12 / tflops, 0.0, 0.0, {})
        return Device(name or "GPU", assumed, f"assumed {tflops:g} TFLOP/s and no other cost")
    names = [one.device for one in measurements if one.device != "cpu"] or ["GPU"]
    device = (name or names[-1]) if asked.gpu else "cpu"
    speaking = costs.measured_on(measurements, device, threads)
    if not any(one.what == "step" for one in speaking):
        known = sorted({one.device for one in measurements})
        return Device(
            device,
            None,
            f"not measured ({costs.MEASUREMENTS} knows: {', '.join(known) or 'nothing'}). Run "
            "`python -m barlow_atlas measure` with this study there, or assume --throughput",
        )
    one = speaking[-1]
    shapes = sum(one.what == "step" for one in speaking)
    basis = f"{shapes} shapes measured on {one.date}, {one.processor}, torch {one.torch}"
    if device == "cpu":
        basis += f", {one.threads} threads"
        if one.threads != threads:
            basis += f" (the study asks for {threads}, which may be faster or slower)"
        if one.processor != costs.processor():
            basis += "; not this machine: `python -m barlow_atlas measure` measures it"
    return Device(device, costs.rates(speaking), basis)


def describe(
    name: str,
    study: Study,
    at_once: int,
    gpu: str | None = None,
    tflops: float | None = None,
) -> Iterator[str]:
    """The plan of a study in lines of text.

    Args:
        at_once: jobs that run at a time.
        gpu, tflops: see `device_of`.
    """
    measurements = costs.read_measurements()
    asked = study.resources
    devices = {
        kind: device_of(measurements, getattr(asked, kind), study.threads, gpu, tflops)
        for kind in ("pretrain", "probe")
    }
    segments = jobs_of(name, study)
    stale = stale_milestones(name, segments)
    running = to_run(segments, targets(name, study), stale, Path.is_file)
    jobs = submissions(segments)
    pending = [job for job in jobs if job.file in running]
    unknown = _unknown_images(study)
    rates = (None, None) if unknown else (devices["pretrain"].rates, devices["probe"].rates)
    seconds = seconds_of(study, Speeds(*rates))
    known = {job.file: found for job in pending if (found := seconds(job)) is not None}

    yield f"{name}: {study.title}"
    yield f"{len(jobs)} jobs, {len(jobs) - len(pending)} done, {len(pending)} to run"
    yield ""
    yield from _table(_job_rows(study, jobs, running, known))
    yield ""
    if unknown:
        yield f"Time and room: unknown. {unknown}"
    else:
        yield from _durations_told(study, pending, known, at_once)
        for kind, device in devices.items():
            yield f"  {kind} on {device.name}: {device.basis}"
        yield from _flops_told(study, pending, devices)
        yield from _errors_told(measurements)
        yield ""
        yield from _storage_told(study, segments, at_once)
        yield from _limits_told(study, pending, known)
        yield from _memory_told(study, pending)
    yield from _stale_told(stale, segments, running)


def _unknown_images(study: Study) -> str | None:
    """Why the numbers of images are unknown; None if they are known."""
    try:
        for data_set in study.data_sets():
            _counts(data_set)
    except PlanError as error:
        return str(error)
    return None


def _job_rows(
    study: Study, jobs: Sequence[Job], running: set[Path], known: dict[Path, float]
) -> Iterator[tuple[str, ...]]:
    head = ("rule", "jobs", "to run", "a job", "in all", "gpu", "threads", "mem_mb", "runtime")
    yield head
    for rule in dict.fromkeys(job.rule for job in jobs):
        own = [job for job in jobs if job.rule == rule]
        pending = [job for job in own if job.file in running]
        times = [known[job.file] for job in pending if job.file in known]
        longest = duration(max(times)) if times else "-"
        whole = duration(sum(times)) if times and len(times) == len(pending) else "-"
        if rule not in ("pretrain", "cool_down", "probe"):
            longest, whole = "-", "-"
            queue = ("", "", "", "beside Snakemake" if rule != "import_weights" else "")
        else:
            asked = _resources(study, rule)
            limit = duration(60 * asked.runtime)
            queue = (str(asked.gpu), str(study.threads), str(asked.mem_mb), limit)
        yield (rule, str(len(own)), str(len(pending)), longest, whole, *queue)


def _resources(study: Study, rule: str) -> Resources:
    return study.resources.probe if rule == "probe" else study.resources.pretrain


def _table(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Rows of words in columns; the first column is flush left."""
    rows = list(rows)
    widths = [max(len(word) for word in column) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [word.rjust(width) for word, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *cells]).rstrip()


def duration(seconds: float) -> str:
    """Such as 45 s, 12 min, 3.5 h or 21 d."""
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


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
    rows = [(job, known[job.file], _resources(study, job.rule)) for job in pending if job.run]
    gpu_hours = sum(seconds * asked.gpu for _, seconds, asked in rows) / 3600
    core_hours = sum(seconds * study.threads for _, seconds, _ in rows) / 3600
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


def _flops_told(study: Study, pending: Sequence[Job], devices: dict[str, Device]) -> Iterator[str]:
    """The work itself, for a device that is not measured."""
    one = Rates(0.0, 1.0, 0.0, 0.0, {})
    for kind, device in devices.items():
        rules = ("probe",) if kind == "probe" else ("pretrain", "cool_down")
        jobs = [job for job in pending if job.rule in rules]
        if device.rates is None and jobs:
            flops = sum(seconds_of_step(job, study, one) for job in jobs)
            yield (
                f"  {kind}: {flops:.3g} floating-point operations; on a device that sustains T "
                f"TFLOP/s they take {flops / 3.6e15:.4g} / T hours"
            )


def _errors_told(measurements: Sequence[costs.Measurement]) -> Iterator[str]:
    """How wrong the cost model has been."""
    for device in sorted({(one.device, one.processor, one.threads) for one in measurements}):
        steps = [
            (one.work, one.seconds)
            for one in measurements
            if (one.device, one.processor, one.threads) == device and one.what == "step"
        ]
        errors = [abs(error) for error in costs.left_out_errors(steps)]
        if errors:
            yield (
                f"Error of the rates on {device[0]}, {device[2]} threads, each of {len(errors)} "
                f"shapes from the others: median {statistics.median(errors):.0%}, "
                f"largest {max(errors):.0%}"
            )
    past, strange = past_jobs(measurements)
    for rule, device_name in sorted({(one.rule, one.device) for one in past}):
        ratios = sorted(
            one.expected_s / one.measured_s - 1
            for one in past
            if (one.rule, one.device) == (rule, device_name) and one.measured_s > 0
        )
        yield (
            f"Error on {len(ratios)} past jobs, {rule} on {device_name}: expected over measured "
            f"wall-clock time {statistics.median(ratios):+.0%} in the median, {ratios[0]:+.0%} to "
            f"{ratios[-1]:+.0%}"
        )
    if strange:
        yield (
            f"  not compared: {strange} past jobs of runs that no study gives any more, or on "
            "devices that are not measured"
        )


def _storage_told(study: Study, jobs: Sequence[Job], at_once: int) -> Iterator[str]:
    room = storage_of(study, jobs, at_once)
    yield (
        f"Room: {size(room.total)} once done: data {size(room.data)}, weights "
        f"{size(room.weights)}, training states {size(room.states)}, probes {size(room.probes)}; "
        f"while it runs up to {size(room.resume)} of it for {at_once} unfinished segments"
    )


def _stale_told(stale: dict[Path, str], jobs: Sequence[Job], running: set[Path]) -> Iterator[str]:
    """Which milestones that are here are made again, run by run."""
    here = [job for job in jobs if job.rule in ("pretrain", "cool_down", "import_weights")]
    again: dict[str, list[Job]] = defaultdict(list)
    for job in here:
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
        limit = 60.0 * _resources(study, rule).runtime
        late = [job for job in pending if job.rule == rule and known.get(job.file, 0) > limit]
        if late:
            worst = max(late, key=lambda job: known[job.file])
            assert worst.run is not None
            what = (
                "a probe saves nothing on the way and would start from its beginning: raise it"
                if rule == "probe"
                else "they are saved at the limit, queued again and go on"
            )
            yield (
                f"warning: {len(late)} {rule} jobs are expected to take longer than their runtime "
                f"of {duration(limit)}, such as {worst.run.name} epoch {worst.epoch} with "
                f"{duration(known[worst.file])}; {what} (resources.{_kind(rule)}.runtime)"
            )


def _memory_told(study: Study, pending: Sequence[Job]) -> Iterator[str]:
    """Training jobs that will not fit into their `mem_mb`."""
    asked = study.resources.pretrain
    training = {job.run.name: job for job in pending if isinstance(job.run, Run)}
    needs = {run: memory_mb(study, job, bool(asked.gpu)) for run, job in training.items()}
    large = [run for run, need in needs.items() if need > asked.mem_mb]
    if large:
        worst = max(large, key=needs.__getitem__)
        yield (
            f"warning: {len(large)} runs are expected to need more than their {asked.mem_mb} MB, "
            f"such as {worst} with at least {needs[worst]:.0f} MB (resources.pretrain.mem_mb)"
        )


def _kind(rule: str) -> str:
    return "probe" if rule == "probe" else "pretrain"
