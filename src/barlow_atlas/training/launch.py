"""Starts the processes that train a run together, and joins them into one group.

One program starts the others, as copies of itself: on this machine by itself, on several nodes by
Slurm's `srun` in the job's allocation. It holds the store through which they find each other and in
which each leaves the error that ended it, so that the cause is told and not what followed from it.
The first process that fails takes the others down.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
from torch.distributed import (  # type: ignore[attr-defined]
    PrefixStore,
    TCPStore,
    destroy_process_group,
    init_process_group,
)

from barlow_atlas.errors import EXIT_INTERRUPTED, AtlasError
from barlow_atlas.nn.processes import PeerLost

STORE, RANK, COUNT, LOCAL = (
    f"BARLOW_ATLAS_{name}" for name in ("STORE", "RANK", "PROCESSES", "LOCAL_RANK")
)
"""What a process finds in its environment: host:port, its number, how many, its number here."""
STARTED_WITHIN_S = 300.0
"""For all processes to find each other: file systems of clusters may take minutes to read torch."""
GRACE_S = 5.0
"""For the others, once a process has failed, to end by themselves."""
POLL_S = 0.1


class LaunchError(AtlasError):
    """Processes that cannot be started or did not come; the message says why and what to do."""


class ProcessFailed(AtlasError):
    """One of the processes that train a run failed; the message is its own."""


@dataclass(frozen=True)
class Seat:
    """A process' place in its group."""

    rank: int
    count: int
    local_rank: int
    """Its number on its machine."""
    store: str
    """host:port."""

    @property
    def variables(self) -> dict[str, str]:
        """What tells a process its place."""
        return {
            STORE: self.store,
            RANK: str(self.rank),
            COUNT: str(self.count),
            LOCAL: str(self.local_rank),
        }


def seat(environment: Mapping[str, str]) -> Seat | None:
    """The place that this process was started for; None if it was not started for any."""
    if STORE not in environment:
        return None
    rank, count, local = (int(environment[name]) for name in (RANK, COUNT, LOCAL))
    return Seat(rank, count, local, environment[STORE])


def one_for_each_gpu(asked: int, device: str | None) -> int:
    """How many processes a machine gets whose job asks for `asked` GPUs: one for each it has."""
    return 1 if device else max(1, min(asked, torch.cuda.device_count()))


@contextlib.contextmanager
def joined(seat: Seat, started_within_s: float = STARTED_WITHIN_S) -> Iterator[None]:
    """While entered, this process is one of its group; what ends it is told to who started it.

    Raises:
        LaunchError: others did not come in time.
        SystemExit: instead of any other error, which the starting program tells.
    """
    _stop_with_parent()
    host, _, port = seat.store.rpartition(":")
    within = timedelta(seconds=started_within_s)
    try:
        store = TCPStore(host, int(port), timeout=within)
    except RuntimeError as error:
        raise LaunchError(
            f"process {seat.rank} of {seat.count} on {socket.gethostname()} cannot reach the "
            f"program that started it at {seat.store} within {started_within_s:.0f} s: {error}. "
            "The nodes of a job must be able to connect to each other"
        ) from error
    try:
        _await_all(store, seat, within)
        if torch.cuda.is_available():
            torch.cuda.set_device(seat.local_rank % torch.cuda.device_count())
        init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=PrefixStore("group", store),
            rank=seat.rank,
            world_size=seat.count,
        )
        yield
        destroy_process_group()
    except Exception as error:
        _leave_error(store, seat, error)
        sys.stdout.flush()
        os._exit(1)  # at once: what a broken group does when it is torn down may take minutes


def _await_all(store: TCPStore, seat: Seat, within: timedelta) -> None:
    store.set(f"here {seat.rank}", socket.gethostname())
    names = [f"here {rank}" for rank in range(seat.count)]
    try:
        store.wait(names, within)
    except RuntimeError as error:
        missing = [str(rank) for rank, name in enumerate(names) if not store.check([name])]
        raise LaunchError(
            f"of {seat.count} processes, {', '.join(missing)} did not come within "
            f"{within.total_seconds():.0f} s. What they said stands above; if they said nothing, "
            "their node could not start them: look at it, then start the same command again"
        ) from error


def _leave_error(store: TCPStore, seat: Seat, error: Exception) -> None:
    is_atlas_error = isinstance(error, AtlasError)
    told = {
        "rank": seat.rank,
        "host": socket.gethostname(),
        "follows": isinstance(error, PeerLost),
        "text": str(error) if is_atlas_error else "".join(traceback.format_exception(error)),
    }
    with contextlib.suppress(RuntimeError):  # the program that started it may be gone
        store.set(f"error {store.add('errors', 1)}", json.dumps(told))


