"""Where the time of a training step goes on one core, by kind of operation, and whether the largest
kinds leave anything to gain: how fast they compute, beside one well-shaped operation of their kind.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from barlow_atlas.study.models import Run
from barlow_atlas.tools.bench.images import cifar10, demo, noise
from barlow_atlas.tools.bench.records import Record, alone, more
from barlow_atlas.tools.bench.timing import by_turns, cores, on_cores, taking
from barlow_atlas.tools.bench.training import convolution, trained

KINDS = {
    "convolutions": ("conv",),
    "matrix products": ("mm",),
    "batch norm": ("batch_norm",),
    "all else": ("",),
}
"""By what is in the names of their operations; the first that fits."""
COUNTED = ("convolutions", "matrix products")
SIDE = 1024
"""Of the matrices whose product the products are compared with."""


def records(
    device: torch.device, runs: Mapping[str, tuple[Run, int]] | None = None, rounds: int = 5
) -> Iterator[Record]:
    """Of a CPU; a GPU has its own profilers.

    Args:
        runs: what is trained by name, and how many of its steps are looked at.
    """
    if device.type != "cpu":
        return
    with on_cores(1):
        ceilings = {
            kind: _speed(*operation(device), device, rounds)
            for kind, operation in zip(COUNTED, (convolution, product), strict=True)
        }
        for name, (run, steps) in (runs or _runs()).items():
            _, endless = trained(run, noise(steps * run.batch_size, run.image_size), device)
            spent = times(taking(endless, steps))
            with FlopCounterMode(display=False) as counted:
                next(endless)
            flops = _by_kind(
                {str(each): n for each, n in counted.get_flop_counts()["Global"].items()}
            )
            about = (
                f"a step of {run.method}, {run.backbone.name}, {run.image_size} x "
                f"{run.image_size}, N={run.batch_size}, d={run.embedding_dim}, {cores()}"
            )
            for kind in KINDS:
                told = f"operations/{name}: {kind}"
                yield alone(told, "ms/step", 1000 * spent[kind] / steps, about)
            for kind in COUNTED:
                reached = flops[kind] * steps / spent[kind] / 1e9, ceilings[kind] / 1e9
                yield more(
                    f"operations/{name}: arithmetic of {kind}",
                    "GFLOP/s",
                    reached,
                    f"{about}; yardstick: one of 128 channels with its gradients, or of two "
                    f"matrices of {SIDE} x {SIDE}",
                )


def _runs() -> dict[str, tuple[Run, int]]:
    """Those of `rivals`, and Mixed Barlow Twins with the small network."""
    small = {
        f"small {method}": (cifar10(method, image_size=16, backbone=demo(method).backbone), 4)
        for method in ("bt", "mix")
    }
    return {**small, "resnet18 bt": (cifar10("bt"), 1)}


def times(computation: Callable[[], object]) -> dict[str, float]:
    """Seconds of a computation by kind of operation; once before, it is not looked at."""
    computation()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        computation()
    return _by_kind({each.key: each.self_cpu_time_total / 1e6 for each in seen.key_averages()})


def _by_kind(amounts: Mapping[str, float]) -> dict[str, float]:
    sums = dict.fromkeys(KINDS, 0.0)
    for name, amount in amounts.items():
        kind = next(kind for kind, parts in KINDS.items() if any(part in name for part in parts))
        sums[kind] += amount
    return sums


def product(device: torch.device) -> tuple[Callable[[], object], float]:
    """A product of two square matrices, and its FLOPs."""
    x, y = torch.randn(2, SIDE, SIDE, device=device)
    return lambda: x @ y, 2.0 * SIDE**3


def _speed(
    computation: Callable[[], object], flops: float, device: torch.device, rounds: int
) -> float:
    """FLOP/s."""
    (spent,) = by_turns((computation,), device, rounds)
    return flops / spent
