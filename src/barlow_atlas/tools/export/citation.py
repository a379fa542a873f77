"""Who made this software, under which licence, and whose papers it follows: CITATION.cff, read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from barlow_atlas.errors import AtlasError

CITATION = Path("CITATION.cff")


class CitationError(AtlasError):
    """A CITATION.cff that is missing, or lacks what an export names."""


@dataclass(frozen=True)
class Author:
    """A person, or an organisation (`person` is False)."""

    name: str
    person: bool
    orcid: str | None = None


@dataclass(frozen=True)
class Paper:
    """A work that the software builds on."""

    title: str
    authors: tuple[Author, ...]
    year: int
    identifier: str
    url: str


@dataclass(frozen=True)
class Citation:
    """What an export needs of CITATION.cff."""

    title: str
    abstract: str
    version: str
    released: str
    licence: str
    authors: tuple[Author, ...]
    papers: tuple[Paper, ...]


def read_citation(path: Path = CITATION) -> Citation:
    """The citation file at `path`.

    Raises:
        CitationError: if it cannot be read, or a key is missing.
    """
    try:
        content = YAML(typ="safe", pure=True).load(path)
        return Citation(
            title=content["title"],
            abstract=content["abstract"],
            version=str(content["version"]),
            released=str(content["date-released"]),
            licence=content["license"],
            authors=tuple(_author(entry) for entry in content["authors"]),
            papers=tuple(_paper(entry) for entry in content["references"]),
        )
    except (OSError, YAMLError) as error:
        raise CitationError(f"cannot read {path}: {error}. Run this in the repository") from error
    except (KeyError, TypeError) as error:
        raise CitationError(
            f"{path} lacks {error}: expected title, abstract, version, date-released, license, "
            "authors and references (each with title, authors, year, identifiers, url)"
        ) from error


def _author(entry: Mapping[str, Any]) -> Author:
    if "name" in entry:
        return Author(entry["name"], person=False)
    name = f"{entry['given-names']} {entry['family-names']}"
    return Author(name, person=True, orcid=entry.get("orcid"))


def _paper(entry: Mapping[str, Any]) -> Paper:
    return Paper(
        title=entry["title"],
        authors=tuple(_author(author) for author in entry["authors"]),
        year=int(entry["year"]),
        identifier=entry["identifiers"][0]["value"],
        url=entry["url"],
    )
