"""Each label-free signal against its definition, on embeddings whose answer is known.

At the end: input that the probes beside them refuse.
"""

import json
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as with_settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from torch import Tensor, nn

from barlow_atlas.data.image_set import ImageSet
from barlow_atlas.errors import AtlasError
from barlow_atlas.nn import views
from barlow_atlas.nn.networks import Network, build
from barlow_atlas.nn.randomness import generator
from barlow_atlas.objectives.barlow_twins import cross_correlation_terms
from barlow_atlas.probes.features import evaluation_view
from barlow_atlas.probes.knn import KNN
from barlow_atlas.probes.linear import Linear
from barlow_atlas.probes.milestone import Labelled, Milestone, ProbeError
from barlow_atlas.probes.packing import unpack_correlations
from barlow_atlas.probes.signals import (
    FOREIGN_BATCH_SIZE,
    LAMBDA_BT,
    alignment,
    alpha_req,
    barlow_twins_terms,
    correlation_corner,
    effective_rank,
    feature_std,
    rankme,
    signals,
    spectrum,
    uniformity,
    values,
)
from barlow_atlas.steps.probe import answers
from barlow_atlas.study.models import ForeignRun, Probes, Run

CPU = torch.device("cpu")
seeds = st.integers(0, 2**32 - 1)
quick = with_settings(deadline=None, max_examples=25)


def normal(n: int, f: int, seed: int = 0) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(n, f, generator=draws, dtype=torch.float64)


def with_eigenvalues(eigenvalues: Tensor, n: int, seed: int = 0) -> Tensor:
    """Centred embeddings (n, f) in a random basis whose covariance (divisor n) has these."""
    f = len(eigenvalues)
    scores = normal(n, f, seed)
    scores = torch.linalg.qr(scores - scores.mean(0)).Q
    basis = torch.linalg.qr(normal(f, f, seed + 1)).Q
    return scores * (n * eigenvalues).sqrt() @ basis


def rotation(f: int, seed: int) -> Tensor:
    return torch.linalg.qr(normal(f, f, seed)).Q


# The definitions once more, as plainly as numpy has them.


def plain_rankme(z: np.ndarray) -> float:
    sigma = np.linalg.svd(z, compute_uv=False)
    p = sigma / sigma.sum() + 1e-7
    return float(np.exp(-(p * np.log(p)).sum()))


def plain_effective_rank(z: np.ndarray) -> float:
    p = np.linalg.svd(np.cov(z.T), compute_uv=False)
    p = p[p > 1e-12 * p.max()] / p.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def plain_alpha(z: np.ndarray) -> float:
    ranks = np.arange(4, 1 + min(100, *z.shape))
    eigenvalues = np.linalg.eigvalsh(np.cov(z.T))[::-1][ranks - 1]
    # polyfit wants the roots of the weights.
    return float(-np.polyfit(np.log(ranks), np.log(eigenvalues), 1, w=ranks**-0.5)[0])


