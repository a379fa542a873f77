"""The detectors of milestones, trained by several processes; the step `probe` goes on from there.

Detectors alone are trained so. What the processes leave is the state that a `probe` leaves which is
ended after its last iteration; one process then evaluates, and asks all other probes.
"""

import os
import sys
from collections.abc import Callable, Sequence

from barlow_atlas.data.prepared import load
from barlow_atlas.nn.devices import device_for
from barlow_atlas.nn.networks import build
from barlow_atlas.nn.randomness import generator
from barlow_atlas.probes.detection import Detection
from barlow_atlas.probes.milestone import Milestone
from barlow_atlas.steps.probe import follows_from
from barlow_atlas.store.snapshot import read_manifest_of, read_weights
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import DATA, FEATURES, probed_milestone
from barlow_atlas.training import launch
from barlow_atlas.training.console import StopSignals


def train(
    name: str, study: Study, runs: Sequence[str], epoch: int, device: str | None
) -> str | None:
    """Trains the detectors of milestones by as many processes as the study asks for, if several.

    Each of them calls this as well, with a seat of its own.

    Returns:
        Why it stopped before the end, its state saved; None if there is nothing left to train.

    Raises:
        StudyError: no such run.
        SnapshotError: the milestone is missing, damaged or another run's.
        LaunchError: processes that cannot be started.
        ProcessFailed: one of them failed, as by `Detection.train`.
    """
    seat = launch.seat(os.environ)
    if seat is not None:
        with launch.joined(seat), StopSignals() as signals:
            ended = _trained(name, study, runs, epoch, device, lambda: bool(signals.received))
        return None if ended else "stopped, the state saved"
    asked = study.resources.probe
    per_node = asked.tasks_per_node or launch.one_for_each_gpu(asked.gpu, device)
    if asked.nodes * per_node == 1:
        return None
    words = [sys.executable, "-m", "barlow_atlas", "probe", "--study", name, "--run", *runs]
    words += ["--epoch", str(epoch), *(["--device", device] if device else [])]
    stopped = launch.run_processes(words, asked.nodes, per_node)
    return "stopped, the state saved" if stopped else None


def _trained(
    name: str,
    study: Study,
    runs: Sequence[str],
    epoch: int,
    device: str | None,
    stop: Callable[[], bool],
) -> bool:
    """Whether all detectors of all runs came to their end."""
    detections = [probe for probe in study.probes.asked() if isinstance(probe, Detection)]
    return all(
        detection.train(_milestone(name, study, run, epoch, device), stop)
        for run in runs
        for detection in detections
    )


def _milestone(name: str, study: Study, run: str, epoch: int, device: str | None) -> Milestone:
    """What detectors look at of a milestone, as the step `probe` has it."""
    subject = study.run(run)
    checkpoint = probed_milestone(name, subject, epoch)
    manifest = read_manifest_of(checkpoint, subject)
    network = build(subject.architecture, generator(subject.seed, "weights"))
    network.load_state_dict(read_weights(checkpoint, manifest))
    place = device_for(device, subject.threads)
    _, *others = study.data_sets()
    return Milestone(
        network=network.to(place),
        subject=subject,
        splits={},
        classes=0,
        device=place,
        others={data_set.name: load(DATA / data_set.name) for data_set in others},
        kept=FEATURES / name / run / f"epoch_{epoch:04d}" / follows_from(manifest, study),
    )
