"""The chain of hashes behind a milestone. Imports no torch: probe files carry it, too."""

import hashlib

from barlow_atlas.study.models import ForeignRun, Run


def lineage(
    run: Run | ForeignRun, epoch: int, weights: str, data: str, sources: str, parent: str | None
) -> str:
    """The hash that a milestone hands to its successor: all that its weights follow from.

    Args:
        weights, data, sources: sha256 of the weights' file, of the data set's manifest and of the
            source files that can change the numbers.
        parent: lineage of the milestone before, None for the first.
    """
    parts = [run.model_dump_json(), str(epoch), weights, data, sources, parent or "seed"]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
