"""What a run's jobs have found -> its record, which is kept in git."""

from collections.abc import Sequence

from barlow_atlas.atlas.records import current, encoded, recorded, same_numbers
from barlow_atlas.atomic import write_atomically
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import record_file


def record(name: str, study: Study, run_names: Sequence[str]) -> None:
    """Joins what is here of runs with what was recorded of them before; nothing leaves no record.

    A record that says the same numbers already stays, with who made them first: so a repetition
    changes nothing in git.

    Raises:
        StudyError: no such run.
        RecordError: a record or a job's file is damaged.
    """
    for run_name in run_names:
        run = study.run(run_name)
        now = current(name, study, run)
        if not (now.training or now.milestones):
            continue
        file = record_file(name, run.name)
        if same_numbers(recorded(name, run), now):
            file.touch()
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, encoded(name, run.name, now))
