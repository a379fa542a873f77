"""Model cards: what a file of weights is, in Markdown with the front matter of Hugging Face."""

import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

from barlow_atlas.atlas.frames import CURVE, probe_rows, subject
from barlow_atlas.atlas.runs import ANY_RUN
from barlow_atlas.data.prepared import Manifest
from barlow_atlas.report.text import PROTOCOLS, markdown, markdown_table
from barlow_atlas.store.adoptions import adopted_by
from barlow_atlas.study.models import ForeignRun, Run, Study
from barlow_atlas.study.paths import DATA, probed_milestone
from barlow_atlas.tools.export.citation import Citation, read_citation
from barlow_atlas.tools.export.stored import Stored

LOADING = """\
from pathlib import Path

import torch

from barlow_atlas.data.prepared import load
from barlow_atlas.nn.networks import build
from barlow_atlas.nn.randomness import generator
from barlow_atlas.probes.features import extract
from barlow_atlas.store.snapshot import read_manifest, read_weights

path = Path({path})
manifest = read_manifest(path)
network = build(manifest.run.architecture, generator(manifest.run.seed, "weights"))
network.load_state_dict(read_weights(path, manifest))  # compares the sha256

images = load(Path({data})).test_images  # squares, uint8 (n, 3, H, W), or encoded
features = extract(network.backbone, manifest.run, images, torch.device("cpu"))  # (n, f)
"""


class _Quoting(SafeRepresenter):
    """Quotes all text, so that no reader of any YAML version takes it for something else."""


def _quoted(representer: SafeRepresenter, text: str) -> ScalarNode:
    node: ScalarNode = representer.represent_scalar("tag:yaml.org,2002:str", text, style='"')
    return node


_Quoting.add_representer(str, _quoted)


def model_card(
    content: Mapping[str, Any],
    title: str,
    curves: pd.DataFrame,
    citation: Citation,
    data: Manifest | None = None,
) -> str:
    """The card of one milestone's weights.

    Args:
        content: the milestone's probe file, parsed; or what `runs.content_of` makes of a manifest,
            which has no results.
        title: the study's.
        curves: means over the study's seeds, as `curves.mean_curves` gives them; rows of other
            lines are not used, and a line without a row has no interval.
        citation: who made it, and the licence of weights that were trained here.
        data: manifest of the prepared data set, for its full name and licence.
    """
    run = ANY_RUN.validate_json(json.dumps(content["run"]))
    accuracies = [
        row for row in probe_rows(content) if row["split"] == "test" and row["metric"] == "top1"
    ]
    parts = [
        _front_matter(content, run, accuracies, citation, data),
        _what_it_is(content, run, title, data),
        _how_it_was_made(content["study"], content["checkpoint"]),
        _how_to_load(content, run),
        _results(accuracies, curves, run),
        _limits(run, data),
        _citation(citation),
    ]
    return "\n".join(parts)


def card_of(name: str, study: Study, run: str, epoch: int | None = None) -> str:
    """The card of a stored milestone, by default a run's last; runs in the repository's root.

    Args:
        name: the study's, as its file in `params/`.
        run: its name.

    Raises:
        StudyError: if the study has no such run.
        StoredError: if nothing is stored of the milestone, or of other parameters.
        RecordError: if the record or a probe file is damaged.
        CitationError: if CITATION.cff lacks something.
    """
    stored = Stored(name, study)
    content = stored.milestone(study.run(run), epoch)
    images = stored.images.get(stored.own_images)
    return model_card(content, study.title, stored.curves, read_citation(), images)


