"""What the steps of a study cost: work that is counted, over rates that were measured.

Counting: one training step of a run, the very code that trains, is carried out on torch's `meta`
device, which computes no numbers. What it does is added up: operations started, floating-point
operations, bytes read and written. So every method is counted, also one that was added yesterday.

Measuring: `measure` times real steps on the present machine and appends to `benchmarks/costs.json`.
A device's rates (seconds an operation, a FLOP, a byte) are the non-negative least squares fit to
the relative errors of its measurements. A shape that was itself measured is not estimated.
"""

import contextlib
import functools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.fx.experimental._config as meta_settings
from scipy.optimize import nnls
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from barlow_atlas.data.batches import Resident
from barlow_atlas.errors import AtlasError
from barlow_atlas.nn.networks import build_backbone
from barlow_atlas.probes import linear
from barlow_atlas.probes.features import BATCH, extract
from barlow_atlas.probes.knn import chunk_size, knn_scores
from barlow_atlas.probes.settings import Linear
from barlow_atlas.probes.signals import MOST_IMAGES
from barlow_atlas.probes.subject import Subject
from barlow_atlas.probes.transfer import MIX_TRANSFER
from barlow_atlas.settings.frozen import Frozen
from barlow_atlas.store.provenance import device_name
from barlow_atlas.study.models import Probes, Run
from barlow_atlas.training.loop import State, initial_state, train

MEASUREMENTS = Path("benchmarks/costs.json")
META = torch.device("meta")
MEGABYTE = 1e6


class CostError(AtlasError):
    """Costs that cannot be known; the message says what is missing and what to do."""


@dataclass(frozen=True)
class Work:
    """What a computation asks of a machine."""

    ops: float = 0
    """Operations started (kernels, on a GPU); views of memory are none."""
    flops: float = 0
    """Floating-point operations of convolutions and matrix products."""
    bytes: float = 0
    """Bytes that the operations read and write."""

    def __add__(self, other: "Work") -> "Work":
        return Work(self.ops + other.ops, self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: float) -> "Work":
        return Work(self.ops * times, self.flops * times, self.bytes * times)


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations and the bytes of their arguments and results."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ops = 0
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.ops += 1
            touched = (leaf for leaf in tree_leaves((args, kwargs, result)))
            self.bytes += sum(leaf.nbytes for leaf in touched if isinstance(leaf, Tensor))
        return result


def count(computation: Callable[[], object]) -> Work:
    """The work of a computation, which is carried out on the device of its tensors."""
    with FlopCounterMode(display=False) as flops, _Traffic() as traffic:
        computation()
    return Work(traffic.ops, flops.get_total_flops(), traffic.bytes)


@dataclass(frozen=True)
class Footprint:
    """One training step of a run, and what the run keeps; sizes in bytes."""

    work: Work
    activations: int
    """What the step's forward pass keeps for its backward pass."""
    weights: int
    """The published weights of a milestone."""
    state: int
    """What training goes on from: weights, parts and optimizer."""


def footprint(run: Run, stored_size: int) -> Footprint:
    """Counts a step of the run on images stored at `stored_size` pixels a side.

    Runs that differ in seed or length have the same footprint.
    """
    plain = run.model_copy(update={"seed": 0, "compiled": False})
    return _footprint(plain.model_dump_json(), stored_size)


@functools.cache
def _footprint(run_json: str, stored_size: int) -> Footprint:
    run = Run.model_validate_json(run_json)
    try:
        # A mask on the meta device is taken to select everything.
        with meta_settings.patch(meta_nonzero_assume_all_nonzero=True):  # type: ignore[attr-defined]
            return _footprint_on(run, stored_size, META)
    except (NotImplementedError, RuntimeError, ValueError, TypeError):
        # Some operation of this method needs numbers: a real step, then.
        return _footprint_on(run, stored_size, torch.device("cpu"))


