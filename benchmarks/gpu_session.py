"""What a lent GPU is asked in twelve minutes, in one command:

    python benchmarks/gpu_session.py --to FOLDER [--data IMAGES] [--dry]

The machine and its ceilings; 200 steps on CPU and GPU; tests that need a GPU; speed beside the
plain rival and lightly; a chain of `fixed-rate/cifar10`; times for `plan`. Each part is a program
of its own with a time limit of its own, the most telling first. After each, FOLDER/session.json
says how it went; what it printed and measured lies beside it. A part that fails or is late stops no
other. FOLDER/costs.json is benchmarks/costs.json with the new times: put in its place, `plan` takes
it.

--data: where CIFAR-10's files are, for the parts that train on them. --dry: on the CPU, everything
tiny, in a minute of processor time: what can be tested of this without a GPU.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

TOTAL_S = 12 * 60
DRY_S = 3600
"""For each part of a dry session, in which nothing is timed: a busy machine may take its time."""
GPU_TESTS = (
    "tests/unit/training/test_training_on_a_gpu.py",
    "tests/unit/nn/test_views.py::test_views_on_a_gpu_equal_those_on_the_cpu_without_waiting",
    "tests/unit/data/test_batches.py",
)
STEPS = 200
TOLD = (1, 10, 50, 100, 200)
"""Steps after which the losses are told."""
BENCHMARKS = ("resnet18", "rivals", "objective", "views", "knn")
STUDY, RUN, UNTIL = "fixed-rate/cifar10", "bt-d1024-e1000-reference-s1", 5


@dataclass(frozen=True)
class Part:
    name: str
    command: Sequence[str]
    limit_s: float
    needs_data: bool = False


@dataclass
class Outcome:
    name: str
    status: str
    """passed, failed, late (it was ended at its limit), or left out, with the reason."""
    seconds: float
    limit_s: float
    command: str


def parts(folder: Path, dry: bool) -> list[Part]:
    """In the order of their worth, with limits that together are less than TOTAL_S."""
    python = sys.executable

    def own(name: str) -> tuple[str, ...]:
        return (python, __file__, "--part", name, "--to", str(folder), *["--dry"] * dry)

    asked = [
        Part("machine", own("machine"), 20),
        Part("agreement", own("agreement"), 60),
        Part("tests", (python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *GPU_TESTS), 120),
        Part("speed", own("speed"), 210),
        Part("chain", own("chain"), 200, needs_data=not dry),
        Part("costs", own("costs"), 100, needs_data=not dry),
    ]
    return [dataclasses.replace(part, limit_s=DRY_S) for part in asked] if dry else asked


def session(folder: Path, chosen: Sequence[Part], total_s: float, data: Path | None) -> int:
    """Runs the parts, writes session.json after each, and returns how many did not pass."""
    folder.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + total_s
    outcomes: list[Outcome] = []
    for part in chosen:
        left = ends - time.monotonic()
        if part.needs_data and data is None:
            outcomes.append(_left_out(part, "left out: it needs --data"))
        elif left < 1:
            outcomes.append(_left_out(part, "left out: no time was left"))
        else:
            outcomes.append(carried_out(part, folder, min(part.limit_s, left), data))
        told = outcomes[-1]
        print(f"{told.name}: {told.status} ({told.seconds:.0f} s)", flush=True)
        rows = [dataclasses.asdict(each) for each in outcomes]
        (folder / "session.json").write_text(json.dumps(rows, indent=1) + "\n")
    return sum(each.status != "passed" for each in outcomes)


def carried_out(part: Part, folder: Path, limit_s: float, data: Path | None) -> Outcome:
    """One part, in a session of processes of its own, which is killed at the limit."""
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch,
        (folder / f"{part.name}.log").open("wb") as said,
    ):
        # What is killed does not remove its own temporary files.
        environment = os.environ | {"TMPDIR": scratch, "PYTHONUNBUFFERED": "1"}
        if data is not None:
            environment["BARLOW_ATLAS_DATA"] = str(data)
        process = subprocess.Popen(
            part.command, env=environment, stdout=said, stderr=said, start_new_session=True
        )
        try:
            status = "failed" if process.wait(limit_s) else "passed"
        except subprocess.TimeoutExpired:
            status = "late"
        finally:
            end_session(process.pid)
            process.wait()
    spent = round(time.monotonic() - began, 1)
    return Outcome(part.name, status, spent, part.limit_s, " ".join(part.command))


def end_session(leader: int) -> None:
    """Kills what a part has started, also what stands still in a group of its own (apart.py)."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # After the program's name in brackets: state, parent, group, session, ...
            if int(stat.read_text().rpartition(")")[2].split()[3]) == leader:
                os.kill(int(stat.parent.name), signal.SIGKILL)


