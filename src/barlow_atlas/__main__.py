"""Barlow Atlas on the command line, as `atlas` and as `python -m barlow_atlas`.

The first commands are what people use every day; the others are the steps of which jobs are made,
and run without Snakemake. All work from any folder of a clone.
"""

import argparse
import contextlib
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from barlow_atlas.errors import EXIT_INTERRUPTED, AtlasError, not_allowed
from barlow_atlas.instructions import use_common_instructions

# Each import that takes long belongs to the command that needs it: help is there at once.
if TYPE_CHECKING:
    from barlow_atlas.study.models import Study

TRACKERS = ("tensorboard", "dvclive", "wandb")


class NoCloneError(AtlasError):
    """A command that asks for studies where there are none."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the process's exit status."""
    use_common_instructions(os.environ)
    # Threads of a step that wait for each other sleep: docs/costs.md, "One thread a job".
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    parser, commands = _parser()
    said = sys.argv[1:] if arguments is None else arguments
    if said and not said[0].startswith("-") and said[0] not in commands:
        print(f"error: {not_allowed('command', said[0], sorted(commands))}", file=sys.stderr)
        return 2
    # Of several studies argparse would take what stands behind `--` for further ones.
    behind = said.index("--") if said[:1] == ["run"] and "--" in said else len(said)
    options = parser.parse_args(said[:behind])
    options.more = said[behind + 1 :]
    try:
        _go_to_root(options)
        step: Callable[[argparse.Namespace], int | None] = options.step
        return step(options) or 0
    except AtlasError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read the output has seen enough, as `head` does. At its end Python would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _go_to_root(options: argparse.Namespace) -> None:
    """From any folder of a clone to its root; paths that were given stay where they are.

    Raises:
        StudyError: the last word of several studies' names.
        NoCloneError: there is no clone here, and the command needs one.
    """
    folder = Path.cwd()
    root = next(
        (place for place in (folder, *folder.parents) if (place / "Snakefile").is_file()), folder
    )
    if not (root / "params").is_dir() and options.step not in (bench, completion, verify):
        raise NoCloneError(
            f"{folder} is in no clone of Barlow Atlas, which has the studies in params/. Change "
            "into yours. `atlas verify` and `from barlow_atlas import load` work anywhere"
        )
    said: str | list[str] = getattr(options, "study", None) or []
    named = said if isinstance(said, list) else [said]
    studies = [str(folder / one) if one.endswith(".yaml") else one for one in named]
    if root != folder:
        for name, value in vars(options).items():
            if isinstance(value, Path):
                setattr(options, name, folder / value)
        os.chdir(root)
    if studies:
        from barlow_atlas.study.file import study_named
        from barlow_atlas.study.paths import PARAMS

        names = [study_named(PARAMS, one) for one in studies]
        options.study = names if isinstance(said, list) else names[0]


