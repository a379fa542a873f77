"""Which code counts as which: the one owner of the rule that carries results over a change of code.

A result names the fingerprint of the code that made it. Where that code was proven to give the same
numbers as a later one, or somebody vouched for it, `results/<study>/adopted.json` says so, and both
fingerprints *stand for* the same: the first of them. What Snakemake, `adopt` and the chain of
checkpoints compare is what fingerprints stand for.
"""

import functools
from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from barlow_atlas.errors import AtlasError
from barlow_atlas.settings.frozen import Frozen
from barlow_atlas.study.paths import RESULTS


class AdoptionError(AtlasError):
    """Results that cannot be carried over, or a damaged record of what was."""


class Repetition(Frozen):
    """A milestone that was made again by the later code, and agreed."""

    run: str
    epoch: int
    trained_from: int
    """Epoch whose stored state it was trained from; 0: from the seed."""
    compared: int
    """How many stored values it was compared with."""
    largest_difference: float
    """Of any of them, relative; 0 if all are equal to the bit."""


class Proof(Frozen):
    """Milestones that the later code gave again."""

    against: str
    """What they were compared with: the stored results, or what the code of a commit gave here."""
    tolerance: float
    """Relative difference up to which values count as the same; 0 asks for equal bits."""
    repetitions: tuple[Repetition, ...]


class Adoption(Frozen):
    """Results of the code `old` count as made by the code `new`."""

    code: str
    """What it does: a step, and of `pretrain` the objective."""
    old: str
    new: str
    date: str
    made_by: dict[str, object]
    """Code, libraries and machine of the proof, as in a manifest."""
    proof: Proof | None = None
    reason: str | None = None
    """Why they count as the same although nothing was proven."""

    def __str__(self) -> str:
        if self.proof is None:
            return f"{self.code}: accepted without proof, {self.date}: {self.reason}"
        exactly = f"within {self.proof.tolerance:g}" if self.proof.tolerance else "to the bit"
        return (
            f"{self.code}: {len(self.proof.repetitions)} milestones made again, equal {exactly} "
            f"to {self.proof.against}, {self.date}"
        )


_ADOPTIONS = TypeAdapter(tuple[Adoption, ...])


def adoptions_file(study: str) -> Path:
    """Where a study's adoptions lie; the file is in git."""
    return RESULTS / study / "adopted.json"


@functools.cache
def adoptions(study: str) -> tuple[Adoption, ...]:
    """What was adopted of a study, the earliest first.

    Raises:
        AdoptionError: a file that cannot be read.
    """
    file = adoptions_file(study)
    try:
        return _ADOPTIONS.validate_json(file.read_bytes(), strict=False)
    except FileNotFoundError:
        return ()
    except (OSError, ValidationError) as error:
        raise AdoptionError(
            f"{file} cannot be read: {error}. `git checkout {file}` brings it back"
        ) from error


def to_json(entries: Iterable[Adoption]) -> bytes:
    """The content of a study's file."""
    return _ADOPTIONS.dump_json(tuple(entries), indent=1, exclude_none=True) + b"\n"


@functools.cache
def standing(study: str, code: str) -> str:
    """The first of the fingerprints that count as the same as `code` in a study."""
    stands_for: dict[str, str] = {}

    def first(fingerprint: str) -> str:
        while fingerprint in stands_for:
            fingerprint = stands_for[fingerprint]
        return fingerprint

    for entry in adoptions(study):
        old, new = first(entry.old), first(entry.new)
        if old != new:
            stands_for[new] = old
    return first(code)


def adopted_by(study: str, code: str) -> tuple[Adoption, ...]:
    """The adoptions by which results of `code` count as those of other code."""
    return tuple(
        entry for entry in adoptions(study) if standing(study, entry.old) == standing(study, code)
    )
