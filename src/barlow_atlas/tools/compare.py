"""Two studies, methods, runs or commits side by side, with the interval of their difference."""

import contextlib
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

import numpy as np

from barlow_atlas.atlas.effects import in_order, last, with_seeds
from barlow_atlas.atlas.lines import Line, read_lines
from barlow_atlas.atlas.records import contents
from barlow_atlas.atlas.statistics import Effect, effect, paired, these_networks
from barlow_atlas.errors import AtlasError, not_allowed
from barlow_atlas.study.file import load_study, study_file, study_named
from barlow_atlas.study.paths import PARAMS, RESULTS

_SIDE = re.compile(r"(?P<study>[^:@]+)(?::(?P<part>[^:@]+))?(?:@(?P<commit>.+))?")


class CompareError(AtlasError):
    """Nothing that could be compared."""


@dataclass(frozen=True)
class Compared:
    """The last milestones of two lines, by one probe.

    Attributes:
        first, second: test top-1 in percent, mean over each line's own seeds.
        difference: `first` - `second` in points, of the seeds and test images that both have; None
            where they share none.
        seeds: how many they share.
    """

    lines: tuple[Line, Line]
    first: float
    second: float
    difference: Effect | None
    seeds: int


def compare(first: str, second: str) -> list[Compared]:
    """Lines that agree in probe, and in method and width where a side has several.

    Args:
        first, second: `STUDY`, `STUDY:METHOD` or `STUDY:RUN`, each with `@COMMIT` behind it where
            the results of a commit are meant.

    Raises:
        CompareError: a side that is nothing, or two that have no probe in common.
        StudyError: no such study.
        RecordError: a record is damaged, or of a format that only its own code reads.
    """
    sides = tuple(lines_of(side) for side in (first, second))
    alone = all(len({(line.method, line.embedding_dim) for line in side}) == 1 for side in sides)
    of_second = {_key(line, alone): line for line in sides[1]}
    pairs = [(one, of_second.get(_key(one, alone))) for one in sides[0]]
    comparisons = [_compared(one, other) for one, other in pairs if other is not None]
    if not comparisons:
        raise CompareError(
            f"{first} and {second} have no probe of the same method and width in common. "
            "`STUDY:METHOD` on both sides compares different methods"
        )
    return comparisons


def lines_of(side: str) -> list[Line]:
    """The lines of a side, of its finished runs.

    Raises:
        CompareError: it names no method or run of its study, no commit, or nothing is recorded.
    """
    parts = _SIDE.fullmatch(side)
    if parts is None:
        raise CompareError(f"{side!r}: give STUDY, STUDY:METHOD or STUDY:RUN, with @COMMIT if any")
    with _at(parts["commit"]):
        name = study_named(PARAMS, parts["study"])
        study = load_study(study_file(PARAMS, name))
        planned = {run.name: study.milestones_of(run) for run in study.runs()}
        lines = in_order(read_lines(contents(name, study), planned))
        seeds = {run.name: (run.method, run.seed) for run in study.runs()}
    if part := parts["part"]:
        method, seed = seeds.get(part, (part, None))
        known = sorted({line.method for line in lines} | seeds.keys())
        if method not in {line.method for line in lines}:
            raise CompareError(str(not_allowed(f"method or run of {name}", part, known)))
        lines = [line for line in lines if line.method == method]
        lines = lines if seed is None else [with_seeds(line, [seed]) for line in lines]
    if not lines:
        raise CompareError(
            f"{side}: no finished run is recorded. `atlas status {name}` says what is missing"
        )
    return lines


@contextlib.contextmanager
def _at(commit: str | None) -> Iterator[None]:
    """Inside, studies and records are those of a commit; without one, those that are here."""
    if commit is None:
        yield
        return
    command = ["git", "archive", commit, "--", str(PARAMS), str(RESULTS)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise CompareError(f"the results of {commit} cannot be read: {said}")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
            archive.extractall(folder, filter="data")
        with contextlib.chdir(folder):
            yield


def _key(line: Line, alone: bool) -> tuple[object, ...]:
    probe = line.probe, line.variant, line.setting
    return probe if alone else (line.method, line.embedding_dim, *probe)


def _compared(one: Line, other: Line) -> Compared:
    seeds = [seed for seed in one.seeds if seed in other.seeds]
    difference = None
    if seeds and one.correct.shape[-1] == other.correct.shape[-1]:
        first, second = (with_seeds(line, seeds).correct[:, -1] for line in (one, other))
        what = "difference in test top-1 (points) at the last milestone"
        contrast = paired(first, second, what)
        difference = effect(contrast) if len(seeds) > 1 else these_networks(contrast)
    return Compared((one, other), _end(one), _end(other), difference, len(seeds))


def _end(line: Line) -> float:
    return float(np.mean(last(line).images))


def rows(compared: list[Compared], first: str, second: str) -> list[dict[str, str]]:
    """A table's rows as text."""
    return [
        {
            "method": " / ".join(
                dict.fromkeys(f"{x.method}, d {x.embedding_dim}" for x in one.lines)
            ),
            "probe": f"{one.lines[0].probe} {one.lines[0].setting}",
            first: f"{one.first:.2f}",
            second: f"{one.second:.2f}",
            "difference": _told(one.difference),
            "seeds": str(one.seeds),
        }
        for one in compared
    ]


def _told(difference: Effect | None) -> str:
    if difference is None:
        return "no seed and test set in common"
    return f"{difference.estimate:+.2f} ({difference.low:+.2f} to {difference.high:+.2f})"
