"""Is what is kept in git what the records give?"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from barlow_atlas.atlas.studies import is_analysed
from barlow_atlas.steps.analyse import analyse
from barlow_atlas.steps.collect import collect
from barlow_atlas.steps.ledger import write_ledger
from barlow_atlas.steps.report import report
from barlow_atlas.study.file import find_studies, load_study, study_file
from barlow_atlas.study.paths import PARAMS, is_kept


def differences(names: list[str], say: Callable[[str], None]) -> Iterator[tuple[Path, str]]:
    """Makes the tables, figures and pages of studies anew from their records, and compares.

    Over all studies, with none named, the ledger too. Studies are made on all cores.

    Args:
        say: is told of each study that is made.

    Yields:
        Each file that was made, and what is wrong with the stored one: "" if it is the same to the
        byte, else "differs" or "is not here"; "is not kept" of what git does not hold.
    """
    with TemporaryDirectory() as folder:
        root = Path(folder)
        wanted = names or [*filter(is_analysed, find_studies(PARAMS))]
        cores = max(1, min(len(wanted), len(os.sched_getaffinity(0))))
        say(f"making anew from the records: {', '.join(wanted)}")
        # Started afresh: a copy of a process that has threads may wait for ever.
        with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
            making = {pool.submit(_make, name, root): name for name in wanted}
            for number, made in enumerate(as_completed(making), start=1):
                made.result()
                say(f"{number} of {len(wanted)} studies made anew: {making[made]}")
        if not names:
            write_ledger(root)
            say("the ledger made anew")
        for file in sorted(path for path in root.rglob("*") if path.is_file()):
            stored = file.relative_to(root)
            if not is_kept(stored):
                yield stored, "is not kept"
            elif not stored.is_file():
                yield stored, "is not here"
            else:
                yield stored, "" if stored.read_bytes() == file.read_bytes() else "differs"


def _make(name: str, root: Path) -> None:
    study = load_study(study_file(PARAMS, name))
    for step in (collect, analyse, report):
        step(name, study, root)
