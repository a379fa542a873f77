"""Splits: stratified, disjoint, nested, and the same for ever."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from barlow_atlas.data.errors import DataError
from barlow_atlas.data.selection import Selection, draw_test, draw_validation, select

LABELS = np.arange(1_000, dtype=np.int64) % 10
VALIDATION = draw_validation(LABELS, 0.1, 2312)


def choose(protocol: str = "clean", fraction: float = 1.0, **changes: int) -> Selection:
    arguments = {"seed": 2312, "test_count": 50, "unlabeled_count": 0} | changes
    return select(LABELS, VALIDATION, protocol=protocol, fraction=fraction, **arguments)  # type: ignore[arg-type]


def digest(index: NDArray[np.int64]) -> str:
    return hashlib.sha256(index.astype("<i8").tobytes()).hexdigest()


def test_the_draws_are_what_they_always_were() -> None:
    """Stored results refer to these splits: a change here makes all of them incomparable."""
    labels = np.arange(50_000, dtype=np.int64) % 10
    validation = draw_validation(labels, 0.1, 2312)
    some = select(
        labels,
        validation,
        protocol="clean",
        fraction=0.01,
        seed=2312,
        test_count=1,
        unlabeled_count=1_000,
    )
    assert {
        "validation": digest(validation),
        "test": digest(draw_test(labels, 0.2, 2312)),
        "fraction": digest(some.pretraining),
        "unlabeled": digest(some.pretraining_unlabeled),
    } == {
        "validation": "e52db1c3d89fb7b7d255e08d44a6f2429e4b1fbedb7fca9f6c3d986e9186b1e9",
        "test": "a981030e727dd2b22785ccdc55373e50c1d6800c8570fc75c5a51e4f36407f24",
        "fraction": "625ebe6f8d265f9f5d5904cac459a207400d4ea02abb720a82dd787daf50f9f2",
        "unlabeled": "24d32590db3dc78f88519f5bf77a25e2f392b087920646425caa43548ec3f16f",
    }


def test_the_hold_out_is_stratified_sorted_and_unbiased_in_position() -> None:
    labels = np.repeat(np.arange(4), 500)
    index = draw_validation(labels, 0.1, 0)
    assert len(index) == 200
    assert (np.diff(index) > 0).all()
    assert np.bincount(labels[index]).tolist() == [50, 50, 50, 50]
    # 50 of 500 images, drawn and not taken from the beginning: the mean position is near 250.
    assert abs(np.mean(index % 500) - 250) < 40
    assert not np.array_equal(index, draw_validation(labels, 0.1, 1))


def test_unequal_classes_keep_their_proportions() -> None:
    labels = np.repeat([0, 1, 2], [700, 200, 100])
    assert np.bincount(labels[draw_validation(labels, 0.1, 3)]).tolist() == [70, 20, 10]


def test_a_hold_out_of_no_image_is_refused() -> None:
    with pytest.raises(DataError, match="empty: there are only 4 training images"):
        draw_validation(np.array([0, 1, 0, 1]), 0.1, 0)


def test_clean_keeps_the_hold_out_away() -> None:
    chosen = choose("clean")
    assert_array_equal(chosen.validation, VALIDATION)
    assert_array_equal(
        np.sort(np.concatenate([chosen.pretraining, chosen.validation])), np.arange(1_000)
    )
    assert_array_equal(chosen.pretraining, chosen.probe_training)
    assert_array_equal(chosen.test, np.arange(50))


def test_reference_uses_every_image_and_has_no_validation() -> None:
    chosen = choose("reference")
    assert_array_equal(chosen.pretraining, np.arange(1_000))
    assert_array_equal(chosen.probe_training, np.arange(1_000))
    assert chosen.validation.size == 0


@pytest.mark.parametrize("protocol", ["clean", "reference"])
def test_unlabeled_images_join_the_pre_training_only(protocol: str) -> None:
    assert_array_equal(choose(protocol, unlabeled_count=30).pretraining_unlabeled, np.arange(30))
    assert choose(protocol).pretraining_unlabeled.size == 0


@given(
    st.lists(st.integers(20, 60), min_size=2, max_size=6),
    st.floats(0.1, 1),
    st.floats(0.1, 1),
    st.sampled_from(["clean", "reference"]),
    st.integers(0, 2**32 - 1),
)
def test_fractions_are_nested_stratified_and_exact(
    sizes: list[int], one: float, other: float, protocol: str, seed: int
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    held_out = draw_validation(labels, 0.1, seed)

    def part(fraction: float) -> Selection:
        return select(
            labels,
            held_out,
            protocol=protocol,  # type: ignore[arg-type]
            fraction=fraction,
            seed=seed,
            test_count=7,
            unlabeled_count=100,
        )

    small, large = part(min(one, other)), part(max(one, other))
    whole = part(1.0)
    for field in ("pretraining", "probe_training", "pretraining_unlabeled"):
        assert np.isin(getattr(small, field), getattr(large, field)).all()
    for chosen, fraction in ((small, min(one, other)), (large, max(one, other))):
        assert len(chosen.pretraining) == round(fraction * len(whole.pretraining))
        assert len(chosen.pretraining_unlabeled) == round(fraction * 100)
        assert_array_equal(chosen.validation, whole.validation)
        assert_array_equal(chosen.test, whole.test)
        assert not np.isin(chosen.pretraining, chosen.validation).any()
        kept = np.bincount(labels[chosen.pretraining], minlength=len(sizes))
        wanted = fraction * np.bincount(labels[whole.pretraining])
        assert np.abs(kept - wanted).max() < 2


def test_a_fraction_that_loses_a_class_is_refused() -> None:
    with pytest.raises(DataError, match="keeps 5 of 900 training images, and none of class"):
        choose(fraction=0.006)


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.1, float("nan")])
def test_a_fraction_is_a_share(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction must be in"):
        choose(fraction=fraction)


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match="clean, reference: honest"):
        choose("honest")