class _Parser(argparse.ArgumentParser):
    """Takes no option for another one that begins alike: `--replac` would train again."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)


def _parser() -> tuple[argparse.ArgumentParser, Collection[str]]:
    """The parser, and the names of all commands."""
    prog = "atlas" if Path(sys.argv[0]).name == "atlas" else "python -m barlow_atlas"
    parser = _Parser(prog=prog, description=__doc__)
    steps = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

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

    added = add("run", run)
    added.add_argument("study", nargs="+", metavar="STUDY", help="names of files in params/")
    added.add_argument("--slurm", action="store_true", help="on a Slurm cluster (profiles/slurm)")
    added.add_argument("--profile", help="another Snakemake profile")
    added.add_argument("--dry-run", action="store_true", help="say which jobs would run")
    added.add_argument("--replace", action="store_true", help="train again what is finished")
    added.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="as a study of its own name"
    )
    added.add_argument("--track", choices=TRACKERS, help="live, into logs/tracking/")
    added.epilog = "Behind `--` stand further options of Snakemake, such as `-- --cores 4`."
    added = add("new", new)
    added.add_argument("name", metavar="NAME", help="lower-case words joined by - or _")
    added.add_argument("--from", dest="study", default="demo", metavar="STUDY", help="(the demo)")
    for name, step, where in (
        ("status", status, "(default: all of which something is here)"),
        ("answer", answer, "(default: the demo)"),
        ("open", open_page, "(default: the page over all studies)"),
    ):
        added = add(name, step)
        added.add_argument("study", nargs="*", metavar="STUDY", help=where)
    added = add("compare", compare)
    side = "STUDY, STUDY:METHOD or STUDY:RUN, with @COMMIT behind it for the results of a commit"
    added.add_argument("first", metavar="A", help=side)
    added.add_argument("second", metavar="B", help="the same")
    added = add("completion", completion)
    added.add_argument("shell", choices=("bash", "zsh"))
    added = add_with_study("prepare-data", prepare_data)
    added.add_argument("--data", help="one of the study's data sets (default: its own images)")
    of_a_milestone = (
        ("pretrain", pretrain, "--until"),
        ("cool-down", cool_down, "--epoch"),
        ("import-weights", import_weights, "--epoch"),
        ("take-milestone", take_milestone, "--epoch"),
        ("probe", probe, "--epoch"),
    )
    for name, step, epoch in of_a_milestone:
        added = add_with_study(name, step)
        if step in (pretrain, probe):
            several = "names of runs, as `runs` lists them, that differ in their seeds at most"
            added.add_argument("--run", required=True, nargs="+", help=several)
            several = "milestones, one after another"
            added.add_argument(
                epoch, required=True, type=int, nargs="+", dest="epoch", help=several
            )
        else:
            added.add_argument("--run", required=True, help="name of a run, as `runs` lists them")
            added.add_argument(epoch, required=True, type=int, help="a milestone")
        if step not in (import_weights, take_milestone):
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
    added = add_with_study("record", record)
    added.add_argument("--run", nargs="+", default=[], help="names of runs (default: all)")
    for name, step in (
        *(("runs", runs), ("collect", collect), ("analyse", analyse)),
        ("report", report),
    ):
        add_with_study(name, step)
    add("ledger", ledger)
    add("paper", paper)
    added = add("verify-results", verify_results)
    added.add_argument("--study", nargs="+", default=[], help="(default: all, and the ledger)")
    exported = add_with_study("export", export)
    exported.add_argument("--to", required=True, type=Path, metavar="DIR", help="a new folder")
    exported.add_argument("--partial", action="store_true", help="although results are missing")
    carded = add("card", card)
    carded.add_argument("run", metavar="RUN", help="name of a run, as `runs` lists them")
    carded.add_argument("--study", default="demo", help="name of a file in params/, no ending")
    carded.add_argument("--epoch", type=int, help="a milestone (default: the last one)")
    published = add("publish", publish)
    published.add_argument("run", metavar="RUN", help="name of a run, as `runs` lists them")
    published.add_argument("--study", default="demo", help="name of a file in params/, no ending")
    published.add_argument("--epoch", type=int, help="a milestone (default: the last one)")
    published.add_argument("--to", required=True, type=Path, metavar="DIR", help="a new folder")
    published.add_argument("--hub", metavar="OWNER/NAME", help="is put there, too")
    published.add_argument("--private", action="store_true", help="for its owner alone")
    tracked = add_with_study("track", track)
    tracked.add_argument("--writer", required=True, choices=TRACKERS)
    tracked.add_argument("--to", required=True, type=Path, metavar="DIR", help="is replaced")
    tracked.add_argument("--follow", action="store_true", help="go on while the study runs")
    watched = add_with_study("watch", watch)
    watched.add_argument("--host", default="127.0.0.1", help="(default: 127.0.0.1, this machine)")
    watched.add_argument("--port", type=int, default=8000, help="0: any free one (default: 8000)")
    planned = add_with_study("plan", plan_study)
    planned.add_argument("--jobs", type=int, help="jobs at a time (default: as many as fit here)")
    measured = add_with_study("measure", measure)
    measured.add_argument("--device", help="such as cpu, cuda or cuda:1 (default: a GPU if any)")
    benched = add("bench", bench)
    benched.add_argument("--only", nargs="+", default=[], metavar="NAME", help="which benchmarks")
    benched.add_argument("--json", type=Path, metavar="FILE", help="where the report goes")
    benched.add_argument("--check", type=Path, metavar="FILE", help="an earlier report")
    benched.add_argument("--device", help="such as cpu, cuda or cuda:1 (default: a GPU if any)")
    benched.add_argument(
        "--rival",
        type=_named_command,
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="a program of yours beside which `--only rivals` measures; see docs/costs.md",
    )
    checked = add("doctor", doctor)
    checked.add_argument("--study", help="name of a file in params/, no ending")
    checked.add_argument("--profile", help="Snakemake profile, such as slurm or profiles/local")
    adopted = add_with_study("adopt", adopt)
    carried = adopted.add_mutually_exclusive_group()
    carried.add_argument(
        "--prove", type=_positive, metavar="N", help="make N milestones again with today's code"
    )
    carried.add_argument("--accept", metavar="REASON", help="without proof; it is shown as such")
    adopted.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="T",
        help="relative difference that counts as none (default: 0, equal to the bit)",
    )
    adopted.add_argument(
        "--beside", metavar="COMMIT", help="compare with what its code gives on this machine"
    )
    adopted.add_argument("--device", help="such as cpu, cuda or cuda:1 (default: a GPU if any)")
    added = add("derive", derive)
    added.add_argument(
        "--study", nargs="+", default=[], help="that are to have DVC stages from now on"
    )
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
    return parser, steps.choices


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: give at least 1")
    return number


def _study(options: argparse.Namespace) -> "Study":
    return _load(options.study)


def _load(name: str) -> "Study":
    from barlow_atlas.study.file import load_study, study_file
    from barlow_atlas.study.paths import PARAMS

    return load_study(study_file(PARAMS, name))


def _workable(options: argparse.Namespace) -> "Study":
    """The study, if the images there are can be enough for it."""
    from barlow_atlas.study.sizes import check_sizes

    study = _study(options)
    check_sizes(options.study, study)
    return study


def _log(line: str) -> None:
    print(line, flush=True)


def run(options: argparse.Namespace) -> int:
    """Runs studies from real images to the page, here or on a cluster; goes on where it stopped.

    With --set a study with other values is made, under a name that says them, and run. What is
    finished is never trained again unasked: see --replace.
    """
    from barlow_atlas.tools.own import one_off
    from barlow_atlas.tools.running import snakemake, tracked
    from barlow_atlas.tools.unchanged import is_unchanged, note_finished, sources
    from barlow_atlas.workflow.turns import hold_study

    studies = options.study
    if options.set:
        studies = [one_off(name, options.set) for name in studies]
    # A wrong name or key is said in our words, before Snakemake starts.
    loaded = {name: _load(name) for name in studies}
    profile = options.profile or ("slurm" if options.slurm else "profiles/local")
    more = [*(["--dry-run"] if options.dry_run else []), *options.more]
    plain = not (more or options.replace or options.track)
    if plain and all(is_unchanged(name, study) for name, study in loaded.items()):
        for name in loaded:
            _log(f"{name}: nothing to be done, all is as its last run left it")
            _log(f"`atlas answer {name}` says what was found, `atlas open {name}` shows it")
        return 0
    if not options.dry_run:
        with contextlib.ExitStack() as held:  # as is who works on one of them
            for name in loaded:
                hold_study(name, held, _log)
    before = {name: sources(name) for name in loaded}
    with tracked(studies, options.track) if options.track else contextlib.nullcontext():
        status = snakemake(studies, profile, options.replace, more)
    if status == 0 and not more:
        for name, study in loaded.items():
            note_finished(name, study, before[name])
    return status


def new(options: argparse.Namespace) -> None:
    """Makes a study of one's own from one that there is, to be edited and run."""
    from barlow_atlas.tools.own import new_study

    path = new_study(options.name, options.study)
    _log(f"{path} is there: edit it, then `atlas plan --study {options.name}` says what it takes,")
    _log(f"and `atlas run {options.name}` runs it")