def unit(z: np.ndarray) -> np.ndarray:
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def plain_terms(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    d = a.shape[1]
    c = np.corrcoef(a.T, b.T)[:d, d:]
    return float(((1 - np.diag(c)) ** 2).sum()), float((c[~np.eye(d, dtype=bool)] ** 2).sum())


@pytest.mark.parametrize("shape", [(300, 20), (300, 150), (40, 64)])
def test_every_signal_equals_its_definition(shape: tuple[int, int]) -> None:
    z = normal(*shape, seed=3) @ normal(shape[1], shape[1], seed=4) + 2
    other = z + normal(*shape, seed=5)
    x, y = z.numpy(), other.numpy()
    assert rankme(z) == pytest.approx(plain_rankme(x))
    assert effective_rank(z) == pytest.approx(plain_effective_rank(x))
    if shape[0] > shape[1]:
        assert alpha_req(z) == pytest.approx(plain_alpha(x))
    assert feature_std(z) == pytest.approx(unit(x).std(0).mean())
    squares = ((unit(x) - unit(y)) ** 2).sum(1)
    assert alignment(z, other) == pytest.approx(squares.mean())
    assert uniformity(z) == pytest.approx(np.log(np.exp(-2 * pdist(unit(x)) ** 2).mean()))
    terms = barlow_twins_terms(z, other)
    assert [terms["invariance"], terms["redundancy"]] == pytest.approx(plain_terms(x, y))
    assert terms["bt_loss"] == pytest.approx(terms["invariance"] + terms["redundancy"] / 128)
    assert terms["dead_dimensions"] == 0


def test_more_images_than_a_chunk_of_the_uniformity() -> None:
    z = normal(1300, 6)
    assert uniformity(z) == pytest.approx(np.log(np.exp(-2 * pdist(unit(z.numpy())) ** 2).mean()))


def test_isotropic_embeddings_use_every_direction() -> None:
    f = 16
    z = torch.cat([torch.eye(f), -torch.eye(f)]).double()
    assert rankme(z) == pytest.approx(f, rel=1e-4)
    assert effective_rank(z) == pytest.approx(f)
    assert alpha_req(z) == pytest.approx(0, abs=1e-12)
    assert feature_std(z) == pytest.approx(f**-0.5)


@pytest.mark.parametrize("k", [1, 2, 7, 20])
def test_k_equal_directions_have_rank_k(k: int) -> None:
    eigenvalues = (torch.arange(20) < k).double()
    z = with_eigenvalues(eigenvalues, 200)
    assert rankme(z) == pytest.approx(k, rel=1e-3)
    assert effective_rank(z) == pytest.approx(k)
    assert int((spectrum(z, centred=True) > 0).sum()) == k


def test_the_two_ranks_differ_as_documented() -> None:
    eigenvalues = torch.tensor([9.0, 4.0, 1.0], dtype=torch.float64)
    z = with_eigenvalues(eigenvalues, 100)

    def entropy_rank(p: np.ndarray) -> float:
        return float(np.exp(-(p * np.log(p)).sum()))

    assert rankme(z) == pytest.approx(entropy_rank(np.array([3, 2, 1]) / 6), rel=1e-5)
    assert effective_rank(z) == pytest.approx(entropy_rank(np.array([9, 4, 1]) / 14))
    # A large mean is one more, dominating direction to RankMe, and nothing to the effective rank.
    shifted = z + 1000
    assert rankme(shifted) < 1.1
    assert effective_rank(shifted) == pytest.approx(effective_rank(z))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("f", [8, 100, 300])
def test_alpha_of_a_power_law(alpha: float, f: int) -> None:
    eigenvalues = torch.arange(1, f + 1, dtype=torch.float64) ** -alpha
    assert alpha_req(with_eigenvalues(eigenvalues, 400)) == pytest.approx(alpha, abs=1e-6)


def test_alpha_ignores_the_first_three_ranks_and_those_after_the_hundredth() -> None:
    eigenvalues = torch.arange(1, 151, dtype=torch.float64) ** -1.0
    eigenvalues[:3] *= 50
    eigenvalues[100:] /= 50
    assert alpha_req(with_eigenvalues(eigenvalues, 400)) == pytest.approx(1)


@pytest.mark.parametrize(("directions", "defined"), [(1, False), (4, False), (5, True)])
def test_alpha_needs_two_eigenvalues_to_fit(directions: int, defined: bool) -> None:
    eigenvalues = torch.arange(1, directions + 1, dtype=torch.float64) ** -1.0
    found = alpha_req(with_eigenvalues(eigenvalues, 50))
    assert found is None if not defined else found == pytest.approx(1)


def test_antipodal_points() -> None:
    z = torch.tensor([[3.0, 4.0], [-0.3, -0.4]])
    assert uniformity(z) == pytest.approx(-8)
    assert alignment(z[:1].repeat(2, 1), z) == pytest.approx(2)  # 0 and 4
    assert alignment(z, z.flip(0)) == pytest.approx(4)
    assert rankme(z) == pytest.approx(1, abs=1e-4)


def test_uniformity_of_many_directions_is_about_minus_four() -> None:
    assert uniformity(normal(1000, 512)) == pytest.approx(-4, abs=0.05)


@quick
@given(seeds, st.integers(2, 40), st.integers(1, 24), st.floats(1e-3, 1e3))
def test_rotation_and_scale_change_nothing(seed: int, n: int, f: int, scale: float) -> None:
    z, other = normal(n, f, seed), normal(n, f, seed + 1)
    turned, other_turned = (scale * part @ rotation(f, seed + 2) for part in (z, other))
    for signal in (rankme, effective_rank, uniformity):
        assert signal(turned) == pytest.approx(signal(z), rel=1e-6, abs=1e-6)
    assert [alpha_req(turned) or 0] == pytest.approx([alpha_req(z) or 0], rel=1e-6, abs=1e-6)
    assert alignment(turned, other_turned) == pytest.approx(alignment(z, other), rel=1e-9)


@quick
@given(seeds, st.integers(3, 40), st.integers(1, 24))
def test_correlations_ignore_each_dimensions_scale_and_offset(seed: int, n: int, d: int) -> None:
    a, b = normal(n, d, seed), normal(n, d, seed + 1)
    scale, offset = normal(1, d, seed + 2).exp(), normal(1, d, seed + 3)
    expected = barlow_twins_terms(a, b)
    assert barlow_twins_terms(a * scale + offset, b) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@quick
@given(seeds, st.integers(2, 40), st.integers(1, 24), st.floats(0, 1))
def test_every_signal_stays_in_its_range(seed: int, n: int, f: int, noise: float) -> None:
    z = normal(n, f, seed)
    other = z + noise * normal(n, f, seed + 1)
    small = 1e-9
    assert 1 - 1e-6 <= rankme(z) <= min(n, f) * (1 + 1e-4)
    assert 1 - small <= effective_rank(z) <= max(1, min(n - 1, f)) + small
    assert -8 - small <= uniformity(z) <= small
    assert 0 <= feature_std(z) <= f**-0.5 + small
    assert 0 <= alignment(z, other) <= 4 + small
    terms = barlow_twins_terms(z, other)
    assert 0 <= terms["invariance"] <= 4 * f + small
    assert 0 <= terms["redundancy"] <= f * (f - 1) + small
    alpha = alpha_req(z)
    assert alpha is None or alpha >= 0


def test_a_rising_collapse_is_seen_by_every_spectral_signal() -> None:
    ranks = torch.arange(1, 65, dtype=torch.float64)
    found = [with_eigenvalues(ranks**-steepness, 300) for steepness in (0.0, 0.5, 1.0, 2.0, 4.0)]
    for signal in (rankme, effective_rank, feature_std):
        measured = [signal(z) for z in found]
        assert measured == sorted(measured, reverse=True)
        assert len(set(measured)) == len(measured)
    alphas = [alpha_req(z) or 0.0 for z in found]
    assert alphas == sorted(alphas)
    evenness = [uniformity(z) for z in found]
    assert evenness == sorted(evenness)


def test_terms_equal_the_objectives_on_pearsons_standardisation() -> None:
    a, b = normal(32, 50), normal(32, 50, seed=1)
    standardised = [(z - z.mean(0)) / z.std(0, correction=0) for z in (a, b)]
    invariance, redundancy = cross_correlation_terms(*standardised)
    terms = barlow_twins_terms(a, b)
    assert terms["invariance"] == pytest.approx(invariance.item(), rel=1e-12)
    assert terms["redundancy"] == pytest.approx(redundancy.item(), rel=1e-12)
    assert terms["bt_loss"] == pytest.approx((invariance + redundancy / 128).item(), rel=1e-12)


def test_perfect_and_unrelated_embeddings() -> None:
    hadamard = torch.tensor([[1.0]])
    for _ in range(4):
        hadamard = torch.cat(
            [torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)]
        )
    z = hadamard[:, 1:]  # (16, 15), centred and orthogonal columns
    perfect = barlow_twins_terms(z, z)
    assert list(perfect.values()) == pytest.approx([0, 0, 0, 0], abs=1e-12)
    opposite = barlow_twins_terms(z, -z)
    assert opposite["invariance"] == pytest.approx(4 * 15)
    n, d = 256, 512
    unrelated = barlow_twins_terms(normal(n, d), normal(n, d, seed=1))
    assert unrelated["invariance"] == pytest.approx(d, rel=0.05)
    assert unrelated["redundancy"] == pytest.approx(d * (d - 1) / (n - 1), rel=0.02)


