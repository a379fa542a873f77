"""Milestones of another study, asked for more than its own probes, from Snakemake to the page.

Fine-tuning on few labels, and on a made VOC in the official layout SVMs and detection.
"""

import json
from base64 import urlsafe_b64decode
from pathlib import Path

import pandas as pd
import pytest
from fresh_clone import Checkout
from small_data import voc_images, write_voc

STUDY = """\
base: small.yaml
title: Evaluations
milestones_from: small
methods: {bt: {objective: barlow_twins, lambda_bt: 0.0078125}}
seeds: [1]
milestones: [0, 6]
probes:
  fine_tuned: {labels: 0.1, epochs: 2, batch_size: 32, backbone_rates: [0.01], head_rates: [0.1]}
  svm: {targets: [voc07], costs: [1.0], folds: 2}
  detection:
    target: voc0712
    detector:
      {short_sides: [32], long_side: 40, anchors: [8], proposals: 9, test_proposals: 9, regions: 8}
    training: {iterations: 3, batch_size: 2, learning_rate: 0.01, warmup: 2, drops: []}
"""
VARIANTS = {
    "fine_tuned": {"10% standard"},
    "svm": {"voc07 mAP"},
    "detection": {"voc0712 c4 3 11-point AP", "voc0712 c4 3 area AP"},
}
METRICS = {"fine_tuned": {"top1", "top5"}, "svm": {"map"}, "detection": {"ap", "ap50", "ap75"}}
RUN = "bt-d64-e6-clean-s1"
PAGE = "reports/evaluations/index.html"
CALL = ("--config", "study=evaluations", "--", PAGE)

pytestmark = pytest.mark.slow


def write_small_voc(folder: Path) -> None:
    """VOC of both years, with counts to match in the catalogue of a clone."""
    devkit = folder / "results/data/raw/VOCdevkit"
    write_voc(devkit / "VOC2007", "trainval", voc_images(1, 4))
    write_voc(devkit / "VOC2007", "test", voc_images(10_001))
    write_voc(devkit / "VOC2012", "trainval", voc_images(20_001))
    catalog = folder / "src/barlow_atlas/data/catalog.py"
    facts = catalog.read_text()
    for official, small in (
        ("5_011, test=4_952", "41, test=11"),
        ("16_551, test=4_952", "52, test=11"),
    ):
        assert facts.count(official) == 1
        facts = facts.replace(official, small)
    catalog.write_text(facts)


def forget_all_but_data(folder: Path) -> None:
    """Removes Snakemake's records, which name their files in base64, of all but prepared data."""
    for record in (folder / ".snakemake/metadata").iterdir():
        if not urlsafe_b64decode(record.name).startswith(b"results/data/"):
            record.unlink()


def test_another_studys_milestones_are_taken_and_asked(finished: Checkout) -> None:
    write_small_voc(finished.folder)
    (finished.folder / "params/evaluations.yaml").write_text(STUDY)
    gone = finished.folder / f"results/small/checkpoints/{RUN}/epoch_0006.json"
    aside = gone.rename(gone.with_suffix(".aside"))
    done = finished.run("snakemake", "--profile", "profiles/local", "--dry-run", *CALL)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "`dvc pull results/small/checkpoints` brings it" in said
    assert "--config study=small,evaluations" in said
    aside.rename(gone)

    planned = finished.plan(*CALL)
    assert (planned["take_milestone"], planned["probe"], planned["prepare_data"]) == (2, 2, 2)
    assert "pretrain" not in planned
    finished.snakemake(*CALL)
    taken = finished.folder / f"results/evaluations/checkpoints/{RUN}/epoch_0006.json"
    assert taken.read_bytes() == gone.read_bytes()
    assert json.loads(taken.read_text())["study"] == "small"
    tidy = pd.read_csv(finished.folder / "results/evaluations/probes.csv")
    by_probe = tidy.groupby("probe")
    assert by_probe["variant"].agg(set).to_dict() == VARIANTS
    assert by_probe["metric"].agg(set).to_dict() == METRICS
    assert tidy["value"].between(0, 100).all()
    assert set(tidy["epoch"]) == {0, 6}
    names = {variant for variants in VARIANTS.values() for variant in variants}
    for table in ("curves.csv", "metrics.json", "accuracy.csv"):
        text = (finished.folder / "results/evaluations" / table).read_text()
        assert all(variant in text for variant in names), table
    page = (finished.folder / PAGE).read_text()
    assert all(variant in page for variant in names)

    verify = ("python", "-m", "barlow_atlas", "checkpoint", "verify", RUN)
    verified = finished.run(*verify, "--study", "evaluations")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    # As after a pull: what is here is known again, and nothing is taken or asked anew.
    forget_all_but_data(finished.folder)
    adopted = finished.run("python", "-m", "barlow_atlas", "adopt", "--study", "evaluations")
    assert adopted.returncode == 0, adopted.stdout + adopted.stderr
    assert not {"take_milestone", "probe"} & finished.plan(*CALL).keys()