def status(options: argparse.Namespace) -> None:
    """Says how far studies are: what is there, what runs, what failed and why."""
    from barlow_atlas.tools.console import describe, started

    for name in options.study or started():
        for line in describe(name, _load(name)):
            _log(line)


def answer(options: argparse.Namespace) -> None:
    """Says what studies have answered, and where their pages are."""
    from barlow_atlas.tools.running import ending

    for name in options.study or ["demo"]:
        for line in ending(name, _load(name)):
            _log(line)


def open_page(options: argparse.Namespace) -> int:
    """Opens studies' pages in a browser."""
    import webbrowser

    from barlow_atlas.study.paths import PAGE, REPORTS

    for page in (REPORTS / name / PAGE for name in options.study or [""]):
        if not page.is_file():
            name = page.parent.relative_to(REPORTS)
            print(f"error: {page} is not there; `atlas run {name}` makes it", file=sys.stderr)
            return 1
        _log(str(page))
        webbrowser.open(page.resolve().as_uri())
    return 0


def compare(options: argparse.Namespace) -> None:
    """Puts two studies, methods, runs or commits side by side, with intervals."""
    from tabulate import tabulate

    from barlow_atlas.tools.compare import compare, rows

    sides = options.first, options.second
    _log(tabulate(rows(compare(*sides), *sides), headers="keys"))
    _log("Test top-1 in percent at the last milestone; the difference in points, A minus B, with")
    _log("its 95 % interval over the seeds and images of both (of one seed: over images alone).")


