"""The jobs of a study: which there are, and which of them Snakemake would run.

They follow from the study and the files that are here, by the rules of the `Snakefile`; nothing is
started and Snakemake is not asked.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from barlow_atlas.store.adoptions import standing
from barlow_atlas.study.models import ForeignRun, Run, Study
from barlow_atlas.study.paths import (
    COOLED,
    LEDGER,
    REPORTED,
    REPORTS,
    RESULTS,
    data_manifest,
    milestone_path,
    of_run,
    probe_file,
    probed_milestone,
    record_file,
)
from barlow_atlas.workflow.sources import training_code

MILESTONES = ("pretrain", "cool_down", "import_weights", "take_milestone")
"""Rules that make what is probed."""


@dataclass(frozen=True)
class Job:
    """One job of the graph, known by the file that others wait for."""

    rule: str
    file: Path
    after: tuple[Path, ...] = ()
    """Files of other jobs."""
    run: Run | ForeignRun | None = None
    epoch: int = 0
    epochs: int = 0
    """Epochs to train."""
    makes: tuple[Path, ...] = ()
    """Where seeds or milestones are trained and probed together, the files of all, this one's among
    them, by milestone."""


def jobs_of(name: str, study: Study) -> list[Job]:
    """All jobs of a study, each after those that it waits for; `all` itself is none."""
    data, *others = (data_manifest(each.name) for each in study.data_sets())
    jobs = [Job("prepare_data", file) for file in (data, *others)]
    probes: list[Job] = []
    for group in study.groups():
        chains = [[*_chain(name, study, run, data)] for run in group]
        asked = [[*_probes(name, study, run, (data, *others))] for run in group]
        stretches = study.stretches(group[0])
        jobs += _together(chains, stretches) if study.grouped else chains[0]
        probes += _together(asked, stretches) if study.grouped else asked[0]
    for foreign in study.imported():
        jobs += _chain(name, study, foreign, data)
        probes += _probes(name, study, foreign, (data, *others))
    files = {
        run.name: [probe_file(name, run, epoch) for epoch in study.milestones_of(run)]
        for run in study.runs()
    }
    records = [Job("record", record_file(name, run), (*probed,)) for run, probed in files.items()]
    table, effects = (RESULTS / name / file for file in ("probes.csv", "effects.csv"))
    return [
        *jobs,
        *probes,
        *records,
        Job("collect", table, tuple(job.file for job in records)),
        Job("analyse", effects, (table,)),
        Job("report_study", _report(name), (table, effects)),
        Job("ledger", REPORTS / LEDGER[0], (effects,)),
    ]


def _report(name: str) -> Path:
    """One of the report's files, for all."""
    return REPORTS / name / REPORTED[0]


def _chain(name: str, study: Study, run: Run | ForeignRun, data: Path) -> Iterator[Job]:
    """The jobs that make a run's milestones."""
    folder = of_run("checkpoints", name, run.name)
    before: tuple[int, Path] | None = None
    for epoch in study.milestones_of(run):
        file = milestone_path(folder, epoch, ".json")
        if isinstance(run, ForeignRun):
            yield Job("import_weights", file, (data,), run, epoch)
            continue
        if study.milestones_from:
            yield Job("take_milestone", file, (), run, epoch)
            continue
        parent, after = before or (0, data)
        last = epoch == study.milestones_of(run)[-1]
        yield Job("pretrain", file, tuple({after, data}), run, epoch, epoch - parent)
        if run.cooldown_epochs and epoch:
            branch = milestone_path(folder / COOLED, epoch, ".json")
            yield Job("cool_down", branch, (file, data), run, epoch, run.cooldown_epochs)
        before = None if last else (epoch, file)


def _probes(name: str, study: Study, run: Run | ForeignRun, data: Sequence[Path]) -> Iterator[Job]:
    """The jobs that probe a run's milestones."""
    for epoch in study.milestones_of(run):
        milestone = probed_milestone(name, run, epoch)
        yield Job("probe", probe_file(name, run, epoch), (milestone, *data), run, epoch)


def _together(chains: Sequence[list[Job]], stretches: Iterable[tuple[int, ...]]) -> Iterator[Job]:
    """The jobs of a group of runs, in which one job makes or probes a stretch of all of them."""
    for stretch in stretches:
        jobs = [job for turn in zip(*chains, strict=True) for job in turn if job.epoch in stretch]
        for rule in dict.fromkeys(job.rule for job in jobs):
            alike = [job for job in jobs if job.rule == rule]
            yield from _in_one(alike) if rule in ("pretrain", "probe") else alike


def _in_one(jobs: Sequence[Job]) -> Iterator[Job]:
    """Jobs that one job does: what one of them waits for, its own first, all wait for, but for what
    they make themselves."""
    makes = dict.fromkeys(job.file for job in jobs)
    others = [file for job in jobs for file in job.after if file not in makes]
    for job in jobs:
        yield replace(job, after=tuple(dict.fromkeys((*job.after, *others))), makes=tuple(makes))


def submissions(jobs: Sequence[Job]) -> list[Job]:
    """The jobs as they are submitted: those of seeds and milestones that go together are one.

    It is known by the first file that it makes, and is of the last milestone.
    """
    by_file = {job.file: job for job in jobs}
    leads = {file: job.makes[0] for job in jobs for file in job.makes}
    return [
        _submission(job, [by_file[file] for file in job.makes], leads)
        for job in jobs
        if leads.get(job.file, job.file) == job.file
    ]


