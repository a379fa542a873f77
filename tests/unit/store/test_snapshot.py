"""Checkpoint files appear whole, are verified, and never mix histories."""

import hashlib
import io
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from barlow_atlas import atomic
from barlow_atlas.atomic import WriteError
from barlow_atlas.store import snapshot
from barlow_atlas.store.provenance import made_by
from barlow_atlas.store.snapshot import ResumeFolder, SnapshotError
from barlow_atlas.study.models import Run


def write(
    folder: Path,
    run: Run,
    epoch: int = 0,
    parent: Any = None,
    made_by: Any = None,
    weights: dict[str, Tensor] | None = None,
) -> snapshot.Manifest:
    weights = weights or {"w": torch.arange(4.0) + epoch, "n": torch.tensor(epoch)}
    return snapshot.write_milestone(
        folder,
        study="demo",
        run=run,
        epoch=epoch,
        parent=parent,
        weights=weights,
        state={"epoch": epoch},
        data_sha256="d",
        sources_sha256="s",
        made_by=made_by or {},
    )


def test_a_milestone_comes_back_as_it_was_written(tmp_path: Path, tiny_run: Run) -> None:
    first = write(tmp_path, tiny_run)
    second = write(tmp_path, tiny_run, 5, first)
    manifest = snapshot.read_manifest_of(tmp_path / "epoch_0005.json", tiny_run)
    weights = snapshot.read_weights(tmp_path / "epoch_0005.json", manifest)
    assert manifest == second
    assert manifest.parent == first.lineage
    assert torch.equal(weights["w"], torch.arange(4.0) + 5)
    assert snapshot.read_state(tmp_path / "epoch_0005.state")["epoch"] == 5


def test_same_content_gives_the_same_lineage_whenever_it_is_made(
    tmp_path: Path, tiny_run: Run
) -> None:
    assert write(tmp_path / "a", tiny_run) == write(tmp_path / "b", tiny_run)
    other = tiny_run.model_copy(update={"seed": 9})
    assert write(tmp_path / "c", other).lineage != write(tmp_path / "a", tiny_run).lineage


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "gone"])
def test_damaged_weights_are_named(damage: str, tmp_path: Path, tiny_run: Run) -> None:
    manifest = write(tmp_path, tiny_run)
    path = tmp_path / "epoch_0000.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        content[-1] ^= 1
        path.write_bytes({"cut": content[:-3], "flip": content, "empty": b""}[damage])
    with pytest.raises(SnapshotError, match=r"epoch_0000\.safetensors") as failure:
        snapshot.read_weights(tmp_path / "epoch_0000.json", manifest)
    assert ("dvc pull" if damage == "gone" else "damaged") in str(failure.value)


def test_an_edited_manifest_is_refused(tmp_path: Path, tiny_run: Run) -> None:
    write(tmp_path, tiny_run)
    path = tmp_path / "epoch_0000.json"
    path.write_text(path.read_text().replace('"seed": 1', '"seed": 2'))
    with pytest.raises(SnapshotError, match="contradicts itself"):
        snapshot.read_manifest(path)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "foreign"])
def test_a_damaged_state_is_set_aside_and_the_one_before_used(damage: str, tmp_path: Path) -> None:
    resume = ResumeFolder(tmp_path)
    resume.write("history", 10, {"step": 10})
    resume.write("history", 20, {"step": 20})
    newest = tmp_path / "step_000000000020.state"
    content = bytearray(newest.read_bytes())
    content[-9] ^= 1
    newest.write_bytes(
        {"cut": content[:-20], "flip": content, "empty": b"", "foreign": b"PK\3\4" * 50}[damage]
    )
    said: list[str] = []
    found = resume.newest("history", said.append)
    assert found is not None
    assert found["step"] == 10
    assert len(said) == 1
    assert "step_000000000020" in said[0]
    assert (tmp_path / "step_000000000020.state.damaged").exists()


def test_two_states_are_kept_and_those_of_another_history_removed(tmp_path: Path) -> None:
    resume = ResumeFolder(tmp_path)
    for step in (1, 2, 3):
        resume.write("old", step, {"step": step})
    assert len(list(tmp_path.iterdir())) == 2
    assert resume.newest("new", lambda line: None) is None
    assert list(tmp_path.iterdir()) == []


def test_a_state_executes_no_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "executed"),))

    snapshot.write_state(tmp_path / "x.state", "history", {"trap": Trap()})
    with pytest.raises(Exception, match=r"weights_only|Unsupported"):
        snapshot.read_state(tmp_path / "x.state")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"{}"])
def test_what_is_no_manifest_is_named_in_a_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "epoch_0000.json"
    path.write_bytes(content)
    with pytest.raises(SnapshotError, match=r"epoch_0000\.json is no manifest.*Delete") as failure:
        snapshot.read_manifest(path)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("place", ["epoch_0005.json", "cooled/epoch_0000.json"])
def test_a_manifest_in_the_place_of_another_is_refused(
    place: str, tmp_path: Path, tiny_run: Run
) -> None:
    write(tmp_path, tiny_run)
    (tmp_path / "cooled").mkdir()
    (tmp_path / "epoch_0000.json").rename(tmp_path / place)
    with pytest.raises(SnapshotError, match="is the manifest of epoch 0: files were exchanged"):
        snapshot.read_manifest(tmp_path / place)


