"""The probe of a classifier that is trained along with a network, and what a study may ask."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from barlow_atlas.nn.networks import build
from barlow_atlas.nn.randomness import generator
from barlow_atlas.probes.milestone import Labelled, Milestone
from barlow_atlas.probes.online_linear import OnlineLinear
from barlow_atlas.settings.training import OnlineClassifier
from barlow_atlas.study.models import Run, Study

ASKED = OnlineClassifier(classes=10, base_lr=0.1)


def test_it_is_the_accuracy_of_the_networks_classifier(
    tiny_run: Run, splits: dict[str, Labelled]
) -> None:
    run = tiny_run.model_copy(update={"online_linear": ASKED})
    network = build(run.architecture, generator(1, "weights"))
    milestone = Milestone(network, run, splits, 10, torch.device("cpu"))
    assert network.classifier is not None
    weight, bias = (each.detach().numpy() for each in network.classifier.parameters())
    answers = list(OnlineLinear.run([OnlineLinear()], milestone))
    assert [answer["split"] for answer in answers] == ["validation", "test"]
    for answer in answers:
        features = milestone.features[answer["split"]].numpy()
        right = (features @ weight.T + bias).argmax(1) == splits[answer["split"]].labels
        assert answer["top1"] == pytest.approx(100 * np.mean(right))
        assert (answer["probe"], answer["count"]) == ("online_linear", len(right))
    assert OnlineLinear().variants == (OnlineLinear.variant(answers[0]["settings"]),)
    assert "batch statistics" in OnlineLinear.setting(answers[0]["settings"])


def test_a_network_is_drawn_the_same_with_a_classifier(tiny_run: Run) -> None:
    run = tiny_run.model_copy(update={"online_linear": ASKED})
    without, along = (
        build(each.architecture, generator(1)).state_dict() for each in (tiny_run, run)
    )
    assert all(torch.equal(along[name], value) for name, value in without.items())
    assert set(along) - set(without) == {"classifier.weight", "classifier.bias"}


def demo(**changed: Any) -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe").load(Path("params/demo.yaml"))
    return content | changed


def test_what_a_study_does_not_say_leaves_no_trace() -> None:
    assert "online_linear" not in Study.model_validate(demo()).model_dump_json()


GIVEN = {"classes": 10, "base_lr": 0.1}
PROBED = {"linear": {}, "online_linear": {}}
FOREIGN = {
    "layout": "mix-bt",
    "files": {5: "f"},
    "backbone": {"name": "resnet18", "stem": "3x3"},
}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"probes": PROBED}, r"bt: probes\.online_linear.* give the study `online_linear`"),
        (
            {"online_linear": GIVEN, "foreign": {"old": FOREIGN}},
            r"old: probes\.online_linear.*Foreign weights have none",
        ),
        ({"online_linear": GIVEN | {"classes": 7}}, "classes is 7, but digits has 10"),
        ({"online_linear": GIVEN, "local_statistics": 2}, "leave `local_statistics` out"),
    ],
)
def test_a_study_is_refused_by_name(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Study.model_validate(demo(probes=PROBED) | changed)


def test_a_method_may_have_a_rate_of_its_own() -> None:
    own = {"bt": {"online_linear": GIVEN | {"base_lr": 0.3}}}
    study = Study.model_validate(demo(probes=PROBED, online_linear=GIVEN, overrides=own))
    rates = {run.method: run.online_linear and run.online_linear.base_lr for run in study.trained()}
    assert rates["bt"] == 0.3
    assert set(rates.values()) == {0.3, 0.1}
