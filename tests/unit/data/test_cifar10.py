"""The real CIFAR-10, where its official files are at hand."""

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from barlow_atlas.data.catalog import CATALOG
from barlow_atlas.data.preparation import prepare
from barlow_atlas.data.prepared import Prepared, load
from barlow_atlas.data.selection import select
from barlow_atlas.data.sources import locate, parse_mirrors

VARIABLE = "BARLOW_ATLAS_DATA"


@pytest.fixture(scope="module")
def official() -> Path:
    """The folder or archive with the official files, looked up in the mirrors only."""
    facts = CATALOG["cifar10"]
    assert facts.archive is not None
    names = (facts.archive.folder, facts.archive.name)
    folders = [m for m in parse_mirrors(os.environ.get(VARIABLE, "")) if not m.startswith("http")]
    if not any(Path(folder, name).exists() for folder in folders for name in names):
        pytest.skip(f"{VARIABLE} names no folder that holds {names[0]}/ or {names[1]}: set it")
    # A copy that is there and damaged is a failure and no reason to skip.
    offline = facts.model_copy(update={"archive": facts.archive.model_copy(update={"url": None})})
    return locate(offline, Path("no-raw-folder"), folders, lambda _: None)


@pytest.fixture(scope="module")
def cifar10(official: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("data") / "cifar10"
    prepare(CATALOG["cifar10"], folder, folder.parent / "raw", [str(official.parent)])
    return load(folder, verify=True)


def test_images_and_labels_are_those_of_torchvision(official: Path, cifar10: Prepared) -> None:
    import torchvision

    if not official.is_dir():
        pytest.skip("torchvision would unpack the archive into the mirror")
    for train, images, labels in (
        (True, cifar10.train_images, cifar10.train_labels),
        (False, cifar10.test_images, cifar10.test_labels),
    ):
        theirs = torchvision.datasets.CIFAR10(official.parent, train=train)
        assert_array_equal(images, theirs.data.transpose(0, 3, 1, 2))
        assert_array_equal(labels, theirs.targets)
        assert list(cifar10.manifest.classes) == theirs.classes


def test_statistics_are_the_published_ones(cifar10: Prepared) -> None:
    np.testing.assert_allclose(cifar10.manifest.channel_mean, (0.4914, 0.4822, 0.4465), atol=1e-4)
    np.testing.assert_allclose(cifar10.manifest.channel_std, (0.2470, 0.2435, 0.2616), atol=1e-4)


def test_the_clean_split_has_45_000_and_5_000_images(cifar10: Prepared) -> None:
    chosen = select(
        cifar10.train_labels,
        cifar10.validation_index,
        protocol="clean",
        fraction=1.0,
        seed=cifar10.manifest.validation.seed,
        test_count=len(cifar10.test_labels),
    )
    assert np.bincount(cifar10.train_labels[chosen.pretraining]).tolist() == [4_500] * 10
    assert np.bincount(cifar10.train_labels[chosen.validation]).tolist() == [500] * 10
    assert len(chosen.test) == 10_000
    assert (
        cifar10.manifest.files["validation_index.npy"].sha256
        == "dbb4535459d44615f491fe43bc2e2248f8a34e9dd748329e7a9ff129821ac051"
    )