def test_dead_dimensions_are_counted_and_correlate_with_nothing() -> None:
    a, b = normal(64, 10), normal(64, 10, seed=1)
    alive = barlow_twins_terms(a, b)
    constant = torch.full((64, 3), 0.1, dtype=torch.float64)
    constant[:, 1] = 0
    for other in (constant, normal(64, 3, seed=2)):  # dead in both views, and in one
        found = barlow_twins_terms(torch.cat([a, constant], 1), torch.cat([b, other], 1))
        assert found["dead_dimensions"] == 3
        assert found["invariance"] == pytest.approx(alive["invariance"] + 3)
        if other is constant:
            assert found["redundancy"] == pytest.approx(alive["redundancy"])


@pytest.mark.parametrize("d", [5, 100])
def test_the_corner_holds_correlations_between_the_views(d: int) -> None:
    a = normal(300, d)
    b = a + normal(300, d, seed=1)
    a[:, 1] = 0.25  # dead
    found = correlation_corner(3 * a - 1, b)
    k = min(d, 64)
    assert found["dimensions"] == k
    with np.errstate(invalid="ignore"):
        expected = np.nan_to_num(np.corrcoef(a.T.numpy(), b.T.numpy())[:d, d:])[:k, :k]
    corner = unpack_correlations(found["values"], k)
    np.testing.assert_allclose(corner, expected, atol=0.5 / 127 + 1e-9)
    assert (corner[1] == 0).all()


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
@pytest.mark.parametrize("rounding", [0.0, 1e-7])
def test_constant_embeddings_have_documented_values(value: float, rounding: float) -> None:
    """Also where the network's rounding makes them differ in their last bits."""
    z = (value * (1 + rounding * normal(64, 32))).float()
    found = values(z, z, z, 32)
    assert found == pytest.approx(
        {
            "rankme": 1,
            "alpha_req": None,
            "effective_rank": 1,
            "feature_std": 0,
            "alignment": 0,
            "uniformity": 0,
            "invariance": 32,
            "redundancy": 0,
            "bt_loss": 32,
            "dead_dimensions": 32,
        },
        abs=2e-4,
    )
    json.dumps(found, allow_nan=False)


