"""Weights trained elsewhere, put on the map under the reference protocol's linear forms."""

import json

import pandas as pd
import torch
import torchvision
from fresh_clone import Clone

STUDY = """\
base: demo.yaml
title: Existing weights
data: {name: digits, fraction: 0.1}
methods: {}
backbone: {name: resnet18, stem: 3x3}
foreign:
  theirs: {layout: torchvision, files: {0: weights/untrained.pth, 90: weights/trained.pth}}
protocol: reference
probes:
  knn: [{k: 5, temperature: null, distance: euclidean}]
  linear:
    - {form: mix-small, epochs: 1}
    - {form: imagenet, epochs: 1}
    - {form: ssl-sota, epochs: 1}
"""


def test_existing_weights_are_probed_and_never_trained(clone: Clone) -> None:
    (clone.folder / "params/published.yaml").write_text(STUDY)
    (clone.folder / "weights").mkdir()
    for name in ("untrained", "trained"):
        network = torchvision.models.resnet18()
        network.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
        torch.save(network.state_dict(), clone.folder / f"weights/{name}.pth")
    study = ("--config", "study=published", "--", "all")
    planned = clone.plan(*study)
    assert (planned["import_weights"], planned["probe"]) == (2, 2)
    assert "pretrain" not in planned
    clone.snakemake(*study)

    run = "theirs-imported-reference"
    manifest = clone.folder / f"results/published/checkpoints/{run}/epoch_0090.json"
    made_by = json.loads(manifest.read_text())["made_by"]
    assert made_by["file"] == "weights/trained.pth"
    assert len(made_by["file_sha256"]) == 64
    tidy = pd.read_csv(clone.folder / "results/published/probes.csv")
    assert set(tidy["epoch"]) == {0, 90}
    assert set(tidy["objective"]) == {"imported, layout torchvision"}
    assert set(tidy["split"]) == {"test"}
    linear = tidy[tidy["probe"] == "linear"]
    forms = {"mix-small", "imagenet", "imagenet best on test", "ssl-sota"}
    assert set(linear["variant"]) == forms
    signals = pd.read_csv(clone.folder / "results/published/signals.csv")
    assert set(signals["space"]) == {"backbone"}
    assert clone.plan(*study) == {}

    damaged = clone.folder / "weights/trained.pth"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    done = clone.run("snakemake", "--profile", "profiles/local", *study)
    assert done.returncode != 0
    log = clone.folder / f"logs/published/import/{run}/epoch_0090.log"
    assert "weights/trained.pth" in log.read_text()
