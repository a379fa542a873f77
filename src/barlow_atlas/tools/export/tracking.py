"""A study's history for TensorBoard, DVCLive and W&B: training metrics, accuracies, signals.

Written from what is stored, while a study runs as well as afterwards, and as often as one likes:
what an earlier call wrote is replaced. `follow` goes on writing while a study runs. It only reads
what the study's jobs leave, in a process of its own: whatever becomes of it, no job notices.

The writers are optional: `pip install 'barlow-atlas[tracking]'`.
"""

import contextlib
import importlib
import json
import os
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from barlow_atlas.atlas.frames import probe_rows, signal_rows
from barlow_atlas.atlas.records import Metrics, current
from barlow_atlas.atomic import replace_folder, sync_tree, writing
from barlow_atlas.errors import AtlasError
from barlow_atlas.study.models import ForeignRun, Run, Study
from barlow_atlas.workflow.jobs import jobs_of, step_file, submissions

NOW = "now"
ABOUT_PROGRESS = ("time", "run", "epoch", "step", "of", "seconds_left")
"""What a line of progress says beside its numbers."""
SECONDS_BETWEEN_LOOKS = 10.0
EVENTS = "events.out.tfevents.0000000000.barlow-atlas"
"""TensorBoard finds a file by the middle of this name; its own writers put time and host around."""


class TrackingError(AtlasError):
    """A history that cannot be written."""


@dataclass(frozen=True)
class Point:
    """A value of a run; `name` has slashes between its parts."""

    step: int
    """Pre-training epoch; of what is told while an epoch is trained, steps of the optimizer."""
    name: str
    value: float


@dataclass(frozen=True)
class History:
    """What is stored of a run.

    Attributes:
        parameters: those of the run, flat: `optimizer.weight_decay` and the like.
        points: in the order of epoch and name, each pair once.
    """

    study: str
    run: str
    parameters: Mapping[str, bool | int | float | str]
    points: tuple[Point, ...]


def track(name: str, study: Study, writer: str, folder: Path) -> list[Path]:
    """Writes the histories of a study's runs, one sub-folder each; runs in the repository's root.

    Args:
        name: the study's, as its file in `params/`.
        writer: a name of `WRITERS`.
        folder: where the runs' folders go. Those of this study's runs are replaced.

    Returns:
        The folders; runs of which nothing is stored have none.

    Raises:
        TrackingError: if the writer is unknown or not installed, a folder holds something else,
            or nothing is stored.
    """
    session, names = _writer(writer)
    told = [history for run in study.runs() if (history := history_of(name, study, run)).points]
    if not told:
        raise TrackingError(
            f"nothing of {name} is stored yet: no training metrics, no probe results. Run "
            f"`snakemake --profile profiles/local --config study={name} -- all`"
        )
    for history in told:
        with _replacing(folder / history.run, names) as place, session(history, place) as add:
            add(history.points)
    return [folder / history.run for history in told]


def follow(
    name: str, study: Study, writer: str, folder: Path, is_over: Callable[[float], bool]
) -> list[Path]:
    """As `track`, and goes on with what is added, until it is over.

    Beside what is stored it tells what a segment says of itself while it is trained:
    `now/<term>`, by the optimizer's steps.

    Args:
        is_over: waits for so many seconds, or until it is over, and says whether it is.

    Raises:
        TrackingError: if the writer is unknown or not installed, or a folder holds something else.
    """
    session, names = _writer(writer)
    logs = Logs(name, study)
    adds: dict[str, Add] = {}
    told: dict[str, set[tuple[int, str]]] = defaultdict(set)
    with contextlib.ExitStack() as sessions:
        over = False
        while True:
            begin = time.monotonic()
            now = logs.read()
            for run in study.runs():
                history = history_of(name, study, run)
                new = [
                    point
                    for point in (*history.points, *now.get(run.name, ()))
                    if (point.step, point.name) not in told[run.name]
                ]
                if not new:
                    continue
                if run.name not in adds:
                    with _replacing(folder / run.name, names):
                        pass
                    adds[run.name] = sessions.enter_context(session(history, folder / run.name))
                adds[run.name](new)
                told[run.name].update((point.step, point.name) for point in new)
            if over:
                return [folder / run for run in adds]
            # Where many files make looking slow, it is done less often; once more at the end.
            over = is_over(max(SECONDS_BETWEEN_LOOKS, 20 * (time.monotonic() - begin)))


