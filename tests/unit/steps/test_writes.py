"""Disks that are full, read-only or broken: no write of any step harms what is there."""

import errno
import importlib
import itertools
import os
import re
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from demo_results import JOB_FILES, write
from small_data import tree, write_image

from barlow_atlas import atomic
from barlow_atlas.__main__ import main
from barlow_atlas.atomic import TEMPORARY, WriteError, replace_folder, write_atomically
from barlow_atlas.data.catalog import DataSet, class_folder
from barlow_atlas.data.preparation import prepare
from barlow_atlas.study.file import load_study
from barlow_atlas.study.paths import ANALYSED, COLLECTED, LEDGER, LOCKS, REPORTED
from barlow_atlas.tools.export.tracking import WRITERS, track

ROOT = Path(__file__).parents[3]
FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
OPERATIONS = ("open", "write", "fsync", "close", "rename")
# That of closing a file is where NFS says that a quota is used up.
OLD = b"good, and complete"


@contextmanager
def faulty(operation: str, code: int, due: int = 1) -> Iterator[None]:
    """From its `due`th time on, an operation on files that are written fails."""
    left = due

    def counted(works: Callable[..., Any]) -> Callable[..., Any]:
        def either(*given: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left <= 0:
                raise OSError(code, os.strerror(code))
            return works(*given, **named)

        return either

    class Writing(FileIO):
        write = counted(FileIO.write) if operation == "write" else FileIO.write

        def close(self) -> None:
            if not self.closed:
                FileIO.close(self)  # a file is closed whatever the system says of it
                closing()

    closing = counted(lambda: None) if operation == "close" else lambda: None

    opens = Path.open

    def opened(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if "w" not in mode and "+" not in mode:
            return opens(path, mode, *rest, **named)
        return counted(opens)(path, mode) if operation == "open" else Writing(path, mode)

    with pytest.MonkeyPatch.context() as patch:
        if operation in ("open", "write", "close"):
            patch.setattr(Path, "open", opened)
        elif operation == "fsync":
            patch.setattr(os, "fsync", counted(os.fsync))
        else:
            patch.setattr(Path, "replace", counted(Path.replace))
            patch.setattr(os, "rename", counted(os.rename))
        yield


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("code", FAULTS)
def test_a_failed_write_leaves_the_old_file_and_one_line(
    tmp_path: Path, operation: str, code: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    with faulty(operation, code), pytest.raises(WriteError) as caught:
        write_atomically(path, b"new")
    assert tree(tmp_path) == {"file": OLD}
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"cannot write {path} (3 bytes): {os.strerror(code)}. What was there")
    write_atomically(path, b"new")
    assert tree(tmp_path) == {"file": b"new"}


@pytest.mark.parametrize("due", [1, 2])
def test_a_folder_that_cannot_be_renamed_stays(tmp_path: Path, due: int) -> None:
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    rename, left = os.rename, due

    def once(*given: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(errno.EIO, "broken")
        rename(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rename", once)
        with pytest.raises(OSError, match="broken"):
            replace_folder(tmp_path / "new", tmp_path / "old")
    assert tree(tmp_path / "old") == {"old": b""}
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert tree(tmp_path / "old") == {"new": b""}


@pytest.mark.parametrize("dies_in", ["rename", "rmtree"])
def test_what_a_killed_replacement_left_goes_with_the_next_one(
    tmp_path: Path, dies_in: str
) -> None:
    """Between its two renames, or while it deletes what it replaced."""

    class Killed(BaseException):
        pass

    def replace(name: str, second_call_dies: bool) -> None:
        (tmp_path / "new").mkdir(exist_ok=True)
        (tmp_path / "new" / name).touch()
        rename, calls = os.rename, 0

        def renamed(*given: Any) -> None:
            nonlocal calls
            calls += 1
            if second_call_dies and dies_in == "rename" and calls == 2:
                raise Killed
            rename(*given)

        def removed(*given: Any, **options: Any) -> None:
            raise Killed

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "rename", renamed)
            if second_call_dies and dies_in == "rmtree":
                patch.setattr(shutil, "rmtree", removed)
            replace_folder(tmp_path / "new", tmp_path / "folder[1]")

    replace("first", second_call_dies=False)
    with pytest.raises(Killed):
        replace("second", second_call_dies=True)
    assert [path.name for path in tmp_path.glob(".*")] != []
    replace("third", second_call_dies=False)
    assert "third" in tree(tmp_path / "folder[1]")
    assert [path.name for path in tmp_path.glob(".*")] == []


# Every write of every step goes this way, and survives a fault


_opened: list[str] = []


def _hear(event: str, given: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(given[0], str) and given[2] & (os.O_WRONLY | os.O_RDWR):
        _opened.append(os.path.abspath(given[0]))


sys.addaudithook(_hear)


def each_with_a_fault(patch: pytest.MonkeyPatch) -> tuple[list[Path], list[str]]:
    """Before each write of this package all faults are tried; the files that are written, and
    those that are opened to be written, but for the trials.
    """
    written: list[Path] = []
    _opened.clear()

    def tried(path: Path, content: bytes) -> None:
        before = list(_opened)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(OLD)
        for place, code in enumerate(FAULTS):
            operation = OPERATIONS[(place + len(written)) % len(OPERATIONS)]
            with faulty(operation, code), pytest.raises(WriteError, match="cannot write"):
                write_atomically(path, content)
            assert path.read_bytes() == OLD
        assert not list(path.parent.glob(f".*{TEMPORARY}"))
        path.unlink()
        _opened[:] = before
        write_atomically(path, content)
        written.append(path)

    for name, module in list(sys.modules.items()):
        ours = name.startswith("barlow_atlas.") and module is not atomic
        if ours and hasattr(module, "write_atomically"):
            patch.setattr(module, "write_atomically", tried)
    return written, _opened


@pytest.mark.slow
def test_every_write_of_the_steps_survives_every_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("record", "collect", "analyse", "report", "ledger"):
        importlib.import_module(f"barlow_atlas.steps.{name}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params").symlink_to(ROOT / "params")
    write(JOB_FILES)
    written, opened = each_with_a_fault(monkeypatch)
    for step in ("record", "collect", "analyse", "report"):
        assert main([step, "--study", "demo"]) == 0
    assert main(["ledger"]) == 0
    results, reports = Path("results/demo"), Path("reports")
    assert {path.name for path in written if path.parent == results} == {*COLLECTED, *ANALYSED}
    assert {path.name for path in written if path.parent == reports / "demo"} == set(REPORTED)
    assert {path.name for path in written if path.parent == reports} == set(LEDGER)
    there = {path for folder in (results / "runs", reports) for path in folder.rglob("*.*")}
    assert there <= set(written)
    # The lock of the ledger is written as locks are, see test_lock.py.
    here = [
        path
        for path in opened
        if Path(path).is_relative_to(tmp_path) and not Path(path).is_relative_to(tmp_path / LOCKS)
    ]
    assert len(here) == len(written)
    assert all(path.endswith(TEMPORARY) for path in here)


@pytest.mark.parametrize("size", [8, None], ids=["squares", "originals"])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("code", FAULTS)
def test_every_write_of_a_preparation_survives(
    tmp_path: Path, operation: str, code: int, size: int | None
) -> None:
    for place, name in enumerate(("train/a", "train/b", "test/a", "test/b") * 5):
        write_image(tmp_path / f"own/{name}/{place}.png", 8, seed=place)
    own, folder = class_folder("own", str(tmp_path / "own"), size), tmp_path / "prepared"
    prepare(own, folder, tmp_path / "raw")
    before = tree(folder)
    for due in itertools.count(1):
        said = prepared(own, tmp_path, operation, code, due)
        if said is None:
            break
        assert os.strerror(code) in said
        assert len(said.splitlines()) == 1
        # Where the disk refuses to put the old folder back as well, the message says where it is.
        aside = re.search(r"whole in (\S+):", said)
        if aside:
            Path(aside[1]).rename(folder)
        assert tree(folder) == before
        # What is kept of originals is gone on with.
        kept = set() if size else {".prepared.shards", ".prepared.records"}
        assert {p.name for p in tmp_path.iterdir()} - kept == {"own", "prepared"}
    assert due > 2
    assert tree(folder) == before
    assert {p.name for p in tmp_path.iterdir()} == {"own", "prepared"}


def prepared(own: DataSet, folder: Path, operation: str, code: int, due: int) -> str | None:
    """What a preparation says that fails; None if the fault was due after its end."""
    try:
        with faulty(operation, code, due):
            prepare(own, folder / "prepared", folder / "raw")
    except WriteError as error:
        return str(error)
    return None


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system itself takes no more bytes of a file, whoever writes it, and by what means."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
@pytest.mark.parametrize("writer", WRITERS)
def test_an_export_that_others_write_survives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    """TensorBoard's and DVCLive's code, which opens its files as it likes."""
    monkeypatch.chdir(tmp_path)
    write(JOB_FILES)
    study = load_study(ROOT / "params/demo.yaml").model_copy(update={"seeds": (1,)})
    track("demo", study, writer, Path("out"))

    def kept() -> dict[str, bytes]:
        # W&B's own process goes on with its logs for a moment after a run has ended.
        return {name: each for name, each in tree(tmp_path).items() if not name.endswith(".log")}

    before = kept()
    for fault in (
        *(files_of_at_most(size) for size in (0, 50)),
        faulty("fsync", errno.EIO),
        faulty("rename", errno.EDQUOT),
    ):
        with fault, pytest.raises(WriteError, match=r"^cannot write out.*What was there before"):
            track("demo", study, writer, Path("out"))
        assert kept() == before
    track("demo", study, writer, Path("out"))
    if writer == "wandb":  # names each session anew, and notes its time
        session = re.compile(r"run-(\d+_\d+-)?[0-9a-z]{8}\b")
        assert sorted(session.sub("", name) for name in kept()) == sorted(
            session.sub("", name) for name in before
        )
    else:
        assert kept() == before
