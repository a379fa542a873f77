"""A study that runs, as the files that are here show it: its jobs, its curves and its page."""

import functools
import json
import math
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from barlow_atlas.atlas.records import Content, RecordError, recorded
from barlow_atlas.errors import AtlasError
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import PAGE, REPORTS, probe_file, record_file
from barlow_atlas.tools.watch.activity import (
    Activity,
    activity,
    files_in,
    snakemake_lives,
    wanted,
)
from barlow_atlas.tools.watch.remaining import seconds_left
from barlow_atlas.workflow.jobs import Job, jobs_of, submissions, to_run

if TYPE_CHECKING:
    import pandas as pd

    from barlow_atlas.atlas.claims import Entry
    from barlow_atlas.report.page import StudyView

MEANS = ("prepare_data", "pretrain", "cool_down", "import_weights", "take_milestone", "collect")
"""Rules whose files are means to an end: a clone may do without them and be finished."""
SECONDS_BETWEEN_QUESTIONS = 60.0
Stamp = tuple[int, int]


def status(
    name: str,
    jobs: Sequence[Job],
    pending: AbstractSet[Path],
    active: Activity,
    seconds_left: float | None,
    updated: str,
    machine: str = "",
    snakemake: bool = False,
) -> dict[str, Any]:
    """What status.json says.

    Args:
        jobs: as `jobs.submissions` gives them.
        pending: the files of those that are not done.
        updated: the time of day, HH:MM:SS.

    Returns:
        Numbers of jobs (`queued`, `running`, `done`, `failed`, their sum `total`), `seconds_left`
        (None where it cannot be told), `running_now` (a text for each job), `losses_now` (for each
        of these the last losses that it told), `failed_now` (`name`, last lines `said` and the
        `command` that tries it again, for each), `machine` in words, `snakemake` (whether one works
        on this study), `finished`.
    """
    waiting = sum(job.file in pending for job in jobs)
    running, failed = len(active.running), len(active.failed)
    return {
        "study": name,
        "queued": waiting - running - failed,
        "running": running,
        "done": len(jobs) - waiting,
        "failed": failed,
        "total": len(jobs),
        "seconds_left": seconds_left,
        "running_now": [str(one) for one in active.running],
        "losses_now": [one.losses for one in active.running],
        "failed_now": [
            {"name": str(one), "said": one.said, "command": one.command} for one in active.failed
        ],
        "machine": machine,
        "snakemake": snakemake,
        "finished": waiting == 0,
        "updated": updated,
    }


def data(probes: "pd.DataFrame", methods: Sequence[str]) -> dict[str, Any]:
    """What data.json says: the curves.

    Args:
        probes: the tidy table of the probe files that are here, as `frames.probe_table` gives it.
        methods: all of the study's, in its order.
    """
    from barlow_atlas.atlas.curves import mean_curves
    from barlow_atlas.report.page.curve import curve_data

    return curve_data(mean_curves(probes), probes, methods)


def pending_files(
    jobs: Sequence[Job], made: Mapping[Path, float], wanted: Mapping[Path, float]
) -> set[Path]:
    """The files of the jobs that are still to run.

    They are what records, tables and reports lack, and what a Snakemake that runs was started to
    make and has not made since. Whether code or parameters have changed is Snakemake's to find out.

    Args:
        made: files that are here, with the times of their last change.
        wanted: files that Snakemake is to make, with the time of its start.
    """
    ends = {job.file for job in jobs if job.rule not in MEANS}
    again = {
        job.file
        for job in jobs
        if job.file in wanted and made.get(job.file, -math.inf) < wanted[job.file]
    }
    return to_run(jobs, ends, again, made.__contains__)


