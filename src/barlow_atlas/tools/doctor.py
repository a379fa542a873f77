"""Checks a machine for what a study needs: what is there, what is missing, how to get it.

Each check is a function; nothing is changed, started or downloaded.
"""

import configparser
import getpass
import os
import platform
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from ruamel.yaml import YAML

from barlow_atlas.data.catalog import DataSet
from barlow_atlas.data.download import public
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.prepared import load
from barlow_atlas.data.sources import (
    folder_of,
    lacking,
    official_files_of,
    parse_mirrors,
    to_unpack,
)
from barlow_atlas.data.survey import holders_in, outdated, read_sources, skipped_told, survey
from barlow_atlas.errors import AtlasError
from barlow_atlas.probes.detection import Detection
from barlow_atlas.study.errors import StudyError
from barlow_atlas.study.models import Resources, Study
from barlow_atlas.study.paths import DATA, RAW_DATA, REPORTS, RESULTS, manifest_file
from barlow_atlas.study.sizes import check_sizes, unlisted
from barlow_atlas.tools.costs import MEGABYTE
from barlow_atlas.tools.plan import size
from barlow_atlas.tools.storage import storage_of
from barlow_atlas.workflow.jobs import jobs_of

PATIENCE_S = 20
"""How long a scheduler's command may take to answer."""
Level = Literal["ok", "warning", "missing"]


class DoctorError(AtlasError):
    """A profile that cannot be read."""


@dataclass(frozen=True)
class Check:
    """A check and its outcome."""

    level: Level
    what: str
    told: str
    remedy: str = ""


def examine(
    name: str, study: Study, profile: str | None, tell: Callable[[str], None]
) -> Literal[0, 1]:
    """Tells all checks, one a line; 1 if something that the study needs is missing."""
    return _told(checks_of(name, study, profile), f"{name} can run here", tell)


def examine_machine(tell: Callable[[str], None]) -> Literal[0, 1]:
    """As `examine`, for what every study needs."""
    summary = "What every study needs is here; `atlas doctor --study NAME` checks for one"
    return _told(machine_checks(), summary, tell)


def _told(outcomes: Iterable[Check], fine: str, tell: Callable[[str], None]) -> Literal[0, 1]:
    checks = list(outcomes)
    for line in table(checks):
        tell(line)
    missing = sum(check.level == "missing" for check in checks)
    tell(f"{missing} missing" if missing else fine)
    return 1 if missing else 0


def table(checks: Iterable[Check]) -> Iterator[str]:
    """One line a check; what to do stands below, indented."""
    for check in checks:
        yield f"{check.level:8} {check.what:10} {check.told}"
        if check.remedy:
            yield f"{'':19} -> {check.remedy}"


def machine_checks(*results: Path) -> Iterator[Check]:
    """Those that no study has a say in.

    Args:
        results: of a study, a folder that may be a link as the others may.
    """
    project = Path("pyproject.toml")
    yield from check_versions(tomllib.loads(project.read_text())["project"], _installed)
    yield check_git()
    yield check_dvc([Path(".dvc/config"), Path(".dvc/config.local")])
    for folder in (RESULTS, REPORTS, Path("logs"), Path(".snakemake")):
        yield check_writable(folder)
    yield from check_links((RESULTS, DATA, *results, REPORTS))


