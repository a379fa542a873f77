"""Randomness as a function of what it is for, not of what was drawn before.

Every draw of a run comes from a CPU generator keyed by the run's seed and the place it is used at:
the initial weights, an epoch's shuffle, a step's views. So a resumed run continues as if nothing
had happened, and neither the device nor the number of processes changes a draw.
"""

import hashlib

import torch


def generator(seed: int, *place: int | str) -> torch.Generator:
    """A CPU generator for one place of one run, e.g. `generator(seed, "views", epoch, step)`."""
    key = "/".join([str(seed), *map(str, place)])
    # 63 bits: manual_seed takes a signed 64-bit integer.
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1
    return torch.Generator().manual_seed(number)
