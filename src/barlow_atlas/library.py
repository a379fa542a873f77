"""What Python programs use: a milestone as a module, and a study's results as tidy tables."""

from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor, nn

from barlow_atlas.atlas.frames import probe_table, signal_table
from barlow_atlas.atlas.records import contents
from barlow_atlas.nn.networks import Network, build
from barlow_atlas.nn.randomness import generator
from barlow_atlas.probes.features import evaluation_view
from barlow_atlas.store.snapshot import Manifest, SnapshotError, read_manifest, read_weights
from barlow_atlas.study.file import load_study, study_file
from barlow_atlas.study.paths import PARAMS


class Encoder(nn.Module):
    """The network of a milestone, ready for other images: batch norm uses its running statistics.

    Attributes:
        network: backbone and projector; imported weights have no projector.
        manifest: what the milestone is and how it was made.
    """

    def __init__(self, network: Network, manifest: Manifest) -> None:
        super().__init__()
        self.network = network
        self.manifest = manifest

    def transform(self, images: np.ndarray) -> Tensor:
        """The network's input (n, 3, S, S) for images, uint8 (n, 3, H, W): no randomness.

        They are resized, cropped at the centre and normalised as the run's probes do it.
        """
        device = next(self.parameters()).device
        return evaluation_view(self.manifest.run, images, device)

    def forward(self, inputs: Tensor) -> Tensor:
        """Features of the backbone (n, f) of inputs (n, 3, S, S), see `transform`."""
        features: Tensor = self.network.backbone(inputs)
        return features


def load(milestone: str | Path) -> Encoder:
    """A stored milestone, checked by its hash, in evaluation mode on the CPU.

    It needs the two files alone, wherever they are, and no clone.

    Args:
        milestone: its path without ending, or that of its weights or its manifest, such as
            `results/demo/checkpoints/bt-d256-e100-clean-s1/epoch_0100`.

    Raises:
        SnapshotError: it is missing or damaged.
    """
    path = Path(milestone)
    if path.suffix in (".json", ".safetensors"):
        path = path.with_suffix("")
    manifest_file = path.with_name(f"{path.name}.json")
    manifest = read_manifest(manifest_file)
    run = manifest.run
    network = build(run.architecture, generator(run.seed, "weights"))
    network.load_state_dict(read_weights(manifest_file, manifest))
    return Encoder(network, manifest).eval()


def results(study: str) -> pd.DataFrame:
    """Every accuracy that is recorded of a study of this clone, a row each, in percent.

    Columns are those of `atlas.frames.COLUMNS`: method, seed, epoch, probe, split, metric, value
    and what else tells rows apart.

    Raises:
        StudyError: no such study here.
        RecordError: a record that cannot be read.
    """
    return probe_table(contents(study, load_study(study_file(PARAMS, study))))


def signals(study: str) -> pd.DataFrame:
    """As `results`: the label-free signals that are recorded of a study, a row each."""
    return signal_table(contents(study, load_study(study_file(PARAMS, study))))


__all__ = ["Encoder", "SnapshotError", "load", "results", "signals"]