def _footprint_on(run: Run, stored_size: int, device: torch.device) -> Footprint:
    state, steps = training(run, stored_size, device)
    next(steps)  # the first step makes the optimizer's state
    held = {_storage(t): 0 for t in [*state.network.parameters(), *state.parts.parameters()]}
    saved: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in held:
            saved[_storage(tensor)] = tensor.untyped_storage()  # held, so that its key is its own
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        work = count(lambda: next(steps))
    return Footprint(
        work=work,
        activations=sum(storage.nbytes() for storage in saved.values()),
        weights=_nbytes(state.network.state_dict()),
        state=_nbytes(state.to_dict()),
    )


def training(run: Run, size: int, device: torch.device) -> tuple[State, Iterator[Any]]:
    """A fresh state and the endless steps of its training on noise, 8 steps an epoch."""
    state = initial_state(run, device)
    shape = (8 * run.batch_size, 3, size, size)
    images = torch.empty(shape, dtype=torch.uint8, device=device)
    if device.type != "meta":
        images.random_(0, 256)
    return state, train(run, state, Resident(images), until=sys.maxsize)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _nbytes(content: Any) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(content) if isinstance(leaf, Tensor))


# Probes


@dataclass(frozen=True)
class Sizes:
    """Numbers of images of a data set that a run and its probes see; no validation: 0."""

    pretraining: int
    probe_training: int
    validation: int
    test: int
    classes: int
    stored_size: int
    """Pixels a side."""


def probe_work(
    subject: Subject, probes: Probes, sizes: Sizes, targets: tuple[Sizes, ...] = ()
) -> Work:
    """The work of all probes of one milestone: features, neighbours, linear probes, transfer."""
    fixed = subject.model_copy(update={"seed": 0})
    return _probe_work(
        type(subject), fixed.model_dump_json(), probes.model_dump_json(), sizes, targets
    )


@functools.cache
def _probe_work(
    kind: type[Subject], subject_json: str, probes_json: str, sizes: Sizes, targets: tuple[Sizes]
) -> Work:
    subject = kind.model_validate_json(subject_json)
    probes = Probes.model_validate_json(probes_json)
    backbone, features = build_backbone(subject.backbone)
    probed = _Probed(subject, backbone.to(META), features, sizes)
    total = probed.extraction + probed.signals + probed.neighbours(probes)
    for settings in probes.linear:
        total += probed.training(settings, linear.FORMS[settings.form])
    if probes.transfer:
        settings = Linear(**probes.transfer.model_dump(exclude={"targets"}))
        for target in targets:
            own = replace(probed, sizes=target)
            total += own.extraction + own.training(settings, MIX_TRANSFER)
    return total


