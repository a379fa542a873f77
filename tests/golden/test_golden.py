"""Our implementation against numbers computed by the papers' own code, in float64."""

import json
from math import fsum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from barlow_atlas.augmentation import RECIPES
from barlow_atlas.networks import Network, build_backbone, projector_layers
from barlow_atlas.objectives.barlow_twins import BarlowTwins
from barlow_atlas.objectives.mixed_barlow_twins import MixedBarlowTwins, mixing_terms
from barlow_atlas.optim import build_optimizer, exponential, learning_rate
from barlow_atlas.probes.knn import knn_scores
from barlow_atlas.study import KNN, Backbone, Data, Optimizer, Run, Schedule

REFERENCE = Path(__file__).parent / "reference"
LOSS_TOLERANCE = 1e-9
TRAINING_TOLERANCE = 1e-6  # a few Adam steps amplify rounding


def cases(topic: str, **wanted: Any) -> list[Any]:
    content = json.loads((REFERENCE / f"{topic}.json").read_text())
    chosen = [
        case
        for case in content["cases"]
        if all(
            case.get(key) in (value if isinstance(value, tuple) else (value,))
            for key, value in wanted.items()
        )
    ]
    assert chosen, f"no case of {topic} matches {wanted}"
    return [pytest.param(case, id=case["name"]) for case in chosen]


def check_input(case: dict[str, Any], **arrays: np.ndarray) -> None:
    for name, array in arrays.items():
        expected = case["input_check"][name]
        found = {"sum": fsum(array.ravel()), "first": array.flat[0], "last": array.flat[-1]}
        assert found == pytest.approx(expected, rel=1e-12), f"the input {name} differs"


def check_array(found: Tensor, expected: dict[str, Any], tolerance: float) -> None:
    assert list(found.shape) == expected["shape"]
    array = found.detach().numpy()
    scale = expected["norm"]
    assert np.linalg.norm(array) == pytest.approx(expected["norm"], rel=tolerance)
    assert array.ravel()[:4] == pytest.approx(expected["first"], rel=tolerance, abs=1e-12 * scale)
    assert array.flat[-1] == pytest.approx(expected["last"], rel=tolerance, abs=1e-12 * scale)
    assert array.sum() == pytest.approx(expected["sum"], rel=tolerance, abs=tolerance * scale)
    if "values" in expected:
        assert array == pytest.approx(np.array(expected["values"]), rel=tolerance, abs=1e-12)


@pytest.mark.parametrize("case", cases("mix_small_loss"))
def test_loss_and_gradients(case: dict[str, Any]) -> None:
    parameters, n, d = case["params"], case["N"], case["d"]
    draws = np.random.default_rng(case["seed"])
    base = draws.standard_normal((n, d)) * np.linspace(0.5, 2, d)
    base = base + draws.standard_normal((1, d))
    z1 = base + 0.5 * draws.standard_normal((n, d))
    z2 = base + 0.5 * draws.standard_normal((n, d))
    arrays = {"z1": z1, "z2": z2}
    common = {"lambda_bt": parameters["lambda_bt"], "l2_normalise": parameters["l2_normalise"]}
    expected = case["outputs"]
    if parameters["mixed"]:
        alpha = parameters["alpha"]
        partner = draws.permutation(n)
        mixed = alpha * z1 + (1 - alpha) * z2[partner]
        arrays["zm"] = mixed + 0.3 * draws.standard_normal((n, d))
        check_input(case, perm=partner)
    check_input(case, **arrays)
    leaves = {name: torch.tensor(array, requires_grad=True) for name, array in arrays.items()}
    if parameters["mixed"]:
        mix = MixedBarlowTwins(
            objective="mixed_barlow_twins", lambda_reg=parameters["lambda_reg"], **common
        )
        prepared = [mix.prepare(leaf) for leaf in leaves.values()]
        terms = mix.mixed_terms(*prepared, alpha, torch.from_numpy(partner))
        with_a, with_b = mixing_terms(*prepared, alpha, torch.from_numpy(partner))
        assert with_a.item() == pytest.approx(expected["reg_frobenius2_A"], rel=LOSS_TOLERANCE)
        assert with_b.item() == pytest.approx(expected["reg_frobenius2_B"], rel=LOSS_TOLERANCE)
    else:
        twins = BarlowTwins(objective="barlow_twins", **common)
        terms = twins.twin_terms(*(twins.prepare(leaf) for leaf in leaves.values()))
    assert terms["invariance"].item() == pytest.approx(
        expected["on_diagonal_sum"], rel=LOSS_TOLERANCE
    )
    assert terms["redundancy"].item() == pytest.approx(
        expected["off_diagonal_sum"], rel=LOSS_TOLERANCE
    )
    assert terms["loss"].item() == pytest.approx(expected["loss"], rel=LOSS_TOLERANCE)
    terms["loss"].backward()
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        check_array(leaf.grad, expected[f"grad_{name}"], LOSS_TOLERANCE)


