"""Research objects, model cards and histories for other tools, of the demo's own files."""

import csv
import errno
import hashlib
import importlib.abc
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from demo_results import JOB_FILES, RECORDED, RECORDS, milestone_of, write
from rocrate.rocrate import ROCrate
from ruamel.yaml import YAML

import barlow_atlas
from barlow_atlas.__main__ import TRACKERS
from barlow_atlas.atlas.curves import mean_curves
from barlow_atlas.atlas.frames import probe_table
from barlow_atlas.atlas.records import RecordError, encoded
from barlow_atlas.atlas.records import recorded as record_of
from barlow_atlas.atlas.runs import ChainError, content_of
from barlow_atlas.atomic import WriteError
from barlow_atlas.data.preparation import prepare
from barlow_atlas.data.prepared import Manifest, load
from barlow_atlas.store.snapshot import write_milestone
from barlow_atlas.study.file import load_study
from barlow_atlas.study.lineage import lineage
from barlow_atlas.study.models import ForeignRun, Run, Study
from barlow_atlas.study.paths import DATA, of_run, record_file
from barlow_atlas.tools.export.cards import card_of, model_card
from barlow_atlas.tools.export.citation import CitationError, read_citation
from barlow_atlas.tools.export.crate import METADATA, CrateError, check_crate, export_crate
from barlow_atlas.tools.export.hub import HubError, push, write_repository
from barlow_atlas.tools.export.stored import Stored, StoredError
from barlow_atlas.tools.export.tracking import (
    EVENTS,
    WRITERS,
    TrackingError,
    follow,
    history_of,
    track,
)
from barlow_atlas.tools.running import tracked
from barlow_atlas.training.loop import initial_state

REPOSITORY = Path.cwd()
NAME = "bt-d256-e100-clean-s1"
SAME_BYTES = ("tensorboard", "dvclive")
"""Writers that write the same on another day."""
HOSTILE = 'A <script>alert(1)</script> | `rm` & "q" \\ $x$\n---\nlicense: gpl\n# 100 %'


@pytest.fixture
def study() -> Study:
    return load_study(REPOSITORY / "params/demo.yaml")