@dataclass(frozen=True)
class _Probed:
    """A backbone on the meta device and the images that its probes see."""

    subject: Subject
    backbone: torch.nn.Module
    features: int
    sizes: Sizes

    def images(self, n: int) -> np.ndarray:
        return np.zeros((n, 3, self.sizes.stored_size, self.sizes.stored_size), np.uint8)

    @property
    def forward(self) -> Work:
        """Of one image, extracted in whole batches."""
        images = self.images(BATCH)
        return count(lambda: extract(self.backbone, self.subject, images, META)) * (1 / BATCH)

    @property
    def extraction(self) -> Work:
        sizes = self.sizes
        return self.forward * (sizes.probe_training + sizes.validation + sizes.test)

    @property
    def signals(self) -> Work:
        """Of the label-free signals: two views of each image, of both splits.

        Drawing the views and the spectra are left out: small beside the forward passes of any
        backbone that needs a plan.
        """
        held_out = min(self.sizes.validation or self.sizes.test, MOST_IMAGES)
        return self.forward * (2 * 2 * held_out)

    def neighbours(self, probes: Probes) -> Work:
        """Of all kNN probes: a first chunk of queries, and a further one times all others."""
        known = torch.empty(self.sizes.probe_training, self.features, device=META)
        labels = torch.empty(len(known), dtype=torch.int64, device=META)
        knn, classes, size = list(probes.knn), self.sizes.classes, chunk_size(known)

        def search(queries: int) -> Work:
            sought = torch.empty(queries, self.features, device=META)
            return count(lambda: knn_scores(known, labels, sought, knn, classes))

        total = Work()
        for queries in filter(None, (self.sizes.validation, self.sizes.test)):
            first = search(min(size, queries))
            total += first
            if queries > size:
                total += (search(2 * size) + first * -1) * (queries / size - 1)
        return total

    def training(self, settings: Linear, form: linear.Form) -> Work:
        """Of one linear probe: a batch of its second epoch, counted, times all batches."""
        n = self.sizes.probe_training
        batch = min(settings.batch_size, n)
        start = torch.empty(self.features + 1, self.sizes.classes, device=META)
        heads = linear.Heads(settings.learning_rates, settings.weight_decays, start)
        clean = self.subject.protocol == "clean"
        augmentation = None if clean else form.augmentation(self.subject)
        labels = torch.empty(batch, dtype=torch.int64, device=META)
        viewed = not clean and (form.live or augmentation is not None)
        if viewed:
            batches = linear.viewed_batches(
                self.backbone,
                form.live,
                augmentation,
                self.subject,
                self.images(batch),
                labels,
                batch,
                "linear",
            )
        else:
            known = torch.empty(batch, self.features, device=META)
            batches = linear.frozen_batches(known, labels, batch, 0, "linear")
        epochs = linear.train(heads, form.optimizer, lambda _: 1.0, batches, 2)
        next(epochs)
        step = count(lambda: next(epochs))
        tested = settings.epochs if form.live and form.best and not clean else 0
        return step * (settings.epochs * math.ceil(n / batch)) + (
            self.forward * (self.sizes.test * tested)
        )


# Measurements


class Measurement(Frozen):
    """The time of one training step, or of starting a job's program, on one machine."""

    what: str
    """"step" or "start"."""
    study: str
    run: str
    ops: float
    flops: float
    bytes: float
    seconds: float
    """Lower quartile of `repeated` times: other programs on the machine only lengthen them."""
    repeated: int
    device: str
    processor: str
    threads: int
    python: str
    torch: str
    date: str
    command: str

    @property
    def work(self) -> Work:
        return Work(self.ops, self.flops, self.bytes)


def read_measurements(path: Path = MEASUREMENTS) -> list[Measurement]:
    """The stored measurements; none where there is no file."""
    if not path.is_file():
        return []
    return [Measurement.model_validate(row) for row in json.loads(path.read_text())]