def completion(options: argparse.Namespace) -> None:
    """Prints what makes a shell complete commands: `source <(atlas completion bash)`."""
    import shtab

    parser, _ = _parser()
    parser.prog = "atlas"
    _log(shtab.complete(parser, options.shell))


def prepare_data(options: argparse.Namespace) -> None:
    """Brings a study's data set into results/data/ as arrays; checksums are verified."""
    from barlow_atlas.steps.prepare_data import prepare_data
    from barlow_atlas.study.paths import data_manifest
    from barlow_atlas.workflow.turns import once

    study = _study(options)
    name = options.data or study.data.name
    facts = {one.name: one.model_dump_json() for one in study.data_sets()}

    def make() -> None:
        prepare_data(options.study, study, name, _log)

    if name in facts:
        once(f"data/{name}", facts[name], data_manifest(name), _log, make)
    else:
        make()  # says which there are


def pretrain(options: argparse.Namespace) -> int:
    """Trains runs from the milestone before to the given ones, continuing where they were left."""
    from barlow_atlas.steps.milestones import pretrain_in_turn

    return _segment(pretrain_in_turn, options)


def cool_down(options: argparse.Namespace) -> int:
    """Anneals a milestone of a run whose schedule is `trunk`, in a branch of its own."""
    from barlow_atlas.steps.pretrain import cool_down

    return _segment(cool_down, options)


def _segment(train: Callable[..., str | None], options: argparse.Namespace) -> int:
    stopped = train(
        options.study,
        _workable(options),
        options.run,
        options.epoch,
        options.device,
        options.save_every,
    )
    return EXIT_INTERRUPTED if stopped else 0


def import_weights(options: argparse.Namespace) -> None:
    """Turns foreign weights that a study names into a milestone; no code in the file is run."""
    from barlow_atlas.steps.import_weights import import_weights

    import_weights(options.study, _workable(options), options.run, options.epoch, _log)


def take_milestone(options: argparse.Namespace) -> None:
    """Takes a milestone that another study has trained, as it is."""
    from barlow_atlas.steps.take_milestone import take_milestone

    take_milestone(options.study, _workable(options), options.run, options.epoch)


def probe(options: argparse.Namespace) -> int:
    """Runs all probes of a study on milestones of a run, or of several seeds' runs."""
    from barlow_atlas.steps.probe import probe

    study = _workable(options)
    for epoch in options.epoch:
        asked = options.study, study, options.run, epoch, options.device
        if study.resources.probe.processes > 1:
            from barlow_atlas.steps import detectors
            from barlow_atlas.training import launch

            if detectors.train(*asked):
                return EXIT_INTERRUPTED
            if launch.seat(os.environ):
                return 0  # one of the processes: who started them goes on
        probe(*asked)
    return 0


def verify_checkpoints(options: argparse.Namespace) -> int:
    """Walks a run's milestones back to the seed; one line each, status 1 if any is damaged."""
    from barlow_atlas.study.errors import StudyError
    from barlow_atlas.study.paths import of_run
    from barlow_atlas.workflow import chain

    study = _study(options)
    run = study.run(options.run)
    name = study.trainer_of(options.study, run)
    # A study that takes milestones may leave some of the chain out.
    links = chain.walk(name, run, _load(name).milestones_of(run))
    if not links:
        folder = of_run("checkpoints", name, run.name)
        raise StudyError(
            f"nothing of {run.name} is here. If it was shared, `dvc pull {folder}` brings it; else "
            f"run the study: `snakemake --profile profiles/local --config study={name}`"
        )
    for link in links:
        print(link)
    print(chain.summary(links))
    return int(any(link.condition == "damaged" for link in links))


