"""Which images a run sees: splits and shares as pure functions of labels and a seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from barlow_atlas.data.choice import Protocol
from barlow_atlas.data.errors import DataError

Index = NDArray[np.int64]
# Each draw has its own stream of the split seed, so that they do not depend on one another.
_TEST, _VALIDATION, _FRACTION, _UNLABELED = range(4)
# The seed of the reference's draws of transfer targets.
_TARGET_SEED = 42


@dataclass(frozen=True)
class Selection:
    """The images of a run, as sorted int64 indices.

    `pretraining`, `probe_training` and `validation` index the train part (N_train,),
    `pretraining_unlabeled` the unlabeled part and `test` the test part. `validation` is empty in
    the reference protocol, `pretraining_unlabeled` where there are no unlabeled images.
    """

    pretraining: Index
    pretraining_unlabeled: Index
    probe_training: Index
    validation: Index
    test: Index


def select(
    labels: Index,
    validation_index: Index,
    *,
    protocol: Protocol,
    fraction: float,
    seed: int,
    test_count: int,
    unlabeled_count: int = 0,
) -> Selection:
    """The images that a run pre-trains on, probes with and is tested on.

    `labels` (N_train,) and `validation_index` (N_val,) are those of the prepared data set, `seed`
    its split seed. Clean: the hold-out is kept out of pre-training and of probe training.
    Reference: both use all training images and there is no validation, as in the papers' code.

    `fraction` keeps a stratified share of the training images and a plain share of the unlabeled
    ones; a smaller share is contained in every larger one. Validation and test stay whole.

    Raises ValueError for an unknown protocol or a fraction outside (0, 1] and DataError if a class
    would vanish.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1]: {fraction}")
    if protocol not in get_args(Protocol):
        raise ValueError(f"protocol must be one of {', '.join(get_args(Protocol))}: {protocol}")
    held_out = np.zeros(len(labels), dtype=bool)
    if protocol == "clean":
        held_out[validation_index] = True
    training = np.flatnonzero(~held_out)
    count = round(fraction * len(training))
    # Keys are drawn for all images, so both protocols keep the same images where they can.
    keys = _keys(seed, _FRACTION, len(labels))[training]
    kept = np.sort(training[stratified_order(labels[training], keys)[:count]])
    lost = np.setdiff1d(labels[training], labels[kept])
    if lost.size:
        raise DataError(
            f"fraction {fraction} keeps {count:,} of {len(training):,} training images, and none "
            f"of class {', '.join(map(str, lost[:10]))}{' ...' if lost.size > 10 else ''}: "
            "choose a larger fraction."
        )
    unlabeled = np.argsort(_keys(seed, _UNLABELED, unlabeled_count), kind="stable")
    return Selection(
        pretraining=kept,
        pretraining_unlabeled=np.sort(unlabeled[: round(fraction * unlabeled_count)]),
        probe_training=kept,
        validation=np.flatnonzero(held_out),
        test=np.arange(test_count, dtype=np.int64),
    )


def draw_test(labels: Index, share: float, seed: int) -> Index:
    """The sorted indices of a stratified test part, for a source that has none of its own."""
    return _stratified_share(labels, share, seed, _TEST)


def draw_validation(labels: Index, share: float, seed: int) -> Index:
    """The sorted indices into the train part of the stratified hold-out.

    Raises DataError where the share of the images is less than one image.
    """
    index = _stratified_share(labels, share, seed, _VALIDATION)
    if not index.size:
        raise DataError(
            f"the hold-out, {share:.0%} of the training images, is empty: there are only "
            f"{len(labels)} training images. Add images."
        )
    return index


def draw_shuffled(sizes: Sequence[int], share: float) -> list[Index]:
    """For each class, the sorted places of those of its images that a transfer target trains on.

    Mixed Barlow Twins' draw (transfer_datasets/vgg_flower.py, traffic_sign.py): NumPy's legacy
    generator with seed 42 shuffles the classes one after another, and the first `share` of each,
    rounded down, is trained on. NumPy has frozen that generator's stream.

    Args:
        sizes: number of images of each class, in the order in which the classes are drawn.
    """
    legacy = np.random.RandomState(_TARGET_SEED)
    return [
        np.sort(legacy.permutation(size)[: int(share * size)]).astype(np.int64) for size in sizes
    ]


def _stratified_share(labels: Index, share: float, seed: int, stream: int) -> Index:
    order = stratified_order(labels, _keys(seed, stream, len(labels)))
    return np.sort(order[: round(share * len(labels))])


def stratified_order(labels: Index, keys: NDArray[np.uint64]) -> Index:
    """An order (N,) of all images whose every beginning holds the classes in their proportions.

    `keys` (N,) are random. The image with the r-th smallest key of the n images in its class
    stands at (r + 1/2) / n of the way; so of the first k images each class has its share of k, up
    to rounding. Classes of equal size meet at the same places: the keys decide who goes first.
    """
    place = np.empty(len(labels), dtype=np.float64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        by_key = members[np.argsort(keys[members], kind="stable")]
        place[by_key] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((keys, place)).astype(np.int64)


def _keys(seed: int, stream: int, count: int) -> NDArray[np.uint64]:
    """Random 64-bit keys (count,). Raw output of PCG64, which NumPy promises never to change.

    The methods of Generator make no such promise, and these splits must stay what they are.
    """
    return np.random.PCG64(np.random.SeedSequence((seed, stream))).random_raw(count)
