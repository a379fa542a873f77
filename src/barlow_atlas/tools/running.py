"""Studies run through Snakemake, and what is said at their end."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import PAGE, REPORTS, RESULTS

TRACKED = Path("logs/tracking")
SECONDS_TO_TELL = 60.0
"""Until a tracker that does not end is given up."""


def snakemake(studies: Sequence[str], profile: str, replace: bool, more: Sequence[str]) -> int:
    """Runs studies; returns Snakemake's exit status.

    Args:
        replace: whether what is finished may be trained again.
        more: further arguments of Snakemake.
    """
    config = ("--config", f"study={','.join(studies)}", *(["replace=true"] if replace else []))
    command = (sys.executable, "-m", "snakemake", "--profile", profile, *config, *more, "--", "all")
    # Jobs call `python`: this environment's, also where nothing has activated it.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    with subprocess.Popen(command, env=os.environ | {"PATH": path}) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue  # Snakemake has it too, and ends its jobs first


@contextlib.contextmanager
def tracked(studies: Sequence[str], writer: str) -> Iterator[None]:
    """While it is entered, studies are followed for a tracker: each by a process of its own.

    What becomes of these is said at the end, and changes nothing of the studies.

    Args:
        writer: a name of `export.tracking.WRITERS`.
    """
    followers = {}
    # None is to be lost: each hears them once it is ready to.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    for name in studies:
        folder = TRACKED / writer / name
        told = ("--study", name, "--writer", writer, "--to", str(folder), "--follow")
        command = (sys.executable, "-m", "barlow_atlas", "track", *told)
        # Ctrl-C is for Snakemake, whose last results are still to be told.
        followers[folder] = subprocess.Popen(command, start_new_session=True)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield
    finally:
        for follower in followers.values():
            follower.terminate()
        for folder, follower in followers.items():
            try:
                status = follower.wait(SECONDS_TO_TELL)
            except subprocess.TimeoutExpired:
                follower.kill()
                status = follower.wait()
            if status:
                print(f"{writer} was not told all: {folder}; the study is none the worse for it")


def ending(name: str, study: Study) -> Iterator[str]:
    """What a study that has run says: both answers, what they rest on, whether the numbers are
    those that git has, and where its page is.

    A study that has no report says that.

    Raises:
        RecordError: a record is damaged.
    """
    from barlow_atlas.atlas.curves import mean_curves
    from barlow_atlas.atlas.frames import probe_table, table_of
    from barlow_atlas.atlas.records import contents
    from barlow_atlas.report.answer import answer
    from barlow_atlas.tools.repetition import told

    page = REPORTS / name / PAGE
    if not page.is_file():
        yield f"{name} has no report yet: `atlas run {name}` makes it"
        return
    yield study.title
    curves = mean_curves(probe_table(contents(name, study)))
    study_answer = answer(curves, table_of(RESULTS / name, "effects"))
    for verdict in study_answer.verdicts:
        yield f"{verdict.question} {verdict.answer}"
    numbers = ": ".join(filter(None, (study_answer.ends, study_answer.rests_on)))
    yield from filter(None, (numbers, told(name, study)))
    yield f"The report: {page}   in a browser, or by `atlas open {name}`"
