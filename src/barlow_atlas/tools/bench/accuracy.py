"""Whether the fast path learns what the plain one learns: the same runs, trained by both."""

import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from scipy import stats

from barlow_atlas.nn.networks import Network
from barlow_atlas.probes.features import extract
from barlow_atlas.probes.knn import KNN, knn_scores
from barlow_atlas.study.models import Run
from barlow_atlas.tools.bench.apart import Apart
from barlow_atlas.tools.bench.baseline import Rival
from barlow_atlas.tools.bench.images import DEMO_IMAGES, demo, digits
from barlow_atlas.tools.bench.records import Record, difference
from barlow_atlas.tools.bench.timing import cores, on_cores, taking
from barlow_atlas.tools.bench.training import trained
from barlow_atlas.training.loop import initial_state

NEIGHBOURS = KNN(k=20, temperature=0.07)


def accuracy(
    network: Network, run: Run, images: np.ndarray, labels: np.ndarray, device: torch.device
) -> float:
    """kNN accuracy in percent of the images after the first DEMO_IMAGES, which are the memory."""
    features = extract(network.backbone, run, images, device)
    classes = torch.from_numpy(labels).to(device)
    known, asked = features[:DEMO_IMAGES], features[DEMO_IMAGES:]
    (scores,) = knn_scores(known, classes[:DEMO_IMAGES], asked, [NEIGHBOURS], 10)
    right = int((scores.argmax(1) == classes[DEMO_IMAGES:]).sum())
    return 100 * right / len(asked)


def pair(run: Run, device: torch.device) -> tuple[float, float]:
    """Accuracies after training from the same weights: ours, and the plain rival's."""
    images, labels = digits()
    steps = run.epochs * (DEMO_IMAGES // run.batch_size) if run.epochs else 0
    state, ours = trained(run, images[:DEMO_IMAGES], device)
    taking(ours, steps)()
    plain = initial_state(run, device).network
    with Apart(partial(Rival, run, images[:DEMO_IMAGES], device)) as rival:
        rival.call("take", steps)
        weights = rival.call("weights")
    plain.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    first, second = (
        accuracy(network, run, images, labels, device) for network in (state.network, plain)
    )
    return first, second


def half_interval(differences: Sequence[float]) -> float:
    """Half of the 95 % t interval of the mean of differences."""
    n = len(differences)
    spread = float(np.std(differences, ddof=1)) / math.sqrt(n)
    return float(stats.t.ppf(0.975, n - 1)) * spread


def records(
    device: torch.device, epochs: int = 50, seeds: Sequence[int] = (1, 2, 3)
) -> Iterator[Record]:
    """The demo's runs of BT and MIX, some epochs of each, and their difference over the seeds."""
    for method in ("bt", "mix"):
        base = demo(method, epochs=epochs)
        with on_cores(base.threads):
            taken = cores()
            pairs = [pair(base.model_copy(update={"seed": seed}), device) for seed in seeds]
        differences = [ours - plain for ours, plain in pairs]
        ours, plain = np.mean(pairs, axis=0).tolist()
        half = half_interval(differences)
        yield difference(
            f"accuracy/{method}",
            "%",
            (ours, plain),
            half,
            f"kNN ({NEIGHBOURS.label}) of {epochs} epochs on {DEMO_IMAGES} digits, the others "
            f"held out, mean over {len(seeds)} seeds, {taken}; yardstick: the plain rival "
            f"from the same weights; difference {np.mean(differences):+.2f} points, 95 % t "
            f"interval +- {half:.2f}",
        )
