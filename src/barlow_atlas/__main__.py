"""The steps' command line: `python -m barlow_atlas <step>`.

Every step runs without Snakemake, from the repository's root. Paths are those of
docs/architecture.md; each heavy import belongs to the step that needs it.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from barlow_atlas.errors import AtlasError
from barlow_atlas.study import Run, Study, StudyError, load_study

if TYPE_CHECKING:
    import torch

    from barlow_atlas.data import Prepared, Selection

PARAMS = Path("params")
RESULTS = Path("results")
REPORTS = Path("reports")
SCHEMA = Path("workflow/schemas/study.schema.json")

# EX_TEMPFAIL of sysexits.h: saved and stopped, neither done nor failed; start it again.
EXIT_INTERRUPTED = 75


def main(arguments: list[str] | None = None) -> int:
    """Runs one step; returns the process's exit status."""
    options = _parser().parse_args(arguments)
    step: Callable[[argparse.Namespace], int | None] = options.step
    try:
        return step(options) or 0
    except AtlasError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m barlow_atlas", description=__doc__)
    steps = parser.add_subparsers(title="steps", required=True, metavar="STEP")

    def add(name: str, step: Callable[[argparse.Namespace], int | None]) -> argparse.ArgumentParser:
        summary = (step.__doc__ or "").partition("\n")[0]
        added = steps.add_parser(name, help=summary, description=step.__doc__)
        added.set_defaults(step=step)
        return added

    def add_with_study(
        name: str, step: Callable[[argparse.Namespace], int | None]
    ) -> argparse.ArgumentParser:
        added = add(name, step)
        added.add_argument("--study", required=True, help="name of a file in params/, no ending")
        return added

    add_with_study("prepare-data", prepare_data)
    for name, step, epoch in (("pretrain", pretrain, "--until"), ("probe", probe, "--epoch")):
        added = add_with_study(name, step)
        added.add_argument("--run", required=True, help="name of a run, as `runs` lists them")
        added.add_argument(epoch, required=True, type=int, dest="epoch", help="a milestone")
        added.add_argument("--device", help="such as cpu, cuda or cuda:1 (default: a GPU if any)")
        if step is pretrain:
            added.add_argument(
                "--save-every",
                type=float,
                default=60.0,
                metavar="SECONDS",
                help="time between two saved states (default: 60)",
            )
    for name, step in (("runs", runs), ("collect", collect), ("analyse", analyse)):
        add_with_study(name, step)
    add_with_study("report", report)
    add("derive", derive)
    return parser


def _study(options: argparse.Namespace) -> Study:
    return load_study(PARAMS / f"{options.study}.yaml")


def _log(line: str) -> None:
    print(line, flush=True)


def prepare_data(options: argparse.Namespace) -> None:
    """Brings a study's data set into results/data/ as arrays; checksums are verified."""
    from barlow_atlas.data import parse_mirrors, prepare, resolve

    study = _study(options)
    data = study.data
    mirrors = (*parse_mirrors(os.environ.get("BARLOW_ATLAS_DATA", "")), *study.data_mirrors)
    data_set = resolve(data.name, data.path, data.stored_size)
    prepare(data_set, RESULTS / "data" / data.name, RESULTS / "data" / "raw", mirrors, _log)


def pretrain(options: argparse.Namespace) -> int | None:
    """Trains a run from the milestone before to the given one, continuing where it was left."""
    import numpy as np

    from barlow_atlas import console
    from barlow_atlas.data import load
    from barlow_atlas.data.prepared import sha256_of
    from barlow_atlas.pretrain import Interrupted, Segment, pretrain_segment
    from barlow_atlas.sources import fingerprint, pretrain_sources

    study = _study(options)
    run = study.run(options.run)
    folder = RESULTS / "data" / run.data.name
    prepared = load(folder)
    chosen = _select(run, prepared)
    images = prepared.train_images[chosen.pretraining]
    if prepared.unlabeled_images is not None:
        unlabeled = prepared.unlabeled_images[chosen.pretraining_unlabeled]
        images = np.concatenate([images, unlabeled])
    results = RESULTS / options.study
    segment = Segment(
        study=options.study,
        run=run,
        parent=study.parent(options.epoch),
        until=options.epoch,
        checkpoints=results / "checkpoints" / run.name,
        training=results / "training" / run.name,
        resume=RESULTS / "resume" / options.study / run.name,
        data_sha256=sha256_of(folder / "manifest.json"),
        sources_sha256=fingerprint(pretrain_sources(type(run.settings))),
    )
    device = _device(options.device, run)
    with console.StopSignals() as signals, console.SegmentMonitor(segment, signals) as monitor:
        try:
            pretrain_segment(segment, images, device, options.save_every, monitor)
        except Interrupted as interruption:
            monitor.say(f"{interruption} ({signals.received})")
            return EXIT_INTERRUPTED
    return None


