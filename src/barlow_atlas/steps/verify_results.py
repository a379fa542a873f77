"""Is what is stored what the probe files give?"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from barlow_atlas.atlas.stored import (
    analysed,
)
from barlow_atlas.steps.analyse import analyse
from barlow_atlas.steps.collect import collect
from barlow_atlas.steps.ledger import write_ledger
from barlow_atlas.steps.report import report
from barlow_atlas.study.file import load_study, study_file
from barlow_atlas.study.paths import PARAMS


def differences(names: list[str]) -> Iterator[tuple[Path, str]]:
    """Makes the tables, figures and pages of studies anew from their probe files, and compares.

    Over all studies, with none named, the ledger too.

    Yields:
        Each file that was made, and what is wrong with the stored one: "" if it is the same to the
        byte, else "differs" or "is not here".
    """
    with TemporaryDirectory() as folder:
        made = Path(folder)
        for name in names or analysed():
            study = load_study(study_file(PARAMS, name))
            for step in (collect, analyse, report):
                step(name, study, made)
        if not names:
            write_ledger(made)
        for file in sorted(path for path in made.rglob("*") if path.is_file()):
            stored = file.relative_to(made)
            if not stored.is_file():
                yield stored, "is not here"
            else:
                yield stored, "" if stored.read_bytes() == file.read_bytes() else "differs"