def _submission(job: Job, makes: Sequence[Job], leads: Mapping[Path, Path]) -> Job:
    in_turn = [part for part in makes if part.run == job.run] or [job]
    return replace(
        job,
        after=tuple(dict.fromkeys(leads.get(file, file) for file in job.after)),
        epoch=in_turn[-1].epoch,
        epochs=sum(part.epochs for part in in_turn),
    )


def step_file(name: str, job: Job, suffix: str) -> Path:
    """The log or benchmark of a job's step (`.log`, `.tsv`), as workflow/rules names it."""
    first, *others = runs_of(job)
    folder = "_".join([first, *(run.removeprefix(f"{stem_of(job)}-s") for run in others)])
    rule = "import" if job.rule == "import_weights" else job.rule
    *_, last = (job.file, *job.makes)
    return Path("logs") / name / rule / folder / f"{last.stem}{suffix}"


def runs_of(job: Job) -> list[str]:
    """The names of the runs that a job works on."""
    together = dict.fromkeys(file.parent.name for file in job.makes)
    return list(together) or ([job.run.name] if job.run else [])


def rule_of(study: str, job: Job) -> str:
    """The rule in workflow/rules that does a job."""
    if not job.makes:
        return job.rule
    seeds = [int(run.removeprefix(f"{stem_of(job)}-s")) for run in runs_of(job)]
    return group_rule(job.rule, study, seeds, int(job.makes[-1].stem.removeprefix("epoch_")))


def group_rule(rule: str, study: str, seeds: Iterable[int], last: int) -> str:
    """The rule of seeds and milestones, up to the last, that go together."""
    named = study.replace("/", ".")
    return f"{rule}_{named}_s{'_'.join(map(str, seeds))}_epoch_{last:04d}"


def stem_of(job: Job) -> str:
    """What the names of runs have in common that are trained together: all but their seeds."""
    return job.run.name.removesuffix(f"-s{job.run.seed}") if job.run else ""


def targets(name: str, study: Study) -> set[Path]:
    """What `snakemake all` asks for: report and ledger, and the last checkpoint of each run."""
    last = {probed_milestone(name, run, study.milestones_of(run)[-1]) for run in study.runs()}
    return {_report(name), REPORTS / LEDGER[0], *last}


def to_run(
    jobs: Sequence[Job], targets: set[Path], stale: Iterable[Path], present: Callable[[Path], bool]
) -> set[Path]:
    """Which jobs Snakemake would run, by their files.

    Those of missing targets and stale files; whatever waits for one that runs; and whatever one
    that runs waits for, if its file is missing.
    """
    by_file = {job.file: job for job in jobs}
    waiting = defaultdict(list)
    for job in jobs:
        for file in job.after:
            waiting[file].append(job.file)
    files = {file for file in targets if not present(file)} | set(stale)
    stack = list(files)
    while stack:
        file = stack.pop()
        missing = [f for f in by_file[file].after if f not in files and not present(f)]
        for other in (*missing, *waiting[file], *by_file[file].makes):
            if other not in files:
                files.add(other)
                stack.append(other)
    return files


def stale_milestones(name: str, jobs: Sequence[Job]) -> dict[Path, str]:
    """Milestones that are here and do not belong to the study as it is now, with the reason.

    Those that follow from them are left out: `to_run` finds them.
    """
    from barlow_atlas.data.prepared import sha256_of  # loads numpy, which takes a while

    manifests = {
        job.file: read_json(job.file)
        for job in jobs
        if job.rule in MILESTONES and job.file.is_file()
    }
    lineages = {content.get("lineage"): file for file, content in manifests.items()}
    data = next(job.file for job in jobs if job.rule == "prepare_data")
    data_sha256 = sha256_of(data) if data.is_file() else None
    described: dict[str, dict[str, Any]] = {}
    reasons = {}
    for job in jobs:
        if job.file not in manifests or job.run is None:
            continue
        content, run = manifests[job.file], job.run
        trainer = content.get("study", name)
        made_by = standing(trainer, content.get("sources_sha256", ""))
        described.setdefault(run.name, run.model_dump(mode="json"))
        changed = sorted(
            key
            for key in {*described[run.name], *content.get("run", {})}
            if described[run.name].get(key) != content.get("run", {}).get(key)
        )
        parent = next((file for file in job.after if file != data), None)
        trained_from = lineages.get(content.get("parent"))
        if changed:
            reasons[job.file] = f"other parameters: {', '.join(changed)}"
        elif made_by != standing(trainer, training_code(run)):
            reasons[job.file] = "other code"
        elif data_sha256 and content.get("data_sha256") != data_sha256:
            reasons[job.file] = "other data"
        elif parent and trained_from and trained_from != parent:
            reasons[job.file] = (
                f"trained from {trained_from.stem}, the study now puts {parent.stem} between"
            )
        elif parent in manifests and trained_from is None:
            reasons[job.file] = f"trained from another {parent.stem} than is here"
    return reasons


def read_json(manifest: Path) -> dict[str, Any]:
    """The object in a manifest or probe file; an empty one if it is damaged."""
    try:
        content = json.loads(manifest.read_bytes())
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