def runs(options: argparse.Namespace) -> None:
    """Lists a study's runs, one name a line."""
    for run in _workable(options).runs():
        print(run.name)


def record(options: argparse.Namespace) -> None:
    """Joins what runs' jobs have found with what was recorded before, for git."""
    from barlow_atlas.steps.record import record

    study = _study(options)
    record(options.study, study, options.run or [run.name for run in study.runs()])


def collect(options: argparse.Namespace) -> None:
    """Gathers a study's records into tidy tables: accuracies, label-free signals, runs."""
    from barlow_atlas.steps.collect import collect

    missing = collect(options.study, _study(options))
    if missing:
        _log(f"{len(missing)} milestones are not recorded, such as {missing[0]}; see runs.csv")


def analyse(options: argparse.Namespace) -> None:
    """Computes a study's curves, effects and claims, with their intervals."""
    from barlow_atlas.steps.analyse import analyse

    analyse(options.study, _study(options))


def report(options: argparse.Namespace) -> None:
    """Draws a study's figures and writes its tables and its page."""
    from barlow_atlas.steps.report import report

    report(options.study, _study(options))


def ledger(options: argparse.Namespace) -> None:
    """Writes what is said over all studies: the claims, the papers' tables, the first page."""
    from barlow_atlas.steps.ledger import write_ledger
    from barlow_atlas.workflow.turns import in_turn

    with in_turn("ledger", _log):
        write_ledger()


def paper(options: argparse.Namespace) -> None:
    """Writes reports/paper.pdf: figures, tables and findings, every number from the records."""
    from barlow_atlas.tools.paper import write_paper

    _log(f"written: {write_paper()}")


def verify_results(options: argparse.Namespace) -> int:
    """Makes tables, figures and pages anew from the records; 1 if one that is kept differs."""
    from barlow_atlas.steps.verify_results import differences

    wrong = equal = besides = 0
    for file, fault in differences(options.study, _log):
        if fault == "is not kept":
            besides += 1
        elif fault:
            _log(f"{file} {fault}")
            wrong += 1
        else:
            equal += 1
    _log(f"{equal} files are what the records give, {wrong} are not")
    _log(f"{besides} more were made, which git does not hold: `make report` writes them")
    if wrong:
        _log("`make report STUDY=...` writes them anew; `git diff` then shows what was different")
    return int(bool(wrong))


def watch(options: argparse.Namespace) -> None:
    """Serves a study's page while it runs: jobs, curves, time left. Reads only."""
    from barlow_atlas.tools.watch import serve

    serve(options.study, _study(options), options.host, options.port, _log)


def export(options: argparse.Namespace) -> None:
    """Writes a study as an RO-Crate: parameters, hashes, results, reports, model cards."""
    from barlow_atlas.tools.export.crate import export_crate

    export_crate(options.study, _study(options), options.to, options.partial)
    _log(f"{options.to} holds {options.study}; {options.to}/ro-crate-metadata.json describes it")


def card(options: argparse.Namespace) -> None:
    """Prints the model card of a run's milestone, for publishing its weights."""
    from barlow_atlas.tools.export.cards import card_of

    print(card_of(options.study, _study(options), options.run, options.epoch), end="")


def publish(options: argparse.Namespace) -> None:
    """Writes a milestone with its card as a model's repository, also on the Hugging Face hub."""
    from barlow_atlas.tools.export.hub import push, write_repository

    milestone = options.run, options.epoch
    place = write_repository(options.study, _study(options), *milestone, options.to)
    _log(f"{options.to} holds weights, manifest and card; `barlow_atlas.load({str(place)!r})`")
    if options.hub:
        _log(f"published: {push(options.to, options.hub, options.private)}")


def track(options: argparse.Namespace) -> None:
    """Writes a study's history for TensorBoard, DVCLive or W&B, a folder a run.

    With --follow it goes on while the study runs, until Ctrl-C.
    """
    over = threading.Event()
    if options.follow:
        # Before anything that takes long: it may be over at once.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: over.set())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # see `running.tracked`
    from barlow_atlas.tools.export.tracking import follow, track

    if options.follow:
        folders = follow(options.study, _study(options), options.writer, options.to, over.wait)
    else:
        folders = track(options.study, _study(options), options.writer, options.to)
    _log(f"{options.to} holds {len(folders)} runs of {options.study}")


