"""Tidy tables, mean curves and their intervals."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from barlow_atlas.atlas.curves import (
    accuracy_columns,
    headline,
    mean_curves,
    peak_epoch,
    t_half_width,
)
from barlow_atlas.atlas.frames import (
    COLUMNS,
    CURVE,
    SIGNAL_COLUMNS,
    UnknownProbe,
    labels,
    probe_table,
    signal_table,
)

SETTINGS = {"k": 20, "temperature": 0.07, "distance": "cosine", "feature": "backbone"}
EPOCHS = (0, 10, 20)
# Validation peaks at 10, and so must the headline, although the test is best at 20.
VALUES = {"validation": (30, 60, 50), "test": (29, 55, 57)}


def content_of(method: str, seed: int, epoch: int) -> dict[str, Any]:
    place = EPOCHS.index(epoch)
    return {
        "study": "s",
        "name": f"{method}-{seed}",
        "epoch": epoch,
        "run": {
            "method": method,
            "embedding_dim": 64,
            "epochs": 20,
            "protocol": "clean",
            "seed": seed,
            "settings": {
                "objective": "mixed_barlow_twins",
                "lambda_bt": 0.0078125,
                "lambda_reg": 4.0,
                "convention": "small-data",
            },
        },
        "results": [
            {
                "probe": "knn",
                "settings": SETTINGS,
                "split": split,
                "count": 100,
                "top1": values[place] + seed,
                "top5": 99.0,
            }
            for split, values in VALUES.items()
        ],
        "signals": [
            {
                "split": split,
                "space": space,
                "count": 96,
                "settings": {"batch_size": 32, "lambda_bt": 1 / 128},
                "values": {"rankme": 10.0 + seed, "alpha_req": None if epoch == 0 else 1.0},
            }
            for split in ("train", "validation")
            for space in ("backbone", "projector")
        ],
    }


@pytest.fixture
def tidy() -> pd.DataFrame:
    return probe_table(
        content_of(method, seed, epoch)
        for method in ("bt", "mix")
        for seed in (1, 2, 3)
        for epoch in EPOCHS
    )


def test_one_row_for_each_run_epoch_probe_split_and_metric(tidy: pd.DataFrame) -> None:
    assert list(tidy.columns) == COLUMNS
    assert len(tidy) == 2 * 3 * 3 * 2 * 2
    assert not tidy.duplicated(["run", "epoch", "probe", "setting", "split", "metric"]).any()
    assert set(tidy["setting"]) == {"k=20 T=0.07 cosine backbone"}


def test_one_row_for_each_signal(tmp_path: Path) -> None:
    signals = signal_table(content_of("bt", seed, epoch) for seed in (1, 2) for epoch in EPOCHS)
    assert list(signals.columns) == SIGNAL_COLUMNS
    assert len(signals) == 2 * 3 * 2 * 2 * 2
    assert not signals.duplicated(["run", "epoch", "split", "space", "signal"]).any()
    assert set(signals[signals["signal"] == "rankme"]["value"]) == {11.0, 12.0}
    alpha = signals[signals["signal"] == "alpha_req"].set_index("epoch")["value"]
    assert alpha[0].isna().all()
    assert (alpha[10] == 1).all()
    signals.to_csv(tmp_path / "signals.csv", index=False)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "signals.csv"), signals, check_dtype=False)


def test_imported_weights_keep_their_place_in_every_table() -> None:
    """Such a run has no width, no epochs and nothing of a training."""
    content = content_of("published", 1, 0)
    content["run"] = {
        "data": {"name": "cifar10"},
        "image_size": 32,
        "recipe": {},
        "backbone": {"name": "resnet18"},
        "method": "published",
        "layout": "torchvision",
        "embedding_dim": None,
        "protocol": "clean",
        "threads": 1,
        "seed": 1,
    }
    contents = [content, content_of("bt", 1, 0)]
    for table in (probe_table(contents), signal_table(contents)):
        assert set(table["method"]) == {"published", "bt"}
        assert set(table[table["method"] == "published"]["embedding_dim"]) == {0}
        for column in {"embedding_dim", "epochs", "seed", "epoch", "count"} & set(table):
            assert table[column].dtype.kind == "i"
    curves = mean_curves(probe_table(contents))
    assert set(curves["method"]) == {"published", "bt"}


def test_the_interval_is_students_t(tidy: pd.DataFrame) -> None:
    curves = mean_curves(tidy)
    row = curves.query("method == 'bt' and epoch == 10 and split == 'test' and metric == 'top1'")
    expected = stats.ttest_1samp([56, 57, 58], 0).confidence_interval(0.95)
    assert row[["mean", "low", "high"]].to_numpy()[0] == pytest.approx([57, *expected])
    assert int(row["seeds"].iloc[0]) == 3


def test_a_single_seed_has_no_interval(tidy: pd.DataFrame) -> None:
    assert np.isnan(t_half_width(float("nan"), 1))
    curves = mean_curves(tidy[tidy["seed"] == 1])
    assert curves["low"].isna().all()


def test_epochs_rise_where_the_first_seed_lacks_one(tidy: pd.DataFrame) -> None:
    there = tidy[(tidy["seed"] > 1) | (tidy["epoch"] != 10)]
    for _, curve in mean_curves(there).groupby([*CURVE, "metric"], sort=False):
        assert list(curve["epoch"]) == sorted(tidy["epoch"].unique())


def test_the_peak_is_chosen_on_validation_and_read_on_the_test(tidy: pd.DataFrame) -> None:
    found = headline(mean_curves(tidy))["bt-d64"]
    assert found == {"knn k=20 T=0.07": {"at_peak": 57.0, "last": 59.0}}


def test_of_equal_peaks_the_earliest_is_meant() -> None:
    """Whatever the order of the rows, and of the seeds in a sum."""
    curve = pd.DataFrame({"epoch": [50, 0, 25], "mean": [(0.1 + 0.2 + 0.3) / 3, 0.1, 0.2]})
    assert curve["mean"][0] > curve["mean"][2]
    assert peak_epoch(curve) == 25


def test_without_validation_there_is_no_peak(tidy: pd.DataFrame) -> None:
    found = headline(mean_curves(tidy[tidy["split"] == "test"]))
    assert found["mix-d64"] == {"knn k=20 T=0.07": {"last": 59.0}}


def test_columns_for_plotting_tools(tidy: pd.DataFrame) -> None:
    wide = accuracy_columns(mean_curves(tidy))
    assert list(wide.columns) == [
        "epoch",
        "bt-d64 knn k=20 T=0.07",
        "mix-d64 knn k=20 T=0.07",
    ]
    assert list(wide["mix-d64 knn k=20 T=0.07"]) == [31, 57, 59]


LINEAR = {
    "form": "imagenet",
    "epochs": 200,
    "optimizer": "sgd, momentum 0.9",
    "training_images": "cropped and flipped",
    "batch_norm": "running statistics",
    "feature": "backbone",
    "epoch_rule": "best on test",
    "chosen_on": "test",
}


def test_a_linear_setting_names_all_that_a_number_depends_on() -> None:
    assert labels({"probe": "linear", "settings": LINEAR}) == {
        "probe": "linear",
        "variant": "imagenet best on test",
        "setting": "imagenet best on test, 200 epochs, sgd, momentum 0.9, images cropped and "
        "flipped, BN running statistics, backbone, epoch: best on test, chosen on test",
    }
    last = LINEAR | {"epoch_rule": "last", "chosen_on": "nothing"}
    assert labels({"probe": "linear", "settings": last})["variant"] == "imagenet"


def test_answers_to_a_probe_that_is_not_here_are_named() -> None:
    with pytest.raises(UnknownProbe, match="'nearest_mean', which this code does not have"):
        labels({"probe": "nearest_mean", "settings": {}})


def test_an_objective_names_its_weights_and_convention(tidy: pd.DataFrame) -> None:
    (said,) = tidy["objective"].unique()
    assert said == ("mixed_barlow_twins lambda_bt=0.0078125 lambda_reg=4.0 convention=small-data")
