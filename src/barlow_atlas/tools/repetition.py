"""What git has of a study, and was trained here again: the same numbers, or what differs."""

import json
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from barlow_atlas.atlas.records import (
    OF_WEIGHTS,
    Record,
    RecordError,
    decoded,
    recorded,
    same_numbers,
)
from barlow_atlas.store.adoptions import standing
from barlow_atlas.study.models import ForeignRun, Run, Study
from barlow_atlas.study.paths import REPORTS, RESULTS, probed_milestone, record_file

OF_ONE_TRAINING = ("code", "seconds", "libraries")
"""Of who made a checkpoint, what differs each time, and what is told one by one."""


class Repetition(NamedTuple):
    """A run as the last commit has it, and as it came out here."""

    published: Record
    here: Record


def told(name: str, study: Study) -> str:
    """In a sentence, what came of training again what git has of a study; else nothing."""
    repetitions = [one for run in study.runs() if (one := _repetition(name, run))]
    others = [one for one in repetitions if not same_numbers(*one)]
    if others:
        return (
            f"Other numbers than published here ({_differences(name, others[0])}); "
            f"`git checkout -- {RESULTS / name} {REPORTS}` brings those back"
        )
    return "The same numbers as published here: they are reproduced" if repetitions else ""


def _repetition(name: str, run: Run | ForeignRun) -> Repetition | None:
    """A run that git has, if its record is of the weights here, and they were not pulled."""
    committed = _committed(record_file(name, run.name))
    if committed is None:
        return None
    # Of a record of an earlier format nothing can be said, nor of a milestone that is not here.
    with suppress(RecordError, OSError, ValueError):
        published = decoded(committed, name, run)
        epoch = max(published.milestones, default=-1)
        manifest = json.loads(probed_milestone(name, run, epoch).read_bytes())
        here = recorded(name, run)
        if epoch not in here.milestones:
            return None
        theirs, ours = (one.milestones[epoch]["checkpoint"] for one in (published, here))
        is_recorded = all(manifest.get(key) == ours.get(key) for key in OF_WEIGHTS)
        if is_recorded and manifest.get("made_by") != theirs.get("made_by"):
            return Repetition(published, here)
    return None


def _committed(file: Path) -> bytes | None:
    """A file's content in the last commit; None if it is not there, or there is no git."""
    with suppress(FileNotFoundError):
        command = ("git", "show", f"HEAD:./{file}")
        done = subprocess.run(command, capture_output=True, check=False)
        return done.stdout if done.returncode == 0 else None
    return None


def _differences(name: str, repetition: Repetition) -> str:
    """What two trainings of a run are known to differ in."""
    published, here = repetition
    epoch = max(published.milestones)
    then, now = (one.milestones[epoch] for one in repetition)
    made, makes = (one["checkpoint"] for one in (then, now))
    codes = {standing(name, one.get("sources_sha256", "")) for one in (made, makes)}
    others = {
        "other parameters": published.run != here.run,
        "other images": made.get("data_sha256") != makes.get("data_sha256"),
        "other code": len(codes) > 1,
        "other probes": then.get("asked") != now.get("asked"),
    }
    first, second = (_circumstances(one.get("made_by", {})) for one in (made, makes))
    circumstances = [
        f"{what} {first[what]} there, {second[what]} here"
        for what in first
        if what in second and first[what] != second[what]
    ]
    different = [what for what, differs in others.items() if differs] + circumstances
    return ", ".join(different) or "same code, same versions: processors round differently"


def _circumstances(made_by: Mapping[str, Any]) -> dict[str, str]:
    """Versions, device and the like, as a checkpoint names them."""
    once = {key: value for key, value in made_by.items() if key not in OF_ONE_TRAINING}
    return {what: str(value) for what, value in (once | made_by.get("libraries", {})).items()}
