"""The steps' command line: `python -m barlow_atlas <step>`.

Every step runs without Snakemake, from the repository's root. Paths are those of
docs/architecture.md; each heavy import belongs to the step that needs it.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from barlow_atlas.errors import AtlasError
from barlow_atlas.paths import (
    COOLED,
    DATA,
    PARAMS,
    RAW_DATA,
    RESULTS,
    SCHEMA,
    of_run,
    probe_file,
    probed_milestone,
)
from barlow_atlas.study import (
    ForeignRun,
    Run,
    Study,
    StudyError,
    file_schema,
    load_study,
    study_file,
)

if TYPE_CHECKING:
    import torch

    from barlow_atlas.data import Prepared, Selection
    from barlow_atlas.networks import Network
    from barlow_atlas.pretrain import Segment

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
    except BrokenPipeError:
        # Whoever read the output has seen enough, as `head` does. At its end Python would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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

    added = add_with_study("prepare-data", prepare_data)
    added.add_argument("--data", help="one of the study's data sets (default: its own images)")
    of_a_milestone = (
        ("pretrain", pretrain, "--until"),
        ("cool-down", cool_down, "--epoch"),
        ("import-weights", import_weights, "--epoch"),
        ("probe", probe, "--epoch"),
    )
    for name, step, epoch in of_a_milestone:
        added = add_with_study(name, step)
        if step is pretrain:
            several = "names of runs, as `runs` lists them, that differ in their seeds at most"
            added.add_argument("--run", required=True, nargs="+", help=several)
        else:
            added.add_argument("--run", required=True, help="name of a run, as `runs` lists them")
        added.add_argument(epoch, required=True, type=int, dest="epoch", help="a milestone")
        if step is not import_weights:
            device = "such as cpu, cuda or cuda:1 (default: a GPU if any)"
            added.add_argument("--device", help=device)
        if step in (pretrain, cool_down):
            added.add_argument(
                "--save-every",
                type=float,
                default=60.0,
                metavar="SECONDS",
                help="time between two saved states (default: 60)",
            )
    for name, step in (
        *(("runs", runs), ("collect", collect), ("analyse", analyse)),
        ("report", report),
    ):
        add_with_study(name, step)
    add("ledger", ledger)
    added = add("verify-results", verify_results)
    added.add_argument("--study", nargs="+", default=[], help="(default: all, and the ledger)")
    exported = add_with_study("export", export)
    exported.add_argument("--to", required=True, type=Path, metavar="DIR", help="a new folder")
    exported.add_argument("--partial", action="store_true", help="although results are missing")
    carded = add("card", card)
    carded.add_argument("run", metavar="RUN", help="name of a run, as `runs` lists them")
    carded.add_argument("--study", default="demo", help="name of a file in params/, no ending")
    carded.add_argument("--epoch", type=int, help="a milestone (default: the last one)")
    tracked = add_with_study("track", track)
    tracked.add_argument("--writer", required=True, choices=("tensorboard", "dvclive"))
    tracked.add_argument("--to", required=True, type=Path, metavar="DIR", help="is replaced")
    watched = add_with_study("watch", watch)
    watched.add_argument("--host", default="127.0.0.1", help="(default: 127.0.0.1, this machine)")
    watched.add_argument("--port", type=int, default=8000, help="0: any free one (default: 8000)")
    planned = add_with_study("plan", plan_study)
    planned.add_argument("--jobs", type=int, help="jobs at a time (default: as many as fit here)")
    planned.add_argument("--gpu", metavar="NAME", help="a GPU that is measured, by product name")
    planned.add_argument("--throughput", type=float, metavar="TFLOP/S", help="that a GPU sustains")
    measured = add_with_study("measure", measure)
    measured.add_argument("--device", help="such as cpu, cuda or cuda:1 (default: a GPU if any)")
    benched = add("bench", bench)
    benched.add_argument("--only", nargs="+", default=[], metavar="NAME", help="which benchmarks")
    benched.add_argument("--json", type=Path, metavar="FILE", help="where the report goes")
    benched.add_argument("--check", type=Path, metavar="FILE", help="an earlier report")
    benched.add_argument("--device", help="such as cpu, cuda or cuda:1 (default: a GPU if any)")
    checked = add_with_study("doctor", doctor)
    checked.add_argument("--profile", help="Snakemake profile, such as slurm or profiles/local")
    add_with_study("adopt", adopt)
    add("derive", derive)
    added = add("verify", verify)
    added.add_argument("--golden", type=Path, metavar="DIR", help="folder of golden files")
    added.add_argument("--json", action="store_true", help="print a JSON list, not a table")
    checkpoint = steps.add_parser("checkpoint", help="What is stored of a run.")
    actions = checkpoint.add_subparsers(title="actions", required=True, metavar="ACTION")
    summary = (verify_checkpoints.__doc__ or "").partition("\n")[0]
    added = actions.add_parser("verify", help=summary, description=verify_checkpoints.__doc__)
    added.add_argument("run", metavar="RUN", help="name of a run, as `runs` lists them")
    added.add_argument("--study", default="demo", help="name of a file in params/, no ending")
    added.set_defaults(step=verify_checkpoints)
    return parser


def _study(options: argparse.Namespace) -> Study:
    return load_study(study_file(PARAMS, options.study))


def _log(line: str) -> None:
    print(line, flush=True)


def prepare_data(options: argparse.Namespace) -> None:
    """Brings a study's data set into results/data/ as arrays; checksums are verified."""
    from barlow_atlas.data import parse_mirrors, prepare

    study = _study(options)
    mirrors = (*parse_mirrors(os.environ.get("BARLOW_ATLAS_DATA", "")), *study.data_mirrors)
    known = {data_set.name: data_set for data_set in study.data_sets()}
    name = options.data or study.data.name
    if name not in known:
        raise StudyError(f"{options.study} has no data set {name!r}; it has {', '.join(known)}")
    prepare(known[name], DATA / name, RAW_DATA, mirrors, _log)


