"""Makes benchmarks/faults.md: what each fault does to a run, and what it costs.

python benchmarks/faults.py                    all faults of this machine (root for the disks)
python benchmarks/faults.py --cluster rows/    and those of the cluster tests, from files of
                                               JSON lines with the keys of `Row`
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/faults"))
from all_faults import TRAINER, WORKFLOW, kills
from row import Row
from trainer_faults import NotPossibleHere
from workflow_faults import Workflows
from workspace import ROOT, Stages

LIBRARIES = ("torch", "numpy", "snakemake", "dvc", "submitit")


def rows(folder: Path, count: int, only: list[str]) -> Iterator[Row]:
    """Makes the faults one after the other; a broken promise is a row too."""
    trainer = {
        name: fault
        for name, fault in {**kills(count), **TRAINER}.items()
        if not only or name in only
    }
    workflow = {name: fault for name, fault in WORKFLOW.items() if not only or name in only}
    stages = Stages.make(folder / "stages") if trainer else None
    workflows = Workflows.make(folder / "workflows") if workflow else None
    for made, faults in ((stages, trainer), (workflows, workflow)):
        for name, fault in faults.items():
            begin = time.monotonic()
            try:
                row = fault(made, folder / name)
            except NotPossibleHere as reason:
                row = Row(name, f"not tried: {reason}", 0.0, "", False)
            except AssertionError as error:
                row = Row(name, f"BROKEN: {str(error).strip().partition(chr(10))[0]}", 0, "", False)
            print(f"{time.monotonic() - begin:6.1f} s  {row}", flush=True)
            yield row


def cluster_rows(place: Path) -> list[Row]:
    """Rows that the cluster tests wrote: a file of JSON lines, or a folder of such files."""
    files = sorted(place.glob("*.jsonl")) if place.is_dir() else [place]
    return [Row(**json.loads(line)) for file in files for line in file.read_text().splitlines()]


def table(found: list[Row]) -> str:
    lines = [
        "| fault | what happened | work lost, s of training | work repeated | same results |",
        "|---|---|---:|---|---|",
    ]
    for row in found:
        same = "yes" if row.equal else "**no**"
        if row.happened.startswith("not tried"):
            same = ""
        cells = (row.fault, row.happened, f"{row.lost_s:g}", row.repeated, same)
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines)


def page(found: list[Row], minutes: float) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    command = " ".join(["python", "benchmarks/faults.py", *sys.argv[1:]])
    return f"""# Faults

`{command}` made this table on {time.strftime("%Y-%m-%d")} in {minutes:.0f} minutes, on
{platform.system()} {platform.machine()} with {os.cpu_count()} CPU cores (no GPU used);
Python {platform.python_version()}, {versions}.

The run that is disturbed: Mixed Barlow Twins on scikit-learn's digits, milestones 0, 4 and 12 (60
under Snakemake), 8 steps an epoch. States are saved every 0.05 s unless the row says otherwise;
under Snakemake every 60 s, as by default. *Work lost* is what had to be trained again, in whole
steps, counted in the trainer's own log; the step that a kill interrupts is not in it. *Same
results*: weights, lineage and training metrics of all milestones equal those of the undisturbed
run, byte for byte. Of a trainer's faults it was also asserted that no step was left out and that
no half-written file is left.

{table(found)}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="random SIGKILLs (default: 200)")
    parser.add_argument("--cluster", type=Path, metavar="PATH", help="rows of the cluster tests")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="some faults only")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/faults.md")
    options = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        found = list(rows(Path(folder), options.kills, options.only))
    found += cluster_rows(options.cluster) if options.cluster else []
    options.output.write_text(page(found, (time.monotonic() - begin) / 60))
    promised = [row for row in found if not row.happened.startswith("not tried")]
    return int(not all(row.equal for row in promised))


if __name__ == "__main__":
    sys.exit(main())
