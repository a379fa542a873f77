"""What a proof draws, and what it calls the same."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from barlow_atlas.atlas.records import Record
from barlow_atlas.probes.packing import pack, pack_correlations
from barlow_atlas.steps import prove
from barlow_atlas.steps.prove import Candidate, Change, Made, compare, draw
from barlow_atlas.store.adoptions import AdoptionError
from barlow_atlas.study.file import load_study
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import manifest_file

TRAINING = {
    name: Change(f"training {name}", f"old {name}", f"new {name}") for name in ("bt", "mix")
}
PROBING = Change("probing", "old probes", "new probes")


@pytest.fixture(scope="module")
def study() -> Study:
    """Two methods, two widths, three seeds."""
    demo = load_study(Path("params/demo.yaml"))
    return demo.model_copy(update={"embedding_dims": (64, 256)})


def found(study: Study, epochs: tuple[int, ...] = (5, 10, 100)) -> list[Candidate]:
    return [
        Candidate(run, epoch, 0, (TRAINING[run.method], PROBING))
        for run in study.trained()
        for epoch in epochs
    ]


CHANGES = {"any": (*TRAINING.values(), PROBING)}


def told(drawn: list[Candidate]) -> list[tuple[str, int | None, int, int]]:
    return [(each.run.method, each.run.embedding_dim, each.run.seed, each.epoch) for each in drawn]


def test_each_method_and_width_is_met_first_and_cheaply(study: Study) -> None:
    assert told(draw(found(study), CHANGES, 2)) == [("bt", 64, 1, 5), ("mix", 256, 1, 5)]


def test_then_come_other_runs(study: Study) -> None:
    drawn = draw(found(study), CHANGES, 6)
    assert len({each.run.name for each in drawn}) == 6
    assert {each.epoch for each in drawn} == {5}


def test_what_follows_on_a_stored_state_is_cheaper(study: Study) -> None:
    run = study.trained()[0]
    stored = Candidate(run, 100, 99, (TRAINING["bt"], PROBING))
    assert draw([*found(study), stored], CHANGES, 2)[0] == stored


def test_too_few_are_refused_with_the_number_that_serves(study: Study) -> None:
    with pytest.raises(AdoptionError, match="give at least 2"):
        draw(found(study), CHANGES, 1)


def test_code_that_nothing_here_was_trained_by_is_refused(study: Study) -> None:
    only = [each for each in found(study) if each.run.method == "bt"]
    with pytest.raises(AdoptionError, match="training mix: train it, or adopt with --accept"):
        draw(only, CHANGES, 4)


def test_of_taken_milestones_the_probing_is_proven_alone(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    taking = study.model_copy(update={"milestones_from": "demo"})
    run, *_ = taking.trained()
    told = {"checkpoint": {"sources_sha256": "old bt"}, "probed": {"sources_sha256": "old probes"}}
    records = {each.name: Record({}) for each in taking.runs()}
    records[run.name] = Record({}, milestones={0: told, 5: told})
    changes = prove._changes("mine", taking, records)
    assert [change.code for change in changes[run.name]] == ["probing"]
    (first, later) = prove.candidates("mine", taking, records, changes)
    assert [(each.epoch, each.trained_from) for each in (first, later)] == [(0, 0), (5, 5)]
    monkeypatch.setattr(prove, "asked", lambda *given: {"asked of": given[4]})
    again = prove._make("mine", taking, later, Path("nowhere"), None)
    assert again.content == {"asked of": manifest_file("mine", run.name, 5)}


ANSWERS = np.array([True, False] * 50)


def content(**results: Any) -> dict[str, Any]:
    answer = {
        **{"probe": "knn", "split": "test", "count": 100, "settings": {"k": 5}},
        **{"top1": 50.0, "correct": pack(ANSWERS)},
    }
    signal = {
        **{"space": "projector", "split": "train", "values": {"rankme": 3.5}},
        "correlation": {"dimensions": 2, "values": pack_correlations(np.eye(2))},
    }
    return {
        "checkpoint": {"data_sha256": "d", "weights_sha256": "w", "sources_sha256": "old bt"},
        "results": [answer | results],
        "signals": [signal],
    }


def made(loss: float = 1.5, weights: str = "w", **results: Any) -> Made:
    told = content(**results)
    told["checkpoint"]["weights_sha256"] = weights
    return Made(told, {1: {"epoch": 1.0, "loss": loss}}, None)


def compared(known: Made, again: Made, study: Study, tolerance: float = 0.0) -> Any:
    return compare(found(study)[0], known, again, tolerance)


def test_equal_milestones_agree_in_every_value(study: Study) -> None:
    told = compared(made(), made(), study)
    # epoch, loss; data, weights; space, split, rankme, correlations; probe, split, count, k, top1,
    # answers
    assert (told.compared, told.largest_difference) == (14, 0.0)


@pytest.mark.parametrize(
    ("again", "first"),
    [
        (made(loss=1.5000001), "training metrics, epoch 1, loss: 1.5 then, 1.5000001 now"),
        (made(weights="v"), "weights: w then, v now"),
        (made(top1=50.1), r"results 0 \(knn, test\), top1: 50.0 then, 50.1 now"),
        (made(settings={"k": 6}), r"settings, k: 5 then, 6 now"),
        (made(correct=pack(~ANSWERS)), r"answers"),
        (made(loss=float("nan")), "loss: 1.5 then, nan now"),
    ],
    ids=["loss", "weights", "accuracy", "settings", "answers", "nan"],
)
def test_any_other_value_is_refused_and_named(study: Study, again: Made, first: str) -> None:
    with pytest.raises(AdoptionError, match=f"first at .*{first}"):
        compared(made(), again, study)


def test_a_tolerance_is_relative_and_of_answers_a_share(study: Study) -> None:
    few = ANSWERS.copy()
    few[0] = False
    again = made(loss=1.501, weights="v", top1=49.9, correct=pack(few))
    told = compared(made(), again, study, tolerance=0.01)
    assert told.largest_difference == pytest.approx(0.01)
    with pytest.raises(AdoptionError, match="answers"):
        compared(made(), again, study, tolerance=0.005)


def test_what_is_missing_now_is_a_difference(study: Study) -> None:
    again = made()
    without: Mapping[str, Any] = {**again.content, "signals": []}
    with pytest.raises(AdoptionError, match="projector then, nothing now"):
        compared(made(), Made(dict(without), again.metrics, None), study)


def test_of_what_was_trained_from_a_state_the_epochs_since_are_compared(study: Study) -> None:
    run = study.trained()[0]
    later = Candidate(run, 2, 1, (TRAINING["bt"], PROBING))
    known = Made(content(), {1: {"loss": 9.0}, 2: {"loss": 1.5}}, None)
    again = Made(content(), {2: {"loss": 1.5}}, None)
    assert compare(later, known, again, 0.0).trained_from == 1
    with pytest.raises(AdoptionError, match="first at training metrics, epoch 2, loss"):
        compare(later, known, Made(content(), {2: {"loss": 1.6}}, None), 0.0)