def run_with(
    schedule: str, epochs: int, batch_size: int, lr: float, method: dict[str, Any] | None = None
) -> Run:
    method = method or {"objective": "barlow_twins", "lambda_bt": 0.0078125}
    return Run(
        data=Data(name="cifar10"),
        image_size=32,
        recipe=RECIPES["mix-cifar"],
        backbone=Backbone(name="resnet18", stem="3x3"),
        projector_hidden=(512,),
        method="m",
        settings=method,
        embedding_dim=64,
        batch_size=batch_size,
        optimizer=Optimizer(name="adam", weight_decay=1e-6),
        schedule=Schedule(name=schedule, base_lr=lr),
        epochs=epochs,
        protocol="clean",
        threads=1,
        seed=0,
    )


@pytest.mark.parametrize("case", cases("schedules", schedule="mix_small_cosine"))
def test_cosine_schedule(case: dict[str, Any]) -> None:
    p = case["params"]
    run = run_with("mix_cosine", p["epochs"], p["batch_size"], p["lr"])
    for point in case["outputs"]:
        rate = learning_rate(run, point["epoch"] - 1, point["batch_index"], p["batches_per_epoch"])
        assert rate == pytest.approx(point["lr"], rel=1e-9)


@pytest.mark.parametrize("case", cases("schedules", schedule="mix_small_step"))
def test_step_schedule(case: dict[str, Any]) -> None:
    run = run_with("mix_step", case["params"]["epochs"], 256, 1e-3)
    for point in case["outputs"]:
        assert learning_rate(run, point["epoch"] - 1, 0, 195) == pytest.approx(
            point["lr"], rel=1e-9
        )


@pytest.mark.parametrize("case", cases("schedules", schedule="mix_linear_probe"))
def test_linear_probe_schedule(case: dict[str, Any]) -> None:
    for point in case["outputs"]:
        rate = 1e-2 * exponential(point["epoch"] - 1, case["params"]["epochs"], 1e-4)
        assert rate == pytest.approx(point["lr"], rel=1e-9)


def golden_network(arch: str, dataset: str, d: int) -> Network:
    """The paper's network for a data set, in float64, with the parameters of the golden rule."""
    stem = "3x3" if dataset.startswith("cifar") else "3x3-maxpool"
    backbone, features = build_backbone(Backbone(name=arch, stem=stem))
    network = Network(backbone, nn.Sequential(*projector_layers([features, 512, d]))).double()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            n = module.weight.numel()
            fan_in = n // len(module.weight)
            weight = np.random.default_rng(n).standard_normal(module.weight.shape)
            module.weight.data = torch.tensor(weight * np.sqrt(2 / fan_in))
            if module.bias is not None:
                n = module.bias.numel()
                module.bias.data = torch.tensor(0.1 * np.random.default_rng(n).standard_normal(n))
    return network


@pytest.mark.parametrize("case", cases("network", kind="mix"))
def test_parameter_counts_and_shapes(case: dict[str, Any]) -> None:
    p, expected = case["params"], case["outputs"]
    stem = "3x3" if p["dataset"].startswith("cifar") else "3x3-maxpool"
    backbone, features = build_backbone(Backbone(name=p["arch"], stem=stem))
    projector = nn.Sequential(*projector_layers([features, 512, p["embedding_dim"]]))
    for part, found in (("encoder", backbone), ("projector", projector)):
        counts = [parameter.numel() for parameter in found.parameters()]
        assert sum(counts) == expected[part]["parameters"]
        assert len(counts) == expected[part]["parameter_tensors"]
    shapes = []
    x = torch.zeros(2, *p["input"])
    for layer in backbone.children():
        x = layer(x)
        if x.dim() == 4 and not isinstance(layer, nn.Identity):
            shapes.append([type(layer).__name__, *x.shape[1:]])
    assert shapes == expected["stage_shapes"]


@pytest.mark.parametrize("case", cases("network", kind="mix_forward"))
def test_forward_pass(case: dict[str, Any]) -> None:
    p = case["params"]
    shape = (p["batch"], 3, p["size"], p["size"])
    array = np.random.default_rng(case["seed"]).standard_normal(shape)
    check_input(case, images=array)
    network, images = (
        golden_network(p["arch"], p["dataset"], p["embedding_dim"]),
        torch.tensor(array),
    )
    modes = {"train_mode": network.train, "eval_mode_after_one_train_pass": network.eval}
    for mode, enter in modes.items():
        enter()
        features = network.backbone(images)
        embeddings = network.projector(features)
        check_array(normalize(features, dim=1), case["outputs"][mode]["feature"], LOSS_TOLERANCE)
        check_array(
            normalize(embeddings, dim=1), case["outputs"][mode]["embedding"], LOSS_TOLERANCE
        )


