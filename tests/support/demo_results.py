"""The demo's results: as they are recorded, and as its jobs wrote them."""

from pathlib import Path

from barlow_atlas.atlas.records import Content, contents, job_files, recorded
from barlow_atlas.study.file import load_study
from barlow_atlas.study.paths import record_file

STUDY = load_study(Path("params/demo.yaml"))
RECORDED = contents("demo", STUDY)
JOB_FILES = {
    file.path: file.content
    for run in STUDY.runs()
    for file in job_files("demo", run, recorded("demo", run))
}
RECORDS = {
    record_file("demo", run.name): record_file("demo", run.name).read_bytes()
    for run in STUDY.runs()
}


def milestone_of(run: str, epoch: int) -> Content:
    """What is recorded of a milestone."""
    (found,) = (one for one in RECORDED if (one["name"], one["epoch"]) == (run, epoch))
    return found


def write(files: dict[Path, bytes], kind: str = "") -> None:
    """Writes files into the working directory: those of one kind, `probes` or `training`."""
    for path, content in files.items():
        if kind in path.parts or not kind:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