def pretrain(options: argparse.Namespace) -> int | None:
    """Trains runs from the milestone before to the given one, continuing where they were left."""
    study = _study(options)
    runs = [_trained(study, name) for name in options.run]
    if len({run.model_copy(update={"seed": 0}).model_dump_json() for run in runs}) > 1:
        raise StudyError(
            f"{', '.join(options.run)} cannot be trained together: give runs that differ in their "
            "seeds only"
        )
    return _train(options, runs, parent=study.parent(options.epoch), cooldown=0)


def cool_down(options: argparse.Namespace) -> int | None:
    """Anneals a milestone of a run whose schedule is `trunk`, in a branch of its own."""
    study = _study(options)
    run = _trained(study, options.run)
    if not run.cooldown_epochs or options.epoch not in study.milestones[1:]:
        raise StudyError(
            f"nothing to cool down: {run.name} at epoch {options.epoch}. Branches belong to the "
            f"schedule trunk and to milestones after 0; milestones: {list(study.milestones)}"
        )
    return _train(options, [run], parent=options.epoch, cooldown=run.cooldown_epochs)


def _trained(study: Study, name: str) -> Run:
    run = study.run(name)
    if isinstance(run, ForeignRun):
        raise StudyError(f"{name} is made of foreign weights, which are imported and not trained")
    return run


