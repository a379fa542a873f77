"""A study as a research object: an RO-Crate with all that its numbers follow from, but the weights.

RO-Crate 1.1 with the profile Process Run Crate 0.5, whose actions are the study's runs. Paths
within the crate are those of the repository, so that it can be laid over a clone. The metadata
follow from the copied files alone: no time, host or random name is in them, and the same study
gives the same bytes on another day. `datePublished` is the date of the software's release
(CITATION.cff), since neither manifests nor records hold a date.
"""

import hashlib
import io
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pandas as pd
from rocrate.model import ContextEntity
from rocrate.rocrate import ROCrate

from barlow_atlas.atlas.runs import chain_table, content_of
from barlow_atlas.atomic import sync_tree, writing
from barlow_atlas.data.prepared import sha256_of
from barlow_atlas.errors import AtlasError
from barlow_atlas.store.adoptions import adoptions_file
from barlow_atlas.study.models import ForeignRun, Run, Study
from barlow_atlas.study.paths import CLAIMS, PAPER_TABLES, PUBLISHED, RESULTS
from barlow_atlas.tools.export.cards import model_card
from barlow_atlas.tools.export.citation import CITATION, Author, Citation, read_citation
from barlow_atlas.tools.export.stored import Stored

PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
TERMS = "https://w3id.org/ro/terms/workflow-run/context"
METADATA = "ro-crate-metadata.json"
CHAIN = Path("chain.csv")
CARDS = Path("cards")
FORMATS = {
    ".cff": "application/yaml",
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".md": "text/markdown",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".tex": "application/x-tex",
    ".toml": "application/toml",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}
SOFTWARE = {
    Path("LICENSE"): "licence of the software and of these results",
    CITATION: "how to cite this",
    Path("pyproject.toml"): "the software's requirements",
    Path("requirements.lock"): "every package of the environment, with its version",
    Path("environment.yml"): "the environment for conda",
    CLAIMS: "the papers' claims that studies test",
    PUBLISHED: "the papers' own numbers",
    PAPER_TABLES: "the papers' tables",
}


Reference = dict[str, str]
"""`{"@id": ...}`, as JSON-LD refers to an entity."""


class CrateError(AtlasError):
    """A study that cannot be exported, or a crate that is not what its metadata say."""


@dataclass(frozen=True)
class Part:
    """A file of the crate, read once: what is described is what is written."""

    path: Path
    about: str
    content: bytes