def _front_matter(
    content: Mapping[str, Any],
    run: Run | ForeignRun,
    accuracies: Iterable[Mapping[str, Any]],
    citation: Citation,
    data: Manifest | None,
) -> str:
    """YAML between two lines of dashes, as the Hub's specification of model cards has it."""
    results = [
        {
            "task": {"type": "image-classification", "name": f"{row['probe']} on frozen features"},
            "dataset": {
                "type": _images_of(row, run),
                "name": data.title if data and _is_own(row) else _images_of(row, run),
                "split": row["split"],
            },
            "metrics": [
                {
                    "type": "accuracy",
                    "name": f"top-1 in percent, {row['setting']}",
                    "value": round(row["value"], 4),
                    "args": {"protocol": row["protocol"], "setting": row["setting"]},
                }
            ],
        }
        for row in accuracies
    ]
    name = f"{content['name']}-epoch-{content['epoch']}"
    tags = ["self-supervised-learning", "image-feature-extraction", "safetensors"]
    if isinstance(run, Run):
        tags.append(run.settings.objective.replace("_", "-"))
    fields: dict[str, Any] = {
        "license": citation.licence.lower() if isinstance(run, Run) else "unknown",
        "library_name": "barlow-atlas",
        "tags": tags,
        "datasets": [run.data.name],
        "metrics": ["accuracy"],
    }
    if results:
        fields["model-index"] = [{"name": name, "results": results}]
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.Representer = _Quoting
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = 4096
    text = io.StringIO()
    yaml.dump(fields, text)
    return f"---\n{text.getvalue()}---\n"


def _is_own(row: Mapping[str, Any]) -> bool:
    """Whether a probe was asked on the images of pre-training, and not on a target of transfer."""
    return bool(row["probe"] != "transfer")


def _images_of(row: Mapping[str, Any], run: Run | ForeignRun) -> str:
    return run.data.name if _is_own(row) else str(row["variant"]).partition(" ")[0]


def _what_it_is(
    content: Mapping[str, Any], run: Run | ForeignRun, title: str, data: Manifest | None
) -> str:
    of_all = subject(content)
    images = data.title if data else run.data.name
    share = "" if run.data.fraction == 1 else f", {100 * run.data.fraction:g} % of it"
    total = f" of {run.epochs}" if isinstance(run, Run) and run.epochs else ""
    facts = {
        "study": f"{content['study']}: {title}",
        "method": f"{run.method}: {of_all['objective']}",
        "backbone": f"{run.backbone.name}, stem {run.backbone.stem}",
        "embedding": f"{run.embedding_dim} features" if run.embedding_dim else "none",
        "images": f"{images}{share}, {run.image_size} x {run.image_size} pixels",
        "protocol": f"{run.protocol}: {PROTOCOLS[run.protocol]}",
        "seed": str(run.seed),
        "pre-training epoch": f"{content['epoch']}{total}",
    }
    cooled = content["checkpoint"].get("cooldown_epochs")
    if cooled:
        facts["annealed"] = f"in a branch of {cooled} epochs more"
    said = (
        "An image backbone, pre-trained without labels"
        if isinstance(run, Run)
        else "An image backbone that was trained elsewhere and imported"
    )
    name = markdown(f"{content['name']}, epoch {content['epoch']}")
    return f"# {name}\n\n{said}.\n\n{_facts(facts)}"


def _how_it_was_made(study: str, checkpoint: Mapping[str, Any]) -> str:
    made = checkpoint.get("made_by", {})
    adopted = "; ".join(map(str, adopted_by(study, checkpoint.get("sources_sha256", ""))))
    code = made.get("code") or {}
    changed = ", with uncommitted changes" if code.get("changed") else ""
    libraries = ", ".join(f"{name} {version}" for name, version in made["libraries"].items())
    facts: dict[str, str] = {
        "software": f"Barlow Atlas {made['barlow_atlas']}",
        "commit": f"{code['commit']}{changed}" if code else "not from a git checkout",
        "versions": f"Python {made['python']}, {libraries}",
        "device": f"{made['device']} ({made['machine']})",
        **({"counts as made by later code": adopted} if adopted else {}),
        "time": f"since the milestone before: {made['seconds']:g} s",
        **{key: made[key] for key in ("file", "file_sha256") if key in made},
    }
    names = {
        "weights_sha256": "weights, sha256",
        "data_sha256": "manifest of the images, sha256",
        "sources_sha256": "source files, sha256",
        "parent": "follows from lineage",
        "lineage": "lineage",
    }
    hashes = {
        name: checkpoint.get(key, "not recorded") or "none: this is a first milestone"
        for key, name in names.items()
    }
    return (
        f"## How it was made\n\n{_facts(facts)}\n"
        f"## Hashes\n\n{_facts(hashes)}\n"
        "A lineage hashes the parameters, the epoch, the three hashes above it and the lineage of "
        "the milestone before.\n"
    )