def adopt(options: argparse.Namespace) -> None:
    """Makes results that were pulled or checked out known to Snakemake, where they fit.

    With --prove or --accept the results of other code first count as made by today's.
    """
    from barlow_atlas.workflow.adopt import adopt
    from barlow_atlas.workflow.turns import hold_study

    study = _study(options)
    with contextlib.ExitStack() as held:
        hold_study(options.study, held, _log)
        if options.prove is not None:
            from barlow_atlas.steps.prove import prove

            how = options.prove, options.tolerance, options.beside, options.device
            prove(options.study, study, *how, _log)
        elif options.accept is not None:
            from barlow_atlas.steps.prove import accept

            accept(options.study, study, options.accept, _log)
        adopt(options.study, study, _log)


def verify(options: argparse.Namespace) -> int:
    """Compares our methods with values that the papers' own code computed; 1 if any differs."""
    from barlow_atlas.verify import verify_command

    return verify_command(options.golden, options.json)


def plan_study(options: argparse.Namespace) -> None:
    """Says what a study will take: jobs, hours, room, and what is trained again."""
    from barlow_atlas.tools.plan import describe

    study = _workable(options)
    at_once = options.jobs or max(1, (os.cpu_count() or 1) // study.threads)
    for line in describe(options.study, study, at_once):
        _log(line)


def measure(options: argparse.Namespace) -> None:
    """Times the steps and probes of a study on this machine, for `plan`."""
    from barlow_atlas.tools.costs import append_measurements
    from barlow_atlas.tools.measure import measure

    study = _workable(options)
    command = f"python -m barlow_atlas measure --study {options.study}"
    for one in measure(options.study, study, options.device, command):
        append_measurements([one])
        what = f"{one.shape.what} of {one.run}, {one.shape}" if one.shape else "start of a program"
        _log(f"{one.device}, {one.threads} threads: {one.seconds:.4g} s, {what}")


def _named_command(text: str) -> tuple[str, str]:
    """NAME=COMMAND as its two parts."""
    name, equals, command = text.partition("=")
    if not (name.strip() and equals and command.strip()):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME=COMMAND, such as --rival 'mine=python train.py'"
        )
    return name.strip(), command


def bench(options: argparse.Namespace) -> int:
    """Measures this package on this machine beside a plain rival, in about 15 minutes.

    Prints each figure and, without --json, the report. With --check it returns 1 if a ratio fell
    well below that of an earlier report of the same kind of device.
    """
    import shlex

    import torch

    from barlow_atlas.tools.bench import run

    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    command = shlex.join(["python", "-m", "barlow_atlas", *sys.argv[1:]])
    rivals = dict(options.rival)
    worse = run(options.only, device, options.json, options.check, command, _log, rivals)
    for line in worse:
        print(f"slower: {line}", file=sys.stderr)
    return int(bool(worse))


def doctor(options: argparse.Namespace) -> int:
    """Checks this machine for what a study needs, and says what is missing and how to get it.

    Without --study: for what every study needs.
    """
    from barlow_atlas.tools.doctor import examine, examine_machine

    if options.study is None:
        return examine_machine(_log)
    return examine(options.study, _study(options), options.profile, _log)


def derive(options: argparse.Namespace) -> None:
    """Writes what follows from studies and code: JSON schema, DVC's stages, parts of the pages.

    Studies that have DVC stages keep them; with --study others get theirs.
    """
    from ruamel.yaml import YAML

    from barlow_atlas.atlas.studies import warn
    from barlow_atlas.atomic import write_atomically
    from barlow_atlas.study.file import file_schema
    from barlow_atlas.study.paths import PARAMS, SCHEMA
    from barlow_atlas.workflow import documentation
    from barlow_atlas.workflow.dvc_stages import HEAD, kept_files, stage_files

    write_atomically(SCHEMA, (json.dumps(file_schema(), indent=2) + "\n").encode())
    yaml = YAML()
    yaml.width = 4096  # commands stay on one line
    stages = stage_files(PARAMS, warn)
    for path in sorted(kept_files(PARAMS, options.study) & set(stages)):
        text = io.StringIO(HEAD)
        text.seek(0, io.SEEK_END)
        yaml.dump(stages[path], text)
        write_atomically(path, text.getvalue().encode())
    for page in documentation.PAGES:
        write_atomically(page, documentation.derived(page.read_text()).encode())


if __name__ == "__main__":
    sys.exit(main())
