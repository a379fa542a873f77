"""Probes against scikit-learn's, and what each protocol does to the network."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from barlow_atlas.nn.networks import Network, build
from barlow_atlas.nn.randomness import generator
from barlow_atlas.probes import neighbours as searching
from barlow_atlas.probes.features import extract
from barlow_atlas.probes.knn import KNN, knn_scores
from barlow_atlas.probes.linear import Linear, clean_probe
from barlow_atlas.probes.milestone import Labelled, Milestone, ProbeError, record
from barlow_atlas.probes.neighbours import ROOM, TILE, chunk_size, largest, neighbours
from barlow_atlas.probes.packing import pack, unpack
from barlow_atlas.steps.probe import answers
from barlow_atlas.study.models import Probes, Run

CPU = torch.device("cpu")
LINEAR = Linear(epochs=40, batch_size=64, learning_rates=(0.1, 1e-6), weight_decays=(0.0,))


def probed(
    network: Network, run: Run, probes: Probes, splits: dict[str, Labelled]
) -> list[dict[str, Any]]:
    return list(answers(probes, Milestone(network, run, splits, 10, CPU)))


def clusters(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping clouds (n, 16) of 5 classes, float64."""
    draws = np.random.default_rng(seed)
    labels = draws.integers(5, size=n)
    centres = np.random.default_rng(0).standard_normal((5, 16))
    return centres[labels] + 3 * draws.standard_normal((n, 16)), labels


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.5), (20, 0.07), (200, 0.5)])
def test_knn_equals_scikit_learn(k: int, temperature: float) -> None:
    memory, labels = clusters(700, 1)
    queries, _ = clusters(600, 2)  # more than one chunk
    settings = [KNN(k=3, temperature=0.1), KNN(k=k, temperature=temperature)]
    ours = knn_scores(*map(torch.tensor, (memory, labels, queries)), settings, 5)[1]

    def weights(cosine_distance: np.ndarray) -> Any:
        return np.exp((1 - cosine_distance) / temperature)

    theirs = KNeighborsClassifier(k, weights=weights, metric="cosine").fit(memory, labels)
    shares = ours / ours.sum(1, keepdim=True)
    assert shares.numpy() == pytest.approx(theirs.predict_proba(queries), abs=1e-9)


def test_euclidean_neighbours_are_counted_as_scikit_learn_does() -> None:
    memory, labels = clusters(700, 1)
    queries, _ = clusters(600, 2)
    settings = [KNN(k=5, temperature=None, distance="euclidean")]
    (ours,) = knn_scores(*map(torch.tensor, (memory, labels, queries)), settings, 5)
    theirs = KNeighborsClassifier(5).fit(memory, labels).predict_proba(queries)
    assert (ours / 5).numpy() == pytest.approx(theirs)


