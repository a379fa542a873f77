"""Probes and losses against other people's libraries, on the same numbers.

Views against torchvision's transforms are in test_views.py; kNN and the linear probe on random
clouds against scikit-learn, without weight decay, in test_probes.py.
"""

from typing import Any

import numpy as np
import pytest
import torch
from lightly.loss import BarlowTwinsLoss
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from barlow_atlas.nn.networks import build
from barlow_atlas.nn.randomness import generator
from barlow_atlas.objectives.barlow_twins import BarlowTwins
from barlow_atlas.probes.features import extract
from barlow_atlas.probes.knn import KNN, knn_scores
from barlow_atlas.probes.linear import Linear, clean_probe
from barlow_atlas.probes.signals import LAMBDA_BT, barlow_twins_terms
from barlow_atlas.study.models import Run

CPU = torch.device("cpu")
TRAIN, TEST = slice(0, 1000), slice(1000, 1797)
Split = tuple[Tensor, Tensor]


@pytest.fixture(scope="module", params=["digits", "random"])
def images(
    request: pytest.FixtureRequest, digits: tuple[np.ndarray, np.ndarray], tiny_run: Run
) -> tuple[Split, Split]:
    """Memory and queries, (features (n, 32), labels (n,)): of real images, or of no structure."""
    pixels, labels = digits
    if request.param == "digits":
        features = extract(
            build(tiny_run.architecture, generator(0)).backbone, tiny_run, pixels, CPU
        ).double()
    else:
        features = torch.randn(len(labels), 32, generator=generator(0), dtype=torch.float64)
    classes = torch.tensor(labels)
    return (features[TRAIN], classes[TRAIN]), (features[TEST], classes[TEST])


def cosine_weights(temperature: float) -> Any:
    return lambda distance: np.exp((1 - distance) / temperature)


@pytest.mark.parametrize(
    ("knn", "weights"),
    [
        (KNN(k=200, temperature=0.5), cosine_weights(0.5)),
        (KNN(k=20, temperature=0.07), cosine_weights(0.07)),
        (KNN(k=20, temperature=None), "uniform"),
        (KNN(k=5, temperature=None, distance="euclidean"), "uniform"),
        (KNN(k=1, temperature=None, distance="euclidean"), "uniform"),
    ],
    ids=lambda value: value.label if isinstance(value, KNN) else "",
)
def test_knn_equals_scikit_learns(images: tuple[Split, Split], knn: KNN, weights: Any) -> None:
    (memory, labels), (queries, answers) = images
    (ours,) = knn_scores(memory, labels, queries, [knn], 10)
    theirs = KNeighborsClassifier(knn.k, weights=weights, metric=knn.distance)
    theirs.fit(memory.numpy(), labels.numpy())
    shares = ours / ours.sum(1, keepdim=True)
    assert shares.numpy() == pytest.approx(theirs.predict_proba(queries.numpy()), abs=1e-9)
    # Equal scores go to the lower class in both.
    correct = ours.sort(dim=1, descending=True, stable=True).indices[:, 0] == answers
    if weights == "uniform":
        accuracy = theirs.score(queries.numpy(), answers.numpy())
        assert correct.double().mean().item() == accuracy


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0.1, 0.01])
def test_the_linear_probe_with_l2_reaches_scikit_learns_optimum(
    images: tuple[Split, Split], decay: float
) -> None:
    """Mean cross-entropy + decay / 2 |W|^2, bias included, has one minimum.

    scikit-learn minimises C * sum of cross-entropies + |W|^2 / 2, so C = 1 / (n decay); its bias
    is not penalised, ours is, so there it is the weight of a column of ones.
    """
    (x, y), (queries, answers) = images
    steps = Linear(epochs=1500, batch_size=len(x), learning_rates=(0.05,), weight_decays=(decay,))
    features = {"train": x.float(), "validation": queries.float(), "test": queries.float()}
    labels = {"train": y, "validation": answers, "test": answers}
    chosen = clean_probe(features, labels, 10, steps, seed=0)

    # A feature of this random network is 0 for all digits.
    mean, std = x.mean(0), x.std(0).clamp_min(1e-6)
    columns = {
        name: torch.cat([(z - mean) / std, torch.ones(len(z), 1)], 1).numpy()
        for name, z in (("train", x), ("test", queries))
    }
    theirs = LogisticRegression(
        C=1 / (len(x) * decay), fit_intercept=False, tol=1e-8, max_iter=5000
    ).fit(columns["train"], y.numpy())
    scores = chosen.scores["test"].softmax(1).double().numpy()
    assert scores == pytest.approx(theirs.predict_proba(columns["test"]), abs=1e-3)