class Logs:
    """What the logs of a study's segments say while they are trained, each line once."""

    def __init__(self, name: str, study: Study) -> None:
        trained = (job for job in submissions(jobs_of(name, study)) if job.rule == "pretrain")
        self._read = {step_file(name, job, ".log"): 0 for job in trained}

    def read(self) -> dict[str, list[Point]]:
        """By run, what was added since the last call."""
        new: dict[str, list[Point]] = defaultdict(list)
        for file, before in self._read.items():
            try:
                with file.open("rb") as log:
                    # A segment that goes on after it was stopped has a new log.
                    begin = before if before <= file.stat().st_size else 0
                    log.seek(begin)
                    whole = log.read().rpartition(b"\n")[0]
            except OSError:
                continue
            self._read[file] = begin + len(whole)
            for line in whole.splitlines():
                for run, point in _told_now(line):
                    new[run].append(point)
        return new


def _told_now(line: bytes) -> Iterator[tuple[str, Point]]:
    """The numbers of a line of progress, with the run that it is of; none of any other line."""
    with contextlib.suppress(ValueError):
        told = json.loads(line)
        if isinstance(told, dict) and {"run", "epoch", "step", "of"} <= told.keys():
            step = (told["epoch"] - 1) * told["of"] + told["step"]
            for term, value in told.items():
                if term not in ABOUT_PROGRESS and value is not None:
                    yield told["run"], Point(step, f"{NOW}/{_plain(term)}", value)


def history_of(name: str, study: Study, run: Run | ForeignRun) -> History:
    """What is stored of a run now. Names of points:

    - `training/<term>`: means over each epoch, of the trunk where the schedule has branches;
    - `<probe>/<split>/<metric>/<variant>`: percent, at each milestone;
    - `signals/<space>/<split>/<signal>`: at each milestone, where it is defined.
    """
    known = current(name, study, run)
    points = [
        *(
            point
            for stretch, metrics in known.training.items()
            if not stretch.cooled
            for point in _trained(metrics)
        ),
        *(point for content in known.milestones.values() for point in _probed(content)),
    ]
    points.sort(key=lambda point: (point.step, point.name))
    return History(name, run.name, dict(_flat(run.model_dump(mode="json"))), tuple(points))


def _trained(metrics: Metrics) -> Iterator[Point]:
    for term, values in metrics.items():
        if term != "epoch":
            for epoch, value in zip(metrics["epoch"], values, strict=True):
                yield Point(int(epoch), f"training/{term}", value)


def _probed(content: Mapping[str, Any]) -> Iterator[Point]:
    for row in probe_rows(content):
        parts = (row["probe"], row["split"], row["metric"], row["variant"])
        yield Point(row["epoch"], "/".join(map(_plain, parts)), row["value"])
    for row in signal_rows(content):
        if row["value"] is not None:
            parts = ("signals", row["space"], row["split"], row["signal"])
            yield Point(row["epoch"], "/".join(map(_plain, parts)), row["value"])


def _plain(part: str) -> str:
    """A part of a name that is safe as a name of a file, which DVCLive makes of it."""
    return re.sub(r"[^\w.=+ -]|^\.+", "_", part)


def _flat(
    parameters: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, bool | int | float | str]]:
    """Parameters by their path in the run; lists as text, what is not set left out."""
    for key, value in parameters.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield f"{prefix}{key}", json.dumps(value)
        elif value is not None:
            yield f"{prefix}{key}", value


Add = Callable[[Sequence[Point]], None]
"""Adds points to what a writer has written of a run."""


@contextlib.contextmanager
def _tensorboard(history: History, folder: Path) -> Iterator[Add]:
    """One event file. Its times are steps, so that it is the same on another day.

    TensorBoard's record format is used directly: its own SummaryWriter names the file after time,
    host and process, and begins it with the present time.
    """
    events: Any = _needed("tensorboard.compat.proto.event_pb2")
    summaries: Any = _needed("tensorboard.compat.proto.summary_pb2")
    records: Any = _needed("tensorboard.summary.writer.record_writer")
    hparams: Any = _needed("tensorboard.plugins.hparams.plugin_data_pb2")
    metadata: Any = _needed("tensorboard.plugins.hparams.metadata")

    session = hparams.HParamsPluginData(version=metadata.PLUGIN_DATA_VERSION)
    session.session_start_info.start_time_secs = 0
    for key, value in history.parameters.items():
        kind = {bool: "bool_value", str: "string_value"}.get(type(value), "number_value")
        setattr(session.session_start_info.hparams[key], kind, value)
    parameters = summaries.Summary.Value(
        tag=metadata.SESSION_START_INFO_TAG, tensor=metadata.NULL_TENSOR
    )
    parameters.metadata.plugin_data.plugin_name = metadata.PLUGIN_NAME
    parameters.metadata.plugin_data.content = session.SerializeToString(deterministic=True)
    with (folder / EVENTS).open("wb") as file:
        writer = records.RecordWriter(file)

        def write(**fields: Any) -> None:
            writer.write(events.Event(**fields).SerializeToString(deterministic=True))

        def add(points: Sequence[Point]) -> None:
            for point in points:
                value = summaries.Summary.Value(tag=point.name, simple_value=point.value)
                summary = summaries.Summary(value=[value])
                write(wall_time=point.step, step=point.step, summary=summary)
            file.flush()

        write(wall_time=0, file_version="brain.Event:2")
        write(wall_time=0, summary=summaries.Summary(value=[parameters]))
        yield add


