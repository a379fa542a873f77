"""What a study took, beside what `plan` expected: `python benchmarks/study_cost.py STUDY`.

Writes `benchmarks/cost-STUDY.csv`, a row for each of the study's jobs that ran here, and prints the
sums in Markdown. Wall-clock and CPU time are those of Snakemake's benchmark files below
`logs/STUDY`: a job's own program, from its start to its end. A job that was interrupted counts from
its last start only.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from barlow_atlas.study.file import load_study, study_file
from barlow_atlas.study.models import Run
from barlow_atlas.study.paths import PARAMS
from barlow_atlas.tools.costs import read_measurements
from barlow_atlas.tools.durations import Expectation, kind_of
from barlow_atlas.workflow.jobs import Job, jobs_of, step_file, submissions

COLUMNS = ("rule", "method", "embedding_dim", "seed", "epoch", "planned_s", "wall_s", "cpu_s")


def job_times(name: str) -> pd.DataFrame:
    """The study's jobs that have run here, with planned and measured seconds, columns `COLUMNS`."""
    study = load_study(study_file(PARAMS, name))
    jobs = [job for job in submissions(jobs_of(name, study)) if isinstance(job.run, Run)]
    expected = Expectation(study, read_measurements())

    def rows() -> Iterator[Sequence[object]]:
        for job in jobs:
            file = step_file(name, job, ".tsv")
            if file.is_file() and isinstance(job.run, Run):
                computed = expected.computed(job)
                planned = None if computed is None else expected.start_s[kind_of(job)] + computed
                yield *_named(job), planned, *_measured(file)

    return pd.DataFrame(rows(), columns=list(COLUMNS))


def _named(job: Job) -> tuple[object, ...]:
    assert isinstance(job.run, Run)
    return job.rule, job.run.method, job.run.embedding_dim, job.run.seed, job.epoch


def _measured(file: Path) -> tuple[float, float]:
    """Wall-clock and CPU seconds of one benchmark file."""
    row = pd.read_csv(file, sep="\t").iloc[-1]
    return float(row["s"]), float(row["cpu_time"])


def sums(times: pd.DataFrame) -> pd.DataFrame:
    """Hours by rule, method and width, and of all."""
    hours = times.assign(
        **{column: times[column] / 3600 for column in ("planned_s", "wall_s", "cpu_s")}
    ).rename(columns={"planned_s": "planned, h", "wall_s": "wall clock, h", "cpu_s": "CPU, h"})
    grouped = hours.groupby(["rule", "method", "embedding_dim"], sort=False)
    parts = grouped[["planned, h", "CPU, h", "wall clock, h"]].sum()
    parts.insert(0, "jobs", grouped.size())
    whole = parts.sum().to_frame(("all", "", "")).T.astype(parts.dtypes)
    return pd.concat([parts, whole]).rename_axis(parts.index.names).reset_index()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study")
    name = parser.parse_args().study
    times = job_times(name)
    if times.empty:
        parser.exit(1, f"logs/{name} holds no benchmark files: no job of {name} has run here\n")
    folded = name.replace("/", "-")
    times.to_csv(f"benchmarks/cost-{folded}.csv", index=False, float_format="%.2f")
    print(sums(times).to_markdown(index=False, floatfmt=".2f"))