def twins(seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Embeddings (64, 48) of two views: correlated, with other means and scales a dimension."""
    draws = generator(seed)
    shared, a, b = torch.randn(3, 64, 48, generator=draws, dtype=torch.float64)
    size = torch.rand(48, generator=draws, dtype=torch.float64) + 0.5
    return scale * size * (shared + 0.5 * a) + 1, scale * size * (shared + 0.5 * b) - 2


def our_loss(z_a: Tensor, z_b: Tensor, **form: Any) -> Tensor:
    method = BarlowTwins(objective="barlow_twins", lambda_bt=0.0051, **form)
    return method.twin_terms(method.prepare(z_a), method.prepare(z_b))["loss"]


def test_the_imagenet_form_is_lightlys_loss_with_its_gradient() -> None:
    losses, gradients = [], []
    for loss in (
        lambda a, b: our_loss(a, b, l2_normalise=False, standardisation="batch_norm"),
        BarlowTwinsLoss(lambda_param=0.0051),
    ):
        z_a, z_b = (z.requires_grad_() for z in twins())
        losses.append(loss(z_a, z_b))
        gradients.append(torch.autograd.grad(losses[-1], (z_a, z_b)))
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-12)
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_the_small_data_form_differs_from_lightlys_by_its_divisors() -> None:
    """Variances with divisor N - 1 and products with N shrink every correlation by (N - 1) / N."""
    z_a, z_b = twins(scale=1e3)
    n, d = z_a.shape
    pearson = np.corrcoef(z_a.T.numpy(), z_b.T.numpy())[:d, d:]

    def loss(c: np.ndarray) -> float:
        diagonal = np.diag(c)
        redundancy = (c**2).sum() - (diagonal**2).sum()
        return float(((1 - diagonal) ** 2).sum() + 0.0051 * redundancy)

    # lightly adds epsilon 1e-5 to variances of 10^5 and more.
    theirs = BarlowTwinsLoss(lambda_param=0.0051)(z_a, z_b).item()
    assert theirs == pytest.approx(loss(pearson), rel=1e-8)
    ours = our_loss(z_a, z_b, l2_normalise=False).item()
    assert ours == pytest.approx(loss((n - 1) / n * pearson), rel=1e-12)
    # At N = 64 that is about a tenth of this loss; it falls as 1 / N.
    assert ours == pytest.approx(theirs, rel=0.15)


def test_the_signals_loss_is_lightlys_without_epsilon() -> None:
    z_a, z_b = twins()
    ours = barlow_twins_terms(z_a, z_b)["bt_loss"]
    lightly = BarlowTwinsLoss(lambda_param=LAMBDA_BT)
    # Epsilon 1e-5 beside variances of 0.3 and more.
    assert ours == pytest.approx(lightly(z_a, z_b).item(), rel=1e-4)
    # Large embeddings leave nothing of it.
    assert ours == pytest.approx(lightly(1e6 * z_a, 1e6 * z_b).item(), rel=1e-12)


def test_dead_dimensions_cost_what_they_cost_in_lightlys_loss() -> None:
    z_a, z_b = twins(scale=1e6)
    z_a[:, :5] = 3
    z_b[:, :5] = -1
    ours = barlow_twins_terms(z_a, z_b)
    theirs = BarlowTwinsLoss(lambda_param=LAMBDA_BT)(z_a, z_b).item()
    assert ours["dead_dimensions"] == 5
    assert ours["bt_loss"] == pytest.approx(theirs, rel=1e-9)
