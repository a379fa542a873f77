"""Prints, a line of JSON each, what was found in the steps of every method and in the probes."""

import json
import sys
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from rehearsal import CUDA, Rehearsal, rehearsal

from barlow_atlas.data.batches import Resident, Streamed
from barlow_atlas.data.image_set import ImageSet
from barlow_atlas.nn.networks import build
from barlow_atlas.nn.randomness import generator
from barlow_atlas.probes.features import extract
from barlow_atlas.probes.knn import KNN, knn_scores
from barlow_atlas.probes.linear import Linear, clean_probe
from barlow_atlas.study.models import Run
from barlow_atlas.tools.bench.images import comparison
from barlow_atlas.training.loop import initial_state, train

SIZE = 32
STEPS, EPOCHS, BATCHES = 2, 3, 3
CLASSES = 10


def step(run: Run, resident: bool) -> Callable[[Rehearsal], None]:
    """Steps of a run after its first, which has the optimizer make its state."""

    def rehearsed(notes: Rehearsal) -> None:
        shape = (8 * run.batch_size, 3, SIZE, SIZE)
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        images: Resident | Streamed
        if resident:
            images = Resident(torch.from_numpy(pixels).to(CUDA))
        else:
            images = Streamed(ImageSet(((pixels, np.arange(len(pixels))),)), CUDA)
        state = initial_state(run, CUDA)
        progress = train(run, state, images, until=2)
        next(progress)
        notes.forget()
        for _ in range(STEPS):
            next(progress)
        held = {p.device.type for p in (*state.network.parameters(), *state.parts.buffers())}
        assert held <= {"cuda"}, held

    return rehearsed


def knn(notes: Rehearsal) -> None:
    memory, labels, queries = features(600), classes(600), features(300)
    notes.forget()
    knn_scores(memory, labels, queries, [KNN(k=200, temperature=0.5)], CLASSES)


def linear(notes: Rehearsal) -> None:
    sizes = {"train": 600, "validation": 200, "test": 300}
    seen = {part: features(n) for part, n in sizes.items()}
    known = {part: classes(n) for part, n in sizes.items()}
    settings = Linear(epochs=EPOCHS, batch_size=256, learning_rates=(0.1,), weight_decays=(0.0,))
    notes.forget()
    clean_probe(seen, known, CLASSES, settings, seed=1)


def extraction(notes: Rehearsal) -> None:
    run = comparison()[0]
    backbone = build(run.architecture, generator(1, "weights")).to(CUDA).backbone
    pixels = np.zeros((BATCHES * 256, 3, SIZE, SIZE), np.uint8)
    notes.forget()
    extract(backbone, run, pixels, CUDA)


def features(n: int) -> torch.Tensor:
    return torch.randn(n, 512).to(CUDA)


def classes(n: int) -> torch.Tensor:
    return torch.randint(CLASSES, (n,)).to(CUDA)


def rehearsals() -> Iterator[tuple[str, int, Callable[[Rehearsal], None]]]:
    """Names, what a count is divided by, and what is rehearsed."""
    for run in comparison():
        for precision, resident in (("float32", True), ("bfloat16", False)):
            chosen = run.model_copy(update={"precision": precision})
            where = "resident" if resident else "streamed"
            yield f"{run.method}-{precision}-{where}", STEPS, step(chosen, resident)
    yield "knn", 1, knn
    yield "linear", 1, linear
    yield "extraction", BATCHES, extraction


def main() -> None:
    warnings.filterwarnings("ignore")
    chosen = sys.argv[1:]
    for name, times, computation in rehearsals():
        if chosen and name not in chosen:
            continue
        with rehearsal() as notes:
            computation(notes)
        print(
            json.dumps(
                {
                    "name": name,
                    "kernels": sum(notes.kernels.values()) / times,
                    "by_operation": {
                        operation: count / times
                        for operation, count in notes.kernels.most_common(8)
                    },
                    "waits": {what: count / times for what, count in notes.waits.items()},
                    "mixed": dict(notes.mixed),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
