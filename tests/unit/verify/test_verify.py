"""`verify` fails where it should: a comparison that cannot fail proves nothing."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from barlow_atlas.verify import (
    REFERENCE,
    Outcome,
    outputs_of,
    read,
    table,
    verify,
    verify_case,
    verify_command,
)
from barlow_atlas.verify.topics import TOPICS
from barlow_atlas.verify.values import Difference, Within, compare

SLOW = {"mix_training_steps"}
Json = dict[str, Any]


def golden(topic: str) -> Json:
    return read(REFERENCE / f"{topic}.json")


def write(folder: Path, content: Any, name: str = "file.json") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def perturbed(outputs: Any) -> Iterator[tuple[str, Any]]:
    """Copies of `outputs` with one fact changed in each, by 1e-6 of its size, and what it is."""
    if isinstance(outputs, dict) and "shape" in outputs:
        step = 1e-6 * (outputs["norm"] or 1.0)
        for fact in outputs.keys() - {"shape"}:
            value = np.array(outputs[fact])
            value.flat[-1] += step
            yield fact, {**outputs, fact: value.tolist()}
        yield "shape", {**outputs, "shape": [1, *outputs["shape"]]}
    elif isinstance(outputs, dict | list):
        pairs = list(outputs.items() if isinstance(outputs, dict) else enumerate(outputs))
        for key, value in pairs[:40]:
            for place, other in perturbed(value):
                changed = copy.copy(outputs)
                changed[key] = other
                yield f"{key}.{place}", changed
    elif isinstance(outputs, float):
        yield "", outputs + 1e-6 * (abs(outputs) or 1.0)
    elif isinstance(outputs, int):
        yield "", outputs + 1
    else:
        yield "", f"{outputs} "


@pytest.mark.parametrize("topic", [topic for topic in TOPICS if topic not in SLOW])
def test_a_change_of_one_millionth_is_found_wherever_it_is(topic: str) -> None:
    for case in golden(topic)["cases"][:3]:
        found = outputs_of(topic)(case)
        assert max(finding.error for finding in compare(case["outputs"], found)) < 1e-10
        for place, changed in perturbed(case["outputs"]):
            worst = max(finding.error for finding in compare(changed, found))
            assert worst > 1e-9, f"{case['name']} passes with another {place}"


def changed_case(change: Callable[[Json], object]) -> Outcome:
    case = golden("mix_small_loss")["cases"][0]
    change(case)
    return verify_case("file.json", "mix_small_loss", case)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda case: case["outputs"].update(entropy=1.0), "outputs.entropy is not computed here"),
        (lambda case: case["outputs"]["grad_z1"].update(mean=1.0), "grad_z1.mean is no fact"),
        (lambda case: case["outputs"].update(loss=[1.0]), "outputs.loss has 1 entries"),
        (lambda case: case["outputs"].update(loss={"shape": [1]}), "outputs.loss has shape [1]"),
        (lambda case: case["outputs"].update(loss="0.2"), "outputs.loss is str"),
        (lambda case: case["outputs"].update(grad_z1=1.0), "outputs.grad_z1 is a number"),
        (lambda case: case.pop("outputs"), "lists no outputs"),
        (lambda case: case.update(outputs={}), "lists no outputs"),
        (lambda case: case.pop("seed"), "KeyError: 'seed'"),
        (lambda case: case["params"].pop("lambda_bt"), "KeyError: 'lambda_bt'"),
        (lambda case: case.update(seed=2), "input z1: sum"),
        (lambda case: case["input_check"]["z2"].update(last=1.0), "input z2: last"),
        (lambda case: case["input_check"].update(z3={"sum": 1.0}), "input z3"),
    ],
)
def test_what_cannot_be_compared_is_named(change: Callable[[Json], object], told: str) -> None:
    outcome = changed_case(change)
    assert not outcome.passed
    assert told in outcome.problem


def test_all_that_is_missing_is_named() -> None:
    outcome = changed_case(lambda case: case["outputs"].update(one=1.0, two=2.0))
    assert "outputs.one" in outcome.problem
    assert "outputs.two" in outcome.problem


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"topic": "dino", "format_version": 1, "cases": [{}]}, "unknown topic 'dino'"),
        ({"topic": "lars", "format_version": 2, "cases": [{}]}, "format_version 2; known: 1"),
        ({"topic": "lars", "cases": [{}]}, "format_version None"),
        ({"topic": "lars", "format_version": 1, "cases": []}, "lists no cases"),
        ({"topic": "lars", "format_version": 1, "cases": {"a": 1}}, "lists no cases"),
        ({"topic": "lars", "format_version": 1, "cases": ["a"]}, "lists no outputs"),
        ({"format_version": 1, "cases": [{}]}, "names no topic"),
        ([1, 2], "names no topic"),
        ("{", "cannot be read as JSON"),
    ],
)
def test_a_file_that_is_none_fails(content: Any, told: str, tmp_path: Path) -> None:
    outcomes = verify(write(tmp_path, content))
    assert [outcome.passed for outcome in outcomes] == [False]
    assert told in outcomes[0].problem
    assert told in table(outcomes)
    assert verify_command(tmp_path, json_output=False) == 1


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_a_folder_without_files_fails(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert verify_command(tmp_path / name, json_output=False) == 1


def test_one_failure_hides_no_other_case(tmp_path: Path, capsys: Any) -> None:
    content = golden("lars")
    content["cases"][0]["outputs"]["after_each_step"][2]["bias"]["norm"] *= 1 + 1e-6
    del content["cases"][1]["params"]["eta"]
    folder = write(tmp_path / "golden", content)
    write(folder, "no JSON", "broken.json")
    assert verify_command(folder, json_output=True) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [row["passed"] for row in rows] == [False, False, False, True, True, True]
    assert rows[0]["file"] == "broken.json"
    assert rows[1]["worst"] == "outputs.after_each_step[2].bias.norm"
    assert rows[1]["error"] == pytest.approx(1e-6, rel=1e-3)
    assert "KeyError: 'eta'" in rows[2]["problem"]


def test_the_table_says_what_was_worst(tmp_path: Path, capsys: Any) -> None:
    content = golden("simsiam")
    content["cases"][1]["outputs"]["loss"] += 1e-5
    assert verify_command(write(tmp_path, content), json_output=False) == 1
    printed = capsys.readouterr().out
    assert "FAIL    outputs.loss" in printed
    assert "2 of 3 cases pass" in printed
    write(tmp_path, golden("simsiam"))
    assert verify_command(tmp_path, json_output=False) == 0
    assert "3 of 3 cases pass" in capsys.readouterr().out


def worst(expected: Any, found: Any) -> float:
    return max(finding.error for finding in compare(expected, found))


def test_numbers_below_the_floor_are_measured_against_it() -> None:
    assert worst(0.0, 1e-16) == pytest.approx(1e-10)
    assert worst([3.0, 0.0], [3.0, 1e-13]) < 1e-9
    array = {"shape": [2], "sum": 0.0, "norm": 2**0.5, "values": [1.0, -1.0]}
    assert worst(array, torch.tensor([1.0, -1.0 - 1e-13], dtype=torch.float64)) < 1e-9


def test_an_array_of_zeros_has_a_floor_too() -> None:
    zeros = {"shape": [2], "sum": 0.0, "norm": 0.0, "first": [0.0, 0.0], "last": 0.0}
    assert worst(zeros, np.zeros(2)) == 0
    assert worst(zeros, np.full(2, 1e-9)) > 1e-9


def test_integers_are_exact_and_nothing_is_silent() -> None:
    assert worst(10**12, 10**12 + 1) == float("inf")
    assert worst([1, 2], torch.tensor([1, 3])) == float("inf")
    assert worst(1.0, float("nan")) == float("inf")
    assert worst(float("nan"), float("nan")) == 0
    assert worst(True, 1) == float("inf")
    assert worst(None, None) == 0


def test_what_the_reference_leaves_open_is_left_open() -> None:
    assert worst(5, Within(7, slack=2)) == 0
    assert worst(5, Within(8, slack=2)) == float("inf")
    assert worst(1e-5, Difference(1e-5 + 1e-13, of=1.0)) == pytest.approx(1e-10, rel=1e-3)