def _train(
    options: argparse.Namespace, runs: list[Run], parent: int | None, cooldown: int
) -> int | None:
    """One segment of each of some runs that differ in their seeds, or the branch of one."""
    from barlow_atlas import console
    from barlow_atlas.data import load
    from barlow_atlas.data.image_set import ImageSet
    from barlow_atlas.data.prepared import sha256_of
    from barlow_atlas.devices import device_for
    from barlow_atlas.pretrain import Interrupted, pretrain_together
    from barlow_atlas.sources import fingerprint, pretrain_sources

    run, *_ = runs
    folder = DATA / run.data.name
    prepared = load(folder)
    chosen = _select(run, prepared)
    parts = [(prepared.train_images, chosen.pretraining)]
    if prepared.unlabeled_images is not None:
        parts.append((prepared.unlabeled_images, chosen.pretraining_unlabeled))
    data_sha256 = sha256_of(folder / "manifest.json")
    sources_sha256 = fingerprint(pretrain_sources(type(run.settings)))
    segments = [
        _segment(options, run, parent, cooldown, data_sha256, sources_sha256) for run in runs
    ]
    device = device_for(options.device, run.threads)
    with console.StopSignals() as signals, console.Board(segments, signals) as board:
        try:
            pretrain_together(
                segments, ImageSet(tuple(parts)), device, options.save_every, board.monitors
            )
        except Interrupted as interruption:
            assert signals.received is not None  # nothing else interrupts a segment
            board.say(f"{interruption} ({signals.received.name})")
            return EXIT_INTERRUPTED
    return None


def _segment(
    options: argparse.Namespace,
    run: Run,
    parent: int | None,
    cooldown: int,
    data_sha256: str,
    sources_sha256: str,
) -> "Segment":
    from barlow_atlas.pretrain import Segment

    training = of_run("training", options.study, run.name)
    resume = RESULTS / "resume" / options.study / run.name
    return Segment(
        study=options.study,
        run=run,
        parent=parent,
        until=options.epoch,
        cooldown=cooldown,
        checkpoints=of_run("checkpoints", options.study, run.name),
        training=training / COOLED if cooldown else training,
        resume=resume / f"{COOLED}_{options.epoch:04d}" if cooldown else resume,
        data_sha256=data_sha256,
        sources_sha256=sources_sha256,
    )


def import_weights(options: argparse.Namespace) -> None:
    """Turns foreign weights that a study names into a milestone; no code in the file is run."""
    from barlow_atlas.data.prepared import sha256_of
    from barlow_atlas.foreign import read_foreign
    from barlow_atlas.provenance import made_by
    from barlow_atlas.snapshot import write_milestone
    from barlow_atlas.sources import IMPORT, fingerprint

    study = _study(options)
    run = study.run(options.run)
    if isinstance(run, Run):
        raise StudyError(f"{options.run} is trained, not imported: see `pretrain`")
    files = study.foreign[run.method].files
    if options.epoch not in files:
        raise StudyError(f"foreign.{run.method}.files has no epoch {options.epoch}: {list(files)}")
    foreign = read_foreign(Path(files[options.epoch]), run.layout, run.backbone)
    left_out = f"{len(foreign.dropped)} tensors left out: {', '.join(foreign.dropped[:20])}"
    _log(left_out + (" ..." if len(foreign.dropped) > 20 else ""))
    origin = {"file": files[options.epoch], "file_sha256": foreign.sha256}
    write_milestone(
        of_run("checkpoints", options.study, run.name),
        study=options.study,
        run=run,
        epoch=options.epoch,
        parent=None,
        weights=foreign.weights,
        state=None,
        data_sha256=sha256_of(DATA / run.data.name / "manifest.json"),
        sources_sha256=fingerprint(IMPORT),
        made_by=made_by("cpu", 0.0) | origin,
    )


