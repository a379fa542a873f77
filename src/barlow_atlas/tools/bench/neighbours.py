"""kNN, against one-hot votes in batches of queries, and its search against other libraries'."""

import importlib.util
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

from barlow_atlas.nn.randomness import generator
from barlow_atlas.probes.knn import KNN, knn_scores
from barlow_atlas.probes.neighbours import chunk_size, inner_products, neighbours
from barlow_atlas.tools.bench import baseline
from barlow_atlas.tools.bench.records import Record, alone, faster, fewer, more
from barlow_atlas.tools.bench.timing import Computation, by_turns, cores, peak_memory
from barlow_atlas.tools.costs import MEGABYTE

CLASSES = 10


def records(
    device: torch.device,
    memory: int = 50_000,
    queries: int = 10_000,
    features: int = 512,
    k: int = 200,
    rounds: int = 2,
) -> Iterator[Record]:
    """Seconds, memory and differences of class scores.

    The features are scattered about class centres so far that k = 200 neighbours are of 3 classes.
    """
    draws = generator(0, "bench")
    centres = torch.randn(CLASSES, features, generator=draws)
    labels, sought = (
        torch.randint(CLASSES, (n,), generator=draws).to(device) for n in (memory, queries)
    )
    known, asked = (
        centres.to(device)[classes]
        + 3 * torch.randn(len(classes), features, generator=draws).to(device)
        for classes in (labels, sought)
    )
    settings = KNN(k=k, temperature=0.5)

    def ours() -> torch.Tensor:
        return knn_scores(known, labels, asked, [settings], CLASSES)[0]

    def one_hot() -> torch.Tensor:
        return baseline.one_hot_scores(known, labels, asked, k, 0.5, CLASSES)

    task = (
        f"{queries} queries among {memory} of {features} features, k={k}, {CLASSES} classes, "
        f"{cores()}"
    )
    about = f"{task}; yardstick: one-hot votes, {baseline.QUERIES} queries at a time"
    yield faster("knn/time", by_turns((ours, one_hot), device, rounds), about, target=3)

    def our_products() -> None:
        for chunk in asked.split(chunk_size(known)):  # type: ignore[no-untyped-call]
            inner_products(known, chunk)

    def plain_products() -> None:
        for chunk in asked.split(baseline.QUERIES):  # type: ignore[no-untyped-call]
            chunk @ known.T

    times = by_turns((our_products, plain_products), device, rounds)
    yield faster("knn/inner products alone", times, f"{about}; no search is faster than these")
    used = [peak_memory(each, device) / MEGABYTE for each in (ours, one_hot)]
    yield fewer("knn/memory", "MB", (used[0], used[1]), about, target=10)
    first, second = ours(), one_hot()
    rankings = [
        scores.sort(dim=1, descending=True, stable=True).indices for scores in (first, second)
    ]
    alike = int((rankings[0] == rankings[1]).all(1).sum())
    name = "knn/queries with the same ranking of classes"
    yield more(name, "queries", (alike, queries), about, target=1)
    largest = ((first - second).abs() / second.abs().clamp_min(1)).max().item()
    yield alone("knn/largest relative difference of scores", "1", largest, about, at_most=1e-5)

    def our_search() -> None:
        for _ in neighbours(known, asked, k, "cosine", device):
            pass

    for library, search in _searches(known, asked, k).items() if device.type == "cpu" else ():
        yield faster(
            f"knn/search beside {library}",
            by_turns((our_search, search), device, rounds),
            f"{task}, their rows and cosines alone; yardstick: {library}'s exact search",
        )


def _searches(known: Tensor, asked: Tensor, k: int) -> dict[str, Computation]:
    """Other libraries' exact search of the k nearest, by cosine; faiss' where it is installed."""
    from sklearn.neighbors import NearestNeighbors

    memory, queries = (normalize(features, dim=1).numpy() for features in (known, asked))
    brute = NearestNeighbors(n_neighbors=k, algorithm="brute", metric="cosine").fit(memory)
    found: dict[str, Computation] = {"scikit-learn": lambda: brute.kneighbors(queries)}
    if importlib.util.find_spec("faiss") is not None:
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
        index = faiss.IndexFlatIP(memory.shape[1])
        index.add(memory)
        found["faiss"] = lambda: index.search(queries, k)
    return found
