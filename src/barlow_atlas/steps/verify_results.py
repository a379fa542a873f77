"""Is what is kept in git what the records give?"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from barlow_atlas.atlas.studies import is_analysed
from barlow_atlas.steps.analyse import analyse
from barlow_atlas.steps.collect import collect
from barlow_atlas.steps.ledger import write_ledger
from barlow_atlas.steps.report import report
from barlow_atlas.study.file import find_studies, load_study, study_file
from barlow_atlas.study.paths import PARAMS, is_kept


def differences(names: list[str]) -> Iterator[tuple[Path, str]]:
    """Makes the tables, figures and pages of studies anew from their records, and compares.

    Over all studies, with none named, the ledger too.

    Yields:
        Each file that was made, and what is wrong with the stored one: "" if it is the same to the
        byte, else "differs" or "is not here"; "is not kept" of what git does not hold.
    """
    with TemporaryDirectory() as folder:
        root = Path(folder)
        for name in names or filter(is_analysed, find_studies(PARAMS)):
            study = load_study(study_file(PARAMS, name))
            for step in (collect, analyse, report):
                step(name, study, root)
        if not names:
            write_ledger(root)
        for made in sorted(path for path in root.rglob("*") if path.is_file()):
            stored = made.relative_to(root)
            if not is_kept(stored):
                yield stored, "is not kept"
            elif not stored.is_file():
                yield stored, "is not here"
            else:
                yield stored, "" if stored.read_bytes() == made.read_bytes() else "differs"