class Contents:
    """Parsed files, each read again only when it has changed.

    Args:
        parse: the milestones that a file holds; none if it is being written, or damaged.
    """

    def __init__(self, parse: Callable[[Path], list[Content]]) -> None:
        self._parse = parse
        self._known: dict[Path, tuple[Stamp, list[Content]]] = {}

    def read(self, files: Mapping[Path, os.stat_result]) -> tuple[bool, list[Content]]:
        """Whether anything has changed since the last call, and what the files hold."""
        stamps = {file: (stat.st_mtime_ns, stat.st_size) for file, stat in files.items()}
        if stamps == {file: stamp for file, (stamp, _) in self._known.items()}:
            changed = False
        else:
            changed = True
            self._known = {
                file: known
                if (known := self._known.get(file)) and known[0] == stamp
                else (stamp, self._parse(file))
                for file, stamp in stamps.items()
            }
        return changed, [content for _, contents in self._known.values() for content in contents]


def _probed(file: Path) -> list[Content]:
    """The milestone that a probe file is of."""
    from barlow_atlas.atlas.frames import probe_rows, signal_rows

    try:
        content: Content = json.loads(file.read_bytes())
        # All that the page reads of it.
        _ = [*probe_rows(content), *signal_rows(content), content["checkpoint"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [content]


Ask = Callable[[AbstractSet[Path], Mapping[Path, float | None], int], float | None]
"""Seconds until pending jobs are done; of those that run, what each says to need; jobs at once."""


class TimeLeft:
    """Seconds until a study is done; asked in the background, and counted down in between."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._asked: tuple[float, int] | None = None
        self._answered: tuple[float, float | None] = 0.0, None
        self._asking: threading.Thread | None = None
        self._at_once = 1

    def __call__(self, pending: AbstractSet[Path], active: Activity) -> float | None:
        """None where nothing runs, where it cannot be told, and until it is known."""
        if not active.running:
            return None
        self._at_once = max(self._at_once, len(active.running))
        now = time.monotonic()
        due = self._asked is None or (
            self._asked[1] != len(pending) and now - self._asked[0] > SECONDS_BETWEEN_QUESTIONS
        )
        if due and not (self._asking and self._asking.is_alive()):
            running = {one.job.file: one.seconds_left for one in active.running}
            question = pending, running, self._at_once
            self._asked, self._at_once = (now, len(pending)), 1
            self._asking = threading.Thread(target=self._answer, args=question, daemon=True)
            self._asking.start()
        at, left = self._answered
        return None if left is None else round(max(0.0, left - (now - at)), 1)

    def _answer(
        self, pending: AbstractSet[Path], running: Mapping[Path, float | None], at_once: int
    ) -> None:
        left = None
        with suppress(AtlasError):
            left = self._ask(pending, running, at_once)
        self._answered = time.monotonic(), left


class Live:
    """What is served of one study. Safe to be asked by several threads."""

    def __init__(self, name: str, study: Study, ask: Ask | None = None) -> None:
        self.name = name
        self.study = study
        self._jobs = jobs_of(name, study)
        self._submissions = submissions(self._jobs)
        self._folders = list(dict.fromkeys(job.file.parent for job in self._jobs))
        self._planned = {run.name: study.milestones_of(run) for run in study.runs()}
        self._probe_files = {
            (run.name, epoch): probe_file(name, run, epoch)
            for run in study.runs()
            for epoch in study.milestones_of(run)
        }
        self._runs = {record_file(name, run.name): run for run in study.runs()}
        self._methods = (*study.methods, *study.foreign)
        self._left = TimeLeft(ask or functools.partial(seconds_left, name, study))
        self._records, self._probed = Contents(self._recorded), Contents(_probed)
        self._data: bytes | None = None
        self._page: bytes | None = None
        self._status_lock = threading.Lock()
        self._contents_lock = threading.Lock()

    def status(self) -> dict[str, Any]:
        """What status.json says."""
        with self._status_lock:
            pending = self.pending()
            waiting = [job for job in self._submissions if job.file in pending]
            active = activity(self.name, waiting)
            left = self._left({job.file for job in waiting}, active)
            updated = datetime.now().strftime("%H:%M:%S")
            started = wanted(self.name)
            works = any(job.file in started for job in self._jobs) and snakemake_lives()
            jobs = self._submissions
            return status(self.name, jobs, pending, active, left, updated, load(), works)

    def pending(self) -> set[Path]:
        """The files of the jobs that are still to run."""
        made = {file: stat.st_mtime for file, stat in files_in(self._folders).items()}
        with self._contents_lock:
            known = self._read_records()
        for content in known:
            # What is recorded need not lie here once more.
            file = self._probe_files.get((content["name"], content["epoch"]))
            if file is not None:
                made.setdefault(file, made.get(record_file(self.name, content["name"]), -math.inf))
        return pending_files(self._jobs, made, wanted(self.name))

    def data(self) -> bytes:
        """data.json."""
        from barlow_atlas.atlas.frames import probe_table

        with self._contents_lock:
            contents = self._read()
            if self._data is None:
                from barlow_atlas.report.page import live_parts

                told = data(probe_table(contents), self._methods)
                told["parts"] = live_parts(self._view(contents))
                self._data = json.dumps(told, allow_nan=False).encode()
            return self._data

    def page(self) -> bytes:
        """The report's page if all is done, else one of the probe files that are here."""
        from barlow_atlas.report.page import study_page

        report = REPORTS / self.name / PAGE
        if report.is_file() and not self.pending():
            return report.read_bytes()
        with self._contents_lock:
            contents = self._read()
            if self._page is None:
                self._page = study_page(self._view(contents), live=True).encode()
            return self._page

    def _read(self) -> list[Content]:
        """The milestones of which there is a probe file, else those that are recorded.

        What was made of others is forgotten.
        """
        changed, probed = self._probed.read(_listed(self._probe_files.values()))
        if changed:
            self._data = self._page = None
        milestones = {
            (content["name"], content["epoch"]): content
            for content in (*self._read_records(), *probed)
        }
        return [milestones[place] for place in self._probe_files if place in milestones]

    def _read_records(self) -> list[Content]:
        changed, recorded = self._records.read(_listed(self._runs))
        if changed:
            self._data = self._page = None
        return recorded

    def _recorded(self, file: Path) -> list[Content]:
        with suppress(RecordError, OSError):
            return [*recorded(self.name, self._runs[file]).milestones.values()]
        return []

    def _view(self, contents: Sequence[Mapping[str, Any]]) -> "StudyView":
        """Without figures and tables, which are drawn once the study is done."""
        from barlow_atlas.atlas.curves import mean_curves
        from barlow_atlas.atlas.effects import effects
        from barlow_atlas.atlas.frames import probe_table, signal_table
        from barlow_atlas.atlas.ledger import study_claims
        from barlow_atlas.atlas.lines import read_lines
        from barlow_atlas.atlas.runs import runs_table
        from barlow_atlas.report.study import study_view

        probes = probe_table(contents)
        lines = read_lines(contents, self._planned)
        tables = {
            "probes": probes,
            "runs": runs_table(self._planned, contents),
            "curves": mean_curves(probes),
            "signals": signal_table(contents),
            "effects": effects(lines),
            "claims": study_claims(self._claims, lines),
        }
        return study_view(self.name, self.study, tables.__getitem__)

    @functools.cached_property
    def _claims(self) -> "list[Entry]":
        """The ledger's entries about this study."""
        from barlow_atlas.atlas.studies import claims_of

        return claims_of(self.name, self.study)


def load() -> str:
    """How busy this machine is: its cores, and its GPUs where the driver tells."""
    told = []
    with suppress(OSError):
        told.append(f"{os.getloadavg()[0]:.1f} jobs on {os.cpu_count()} cores")
    with suppress(OSError, subprocess.SubprocessError):
        asked = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader"]
        gpus = subprocess.run(asked, capture_output=True, text=True, timeout=2, check=True).stdout
        told += [f"GPU {place}: {line}" for place, line in enumerate(gpus.splitlines())]
    return " \N{MIDDLE DOT} ".join(told)


def _listed(files: Iterable[Path]) -> dict[Path, os.stat_result]:
    """Those of some files that are here."""
    files = tuple(files)
    listing = files_in(dict.fromkeys(file.parent for file in files))
    return {file: listing[file] for file in files if file in listing}
