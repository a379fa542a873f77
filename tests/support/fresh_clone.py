"""A fresh clone in a folder of its own, as a newcomer's machine would have it."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SMALL = (
    ("width: 16", "width: 8"),
    ("seeds_together: 3", "seeds_together: 1"),
    ("milestones_together: 3", "milestones_together: 1"),
    ("embedding_dims: [256]", "embedding_dims: [64]"),
    ("seeds: [1, 2, 3]", "seeds: [1, 2]"),
    ("\nepochs: 100", "\nepochs: 6"),
    ("warmup_epochs: 10", "warmup_epochs: 2"),
    ("milestones: [0, 5, 10, 25, 50, 100]", "milestones: [0, 4, 6]"),
)
"""What makes the demo small."""


def source_path(folder: Path) -> str:
    """The PYTHONPATH of the code of a clone at `folder`: this project's and its executor's."""
    folders = (folder / "src", folder / "packages/snakemake-executor-plugin-submitit/src")
    return os.pathsep.join(map(str, folders))


@dataclass
class Checkout:
    """A checkout of this project at `folder`, whose commands run its own code."""

    folder: Path

    def copy_to(self, folder: Path) -> "Checkout":
        """All that is in it, the files' times and Snakemake's records included."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Checkout(folder)

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in the clone, with the clone's code and this environment's programs."""
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        settings = {"PATH": programs, "PYTHONPATH": source_path(self.folder), **environment}
        return subprocess.run(
            command,
            cwd=self.folder,
            env=os.environ | settings,
            capture_output=True,
            text=True,
            check=False,
        )

    def snakemake(self, *arguments: str, profile: str = "profiles/local") -> str:
        """Runs Snakemake, which must succeed; returns all it said."""
        done = self.run("snakemake", "--profile", profile, *arguments)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said[-8000:]
        return said

    def plan(self, *arguments: str, profile: str = "profiles/local") -> dict[str, int]:
        """The number of jobs of each rule that a dry run announces."""
        said = self.snakemake("--dry-run", *arguments, profile=profile)
        table = re.search(r"^job +count\n[- ]+\n(.*?)^total", said, flags=re.S | re.M)
        rows = table[1].split() if table else []
        return dict(zip(rows[::2], map(int, rows[1::2]), strict=True))

    def mark_as_begun(self, *files: str) -> None:
        """Marks files as Snakemake does while a job makes them; one that is killed leaves that."""
        program = (
            "import sys\n"
            "from snakemake.persistence.file import FilePersistence\n"
            "records = FilePersistence(nolock=True)\n"
            "for file in sys.argv[1:]:\n"
            "    records._mark_incomplete(file, None)"
        )
        done = self.run("python", "-c", program, *files)
        assert done.returncode == 0, done.stderr

    def write_study(self, name: str, source: str, *changes: tuple[str, str]) -> None:
        """A study file `params/<name>.yaml` with parts of another one replaced."""
        text = (self.folder / f"params/{source}.yaml").read_text()
        for before, after in changes:
            assert text.count(before) == 1, f"{before!r} is not once in params/{source}.yaml"
            text = text.replace(before, after)
        (self.folder / f"params/{name}.yaml").write_text(text)


class Clone(Checkout):
    """The files that git tracks or would track, committed in a new repository at `folder`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_symlink() or (ROOT / name).is_file():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, target, follow_symlinks=False)
        for arguments in (["init", "--quiet"], ["add", "--all"]):
            subprocess.run(["git", *arguments], cwd=folder, check=True)
        author = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        commit = ["commit", "--quiet", "--message=clone"]
        subprocess.run(["git", *author, *commit], cwd=folder, check=True)