def probe(options: argparse.Namespace) -> None:
    """Runs all probes of a study on one milestone of a run."""
    from barlow_atlas.data import load
    from barlow_atlas.devices import device_for
    from barlow_atlas.networks import build
    from barlow_atlas.probes import choose, extract_splits, probe
    from barlow_atlas.probes.signals import signals
    from barlow_atlas.randomness import generator
    from barlow_atlas.snapshot import read_manifest_of, read_weights, write_atomically

    study = _study(options)
    run = study.run(options.run)
    checkpoint = probed_milestone(options.study, run, options.epoch)
    manifest = read_manifest_of(checkpoint, run)
    weights = read_weights(checkpoint, manifest)
    prepared = load(DATA / run.data.name)
    chosen = _select(run, prepared)
    train = prepared.train_images, prepared.train_labels
    splits = {
        "train": choose(*train, chosen.probe_training),
        "test": choose(prepared.test_images, prepared.test_labels, chosen.test),
    }
    if len(chosen.validation):
        splits["validation"] = choose(*train, chosen.validation)
    device = device_for(options.device, run.threads)
    network = build(run, generator(run.seed, "weights"))
    network.load_state_dict(weights)
    network = network.to(device)
    features = extract_splits(network.backbone, run, splits, device)
    classes = len(prepared.manifest.classes)
    content = {
        "format": 2,
        "study": options.study,
        "name": run.name,
        "epoch": options.epoch,
        "run": run.model_dump(mode="json"),
        # All that the lineage hashes: the chain can be followed in probe files alone.
        "checkpoint": manifest.model_dump(mode="json", exclude={"format", "study", "run"}),
        "signals": signals(network, run, splits, features),
        "results": [
            *probe(network, run, study.probes, splits, features, classes),
            *_transfer(study, run, network, device),
        ],
    }
    path = probe_file(options.study, run, options.epoch)
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def _transfer(
    study: Study, run: Run | ForeignRun, network: "Network", device: "torch.device"
) -> Iterator[dict[str, Any]]:
    """The records of all targets that the study asks for."""
    from barlow_atlas.data import TARGETS, load
    from barlow_atlas.probes.transfer import target_splits, transfer

    settings = study.probes.transfer
    if settings is None:
        return
    for name in settings.targets:
        target = TARGETS[name]
        prepared = load(DATA / target.at(study.image_size).name)
        splits = target_splits(prepared, run.protocol)
        classes = len(prepared.manifest.classes)
        yield from transfer(network.backbone, run, settings, target, splits, classes, device)


def _select(run: Run | ForeignRun, prepared: "Prepared") -> "Selection":
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


def verify_checkpoints(options: argparse.Namespace) -> int:
    """Walks a run's milestones back to the seed; one line each, status 1 if any is damaged."""
    from barlow_atlas import chain

    study = _study(options)
    run = study.run(options.run)
    links = chain.walk(options.study, run, study.milestones_of(run))
    if not links:
        folder = of_run("checkpoints", options.study, run.name)
        raise StudyError(
            f"nothing of {run.name} is here. If it was shared, `dvc pull {folder}` brings it; else "
            f"run the study: `snakemake --profile profiles/local --config study={options.study}`"
        )
    for link in links:
        print(link)
    print(chain.verdict(links))
    return int(any(link.verdict == "damaged" for link in links))


def runs(options: argparse.Namespace) -> None:
    """Lists a study's runs, one name a line."""
    for run in _study(options).runs():
        print(run.name)


def collect(options: argparse.Namespace) -> None:
    """Gathers a study's probe files into tidy tables: accuracies, label-free signals, runs."""
    from barlow_atlas.reporting import collect

    missing = collect(options.study, _study(options))
    if missing:
        _log(f"{len(missing)} probe files are missing, such as {missing[0]}; runs.csv lists them")


def analyse(options: argparse.Namespace) -> None:
    """Computes a study's curves, effects and claims, with their intervals."""
    from barlow_atlas.reporting import analyse

    analyse(options.study, _study(options))


def report(options: argparse.Namespace) -> None:
    """Draws a study's figures and writes its tables and its page."""
    from barlow_atlas.reporting import report

    report(options.study, _study(options))


def ledger(options: argparse.Namespace) -> None:
    """Writes what is said over all studies: the claims, the papers' tables, the first page."""
    from barlow_atlas.reporting import write_ledger

    write_ledger()


def verify_results(options: argparse.Namespace) -> int:
    """Makes every table, figure and page anew from the probe files; 1 if any differs in a byte."""
    from barlow_atlas.reporting import differences

    wrong = equal = 0
    for file, fault in differences(options.study):
        if fault:
            _log(f"{file} {fault}")
            wrong += 1
        else:
            equal += 1
    _log(f"{equal} files are what the probe files give, {wrong} are not")
    if wrong:
        _log("`make report STUDY=...` writes them anew; `git diff` then shows what was different")
    return int(bool(wrong))


