"""One segment of a run, or of several that differ in their seeds."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from barlow_atlas.data.image_set import ImageSet
from barlow_atlas.data.originals import OriginalSet
from barlow_atlas.data.prepared import MANIFEST, Prepared, chosen, load, sha256_of
from barlow_atlas.nn import processes
from barlow_atlas.nn.devices import device_for
from barlow_atlas.study.errors import StudyError
from barlow_atlas.study.models import ForeignRun, PretrainResources, Run, Study
from barlow_atlas.study.paths import COOLED, DATA, RESULTS, of_run
from barlow_atlas.training import console, launch
from barlow_atlas.training.segment import Interrupted, Segment, pretrain_together
from barlow_atlas.workflow.sources import fingerprint


def pretrain(
    name: str, study: Study, runs: Sequence[str], until: int, device: str | None, save_every: float
) -> str | None:
    """Trains runs from the milestone before to `until`, continuing where they were left.

    Args:
        name: of the study.
        runs: names of runs that differ in their seeds at most.
        save_every: seconds between two saved states.

    Returns:
        Why it stopped before the end, its state saved; None if it is done.

    Raises:
        StudyError: no such runs, or runs that cannot be trained together.
    """
    trained = [_trained(study, run) for run in runs]
    if len({run.model_copy(update={"seed": 0}).model_dump_json() for run in trained}) > 1:
        raise StudyError(
            f"{', '.join(runs)} cannot be trained together: give runs that differ in their "
            "seeds only"
        )
    parent = study.parent(until)
    return _by_processes(
        study.resources.pretrain,
        ["pretrain", "--study", name, "--run", *runs, "--until", str(until)],
        device,
        save_every,
        lambda: _train(name, study, trained, parent, until, 0, device, save_every),
    )


def cool_down(
    name: str, study: Study, run: str, epoch: int, device: str | None, save_every: float
) -> str | None:
    """Anneals a milestone of a run whose schedule is `trunk`, in a branch of its own.

    Returns:
        As `pretrain`.

    Raises:
        StudyError: there is nothing to cool down.
    """
    trained = _trained(study, run)
    if not trained.cooldown_epochs or epoch not in study.milestones[1:]:
        raise StudyError(
            f"nothing to cool down: {trained.name} at epoch {epoch}. Branches belong to the "
            f"schedule trunk and to milestones after 0; milestones: {list(study.milestones)}"
        )
    cooldown = trained.cooldown_epochs
    return _by_processes(
        study.resources.pretrain,
        ["cool-down", "--study", name, "--run", run, "--epoch", str(epoch)],
        device,
        save_every,
        lambda: _train(name, study, [trained], epoch, epoch, cooldown, device, save_every),
    )


def _by_processes(
    asked: PretrainResources,
    step: Sequence[str],
    device: str | None,
    save_every: float,
    train: Callable[[], str | None],
) -> str | None:
    """Trains in this process, or in as many as the study asks for, which run the same step."""
    place = launch.seat(os.environ)
    if place is not None:
        with launch.joined(place):
            return train()
    per_node = asked.tasks_per_node or launch.one_for_each_gpu(asked.gpu, device)
    if asked.nodes * per_node == 1:
        return train()
    words = [sys.executable, "-m", "barlow_atlas", *step, "--save-every", str(save_every)]
    words += ["--device", device] if device else []
    stopped = launch.run_processes(words, asked.nodes, per_node)
    return "stopped, the state saved" if stopped else None


def _trained(study: Study, name: str) -> Run:
    run = study.run(name)
    if isinstance(run, ForeignRun):
        raise StudyError(f"{name} is made of foreign weights, which are imported and not trained")
    return run


def _train(
    name: str,
    study: Study,
    runs: Sequence[Run],
    parent: int | None,
    until: int,
    cooldown: int,
    device: str | None,
    save_every: float,
) -> str | None:
    run, *_ = runs
    folder = DATA / run.data.name
    prepared = load(folder)
    images, labels = pretraining_images(run, prepared), pretraining_labels(run, prepared)
    code = fingerprint("pretrain", [type(run.settings)])
    data_sha256 = sha256_of(folder / MANIFEST)
    accumulate = study.resources.pretrain.accumulate
    segments = [
        replace(
            segment(name, run, parent, until, cooldown, data_sha256, code), accumulate=accumulate
        )
        for run in runs
    ]
    place = device_for(device, run.threads)
    with console.StopSignals() as signals, console.Board(segments, signals) as board:
        try:
            pretrain_together(segments, images, place, save_every, board.monitors, labels)
        except Interrupted as interruption:
            heard = signals.received  # None where another process heard it
            stopped = f"{interruption} ({heard.name})" if heard else str(interruption)
            board.say(stopped)
            return stopped if processes.leads() else None
    return None


def pretraining_images(run: Run, prepared: Prepared) -> ImageSet | OriginalSet:
    """What a run is trained on: its share of the training images, and of those without labels."""
    selected = prepared.select(run.protocol, run.data.fraction)
    parts = [(prepared.train_images, selected.pretraining)]
    if prepared.unlabeled_images is not None:
        parts.append((prepared.unlabeled_images, selected.pretraining_unlabeled))
    return chosen(*parts)


def pretraining_labels(run: Run, prepared: Prepared) -> Tensor | None:
    """Classes of `pretraining_images`, int64 (n,), -1 where there is none, for a classifier.

    None where the run trains none.

    Raises:
        StudyError: the run expects another number of classes.
    """
    if run.online_linear is None:
        return None
    classes = len(prepared.manifest.classes)
    if classes != run.online_linear.classes:
        raise StudyError(
            f"{run.name}: online_linear.classes is {run.online_linear.classes}, but "
            f"{run.data.name} has {classes}"
        )
    selected = prepared.select(run.protocol, run.data.fraction)
    labels = torch.from_numpy(prepared.train_labels[selected.pretraining])
    return torch.cat([labels, labels.new_full((len(selected.pretraining_unlabeled),), -1)])


def segment(
    study: str,
    run: Run,
    parent: int | None,
    until: int,
    cooldown: int,
    data_sha256: str,
    sources_sha256: str,
) -> Segment:
    """The segment of a run in its study's folders."""
    training = of_run("training", study, run.name)
    resume = RESULTS / "resume" / study / run.name
    return Segment(
        study=study,
        run=run,
        parent=parent,
        until=until,
        cooldown=cooldown,
        checkpoints=of_run("checkpoints", study, run.name),
        training=training / COOLED if cooldown else training,
        resume=resume / f"{COOLED}_{until:04d}" if cooldown else resume,
        data_sha256=data_sha256,
        sources_sha256=sources_sha256,
    )
