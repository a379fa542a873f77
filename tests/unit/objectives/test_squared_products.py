"""The objectives without d x d matrices, against the same formulas written with them.

Embeddings are random projections of scikit-learn's digits, so that they are correlated as real
ones are.
"""

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from barlow_atlas.nn.networks import Network
from barlow_atlas.objectives.asymmetric_barlow_twins import AsymmetricBarlowTwins
from barlow_atlas.objectives.barlow_twins import BarlowTwins, cross_correlation_terms
from barlow_atlas.objectives.barlow_twins_variant import BarlowTwinsVariant
from barlow_atlas.objectives.base import Moment
from barlow_atlas.objectives.mixed_barlow_twins import MixedBarlowTwins, mixing_terms
from barlow_atlas.objectives.ranks import partners_of_all, share_of_rows, standardise_by_rank
from barlow_atlas.objectives.squared_products import factor, squared_norm_of_product
from barlow_atlas.objectives.vicreg import VICReg

SHAPES = [(24, 40), (24, 24), (40, 24), (2, 9)]
WIDE, NARROW = (24, 40), (40, 24)
LAMBDA, REG, ALPHA = 0.02, 3.0, 0.3
CONVENTIONS: list[Literal["small-data", "imagenet"]] = ["small-data", "imagenet"]

Objective = Callable[..., Tensor]


