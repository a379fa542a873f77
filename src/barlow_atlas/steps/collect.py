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
    """
    contents = records.contents(name, study)
    if not contents:
        raise StudyError(
            f"no milestone of {name} is recorded, so there is nothing to report. Run "
            f"`snakemake --profile profiles/local --config study={name} -- all`"
        )
    results = root / RESULTS / name
    results.mkdir(parents=True, exist_ok=True)
    frames.probe_table(contents).to_csv(results / "probes.csv", index=False)
    frames.signal_table(contents).to_csv(results / "signals.csv", index=False)
    frames.write_table(runs.runs_table(planned(study), contents), results / "runs.csv")
    there = {(content["name"], content["epoch"]) for content in contents}
    return [
        probe_file(name, run, epoch)
        for run in study.runs()
        for epoch in study.milestones_of(run)
        if (run.name, epoch) not in there
    ]
