"""The device a step computes on, and what this process sets before it computes there."""

import ctypes
import sys

import torch

# glibc, malloc.h: what is freed goes back to the system above, and is mapped by itself from.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
A_GIGABYTE = 1 << 30


def device_for(name: str | None, threads: int) -> torch.device:
    """The device of that name, by default a GPU if there is one; call before any computation.

    Args:
        threads: of the CPU; sums depend on their number.
    """
    torch.set_num_threads(threads)
    # Denormal numbers, frequent near convergence, slow a CPU down by a factor of 2 to 5.
    torch.set_flush_denormal(True)
    _keep_freed_memory()
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def sent(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """To the device, without waiting for it: only from pinned memory does the host go on."""
    if device.type == "cuda" and not values.is_cuda:
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def _keep_freed_memory() -> None:
    """Lets the C library keep what is freed, as the next training step allocates the same again.

    Otherwise pages are given back and faulted in at every step (tensors of a CPU; GPUs have an
    allocator of their own).
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):  # glibc
            library.mallopt(M_TRIM_THRESHOLD, A_GIGABYTE)
            library.mallopt(M_MMAP_THRESHOLD, A_GIGABYTE)
