"""Which instructions of a processor a step uses: the same on all x86 processors, so that the last
bits of its numbers are the same too.

PyTorch and the libraries below it take the widest vectors that a processor has. Sums are then added
in another order, and after a hundred epochs two machines differ by tenths of a point for one seed.
AVX2 is what nearly all x86 processors have. What that costs where there is more, and where it was
tried: docs/architecture.md, "The same numbers elsewhere".
"""

from collections.abc import MutableMapping
from pathlib import Path

AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch's own kernels
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # convolutions
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",  # products of matrices, where Intel made the processor
}
"""What the libraries read when they compute for the first time."""


def use_common_instructions(
    environment: MutableMapping[str, str], processor: Path = Path("/proc/cpuinfo")
) -> None:
    """Lets this process, which has not computed yet, and those that it starts do with AVX2.

    What a user has set stays. Nothing is set where there is no AVX2, as on ARM.
    """
    try:
        features = processor.read_text().split()
    except OSError:  # not Linux
        return
    if "avx2" in features:
        for name, value in AVX2.items():
            environment.setdefault(name, value)