@pytest.mark.parametrize("case", cases("mix_training_steps"))
def test_training_steps(case: dict[str, Any]) -> None:
    p, expected = case["params"], case["outputs"]
    network = golden_network(p["arch"], p["dataset"], p["embedding_dim"])
    method: dict[str, Any] = {"objective": "barlow_twins", "lambda_bt": p["lambda_bt"]}
    if p["mixed"]:
        method |= {"objective": "mixed_barlow_twins", "lambda_reg": p["lambda_reg"]}
    run = run_with("mix_cosine", p["epochs"], p["batch_size"], p["lr"], method)
    optimizer = build_optimizer(run.optimizer, network)
    draws = np.random.default_rng(case["seed"])
    shape = (p["batch_size"], 3, p["size"], p["size"])
    for step, point in enumerate(expected["steps"]):
        image = draws.standard_normal(shape)
        view_a, view_b = (torch.tensor(image + 0.5 * draws.standard_normal(shape)) for _ in "ab")
        alpha, partner = draws.uniform(), torch.tensor(draws.permutation(p["batch_size"]))
        views = [view_a, view_b]
        if p["mixed"]:
            views.append(alpha * view_a + (1 - alpha) * view_b[partner])
        prepared = [run.settings.prepare(network(view)) for view in views]
        terms = (
            run.settings.mixed_terms(*prepared, alpha, partner)
            if p["mixed"]
            else run.settings.twin_terms(*prepared)
        )
        rate = learning_rate(run, p["epoch"] - 1, step, p["steps"])
        assert rate == pytest.approx(point["lr"], rel=1e-9)
        assert terms["loss"].item() == pytest.approx(point["loss"], rel=TRAINING_TOLERANCE)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
    images = torch.tensor(draws.standard_normal((4, 3, p["size"], p["size"])))
    network.eval()
    features = network.backbone(images)
    embeddings = network.projector(features)
    check_array(normalize(features, dim=1), expected["probe_feature"], TRAINING_TOLERANCE)
    check_array(normalize(embeddings, dim=1), expected["probe_embedding"], TRAINING_TOLERANCE)


def knn_case(case: dict[str, Any], setting: KNN) -> tuple[Tensor, np.ndarray]:
    """Class scores of a golden case's queries, and the queries' labels."""
    p = case["params"]
    draws = np.random.default_rng(case["seed"])
    centres = draws.standard_normal((p["classes"], case["d"]))
    memory_labels = np.arange(p["memory"]) % p["classes"]
    labels = np.arange(p["queries"]) % p["classes"]
    noise = draws.standard_normal((p["memory"], case["d"]))
    memory = p["separation"] * centres[memory_labels] + noise
    queries = p["separation"] * centres[labels] + draws.standard_normal((p["queries"], case["d"]))
    check_input(case, memory=memory, queries=queries)
    arrays = map(torch.tensor, (memory, memory_labels, queries))
    (scores,) = knn_scores(*arrays, [setting], p["classes"])
    return scores, labels


@pytest.mark.parametrize("case", cases("knn", protocol="mix"))
def test_weighted_knn(case: dict[str, Any]) -> None:
    p, expected = case["params"], case["outputs"]
    scores, labels = knn_case(case, KNN(k=p["k"], temperature=p["T"]))
    assert scores.argmax(1).tolist() == expected["predicted"]
    assert scores[:3].numpy() == pytest.approx(np.array(expected["scores_first3"]), rel=1e-9)
    ranked = scores.sort(dim=1, descending=True, stable=True).indices[:, :5].numpy()
    found = int((ranked == labels[:, None]).any(1).sum())
    ambiguous = expected["queries_whose_top5_depends_on_order_of_zero_scores"]
    assert abs(found - expected["top5_correct"]) <= ambiguous


@pytest.mark.parametrize("case", cases("knn", protocol="ssl_sota"))
def test_euclidean_majority(case: dict[str, Any]) -> None:
    setting = KNN(k=case["params"]["k"], temperature=None, distance="euclidean")
    scores, _ = knn_case(case, setting)
    first = scores.sort(dim=1, descending=True, stable=True).indices[:, 0]
    assert first.tolist() == case["outputs"]["predicted"]
