"""How each run was made: what its probe files say of it, and whether they are one chain."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from barlow_atlas.atlas.frames import subject
from barlow_atlas.errors import AtlasError
from barlow_atlas.store.adoptions import adopted_by
from barlow_atlas.study.lineage import lineage
from barlow_atlas.study.models import ForeignRun, Run

RUN_COLUMNS = [
    *("run", "method", "embedding_dim", "epochs", "protocol", "seed"),
    *("milestones", "planned", "missing"),
    *("commit", "changed", "python", "torch", "torchvision", "device", "machine", "seconds"),
    *("adopted", "data_sha256", "weights_sha256", "lineage"),
]
HASHES = ("weights_sha256", "data_sha256", "sources_sha256", "parent", "lineage")
CHAIN_COLUMNS = ["run", "epoch", "cooldown_epochs", *HASHES, "follows"]
UNCHECKED = ""
"""In `follows`: what comes before this milestone is not here."""

ANY_RUN: TypeAdapter[Run | ForeignRun] = TypeAdapter(Run | ForeignRun)


class ChainError(AtlasError):
    """A probe file whose hashes do not belong together; the message names run and epoch."""


def runs_table(
    planned: Mapping[str, Sequence[int]], contents: Iterable[Mapping[str, Any]]
) -> pd.DataFrame:
    """A row a planned run, in the order of the plan; columns `RUN_COLUMNS`.

    Where the milestones of a run were made in several ways (another commit, another GPU), the cell
    lists them in the order of the milestones, `; ` between them. `seconds` sums what it took to
    train the milestones that are probed: under the schedule `trunk` their branches alone.

    Args:
        planned: each run's name -> the milestones it is to have.
        contents: probe files, parsed. Other files are left out.
    """
    of_run = _by_run(planned, contents)
    rows = [_run_row(name, epochs, of_run[name]) for name, epochs in planned.items()]
    return pd.DataFrame(rows, columns=RUN_COLUMNS).astype(
        {
            **dict.fromkeys(("embedding_dim", "epochs", "seed"), "Int64"),
            "changed": "boolean",
            "seconds": float,
        }
    )


def chain_table(
    planned: Mapping[str, Sequence[int]], contents: Iterable[Mapping[str, Any]]
) -> pd.DataFrame:
    """The chain of hashes of each run, a row a milestone; columns `CHAIN_COLUMNS`.

    `follows` says what a milestone follows from: "seed", "imported", "epoch 50", or `UNCHECKED`
    where the one before is not among the contents (always so for the branches of a trunk, unless
    the trunk's own manifests are given, too).

    Args:
        planned: each run's name -> the milestones it is to have.
        contents: probe files, parsed, or anything with their `name`, `epoch`, `run` and
            `checkpoint`. Other files are left out.

    Raises:
        ChainError: if a lineage does not follow from the content beside it, a milestone does not
            follow from the one before, or two files describe one milestone in different ways.
    """
    rows = []
    for name, probed in _by_run(planned, contents).items():
        links: dict[tuple[int, bool], Mapping[str, Any]] = {}
        for content in probed:
            checkpoint = content["checkpoint"]
            place = content["epoch"], bool(checkpoint.get("cooldown_epochs"))
            known = links.setdefault(place, checkpoint)
            if any(known.get(key) != checkpoint.get(key) for key in HASHES):
                raise ChainError(
                    f"{name}, epoch {place[0]}: two files describe this milestone, with lineage "
                    f"{_short(known)} and {_short(checkpoint)}. One is of an earlier training: "
                    "probe the milestone again"
                )
            _check_lineage(content)
        for (epoch, branch), checkpoint in sorted(links.items()):
            rows.append(
                {"run": name, "epoch": epoch}
                | {key: checkpoint.get(key) for key in ("cooldown_epochs", *HASHES)}
                | {"follows": _follows(name, planned[name], links, epoch, branch, probed[0]["run"])}
            )
    return pd.DataFrame(rows, columns=CHAIN_COLUMNS).astype({"cooldown_epochs": "Int64"})


def content_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's manifest, parsed, in the form of a probe file that has found nothing yet."""
    beside_it = ("format", "study", "run")
    return {
        "study": manifest["study"],
        "name": ANY_RUN.validate_json(json.dumps(manifest["run"])).name,
        "epoch": manifest["epoch"],
        "run": manifest["run"],
        "checkpoint": {key: value for key, value in manifest.items() if key not in beside_it},
        "signals": [],
        "results": [],
    }


def _by_run(
    planned: Mapping[str, Sequence[int]], contents: Iterable[Mapping[str, Any]]
) -> dict[str, list[Mapping[str, Any]]]:
    """Contents of each run's planned milestones, in the order of their epochs."""
    of_run: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for content in contents:
        if content["epoch"] in planned.get(content["name"], ()):
            of_run[content["name"]].append(content)
    return {name: sorted(of_run[name], key=lambda content: content["epoch"]) for name in planned}


def _run_row(
    name: str, planned: Sequence[int], contents: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    there = {content["epoch"] for content in contents}
    row: dict[str, Any] = {
        "run": name,
        "milestones": len(there & set(planned)),
        "planned": len(planned),
        "missing": " ".join(str(epoch) for epoch in planned if epoch not in there),
    }
    if not contents:
        return row
    made = [content["checkpoint"].get("made_by", {}) for content in contents]
    code = [entry.get("code") or {} for entry in made]
    libraries = [entry.get("libraries", {}) for entry in made]
    last = contents[-1]["checkpoint"]
    keys = ("method", "embedding_dim", "epochs", "protocol", "seed")
    return (
        row
        | {key: value for key, value in subject(contents[0]).items() if key in keys}
        | {key: _distinct(made, key) for key in ("python", "device", "machine")}
        | {key: _distinct(libraries, key) for key in ("torch", "torchvision")}
        | {
            "commit": _distinct(code, "commit"),
            "changed": any(entry["changed"] for entry in code) if all(code) else None,
            "seconds": sum(entry.get("seconds", 0.0) for entry in made),
            "adopted": _adopted(contents),
        }
        | {key: last.get(key) for key in ("data_sha256", "weights_sha256", "lineage")}
    )


def _adopted(contents: Iterable[Mapping[str, Any]]) -> str | None:
    """By what results of earlier code count as made by later code; None if there are none."""
    entries = (
        str(entry)
        for content in contents
        for code in (content["checkpoint"], content.get("probed", {}))
        for entry in adopted_by(content["study"], code.get("sources_sha256", ""))
    )
    return "; ".join(dict.fromkeys(entries)) or None


def _distinct(entries: Iterable[Mapping[str, Any]], key: str) -> str | None:
    """The values of a key, each once; None if no entry has it."""
    return "; ".join(dict.fromkeys(entry[key] for entry in entries if entry.get(key))) or None


def _check_lineage(content: Mapping[str, Any]) -> None:
    """Whether a probe file's lineage follows from its content.

    Files from before probes stored the whole chain have only the lineage: of these nothing is said.
    """
    name, epoch, checkpoint = content["name"], content["epoch"], content["checkpoint"]
    if not all(key in checkpoint for key in HASHES):
        return
    try:
        run = ANY_RUN.validate_json(json.dumps(content["run"]))
    except ValidationError as error:
        raise ChainError(
            f"{name}, epoch {epoch}: its parameters are not those of a run of this version "
            f"({error.error_count()} differences). Check out the version that made it, or run the "
            "study again"
        ) from error
    weights, data, sources, parent, claimed = (checkpoint[key] for key in HASHES)
    expected = lineage(run, checkpoint["epoch"], weights, data, sources, parent)
    if (run.name, checkpoint["epoch"]) != (name, epoch) or claimed != expected:
        raise ChainError(
            f"{name}, epoch {epoch}: the probe file has lineage {claimed[:12]}, but its content "
            f"({run.name}, epoch {checkpoint['epoch']}) gives {expected[:12]}. It was edited or "
            "damaged: `git checkout` it, or probe the milestone again"
        )


def _follows(
    name: str,
    planned: Sequence[int],
    links: Mapping[tuple[int, bool], Mapping[str, Any]],
    epoch: int,
    branch: bool,
    run: Mapping[str, Any],
) -> str:
    """What a milestone follows from, as `chain_table` says it."""
    checkpoint = links[epoch, branch]
    if "parent" not in checkpoint:
        return UNCHECKED
    parent = checkpoint["parent"]
    if "layout" in run:
        before, word = None, "imported"
    elif branch:
        before, word = epoch, f"epoch {epoch}"
    else:
        before = max((other for other in planned if other < epoch), default=None)
        word = "seed" if before is None else f"epoch {before}"
    if before is None:
        expected = None
    elif (before, False) in links:
        expected = links[before, False]["lineage"]
    else:
        return UNCHECKED
    if parent != expected:
        raise ChainError(
            f"{name}, epoch {epoch}: it follows from {(parent or 'the seed')[:12]}, but {word} is "
            f"{(expected or 'its start')[:12]}. They are of two trainings: run the study again, "
            "or check out one version of both"
        )
    return word


def _short(checkpoint: Mapping[str, Any]) -> str:
    return str(checkpoint.get("lineage", "unknown"))[:12]
