"""Probe files -> tidy tables."""

from pathlib import Path

from barlow_atlas.atlas import frames, runs
from barlow_atlas.atlas.stored import DIGITS, HERE, contents, folder_at, planned, probe_files
from barlow_atlas.study.errors import StudyError
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import RESULTS


def collect(name: str, study: Study, into: Path = HERE) -> list[Path]:
    """Gathers the probe files that are here into tidy tables.

    Returns:
        The probe files that are missing.

    Raises:
        StudyError: none is here.
    """
    here = contents(name, study)
    if not here:
        raise StudyError(
            f"no probe file of {name} is here, so there is nothing to report. Run "
            f"`snakemake --profile profiles/local --config study={name} -- all`"
        )
    results = folder_at(into / RESULTS / name)
    frames.probe_table(here).to_csv(results / "probes.csv", index=False)
    frames.signal_table(here).to_csv(results / "signals.csv", index=False)
    made = runs.runs_table(planned(study), here)
    made.to_csv(results / "runs.csv", index=False, float_format=DIGITS)
    return [file for file in probe_files(name, study) if not file.is_file()]
