"""Records -> tidy tables."""

from pathlib import Path

from barlow_atlas.atlas import frames, records, runs
from barlow_atlas.atlas.studies import planned
from barlow_atlas.study.errors import StudyError
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import RESULTS, probe_file


def collect(name: str, study: Study, root: Path = Path()) -> list[Path]:
    """Gathers what is recorded of a study into tidy tables.

    Args:
        root: below which the tables are written, as `results/<study>/`.

    Returns:
        The probe files of the milestones that are not recorded.

    Raises:
        StudyError: none is recorded.
        RecordError: a record is damaged.
        WriteError: a table cannot be written; the old one is as it was.
    """
    contents = records.contents(name, study)
    if not contents:
        raise StudyError(
            f"no milestone of {name} is recorded, so there is nothing to report. Run "
            f"`snakemake --profile profiles/local --config study={name} -- all`"
        )
    results = root / RESULTS / name
    frames.write_table(frames.probe_table(contents), results / "probes.csv", digits=None)
    frames.write_table(frames.signal_table(contents), results / "signals.csv", digits=None)
    frames.write_table(runs.runs_table(planned(study), contents), results / "runs.csv")
    there = {(content["name"], content["epoch"]) for content in contents}
    return [
        probe_file(name, run, epoch)
        for run in study.runs()
        for epoch in study.milestones_of(run)
        if (run.name, epoch) not in there
    ]
