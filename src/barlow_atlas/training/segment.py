"""Segments of runs, from a milestone to the next, kept safe from interruption.

Of several processes that train a run, the first alone holds its lock, reads and writes; all of them
come to the same state, stop at the same step, and are compared before anything is stored.

What happens to the weights is in `loop.py`.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from barlow_atlas.data.batches import Images, images_for
from barlow_atlas.data.image_set import ImageSet
from barlow_atlas.data.originals import OriginalSet
from barlow_atlas.nn import processes
from barlow_atlas.nn.networks import Network
from barlow_atlas.store import snapshot
from barlow_atlas.store.lock import RunLock
from barlow_atlas.store.provenance import device_name, made_by
from barlow_atlas.store.snapshot import Manifest, ResumeFolder, SnapshotError
from barlow_atlas.study.models import Run
from barlow_atlas.study.paths import COOLED, milestone_path
from barlow_atlas.training.loop import (
    NonFiniteLoss,
    PretrainError,
    Progress,
    State,
    initial_state,
    train,
)


class Interrupted(Exception):
    """The segment was asked to stop; whoever catches it from here finds its state saved."""


@dataclass(frozen=True)
class Segment:
    """One job: train `run` from one milestone to the next, and where its files lie.

    A segment of `cooldown` epochs is a branch: it starts from the milestone `parent`, which is also
    the `until` it is known by, anneals the rate over that many epochs and stores no state.
    """

    study: str
    run: Run
    parent: int | None
    until: int
    cooldown: int
    checkpoints: Path
    training: Path
    resume: Path
    data_sha256: str
    sources_sha256: str
    accumulate: bool = False
    """Whether the parts of `run.local_statistics` pass one after another, to need less memory."""

    @property
    def end(self) -> int:
        """The epoch at which training stops, cool-down included."""
        return self.until + self.cooldown

    @property
    def milestones(self) -> Path:
        """Where this segment's milestone is stored; its parent lies in `checkpoints`."""
        return self.checkpoints / COOLED if self.cooldown else self.checkpoints


class Monitor:
    """Whoever watches a segment; this one is silent and never asks to stop."""

    def say(self, line: str) -> None:
        """A line worth reading."""

    def step(self, progress: Progress) -> None:
        """Called after every step; reading `progress.terms` waits for the device."""

    def stop_requested(self) -> bool:
        """Whether the segment should save its state and end."""
        return False


def pretrain_together(
    segments: Sequence[Segment],
    images: ImageSet | OriginalSet,
    device: torch.device,
    save_every: float,
    monitors: Sequence[Monitor],
    labels: Tensor | None = None,
) -> list[Manifest]:
    """Trains segments of several runs, a step of each in turn, and stores their milestones.

    Nothing passes between the runs: each becomes what it would become alone, on a CPU to the bit.
    On a GPU each has a stream of its own, so that kernels of networks too small for the device run
    side by side.

    Once all are trained, each has a private state of its end, so that none is trained again if the
    others cannot be stored. Then the training metrics of each are stored, one JSON line for each
    epoch of the segment, and its milestone, whose manifest comes last of all. If one run stops
    before that, for whatever reason, the others save their private states.

    Args:
        images: those of pre-training, the same for all.
        save_every: seconds between two private states of a run.
        monitors: one for each segment.
        labels: of the images, int64 (n,) on the CPU, -1 for none, where a classifier is trained
            along.

    Raises:
        PretrainError: too few images, a batch that the processes cannot share, or a loss that is
            not finite.
        Divergence: processes whose states should be equal and are not.
        PeerLost: another process does not answer any more.
        SnapshotError: a checkpoint that is missing, damaged or exchanged meanwhile.
        WriteError: a file that cannot be written.
        LockError: another trainer holds one of the runs.
        Interrupted: when asked to stop; the same call goes on from there.
    """
    for segment in segments:
        if len(images) < segment.run.batch_size:
            raise PretrainError(
                f"{len(images)} images are fewer than one batch of {segment.run.batch_size}: "
                "lower batch_size or use a larger fraction of the data"
            )
        if fault := segment.run.fault_of_processes(processes.count()):
            raise PretrainError(fault)
    pixels = images_for(images, device)
    alone = len(segments) == 1 or device.type != "cuda"
    with ExitStack() as stack:
        locks = _locked(segments, monitors, stack)
        trainers = [
            _Trainer(
                segment,
                pixels,
                labels,
                save_every,
                monitor,
                lock,
                None if alone else torch.cuda.Stream(device),
            )
            for segment, monitor, lock in zip(segments, monitors, locks, strict=True)
        ]
        _train_in_turn(trainers)
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # files are written from the default stream
        for trainer in trainers:
            trainer.save()
        manifests = [trainer.store() for trainer in trainers]
        for trainer in trainers:
            trainer.clear()
        return manifests