def embeddings(count: int, n: int, d: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Views (n, d) of the same digits, each a projection with noise of its own."""
    draws = torch.Generator().manual_seed(n * d)
    pixels = torch.from_numpy(load_digits().data[:n])
    projection = torch.randn(64, d, generator=draws, dtype=torch.float64)
    noise = torch.randn(count, n, d, generator=draws, dtype=torch.float64)
    return [(pixels @ projection + 20 * own).to(dtype).requires_grad_() for own in noise]


def standardised(z: Tensor) -> Tensor:
    return (z - z.mean(0)) / z.std(0)


def off_diagonal(matrix: Tensor) -> Tensor:
    return matrix[~torch.eye(len(matrix), dtype=torch.bool)]


def permutation(n: int) -> Tensor:
    return torch.arange(n).roll(3)


def explicit_twins(a: Tensor, b: Tensor) -> Tensor:
    c = a.T @ b / len(a)
    return (1 - c.diagonal()).square().sum() + LAMBDA * off_diagonal(c).square().sum()


def explicit_mixed(convention: str, a: Tensor, b: Tensor, m: Tensor) -> Tensor:
    n, partner = len(a), permutation(len(a))
    first = a if convention == "small-data" else b
    target_a = ALPHA * a.T @ a / n + (1 - ALPHA) * b[partner].T @ a / n
    target_b = ALPHA * first.T @ b / n + (1 - ALPHA) * b[partner].T @ b / n
    mixing = (m.T @ a / n - target_a).square().sum() + (m.T @ b / n - target_b).square().sum()
    half = 1.0 if convention == "small-data" else 0.5
    return explicit_twins(a, b) + half * REG * LAMBDA * mixing


def explicit_auto_correlation(a: Tensor, b: Tensor) -> Tensor:
    c, own = a.T @ b / len(a), a.T @ a / len(a)
    return (1 - c.diagonal()).square().sum() + LAMBDA * off_diagonal(own).square().sum()


def explicit_covariance(*views: Tensor) -> Tensor:
    return torch.stack([off_diagonal(z.T.cov()).square().sum() / z.shape[1] for z in views]).sum()


def twins(a: Tensor, b: Tensor) -> Tensor:
    return BarlowTwins(objective="barlow_twins", lambda_bt=LAMBDA).twin_terms(a, b)["loss"]


def mixed(convention: Literal["small-data", "imagenet"]) -> Objective:
    method = MixedBarlowTwins(
        objective="mixed_barlow_twins", lambda_bt=LAMBDA, lambda_reg=REG, convention=convention
    )

    def loss(a: Tensor, b: Tensor, m: Tensor) -> Tensor:
        return method.mixed_terms(a, b, m, ALPHA, permutation(len(a)))["loss"]

    return loss


def variant(name: str, **options: Any) -> Objective:
    method = BarlowTwinsVariant.model_validate(
        {"objective": "barlow_twins_variant", "variant": name, "lambda_bt": LAMBDA} | options
    )
    return lambda a, b: method.twin_terms(a, b)["loss"]


def covariance(a: Tensor, b: Tensor) -> Tensor:
    return VICReg(objective="vicreg").three_terms(a, b)["covariance"]


PAIRS: dict[str, tuple[int, Objective, Objective]] = {
    "barlow_twins": (2, twins, explicit_twins),
    "mixed, small-data": (3, mixed("small-data"), lambda *z: explicit_mixed("small-data", *z)),
    "mixed, imagenet": (3, mixed("imagenet"), lambda *z: explicit_mixed("imagenet", *z)),
    "auto_correlation": (2, variant("auto_correlation"), explicit_auto_correlation),
    "vicreg": (2, covariance, explicit_covariance),
}


def gradients(objective: Objective, z: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(objective(*z), z, materialize_grads=True)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients_are_those_of_the_explicit_form(name: str, n: int, d: int) -> None:
    count, ours, explicit = PAIRS[name]
    z = [standardised(view).detach().requires_grad_() for view in embeddings(count, n, d)]
    assert relative_error(ours(*z), explicit(*z)) < 1e-10
    for found, expected in zip(gradients(ours, z), gradients(explicit, z), strict=True):
        assert relative_error(found, expected) < 1e-10


@pytest.mark.parametrize(("n", "d"), [(4, 6), (6, 4)])
@pytest.mark.parametrize("name", PAIRS)
def test_numerical_gradients(name: str, n: int, d: int) -> None:
    count, ours, _ = PAIRS[name]
    draws = torch.Generator().manual_seed(1)
    z = [torch.randn(n, d, generator=draws, dtype=torch.float64) for _ in range(count)]
    assert torch.autograd.gradcheck(ours, [view.requires_grad_() for view in z])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_of_a_gram_matrix_is_right_for_any_use_of_it(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape[0], shape[0], dtype=torch.float64)

    def weighted(x: Tensor) -> Tensor:
        gram = factor(x).gram
        assert (gram is not None) == (shape[0] < shape[1])
        return (weight * (x @ x.T if gram is None else gram)).sum()

    (z,) = embeddings(1, *shape)
    (found,) = gradients(weighted, [z])
    torch.testing.assert_close(found, (weight + weight.T) @ z.detach())


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
def test_one_row() -> None:
    a, b = (torch.tensor([row], dtype=torch.float64) for row in ([1.0, 2, 3], [4.0, 5, -6]))
    invariance, redundancy = cross_correlation_terms(a, b)
    assert invariance.item() == (1 - 4) ** 2 + (1 - 10) ** 2 + (1 + 18) ** 2
    assert redundancy.item() == (1 + 4 + 9) * (16 + 25 + 36) - (4**2 + 10**2 + 18**2)
    method = BarlowTwins(objective="barlow_twins", lambda_bt=LAMBDA)
    assert method.twin_terms(method.prepare(a), method.prepare(b))["loss"].isnan()
    assert covariance(a, b).isnan()


def test_shapes_that_differ_are_refused() -> None:
    x = torch.ones(1, 4)
    with pytest.raises(ValueError, match=r"x \(1, 4\) and y \(3, 4\): give both one shape"):
        squared_norm_of_product(x, torch.ones(3, 4))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_ranks_with_their_own_statistics_and_shares(
    convention: Literal["small-data", "imagenet"],
) -> None:
    """d x d matrices are summed over the ranks, each of which knows its own rows only."""
    views = [view.detach().split(8) for view in embeddings(3, 24, 40)]
    alphas, partners = [0.1, 0.5, 0.8], [permutation(8).roll(rank) for rank in range(3)]
    rows = [[standardised(rank) for rank in view] for view in views]
    with_a, with_b = torch.zeros(2, 40, 40, dtype=torch.float64)
    for a, b, m, alpha, partner in zip(*rows, alphas, partners, strict=True):
        first = a if convention == "small-data" else b
        with_a += m.T @ a - alpha * a.T @ a - (1 - alpha) * b[partner].T @ a
        with_b += m.T @ b - alpha * first.T @ b - (1 - alpha) * b[partner].T @ b
    z_a, z_b, z_m = (standardise_by_rank(torch.cat(view), 3) for view in views)
    shares = share_of_rows(alphas, z_m)
    found = mixing_terms(
        z_a,
        z_b,
        z_m,
        shares,
        partners_of_all(partners),
        "a" if convention == "small-data" else "b",
    )
    for term, matrix in zip(found, (with_a, with_b), strict=True):
        torch.testing.assert_close(term, (matrix / 24).square().sum(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", ["barlow_twins", "mixed, small-data", "vicreg"])
def test_float32_keeps_its_digits_at_the_widest(name: str) -> None:
    count, ours, _ = PAIRS[name]
    exact = [standardised(view).detach() for view in embeddings(count, 256, 8192)]
    single = [view.float().requires_grad_() for view in exact]
    exact = [view.detach().double().requires_grad_() for view in single]
    assert relative_error(ours(*single), ours(*exact)) < 1e-6
    for found, expected in zip(gradients(ours, single), gradients(ours, exact), strict=True):
        assert relative_error(found, expected) < 1e-6


EVERY = {name: PAIRS[name][:2] for name in PAIRS} | {
    "cross_entropy": (2, variant("cross_entropy", temperature=0.1)),
    "only_redundancy": (2, variant("only_redundancy")),
}


@pytest.mark.parametrize("shape", [WIDE, NARROW])
@pytest.mark.parametrize("name", EVERY)
def test_autocast_changes_nothing(name: str, shape: tuple[int, int]) -> None:
    count, ours = EVERY[name]
    z = [standardised(view).detach() for view in embeddings(count, *shape, torch.float32)]
    z = [view.requires_grad_() for view in z]

    def under_autocast(*views: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return ours(*views)

    assert under_autocast(*z).dtype == torch.float32
    assert torch.equal(under_autocast(*z), ours(*z))
    for found, expected in zip(gradients(under_autocast, z), gradients(ours, z), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", [WIDE, NARROW])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_formats_are_summed_in_float32(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    x, y = (standardised(view).detach().to(dtype) for view in embeddings(2, *shape))
    found = squared_norm_of_product(x, y)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, squared_norm_of_product(x.float(), y.float()))
    method = BarlowTwins(objective="barlow_twins", lambda_bt=LAMBDA)
    loss = method.twin_terms(method.prepare(x), method.prepare(y))["loss"]
    upcast = method.twin_terms(method.prepare(x.float()), method.prepare(y.float()))["loss"]
    assert torch.equal(loss, upcast)
    vicreg = VICReg(objective="vicreg")
    loss, upcast = (vicreg.three_terms(*z)["loss"] for z in ((x, y), (x.float(), y.float())))
    assert torch.equal(loss, upcast)


def products(objective: Objective, z: list[Tensor]) -> float:
    """Multiplications of an N x d matrix, in units of the cheaper of N x N and d x d outputs."""
    n, d = z[0].shape
    with FlopCounterMode(display=False) as counter:
        objective(*z).backward()
    return counter.get_total_flops() / (2 * n * d * min(n, d))


def stopped(a: Tensor, b: Tensor) -> Tensor:
    method = AsymmetricBarlowTwins(
        objective="asymmetric_barlow_twins",
        lambda_bt=LAMBDA,
        stop_gradient=True,
        predictor=None,
    )
    network = Network(nn.Identity(), nn.Identity())
    moment = Moment(0, 0, 10, 4, torch.Generator())
    return method.terms(network, nn.Module(), a, b, moment)["loss"]


@pytest.mark.parametrize(
    ("objective", "count", "wide", "narrow"),
    [
        (twins, 2, 2 + 2, 1 + 2),
        (stopped, 2, 2 + 1, 1 + 1),
        (mixed("small-data"), 3, 3 + 3, 3 + 6),
        (mixed("imagenet"), 3, 4 + 4, 3 + 6),
        (variant("auto_correlation"), 2, 1 + 1, 1 + 2),
        (covariance, 2, 2 + 2, 2 + 4),
    ],
    ids=["barlow_twins", "stop_gradient", "small-data", "imagenet", "auto_correlation", "vicreg"],
)
def test_no_product_is_taken_twice(
    objective: Objective, count: int, wide: int, narrow: int
) -> None:
    """Forwards + backwards: a Gram matrix a factor where N < d, d x d products elsewhere."""
    assert products(objective, embeddings(count, *WIDE)) == wide
    assert products(objective, embeddings(count, *NARROW)) == narrow


def test_compiled() -> None:
    ours = mixed("small-data")
    z = embeddings(3, *WIDE)
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*z), ours(*z))
    torch.testing.assert_close(gradients(compiled, z), gradients(ours, z))