def _left_out(part: Part, why: str) -> Outcome:
    return Outcome(part.name, why, 0.0, part.limit_s, " ".join(part.command))


def machine(folder: Path, dry: bool) -> None:
    """What is measured on."""
    import torch

    from barlow_atlas.store.provenance import device_name
    from barlow_atlas.tools.costs import processor

    device = torch.device("cpu" if dry else "cuda")
    print(f"{processor()}, {device_name(device)}, torch {torch.__version__}")
    if not dry:
        ceilings()
    if shutil.which("nvidia-smi"):
        subprocess.run(["nvidia-smi"], check=False)


def ceilings() -> None:
    """Products in each type, copies within the device's memory, and the start of a kernel."""
    import torch

    def per_second(computation: Callable[[], object], amount: float, times: int = 20) -> float:
        computation()
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(times):
            computation()
        torch.cuda.synchronize()
        return amount * times / (time.perf_counter() - began)

    for kind in (torch.float32, torch.bfloat16):
        x = torch.randn(8192, 8192, device="cuda", dtype=kind)
        flops = per_second(lambda x=x: x @ x, 2 * 8192**3)
        print(f"products in {kind}: {flops / 1e12:.1f} TFLOP/s")
    y = torch.empty(1 << 30, device="cuda", dtype=torch.uint8)
    print(f"copies: {per_second(lambda: y.clone(), 2 * y.nbytes) / 1e12:.2f} TB/s")
    z = torch.zeros(1, device="cuda")
    print(f"kernels: {per_second(lambda: z.add_(1), 1, 20_000):.0f} a second")


def agreement(folder: Path, dry: bool) -> None:
    """The same steps on CPU and GPU, of BT and MIX of the demo: how far losses and weights part."""
    import numpy as np
    import torch

    from barlow_atlas.nn.devices import device_for
    from barlow_atlas.tools.bench.images import DEMO_IMAGES, demo, digits
    from barlow_atlas.tools.bench.training import trained

    other = device_for("cpu" if dry else "cuda", demo("bt").threads)
    steps = 2 if dry else STEPS
    images = digits()[0][:DEMO_IMAGES]
    rows = []
    for method in ("bt", "mix"):
        losses, weights = [], []
        for device in (torch.device("cpu"), other):
            state, progress = trained(demo(method), images, device)
            losses.append([float(next(progress).terms["loss"]) for _ in range(steps)])
            named = state.network.state_dict().values()
            weights.append(torch.cat([each.detach().cpu().double().flatten() for each in named]))
        both = np.array(losses)
        apart = np.abs(both[1] / both[0] - 1)
        distance = float((weights[1] - weights[0]).norm() / weights[0].norm())
        rows.append(
            {
                "method": method,
                "steps": steps,
                "loss_apart": {step: float(apart[step - 1]) for step in TOLD if step <= steps},
                "largest_loss_apart": float(apart.max()),
                "weights_apart": distance,
            }
        )
        print(rows[-1])
    (folder / "agreement.json").write_text(json.dumps(rows, indent=1) + "\n")
    # The first step has had no time to amplify rounding; the tests allow as much.
    assert all(row["loss_apart"][1] < 0.01 for row in rows), rows