@pytest.fixture
def workspace(tmp_path: Path, study: Study, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what git holds of the demo, finished: what is not made yet has a stand-in."""
    for name in ("CITATION.cff", "LICENSE", "pyproject.toml", "requirements.lock"):
        shutil.copy(REPOSITORY / name, tmp_path)
    shutil.copytree(REPOSITORY / "params", tmp_path / "params")
    monkeypatch.chdir(tmp_path)
    write(RECORDS)
    for path in Stored("demo", study).shown:
        path.parent.mkdir(parents=True, exist_ok=True)
        if (REPOSITORY / path).is_file():
            shutil.copy(REPOSITORY / path, path)
        else:
            path.write_text("stand-in\n")
    return tmp_path


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's images, prepared."""
    place = tmp_path_factory.mktemp("prepared")
    (data_set,) = load_study(REPOSITORY / "params/demo.yaml").data_sets()
    prepare(data_set, place / "digits", place / "raw", (), lambda line: None)
    return place / "digits"


def edit(run: Run | ForeignRun, epoch: int, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes a milestone in a run's record."""
    record = record_of("demo", run)
    change(record.milestones[epoch])
    record_file("demo", run.name).write_bytes(encoded("demo", run.name, record))


def remove(run: Run | ForeignRun, *epochs: int) -> None:
    """Takes milestones out of a run's record."""
    record = record_of("demo", run)
    left = {epoch: one for epoch, one in record.milestones.items() if epoch not in epochs}
    left_of_run = replace(record, milestones=left)
    record_file("demo", run.name).write_bytes(encoded("demo", run.name, left_of_run))


def graph_of(folder: Path) -> dict[str, dict[str, Any]]:
    graph = json.loads((folder / METADATA).read_text())["@graph"]
    assert len({entity["@id"] for entity in graph}) == len(graph)
    return {entity["@id"]: entity for entity in graph}


def demo_contents(study: Study) -> list[dict[str, Any]]:
    runs = {run.name for run in study.runs()}
    return deepcopy([content for content in RECORDED if content["name"] in runs])


# --- the crate


def test_a_crate_holds_what_the_study_is_made_of(workspace: Path, study: Study) -> None:
    export_crate("demo", study, Path("out/demo"))
    folder = workspace / "out/demo"
    assert check_crate(folder) == []
    assert [path.name for path in folder.parent.iterdir()] == ["demo"]
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for path in [*RECORDS, *Stored("demo", study).shown]:
        assert (folder / path).read_bytes() == path.read_bytes()
    assert {
        *("params/demo.yaml", "requirements.lock", "CITATION.cff", "LICENSE", "chain.csv"),
        *(f"cards/{run.name}.md" for run in study.runs()),
        f"results/demo/runs/{NAME}.jsonl",
    } <= there
    # As another reader sees it.
    crate = ROCrate(folder)
    assert crate.version == "1.1"
    assert crate.name == study.title
    assert crate.root_dataset["license"].id == "https://spdx.org/licenses/MIT"
    assert {paper["identifier"] for paper in crate.root_dataset["citation"]} == {
        "arXiv:2103.03230",
        "arXiv:2312.02151",
    }
    for entity in crate.data_entities:
        payload = (folder / entity.id).read_bytes()
        assert entity["sha256"] == hashlib.sha256(payload).hexdigest()
        assert entity["contentSize"] == str(len(payload))
    assert {entity.id for entity in crate.data_entities} | {METADATA} == there


def test_each_run_is_an_action_with_its_software_machine_and_duration(
    workspace: Path, study: Study
) -> None:
    export_crate("demo", study, Path("out"))
    graph = graph_of(workspace / "out")
    actions = {key: entity for key, entity in graph.items() if entity["@type"] == "CreateAction"}
    assert set(actions) == {f"#{run.name}" for run in study.runs()}
    action = actions[f"#{NAME}"]
    made = [
        content["checkpoint"]["made_by"]
        for content in demo_contents(study)
        if content["name"] == NAME
    ]
    software = graph[action["instrument"]["@id"]]
    assert software["identifier"] == made[0]["code"]["commit"]
    assert software["version"] == made[0]["barlow_atlas"]
    versions = {
        graph[reference["@id"]]["name"]: graph[reference["@id"]]["softwareVersion"]
        for reference in software["softwareRequirements"]
    }
    assert versions == {"Python": made[0]["python"], **made[0]["libraries"]}
    seconds, machine = (graph[reference["@id"]]["value"] for reference in action["resourceUsage"])
    assert float(seconds) == pytest.approx(sum(entry["seconds"] for entry in made))
    assert machine == f"{made[0]['device']} ({made[0]['machine']})"
    results = [reference["@id"] for reference in action["result"]]
    assert f"results/demo/runs/{NAME}.jsonl" in results
    assert {reference["@id"] for reference in graph["./"]["mentions"]} >= set(actions)


def test_the_same_study_gives_the_same_bytes(workspace: Path, study: Study) -> None:
    export_crate("demo", study, Path("one"))
    os.utime("results/demo/metrics.json", (0, 0))
    export_crate("demo", study, Path("elsewhere/two"))
    one, two = Path("one"), Path("elsewhere/two")
    names = sorted(path.relative_to(one) for path in one.rglob("*"))
    assert names == sorted(path.relative_to(two) for path in two.rglob("*"))
    for name in names:
        if (one / name).is_file():
            assert (one / name).read_bytes() == (two / name).read_bytes(), name
    text = (one / METADATA).read_text()
    released = re.search(r"date-released: (\S+)", Path("CITATION.cff").read_text())
    assert released is not None
    assert set(re.findall(r"\d{4}-\d\d-\d\d[^\"]*", text)) == {released[1]}
    assert str(workspace) not in text


def test_an_unfinished_study_is_refused_unless_asked_for(workspace: Path, study: Study) -> None:
    remove(study.run(NAME), 0, 5, 10, 25, 50, 100)
    remove(study.run("mix-d256-e100-clean-s2"), 50)
    Path("results/demo/metrics.json").unlink()
    with pytest.raises(CrateError, match=rf"8 files are missing, such as \S*{NAME}/epoch_0000"):
        export_crate("demo", study, Path("out"))
    assert not Path("out").exists()
    export_crate("demo", study, Path("out"), partial=True)
    assert check_crate(Path("out")) == []
    graph = graph_of(Path("out"))
    said = graph["./"]["description"]
    assert "29 probed milestones of 36. NOT FINISHED" in said
    assert f"{NAME}, epochs 0 5 10 25 50 100; mix-d256-e100-clean-s2, epochs 50;" in said
    assert "results/demo/metrics.json" in said
    assert f"#{NAME}" not in graph
    assert not Path(f"out/cards/{NAME}.md").exists()
    # What follows from a milestone that is not here is said to be unchecked, and no more.
    chain = pd.read_csv("out/chain.csv").set_index(["run", "epoch"])["follows"]
    assert pd.isna(chain["mix-d256-e100-clean-s2", 100])
    assert chain["mix-d256-e100-clean-s2", 25] == "epoch 10"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_disk_that_takes_no_crate_is_said_in_a_line(
    workspace: Path, study: Study, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    before = {path.name for path in workspace.iterdir()}
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(WriteError, match=rf"^cannot write .*crate: {os.strerror(code)}.*again$"):
        export_crate("demo", study, workspace / "crate")
    assert {path.name for path in workspace.iterdir()} == before


def test_nothing_there_is_overwritten(workspace: Path, study: Study) -> None:
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    with pytest.raises(CrateError, match="full is there and not an empty folder"):
        export_crate("demo", study, Path("full"))
    with pytest.raises(CrateError, match=r"LICENSE is there and not an empty folder"):
        export_crate("demo", study, Path("LICENSE"))
    Path("empty").mkdir()
    export_crate("demo", study, Path("empty"))
    assert (Path("empty") / METADATA).is_file()
    assert Path("full/mine.txt").read_text() == "mine"


@pytest.mark.parametrize("key", ["weights_sha256", "data_sha256", "lineage"])
def test_a_tampered_milestone_is_refused_by_run_and_epoch(
    workspace: Path, study: Study, key: str
) -> None:
    edit(study.run(NAME), 25, lambda content: content["checkpoint"].update({key: "0" * 64}))
    with pytest.raises(ChainError, match=rf"{NAME}, epoch 25"):
        export_crate("demo", study, Path("out"))
    assert not Path("out").exists()
    assert not [path for path in Path().iterdir() if path.name.startswith(".out")]


def test_a_history_cut_in_two_is_refused(workspace: Path, study: Study) -> None:
    run = study.run(NAME)
    checkpoint = milestone_of(NAME, 100)["checkpoint"]
    hashes = [checkpoint[key] for key in ("weights_sha256", "data_sha256", "sources_sha256")]
    parent = "1" * 64
    made_up = {"parent": parent, "lineage": lineage(run, 100, *hashes, parent)}
    edit(run, 100, lambda content: content["checkpoint"].update(made_up))
    with pytest.raises(ChainError, match=rf"{NAME}, epoch 100: it follows from 111111111111"):
        export_crate("demo", study, Path("out"))


def test_exchanged_files_and_other_parameters_are_refused(workspace: Path, study: Study) -> None:
    own = Path(f"results/demo/runs/{NAME}.jsonl")
    shutil.copy("results/demo/runs/bt-d256-e100-clean-s2.jsonl", own)
    with pytest.raises(RecordError, match=rf"{NAME}.jsonl is of bt-d256-e100-clean-s2"):
        export_crate("demo", study, Path("out"))
    own.write_bytes(RECORDS[own])
    wider = study.model_copy(update={"batch_size": 64})
    with pytest.raises(StoredError, match="made with other parameters"):
        export_crate("demo", wider, Path("out"))


def test_images_and_manifests_that_are_here_must_be_those_of_the_runs(
    workspace: Path, study: Study, digits_folder: Path
) -> None:
    shutil.copytree(digits_folder, DATA / "digits")
    export_crate("demo", study, Path("out"))
    entity = graph_of(Path("out"))["results/data/digits/manifest.json"]
    assert "CC BY 4.0" in entity["description"]
    assert not list(Path("out").rglob("*.npy"))
    path = DATA / "digits/manifest.json"
    path.write_text(path.read_text().replace("Handwritten", "Typewritten"))
    with pytest.raises(CrateError, match=r"but bt-d256-e100-clean-s1 at epoch 0 was trained on"):
        export_crate("demo", study, Path("other"))
    shutil.rmtree(DATA)
    content = milestone_of(NAME, 10)
    run = study.run(NAME)
    hashes = {key: content["checkpoint"][key] for key in ("data_sha256", "sources_sha256")}
    write_milestone(
        of_run("checkpoints", "demo", NAME),
        study="demo",
        run=run,
        epoch=10,
        parent=None,
        weights={"w": torch.zeros(1)},
        state=None,
        made_by=content["checkpoint"]["made_by"],
        **hashes,
    )
    with pytest.raises(ChainError, match=rf"{NAME}, epoch 10: two files describe"):
        export_crate("demo", study, Path("other"))


def test_a_damaged_crate_is_told(workspace: Path, study: Study) -> None:
    export_crate("demo", study, Path("out"))
    for path, change in {
        "results/demo/metrics.json": "{}",
        "params/demo.yaml": None,
        "stray.txt": "not described",
    }.items():
        if change is None:
            Path("out", path).unlink()
        else:
            Path("out", path).write_text(change)
    metadata = Path("out", METADATA)
    metadata.write_text(metadata.read_text().replace('"@id": "#redo"', '"@id": "#undone"', 1))
    faults = "\n".join(check_crate(Path("out")))
    assert "results/demo/metrics.json has another sha256" in faults
    assert "params/demo.yaml is not there" in faults
    assert "stray.txt is not described" in faults
    assert re.search("refers to #(redo|undone), which is not described", faults)


def test_titles_of_any_kind_are_text(workspace: Path, study: Study) -> None:
    hostile = study.model_copy(update={"title": HOSTILE})
    export_crate("demo", hostile, Path("out"))
    assert check_crate(Path("out")) == []
    assert graph_of(Path("out"))["./"]["name"] == HOSTILE


def test_parameters_outside_the_repository_stay_there(workspace: Path, study: Study) -> None:
    Path("params/demo.yaml").rename("../outside.yaml")
    Path("params/demo.yaml").write_text("base: ../../outside.yaml\n")
    with pytest.raises(CrateError, match="lies outside the repository"):
        export_crate("demo", load_study(Path("params/demo.yaml")), Path("out"))


def test_a_citation_without_a_date_or_a_file_is_an_error(workspace: Path) -> None:
    text = Path("CITATION.cff").read_text()
    Path("CITATION.cff").write_text(re.sub(r"date-released: .*\n", "", text))
    with pytest.raises(CitationError, match="lacks 'date-released'"):
        read_citation()
    Path("CITATION.cff").unlink()
    with pytest.raises(CitationError, match="cannot read"):
        read_citation()


def test_the_citation_names_both_papers() -> None:
    citation = read_citation(REPOSITORY / "CITATION.cff")
    assert {paper.url for paper in citation.papers} == {
        "https://arxiv.org/abs/2103.03230",
        "https://arxiv.org/abs/2312.02151",
    }
    assert citation.papers[1].authors[0].name == "Jure Zbontar"
    assert re.search(
        rf"^## \[{re.escape(citation.version)}\] - {citation.released}$",
        (REPOSITORY / "CHANGELOG.md").read_text(),
        re.MULTILINE,
    )


# --- model cards


def front_matter(card: str, version: str) -> dict[str, Any]:
    """The YAML between the first two lines of dashes, by the rules of a version of YAML."""
    start, _, rest = card.partition("---\n")
    assert start == ""
    yaml = YAML(typ="safe", pure=True)
    yaml.version = version
    content: dict[str, Any] = yaml.load(rest.partition("\n---\n")[0])
    return content


def code_of(card: str) -> str:
    (code,) = re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    return str(code)


def features_by(card: str) -> np.ndarray:
    """What the card's own code says are the features of the test images."""
    names: dict[str, Any] = {}
    exec(code_of(card), names)
    return names["features"].numpy()


def nearest(memory: np.ndarray, labels: np.ndarray, queries: np.ndarray, k: int, t: float) -> Any:
    """Weighted kNN written out: votes exp(cosine / t) of the k most similar; classes (n,)."""
    memory = memory / np.linalg.norm(memory, axis=1, keepdims=True)
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    answers = []
    for query in queries:
        similarity = memory @ query
        best = np.argsort(-similarity)[:k]
        votes = np.zeros(labels.max() + 1)
        np.add.at(votes, labels[best], np.exp(similarity[best] / t))
        answers.append(votes.argmax())
    return np.array(answers)


def accuracy_by(card: str) -> float:
    """Test top-1 in percent of kNN (k = 20, T = 0.07) on the features of the card's code."""
    prepared = load(DATA / "digits")
    kept = np.setdiff1d(np.arange(len(prepared.train_labels)), prepared.validation_index)
    queries = features_by(card)
    code = code_of(card).replace(".test_images", ".train_images")
    names: dict[str, Any] = {}
    exec(code, names)
    found = nearest(names["features"].numpy()[kept], prepared.train_labels[kept], queries, 20, 0.07)
    return 100 * float((found == prepared.test_labels).mean())


def recorded(content: dict[str, Any]) -> float:
    """What the probe file says of the same probe."""
    (top1,) = [
        result["top1"]
        for result in content["results"]
        if (result["probe"], result["split"]) == ("knn", "test") and result["settings"]["k"] == 20
    ]
    return float(top1)


def test_the_code_of_a_card_gives_the_accuracy_of_the_card(
    workspace: Path, study: Study, digits_folder: Path
) -> None:
    """With the untrained network, which needs no weights from elsewhere."""
    shutil.copytree(digits_folder, DATA / "digits")
    run = study.run(NAME)
    assert isinstance(run, Run)
    content = milestone_of(NAME, 0)
    checkpoint = content["checkpoint"]
    write_milestone(
        of_run("checkpoints", "demo", NAME),
        study="demo",
        run=run,
        epoch=0,
        parent=None,
        weights=initial_state(run, torch.device("cpu")).network.state_dict(),
        state=None,
        data_sha256=checkpoint["data_sha256"],
        sources_sha256=checkpoint["sources_sha256"],
        made_by=checkpoint["made_by"],
    )
    card = card_of("demo", study, NAME, 0)
    one_image = 100 / 359
    assert accuracy_by(card) == pytest.approx(recorded(content), abs=1.01 * one_image)
    assert f"{recorded(content):.2f}" in card


@pytest.mark.skipif(
    not (REPOSITORY / f"results/demo/checkpoints/{NAME}/epoch_0100.safetensors").is_file(),
    reason="the demo's weights are not here",
)
def test_the_code_of_a_card_gives_the_accuracy_of_the_trained_network(
    workspace: Path, study: Study, digits_folder: Path
) -> None:
    shutil.copytree(digits_folder, DATA / "digits")
    folder = of_run("checkpoints", "demo", NAME)
    folder.mkdir(parents=True)
    for ending in (".json", ".safetensors"):
        shutil.copy(REPOSITORY / folder / f"epoch_0100{ending}", folder)
    content = milestone_of(NAME, 100)
    assert accuracy_by(card_of("demo", study, NAME)) == pytest.approx(recorded(content), abs=1e-9)


class LocalHub:
    """A hub that is a folder: what `push` asks of huggingface_hub's `HfApi`."""

    def create_repo(self, repository: str, private: bool, exist_ok: bool) -> str:
        assert private
        assert exist_ok
        if repository.count("/") != 1:
            raise ValueError("Repo id must be in the form 'repo_name' or 'namespace/repo_name'")
        Path("hub", repository).mkdir(parents=True)
        return f"hub/{repository}"

    def upload_folder(self, repo_id: str, folder_path: Path) -> None:
        shutil.copytree(folder_path, Path("hub", repo_id), dirs_exist_ok=True)


def test_a_milestone_goes_to_the_hub_with_its_card_and_comes_back(
    workspace: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = study.run(NAME)
    assert isinstance(run, Run)
    with pytest.raises(HubError, match=r"epoch_0000.json is not here. .*`atlas run demo`"):
        write_repository("demo", study, NAME, 0, Path("out"))
    checkpoint = milestone_of(NAME, 0)["checkpoint"]
    weights = initial_state(run, torch.device("cpu")).network.state_dict()
    write_milestone(
        of_run("checkpoints", "demo", NAME),
        study="demo",
        run=run,
        epoch=0,
        parent=None,
        weights=weights,
        state=None,
        data_sha256=checkpoint["data_sha256"],
        sources_sha256=checkpoint["sources_sha256"],
        made_by=checkpoint["made_by"],
    )
    place = write_repository("demo", study, NAME, 0, Path("out"))
    assert {path.name for path in Path("out").iterdir()} == {
        *("README.md", "epoch_0000.json", "epoch_0000.safetensors")
    }
    assert Path("out/README.md").read_text() == card_of("demo", study, NAME, 0)
    monkeypatch.setattr("huggingface_hub.HfApi", LocalHub)
    assert push(Path("out"), "me/barlow", private=True) == "hub/me/barlow"
    network = barlow_atlas.load(Path("hub/me/barlow") / place.name).network
    for name, value in network.state_dict().items():
        assert torch.equal(value, weights[name])
    with pytest.raises(HubError, match=r"the hub did not take a/b/c: .*out holds what was to go"):
        push(Path("out"), "a/b/c", private=True)
    with pytest.raises(HubError, match="not an empty folder"):
        write_repository("demo", study, NAME, 0, Path("out"))


def test_a_hub_without_its_package_is_said(without: Callable[[str], None]) -> None:
    without("huggingface_hub")
    with pytest.raises(HubError, match=re.escape("pip install 'barlow-atlas[hub]'")):
        push(Path("out"), "me/barlow", private=False)


def test_a_card_says_what_is_recorded(study: Study) -> None:
    contents = demo_contents(study)
    content = next(c for c in contents if (c["name"], c["epoch"]) == (NAME, 100))
    curves = mean_curves(probe_table(contents))
    card = model_card(content, study.title, curves, read_citation())
    fields = front_matter(card, "1.2")
    assert fields["license"] == "mit"
    assert fields["datasets"] == ["digits"]
    (model,) = fields["model-index"]
    values = {
        result["metrics"][0]["args"]["setting"]: result["metrics"][0]["value"]
        for result in model["results"]
    }
    assert all(result["dataset"]["split"] == "test" for result in model["results"])
    assert all(r["metrics"][0]["args"]["protocol"] == "clean" for r in model["results"])
    assert len(values) == 3
    assert values["k=20 T=0.07 cosine backbone"] == pytest.approx(recorded(content), abs=1e-4)
    # Mean and t interval over the three seeds: t quantile of df 2 is 4.3027.
    seeds = [recorded(c) for c in contents if c["run"]["method"] == "bt" and c["epoch"] == 100]
    mean, half = np.mean(seeds), 4.3027 * np.std(seeds, ddof=1) / 3**0.5
    assert f"{mean:.2f} ({mean - half:.2f} to {mean + half:.2f}), 3 seeds" in card
    for key in ("weights_sha256", "data_sha256", "sources_sha256", "parent", "lineage"):
        assert content["checkpoint"][key] in card
    assert content["checkpoint"]["made_by"]["code"]["commit"] in card
    assert "arXiv:2312.02151" in card


def test_one_seed_has_no_interval_and_no_curves_are_said(study: Study) -> None:
    contents = [c for c in demo_contents(study) if c["run"]["seed"] == 1]
    content = next(c for c in contents if (c["name"], c["epoch"]) == (NAME, 100))
    alone = model_card(content, "t", mean_curves(probe_table(contents)), read_citation())
    assert "no interval from one seed" in alone
    assert "not computed" in model_card(content, "t", pd.DataFrame(), read_citation())


def test_hostile_titles_and_class_names_are_text_in_a_card(
    study: Study, digits_folder: Path
) -> None:
    content = demo_contents(study)[5]
    manifest = Manifest.model_validate_json((digits_folder / "manifest.json").read_bytes())
    hostile = {"title": HOSTILE, "licence": HOSTILE, "source": HOSTILE, "classes": (HOSTILE,) * 10}
    content["run"]["data"] = {"name": "no", "path": "x", "stored_size": 8, "fraction": 0.5}
    curves = mean_curves(probe_table(demo_contents(study)))
    images = manifest.model_copy(update=hostile)
    card = model_card(content, HOSTILE, curves, read_citation(), images)
    for version in ("1.1", "1.2"):  # in YAML 1.1 a bare `no` is false
        fields = front_matter(card, version)
        assert fields["datasets"] == ["no"]
        assert fields["license"] == "mit"
        dataset = fields["model-index"][0]["results"][0]["dataset"]
        assert dataset == {"type": "no", "name": HOSTILE, "split": "test"}
    body = card.split("\n---\n", 1)[1]
    assert "<script" not in body
    for line in body.splitlines():
        if line.startswith("|"):
            cells = re.sub(r"\\.", "", line).strip("|").split("|")
            assert len(cells) in (2, 5), line
        assert line != "---"
        assert not line.startswith("license")
    assert "50 % of it" in body


def test_hostile_names_stay_within_their_string_of_the_code(study: Study) -> None:
    content = demo_contents(study)[5]
    content["study"] = '"); import os  # \n```\n<b>'
    card = model_card(content, "t", pd.DataFrame(), read_citation())
    assert "import os" not in [line.strip() for line in code_of(card).splitlines()]
    compile(code_of(card), "card", "exec")
    (literal,) = re.findall(r"^path = Path\((.*)\)$", code_of(card), re.MULTILINE)
    assert json.loads(literal).startswith("results/" + content["study"])


def test_a_card_of_a_manifest_has_no_results(workspace: Path, study: Study) -> None:
    content = milestone_of(NAME, 100)
    manifest = {"format": 1, "study": "demo", "run": content["run"], **content["checkpoint"]}
    card = model_card(content_of(manifest), "t", pd.DataFrame(), read_citation())
    assert "Not probed." in card
    assert "model-index" not in front_matter(card, "1.2")
    shutil.rmtree("results/demo/runs")
    with pytest.raises(StoredError, match=rf"neither a result nor a manifest of {NAME} at any"):
        card_of("demo", study, NAME)
    with pytest.raises(StoredError, match=r"at epoch 7 is here. Milestones: 0, 5, 10, 25, 50, 100"):
        card_of("demo", study, NAME, 7)
    folder = of_run("checkpoints", "demo", NAME)
    folder.mkdir(parents=True)
    (folder / "epoch_0100.json").write_text(json.dumps(manifest))
    assert "Not probed." in card_of("demo", study, NAME)


def test_imported_weights_claim_no_licence_and_no_training_here(study: Study) -> None:
    text = json.loads(study.model_dump_json()) | {
        "foreign": {
            "published": {
                "layout": "torchvision",
                "files": {"7": "w.pth"},
                "backbone": {"name": "resnet18", "stem": "3x3"},
            }
        }
    }
    (run,) = Study.model_validate_json(json.dumps(text)).imported()
    content = demo_contents(study)[5]
    origin = {"file": "w.pth", "file_sha256": "f" * 64}
    content |= {"name": run.name, "epoch": 7, "run": run.model_dump(mode="json")}
    content["checkpoint"] |= {"parent": None, "made_by": content["checkpoint"]["made_by"] | origin}
    card = model_card(content, "t", pd.DataFrame(), read_citation())
    assert front_matter(card, "1.2")["license"] == "unknown"
    assert "trained elsewhere" in card
    assert "f" * 64 in card
    assert "The weights' licence is that of their authors" in card


# --- TensorBoard and DVCLive


@pytest.fixture
def seed_one(study: Study) -> Study:
    """The demo's runs with its first seed; all that a history knows is of one run."""
    return study.model_copy(update={"seeds": (1,)})


class Absent(importlib.abc.MetaPathFinder):
    """Makes a package impossible to import, as if it had not been installed."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> None:
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}")


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def remove(package: str) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "meta_path", [Absent(package), *sys.meta_path])

    return remove


def scalars(folder: Path) -> dict[str, list[tuple[int, float, float]]]:
    """What TensorBoard itself reads: by tag, (step, wall time, value)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, event.wall_time, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def plotted(folder: Path) -> dict[str, list[tuple[int, str]]]:
    """What DVCLive's files hold: by name, (step, value)."""
    metrics = folder / "plots/metrics"
    found = {}
    for path in metrics.rglob("*.tsv"):
        with path.open() as file:
            _, *rows = csv.reader(file, delimiter="\t")
        name = path.relative_to(metrics).as_posix().removesuffix(".tsv")
        found[name] = [(int(step), value) for step, value in rows]
    return found


def _name(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


def wandb_rows(folder: Path) -> list[dict[str, Any]]:
    """What W&B's own file of a run holds: each row that was logged.

    The file is LevelDB's log after a head of 7 bytes; its records are W&B's own messages.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    content, place, told, rows = file.read_bytes(), 7, b"", []
    while place + 7 <= len(content):
        if 0x8000 - place % 0x8000 < 7:  # no head of a record fits into what is left of the block
            place += 0x8000 - place % 0x8000
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        told += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            items = Record.FromString(told).history.item
            if row := {_name(item): json.loads(item.value_json) for item in items}:
                rows.append(row)
            told = b""
    return rows


def test_tensorboard_reads_back_what_is_stored(workspace: Path, seed_one: Study) -> None:
    folders = track("demo", seed_one, "tensorboard", Path("runs"))
    assert [folder.name for folder in folders] == [run.name for run in seed_one.runs()]
    found = scalars(Path("runs") / NAME)
    lines = [
        json.loads(line)
        for path in sorted(JOB_FILES)
        if path.parent == Path(f"results/demo/training/{NAME}")
        for line in JOB_FILES[path].splitlines()
    ]
    assert [step for step, _, _ in found["training/loss"]] == list(range(1, 101))
    for (step, wall, value), line in zip(found["training/loss"], lines, strict=True):
        assert step == wall == line["epoch"]
        assert value == pytest.approx(line["loss"], rel=1e-6)
    accuracy = found["knn/test/top1/k=20 T=0.07"]
    for (step, _, value), content in zip(accuracy, demo_contents(seed_one), strict=False):
        assert step == content["epoch"]
        assert value == pytest.approx(recorded(content), rel=1e-6)
    content = demo_contents(seed_one)[5]
    (record,) = [
        r for r in content["signals"] if (r["space"], r["split"]) == ("projector", "validation")
    ]
    assert found["signals/projector/validation/rankme"][-1][2] == pytest.approx(
        record["values"]["rankme"], rel=1e-6
    )


def test_tensorboard_knows_the_parameters_of_each_run(workspace: Path, seed_one: Study) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    track("demo", seed_one, "tensorboard", Path("runs"))
    events = EventAccumulator(f"runs/{NAME}")
    events.Reload()
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    told = metadata.parse_session_start_info_plugin_data(content).hparams
    assert told["settings.lambda_bt"].number_value == 0.0078125
    assert told["method"].string_value == "bt"
    assert told["compiled"].bool_value is False
    assert told["projector.hidden"].string_value == "[128]"
    assert "data.path" not in told


def test_dvclive_holds_what_is_stored(workspace: Path, seed_one: Study) -> None:
    track("demo", seed_one, "dvclive", Path("live"))
    found = plotted(Path("live") / NAME)
    history = history_of("demo", seed_one, seed_one.run(NAME))
    expected: dict[str, list[tuple[int, float]]] = {}
    for point in history.points:
        expected.setdefault(point.name, []).append((point.step, point.value))
    assert {
        name: [(step, float(value)) for step, value in rows] for name, rows in found.items()
    } == expected
    assert [step for step, _ in found["training/loss"]] == list(range(1, 101))
    latest = json.loads((Path("live") / NAME / "metrics.json").read_text())
    assert latest["knn"]["test"]["top1"]["k=20 T=0.07"] == recorded(demo_contents(seed_one)[5])
    parameters = YAML(typ="safe", pure=True).load(Path("live") / NAME / "params.yaml")
    assert parameters["optimizer.weight_decay"] == 1e-6


def test_both_writers_tell_the_same_points(workspace: Path, seed_one: Study) -> None:
    for writer in SAME_BYTES:
        track("demo", seed_one, writer, Path(writer))
    for run in seed_one.runs():
        events = scalars(Path("tensorboard") / run.name)
        files = plotted(Path("dvclive") / run.name)
        assert set(events) == set(files)
        for name, rows in events.items():
            assert [step for step, _, _ in rows] == [step for step, _ in files[name]]


@pytest.mark.parametrize("writer", SAME_BYTES)
def test_writing_again_replaces_and_gives_the_same_bytes(
    workspace: Path, seed_one: Study, writer: str
) -> None:
    def written() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}

    track("demo", seed_one, writer, Path("out"))
    first = written()
    track("demo", seed_one, writer, Path("out"))
    assert written() == first
    # A study that goes on: fewer milestones then, more of them now.
    Path(f"results/demo/runs/{NAME}.jsonl").unlink()
    write(JOB_FILES)
    last = Path(f"results/demo/probes/{NAME}/epoch_0100.json")
    metrics = Path(f"results/demo/training/{NAME}/epoch_0100.jsonl")
    last.unlink()
    metrics.unlink()
    track("demo", seed_one, writer, Path("out"))
    assert written() != first
    last.write_bytes(JOB_FILES[last])
    metrics.write_bytes(JOB_FILES[metrics])
    track("demo", seed_one, writer, Path("out"))
    assert written() == first


def test_event_files_do_not_depend_on_the_process(workspace: Path, seed_one: Study) -> None:
    code = (
        "from pathlib import Path; from barlow_atlas.study.file import load_study;"
        "from barlow_atlas.tools.export.tracking import track;"
        "track('demo', load_study(Path('params/demo.yaml')), 'tensorboard', Path('there'))"
    )
    track("demo", seed_one, "tensorboard", Path("here"))
    seed = {"PYTHONHASHSEED": "7", "PATH": os.environ["PATH"]}
    subprocess.run([sys.executable, "-c", code], check=True, env=seed)
    for run in seed_one.runs():
        here, there = (Path(place) / run.name / EVENTS for place in ("here", "there"))
        assert here.read_bytes() == there.read_bytes()


def test_a_study_that_still_runs_has_what_it_has(workspace: Path, seed_one: Study) -> None:
    shutil.rmtree("results/demo/runs")
    write(JOB_FILES, "training")
    for run in seed_one.runs()[1:]:
        shutil.rmtree(f"results/demo/training/{run.name}")
    assert track("demo", seed_one, "tensorboard", Path("runs")) == [Path("runs") / NAME]
    assert set(scalars(Path("runs") / NAME)) == {
        f"training/{term}" for term in ("loss", "invariance", "redundancy", "learning_rate")
    }
    shutil.rmtree("results/demo/training")
    with pytest.raises(TrackingError, match="nothing of demo is stored yet"):
        track("demo", seed_one, "tensorboard", Path("runs"))


def test_a_signal_that_is_not_defined_is_left_out(workspace: Path, seed_one: Study) -> None:
    path = Path(f"results/demo/probes/{NAME}/epoch_0000.json")
    content = json.loads(JOB_FILES[path])
    for record in content["signals"]:
        record["values"]["alpha_req"] = None
    write({path: json.dumps(content).encode()})
    history = history_of("demo", seed_one, seed_one.run(NAME))
    epochs = [p.step for p in history.points if p.name == "signals/backbone/train/alpha_req"]
    assert epochs == [5, 10, 25, 50, 100]


def test_names_from_files_make_no_way_out_of_the_folder(workspace: Path, seed_one: Study) -> None:
    path = Path(f"results/demo/probes/{NAME}/epoch_0000.json")
    content = json.loads(JOB_FILES[path])
    content["signals"][0] |= {"space": "../../../..", "split": "/etc", "values": {"a\nb": 1.0}}
    write({path: json.dumps(content).encode()})
    track("demo", seed_one, "dvclive", Path("live"))
    files = list(Path().rglob("a_b.tsv"))
    assert files == [Path(f"live/{NAME}/plots/metrics/signals/__.._.._../_etc/a_b.tsv")]


@pytest.mark.parametrize("writer", list(WRITERS))
def test_what_somebody_else_wrote_is_not_replaced(
    workspace: Path, seed_one: Study, writer: str
) -> None:
    mine = Path("out") / NAME / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(TrackingError, match=rf"{NAME} holds mine.txt, which this writer did not"):
        track("demo", seed_one, writer, Path("out"))
    assert mine.read_text() == "mine"


def test_dvclive_touches_nothing_but_its_folder(
    workspace: Path, seed_one: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a git repository without DVC, where DVCLive by itself would set it up."""
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "all"]):
        subprocess.run([*git, *arguments], check=True)
    monkeypatch.setenv("DVC_STUDIO_TOKEN", "t")
    monkeypatch.setenv("DVCLIVE_RESUME", "true")
    before = dict(os.environ)
    track("demo", seed_one, "dvclive", Path("live"))
    assert dict(os.environ) == before
    assert Path.cwd() == workspace
    status = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True)
    assert status.stdout == "?? live/\n"
    assert not Path(".dvc").exists()
    refs = subprocess.run(["git", "for-each-ref"], capture_output=True, text=True).stdout
    assert len(refs.splitlines()) == 1


@pytest.mark.parametrize(
    ("writer", "package"),
    [("tensorboard", "tensorboard"), ("dvclive", "dvclive"), ("wandb", "wandb")],
)
def test_a_missing_package_is_named_with_its_remedy(
    workspace: Path, seed_one: Study, without: Callable[[str], None], writer: str, package: str
) -> None:
    without(package)
    remedy = re.escape("pip install 'barlow-atlas[tracking]'")
    with pytest.raises(TrackingError, match=rf"^{package} is not installed .*{remedy}"):
        track("demo", seed_one, writer, Path("out"))
    assert not list(Path("out").glob("*"))


def test_an_unknown_writer_is_refused(workspace: Path, seed_one: Study) -> None:
    with pytest.raises(
        TrackingError, match=r"unknown writer 'mlflow'\. Known: tensorboard, dvclive, wandb"
    ):
        track("demo", seed_one, "mlflow", Path("out"))


def test_the_command_line_knows_all_writers() -> None:
    assert tuple(WRITERS) == TRACKERS


LINE = '{"time": "t", "run": "%s", "epoch": %d, "step": 2, "of": 3, "loss": %s}\n'


@pytest.mark.parametrize("writer", SAME_BYTES)
def test_a_study_is_followed_while_it_runs(workspace: Path, seed_one: Study, writer: str) -> None:
    """What its segments say now, then what they have stored, each point once."""
    shutil.rmtree("results/demo/runs")
    log = Path(f"logs/demo/pretrain/{NAME}/epoch_0010.log")  # of the first three milestones
    log.parent.mkdir(parents=True)
    log.write_text("no JSON\n" + LINE % (NAME, 1, 0.5) + LINE[:20])
    stages = iter([lambda: None, lambda: log.write_text(log.read_text()), lambda: None])

    def goes_on(seconds: float) -> bool:
        stage = next(stages, None)
        if stage is None:
            return True
        stage()
        with log.open("a") as file:
            file.write("\n" + LINE % (NAME, 2, 0.25))
        write({path: text for path, text in JOB_FILES.items() if NAME in str(path)}, "training")
        return False

    assert follow("demo", seed_one, writer, Path("out"), goes_on) == [Path("out") / NAME]
    found = scalars(Path("out") / NAME) if writer == "tensorboard" else plotted(Path("out") / NAME)
    assert [row[0] for row in found["training/loss"]] == list(range(1, 101))
    assert [(row[0], float(row[-1])) for row in found["now/loss"]] == [(2, 0.5), (5, 0.25)]


def test_a_run_is_tracked_to_its_end_by_a_process_of_its_own(workspace: Path) -> None:
    with tracked(["demo"], "tensorboard"):
        pass
    assert len(scalars(Path("logs/tracking/tensorboard/demo") / NAME)["training/loss"]) == 100


def test_a_tracker_that_fails_costs_a_study_nothing(
    workspace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    somebodys = Path("logs/tracking/tensorboard/demo") / NAME / "mine.txt"
    somebodys.parent.mkdir(parents=True)
    somebodys.write_text("mine")
    with tracked(["demo"], "tensorboard"):
        pass
    told = capfd.readouterr()
    assert "holds mine.txt, which this writer did not write" in told.err
    assert "tensorboard was not told all: logs/tracking/tensorboard/demo" in told.out


def test_wandb_writes_a_run_a_run_and_sends_nothing(
    workspace: Path, seed_one: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="W&B is not installed: barlow-atlas[tracking]")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    track("demo", seed_one, "wandb", Path("out"))
    history = history_of("demo", seed_one, seed_one.run(NAME))
    rows = wandb_rows(Path("out") / NAME)
    written = {(row["epoch"], name): row[name] for row in rows for name in row if "/" in name}
    assert written == {(point.step, point.name): point.value for point in history.points}