def test_terms_are_means_over_batches() -> None:
    z, a, b = normal(96, 8), normal(96, 8, seed=1), normal(96, 8, seed=2)
    found = values(z, a, b, 32)
    each = [barlow_twins_terms(*pair) for pair in zip(a.split(32), b.split(32), strict=True)]
    for name in ("invariance", "redundancy", "bt_loss"):
        assert found[name] == pytest.approx(np.mean([terms[name] for terms in each]))
    assert found["uniformity"] == pytest.approx((uniformity(a) + uniformity(b)) / 2)


MATRIX_SIGNALS: list[Callable[[Tensor], Any]] = [
    rankme,
    effective_rank,
    alpha_req,
    feature_std,
    uniformity,
    lambda z: alignment(z, z),
    lambda z: barlow_twins_terms(z, z),
]


@pytest.mark.parametrize("signal", MATRIX_SIGNALS)
def test_what_has_no_answer_is_said(signal: Callable[[Tensor], Any]) -> None:
    with pytest.raises(ProbeError, match="two embeddings, here is 1"):
        signal(normal(1, 4))
    broken = normal(8, 4)
    broken[3, 1] = math.nan
    broken[5] = math.inf
    with pytest.raises(ProbeError, match="2 of 8 embeddings are not finite"):
        signal(broken)


def test_cost_is_small() -> None:
    z, a, b = (normal(4864, 512, seed).float() for seed in range(3))
    values(z, a, b, 256)  # threads and libraries start up
    started = time.process_time()
    values(z, a, b, 256)
    # Two seconds on one core; the margin is for slow and crowded machines.
    assert time.process_time() - started < 20


# A milestone's signals.


def signals_of(
    network: Network, run: Run | ForeignRun, splits: dict[str, Labelled]
) -> list[dict[str, Any]]:
    batch_size = run.batch_size if isinstance(run, Run) else FOREIGN_BATCH_SIZE
    return signals(Milestone(network, run, splits, 10, CPU), batch_size)


def test_a_milestones_records(tiny_run: Run, splits: dict[str, Labelled]) -> None:
    network = build(tiny_run.architecture, generator(0))
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    records = signals_of(network, tiny_run, splits)
    assert [(r["split"], r["space"], r["count"]) for r in records] == [
        ("train", "backbone", 96),
        ("train", "projector", 96),
        ("validation", "backbone", 96),
        ("validation", "projector", 96),
    ]
    assert {r["settings"]["batch_size"] for r in records} == {32}
    assert {r["settings"]["lambda_bt"] for r in records} == {LAMBDA_BT}
    assert [r["settings"]["dimensions"] for r in records] == [64, 32, 64, 32]
    assert all(value is not None for r in records for value in r["values"].values())
    assert ["correlation" in r for r in records] == [False, False, False, True]
    json.dumps(records, allow_nan=False)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert signals_of(network, tiny_run, splits) == records


