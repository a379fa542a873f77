"""SVMs and detection on a made VOC and COCO in the official layouts, from files to the page.

COCO has a crowd and an image without objects in each part, and its masks are learnt as well.
"""

from pathlib import Path

import pandas as pd
import pytest
from fresh_clone import Checkout
from small_data import small_coco, voc_images, write_voc

STUDY = """\
base: small.yaml
title: Evaluations
milestones_from: small
methods: {bt: {objective: barlow_twins, lambda_bt: 0.0078125}}
seeds: [1]
milestones: [0, 6]
probes:
  svm: {targets: [voc07], costs: [1.0], folds: 2}
  detection:
    - target: voc0712
      detector: &tiny
        short_sides: [32]
        long_side: 40
        anchors: [8]
        proposals: 9
        test_proposals: 9
        regions: 8
      training: &few {iterations: 3, batch_size: 2, learning_rate: 0.01, warmup: 2, drops: []}
    - {target: coco, detector: {<<: *tiny, masks: true}, training: *few}
"""
VARIANTS = {
    "svm": {"voc07 mAP"},
    "detection": {
        *("voc0712 c4 3 11-point AP", "voc0712 c4 3 area AP"),
        *("coco c4 3 boxes AP", "coco c4 3 masks AP"),
    },
}
METRICS = {"svm": {"map"}, "detection": {"ap", "ap50", "ap75"}}
PAGE = "reports/evaluations/index.html"
CALL = ("--config", "study=evaluations", "--", PAGE)

pytestmark = pytest.mark.slow


COCO_IMAGES = 20


def write_small_sets(folder: Path) -> None:
    """VOC of both years and COCO, with counts to match in the catalogue of a clone."""
    raw = folder / "results/data/raw"
    small_coco(raw, COCO_IMAGES)
    devkit = raw / "VOCdevkit"
    write_voc(devkit / "VOC2007", "trainval", voc_images(1, 4))
    write_voc(devkit / "VOC2007", "test", voc_images(10_001))
    write_voc(devkit / "VOC2012", "trainval", voc_images(20_001))
    catalog = folder / "src/barlow_atlas/data/catalog.py"
    facts = catalog.read_text()
    for official, small in (
        ("5_011, test=4_952", "41, test=11"),
        ("16_551, test=4_952", "52, test=11"),
        ("118_287, test=5_000", f"{COCO_IMAGES}, test=2"),
        ("classes=80", "classes=2"),
    ):
        assert facts.count(official) == 1
        facts = facts.replace(official, small)
    catalog.write_text(facts)


def test_average_precisions_reach_the_page(finished: Checkout) -> None:
    pytest.importorskip("pycocotools")
    write_small_sets(finished.folder)
    (finished.folder / "params/evaluations.yaml").write_text(STUDY)
    planned = finished.plan(*CALL)
    assert (planned["take_milestone"], planned["probe"], planned["prepare_data"]) == (2, 2, 3)
    finished.snakemake(*CALL)
    tidy = pd.read_csv(finished.folder / "results/evaluations/probes.csv")
    by_probe = tidy.groupby("probe")
    assert by_probe["variant"].agg(set).to_dict() == VARIANTS
    assert by_probe["metric"].agg(set).to_dict() == METRICS
    assert tidy["value"].between(0, 100).all()
    assert set(tidy["epoch"]) == {0, 6}
    names = {variant for variants in VARIANTS.values() for variant in variants}
    for table in ("curves.csv", "accuracy.csv"):
        text = (finished.folder / "results/evaluations" / table).read_text()
        assert all(variant in text for variant in names), table
    page = (finished.folder / PAGE).read_text()
    assert all(variant in page for variant in names)
