"""What a study keeps on disk, and what its jobs need in memory."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from barlow_atlas.probes.signals import CORNER
from barlow_atlas.study.models import ForeignRun, Run, Study
from barlow_atlas.study.sizes import data_bytes, sizes_of, target_sizes
from barlow_atlas.tools.costs import MEGABYTE
from barlow_atlas.tools.footprint import footprint
from barlow_atlas.workflow.jobs import Job

PROGRAM_MB = 350
"""A job's program before it holds any image: peak resident memory of the demo's epoch 0, CPU."""
VIEWS_AHEAD = 3
"""Batches whose views a loader of originals holds: `data.loader.AHEAD` and the present one."""
SAVED_STATES = 2
"""Private states that an unfinished segment keeps, and milestones of a run that keep theirs."""


@dataclass(frozen=True)
class Storage:
    """Bytes on disk, of what a study keeps and of what it needs while it runs."""

    data: int
    weights: int
    states: int
    probes: int
    resume: int
    """Private states, and second copies of milestones, while jobs run; at most."""

    @property
    def kept(self) -> int:
        """Once all is done."""
        return self.data + self.weights + self.states + self.probes

    @property
    def total(self) -> int:
        """At most, while it runs."""
        return self.kept + self.resume


def storage_of(study: Study, jobs: Sequence[Job], at_once: int) -> Storage:
    """What a study takes, done or to be done. Raw files and downloads are not in it."""
    weights = states = largest = probes = 0
    for run in study.trained():
        one = footprint(run)
        milestones = len(study.milestones_of(run))
        branches = milestones - 1 if run.cooldown_epochs else 0
        weights += (milestones + branches) * one.weights
        if study.milestones_from is None:
            states += one.state * (milestones if branches else min(SAVED_STATES, milestones))
            copies = study.milestones_together - 1
            largest = max(largest, SAVED_STATES * one.state + copies * one.weights)
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
        resume=at_once * study.seeds_together * largest,
    )


def probe_bytes(study: Study, run: Run | ForeignRun) -> int:
    """Bytes of one probe file: the run, and for each probe and split its settings and answers."""
    sizes = sizes_of(study, run)
    splits = [count for count in (sizes.validation, sizes.test) if count]
    probes = [probe for probe in study.probes.asked() if not probe.data_sets(study.image_size)]
    answers = sum(len(probe.variants) for probe in probes)
    described = len(json.dumps(run.model_dump(mode="json"), indent=1))
    # Answers are bits in base64; a record around them has about 400 bytes, the file's head with its
    # hashes 1,300, the label-free signals of a space and a split 900. Correlations are bytes.
    split_bytes = sum(400 + count // 6 for count in splits) * answers
    targets = sum(
        400 + count // 6 for one in target_sizes(study) for count in (one.validation, one.test)
    )
    spaces = 2 if isinstance(run, Run) else 1
    corner = 4 * min(CORNER, run.embedding_dim or CORNER) ** 2 // 3
    return 1300 + described + split_bytes + targets + 2 * 900 * spaces + corner


def memory_mb(study: Study, run: Run, together: int, kept_mb: float | None) -> float:
    """Memory of a node, in MB, that training needs at least: programs, states and images or steps.

    Images lie there while they are copied to a GPU; on a CPU they stay in their files. Of
    originals only the views that are on their way do. A step's tensors lie on the device.

    Args:
        together: runs that a job trains in turn.
        kept_mb: what a process keeps of a step for its backward pass; None: not measured.
    """
    sizes = sizes_of(study, run)
    states = 2 * footprint(run).state * max(1, together) / MEGABYTE
    if sizes.stored_size is None:
        images = VIEWS_AHEAD * run.batch_size * 2 * 3 * run.image_size**2 / MEGABYTE
    else:
        images = sizes.pretraining * 3 * sizes.stored_size**2 / MEGABYTE
    process_mb = PROGRAM_MB + states + (images if study.resources.pretrain.gpu else kept_mb or 0.0)
    return study.resources.pretrain.processes_per_node * process_mb