def speed(folder: Path, dry: bool) -> None:
    """`bench` on the device; the report is written after each benchmark, and one may fail."""
    import torch

    from barlow_atlas.tools import bench
    from barlow_atlas.tools.bench import neighbours, rivals
    from barlow_atlas.tools.bench.images import cifar10, demo

    device = torch.device("cpu" if dry else "cuda")
    names: Sequence[str] = BENCHMARKS
    if dry:
        tiny = cifar10(
            "bt", image_size=8, batch_size=16, embedding_dim=16, backbone=demo("bt").backbone
        )
        bench.BENCHMARKS["rivals"] = lambda on: rivals.records(on, None, {"tiny": (tiny, 1)}, 1)
        bench.BENCHMARKS["knn"] = lambda on: neighbours.records(on, 400, 600, 16, 20, 1)
        names = ("rivals", "knn")
    failed = []
    for name in names:
        report = folder / "performance.json"
        try:
            bench.run([name], device, report, None, f"bench --only {name}", print)
        except Exception:
            traceback.print_exc()
            failed.append(name)
    assert not failed, failed


def chain(folder: Path, dry: bool) -> None:
    """A run's first milestones trained and probed, in a copy of the repository."""
    from barlow_atlas.study.file import load_study
    from barlow_atlas.study.paths import PARAMS
    from barlow_atlas.tools.bench.startup import copied

    with copied() as copy:
        study, run, until = STUDY, RUN, UNTIL
        if dry:
            copy.write_demo("demo", seeds=1, milestones=[0, 1, 100])
            study, run, until = "demo", load_study(PARAMS / "demo.yaml").trained()[0].name, 1
        of_run = ("--study", study, "--run", run, "--device", "cpu" if dry else "cuda")
        rows = []
        for step in (
            ("prepare-data", "--study", study),
            ("pretrain", *of_run, "--until", "0"),
            ("pretrain", *of_run, "--until", str(until)),
            ("probe", *of_run, "--epoch", str(until)),
        ):
            spent = copy.run(sys.executable, "-m", "barlow_atlas", *step)
            rows.append({"step": step, "seconds": round(spent, 2)})
            print(rows[-1])
            # At once: a part that is late is killed.
            (folder / "chain.json").write_text(json.dumps(rows, indent=1) + "\n")
            for kind in ("training", "probes"):
                made = copy.folder / "results" / study / kind
                if made.is_dir():
                    shutil.copytree(made, folder / "chain" / kind, dirs_exist_ok=True)


def costs(folder: Path, dry: bool) -> None:
    """Times for `plan`: benchmarks/costs.json with those of this device."""
    from barlow_atlas.study.file import load_study
    from barlow_atlas.study.paths import PARAMS
    from barlow_atlas.tools import measure
    from barlow_atlas.tools.bench.startup import copied
    from barlow_atlas.tools.costs import MEASUREMENTS, append_measurements

    name, device = ("demo", "cpu") if dry else (STUDY, "cuda")
    # Lent seconds are few, and shapes are eight.
    measure.SECONDS, measure.STARTS = (0, 1) if dry else (2, 3)
    known = shutil.copy2(MEASUREMENTS, folder)
    study = load_study(PARAMS / f"{name}.yaml")
    with copied() as copy, contextlib.chdir(copy.folder):
        copy.run(sys.executable, "-m", "barlow_atlas", "prepare-data", "--study", name)
        command = f"python -m barlow_atlas measure --study {name}"
        for one in measure.measure(name, study, device, command):
            append_measurements([one], Path(known))
            print(one)


OWN = {each.__name__: each for each in (machine, agreement, speed, chain, costs)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10's files")
    parser.add_argument("--dry", action="store_true", help="on the CPU, everything tiny")
    parser.add_argument(
        "--only", nargs="+", choices=(*OWN, "tests"), metavar="PART", help="these parts alone"
    )
    parser.add_argument("--seconds", type=float, help=f"for all together (default: {TOTAL_S})")
    parser.add_argument("--part", choices=OWN, help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.to.resolve()
    if options.part:
        OWN[options.part](folder, options.dry)
        return 0
    chosen = [
        part
        for part in parts(folder, options.dry)
        if options.only is None or part.name in options.only
    ]
    data = None if options.data is None else options.data.resolve()
    total_s = options.seconds or (len(chosen) * DRY_S if options.dry else TOTAL_S)
    return int(session(folder, chosen, total_s, data) > 0)


if __name__ == "__main__":
    # So that the part that runs is ended as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    sys.exit(main())
