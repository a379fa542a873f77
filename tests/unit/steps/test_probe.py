"""What an evaluation that was ended goes on from."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from barlow_atlas.data.catalog import resolve
from barlow_atlas.data.preparation import prepare
from barlow_atlas.probes.transfer import Transfer
from barlow_atlas.steps.probe import follows_from
from barlow_atlas.study.file import load_study
from barlow_atlas.study.paths import DATA


def test_it_goes_on_with_the_same_weights_images_and_facts_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study(Path("params/demo.yaml"))
    monkeypatch.chdir(tmp_path)
    prepare(resolve("digits"), DATA / "digits", Path("raw"))
    milestone: Any = SimpleNamespace(lineage="a")
    known = {follows_from(milestone, study)}
    assert follows_from(milestone, study) in known

    def is_new() -> bool:
        found = follows_from(milestone, study)
        new = found not in known
        known.add(found)
        return new

    milestone.lineage = "b"
    assert is_new()
    (DATA / "digits/label_lists.json").write_text("{}")
    assert is_new()
    with (DATA / "digits/manifest.json").open("a") as manifest:
        manifest.write(" ")
    assert is_new()
    study = study.model_copy(
        update={
            "probes": study.probes.model_copy(update={"transfer": (Transfer(targets=["mnist"]),)})
        }
    )
    assert is_new()
    (DATA / "mnist-8").mkdir()
    (DATA / "mnist-8/manifest.json").write_text("{}")
    assert is_new()
    monkeypatch.setattr(Transfer, "facts", lambda _: ("another mean",))
    assert is_new()