def checks_of(name: str, study: Study, profile: str | None) -> Iterator[Check]:
    """All checks of a study, in the order in which their lack would be met."""
    settings = read_profile(profile) if profile else {}
    slurm = settings.get("submitit-cluster") == "slurm" or settings.get("executor") == "slurm"
    yield from machine_checks(RESULTS / name)
    mirrors = (*parse_mirrors(os.environ.get("BARLOW_ATLAS_DATA", "")), *study.data_mirrors)
    for data_set in study.data_sets():
        yield check_data(data_set, mirrors)
    yield from check_sizes_of(name, study)
    yield from check_label_lists(study)
    yield from check_backbones(study, _installed("timm"))
    yield from check_taken(name, study)
    yield from check_coco(study, _installed)
    yield check_room(name, study)
    asked = study.resources
    if slurm:
        yield from check_slurm(settings, [asked.pretrain, asked.probe], "missing")
    else:
        yield check_gpu([asked.pretrain, asked.probe])
        kinds = (asked.pretrain, asked.probe)
        threads = study.threads * max(one.processes_per_node for one in kinds)
        yield check_machine([asked.pretrain, asked.probe], threads)
        yield from nodes(max(one.nodes for one in kinds))
        if profile is None and shutil.which("sbatch"):
            yield from check_slurm({}, [asked.pretrain, asked.probe], "warning")


# Software


def check_versions(
    project: dict[str, Any], installed: Callable[[str], str | None]
) -> Iterator[Check]:
    """Python and each dependency against what pyproject.toml asks for.

    Args:
        project: its table [project].
        installed: the version of a distribution, None if it is not there.
    """
    python = platform.python_version()
    if not SpecifierSet(project["requires-python"]).contains(python, prereleases=True):
        yield Check(
            "missing",
            "python",
            f"{python}, asked for is {project['requires-python']}",
            "make the environment anew with such a Python: see environment.yml",
        )
    wrong = 0
    for requirement in map(Requirement, project["dependencies"]):
        there = installed(requirement.name)
        if there is None or not requirement.specifier.contains(there, prereleases=True):
            wrong += 1
            yield Check(
                "missing",
                "package",
                f"{requirement.name} {there or 'is not installed'}, asked for is {requirement}",
                f"pip install '{requirement}'",
            )
    shown = ("torch", "torchvision", "snakemake", "submitit", "dvc")
    versions = ", ".join(f"{name} {installed(name) or '-'}" for name in shown)
    if not wrong:
        yield Check("ok", "versions", f"Python {python}, {versions}: as pyproject.toml asks")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_git() -> Check:
    """Whether results will name the code that made them."""
    from barlow_atlas.store.provenance import code_version

    code = code_version()
    if code is None:
        return Check(
            "warning",
            "git",
            "the code is not in a git checkout: results cannot name its commit",
            "git clone the repository and work there",
        )
    if code["changed"]:
        return Check("warning", "git", f"commit {code['commit'][:12]}, changed since", "git commit")
    return Check("ok", "git", f"commit {code['commit'][:12]}")


def check_dvc(configs: Sequence[Path]) -> Check:
    """Whether a DVC remote is named to share data and weights with."""
    parser = configparser.ConfigParser(strict=False)
    parser.read(configs)
    # DVC writes ['remote "name"'], quotes included.
    urls = {
        section.strip("'").removeprefix("remote ").strip('"'): parser[section].get("url", "")
        for section in parser.sections()
        if section.strip("'").startswith("remote ")
    }
    default = parser.get("core", "remote", fallback=None)
    if default in urls:
        return Check("ok", "dvc", f"remote {default}: {urls[default]}")
    return Check(
        "warning",
        "dvc",
        "no default remote: data and weights stay on this machine",
        "dvc remote add --default NAME URL",
    )


# Disk and data


def check_writable(folder: Path) -> Check:
    """Whether files can be made in a folder, or the folder itself."""
    at = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if at.is_dir() and os.access(at, os.W_OK | os.X_OK):
        return Check("ok", "folder", f"{folder}/ can be written")
    return Check(
        "missing", "folder", f"{folder}/ cannot be written", f"chmod u+rwx {at}, or work elsewhere"
    )


def check_links(folders: Iterable[Path]) -> Iterator[Check]:
    """Folders that are links to elsewhere, through which DVC puts nothing into its cache."""
    for folder in folders:
        if folder.is_symlink():
            yield Check(
                "warning",
                "dvc",
                f"{folder}/ is a link to {folder.readlink()}: Snakemake works through it, DVC "
                "refuses what lies behind",
                "work in a clone on that disk, or mount it there: mount --bind "
                f"{folder.resolve()} {folder}",
            )


