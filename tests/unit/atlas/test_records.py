"""The record of a run: what is kept of its jobs' files, in how much room, and that none is lost."""

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from demo_results import JOB_FILES, RECORDED, RECORDS, STUDY, milestone_of, write

from barlow_atlas.atlas.records import (
    FORMAT,
    Record,
    RecordError,
    Stretch,
    contents,
    current,
    encoded,
    recorded,
)
from barlow_atlas.probes.packing import pack, pack_correlations
from barlow_atlas.steps.record import record
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import (
    ANALYSED,
    COLLECTED,
    REPORTED,
    REPORTS,
    RESULTS,
    is_kept,
    probe_file,
    probed_milestone,
    record_file,
    training_file,
)

RUN, OTHER = STUDY.trained()[0], STUDY.trained()[1]
EPOCHS = (0, 5, 10, 25, 50, 100)
FILE = record_file("demo", RUN.name)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory in which nothing is."""
    monkeypatch.chdir(tmp_path)


def record_demo() -> None:
    record("demo", STUDY, [run.name for run in STUDY.runs()])


def edit(file: Path, **changes: Any) -> None:
    content = json.loads(JOB_FILES[file])
    write({file: json.dumps(content | changes).encode()})


def manifest(epoch: int, lineage: str) -> None:
    write({probed_milestone("demo", RUN, epoch): json.dumps({"lineage": lineage}).encode()})


def test_what_jobs_wrote_is_recorded_as_it_is_in_git() -> None:
    write(JOB_FILES)
    record_demo()
    assert {path: path.read_bytes() for path in RECORDS} == RECORDS
    assert contents("demo", STUDY) == RECORDED


def test_a_record_gives_back_what_it_was_given() -> None:
    """What is dropped apart, to the bit; training metrics to nine digits."""
    loss = float(np.float32(1 / 3))
    rows = [{"epoch": epoch, "loss": loss * epoch, "rate": 0.1} for epoch in (1, 2, 3, 4, 5)]
    write(JOB_FILES, "probes")
    write(
        {training_file("demo", RUN.name, 5): "".join(json.dumps(r) + "\n" for r in rows).encode()}
    )
    record("demo", STUDY, [RUN.name])
    back = recorded("demo", RUN)
    assert back == current("demo", STUDY, RUN)
    assert list(back.milestones) == list(EPOCHS)
    for epoch, content in back.milestones.items():
        assert content == json.loads(JOB_FILES[probe_file("demo", RUN, epoch)])
    assert list(back.training) == [Stretch(5)]
    assert back.training[Stretch(5)]["epoch"] == [1, 2, 3, 4, 5]
    assert [np.float32(x) for x in back.training[Stretch(5)]["loss"]] == [
        np.float32(row["loss"]) for row in rows
    ]


def test_only_what_nothing_reads_is_dropped() -> None:
    full = deepcopy(milestone_of(RUN.name, 50))
    for result in full["results"]:
        result["correct"] = pack(np.ones(result["count"], dtype=bool))
    full["signals"][-1]["correlation"] = {"dimensions": 1, "values": "fw=="}
    for run in (RUN, OTHER):
        for epoch in (0, 50, 100):
            named = {"name": run.name, "epoch": epoch, "run": run.model_dump(mode="json")}
            write({probe_file("demo", run, epoch): json.dumps(full | named).encode()})
    record_demo()
    for run, shown in ((RUN, (0, 100)), (OTHER, ())):
        for epoch, content in recorded("demo", run).milestones.items():
            for entry, before in zip(content["results"], full["results"], strict=True):
                assert ("correct" in entry) == (entry["split"] == "test")
                assert before == entry | {"correct": before["correct"]}
            *others, last = content["signals"]
            assert others == full["signals"][:-1]
            assert ("correlation" in last) == (epoch in shown)
            assert last["values"] == full["signals"][-1]["values"]


def test_recording_again_loses_nothing() -> None:
    write(RECORDS)
    record_demo()
    assert {path: path.read_bytes() for path in RECORDS} == RECORDS
    # One more probed here: it counts, all others stay.
    edit(probe_file("demo", RUN, 50), signals=[])
    record("demo", STUDY, [RUN.name])
    now = recorded("demo", RUN).milestones
    assert now[50]["signals"] == []
    assert {epoch: one for epoch, one in now.items() if epoch != 50} == {
        epoch: milestone_of(RUN.name, epoch) for epoch in EPOCHS if epoch != 50
    }


def test_a_milestone_more_is_appended() -> None:
    shorter = STUDY.model_copy(update={"milestones": EPOCHS[:-1]})
    write(JOB_FILES)
    record("demo", shorter, [RUN.name])
    before = FILE.read_text().splitlines()
    assert list(recorded("demo", RUN).milestones) == list(EPOCHS[:-1])
    for path in JOB_FILES:
        if not path.stem.endswith("0100"):
            path.unlink()
    record("demo", STUDY, [RUN.name])
    assert FILE.read_bytes() == RECORDS[FILE]
    after = FILE.read_text().splitlines()
    first, changed = json.loads(before[0]), [line for line in before[1:] if line not in after]
    said = json.loads(after[0])["said_once"]
    assert first["said_once"] == said[: len(first["said_once"])]
    assert changed == [], "a line that was there is another one"
    assert len(after) == len(before) + 2


def test_what_is_of_another_checkpoint_than_is_here_does_not_count() -> None:
    write(RECORDS)
    lineage = milestone_of(RUN.name, 25)["checkpoint"]["lineage"]
    manifest(25, lineage)
    record("demo", STUDY, [RUN.name])
    assert 25 in recorded("demo", RUN).milestones
    manifest(25, "trained again")
    record("demo", STUDY, [RUN.name])
    assert 25 not in recorded("demo", RUN).milestones
    write(RECORDS)
    manifest(25, lineage)
    checkpoint = milestone_of(RUN.name, 25)["checkpoint"]
    edit(probe_file("demo", RUN, 25), checkpoint=checkpoint | {"lineage": "of before"})
    record("demo", STUDY, [RUN.name])
    assert FILE.read_bytes() == RECORDS[FILE], "a file of another checkpoint was taken"


def test_results_of_other_parameters_end_with_the_first_of_new_ones() -> None:
    write(RECORDS)
    changed = STUDY.model_copy(update={"batch_size": 64})
    (run, *_) = changed.trained()
    record("demo", changed, [run.name])
    assert FILE.read_bytes() == RECORDS[FILE], "nothing new is here"
    edit(probe_file("demo", run, 0), run=run.model_dump(mode="json"))
    record("demo", changed, [run.name])
    assert list(recorded("demo", run).milestones) == [0]
    assert recorded("demo", run).training == {}


def test_of_a_run_without_any_result_there_is_no_record() -> None:
    record("demo", STUDY, [RUN.name])
    assert not FILE.exists()
    write(JOB_FILES, "training")
    record("demo", STUDY, [RUN.name])
    assert recorded("demo", RUN).milestones == {}
    assert len(recorded("demo", RUN).training) == len(EPOCHS)


def cut(text: str) -> str:
    return text[: len(text) // 2]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "is damaged"),
        (lambda text: text.replace(f'"format":{FORMAT}', '"format":9', 1), "format 9"),
        (lambda text: text.replace(f'"name":"{RUN.name}"', '"name":"x"', 1), "is of x in demo"),
        (lambda text: re.sub(r'"libraries":\d+', '"libraries":99', text), "is damaged"),
    ],
)
def test_a_damaged_record_is_named(damage: Any, message: str) -> None:
    write({FILE: damage(RECORDS[FILE].decode()).encode()})
    with pytest.raises(RecordError, match=message) as error:
        recorded("demo", RUN)
    assert str(FILE) in str(error.value)
    assert "git checkout" in str(error.value)


@pytest.mark.parametrize("file", [probe_file("demo", RUN, 25), training_file("demo", RUN.name, 25)])
def test_a_damaged_file_of_a_job_is_named_and_changes_nothing(file: Path) -> None:
    write(RECORDS)
    write({file: b'{"epoch": 1, "loss"'})
    with pytest.raises(RecordError, match=rf"{file} cannot be read.*Remove it"):
        record("demo", STUDY, [RUN.name])
    assert FILE.read_bytes() == RECORDS[FILE]


def test_lines_of_different_metrics_are_refused() -> None:
    file = training_file("demo", RUN.name, 5)
    write({file: b'{"epoch": 1, "loss": 1.0}\n{"epoch": 2, "other": 1.0}\n'})
    with pytest.raises(RecordError, match="different metrics"):
        current("demo", STUDY, RUN)


# How much a study adds to git ---------------------------------------------------------------------


@pytest.fixture
def whole() -> Study:
    """As many runs, milestones and epochs as a study of two widths has."""
    milestones = (0, 10, 25, 50, 100, 200, 300, 400, 500, 600)
    made = {"embedding_dims": (256, 512), "seeds": tuple(range(1, 7))}
    return STUDY.model_copy(update={**made, "epochs": 600, "milestones": milestones})


def test_a_whole_study_adds_few_files_and_little_room(whole: Study) -> None:
    """24 runs, 10 milestones, 600 epochs; 10000 test images, three probes, arbitrary answers."""
    draws = np.random.default_rng(1)
    runs = whole.runs()
    assert len(runs) == 24
    template = milestone_of(RUN.name, 50)
    size = 0
    for run in whole.trained():
        for epoch in whole.milestones_of(run):
            content = deepcopy(template)
            content |= {"epoch": epoch, "run": run.model_dump(mode="json"), "name": run.name}
            for entry in content["results"]:
                entry["count"] = 10000
                entry["correct"] = pack(draws.random(10000) < 0.5)
            for entry in content["signals"]:
                entry["values"] = {name: draws.random() for name in entry["values"]}
            corner = draws.uniform(-1, 1, (64, 64))
            last = content["signals"][-1]
            last["correlation"] = {"dimensions": 64, "values": pack_correlations(corner)}
            write({probe_file("demo", run, epoch): json.dumps(content).encode()})
        names = ("learning_rate", "loss", "invariance", "redundancy", "mixing")
        previous = 0
        for epoch in whole.milestones_of(run):
            rows = [
                {"epoch": one, **{name: draws.random() for name in names}}
                for one in range(previous + 1, epoch + 1)
            ]
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            write({training_file("demo", run.name, epoch): lines.encode()})
            previous = epoch
        record("demo", whole, [run.name])
        kept = recorded("demo", run)
        assert len(kept.milestones) == 10
        assert sum(len(columns.get("epoch", ())) for columns in kept.training.values()) == 600
        size += record_file("demo", run.name).stat().st_size
    assert size < 3_000_000
    shown = [
        *(RESULTS / "demo" / table for table in (*COLLECTED, *ANALYSED)),
        *(REPORTS / "demo" / file for file in REPORTED),
    ]
    assert len(runs) + sum(is_kept(path) for path in shown) <= 41


def test_the_order_of_lines_is_that_of_epochs() -> None:
    """So a record does not depend on when its milestones came."""
    write(RECORDS)
    known = recorded("demo", RUN)
    backwards = Record(
        known.run, dict(reversed(known.training.items())), dict(reversed(known.milestones.items()))
    )
    write({FILE: encoded("demo", RUN.name, backwards)})
    record("demo", STUDY, [RUN.name])
    assert FILE.read_bytes() == RECORDS[FILE]
