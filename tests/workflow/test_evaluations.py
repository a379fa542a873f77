"""The evaluations on made data sets in the official layouts, from files to the page.

SVMs and detection on VOC and COCO, by detectors that two processes train; COCO's parts have a crowd
and an image without objects each, and its masks are learnt as well. VISSL's linear evaluation on
Places205 and iNaturalist 2018.
"""

from pathlib import Path

import pandas as pd
import pytest
from fresh_clone import Checkout
from small_data import (
    change_catalog,
    small_coco,
    small_inaturalist,
    small_places,
    write_voc_years,
)

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
resources:
  pretrain: {mem_mb: 2000, runtime: 30}
  probe: {tasks_per_node: 2, mem_mb: 4000, runtime: 30}
"""
CROPS = """\
base: small.yaml
title: Crops
protocol: reference
methods: {bt: {objective: barlow_twins, lambda_bt: 0.0078125}}
seeds: [1]
milestones: [0, 6]
probes:
  transfer:
    - {targets: [places205], form: vissl, epochs: 2, batch_size: 4}
    - {targets: [inaturalist-2018], form: vissl, epochs: 2, batch_size: 3}
"""
STUDIES = {"evaluations": STUDY, "crops": CROPS}
VARIANTS = {
    "svm": {"voc07 mAP"},
    "detection": {
        f"{told} AP{overlap}"
        for told in (
            "voc0712 c4 3 11-point",
            "voc0712 c4 3 area",
            "coco c4 3 boxes",
            "coco c4 3 masks",
        )
        for overlap in ("", "50", "75")
    },
    "transfer": {
        f"{target} vissl{rule}"
        for target in ("places205", "inaturalist-2018")
        for rule in ("", " best on test")
    },
}
METRICS = {
    "svm": {"map"},
    "detection": {"ap"},
    "transfer": {"top1", "top5"},
}
PAGES = [f"reports/{study}/index.html" for study in STUDIES]
CALL = ("--config", f"study={','.join(STUDIES)}", "--", *PAGES)

pytestmark = pytest.mark.slow


COCO_IMAGES = 20


def write_small_sets(folder: Path) -> None:
    """All data sets, with counts to match in the catalogue of a clone."""
    raw = folder / "results/data/raw"
    small_coco(raw, COCO_IMAGES)
    small_places(raw)
    small_inaturalist(raw)
    counts = (
        ("118_287, test=5_000", f"{COCO_IMAGES}, test=2"),
        ("classes=80", "classes=2"),
        ("2_448_873, test=20_500", "8, test=4"),
        ("classes=205", "classes=2"),
        ("437_513, test=24_426", "6, test=3"),
        ("classes=8_142", "classes=3"),
    )
    change_catalog(folder, *counts, *write_voc_years(raw))


def test_they_reach_the_page(finished: Checkout) -> None:
    pytest.importorskip("pycocotools")
    write_small_sets(finished.folder)
    for study, content in STUDIES.items():
        (finished.folder / f"params/{study}.yaml").write_text(content)
    planned = finished.plan(*CALL)
    kinds = ("take_milestone", "pretrain", "probe", "prepare_data")
    assert [planned[kind] for kind in kinds] == [2, 2, 4, 5]
    finished.snakemake(*CALL)
    for study, page in zip(STUDIES, PAGES, strict=True):
        told = finished.folder / "results" / study
        tidy = pd.read_csv(told / "probes.csv")
        by_probe = tidy.groupby("probe")
        variants = by_probe["variant"].agg(set).to_dict()
        assert variants == {probe: VARIANTS[probe] for probe in variants}
        assert by_probe["metric"].agg(set).to_dict() == {kind: METRICS[kind] for kind in variants}
        assert tidy["value"].between(0, 100).all()
        assert set(tidy["epoch"]) == {0, 6}
        names = set().union(*variants.values())
        for table in ("curves.csv", "accuracy.csv"):
            text = (told / table).read_text()
            assert all(variant in text for variant in names), table
        shown = (finished.folder / page).read_text()
        assert all(variant in shown for variant in names)
