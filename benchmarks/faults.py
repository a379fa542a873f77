"""Makes benchmarks/faults.md: what each fault does to a run, and what it costs.

python benchmarks/faults.py                    all faults (root for the disks and for Slurm)
python benchmarks/faults.py --part machine     those that need no Slurm only; or `slurm`, those
                                               that do: the page's other table stays as it is
python benchmarks/faults.py --cluster FILE     without Slurm's being made again: their rows are
                                               those that FAULT_ROWS=FILE has from the tests
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))
from all_faults import TRAINER, WORKFLOW, kills
from row import Row
from trainer_faults import NotPossibleHere
from workflow_faults import Workflows
from workspace import ROOT, Stages

PAGE = ROOT / "benchmarks/faults.md"
CLUSTER_TESTS = "tests/cluster/test_faults_on_slurm.py"
CLUSTER_ROWS = "benchmarks/cluster_faults.jsonl"
ON_SLURM = "\n## On Slurm\n"
# Written by hand, and kept: what other tests assert, of which nothing is measured.
IN_TESTS = "\n## In the executor's tests\n"
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


def make_cluster_rows() -> None:
    """Runs the cluster tests, which write a row for each fault, broken or not."""
    (ROOT / CLUSTER_ROWS).unlink(missing_ok=True)
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", CLUSTER_TESTS],
        cwd=ROOT,
        env=os.environ | {"FAULT_ROWS": CLUSTER_ROWS, "CI": "yes"},
        check=False,
    )
    if tests.returncode not in (0, 1):  # 1: some failed, and say so in their rows
        sys.exit("the cluster tests did not run to their end: the page stays as it is")


def read_cluster_rows(file: Path) -> list[Row]:
    return [Row(**json.loads(line)) for line in file.read_text().splitlines()]


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


def origin(minutes: float | None, libraries: str) -> str:
    """Who made a table, when, and on what."""
    command = " ".join(["python", "benchmarks/faults.py", *sys.argv[1:]])
    duration = "" if minutes is None else f" in {minutes:.0f} minutes"
    return f"""`{command}` made this table on {time.strftime("%Y-%m-%d")}{duration}, on
{platform.system()} {platform.machine()} with {os.cpu_count()} CPU cores (no GPU used);
Python {platform.python_version()}, {libraries}."""


def machine_part(found: list[Row], minutes: float) -> str:
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return f"""# Faults

{origin(minutes, libraries)}

The run that is disturbed: Mixed Barlow Twins on scikit-learn's digits, milestones 0, 4 and 12 (60
under Snakemake), 8 steps an epoch. States are saved every 0.05 s unless the row says otherwise;
under Snakemake every 60 s, as by default. *Work lost* is what had to be trained again, in whole
steps, counted in the trainer's own log; the step that a kill interrupts is not in it. *Same
results*: weights, lineage and training metrics of all milestones equal those of the undisturbed
run, byte for byte. Of a trainer's faults it was also asserted that no step was left out and that
no half-written file is left.

{table(found)}
"""


def slurm_part(found: list[Row], minutes: float | None) -> str:
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES if name != "dvc")
    return f"""{ON_SLURM}
{origin(minutes, libraries)}

Its rows are what `FAULT_ROWS={CLUSTER_ROWS} python -m pytest {CLUSTER_TESTS}`
has measured: the same training up to epoch 24 as one job of `profiles/slurm`, on a Slurm that the
tests start on this machine (requeued jobs wait 25 s there). All faults are made side by side.
States are saved every 5 s, and until the fault has happened each step is made to last a second.
*Work lost* is the number of steps trained again times what an undisturbed step takes. Of every row
it was also asserted that never two trainers wrote steps at the same time and that no step was left
out.

{table(found)}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--part", choices=("machine", "slurm"), help="one of the tables only")
    parser.add_argument("--kills", type=int, default=200, help="random SIGKILLs (default: 200)")
    parser.add_argument("--cluster", type=Path, metavar="FILE", help="rows of the cluster tests")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="some of the machine's"
    )
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args()
    measured, heading, written = (PAGE.read_text() if PAGE.exists() else "").partition(IN_TESTS)
    machine, _, slurm = measured.partition(ON_SLURM)
    slurm = ON_SLURM + slurm if slurm else ""
    found: list[Row] = []
    if options.part != "slurm":
        begin = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            found += rows(Path(folder), options.kills, options.only)
        machine = machine_part(found, (time.monotonic() - begin) / 60)
    if options.part != "machine" and not options.only:
        begin = time.monotonic()
        if not options.cluster:
            make_cluster_rows()
        minutes = None if options.cluster else (time.monotonic() - begin) / 60
        on_slurm = read_cluster_rows(options.cluster or ROOT / CLUSTER_ROWS)
        slurm = slurm_part(on_slurm, minutes)
        found += on_slurm
    options.output.write_text(machine + slurm + heading + written)
    promised = [row for row in found if not row.happened.startswith("not tried")]
    return int(not all(row.equal for row in promised))


if __name__ == "__main__":
    sys.exit(main())