def _locked(
    segments: Sequence[Segment], monitors: Sequence[Monitor], stack: ExitStack
) -> list[RunLock]:
    """A lock for each segment, held by the leading process until `stack` is left."""
    locks = [
        RunLock(segment.resume, monitor.say, _pause(monitor))
        for segment, monitor in zip(segments, monitors, strict=True)
    ]
    stopped: Interrupted | None = None
    if processes.leads():
        try:
            for lock in locks:
                stack.enter_context(lock)
        except Interrupted as error:
            stopped = error
    if any(processes.any_of(stopped is not None)):
        raise stopped or Interrupted("stopped before it began")
    return locks


def _pause(monitor: Monitor) -> Callable[[float], None]:
    """How to wait for a lock: no longer than until asked to stop."""

    def pause(seconds: float) -> None:
        if monitor.stop_requested():
            raise Interrupted("stopped before it began")
        time.sleep(seconds)

    return pause


def _train_in_turn(trainers: "Sequence[_Trainer]") -> None:
    """Brings all to the end of their segments; if one cannot go on, the others save their states.

    One that was asked to stop saves its own as well. Whoever is at its end waits, so that a job
    that is interrupted has stored either all of its milestones or none.
    """
    going = list(trainers)
    while going:
        for trainer in list(going):
            try:
                if not trainer.step():
                    going.remove(trainer)
            except Exception as error:
                # Several processes can save only what has happened to all of them.
                common = isinstance(error, Interrupted | PretrainError)
                with ExitStack() as saving:  # each is tried, whatever becomes of the others
                    for other in trainers if common or processes.count() == 1 else ():
                        if other is not trainer or isinstance(error, Interrupted):
                            saving.callback(other.save)
                raise


class _Trainer:
    """A segment that is trained, a step at a time, while its lock is held.

    It begins with the newest state of the segment: a private one, else the parent's, else the seed.
    """

    def __init__(
        self,
        segment: Segment,
        images: Images,
        labels: Tensor | None,
        save_every: float,
        monitor: Monitor,
        lock: RunLock,
        stream: torch.cuda.Stream | None,
    ) -> None:
        self.segment = segment
        self.images = images
        self.save_every = save_every
        self.monitor = monitor
        self.lock = lock
        self.stream = stream
        self.resume = ResumeFolder(segment.resume)
        self.seconds = 0.0
        if processes.leads():
            _remove_rests(segment)
        self.parent = _read_parent(segment)
        with self._turn():
            self.state = initial_state(segment.run, images.device)
            self.state.network.accumulates = segment.accumulate
            if self.parent is not None:
                self._go_on_from_stored(self.parent)
        self._steps = _steps(segment, self.parent, self.state, images, labels)
        self._saved = time.monotonic()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """While it computes: on a stream of its own if there are others, and by the clock."""
        began = time.monotonic()
        with torch.cuda.stream(self.stream):
            yield
        self.seconds += time.monotonic() - began

    def _go_on_from_stored(self, parent: Manifest) -> None:
        say = self.monitor.say
        stored = None
        if processes.leads():
            stored = self.resume.newest(_history(self.segment, parent), say)
            stored = stored or _parent_state(self.segment, parent, say)
        stored = processes.state_of_leader(stored)
        if stored is not None:
            self.state.load_dict(stored)
            say(f"continues at epoch {self.state.epoch}, step {self.state.step}")

    def step(self) -> bool:
        """Takes a step, and saves when it is time; False if there is none left.

        Raises:
            PretrainError: the loss is not finite.
            SnapshotError: a chain that was trained again does not meet the parent.
            WriteError: a state that cannot be written.
            Interrupted: when asked to stop.
        """
        with self._turn():
            progress = next(self._steps, None)
            if progress is None:
                return False
            self.monitor.step(progress)
            due = processes.leads() and time.monotonic() - self._saved > self.save_every
            stop, save = processes.any_of(self.monitor.stop_requested(), due)
            if stop:
                place = f"epoch {self.state.epoch}, step {self.state.step}"
                raise Interrupted(f"stopped at {place}; state saved")
            if save:
                self.save()
                self._saved = time.monotonic()
            return True

    def save(self) -> None:
        """Stores a private state; none of an untrained network, which takes no time to make."""
        if self.parent is None:
            return
        with torch.cuda.stream(self.stream):
            state = self.state.to_dict()
            processes.must_be_equal(state)
            if processes.leads():
                self.lock.check()
                steps = len(self.images) // self.segment.run.batch_size
                total = self.state.epoch * steps + self.state.step
                self.resume.write(_history(self.segment, self.parent), total, state)

    def store(self) -> Manifest:
        """Stores the training metrics and the milestone that the segment has reached."""
        processes.must_be_equal(self.state.to_dict())
        manifest = self._stored() if processes.leads() else None
        replica: Manifest = processes.state_of_leader(manifest)  # others wait until it is stored
        return replica

    def _stored(self) -> Manifest:
        segment, parent, state = self.segment, self.parent, self.state
        self.lock.check()
        if parent is not None:
            _must_still_be_there(segment, parent)
        rows = [row for row in state.history if parent and row["epoch"] > parent.epoch]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        snapshot.write_atomically(
            milestone_path(segment.training, segment.until, ".jsonl"), lines.encode()
        )
        return snapshot.write_milestone(
            segment.milestones,
            study=segment.study,
            run=segment.run,
            epoch=segment.until,
            parent=parent,
            weights=state.network.state_dict(),
            state=None if segment.cooldown else {**state.to_dict(), "history": []},
            cooldown_epochs=segment.cooldown,
            data_sha256=segment.data_sha256,
            sources_sha256=segment.sources_sha256,
            made_by=made_by(
                device_name(self.images.device),
                self.seconds,
                processes.count(),
                segment.accumulate,
            ),
        )

    def clear(self) -> None:
        """Removes the states that nothing goes on from, once the milestone is stored."""
        if not processes.leads():
            return
        self.resume.clear()
        if self.parent is not None and not self.segment.run.cooldown_epochs:
            kept = (self.parent.epoch, self.segment.until)
            snapshot.prune_states(self.segment.checkpoints, keep=kept)


