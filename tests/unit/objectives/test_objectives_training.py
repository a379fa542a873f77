"""The methods in training: two steps, their parts' state, and sizes that cannot work."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from barlow_atlas.nn.networks import Network, initialised_from, projector_layers
from barlow_atlas.objectives import METHODS
from barlow_atlas.objectives.base import Method, Moment
from barlow_atlas.settings.training import Projector

N, D = 16, 6
SMALL = {"hidden": [8]}
METHODS_SMALL: dict[str, dict[str, Any]] = {
    "simclr": {"objective": "simclr"},
    "moco": {"objective": "moco_v2", "queue_length": 2 * N},
    "moco-solo": {
        "objective": "moco_v2",
        "queue_length": 2 * N,
        "momentum": 0.9,
        "final_momentum": 0.99,
        "symmetric": True,
    },
    "byol": {"objective": "byol", "predictor": SMALL},
    "simsiam": {"objective": "simsiam", "predictor": SMALL},
    "swav": {"objective": "swav", "prototypes": 10, "frozen_prototype_steps": 1},
    "swav-queue": {
        "objective": "swav",
        "prototypes": 10,
        "queue_length": N,
        "queue_start_epoch": 0,
        "frozen_prototype_steps": 0,
    },
    "w-mse": {"objective": "w_mse", "sub_batch": 8, "iterations": 2},
    "vicreg": {"objective": "vicreg"},
    "auto": {"objective": "barlow_twins_variant", "variant": "auto_correlation", "lambda_bt": 0.1},
    "entropy": {
        "objective": "barlow_twins_variant",
        "variant": "cross_entropy",
        "temperature": 0.2,
        "lambda_bt": 0.1,
    },
    "asymmetric": {
        "objective": "asymmetric_barlow_twins",
        "lambda_bt": 0.1,
        "stop_gradient": True,
        "predictor": SMALL,
    },
}


def settings(name: str, **changes: Any) -> Method:
    content = METHODS_SMALL[name] | changes
    return METHODS[content["objective"]].model_validate(content)


class Trainer:
    """A tiny network, a method's parts, and an optimizer over what is trained."""

    def __init__(self, method: Method, seed: int = 0) -> None:
        self.method = method
        with initialised_from(torch.Generator().manual_seed(seed)):
            backbone = nn.Sequential(
                nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 12)
            )
            layers = projector_layers(12, Projector(hidden=(16,)), D)
            self.network = Network(backbone, nn.Sequential(*layers))
            self.parts = method.parts(self.network, D)
        trained = [p for p in self.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=0.01)

    def parameters(self) -> list[nn.Parameter]:
        return [*self.network.parameters(), *self.parts.parameters()]

    def step(self, step: int) -> dict[str, torch.Tensor]:
        draws = torch.Generator().manual_seed(step)
        base = torch.randn(N, 3, 4, 4, generator=draws)
        view_a, view_b = (base + torch.randn(N, 3, 4, 4, generator=draws) for _ in "ab")
        moment = Moment(0, step, 2, 2, draws)
        terms = self.method.terms(self.network, self.parts, view_a, view_b, moment)
        self.optimizer.zero_grad()
        terms["loss"].backward()
        self.optimizer.step()
        self.method.after_step(self.network, self.parts, moment)
        return terms

    def state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "parts": self.parts.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }


@pytest.mark.parametrize("name", METHODS_SMALL)
def test_two_steps_train_network_and_parts(name: str) -> None:
    trainer = Trainer(settings(name))
    before = [parameter.detach().clone() for parameter in trainer.parameters()]
    for step in range(2):
        terms = trainer.step(step)
        assert all(term.ndim == 0 and term.isfinite() for term in terms.values())
        assert terms["loss"].requires_grad
    moved = [
        not torch.equal(old, new) for old, new in zip(before, trainer.parameters(), strict=True)
    ]
    assert all(moved)
    frozen = [p for p in trainer.parts.parameters() if not p.requires_grad]
    assert all(parameter.grad is None for parameter in frozen)


@pytest.mark.parametrize("name", METHODS_SMALL)
def test_a_restored_state_goes_on_bit_for_bit(name: str, tmp_path: Any) -> None:
    undisturbed, restored = Trainer(settings(name)), Trainer(settings(name), seed=1)
    undisturbed.step(0)
    torch.save(undisturbed.state(), tmp_path / "state")
    state = torch.load(tmp_path / "state", weights_only=True)
    for part in ("network", "parts", "optimizer"):
        getattr(restored, part).load_state_dict(state[part])
    first, second = undisturbed.step(1), restored.step(1)
    assert {k: v.item() for k, v in first.items()} == {k: v.item() for k, v in second.items()}
    for a, b in zip(undisturbed.parameters(), restored.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(undisturbed.parts.buffers(), restored.parts.buffers(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("name", "part"), [("moco", "key_encoder"), ("byol", "target")])
def test_the_slow_network_starts_as_a_copy(name: str, part: str) -> None:
    trainer = Trainer(settings(name))
    copy = trainer.parts.get_submodule(part)
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    for online, slow in zip(trainer.network.parameters(), copy.parameters(), strict=True):
        assert torch.equal(online, slow)
        assert online is not slow


@pytest.mark.parametrize(
    ("name", "changes", "batch_size", "message"),
    [
        ("simclr", {}, 1, "no negatives"),
        ("vicreg", {}, 1, "no variance"),
        ("auto", {}, 1, "no variance"),
        ("asymmetric", {}, 1, "no variance"),
        ("moco", {"queue_length": 40}, 16, "give 32"),
        ("moco", {"queue_length": 8}, 16, "give 16"),
        ("swav", {"queue_length": 40}, 16, "give 32"),
        ("swav", {"epsilon": 0.01}, 16, "overflows"),
        ("w-mse", {"sub_batch": 6}, 12, "above embedding_dim"),
        ("w-mse", {}, 12, "multiple of sub_batch 8"),
    ],
)
def test_sizes_that_cannot_work_are_named(
    name: str, changes: dict[str, Any], batch_size: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        settings(name, **changes).check(batch_size, D)


@pytest.mark.parametrize("name", METHODS_SMALL)
def test_sizes_that_work_pass(name: str) -> None:
    settings(name).check(N, D)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("simclr", {"temperature": 0}, "greater than 0"),
        ("entropy", {"temperature": None}, "must be given for cross_entropy"),
        ("auto", {"temperature": 0.1}, "must be given for cross_entropy"),
        ("auto", {"variant": "feature_normalisation"}, "divide_by_n"),
        ("auto", {"variant": "no_normalisation", "l2_normalise": True}, "l2_normalise"),
        ("asymmetric", {"stop_gradient": False, "predictor": None}, "it is barlow_twins"),
        ("byol", {"predictor": {"hidden": [8], "width": 3}}, "Extra inputs"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    name: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(name, **changes)


@pytest.mark.parametrize("name", ["auto", "asymmetric"])
def test_a_dead_dimension_gives_a_loss_that_stops_the_run(name: str) -> None:
    trainer = Trainer(settings(name))
    with torch.no_grad():
        last = trainer.network.get_submodule("projector")[-1]
        last.weight[0], last.bias[0] = 0, 0
    trainer.method = settings("auto") if name == "auto" else settings(name, predictor=None)
    assert not trainer.step(0)["loss"].isfinite()


def test_only_rising_momenta_follow_the_share_of_training_done() -> None:
    following = {name for name in METHODS_SMALL if settings(name).needs_an_end}
    assert following == {"byol", "moco-solo"}
