"""A line of the fault table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """What a fault did, and what it cost."""

    fault: str
    happened: str
    lost_s: float
    """Seconds of training that were done and had to be done again."""
    repeated: str
    equal: bool
    """Final weights, lineage and metrics are the undisturbed run's, byte for byte."""
