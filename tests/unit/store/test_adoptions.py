"""Which code counts as which, and the words in which it is said."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from barlow_atlas.store.adoptions import (
    Adoption,
    AdoptionError,
    Proof,
    Repetition,
    adopted_by,
    adoptions,
    adoptions_file,
    standing,
    to_json,
)

REPETITION = Repetition(run="r", epoch=4, trained_from=0, compared=90, largest_difference=0.0)
PROOF = Proof(against="the stored results", tolerance=0.0, repetitions=(REPETITION,) * 4)


def adoption(old: str, new: str, **about: object) -> Adoption:
    told = {"code": "probing", "old": old, "new": new, "date": "2026-01-01", "made_by": {}}
    return Adoption.model_validate(told | about)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    adoptions.cache_clear()
    standing.cache_clear()


def write(*entries: Adoption) -> None:
    file = adoptions_file("s")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(to_json(entries))
    forget()


def test_without_a_file_each_code_stands_for_itself() -> None:
    assert standing("s", "a") == "a"
    assert adopted_by("s", "a") == ()


def test_all_code_of_a_chain_stands_for_the_first() -> None:
    write(adoption("a", "b", proof=PROOF), adoption("b", "c", reason="moved"))
    assert {standing("s", code) for code in "abc"} == {"a"}
    assert standing("s", "d") == "d"
    assert standing("other", "c") == "c"


def test_two_kinds_of_old_code_meet_in_the_new_one() -> None:
    write(adoption("a", "c"), adoption("b", "c"))
    assert len({standing("s", code) for code in "abc"}) == 1


def test_code_that_comes_back_closes_no_circle() -> None:
    write(adoption("a", "b"), adoption("b", "a"))
    assert {standing("s", code) for code in "ab"} == {"a"}


def test_what_was_adopted_is_told_whole() -> None:
    proven, accepted = adoption("a", "b", proof=PROOF), adoption("b", "c", reason="only moved")
    write(proven, accepted, adoption("x", "y", reason="other"))
    assert adopted_by("s", "c") == (proven, accepted)
    assert str(proven) == (
        "probing: 4 milestones made again, equal to the bit to the stored results, 2026-01-01"
    )
    assert str(accepted) == "probing: accepted without proof, 2026-01-01: only moved"
    loose = PROOF.model_copy(update={"tolerance": 0.001})
    assert "equal within 0.001" in str(adoption("a", "b", proof=loose))


def test_a_damaged_file_is_named() -> None:
    write()
    adoptions_file("s").write_text("[{]")
    forget()
    with pytest.raises(
        AdoptionError, match=r"(?s)results/s/adopted\.json cannot be read.*checkout"
    ):
        standing("s", "a")
