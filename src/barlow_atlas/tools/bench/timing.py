"""Clocks: contestants by turns on the same cores, phases of a training step, peak memory."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from barlow_atlas.nn.networks import Network
from barlow_atlas.tools.measure import synchronise

Computation = Callable[[], object]
Clock = Callable[[], float]
"""Carries out a computation, and returns its seconds."""


@contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Confines this process and those it starts to `count` of its cores, with a thread on each."""
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    chosen = set(sorted(cores)[:count])
    _confine(chosen)
    torch.set_num_threads(len(chosen))
    try:
        yield
    finally:
        _confine(cores)
        torch.set_num_threads(threads)


def _confine(cores: set[int]) -> None:
    # Every thread has its own set of cores; a new one inherits its creator's.
    for thread in os.listdir("/proc/self/task"):
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), cores)


def cores() -> str:
    """The number of cores that computations take at present, in words."""
    count = torch.get_num_threads()
    return "1 core" if count == 1 else f"{count} cores"


def seconds(computation: Computation, device: torch.device) -> float:
    """Seconds of wall clock, until the device has finished as well."""
    synchronise(device)
    began = time.perf_counter()
    computation()
    synchronise(device)
    return time.perf_counter() - began


def processor_seconds(computation: Computation) -> float:
    """Seconds of CPU time, in all threads of this process and of the processes it has started.

    Those that the computation itself starts or ends are not counted: see that workers live on.
    """
    processes = [psutil.Process(), *psutil.Process().children()]
    before = _processor_time(processes)
    computation()
    return _processor_time(processes) - before


def _processor_time(processes: Sequence[psutil.Process]) -> float:
    times = [process.cpu_times() for process in processes]
    return sum(float(each.user + each.system) for each in times)


def by_turns(
    contestants: Sequence[Computation], device: torch.device, rounds: int
) -> tuple[float, ...]:
    """Seconds of each, as `clocks_by_turns` takes them."""
    return clocks_by_turns([partial(seconds, each, device) for each in contestants], rounds)


def clocks_by_turns(clocks: Sequence[Clock], rounds: int) -> tuple[float, ...]:
    """Seconds of each, the lower quartile of `rounds`, measured A B A B ... after one unmeasured.

    Whatever else the machine does hits all of them; it only lengthens times, hence the quartile.
    """
    for clock in clocks:
        clock()
    times = [[clock() for clock in clocks] for _ in range(rounds)]
    return tuple(np.quantile(times, 0.25, axis=0).tolist())


def taking(steps: Iterator[object], count: int) -> Computation:
    """A computation that takes the next `count` steps."""

    def take() -> None:
        for _ in range(count):
            next(steps)

    return take


def peak_memory(computation: Computation, device: torch.device) -> int:
    """Bytes that tensors took at most during the computation, above what was there before.

    On a CPU from the allocator's events that torch's profiler records: every tensor of every
    operation, temporaries inside of operations included. On a GPU from the allocator's own count.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        computation()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        kept = computation()  # what is returned stays allocated to the end
    del kept
    recorded: Any = profile.profiler
    events = [each for each in recorded.kineto_results.events() if each.name() == "[memory]"]
    changes = [each.nbytes() for each in sorted(events, key=lambda each: each.start_ns())]
    return int(np.maximum(np.cumsum([0, *changes]), 0).max())


PHASES = ("views", "forward and backward", "objective", "optimizer", "rest")


class Phases:
    """Splits training steps into phases, from hooks on the network and the optimizer.

    - views: from the start of the step to the first pass through the network; where views come
      from other processes, waiting for them.
    - forward and backward: of backbone and projector.
    - objective: its terms, what the method computes beside the network (a predictor, a momentum
      network), and their gradients.
    - optimizer: its step.
    - rest: what comes after it.

    On a GPU each mark waits for the device, so that a split step is slower than others.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.steps = 0

    def step(self, step: Computation) -> None:
        """Carries out one step, watched."""
        self._begin()
        step()
        self._mark("rest")
        self.steps += 1

    def mean(self) -> dict[str, float]:
        """Seconds a step of each phase."""
        return {phase: total / self.steps for phase, total in self.seconds.items()}

    @contextmanager
    def watching(self, network: Network, optimizer: torch.optim.Optimizer) -> Iterator["Phases"]:
        """Marks the phases of the steps of this network and optimizer."""
        modules: tuple[nn.Module, ...] = (network.backbone, network.projector)
        handles: list[Any] = []
        for module in modules:
            handles.append(module.register_forward_pre_hook(self._enter))
            handles.append(module.register_forward_hook(self._leave))
        handles.append(optimizer.register_step_pre_hook(lambda *_: self._mark(PHASES[1])))
        handles.append(optimizer.register_step_post_hook(lambda *_: self._mark("optimizer")))
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self) -> None:
        synchronise(self.device)
        self.now = time.perf_counter()
        self.entered = self.backward = False

    def _mark(self, phase: str) -> None:
        """What has passed since the last mark belongs to the phase."""
        synchronise(self.device)
        now = time.perf_counter()
        self.seconds[phase] += now - self.now
        self.now = now

    def _enter(self, *_: object) -> None:
        self._mark("objective" if self.entered else "views")
        self.entered = True

    def _leave(self, module: nn.Module, given: object, output: Tensor) -> None:
        self._mark("forward and backward")
        if output.requires_grad:
            output.register_hook(self._gradient)  # type: ignore[no-untyped-call]

    def _gradient(self, gradient: Tensor) -> None:
        """The first gradient that reaches the network ends the objective's backward pass."""
        self._mark("forward and backward" if self.backward else "objective")
        self.backward = True


def phases(
    steps: Iterator[object],
    network: Network,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    count: int,
) -> dict[str, float]:
    """Seconds a step of each phase, over the next `count` steps of this network and optimizer."""
    watch = Phases(device)
    with watch.watching(network, optimizer):
        for _ in range(count):
            watch.step(lambda: next(steps))
    return watch.mean()