def check_room(name: str, study: Study) -> Check:
    """Whether what a study will keep fits on the disk, beside what is there of it."""
    at = next(path for path in (RESULTS.absolute(), *RESULTS.absolute().parents) if path.exists())
    free = shutil.disk_usage(at).free
    try:
        whole = storage_of(study, jobs_of(name, study), os.cpu_count() or 1).total
    except AtlasError as error:
        return Check("warning", "disk", f"{size(free)} free; needed is unknown: {error}")
    folders = (RESULTS / name, *(DATA / data_set.name for data_set in study.data_sets()))
    there = sum(f.stat().st_size for folder in folders for f in folder.rglob("*") if f.is_file())
    return room(max(0, whole - there), free)


def room(needed: int, free: int) -> Check:
    """A comparison of bytes; with less than a tenth to spare it is a warning."""
    told = f"{size(free)} free, the study will take up to {size(needed)} more"
    if needed > free:
        return Check("missing", "disk", told, "make room, or work in a clone on a larger disk")
    if 1.1 * needed > free:
        return Check("warning", "disk", told, "make room: other programs write here as well")
    return Check("ok", "disk", told)


def check_data(data_set: DataSet, mirrors: Sequence[str]) -> Check:
    """Where a data set is or would come from; checksums are verified when it is prepared."""
    folder = DATA / data_set.name
    if (folder / "manifest.json").is_file():
        try:
            load(folder)
        except AtlasError as error:
            return Check("missing", "data", str(error), f"remove {folder}, or `dvc checkout` it")
        if change := outdated(data_set, folder):
            return Check("warning", "data", change)
        return Check("ok", "data", f"{data_set.name} is prepared in {folder}{_left_out(folder)}")
    if data_set.path is not None:
        return check_class_folders(data_set, Path(data_set.path).expanduser())
    if data_set.official_folder is None:
        return Check("ok", "data", f"{data_set.name} comes with a Python package")
    archive = data_set.archive
    names = [data_set.official_folder, *([archive.name] if archive else [])]
    for place in (str(RAW_DATA), *mirrors):
        try:
            local = folder_of(place)
        except DataError as error:
            remedy = "correct it in BARLOW_ATLAS_DATA, or in the study's `data_mirrors`"
            return Check("warning", "data", f"{public(place)}: {error}", remedy)
        if local is None:
            return Check("ok", "data", f"{data_set.name} will be looked for at {public(place)}")
        there = next((local / name for name in names if (local / name).exists()), None)
        if there and archive is None and (absent := lacking(data_set, there)):
            told = f"{there} lacks {', '.join(absent)} of {data_set.title}"
            return Check("missing", "data", told, f"put into it {official_files_of(data_set)}")
        if there and (packed := to_unpack(data_set, there)):
            return Check("missing", "data", packed, f"tar -xzf it in {there}")
        if there:
            return Check("ok", "data", f"{data_set.name} will be prepared from {there}")
    urls = [file.url for file in data_set.files if file.url]
    urls += [archive.url] if archive and archive.url else []
    what = official_files_of(data_set)
    remedy = f"put {what} into {RAW_DATA}, or name its folder in BARLOW_ATLAS_DATA"
    counts = counts_of(data_set)
    if urls:
        amount = f" ({size(archive.size)})" if archive and archive.size else ""
        return Check(
            "warning",
            "data",
            f"{data_set.name} will be downloaded{amount} from {urls[0]}; {counts}{data_set.source}",
            f"without a network here: {remedy}",
        )
    told = f"{data_set.name} cannot be downloaded: {counts}{data_set.source}"
    return Check("missing", "data", told, remedy)


def counts_of(data_set: DataSet) -> str:
    """What a whole copy holds, in words; empty where that is not known."""
    counts = data_set.counts
    if counts is None:
        return ""
    return (
        f"{counts.train:,} training and {counts.test:,} test images of {data_set.classes:,} "
        "classes; "
    )