def watch(options: argparse.Namespace) -> None:
    """Serves a study's page while it runs: jobs, curves, time left. Reads only."""
    from barlow_atlas.watch import serve

    serve(options.study, _study(options), options.host, options.port, _log)


def export(options: argparse.Namespace) -> None:
    """Writes a study as an RO-Crate: parameters, hashes, results, reports, model cards."""
    from barlow_atlas.export.crate import export_crate

    export_crate(options.study, _study(options), options.to, options.partial)
    _log(f"{options.to} holds {options.study}; {options.to}/ro-crate-metadata.json describes it")


def card(options: argparse.Namespace) -> None:
    """Prints the model card of a run's milestone, for publishing its weights."""
    from barlow_atlas.export.cards import card_of

    print(card_of(options.study, _study(options), options.run, options.epoch), end="")


def track(options: argparse.Namespace) -> None:
    """Writes a study's stored history for TensorBoard or DVCLive, a folder a run."""
    from barlow_atlas.export.tracking import track

    folders = track(options.study, _study(options), options.writer, options.to)
    _log(f"{options.to} holds {len(folders)} runs of {options.study}")


def adopt(options: argparse.Namespace) -> None:
    """Makes results that were pulled or checked out known to Snakemake, where they fit."""
    from barlow_atlas.adopt import adopt

    adopt(options.study, _study(options), _log)


def verify(options: argparse.Namespace) -> int:
    """Compares our methods with values that the papers' own code computed; 1 if any differs."""
    from barlow_atlas.verify import verify_command

    return verify_command(options.golden, options.json)


def plan_study(options: argparse.Namespace) -> None:
    """Says what a study will take: jobs, hours, room, and what is trained again."""
    from barlow_atlas.plan import describe

    study = _study(options)
    at_once = options.jobs or max(1, (os.cpu_count() or 1) // study.threads)
    for line in describe(options.study, study, at_once, options.gpu, options.throughput):
        _log(line)


def measure(options: argparse.Namespace) -> None:
    """Times single steps of a study's runs on this machine, for `plan`."""
    from barlow_atlas import costs
    from barlow_atlas.devices import device_for

    study = _study(options)
    trained = study.trained()
    if not trained:
        raise StudyError(f"{options.study} trains nothing that could be timed")
    device = device_for(options.device, trained[0].threads)
    stored_size = study.data_sets()[0].image_size
    command = f"python -m barlow_atlas measure --study {options.study}"
    for one in costs.measure(options.study, trained, stored_size, device, command):
        costs.append_measurements([one])
        _log(f"{one.device}, {one.threads} threads: {one.seconds:.4g} s a {one.what} {one.run}")


def bench(options: argparse.Namespace) -> int:
    """Measures this package on this machine beside a plain rival, in about 15 minutes.

    Prints each figure and, without --json, the report. With --check it returns 1 if a ratio fell
    well below that of an earlier report of the same kind of device.
    """
    import shlex

    import torch

    from barlow_atlas.bench import run

    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    command = shlex.join(["python", "-m", "barlow_atlas", *sys.argv[1:]])
    worse = run(options.only, device, options.json, options.check, command, _log)
    for line in worse:
        print(f"slower: {line}", file=sys.stderr)
    return int(bool(worse))


def doctor(options: argparse.Namespace) -> int:
    """Checks this machine for what a study needs, and says what is missing and how to get it."""
    from barlow_atlas.doctor import examine

    return examine(options.study, _study(options), options.profile, _log)


def derive(options: argparse.Namespace) -> None:
    """Writes what follows from the study files: their JSON schema, and DVC's stages."""
    from ruamel.yaml import YAML

    from barlow_atlas.dvc_stages import HEAD, stage_files

    SCHEMA.write_text(json.dumps(file_schema(), indent=2) + "\n")
    yaml = YAML()
    yaml.width = 4096  # commands stay on one line
    for path, content in stage_files(PARAMS).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            file.write(HEAD)
            yaml.dump(content, file)


if __name__ == "__main__":
    sys.exit(main())
