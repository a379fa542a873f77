"""Which code counts as which: the one owner of the rule that carries results over a change of code.

A result names the fingerprint of the code that made it. Where that code was proven to give the same
numbers as a later one, or somebody vouched for it, `results/<study>/adopted.json` says so, and both
fingerprints *stand for* the same: the first of them. What Snakemake, DVC's `adopt` and the chain of
checkpoints compare is what fingerprints stand for.
"""

import functools
from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from barlow_atlas.errors import AtlasError
from barlow_atlas.settings.frozen import Frozen
from barlow_atlas.study.models import ForeignRun, Run
from barlow_atlas.study.paths import RESULTS
from barlow_atlas.workflow.sources import fingerprint


class AdoptionError(AtlasError):
    """Results that cannot be carried over, or a damaged record of what was."""


class Segment(Frozen):
    """What was made again with the later code, and compared."""

    run: str
    epoch: int
    trained_from: int
    """Epoch from which it was trained; 0 is the seed."""
    compared: tuple[str, ...]
    """What was compared, such as weights and probes."""
    largest_difference: float
    """Relative; 0 if all is equal to the bit."""


class Proof(Frozen):
    """Segments that the later code gave again."""

    against: str
    """With what they were compared: the stored results, or the code of a commit, run here."""
    tolerance: float
    """Relative difference up to which numbers count as the same; 0 asks for equal bits."""
    segments: tuple[Segment, ...]


class Adoption(Frozen):
    """Results of the code `old` count as made by the code `new`."""

    what: str
    """Step and method or probes, such as "pretrain barlow_twins"."""
    old: str
    new: str
    date: str
    commit: str | None
    machine: str
    libraries: dict[str, str]
    proof: Proof | None
    reason: str | None
    """Why, where nothing was proven."""

    @property
    def in_words(self) -> str:
        if self.proof is None:
            return f"accepted without proof on {self.date}: {self.reason}"
        exact = "to the bit" if not self.proof.tolerance else f"within {self.proof.tolerance:g}"
        return (
            f"proven equal {exact} by {len(self.proof.segments)} segments on {self.date}, "
            f"against {self.proof.against}"
        )


_LIST = TypeAdapter(tuple[Adoption, ...])


def adoptions_file(study: str) -> Path:
    return RESULTS / study / "adopted.json"


@functools.cache
def adoptions(study: str) -> tuple[Adoption, ...]:
    """What was adopted of a study, the earliest first.

    Raises:
        AdoptionError: a file that cannot be read.
    """
    file = adoptions_file(study)
    try:
        return _LIST.validate_json(file.read_bytes())
    except FileNotFoundError:
        return ()
    except (OSError, ValidationError) as error:
        raise AdoptionError(
            f"{file} cannot be read: {error}. `git checkout {file}` brings it back"
        ) from error


def to_json(entries: Iterable[Adoption]) -> bytes:
    return _LIST.dump_json(tuple(entries), indent=1) + b"\n"


@functools.cache
def standing(study: str, code: str) -> str:
    """The first of the fingerprints that count as the same as `code` in a study."""
    stands_for: dict[str, str] = {}
    for entry in adoptions(study):
        old, new = (_first(stands_for, each) for each in (entry.old, entry.new))
        if old != new:
            stands_for[new] = old
    return _first(stands_for, code)


def _first(stands_for: dict[str, str], code: str) -> str:
    while code in stands_for:
        code = stands_for[code]
    return code


def how_adopted(study: str, code: str) -> tuple[Adoption, ...]:
    """The adoptions of a study that make results of `code` count as those of another."""
    first = standing(study, code)
    return tuple(entry for entry in adoptions(study) if standing(study, entry.old) == first)


def training_code(run: Run | ForeignRun) -> str:
    """Fingerprint of today's code that makes a run's milestones."""
    if isinstance(run, Run):
        return fingerprint("pretrain", [type(run.settings)])
    return fingerprint("import_weights")


def probing_code() -> str:
    """Fingerprint of today's code that asks a milestone what its study asks."""
    return fingerprint("probe")