def export_crate(name: str, study: Study, folder: Path, partial: bool = False) -> None:
    """Writes a study as an RO-Crate into `folder`, with a model card for each run.

    Runs in the repository's root. Nothing is there unless all of it is.

    Args:
        name: the study's, as its file in `params/`.
        folder: where the crate goes: new, or empty.
        partial: whether a study that is not finished is exported, too; the crate's description
            then names what is missing.

    Raises:
        CrateError: if the folder holds something, the study is not finished, or the prepared
            images here are not those of the runs.
        RecordError: if a record is damaged or another run's.
        StoredError: if a milestone was made with other parameters.
        ChainError: if the hashes of a milestone do not belong together.
        CitationError: if CITATION.cff lacks something.
        WriteError: if it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CrateError(f"{folder} is there and not an empty folder; name a new one")
    stored = Stored(name, study)
    missing = stored.missing
    if missing and not partial:
        shown = ", ".join(str(path) for path in missing[:5])
        raise CrateError(
            f"{name} is not finished: {len(missing)} files are missing, such as {shown}. Run "
            f"`snakemake --profile profiles/local --config study={name} -- all`, or export what "
            "there is with --partial"
        )
    crate = _crate(stored, read_citation())
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _write(crate, folder)


def _write(crate: ROCrate, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as place:
        written = Path(place) / "crate"
        crate.write(written)
        faults = check_crate(written)
        if faults:
            raise CrateError(f"the crate was not written as planned: {'; '.join(faults)}")
        sync_tree(written)
        written.replace(folder)


def check_crate(folder: Path) -> list[str]:
    """What is wrong with a crate, a line each; empty if nothing is.

    Reads it as any other reader would, and asks that each file is there with the size and sha256
    that the metadata give, that each file that is there is described, and that each reference
    within the crate leads to an entity.
    """
    crate = ROCrate(folder)
    faults = []
    described = {METADATA}
    for entity in crate.data_entities:
        path = folder / unquote(entity.id)
        described.add(unquote(entity.id))
        if not path.is_file():
            faults.append(f"{entity.id} is not there")
        elif sha256_of(path) != entity["sha256"]:
            faults.append(f"{entity.id} has another sha256 than the metadata say")
        elif str(path.stat().st_size) != entity["contentSize"]:
            faults.append(f"{entity.id} has another size than the metadata say")
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    faults += [f"{path} is not described" for path in sorted(present - described)]
    graph = json.loads((folder / METADATA).read_text())["@graph"]
    known = {entity["@id"] for entity in graph}
    for entity in graph:
        for reference in _references(entity):
            if reference not in known and "://" not in reference:
                faults.append(f"{entity['@id']} refers to {reference}, which is not described")
    return faults


def _references(value: Any) -> Iterator[str]:
    """The ids that an entity refers to."""
    if isinstance(value, dict):
        if set(value) == {"@id"}:
            yield value["@id"]
        else:
            for inner in value.values():
                yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def _parts(stored: Stored, citation: Citation) -> Iterator[Part]:
    """Every file of the crate, in any order."""
    for path, about in SOFTWARE.items():
        if path.is_file():
            yield _copy(path, about)
    for path in stored.parameters:
        yield _copy(path, "parameters of the study, or of one that it builds on")
    for run in stored.study.runs():
        if stored.record(run).is_file():
            about = "training metrics, and what the probes found at each milestone"
            yield _copy(stored.record(run), f"record of {run.name}: {about}")
        for path in stored.manifests(run):
            yield _copy(path, f"manifest of a checkpoint of {run.name}")
    for path in stored.shown:
        if path.is_file():
            yield _copy(path, "results" if path.is_relative_to(RESULTS) else "report")
    if adoptions_file(stored.name).is_file():
        yield _copy(
            adoptions_file(stored.name), "which code's results count as later code's, and why"
        )
    for path, images in stored.images.items():
        yield _copy(
            path,
            f"hashes of the prepared images: {images.title}. Source: {images.source}. "
            f"Licence of the images: {images.licence}",
        )
    about = "the chain of hashes from each seed to its last milestone; names all weights by sha256"
    yield Part(CHAIN, about, _chain(stored).to_csv(index=False).encode())
    images_of_all, curves = stored.images.get(stored.own_images), stored.curves
    for last in {content["name"]: content for content in stored.contents}.values():
        card = model_card(last, stored.study.title, curves, citation, images_of_all)
        about = f"model card of {last['name']} at epoch {last['epoch']}"
        yield Part(CARDS / f"{last['name']}.md", about, card.encode())


def _copy(path: Path, about: str) -> Part:
    if path.is_absolute() or ".." in path.parts:
        raise CrateError(
            f"{path} lies outside the repository, and a crate holds nothing from there: move it "
            "below params/"
        )
    return Part(path, about, path.read_bytes())


def _chain(stored: Stored) -> pd.DataFrame:
    """The chain behind all milestones, of the records and of the manifests that are here.

    Raises:
        ChainError: if it does not hold.
        CrateError: if the prepared images here are others than the runs'.
    """
    if stored.own_images.is_file():
        prepared = sha256_of(stored.own_images)
        for content in stored.contents:
            used = content["checkpoint"].get("data_sha256", prepared)
            if used != prepared:
                raise CrateError(
                    f"{stored.own_images} has sha256 {prepared[:12]}, but {content['name']} at "
                    f"epoch {content['epoch']} was trained on {used[:12]}: `dvc checkout` "
                    f"{stored.own_images.parent}, or remove it; the crate then has the hash alone"
                )
    manifests = [
        content_of(json.loads(path.read_text()))
        for run in stored.study.runs()
        for path in stored.manifests(run)
    ]
    return chain_table(stored.planned, [*stored.contents, *manifests])


def _crate(stored: Stored, citation: Citation) -> ROCrate:
    """The crate in memory: its files, and what is known of how they came about."""
    crate = ROCrate(version="1.1")
    crate.metadata.extra_contexts.append(TERMS)
    for part in sorted(_parts(stored, citation), key=lambda part: part.path):
        crate.add_file(
            io.BytesIO(part.content),
            part.path,
            properties={
                "name": part.path.as_posix(),
                "description": part.about,
                "encodingFormat": FORMATS.get(part.path.suffix, "text/plain"),
                "contentSize": str(len(part.content)),
                "sha256": hashlib.sha256(part.content).hexdigest(),
            },
        )
    authors = [_author(crate, author) for author in citation.authors]
    papers = [
        _add(
            crate,
            paper.url,
            "ScholarlyArticle",
            name=paper.title,
            author=[_author(crate, author) for author in paper.authors],
            datePublished=str(paper.year),
            identifier=paper.identifier,
        )
        for paper in citation.papers
    ]
    spdx = f"https://spdx.org/licenses/{citation.licence}"
    licence = _add(
        crate, spdx, "CreativeWork", name=citation.licence, description="licence, see LICENSE"
    )
    profile = _add(crate, PROFILE, "CreativeWork", name="Process Run Crate", version="0.5")
    actions = [
        _action(crate, stored, run, probed, citation)
        for run in stored.study.runs()
        if (probed := [content for content in stored.contents if content["name"] == run.name])
    ]
    weights = _add(
        crate,
        "#weights",
        "CreativeWork",
        name="Weights of the networks",
        description=f"Not in this crate: {CHAIN} names each file by its sha256. In a clone of the "
        f"repository, `dvc pull {RESULTS / stored.name / 'checkpoints'}` brings them.",
    )
    redo = _add(
        crate,
        "#redo",
        "HowTo",
        name="How to redo this study",
        description=_redo(stored),
    )
    root = crate.root_dataset
    root["name"] = stored.study.title
    root["description"] = _description(stored)
    root["datePublished"] = citation.released
    root["license"] = licence
    root["author"] = _bare(authors)
    root["publisher"] = authors[0]
    root["citation"] = papers
    root["conformsTo"] = profile
    root["mentions"] = [*actions, redo, weights]
    return crate


def _description(stored: Stored) -> str:
    runs, missing = stored.runs, stored.missing
    text = (
        f"The study {stored.name} of Barlow Atlas: {len(runs)} runs, {runs['milestones'].sum()} "
        f"probed milestones of {runs['planned'].sum()}."
    )
    if not missing:
        return f"{text} Finished."
    lacking = [
        f"{run}, epochs {epochs}"
        for run, epochs in zip(runs["run"], runs["missing"], strict=True)
        if epochs
    ]
    files = [path.as_posix() for path in missing if path in stored.shown]
    return f"{text} NOT FINISHED. Missing: {'; '.join([*lacking, *files])}."


def _redo(stored: Stored) -> str:
    commits = list(dict.fromkeys(stored.runs["commit"].dropna()))
    made = f"The runs were made at commit {', '.join(commits)}. " if commits else ""
    return (
        f"{made}In a clone of the repository, with the environment of requirements.lock: "
        f"`snakemake --profile profiles/local --config study={stored.name} -- all` trains and "
        f"probes everything; `make report STUDY={stored.name}` makes tables, figures and page from "
        "the records alone."
    )


def _action(
    crate: ROCrate,
    stored: Stored,
    run: Run | ForeignRun,
    contents: Sequence[Mapping[str, Any]],
    citation: Citation,
) -> Reference:
    """A run as an action: from what, by which software, where, for how long, with what results.

    Args:
        contents: the run's probe files.
    """
    epochs = stored.study.milestones_of(run)
    made = [content["checkpoint"]["made_by"] for content in contents]
    results = [
        stored.record(run),
        *stored.manifests(run),
        CARDS / f"{run.name}.md",
    ]
    trained = isinstance(run, Run)
    step = "pretrain --until" if trained else "import-weights --epoch"
    if trained and stored.study.milestones_from:
        step = "take-milestone --epoch"
    return _add(
        crate,
        f"#{run.name}",
        "CreateAction",
        name=f"{'Pre-training' if trained else 'Import'} and probing of {run.name}",
        description=f"`python -m barlow_atlas {step} EPOCH --study {stored.name} --run "
        f"{run.name}`, then `probe` likewise, for each EPOCH of {', '.join(map(str, epochs))}",
        agent=_author(crate, citation.authors[0]),
        instrument=_once(_software(crate, entry, citation) for entry in made),
        object=_files(crate, [*stored.parameters, stored.own_images]),
        result=_files(crate, results),
        resourceUsage=[
            _add(
                crate,
                f"#{run.name}-seconds",
                "PropertyValue",
                name="time spent on training the probed milestones",
                propertyID="https://schema.org/duration",
                value=f"{sum(entry['seconds'] for entry in made):.3f}",
                unitCode="SEC",
                unitText="s",
            ),
            *_once(_machine(crate, entry) for entry in made),
        ],
    )


def _software(crate: ROCrate, made: Mapping[str, Any], citation: Citation) -> Reference:
    """The software with the versions that made a milestone."""
    code = made.get("code") or {"commit": "not known", "changed": False}
    python = _add(
        crate,
        f"https://www.python.org/downloads/release/python-{made['python'].replace('.', '')}/",
        "SoftwareApplication",
        name="Python",
        softwareVersion=made["python"],
        url="https://www.python.org/",
    )
    libraries = [
        _library(crate, library, version) for library, version in sorted(made["libraries"].items())
    ]
    versions = json.dumps([code, made["barlow_atlas"], python, libraries], sort_keys=True)
    changed = ", with uncommitted changes" if code["changed"] else ""
    return _add(
        crate,
        f"#barlow-atlas-{hashlib.sha256(versions.encode()).hexdigest()[:12]}",
        ["SoftwareApplication", "SoftwareSourceCode"],
        name=citation.title,
        description=f"{citation.abstract} Commit: {code['commit']}{changed}.",
        identifier=code["commit"],
        version=made["barlow_atlas"],
        softwareRequirements=[python, *libraries],
    )


def _library(crate: ROCrate, name: str, version: str) -> Reference:
    """A package as PyPI has it; a build such as 2.13.0+cpu is the page's fragment."""
    public, _, build = version.partition("+")
    page = f"https://pypi.org/project/{quote(name)}/{quote(public)}/"
    return _add(
        crate,
        f"{page}#{quote(build)}" if build else page,
        "SoftwareApplication",
        name=name,
        softwareVersion=version,
        url=page,
    )


