"""Measures what `plan` needs: real training steps, and the probes of an untrained milestone."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from barlow_atlas.data.batches import Resident
from barlow_atlas.nn.devices import device_for
from barlow_atlas.steps.probe import asked
from barlow_atlas.store.provenance import device_name
from barlow_atlas.store.snapshot import write_milestone
from barlow_atlas.study.errors import StudyError
from barlow_atlas.study.models import Run, Study
from barlow_atlas.study.paths import milestone_path
from barlow_atlas.study.sizes import sizes_of
from barlow_atlas.tools.costs import MEGABYTE, Measurement, probes_shape, processor, step_shape
from barlow_atlas.tools.footprint import kept_for_backward
from barlow_atlas.training.loop import State, initial_state, train

SECONDS = 5.0
"""How long one thing is measured at least, unless it was repeated MOST times before."""
MOST = 100
STARTS = 3
"""How often the start of a program is measured."""


def measure(name: str, study: Study, device: str | None, command: str) -> Iterator[Measurement]:
    """Times a step of each shape among a study's runs, a program's start, and the probes.

    Args:
        device: such as "cuda"; None: a GPU if there is any.

    Raises:
        StudyError: nothing is trained.
        DataError: the steps are measured, and the images that are to be probed are not prepared.
    """
    trained = study.trained()
    if not trained:
        raise StudyError(f"{name} trains nothing that could be timed")
    place = device_for(device, study.threads)
    about: dict[str, Any] = {
        "study": name,
        "device": device_name(place),
        "processor": processor(),
        "threads": study.threads,
        "python": platform.python_version(),
        "torch": version("torch"),
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
    }
    shapes = {step_shape(run).model_dump_json(): run for run in reversed(trained)}
    for run in reversed(shapes.values()):
        # Of originals, whose decoding goes on beside the steps, squares as the network sees them.
        side = sizes_of(study, run).stored_size or run.image_size
        state, steps = training(run, side, place)
        step = partial(next, steps)
        step()
        kept = sum(kept_for_backward(state, step))
        yield Measurement(
            shape=step_shape(run),
            run=run.name,
            kept_mb=round(kept / MEGABYTE, 3),
            **_timed(step, place, study.threads, 3),
            **about,
        )
    starts = [_start_seconds() for _ in range(STARTS)]
    yield Measurement(
        shape=None, run="", kept_mb=None, seconds=_lower_quartile(starts), repeated=STARTS, **about
    )
    kinds = {probes_shape(study, run).model_dump_json(): run for run in reversed(trained)}
    for run in reversed(kinds.values()):
        with TemporaryDirectory() as folder:
            milestone = _untrained(Path(folder), name, run)
            probe = partial(asked, name, study, run, 0, milestone, device)
            yield Measurement(
                shape=probes_shape(study, run),
                run=run.name,
                kept_mb=None,
                **_timed(probe, place, study.threads, 1),
                **about,
            )


def training(run: Run, size: int, device: torch.device) -> tuple[State, Iterator[Any]]:
    """A fresh state and the endless steps of its training on noise, 8 steps an epoch."""
    state = initial_state(run, device)
    shape = (8 * run.batch_size, 3, size, size)
    images = torch.empty(shape, dtype=torch.uint8, device=device).random_(0, 256)
    labels = torch.zeros(len(images), dtype=torch.int64)
    return state, train(run, state, Resident(images), until=sys.maxsize, labels=labels)


def _untrained(folder: Path, study: str, run: Run) -> Path:
    """The manifest of the run's epoch 0, made in a folder."""
    write_milestone(
        folder,
        study=study,
        run=run,
        epoch=0,
        parent=None,
        weights=initial_state(run, torch.device("cpu")).network.state_dict(),
        state=None,
        data_sha256="",
        sources_sha256="",
        made_by={},
    )
    return milestone_path(folder, 0, ".json")


def _timed(
    computation: Callable[[], object], device: torch.device, threads: int, least: int
) -> dict[str, Any]:
    """`seconds` and `repeated` of a `Measurement`.

    One thread's time is taken by the processor's clock, which other programs disturb less: beside
    five of them a step of the demo took 2.3 times as long as alone, so leave the machine idle.
    """
    alone = device.type == "cpu" and threads == 1
    clock = time.process_time if alone else time.perf_counter
    times: list[float] = []
    while len(times) < least or (sum(times) < SECONDS and len(times) < MOST):
        synchronise(device)
        began = clock()
        computation()
        synchronise(device)
        times.append(clock() - began)
    return {"seconds": _lower_quartile(times), "repeated": len(times)}


def _start_seconds() -> float:
    """Processor seconds of a program that imports what a job imports."""
    before = os.times()
    imports = "import barlow_atlas.steps.pretrain, barlow_atlas.steps.probe"
    subprocess.run([sys.executable, "-c", imports], check=True)
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


def _lower_quartile(times: Sequence[float]) -> float:
    return float(f"{np.quantile(times, 0.25):.4g}")


def synchronise(device: torch.device) -> None:
    """Waits until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