def check_sizes_of(name: str, study: Study) -> Iterator[Check]:
    """What cannot work with the images there are."""
    try:
        check_sizes(name, study)
    except StudyError as error:
        for line in str(error).splitlines():
            yield Check("missing", "images", line)


def check_label_lists(study: Study) -> Iterator[Check]:
    """Whether published lists of labels that probes ask will be prepared with the images."""
    for name in unlisted(study):
        place = study.data.path or "the images' files"
        yield Check(
            "missing",
            "labels",
            f"{study.data.name} has no list of labels {name}",
            f"put the published {name}.txt, a file name a line, into {place} before the images are "
            "prepared; or draw a share: probes.fine_tuned.labels: 0.01",
        )


def check_backbones(study: Study, timm: str | None) -> Iterator[Check]:
    """Whether timm is there where one of its models is asked for.

    Args:
        timm: its version, None if it is not there.
    """
    asked = sorted({run.backbone.name for run in study.runs() if run.backbone.timm is not None})
    if asked and timm is None:
        yield Check(
            "missing",
            "package",
            f"timm is not installed, which {', '.join(asked)} needs",
            "pip install 'barlow-atlas[timm]'",
        )


def check_taken(name: str, study: Study) -> Iterator[Check]:
    """Whether the milestones are here that a study takes from another."""
    other = study.milestones_from
    if other is None:
        return
    wanted = [
        manifest_file(other, run.name, epoch)
        for run in study.trained()
        for epoch in study.milestones_of(run)
    ]
    count = sum(file.is_file() and file.with_suffix(".safetensors").is_file() for file in wanted)
    told = f"{count} of {len(wanted)} milestones of {other} are here"
    if count == len(wanted):
        yield Check("ok", "weights", told)
        return
    yield Check(
        "missing",
        "weights",
        told,
        f"`dvc pull {RESULTS / other / 'checkpoints'}` where they were shared, else run both: "
        f"--config study={other},{name}",
    )


def check_coco(study: Study, installed: Callable[[str], str | None]) -> Iterator[Check]:
    """Whether pycocotools is here where a study's probes need it."""
    asked = (probe for probe in study.probes.asked() if isinstance(probe, Detection))
    if any(probe.target == "coco" for probe in asked) and installed("pycocotools") is None:
        yield Check(
            "missing",
            "versions",
            "pycocotools, which computes COCO's metrics",
            "pip install 'barlow-atlas[detection]'",
        )


def check_class_folders(data_set: DataSet, place: Path) -> Check:
    """Whether a folder holds what can be prepared, and what would be left out of it."""
    try:
        holders = None if data_set.image_size else holders_in(data_set.title, place)
        contents = holders or survey(data_set.title, place)
    except AtlasError as error:
        return Check("missing", "data", str(error))
    what = "files of many images" if holders else "images"
    told = f"{data_set.name} will be prepared from {place}: {len(contents.states):,} {what}"
    left_out = f", left out: {skipped_told(contents.skipped)}" if contents.skipped else ""
    return Check("ok", "data", told + left_out)


def _left_out(folder: Path) -> str:
    """What the preparation of class folders noticed, beside their images."""
    sources = read_sources(folder)
    told = [f"left out: {skipped_told(sources.skipped)}"] if sources and sources.skipped else []
    if sources and sources.duplicates:
        told.append(f"{sources.duplicates:,} test images have the pixels of a training image")
    return "".join(f"; {each}" for each in told)


# This machine


def check_gpu(asked: Sequence[Resources]) -> Check:
    """Whether a GPU is here where jobs ask for one."""
    import torch

    wanted = max(one.gpu for one in asked)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(count))
    return gpus(wanted, count, names)


