"""A study's history for TensorBoard and DVCLive: training metrics, accuracies, label-free signals.

Written from what is stored, while a study runs as well as afterwards, and as often as one likes:
what an earlier call wrote is replaced. Both are optional: `pip install 'barlow-atlas[tracking]'`.
"""

import contextlib
import importlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from barlow_atlas.atlas.frames import probe_rows, signal_rows
from barlow_atlas.atlas.records import Metrics, current
from barlow_atlas.atomic import replace_folder, sync_tree, writing
from barlow_atlas.errors import AtlasError
from barlow_atlas.study.models import ForeignRun, Run, Study

EVENTS = "events.out.tfevents.0000000000.barlow-atlas"
"""TensorBoard finds a file by the middle of this name; its own writers put time and host around."""


class TrackingError(AtlasError):
    """A history that cannot be written."""


@dataclass(frozen=True)
class Point:
    """A value at a pre-training epoch; `name` has slashes between its parts."""

    epoch: int
    name: str
    value: float


@dataclass(frozen=True)
class History:
    """What is stored of a run.

    Attributes:
        parameters: those of the run, flat: `optimizer.weight_decay` and the like.
        points: in the order of epoch and name, each pair once.
    """

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
    if writer not in WRITERS:
        raise TrackingError(f"unknown writer {writer!r}. Known: {', '.join(WRITERS)}")
    told = [history for run in study.runs() if (history := history_of(name, study, run)).points]
    if not told:
        raise TrackingError(
            f"nothing of {name} is stored yet: no training metrics, no probe results. Run "
            f"`snakemake --profile profiles/local --config study={name} -- all`"
        )
    for history in told:
        WRITERS[writer](history, folder / history.run)
    return [folder / history.run for history in told]


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
    points.sort(key=lambda point: (point.epoch, point.name))
    return History(run.name, dict(_flat(run.model_dump(mode="json"))), tuple(points))


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


def write_tensorboard(history: History, folder: Path) -> None:
    """Writes one event file. Its times are epochs, so that it is the same on another day.

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
    with _replacing(folder, (EVENTS,)) as place, (place / EVENTS).open("wb") as file:
        writer = records.RecordWriter(file)

        def write(**fields: Any) -> None:
            writer.write(events.Event(**fields).SerializeToString(deterministic=True))

        write(wall_time=0, file_version="brain.Event:2")
        write(wall_time=0, summary=summaries.Summary(value=[parameters]))
        for point in history.points:
            value = summaries.Summary.Value(tag=point.name, simple_value=point.value)
            summary = summaries.Summary(value=[value])
            write(wall_time=point.epoch, step=point.epoch, summary=summary)


def write_dvclive(history: History, folder: Path) -> None:
    """Writes a DVCLive folder: metrics.json, params.yaml and plots/metrics/, a step an epoch."""
    live: Any = _needed("dvclive")
    names = ("metrics.json", "params.yaml", "plots")
    with (
        _replacing(folder, names) as place,
        _apart(),
        live.Live(str(place), save_dvc_exp=False, dvcyaml=None) as log,
    ):
        log.log_params(dict(history.parameters))
        for point in history.points:
            log.step = point.epoch
            log.log_metric(point.name, point.value)


WRITERS: dict[str, Callable[[History, Path], None]] = {
    "tensorboard": write_tensorboard,
    "dvclive": write_dvclive,
}


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