def _how_to_load(content: Mapping[str, Any], run: Run | ForeignRun) -> str:
    path = probed_milestone(content["study"], run, content["epoch"])
    code = LOADING.format(
        path=json.dumps(path.as_posix()), data=json.dumps((DATA / run.data.name).as_posix())
    )
    return (
        f"## How to load it\n\nIn a clone of Barlow Atlas, where `dvc pull` brings weights and "
        "images; elsewhere, keep the manifest (`.json`) beside the weights (`.safetensors`).\n\n"
        f"```python\n{code}```\n"
    )


def _results(
    accuracies: Iterable[Mapping[str, Any]], curves: pd.DataFrame, run: Run | ForeignRun
) -> str:
    cells = [
        (
            markdown(f"{row['probe']} {row['variant']}"),
            markdown(row["setting"]),
            str(row["count"]),
            f"{row['value']:.2f}",
            _over_seeds(row, curves),
        )
        for row in accuracies
    ]
    if not cells:
        return "## Results\n\nNot probed.\n"
    head = ("probe", "setting", "test images", "this network", "mean over seeds, 95 % interval")
    return (
        "## Results\n\nTest top-1 accuracy in percent at this milestone, under the protocol "
        f"{run.protocol}. The interval is a t interval over the study's seeds.\n\n"
        f"{markdown_table([head, ['---'] * len(head), *cells])}"
    )


def _over_seeds(row: Mapping[str, Any], curves: pd.DataFrame) -> str:
    """Mean and interval over the seeds of the line that a network belongs to."""
    same = curves
    for key in (*CURVE, "metric", "epoch"):
        same = same[same[key] == row[key]] if key in same else same.iloc[:0]
    if same.empty:
        return "not computed"
    (line,) = same.to_dict("records")
    if line["seeds"] < 2:
        return f"{line['mean']:.2f}, no interval from one seed"
    return f"{line['mean']:.2f} ({line['low']:.2f} to {line['high']:.2f}), {line['seeds']} seeds"


def _limits(run: Run | ForeignRun, data: Manifest | None) -> str:
    lines = [
        "Made for research into pre-training; not fit for decisions about people or things.",
        "The test images decided nothing: neither the probes' settings nor the weights were chosen "
        "on them. They were looked at along the whole training."
        if isinstance(run, Run)
        else "How these weights were chosen, and whether on test images, is not recorded here.",
        "The weights know their training images only, at their size and under their normalisation "
        "(in the manifest).",
    ]
    if data:
        lines.append(f"Images: {data.source}. Their licence: {data.licence}")
    if isinstance(run, ForeignRun):
        lines.append("The weights' licence is that of their authors, and not recorded here.")
    return "## Limits\n\n" + "".join(f"- {markdown(line)}\n" for line in lines)


def _citation(citation: Citation) -> str:
    software = (
        f"{', '.join(author.name for author in citation.authors)}: {citation.title}, version "
        f"{citation.version}"
    )
    papers = [
        f"{', '.join(author.name for author in paper.authors)}: {paper.title}, {paper.year}, "
        f"{paper.identifier}"
        for paper in citation.papers
    ]
    return "## Citation\n\n" + "".join(f"- {markdown(line)}\n" for line in (software, *papers))


def _facts(facts: Mapping[str, str]) -> str:
    """A table of names and texts from anywhere."""
    rows = [(name, markdown(text)) for name, text in facts.items()]
    return markdown_table([("", ""), ("---", "---"), *rows])
