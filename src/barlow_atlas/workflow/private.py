"""What is used of Snakemake and DVC that they do not promise to keep, and why.

Written for Snakemake 9.27 and DVC 3.67; tests/unit/workflow/test_private.py fails once a later
version has something else. torch's `_foreach` functions, in nn/optim.py, are documented.
"""

from pathlib import Path
from typing import Any, NamedTuple


class Record(NamedTuple):
    """What Snakemake remembers of a file that it has made."""

    ended: float
    """The file's time of change when its job was done."""
    made_from: frozenset[Path]
    rule: str


def files_to_make(workflow: Any) -> list[str]:
    """What the Snakemake that reads a Snakefile is going to make; known once its hooks are run."""
    return [str(file) for job in workflow.dag.needrun_jobs() for file in job.output]


class SnakemakeRecords:
    """What Snakemake remembers of the files here; none of its commands tells it file by file."""

    def __init__(self) -> None:
        from snakemake.persistence.file import FilePersistence

        self._store = FilePersistence(nolock=True)

    def of(self, path: Path) -> Record | None:
        """Of a file; None if there is no record."""
        from snakemake.io import IOFile

        metadata = self._store.metadata(IOFile(str(path)))
        return metadata and Record(
            metadata.endtime, frozenset(map(Path, metadata.input)), metadata.rule
        )

    def forget(self, path: Path) -> None:
        from snakemake.io import IOFile

        self._store.cleanup_metadata(IOFile(str(path)))


def stage_status(file: Path, name: str) -> dict[str, Any] | None:
    """What differs from DVC's record of a stage of a dvc.yaml; None if there is no record.

    By path; for parameters by their file, with a dict of keys. `dvc status` gives the same, but not
    while DVC runs the stage.
    """
    from dvc.repo import Repo

    with Repo() as repo:
        stage = repo.stage.load_one(str(file), name)
        items = (*stage.deps, *stage.outs)
        if not any(item.hash_info for item in items):
            return None
        differences: dict[str, Any] = {}
        for item in items:
            differences |= item.workspace_status()
    return differences


def refresh_stage(file: Path, name: str) -> bool:
    """Records what a stage depends on as it is now, and its outputs that DVC does not cache.

    What is not here keeps its record. `dvc commit` does the same, but asks for all outputs, cached
    ones that were never pulled among them.

    Returns:
        Whether there was a record to refresh.
    """
    from dvc.repo import Repo

    with Repo() as repo, repo.lock:
        stage = repo.stage.load_one(str(file), name)
        if not any(item.hash_info for item in (*stage.deps, *stage.outs)):
            return False
        for item in (*stage.deps, *(out for out in stage.outs if not out.use_cache)):
            if item.exists:
                item.save()
        stage.dump(update_pipeline=False)
    return True
