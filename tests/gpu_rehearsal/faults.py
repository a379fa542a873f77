"""What must be noticed, put into a line each; prints what was."""

import contextlib
from collections.abc import Callable

import torch
from rehearsal import CUDA, rehearsal

FAULTS: dict[str, Callable[[torch.Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "to the host": lambda x: x.cpu(),
    "not pinned": lambda x: torch.ones(3).to(CUDA, non_blocking=True),
    "not asynchronous": lambda x: torch.ones(3).pin_memory().to(CUDA),
    "pinned and asynchronous": lambda x: torch.ones(3).pin_memory().to(CUDA, non_blocking=True),
    "a mask": lambda x: x[x > 0],
    "places on the host": lambda x: x[torch.tensor([0, 2])],
    "nonzero": lambda x: x.nonzero(),
    "two devices": lambda x: x * torch.arange(3),
    "a number of the host": lambda x: x * torch.tensor(2.0),
    "backwards": lambda x: x.square().sum().backward(),
}

for name, fault in FAULTS.items():
    with rehearsal() as notes:
        x = torch.zeros(3, device=CUDA, requires_grad=True)
        notes.forget()
        # Fake tensors refuse a second device, and a size that only the numbers tell.
        with contextlib.suppress(RuntimeError):
            fault(x)
    found = [what.split(" at ")[0] for what in (*notes.waits, *notes.mixed)]
    print(f"{name}: {', '.join(found) or 'nothing'}")
