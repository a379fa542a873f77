"""Functions run by several processes of one group on this machine, as those of a launch are."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["barlow_atlas.training.segment", "lightly.loss"])


def by_processes(
    count: int, work: Callable[..., Any], *given: Any, killed: tuple[int, ...] = ()
) -> list[Any]:
    """What `work(*given)` returns in each of `count` processes but the killed, by their numbers."""
    with tempfile.TemporaryDirectory() as folder:
        started = [
            FORKSERVER.Process(
                target=_one, args=(rank, count, Path(folder), work, given, not killed)
            )
            for rank in range(count)
        ]
        for process in started:
            process.start()
        for process in started:
            process.join()
        ends = [-signal.SIGKILL if rank in killed else 0 for rank in range(count)]
        assert [process.exitcode for process in started] == ends
        left = (Path(folder) / f"{rank}.pt" for rank in range(count) if rank not in killed)
        return [torch.load(file) for file in left]


def _one(
    rank: int,
    count: int,
    folder: Path,
    work: Callable[..., Any],
    given: tuple[Any, ...],
    all_end: bool,
) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = distributed.FileStore(str(folder / "store"), count)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=count)
    distributed.barrier()  # connected, or one that ends at once would leave the others waiting
    torch.save(work(*given), folder / f"{rank}.pt")
    if all_end:
        distributed.barrier()
    distributed.destroy_process_group()