def _stop_with_parent() -> None:
    """Asks this process to stop, as by SIGTERM, when the program that started it is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def run_processes(command: Sequence[str], nodes: int, per_node: int) -> bool:
    """Runs a command as `per_node` processes on each of `nodes` machines, to their end.

    SIGTERM and SIGUSR2 are handed on to them, until they end.

    Returns:
        Whether they were stopped, their state saved, and want to be started again.

    Raises:
        LaunchError: several nodes are asked for, and there is no Slurm job that has them.
        ProcessFailed: one of them failed; the others were ended.
    """
    host = "localhost" if nodes == 1 else socket.gethostname()
    store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
    address = f"{host}:{store.port}"
    if nodes > 1:
        group = _Group([_srun(command, nodes, per_node, address)], forwards=False)
    else:
        group = _Group([_copy(command, rank, per_node, address) for rank in range(per_node)])
    failed = group.ended()
    names = [f"error {n}" for n in range(1, store.add("errors", 0) + 1)]
    errors = [json.loads(store.get(name)) for name in names if store.check([name])]
    if failed is None and not errors:
        return group.interrupted
    raise ProcessFailed(_cause(failed, errors, nodes * per_node))


def _copy(command: Sequence[str], rank: int, count: int, address: str) -> "subprocess.Popen[bytes]":
    """A process of this machine."""
    variables = Seat(rank, count, rank, address).variables
    return subprocess.Popen(_unstopped(command), env={**os.environ, **variables})


def _srun(
    command: Sequence[str], nodes: int, per_node: int, address: str
) -> "subprocess.Popen[bytes]":
    """All processes of a Slurm job, as one step of it."""
    allocated = int(os.environ.get("SLURM_NNODES", "0"))
    if allocated < nodes:
        raise LaunchError(
            f"the study's resources ask for {nodes} nodes, and this is no Slurm job that has them. "
            "Start the study on a cluster (`snakemake --profile slurm`), or give `nodes: 1`"
        )
    task = {RANK: "SLURM_PROCID", COUNT: "SLURM_NTASKS", LOCAL: "SLURM_LOCALID"}
    named = " ".join(f'export {ours}="${theirs}";' for ours, theirs in task.items())
    words = ["srun", f"--nodes={nodes}", f"--ntasks-per-node={per_node}"]
    words += ["--distribution=block", "--kill-on-bad-exit=1"]
    return subprocess.Popen(
        [*words, *_unstopped(command, named)], env={**os.environ, STORE: address}
    )


def _unstopped(command: Sequence[str], before: str = "") -> list[str]:
    """A command that a SIGUSR2 does not end before it listens to it."""
    return ["bash", "-c", f"trap '' USR2; {before} exec \"$@\"", "bash", *command]


class _Group:
    """The processes, or srun in their place, while they run."""

    def __init__(self, running: "list[subprocess.Popen[bytes]]", forwards: bool = True) -> None:
        self.processes = running
        self.forwards = forwards
        self.interrupted = False
        self._signal: int | None = None

    def ended(self) -> tuple[int, int] | None:
        """Waits for all; place and status of the first that failed, if any."""
        stopping = (signal.SIGTERM, signal.SIGUSR2)
        before = {number: signal.signal(number, self._remember) for number in stopping}
        failed: tuple[int, int] | None = None
        kill_at = float("inf")
        try:
            while None in [process.poll() for process in self.processes]:
                if failed is None and (failed := self._failed()):
                    kill_at = time.monotonic() + GRACE_S
                self._hand_on()
                if time.monotonic() > kill_at:
                    self._kill()
                time.sleep(POLL_S)
        finally:
            self._kill()
            for number, handler in before.items():
                signal.signal(number, handler)
        self.interrupted = any(each.returncode == EXIT_INTERRUPTED for each in self.processes)
        return failed or self._failed()

    def _failed(self) -> tuple[int, int] | None:
        """One that was killed goes before one that noticed it."""
        failures = [
            (place, each.returncode)
            for place, each in enumerate(self.processes)
            if each.returncode not in (None, 0, EXIT_INTERRUPTED)
        ]
        return min(failures, key=lambda one: one[1], default=None)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._signal = number

    def _hand_on(self) -> None:
        """Again and again, since a process hears nothing before it listens."""
        if self._signal is not None and self.forwards:
            for process in self.processes:
                process.send_signal(self._signal)

    def _kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def _cause(failed: tuple[int, int] | None, errors: Sequence[Mapping[str, Any]], count: int) -> str:
    """What ended the processes: a killed one, else the first error that is a process' own."""
    causes = [error for error in errors if not error["follows"]]
    if causes:
        first = causes[0]
        return f"process {first['rank']} of {count}, on {first['host']}: {first['text']}"
    if failed is not None and failed[1] < 0:
        return _killed(f"process {failed[0]} of {count}", f" by {signal.Signals(-failed[1]).name}")
    if errors:
        silent = sorted({*range(count)} - {error["rank"] for error in errors})
        listed = ", ".join(map(str, silent))
        return _killed(f"process {listed} of {count}" if len(silent) == 1 else f"one of {listed}")
    assert failed is not None
    return (
        f"process {failed[0]} of {count} ended with status {failed[1]} before it came to work; "
        "what it said stands above"
    )


def _killed(who: str, how: str = "") -> str:
    return (
        f"{who} was ended from outside{how}, and the others with it. If nobody did that, the "
        "machine ran out of memory: see mem_mb in the study's resources. The same command goes on "
        "from the last saved state"
    )