def _steps(
    segment: Segment,
    parent: Manifest | None,
    state: State,
    images: Images,
    labels: Tensor | None,
) -> Iterator[Progress]:
    """The steps that are left, by way of the parent where its state is lost."""
    if parent is None:
        return
    try:
        if (state.epoch, state.step) <= (parent.epoch, 0):
            # Without its parent's state, a branch is preceded by the trunk as it was trained.
            yield from train(segment.run, state, images, parent.epoch, labels=labels)
            _must_equal_parent(segment, parent, state.network)
        annealed_from = parent.epoch if segment.cooldown else None
        yield from train(segment.run, state, images, segment.end, annealed_from, labels)
    except NonFiniteLoss as error:
        good = milestone_path(segment.checkpoints, parent.epoch, ".json")
        raise PretrainError(f"{error} The last good checkpoint is {good}") from error


def _remove_rests(segment: Segment) -> None:
    """Removes what earlier trainers of the segment left that were killed while they wrote."""
    milestone = milestone_path(segment.milestones, segment.until, "").name
    snapshot.remove_temporaries(segment.resume, "")
    for folder in (segment.training, segment.milestones):
        snapshot.remove_temporaries(folder, milestone)


def _history(segment: Segment, parent: Manifest) -> str:
    """What a private state of the segment follows from, as a lineage."""
    return snapshot.lineage(
        segment.run,
        parent.epoch,
        parent.weights_sha256,
        segment.data_sha256,
        segment.sources_sha256,
        parent.lineage,
    )


def _read_parent(segment: Segment) -> Manifest | None:
    """The manifest of the milestone before this one; None for the first, which is untrained."""
    if segment.parent is None:
        return None
    path = milestone_path(segment.checkpoints, segment.parent, ".json")
    read = snapshot.read_manifest_of(path, segment.run) if processes.leads() else None
    manifest: Manifest = processes.state_of_leader(read)
    return manifest


def _must_still_be_there(segment: Segment, parent: Manifest) -> None:
    """A milestone is stored only beside the one it was trained from.

    A checkout of other results, or a folder that was removed, would leave a chain with a gap.
    """
    path = milestone_path(segment.checkpoints, parent.epoch, ".json")
    advice = (
        f"Nothing was stored for epoch {segment.until}; bring the parent back or start the study "
        "again through Snakemake"
    )
    try:
        now = snapshot.read_manifest(path)
    except SnapshotError as error:
        raise SnapshotError(f"the parent changed during training: {error}. {advice}") from error
    if now.lineage != parent.lineage:
        raise SnapshotError(
            f"{path} changed during training: lineage {parent.lineage[:12]} when it began, now "
            f"{now.lineage[:12]} (a checkout of other results?). {advice}"
        )


def _parent_state(
    segment: Segment, parent: Manifest, say: Callable[[str], None]
) -> dict[str, Any] | None:
    """What the parent milestone ended with; None if it was removed or never came here."""
    path = milestone_path(segment.checkpoints, parent.epoch, ".state")
    try:
        stored = snapshot.read_state(path)
        if stored["lineage"] != parent.lineage:
            raise SnapshotError(f"{path} does not belong to the manifest beside it")
    except SnapshotError as error:
        snapshot.set_aside(path, error, say)
        say("training again from the seed, which must lead to the parent's weights")
        return None
    return stored


def _must_equal_parent(segment: Segment, parent: Manifest, network: Network) -> None:
    """A chain that was trained again must pass through the weights it claims as its parent."""
    if snapshot.weights_hash(network.state_dict()) != parent.weights_sha256:
        raise SnapshotError(
            f"training {segment.run.name} again did not lead to the weights of epoch "
            f"{parent.epoch} that are stored (another machine, device or number of processes?). "
            f"Bring epoch_{parent.epoch:04d}.state back, or remove {segment.checkpoints} to train "
            "the whole chain here"
        )