def gpus(wanted: int, count: int, names: str) -> Check:
    """`wanted` GPUs a job against the `count` of those that are here."""
    if not wanted:
        return Check("ok", "gpu", "none is asked for" + (f" ({names} is here)" if count else ""))
    if count >= wanted:
        return Check("ok", "gpu", names)
    if count:
        return Check(
            "missing", "gpu", f"{count} ({names}), a job asks for {wanted}", "lower resources.*.gpu"
        )
    return Check(
        "warning",
        "gpu",
        f"a job asks for {wanted}, and none is visible: jobs will run on the CPU",
        "install a driver and a torch build with CUDA (`python -c 'import torch; "
        "print(torch.version.cuda)'`), or use a cluster: --profile slurm",
    )


def check_machine(asked: Sequence[Resources], threads: int) -> Check:
    """Whether one job fits into this machine's memory and cores."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / MEGABYTE
    return machine(max(one.mem_mb for one in asked), threads, memory, os.cpu_count() or 1)


def machine(mem_mb: int, threads: int, memory_mb: float, cores: int) -> Check:
    told = f"{cores} cores, {memory_mb:.0f} MB; a job asks for {threads} threads, {mem_mb} MB"
    if mem_mb > memory_mb:
        return Check("warning", "memory", told, "a smaller batch_size, or a larger machine")
    if threads > cores:
        return Check("warning", "cores", told, "threads share the cores, which is slower")
    return Check("ok", "machine", told)


def nodes(wanted: int) -> list[Check]:
    """Whether a job fits on one machine, which this is."""
    if wanted == 1:
        return []
    told = f"a job asks for {wanted}, and this is one machine"
    return [Check("missing", "nodes", told, "resources.*.nodes: 1, or --profile slurm")]


# Slurm


def read_profile(profile: str) -> dict[str, Any]:
    """The keys of a Snakemake profile, by its folder in this repository."""
    folders = (Path(profile), Path("profiles") / profile)
    files = (folder / name for folder in folders for name in ("profile.yaml", "config.yaml"))
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        known = ", ".join(sorted(path.parent.name for path in Path("profiles").glob("*/*.yaml")))
        raise DoctorError(f"no profile at {profile}. Known in profiles/: {known}")
    content = YAML(typ="safe", pure=True).load(file)
    return content if isinstance(content, dict) else {}


def default_resource(settings: dict[str, Any], name: str) -> str | None:
    """What a profile gives every job, such as `slurm_partition`; None if it does not say."""
    given = settings.get("default-resources", [])
    pairs = given.items() if isinstance(given, dict) else (one.split("=", 1) for one in given)
    return next((str(value).strip("'\"") for key, value in pairs if key == name), None)


def check_slurm(
    settings: dict[str, Any], asked: Sequence[Resources], lack: Level
) -> Iterator[Check]:
    """Whether Slurm answers, and has the partition, time, GPUs and account that jobs ask for.

    Args:
        lack: how bad it is if not; a warning where nobody asked for Slurm.
    """
    for command, arguments, purpose in (
        ("sbatch", ["--version"], "to submit jobs"),
        ("squeue", ["--noheader", "--states=RUNNING"], "to watch jobs"),
    ):
        ok, said = ask(command, *arguments)
        if not ok:
            yield Check(
                lack,
                "slurm",
                f"{command} does not answer: {said}",
                f"{command} is needed {purpose}: log in to a submit node, or --profile local",
            )
            return
    yield Check("ok", "slurm", "sbatch and squeue answer")
    ok, said = ask("sacct", "--noheader", "--allocations", "--starttime=now-1minutes")
    yield (
        Check("ok", "slurm", "sacct answers")
        if ok
        else Check(
            "warning", "slurm", f"sacct does not answer: {said}", "squeue serves instead; no remedy"
        )
    )
    ok, said = ask("sinfo", "--noheader", "--format=%P|%l|%G")
    if not ok:
        yield Check(lack, "slurm", f"sinfo does not answer: {said}")
        return
    partition = default_resource(settings, "slurm_partition")
    yield from partitions(said, partition, asked, lack)
    account = default_resource(settings, "slurm_account")
    if account:
        ok, said = ask(
            "sacctmgr", "--noheader", "--parsable2", "show", "assoc", "format=account",
            f"user={getpass.getuser()}",
        )  # fmt: skip
        yield accounts(said.split() if ok else None, account, lack)


def partitions(
    sinfo: str, partition: str | None, asked: Sequence[Resources], lack: Level
) -> Iterator[Check]:
    """The partition that jobs go to, from lines `name|time limit|gres` (`*`: the default)."""
    rows = [line.strip().split("|") for line in sinfo.splitlines() if line.count("|") == 2]
    known = sorted({name.rstrip("*") for name, _, _ in rows})
    chosen = [
        row for row in rows if (row[0].rstrip("*") == partition if partition else "*" in row[0])
    ]
    if not chosen:
        what = f"there is no partition {partition}" if partition else "no partition is the default"
        yield Check(
            lack,
            "partition",
            f"{what}; here are: {', '.join(known) or 'none'}",
            "name one in the profile: default-resources: [slurm_partition=NAME]",
        )
        return
    name, limit = chosen[0][0].rstrip("*"), minutes(chosen[0][1])
    longest = max(one.runtime for one in asked)
    if limit is not None and longest > limit:
        yield Check(
            lack,
            "partition",
            f"{name} allows {limit:g} min, a job asks for {longest} min and would wait for ever",
            f"lower resources.*.runtime to {limit:g}: jobs are continued, or take another of "
            f"{', '.join(known)}",
        )
    else:
        allowed = "any time" if limit is None else f"{limit:g} min"
        yield Check("ok", "partition", f"{name} allows {allowed}, jobs ask for up to {longest}")
    wanted = max(one.gpu for one in asked)
    most = max(gpus_in(gres) for _, _, gres in chosen)
    if wanted > most:
        having = sorted({row[0].rstrip("*") for row in rows if gpus_in(row[2]) >= wanted})
        yield Check(
            lack,
            "gpu",
            f"{name} has nodes with {most} GPUs at most, a job asks for {wanted}",
            f"take a partition with GPUs: {', '.join(having) or 'there is none'}",
        )
    elif wanted:
        yield Check("ok", "gpu", f"{name} has nodes with {most} GPUs, a job asks for {wanted}")


def accounts(known: Sequence[str] | None, account: str, lack: Level) -> Check:
    """The profile's account against those that the user may charge; None if nobody can say."""
    if known is None:
        return Check("warning", "account", f"nobody can say whether {account} is yours", "")
    if account in known:
        return Check("ok", "account", account)
    return Check(
        lack,
        "account",
        f"{account} is none of yours: {', '.join(sorted(set(known))) or 'you have none'}",
        "correct slurm_account in the profile's default-resources",
    )


def minutes(limit: str) -> float | None:
    """Minutes of Slurm's time `[days-]hours:minutes:seconds` or `minutes:seconds`; None: no limit.

    >>> minutes("1-02:00:00"), minutes("30:00"), minutes("infinite")
    (1560.0, 30.0, None)
    """
    if not re.fullmatch(r"(\d+-)?\d+(:\d+)*", limit):
        return None
    days, _, clock = limit.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if days:
        hours, minute, second = [*parts, 0, 0][:3]
    else:
        hours, minute, second = [0, 0, 0, *parts][-3:]
    return int(days or 0) * 1440.0 + hours * 60.0 + minute + second / 60


def gpus_in(gres: str) -> int:
    """GPUs of a node, from its generic resources such as `gpu:a100:4(S:0-1),nvme:1`."""
    counts = re.findall(r"\bgpu(?::[^:,()]+)?:(\d+)", gres)
    return sum(map(int, counts))


def ask(*command: str) -> tuple[bool, str]:
    """Whether a command succeeds, and what it says: its output, or its last line of errors."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    except FileNotFoundError:
        return False, "it is not installed"
    except subprocess.TimeoutExpired:
        return False, f"no answer within {PATIENCE_S} s"
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        return False, lines[-1]
    return True, done.stdout