# 16 rows and fewer, blocks that do not divide the memory, as many neighbours as rows.
@pytest.mark.parametrize(("rows", "k"), [(3, 2), (16, 16), (500, 7), (641, 641), (5003, 20)])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tile", [TILE, 100 * 8 * 4])
def test_neighbours_are_those_of_a_full_sort(
    rows: int, k: int, distance: str, dtype: torch.dtype, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole numbers have exact products and many ties: of equals, the lower row comes first.

    So it is in a memory that is looked at in one tile, and in tiles of a hundred rows.
    """
    monkeypatch.setattr(searching, "TILE", tile)
    draws = torch.Generator().manual_seed(rows)
    # For the cosine, vectors of one length: 4 of 8 entries are 1 or -1, so all are 2 long.
    signs = torch.randint(0, 2, (rows + 40, 8), generator=draws) * 2 - 1
    support = torch.rand(rows + 40, 8, generator=draws).argsort(1) < 4
    drawn = (signs * support if distance == "cosine" else signs + support).to(dtype)
    memory, queries = drawn[:rows], drawn[rows:]
    found = list(neighbours(memory, queries, k, distance, CPU))
    closeness, places = (torch.cat(parts) for parts in zip(*found, strict=True))
    if distance == "cosine":
        expected = queries @ memory.T / 4
    else:
        expected = -(queries[:, None] - memory).square().sum(2)
    order = expected.sort(dim=1, descending=True, stable=True).indices[:, :k]
    assert torch.equal(places, order)
    best = expected.gather(1, order)
    if distance == "euclidean":
        best = (best + queries.square().sum(1, keepdim=True)) / 2
    assert torch.equal(closeness, best)


def test_more_queries_than_a_chunk_and_products_within_the_room() -> None:
    draws = torch.Generator().manual_seed(0)
    memory = torch.randn(40_000, 4, generator=draws)
    queries = torch.randn(150, 4, generator=draws)
    assert 150 > chunk_size(memory) >= 64
    assert chunk_size(memory) * len(memory) * 4 <= ROOM
    sizes, places = [], []
    for _, rows in neighbours(memory, queries, 5, "euclidean", CPU):
        sizes.append(len(rows))
        places.append(rows)
    assert sizes == [80, 70]
    distances = torch.cdist(queries.double(), memory.double())
    assert torch.equal(torch.cat(places), distances.topk(5, dim=1, largest=False).indices)


def test_a_zero_feature_is_like_nothing() -> None:
    memory = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]).repeat(20, 1)
    ((closeness, rows),) = neighbours(memory, torch.tensor([[3.0, 0.0]]), 60, "cosine", CPU)
    assert closeness[0].tolist() == [1.0] * 20 + [0.0] * 20 + [-1.0] * 20
    assert rows[0, [0, 20, 40]].tolist() == [2, 0, 1]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 1.5, -2.5, 3e38, -3e38]), min_size=1),
    st.integers(0, 2**32 - 1),
)
def test_the_largest_are_those_of_a_stable_sort(values: list[float], seed: int) -> None:
    row = torch.tensor([values])
    k = 1 + seed % len(values)
    expected = row.double().sort(dim=1, descending=True, stable=True).indices[:, :k]
    assert torch.equal(largest(row, k), expected)
    assert torch.equal(largest(row.double(), k), expected)


def test_knn_on_the_projectors_output(tiny_run: Run, splits: dict[str, Labelled]) -> None:
    network = build(tiny_run.architecture, generator(0))
    knn = (KNN(k=5, temperature=0.1), KNN(k=5, temperature=0.1, feature="projector"))
    records = probed(network, tiny_run, PROBES.model_copy(update={"knn": knn}), splits)
    found = {
        r["settings"]["feature"]: r["correct"]
        for r in records
        if (r["probe"], r["split"]) == ("knn", "test")
    }
    network.projector.eval()
    with torch.inference_mode():
        features = {
            name: network.projector(extract(network.backbone, tiny_run, s.images, CPU))
            for name, s in splits.items()
        }
    labels = torch.from_numpy(splits["train"].labels)
    (scores,) = knn_scores(features["train"], labels, features["test"], [knn[1]], 10)
    expected = record("knn", {}, "test", scores, torch.from_numpy(splits["test"].labels))
    assert found["projector"] == expected["correct"]
    assert found["backbone"] != found["projector"]


def test_the_linear_probe_reaches_scikit_learns_optimum() -> None:
    splits = {
        name: clusters(n, seed)
        for name, n, seed in (("train", 600, 1), ("validation", 300, 2), ("test", 2000, 3))
    }
    features = {name: torch.tensor(x, dtype=torch.float32) for name, (x, _) in splits.items()}
    labels = {name: torch.tensor(y) for name, (_, y) in splits.items()}
    settings = LINEAR.model_copy(update={"epochs": 200, "learning_rates": (0.03,)})
    chosen = clean_probe(features, labels, 5, settings, seed=0)
    x, y = splits["train"]
    mean, std = x.mean(0), x.std(0, ddof=1)
    theirs = LogisticRegression(C=np.inf, max_iter=1000).fit((x - mean) / std, y)
    expected = theirs.predict_proba((splits["test"][0] - mean) / std)
    assert chosen.scores["test"].softmax(1).numpy() == pytest.approx(expected, abs=0.02)


def test_validation_chooses_the_rate_and_the_test_has_no_say() -> None:
    splits = {name: clusters(300, seed) for seed, name in enumerate(("train", "validation"))}
    features = {name: torch.tensor(x, dtype=torch.float32) for name, (x, _) in splits.items()}
    labels = {name: torch.tensor(y) for name, (_, y) in splits.items()}
    for wrong in (0, 1):  # a test split labelled to favour the untrained classifier
        features["test"] = features["validation"]
        labels["test"] = labels["validation"] * wrong
        chosen = clean_probe(features, labels, 5, LINEAR, seed=0)
        assert chosen.learning_rate == 0.1
    # Where the training says nothing about the validation, the slow rate may win.
    labels["validation"] = (labels["validation"] + 1) % 5
    assert clean_probe(features, labels, 5, LINEAR, seed=0).learning_rate == 1e-6


PROBES = Probes(
    knn=(KNN(k=200, temperature=0.5), KNN(k=5, temperature=0.07)),
    linear=(LINEAR.model_copy(update={"epochs": 3}),),
)


def test_clean_probes_leave_the_network_as_it_was(
    tiny_run: Run, splits: dict[str, Labelled]
) -> None:
    network = build(tiny_run.architecture, generator(0))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    records = probed(network, tiny_run, PROBES, splits)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert [(r["probe"], r["split"]) for r in records] == [
        ("knn", "validation"),
        ("knn", "validation"),
        ("knn", "test"),
        ("knn", "test"),
        ("linear", "validation"),
        ("linear", "test"),
    ]
    assert records[-1]["settings"]["batch_norm"] == "running statistics"
    assert probed(network, tiny_run, PROBES, splits) == records


def test_the_reference_probe_trains_through_live_batch_norm(
    tiny_run: Run, splits: dict[str, Labelled]
) -> None:
    run = tiny_run.model_copy(update={"protocol": "reference"})
    one_pair = PROBES.linear[0].model_copy(update={"learning_rates": (0.01,)})
    probes = PROBES.model_copy(update={"linear": (one_pair,)})
    network = build(run.architecture, generator(0))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    del splits["validation"]
    records = probed(network, run, probes, splits)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert {r["split"] for r in records} == {"test"}
    settings = records[-1]["settings"]
    assert settings["batch_norm"] == "batch statistics while training"
    assert settings["training_images"] == "augmented"


def test_correct_answers_can_be_paired_image_by_image(
    tiny_run: Run, splits: dict[str, Labelled]
) -> None:
    network = build(tiny_run.architecture, generator(0))
    for found in probed(network, tiny_run, PROBES, splits):
        correct = unpack(found["correct"], found["count"])
        assert 100 * correct.mean() == pytest.approx(found["top1"])
        assert 0 < found["top1"] < found["top5"] <= 100


def test_packing_keeps_every_bit() -> None:
    correct = np.random.default_rng(0).random(1003) < 0.3
    assert np.array_equal(unpack(pack(correct), 1003), correct)


def test_top_k_is_scikit_learns() -> None:
    draws = np.random.default_rng(0)
    scores, labels = draws.normal(size=(200, 8)).astype(np.float32), draws.integers(8, size=200)
    found = record("knn", {}, "test", torch.from_numpy(scores), torch.from_numpy(labels))
    for k in (1, 5):
        theirs = top_k_accuracy_score(labels, scores, k=k)
        assert found[f"top{k}"] == pytest.approx(100 * theirs, abs=1e-9)


def test_equal_scores_are_taken_in_the_order_of_the_classes() -> None:
    found = record("knn", {}, "test", torch.zeros(3, 8), torch.tensor([0, 4, 5]))
    assert found["top1"] == pytest.approx(100 / 3)
    assert found["top5"] == pytest.approx(200 / 3)


def test_features_do_not_depend_on_the_batch(tiny_run: Run, splits: dict[str, Labelled]) -> None:
    network = build(tiny_run.architecture, generator(0))
    images = splits["train"].images
    whole = extract(network.backbone, tiny_run, images, CPU)
    single = extract(network.backbone, tiny_run, images[7:8], CPU)
    assert torch.allclose(whole[7:8], single, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [("k", "k = 301 needs at least as many training images, here are 300"), ("class", "class [3]")],
)
def test_what_cannot_be_answered_is_said(
    change: str, said: str, tiny_run: Run, splits: dict[str, Labelled]
) -> None:
    probes = PROBES
    if change == "k":
        probes = PROBES.model_copy(update={"knn": (KNN(k=301, temperature=0.5),)})
    else:
        train = splits["train"]
        kept = train.labels != 3
        splits["train"] = Labelled(train.images[kept], train.labels[kept])
    with pytest.raises(ProbeError) as failure:
        probed(build(tiny_run.architecture, generator(0)), tiny_run, probes, splits)
    assert said in str(failure.value)