def test_images_and_views_are_drawn_from_the_runs_seed(
    tiny_run: Run, splits: dict[str, Labelled]
) -> None:
    """One record, put together by hand: images in random order, view a before view b."""
    network = build(tiny_run.architecture, generator(0)).eval()
    order = torch.randperm(100, generator=generator(tiny_run.seed, "signals", "validation"))
    images = splits["validation"].images[order[:96].numpy()]
    draws = generator(tiny_run.seed, "signals", "validation", 0)
    recipe = tiny_run.recipe
    seen = [evaluation_view(tiny_run, images, CPU)]
    for augmentation in (recipe.view_a, recipe.view_b):
        drawn = views.draw(augmentation, 96, 8, 8, draws)
        pixels = torch.from_numpy(images)
        seen.append(views.apply(pixels, drawn, augmentation, 8, recipe.mean, recipe.std))
    with torch.inference_mode():
        expected = values(*(network(view) for view in seen), batch_size=32)
    assert signals_of(network, tiny_run, splits)[3]["values"] == pytest.approx(expected, rel=1e-4)


def test_a_milestone_extracts_each_image_once(tiny_run: Run, splits: dict[str, Labelled]) -> None:
    """Beside the 700 images of the splits, only the two views of 2 x 96 go through the network."""
    network = build(tiny_run.architecture, generator(0))
    seen: list[int] = []
    network.backbone.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    milestone = Milestone(network, tiny_run, splits, 10, CPU)
    signals(milestone, tiny_run.batch_size)
    list(answers(PROBES, milestone))
    assert sum(seen) == 700 + 2 * 2 * 96


def test_rows_of_a_stored_array_are_the_images(
    tiny_run: Run, splits: dict[str, Labelled], digits: tuple[np.ndarray, np.ndarray]
) -> None:
    network = build(tiny_run.architecture, generator(0))
    chosen = np.arange(700)[::-1]
    stored = digits[0][chosen]  # image i of the digits lies in row 699 - i
    rows = {"train": chosen[:300], "validation": chosen[300:400], "test": chosen[400:]}
    picked = {
        name: Labelled(ImageSet(((stored, rows[name]),)), splits[name].labels) for name in rows
    }
    assert picked["test"].images.shape == splits["test"].images.shape
    assert signals_of(network, tiny_run, picked) == signals_of(network, tiny_run, splits)
    assert probed(network, tiny_run, PROBES, picked) == probed(network, tiny_run, PROBES, splits)


def test_the_test_images_stand_in_where_nothing_was_held_out(
    tiny_run: Run, splits: dict[str, Labelled]
) -> None:
    del splits["validation"]
    records = signals_of(build(tiny_run.architecture, generator(0)), tiny_run, splits)
    assert [(r["split"], r["count"]) for r in records[::2]] == [("train", 288), ("test", 288)]


def test_labels_are_not_looked_at(tiny_run: Run, splits: dict[str, Labelled]) -> None:
    network = build(tiny_run.architecture, generator(0))
    blind = {name: Labelled(s.images, np.zeros(0, np.int64)) for name, s in splits.items()}
    assert signals_of(network, tiny_run, blind) == signals_of(network, tiny_run, splits)


def test_fewer_images_than_a_batch_are_one_batch(
    tiny_run: Run, splits: dict[str, Labelled]
) -> None:
    run = tiny_run.model_copy(update={"batch_size": 1024})
    records = signals_of(build(run.architecture, generator(0)), run, splits)
    assert {(r["count"], r["settings"]["batch_size"]) for r in records} == {(100, 100)}


def test_imported_weights_have_the_backbone_only(
    tiny_run: Run, splits: dict[str, Labelled]
) -> None:
    given = [name for name in ForeignRun.model_fields if name in Run.model_fields]
    shared = {name: getattr(tiny_run, name) for name in given}
    run = ForeignRun.model_construct(**{**shared, "embedding_dim": None}, layout="torchvision")
    network = Network(build(tiny_run.architecture, generator(0)).backbone, nn.Identity())
    records = signals_of(network, run, splits)
    assert [(r["split"], r["space"]) for r in records] == [
        ("train", "backbone"),
        ("validation", "backbone"),
    ]
    assert records[0]["settings"]["batch_size"] == 100  # 256, but here are 100