def probe(options: argparse.Namespace) -> None:
    """Runs all probes of a study on one milestone of a run."""
    from barlow_atlas.data import load
    from barlow_atlas.networks import build
    from barlow_atlas.probes import Labelled, probe
    from barlow_atlas.randomness import generator
    from barlow_atlas.snapshot import milestone_path, read_weights, write_atomically

    study = _study(options)
    run = study.run(options.run)
    results = RESULTS / options.study
    checkpoint = milestone_path(results / "checkpoints" / run.name, options.epoch, ".json")
    manifest, weights = read_weights(checkpoint)
    if manifest.run != run:
        raise StudyError(
            f"{checkpoint} belongs to a run with other parameters than the study now gives to "
            f"{run.name}. Start the study through Snakemake, which trains it anew"
        )
    prepared = load(RESULTS / "data" / run.data.name)
    chosen = _select(run, prepared)
    train, labels = prepared.train_images, prepared.train_labels
    splits = {
        "train": Labelled(train[chosen.probe_training], labels[chosen.probe_training]),
        "test": Labelled(prepared.test_images[chosen.test], prepared.test_labels[chosen.test]),
    }
    if len(chosen.validation):
        splits["validation"] = Labelled(train[chosen.validation], labels[chosen.validation])
    device = _device(options.device, run)
    network = build(run, generator(run.seed, "weights"))
    network.load_state_dict(weights)
    classes = len(prepared.manifest.classes)
    content = {
        "format": 1,
        "study": options.study,
        "name": run.name,
        "epoch": options.epoch,
        "run": run.model_dump(mode="json"),
        "checkpoint": {
            "weights_sha256": manifest.weights_sha256,
            "lineage": manifest.lineage,
            "made_by": manifest.made_by,
        },
        "results": probe(network.to(device), run, study.probes, splits, classes, device),
    }
    path = milestone_path(results / "probes" / run.name, options.epoch, ".json")
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def _select(run: Run, prepared: "Prepared") -> "Selection":
    """The images of a run under its protocol and fraction."""
    from barlow_atlas.data import select

    unlabeled = prepared.unlabeled_images
    return select(
        prepared.train_labels,
        prepared.validation_index,
        protocol=run.protocol,
        fraction=run.data.fraction,
        seed=prepared.manifest.validation.seed,
        test_count=len(prepared.test_labels),
        unlabeled_count=0 if unlabeled is None else len(unlabeled),
    )


def _device(name: str | None, run: Run) -> "torch.device":
    """The device to compute on, and the settings of this process that its sums depend on."""
    import torch

    torch.set_num_threads(run.threads)
    # Denormal numbers, frequent near convergence, slow a CPU down by a factor of 2 to 5.
    torch.set_flush_denormal(True)
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def runs(options: argparse.Namespace) -> None:
    """Lists a study's runs, one name a line."""
    for run in _study(options).runs():
        print(run.name)


def collect(options: argparse.Namespace) -> None:
    """Gathers a study's probe files into one tidy table."""
    from barlow_atlas.atlas.frames import read_probes

    study = _study(options)
    results = RESULTS / options.study
    files = [
        results / "probes" / run.name / f"epoch_{epoch:04d}.json"
        for run in study.runs()
        for epoch in study.milestones
    ]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise StudyError(
            f"{len(missing)} of {len(files)} probe files of {options.study} are missing, such as "
            f"{missing[0]}. Run `snakemake --profile profiles/local --config study={options.study}`"
        )
    read_probes(files).to_csv(results / "probes.csv", index=False)


def analyse(options: argparse.Namespace) -> None:
    """Computes the mean curves with their intervals, and the headline numbers."""
    import pandas as pd

    from barlow_atlas.atlas.curves import accuracy_columns, headline, mean_curves

    results = RESULTS / options.study
    curves = mean_curves(pd.read_csv(results / "probes.csv"))
    curves.to_csv(results / "curves.csv", index=False, float_format="%.6g")
    accuracy_columns(curves).to_csv(results / "accuracy.csv", index=False, float_format="%.6g")
    (results / "metrics.json").write_text(json.dumps(headline(curves), indent=1) + "\n")


def report(options: argparse.Namespace) -> None:
    """Draws a study's tables and figures from its tidy tables."""
    import pandas as pd

    from barlow_atlas.report import figures, tables

    study = _study(options)
    results, reports = RESULTS / options.study, REPORTS / options.study
    reports.mkdir(parents=True, exist_ok=True)
    tidy, curves = (pd.read_csv(results / name) for name in ("probes.csv", "curves.csv"))
    figure = figures.accuracy_curves(study.title, tidy, curves)
    figures.save(figure, reports / "curves.pdf", reports / "curves.png")
    caption = (
        f"{study.title}. Test top-1 accuracy in percent at each pre-training epoch: mean over "
        "seeds and half of the 95 % t interval."
    )
    table = tables.milestone_table(curves)
    tables.write(
        table, caption, *(reports / f"milestones.{ending}" for ending in ("csv", "md", "tex"))
    )


def derive(options: argparse.Namespace) -> None:
    """Writes what follows from the study files: their JSON schema, and DVC's stages."""
    from ruamel.yaml import YAML

    from barlow_atlas.dvc_stages import HEAD, stage_files

    SCHEMA.write_text(json.dumps(Study.model_json_schema(), indent=2) + "\n")
    studies = {path.stem: load_study(path) for path in sorted(PARAMS.glob("*.yaml"))}
    yaml = YAML()
    yaml.width = 4096  # commands stay on one line
    for path, content in stage_files(studies).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            file.write(HEAD)
            yaml.dump(content, file)


if __name__ == "__main__":
    sys.exit(main())
