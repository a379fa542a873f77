"""Milestones of another study, taken and fine-tuned on few labels, from Snakemake to the page."""

import json

import pandas as pd
import pytest
from fresh_clone import Checkout

STUDY = """\
base: small.yaml
title: Few labels
milestones_from: small
methods: {bt: {objective: barlow_twins, lambda_bt: 0.0078125}}
seeds: [1]
milestones: [0, 6]
probes:
  fine_tuned: {labels: 0.1, epochs: 2, batch_size: 32, backbone_rates: [0.01], head_rates: [0.1]}
"""
RUN = "bt-d64-e6-clean-s1"
PAGE = "reports/few-labels/index.html"
CALL = ("--config", "study=few-labels", "--", PAGE)

pytestmark = pytest.mark.slow


def test_another_studys_milestones_are_taken_and_asked(finished: Checkout) -> None:
    (finished.folder / "params/few-labels.yaml").write_text(STUDY)
    gone = finished.folder / f"results/small/checkpoints/{RUN}/epoch_0006.json"
    aside = gone.rename(gone.with_suffix(".aside"))
    done = finished.run("snakemake", "--profile", "profiles/local", "--dry-run", *CALL)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "`dvc pull results/small/checkpoints` brings it" in said
    assert "--config study=small,few-labels" in said
    aside.rename(gone)

    planned = finished.plan(*CALL)
    assert (planned["take_milestone"], planned["probe"]) == (2, 2)
    assert "pretrain" not in planned
    finished.snakemake(*CALL)
    taken = finished.folder / f"results/few-labels/checkpoints/{RUN}/epoch_0006.json"
    assert taken.read_bytes() == gone.read_bytes()
    assert json.loads(taken.read_text())["study"] == "small"
    tidy = pd.read_csv(finished.folder / "results/few-labels/probes.csv")
    assert set(tidy["variant"]) == {"10% standard"}
    assert set(tidy["metric"]) == {"top1", "top5"}
    assert set(tidy["epoch"]) == {0, 6}
    assert "10% standard" in (finished.folder / PAGE).read_text()

    verify = ("python", "-m", "barlow_atlas", "checkpoint", "verify", RUN)
    verified = finished.run(*verify, "--study", "few-labels")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    # As after a pull: what is here is known again, and nothing is taken or asked anew.
    (finished.folder / ".snakemake/metadata").rename(finished.folder / ".snakemake/gone")
    adopted = finished.run("python", "-m", "barlow_atlas", "adopt", "--study", "few-labels")
    assert adopted.returncode == 0, adopted.stdout + adopted.stderr
    assert not {"take_milestone", "probe"} & finished.plan(*CALL).keys()