def append_measurements(new: Iterable[Measurement], path: Path = MEASUREMENTS) -> None:
    """Adds measurements; one of the same thing on the same machine is replaced."""

    def identity(one: Measurement) -> tuple[object, ...]:
        return (one.what, one.study, one.run, one.device, one.processor, one.threads, one.torch)

    kept = {identity(one): one for one in [*read_measurements(path), *new]}
    rows = ",\n".join(f" {one.model_dump_json()}" for one in kept.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[\n{rows}\n]\n")


def measure(
    study: str, runs: Sequence[Run], stored_size: int, device: torch.device, command: str
) -> Iterator[Measurement]:
    """Times a step of each shape among the runs, and the start of a job's program."""
    about = {
        "study": study,
        "device": device_name(device),
        "processor": processor(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
    }
    shapes = {footprint(run, stored_size).work: run for run in reversed(runs)}
    for work, run in reversed(shapes.items()):
        torch.set_num_threads(run.threads)
        times = _step_seconds(run, stored_size, device)
        yield Measurement(
            what="step",
            run=run.name,
            threads=run.threads,
            ops=work.ops,
            flops=work.flops,
            bytes=work.bytes,
            seconds=_lower_quartile(times),
            repeated=len(times),
            **about,
        )
    yield Measurement(
        what="start",
        run="",
        threads=runs[0].threads,
        ops=0,
        flops=0,
        bytes=0,
        seconds=_lower_quartile([_start_seconds() for _ in range(3)]),
        repeated=3,
        **about,
    )


def _step_seconds(run: Run, size: int, device: torch.device) -> list[float]:
    """Seconds of single steps after a first one: 5 s of them, at least 3 and at most 100.

    One thread's time is taken by the processor's clock, which other programs do not disturb.
    """
    alone = device.type == "cpu" and run.threads == 1
    clock = time.process_time if alone else time.perf_counter
    _, steps = training(run, size, device)
    next(steps)
    times: list[float] = []
    while len(times) < 3 or (sum(times) < 5 and len(times) < 100):
        synchronise(device)
        began = clock()
        next(steps)
        synchronise(device)
        times.append(clock() - began)
    return times


def _start_seconds() -> float:
    """Processor seconds of a program that imports what a job imports."""
    before = os.times()
    imports = "import barlow_atlas.pretrain, barlow_atlas.probes"
    subprocess.run([sys.executable, "-c", imports], check=True)
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


def _lower_quartile(times: Sequence[float]) -> float:
    return float(f"{np.quantile(times, 0.25):.4g}")


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def processor() -> str:
    """The CPU's product name and the number of cores, such as `Intel Xeon, 2 cores`."""
    name = platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {os.cpu_count()} cores"


# Rates


@dataclass(frozen=True)
class Rates:
    """How fast a device works, from its measurements."""

    op_s: float
    flop_s: float
    byte_s: float
    start_s: float
    known: dict[Work, float]
    """Seconds of the steps that were themselves measured."""

    def fitted(self, work: Work) -> float:
        """Seconds by the three rates alone."""
        return work.ops * self.op_s + work.flops * self.flop_s + work.bytes * self.byte_s

    def seconds(self, work: Work) -> float:
        """Seconds of a step: as measured, else by the rates."""
        measured = self.known.get(work)
        return self.fitted(work) if measured is None else measured


def fit(steps: Sequence[tuple[Work, float]], start_s: float = 0.0) -> Rates:
    """The rates >= 0 with the least sum of squared relative errors of the steps' seconds."""
    rows = np.array([[w.ops, w.flops, w.bytes] for w, _ in steps], dtype=float)
    rows /= np.array([seconds for _, seconds in steps])[:, None]
    scale = rows.max(axis=0)
    scale[scale == 0] = 1
    op_s, flop_s, byte_s = (nnls(rows / scale, np.ones(len(rows)))[0] / scale).tolist()
    return Rates(op_s, flop_s, byte_s, start_s, dict(steps))


def left_out_errors(steps: Sequence[tuple[Work, float]]) -> list[float]:
    """For each step: its time predicted from all others over its measured time, less 1."""
    return [
        fit([*steps[:i], *steps[i + 1 :]]).fitted(work) / seconds - 1
        for i, (work, seconds) in enumerate(steps)
        if len(steps) > 1
    ]


def measured_on(
    measurements: Sequence[Measurement], device: str, threads: int
) -> list[Measurement]:
    """The measurements that speak for jobs with `threads` threads on a device.

    On the CPU those of the nearest lower number of threads (of the lowest, if all are higher), and
    of one processor: this machine's if there are any, else that of the last measurement.
    """
    there = [one for one in measurements if one.device == device]
    if device != "cpu" or not there:
        return there
    names = [one.processor for one in there]
    name = processor() if processor() in names else names[-1]
    there = [one for one in there if one.processor == name]
    counts = sorted({one.threads for one in there})
    nearest = max((n for n in counts if n <= threads), default=counts[0])
    return [one for one in there if one.threads == nearest]


def rates(measurements: Sequence[Measurement]) -> Rates:
    """The rates of one device from its measurements, of which one must be of a step."""
    steps = [(one.work, one.seconds) for one in measurements if one.what == "step"]
    starts = [one.seconds for one in measurements if one.what == "start"]
    if not steps:
        raise CostError(f"{MEASUREMENTS} holds no measured step of this device: run `measure`")
    return fit(steps, statistics.median(starts) if starts else 0.0)