def test_a_manifest_says_all_that_made_the_weights(tmp_path: Path, tiny_run: Run) -> None:
    manifest = write(tmp_path, tiny_run, made_by=made_by("cpu", 1.5))
    stored = snapshot.read_manifest(tmp_path / "epoch_0000.json")
    assert stored == manifest
    assert stored.run == tiny_run
    assert stored.made_by["device"] == "cpu"
    assert {"torch", "numpy"} <= stored.made_by["libraries"].keys()
    assert {"commit", "changed"} == stored.made_by["code"].keys()


def test_only_the_rests_of_killed_writers_are_removed(tmp_path: Path) -> None:
    snapshot.write_atomically(tmp_path / "epoch_0005.json", b"whole")
    for name in (".epoch_0005.json.ab12.tmp", ".epoch_0006.json.ab12.tmp"):
        (tmp_path / name).write_bytes(b"half")
    snapshot.remove_temporaries(tmp_path, "epoch_0005")
    assert {path.name for path in tmp_path.iterdir()} == {
        "epoch_0005.json",
        ".epoch_0006.json.ab12.tmp",
    }


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    atomic.write_atomically(path, b"old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full_disk)
    with pytest.raises(WriteError, match=r"No space left.*unchanged"):
        atomic.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_states_of_older_milestones_are_pruned(tmp_path: Path, tiny_run: Run) -> None:
    manifest = None
    for epoch in (0, 5, 10):
        manifest = write(tmp_path, tiny_run, epoch, manifest)
    snapshot.prune_states(tmp_path, keep=(5, 10))
    assert sorted(p.name for p in tmp_path.glob("*.state")) == [
        "epoch_0005.state",
        "epoch_0010.state",
    ]
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


def test_weights_are_written_as_the_library_writes_them(tmp_path: Path, tiny_run: Run) -> None:
    weights = {
        "b.weight": torch.randn(2, 3, 5, 5).contiguous(memory_format=torch.channels_last),
        "a": torch.tensor(3),
        "ä": torch.randn(3, 2).T,
        "half": torch.randn(5).bfloat16(),
        "flags": torch.tensor([True, False]),
        "none": torch.empty(0, 3),
    }
    expected = save({name: each.contiguous() for name, each in weights.items()})
    manifest = write(tmp_path, tiny_run, weights=weights)
    assert (tmp_path / "epoch_0000.safetensors").read_bytes() == expected
    sha256 = hashlib.sha256(expected).hexdigest()
    assert manifest.weights_sha256 == snapshot.weights_hash(weights) == sha256
    found = snapshot.read_weights(tmp_path / "epoch_0000.json", manifest)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_a_state_is_written_as_ever(tmp_path: Path) -> None:
    content = {"lineage": "history", "a": torch.randn(3, 4), "b": [1, {"c": torch.ones(2)}]}
    snapshot.write_state(tmp_path / "x.state", "history", content)
    whole = io.BytesIO()
    torch.save(content, whole)
    payload = whole.getvalue()
    head = b"barlow-atlas state 1\n" + hashlib.sha256(payload).hexdigest().encode()
    assert (tmp_path / "x.state").read_bytes() == head + payload


def test_a_state_that_finds_no_room_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "x.state"
    snapshot.write_state(path, "history", {"a": torch.zeros(3)})
    old = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(WriteError, match=r"cannot write .*File too large.*ulimit -f"):
            snapshot.write_state(path, "history", {"a": torch.zeros(10), "b": torch.zeros(99_999)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == old


STREAMED = """
import resource, sys
from pathlib import Path
import torch
from barlow_atlas.store import snapshot
from barlow_atlas.study.models import Run

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

folder, run = Path(sys.argv[1]), Run.model_validate_json(sys.argv[2])
snapshot.write_state(folder / "first.state", "", {"a": torch.zeros(3)})
snapshot.read_state(folder / "first.state")
before = peak()
weights, moments = ({str(k): torch.full((1 << 25,), float(k)) for k in range(6)} for _ in range(2))
manifest = snapshot.write_milestone(
    folder, study="s", run=run, epoch=0, parent=None, weights=weights,
    state={"network": weights, "moments": moments},
    data_sha256="", sources_sha256="", made_by={},
)
assert snapshot.weights_hash(weights) == manifest.weights_sha256
size = sum(each.nbytes for each in (*weights.values(), *moments.values()))
del weights, moments
state = snapshot.read_state(folder / "epoch_0000.state")
del state
snapshot.read_weights(folder / "epoch_0000.json", manifest)
print(size, peak() - before)
"""


@pytest.mark.slow
def test_saving_and_loading_take_no_memory_for_another_copy(tmp_path: Path, tiny_run: Run) -> None:
    command = [sys.executable, "-c", STREAMED, str(tmp_path), tiny_run.model_dump_json()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        for file in tmp_path.iterdir():
            file.unlink()
    assert done.returncode == 0, done.stderr
    size, taken = map(int, done.stdout.split())
    assert size == 3 << 29
    assert taken <= size + (1 << 29)