def test_constant_images_collapse_and_say_so(tiny_run: Run) -> None:
    grey = Labelled(np.full((64, 3, 8, 8), 128, np.uint8), np.zeros(64, np.int64))
    network = build(tiny_run.architecture, generator(0))
    for record in signals_of(network, tiny_run, {"train": grey, "validation": grey}):
        found = record["values"]
        assert found["rankme"] == pytest.approx(1, abs=1e-3)
        assert found["effective_rank"] == 1
        assert found["alpha_req"] is None
        assert found["feature_std"] == pytest.approx(0, abs=1e-6)
        json.dumps(record, allow_nan=False)


def test_a_single_image_is_refused(tiny_run: Run, splits: dict[str, Labelled]) -> None:
    for split in ("train", "validation"):
        few = {**splits, split: Labelled(splits[split].images[:1], splits[split].labels[:1])}
        with pytest.raises(ProbeError, match=f"(?s)here are .*1 of {split}"):
            signals_of(build(tiny_run.architecture, generator(0)), tiny_run, few)


def test_diverged_weights_are_refused(tiny_run: Run, splits: dict[str, Labelled]) -> None:
    network = build(tiny_run.architecture, generator(0))
    with torch.no_grad():
        next(network.parameters()).fill_(math.nan)
    with pytest.raises(ProbeError, match="not finite"):
        signals_of(network, tiny_run, splits)


# Input that the probes refuse.

PROBES = Probes(
    knn=(KNN(k=5, temperature=0.1), KNN(k=5, temperature=0.1, feature="projector")),
    linear=(Linear(epochs=1, batch_size=64, learning_rates=(0.1,), weight_decays=(0.0,)),),
)


def probed(
    network: Network, run: Run, probes: Probes, splits: dict[str, Labelled], classes: int = 10
) -> list[dict[str, Any]]:
    return list(answers(probes, Milestone(network, run, splits, classes, CPU)))


def relabelled(labelled: Labelled, label: int, other: int) -> Labelled:
    labels = np.where(labelled.labels == label, other, labelled.labels)
    return Labelled(labelled.images, labels)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize(
    ("other", "said"),
    [
        (4, r"no image of class \[3\] among the \d+ of {split}"),
        (10, r"labels of {split} must lie between 0 and 9, found \[10\]"),
        (-1, r"labels of {split} must lie between 0 and 9, found \[-1\]"),
    ],
)
def test_labels_must_be_the_classes(
    split: str, other: int, said: str, tiny_run: Run, splits: dict[str, Labelled]
) -> None:
    splits[split] = relabelled(splits[split], 3, other)
    with pytest.raises(ProbeError, match=said.format(split=split)):
        probed(build(tiny_run.architecture, generator(0)), tiny_run, PROBES, splits)


def test_probes_refuse_diverged_weights(tiny_run: Run, splits: dict[str, Labelled]) -> None:
    network = build(tiny_run.architecture, generator(0))
    with torch.no_grad():
        next(network.parameters()).fill_(math.nan)
    with pytest.raises(ProbeError, match="features of 300 of 300 images of train are not finite"):
        probed(network, tiny_run, PROBES, splits)


@pytest.mark.parametrize("batch_size", [1, 13, 23])  # 300 = 13 * 23 + 1
def test_live_batch_norm_refuses_a_batch_of_one(
    batch_size: int, tiny_run: Run, splits: dict[str, Labelled]
) -> None:
    run = tiny_run.model_copy(update={"protocol": "reference"})
    linear = PROBES.linear[0].model_copy(update={"batch_size": batch_size})
    probes = PROBES.model_copy(update={"linear": (linear,)})
    del splits["validation"]
    with pytest.raises(AtlasError, match="cannot use the statistics of a batch of 1 image"):
        probed(build(run.architecture, generator(0)), run, probes, splits)


def test_a_single_training_image_is_no_training_set(
    tiny_run: Run, splits: dict[str, Labelled]
) -> None:
    one = {name: Labelled(s.images[:1], np.zeros(1, np.int64)) for name, s in splits.items()}
    probes = PROBES.model_copy(update={"knn": (KNN(k=1, temperature=None),)})
    with pytest.raises(ProbeError, match="one training image"):
        probed(build(tiny_run.architecture, generator(0)), tiny_run, probes, one, classes=1)


def test_imported_weights_are_not_asked_for_a_projector(
    tiny_run: Run, splits: dict[str, Labelled]
) -> None:
    network = Network(build(tiny_run.architecture, generator(0)).backbone, nn.Identity())
    records = probed(network, tiny_run, PROBES, splits)
    assert {r["settings"]["feature"] for r in records} == {"backbone"}
