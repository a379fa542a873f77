"""Real CIFAR-10 images, at a size for two cores: `cifar10-small`, shortened, to its accuracies."""

import os

import pandas as pd
import pytest
from fresh_clone import Clone

# Twice the study's training images, a tenth of all; one width, one seed, fewer epochs.
SHORT = (
    ("fraction: 0.05", "fraction: 0.1"),
    ("embedding_dims: [128, 1024]", "embedding_dims: [128]"),
    ("seeds: [1, 2, 3, 4, 5, 6]", "seeds: [1]"),
    ("\nepochs: 600", "\nepochs: 20"),
    ("warmup_epochs: 10", "warmup_epochs: 5"),
    ("milestones: [0, 10, 25, 50, 100, 200, 300, 400, 500, 600]", "milestones: [0, 20]"),
)
# Seen with seed 1: kNN +8 to +9, linear +9.
MARGINS = {"knn": 5.0, "linear": 5.0}


@pytest.fixture(scope="module")
def trained(clone: Clone) -> Clone:
    if not os.environ.get("BARLOW_ATLAS_DATA"):
        pytest.skip(
            "needs a mirror of CIFAR-10: set BARLOW_ATLAS_DATA to a folder that holds "
            "cifar-10-python.tar.gz or cifar-10-batches-py/"
        )
    clone.write_study("cifar10-short", "cifar10-small", *SHORT)
    clone.snakemake("--config", "study=cifar10-short", "--", "results/cifar10-short/probes.csv")
    return clone


def test_both_methods_learn_by_every_probe(trained: Clone) -> None:
    """The last milestone beats random weights by the stated margin, in points of test top-1."""
    tidy = pd.read_csv(trained.folder / "results/cifar10-short/probes.csv")
    test = tidy[(tidy["split"] == "test") & (tidy["metric"] == "top1")]
    lines = ["method", "probe", "setting"]
    values = test.pivot(index=lines, columns="epoch", values="value")
    gain = values[20] - values[0]
    assert len(gain) == 2 * 3
    for (method, probe, setting), points in gain.items():
        assert points >= MARGINS[probe], (method, probe, setting)


def test_the_test_split_is_whole_and_training_is_a_tenth(trained: Clone) -> None:
    tidy = pd.read_csv(trained.folder / "results/cifar10-short/probes.csv")
    assert dict(tidy.groupby("split")["count"].max()) == {"test": 10_000, "validation": 5_000}