@contextlib.contextmanager
def _dvclive(history: History, folder: Path) -> Iterator[Add]:
    """A DVCLive folder: metrics.json, params.yaml and plots/metrics/."""
    live: Any = _needed("dvclive")
    place = str(folder.absolute())
    with _apart():
        log = live.Live(place, save_dvc_exp=False, dvcyaml=None)
        log.log_params(dict(history.parameters))

    def add(points: Sequence[Point]) -> None:
        with _apart():
            for point in points:
                log.step = point.step
                log.log_metric(point.name, point.value)
            log.make_summary()

    try:
        yield add
    finally:
        with _apart():
            log.end()


@contextlib.contextmanager
def _wandb(history: History, folder: Path) -> Iterator[Add]:
    """A run of W&B, which sends nothing unless WANDB_MODE says `online`."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # is read when it is imported
    wandb: Any = _needed("wandb")
    run = wandb.init(
        project="barlow-atlas",
        group=history.study,
        name=history.run,
        dir=str(folder.absolute()),
        config=dict(history.parameters),
        mode=os.environ.get("WANDB_MODE", "offline"),
        reinit="create_new",
        settings=wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True
        ),
    )
    # Its own steps may only rise, and a milestone is probed while later epochs are trained.
    run.define_metric("*", step_metric="epoch")
    run.define_metric(f"{NOW}/*", step_metric="optimizer_step")

    def add(points: Sequence[Point]) -> None:
        rows: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
        for point in points:
            axis = "optimizer_step" if point.name.startswith(f"{NOW}/") else "epoch"
            rows[axis, point.step][point.name] = point.value
        for (axis, step), values in rows.items():
            run.log({axis: step, **values})

    try:
        yield add
    finally:
        run.finish()


class Writer(NamedTuple):
    """What writes a run's history into an empty folder, and keeps it open for more."""

    session: Callable[[History, Path], contextlib.AbstractContextManager[Add]]
    names: tuple[str, ...]
    """Of what it puts there; what else a folder holds is somebody's."""


WRITERS = {
    "tensorboard": Writer(_tensorboard, (EVENTS,)),
    "dvclive": Writer(_dvclive, ("metrics.json", "params.yaml", "plots")),
    "wandb": Writer(_wandb, ("wandb",)),
}


def _writer(name: str) -> Writer:
    if name not in WRITERS:
        raise TrackingError(f"unknown writer {name!r}. Known: {', '.join(WRITERS)}")
    return WRITERS[name]


def _needed(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise TrackingError(
            f"{module.partition('.')[0]} is not installed ({error}): "
            "`pip install 'barlow-atlas[tracking]'`"
        ) from error


@contextlib.contextmanager
def _replacing(folder: Path, names: tuple[str, ...]) -> Iterator[Path]:
    """An empty place to write to, which then takes the place of `folder`.

    Raises:
        TrackingError: if the folder holds anything but `names`, which nobody may delete.
        WriteError: if it cannot be written; what was there is as it was.
    """
    if folder.exists():
        others = sorted(path.name for path in folder.iterdir() if path.name not in names)
        if others:
            raise TrackingError(
                f"{folder} holds {', '.join(others[:5])}, which this writer did not write: name "
                "another folder"
            )
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as outer:
            place = Path(outer).absolute() / "new"
            place.mkdir()
            yield place
            sync_tree(place)
            replace_folder(place, folder)


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Away from any repository, and without DVC's variables.

    DVCLive looks for a repository from the working folder upwards: it would set up DVC in one that
    has none, remove signs left for editors, and send all to DVC Studio where a token is set.
    """
    hidden = {key: os.environ.pop(key) for key in list(os.environ) if re.match("DVC|STUDIO_", key)}
    try:
        with tempfile.TemporaryDirectory() as nowhere, contextlib.chdir(nowhere):
            yield
    finally:
        os.environ.update(hidden)
