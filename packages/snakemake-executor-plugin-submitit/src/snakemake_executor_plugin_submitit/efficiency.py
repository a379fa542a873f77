"""What jobs asked for beside what they used, from Slurm's accounting, as a CSV file."""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_submitit.call import call
from snakemake_executor_plugin_submitit.states import ENDED

_ANSWER_WITHIN_S = 120.0
# Seconds in which accounting has the end of the last jobs, whose results may be there before it.
_ACCOUNTED_WITHIN_S = 30.0
_ASK_AGAIN_S = 2.0
_JOBS_OF_A_QUESTION = 500
_FORMAT = "JobID,State,ElapsedRaw,AllocCPUS,AllocNodes,TotalCPU,AllocTRES,ReqMem,MaxRSS"
_MEMORY = re.compile(r"(?:^|,)mem=([^,]+)")  # of "billing=1,cpu=1,mem=200M,node=1"
_TO_MIB = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2, "": 1 / 1024**2}
COLUMNS = (
    *("job", "rule", "state", "elapsed_s", "cpus", "cpu_s", "cpu_efficiency"),
    *("memory_asked_mib", "memory_used_mib", "memory_efficiency"),
)


@dataclass
class Usage:
    """Memory is 0 where Slurm does not tell it.

    ``asked_mib``: what Slurm set aside for the job, on all of its nodes; of one that never started
    what it asked for.  ``used_mib``: the most that one task of the job had at a time.
    """

    state: str
    elapsed_s: int
    cpus: int
    cpu_s: float
    asked_mib: float
    used_mib: float = 0.0


def parse_usage(text: str) -> dict[str, Usage]:
    """By job id, from ``sacct --parsable2 --noheader --format=...``, a job before its steps."""
    jobs: dict[str, Usage] = {}
    for line in text.splitlines():
        identifier, state, elapsed, cpus, nodes, cpu, given, asked, rss = line.split("|")
        job_id, is_step, _ = identifier.partition(".")
        if not is_step:
            per = int(cpus) if asked.endswith("c") else int(nodes) if asked.endswith("n") else 1
            # A short job's end is accounted before its request, which is "16?" or 0 for a while.
            set_aside = _MEMORY.search(given)
            memory = (
                _mib(set_aside[1])
                if set_aside
                else per * _mib(asked.rstrip("cn"))  # by CPU or node in Slurm before 21.08
            )
            jobs[job_id] = Usage(state.split()[0], int(elapsed), int(cpus), _seconds(cpu), memory)
        elif job_id in jobs:
            jobs[job_id].used_mib = max(jobs[job_id].used_mib, _mib(rss))
    return jobs


def _seconds(text: str) -> float:
    """ "1-02:03:04" or "03:04.567"."""
    days, _, rest = text.rpartition("-")
    total = 0.0
    for part in rest.split(":"):
        total = total * 60 + float(part or 0)
    return total + 86400 * int(days or 0)


def _mib(text: str) -> float:
    found = re.fullmatch(r"([\d.]+)([KMGT]?)", text)
    return 0.0 if found is None else float(found.group(1)) * _TO_MIB[found.group(2)]


def write_report(file: Path, rules: Mapping[str, str]) -> int:
    """Writes a line for each job in ``rules`` (the rule by job id) that sacct knows of.

    Of a job that was requeued, the last run counts.  The jobs have ended; accounting is given some
    seconds to know that.  Returns the number of lines; raises ``WorkflowError`` if sacct does not
    tell or the file cannot be written.
    """
    usages = _ask(rules)
    deadline = time.monotonic() + _ACCOUNTED_WITHIN_S
    while open_ones := [i for i in rules if i not in usages or usages[i].state not in ENDED]:
        if time.monotonic() > deadline:
            break
        time.sleep(_ASK_AGAIN_S)
        usages |= _ask(open_ones)
    found = [(job_id, rule, usages[job_id]) for job_id, rule in rules.items() if job_id in usages]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(COLUMNS)
            for job_id, rule, usage in found:
                writer.writerow([job_id, rule, *_row(usage)])
    except OSError as error:
        raise WorkflowError(f"The report on efficiency cannot be written: {error}") from error
    return len(found)


def _ask(job_ids: Iterable[str]) -> dict[str, Usage]:
    bases = sorted({job_id.partition("_")[0] for job_id in job_ids}, key=int)
    usages: dict[str, Usage] = {}
    for start in range(0, len(bases), _JOBS_OF_A_QUESTION):
        jobs = ",".join(bases[start : start + _JOBS_OF_A_QUESTION])
        command = ["sacct", "--parsable2", "--noheader", "--allusers", f"--format={_FORMAT}"]
        answer = call([*command, f"--jobs={jobs}"], _ANSWER_WITHIN_S)
        if answer.stdout is None:
            raise WorkflowError(f"No report on efficiency, as sacct failed: {answer.complaint}")
        usages |= parse_usage(answer.stdout)
    return usages


def _row(usage: Usage) -> list[str]:
    cpu = usage.elapsed_s * usage.cpus
    return [
        usage.state,
        str(usage.elapsed_s),
        str(usage.cpus),
        f"{usage.cpu_s:.1f}",
        f"{usage.cpu_s / cpu:.3f}" if cpu else "",
        f"{usage.asked_mib:.0f}" if usage.asked_mib else "",
        f"{usage.used_mib:.0f}" if usage.used_mib else "",
        f"{usage.used_mib / usage.asked_mib:.3f}" if usage.used_mib and usage.asked_mib else "",
    ]
