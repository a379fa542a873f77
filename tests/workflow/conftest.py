"""Clones for the tests of the whole workflow."""

import shutil

import pytest
from filelock import FileLock
from fresh_clone import SMALL, Checkout, Clone


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return Clone(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Checkout:
    """A clone in which a small study has been run once, through Snakemake and submitit.

    It is run by the first of all modules and processes that asks; each module has a copy.
    """
    folder = tmp_path_factory.getbasetemp()
    folder = folder if worker_id == "master" else folder.parent
    original = Checkout(folder / "small")
    with FileLock(folder / "small.lock"):
        if not (original.folder / "reports/small").exists():
            shutil.rmtree(original.folder, ignore_errors=True)
            original = Clone(original.folder)
            original.write_study("small", "demo", *SMALL)
            original.snakemake("--config", "study=small", "--", "all")
    return original.copy_to(tmp_path_factory.mktemp("finished") / "clone")
