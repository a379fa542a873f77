"""The evaluations on made data sets in the official layouts, from files to the page.

SVMs and detection on VOC and COCO, by detectors that two processes train; COCO's parts have a crowd
and an image without objects each, and its masks are learnt as well. VISSL's linear evaluation on
Places205 and iNaturalist 2018. A published list of labels, and linear transfer in both protocols.
"""

from pathlib import Path

import pandas as pd
import pytest
from fresh_clone import Checkout
from photographs import CLASSES, class_folders
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
  transfer: {targets: [places205], epochs: 2, batch_size: 4}
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
LISTED = """\
base: imagenette.yaml
title: A list of labels
data: {name: pictures, path: pictures, stored: original}
image_size: 16
backbone: {name: small, stem: 3x3, width: 8}
projector: {hidden: [16]}
methods: {bt: {objective: barlow_twins, lambda_bt: 0.0078125}}
embedding_dims: [16]
epochs: 2
batch_size: 6
schedule: {name: mix_cosine, base_lr: 0.01, warmup_epochs: 1}
milestones: [0, 2]
protocol: reference
probes:
  fine_tuned: {labels: 1percent, form: bt-paper, epochs: 2, batch_size: 3}
  transfer: {targets: [places205], epochs: 2, batch_size: 4}
threads: 1
"""
STUDIES = {"evaluations": STUDY, "crops": CROPS, "listed": LISTED}
BOTH = ("", " best on test")
OF_STUDY = {
    "evaluations": {"transfer": {"places205"}},
    "crops": {
        "transfer": {
            f"{target} vissl{rule}" for target in ("places205", "inaturalist-2018") for rule in BOTH
        }
    },
    "listed": {
        "fine_tuned": {f"1percent bt-paper{rule}" for rule in BOTH},
        "transfer": {f"places205{rule}" for rule in BOTH},
    },
}
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
}
METRICS = {
    "svm": {"map"},
    "detection": {"ap"},
    "transfer": {"top1", "top5"},
    "fine_tuned": {"top1", "top5"},
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
    pictures = class_folders(finished.folder / "pictures")
    listed = "".join(f"{name}_{k}.JPEG\n" for name in CLASSES for k in (0, 3))
    (pictures / "1percent.txt").write_text(listed)
    for study, content in STUDIES.items():
        (finished.folder / f"params/{study}.yaml").write_text(content)
    planned = finished.plan(*CALL)
    kinds = ("take_milestone", "pretrain", "probe", "prepare_data")
    assert [planned[kind] for kind in kinds] == [2, 4, 6, 8]
    finished.snakemake(*CALL)
    for study, page in zip(STUDIES, PAGES, strict=True):
        told = finished.folder / "results" / study
        tidy = pd.read_csv(told / "probes.csv")
        by_probe = tidy.groupby("probe")
        variants = by_probe["variant"].agg(set).to_dict()
        expected = OF_STUDY[study] | (VARIANTS if study == "evaluations" else {})
        assert variants == expected
        assert by_probe["metric"].agg(set).to_dict() == {kind: METRICS[kind] for kind in variants}
        assert tidy["value"].between(0, 100).all()
        assert set(tidy["epoch"]) == {0, 2 if study == "listed" else 6}
        names = set().union(*variants.values())
        for table in ("curves.csv", "accuracy.csv"):
            text = (told / table).read_text()
            assert all(variant in text for variant in names), table
        shown = (finished.folder / page).read_text()
        assert all(variant in shown for variant in names)