def _machine(crate: ROCrate, made: Mapping[str, Any]) -> Reference:
    value = f"{made['device']} ({made['machine']})"
    about = "device and type of processor that milestones were trained on"
    return _add(crate, f"#{quote(value)}", "PropertyValue", name=about, value=value)


def _author(crate: ROCrate, author: Author) -> Reference:
    kind = "Person" if author.person else "Organization"
    return _add(crate, author.orcid or f"#{quote(author.name)}", kind, name=author.name)


def _add(crate: ROCrate, identifier: str, kind: str | list[str], /, **properties: Any) -> Reference:
    """Adds an entity that is no file, if it is not there yet."""
    if identifier not in crate:
        single = {name: _bare(value) for name, value in properties.items()}
        crate.add(ContextEntity(crate, identifier, {"@type": kind, **single}))
    return {"@id": identifier}


def _bare(value: Any) -> Any:
    """A value alone stands without a list, as RO-Crate recommends."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _files(crate: ROCrate, paths: Iterable[Path]) -> list[Reference]:
    """References to those of the files that the crate has."""
    identifiers = [quote(path.as_posix()) for path in paths]
    return [{"@id": identifier} for identifier in identifiers if identifier in crate]


def _once(references: Iterable[Reference]) -> list[Reference]:
    return list({reference["@id"]: reference for reference in references}.values())
