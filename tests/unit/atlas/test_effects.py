"""Tables of effects: constructed lines with known answers, and the demo against plain loops."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from demo_results import RECORDED
from scipy import stats

from barlow_atlas.atlas.effects import (
    EFFECTS,
    LABEL_FREE,
    LOSSES,
    effects,
    factors,
    label_free,
    losses,
    peak_rate,
    typed,
)
from barlow_atlas.atlas.frames import LINE, probe_table, signal_table
from barlow_atlas.atlas.lines import Line, Precision, read_lines
from barlow_atlas.nn.optim import peak_rate as trained_peak_rate
from barlow_atlas.study.file import find_studies, load_study

IMAGES = 200
EPOCHS = (0, 10, 40)
RUN = {
    "data": {"name": "digits", "fraction": 1.0},
    "method": "bt",
    "embedding_dim": 64,
    "settings": {"objective": "barlow_twins", "lambda_bt": 0.01},
    "batch_size": 32,
    "backbone": {"name": "small", "width": 16},
    "optimizer": {"name": "adam", "weight_decay": 1e-6},
    "schedule": {"name": "drops", "base_lr": 0.001, "at": [-5]},
    "recipe": {"view_a": {"hue": 0.1}},
    "epochs": 40,
}
PEAKED = np.array([[50.0, 75, 70], [52, 78, 71], [51, 75, 66]])
RISING = np.array([[50.0, 70, 75], [52, 71, 78], [51, 66, 75]])


def bits(percent: np.ndarray) -> np.ndarray:
    """Bits (..., images) with exactly these accuracies: the first images are right."""
    return np.arange(IMAGES) < np.round(np.asarray(percent) * IMAGES / 100)[..., None]


def a_line(
    test: np.ndarray,
    validation: np.ndarray | None,
    changes: Mapping[str, Any] | None = None,
    *,
    seeds: Sequence[int] | None = None,
    milestones: Sequence[int] = EPOCHS,
    signals: Mapping[tuple[str, str, str], np.ndarray] | None = None,
) -> Line:
    run = RUN | dict(changes or {})
    return Line(
        study="made",
        method=run["method"],
        embedding_dim=run["embedding_dim"],
        epochs=run["epochs"],
        protocol="clean",
        objective=" ".join(f"{key}={value}" for key, value in run["settings"].items()),
        probe="knn",
        variant="k=1",
        setting="k=1 cosine",
        run=run,
        seeds=tuple(range(1, len(test) + 1) if seeds is None else seeds),
        milestones=np.array(milestones),
        validation=validation,
        correct=bits(test),
        signals=signals or {},
    )


def peaked(changes: Mapping[str, Any] | None = None, **others: Any) -> Line:
    """All validation curves have their peak at the second milestone."""
    return a_line(PEAKED, np.array([[60.0, 80, 70]] * 3), changes, **others)


def rising(changes: Mapping[str, Any] | None = None, **others: Any) -> Line:
    return a_line(RISING, np.array([[60.0, 70, 80]] * 3), changes, **others)


def precise(values: np.ndarray, **changes: Any) -> Precision:
    """Average precisions of a detector along `EPOCHS`."""
    line = vars(peaked(changes))
    names = [name for name in line if name not in ("validation", "correct", "signals")]
    named = {name: line[name] for name in names} | {"probe": "detection"}
    return Precision(**named, metric="AP", values=values)


def test_average_precisions_have_intervals_over_seeds() -> None:
    one, other = np.array([[10.0, 30, 41], [12, 33, 44], [9, 31, 47]]), PEAKED / 2
    table = effects([], [precise(one, **mix("mix", 1.0)), precise(other)])
    assert table["statistic"].value_counts().to_dict() == {
        **dict.fromkeys(("first", "gain", "last"), 2),
        "difference_last": 1,
    }
    told = of(table, "difference_last")
    values = other[:, -1] - one[:, -1]
    half = stats.t.ppf(0.975, 2) * stats.sem(values)
    assert (told["method"], told["against"], told["n"]) == ("bt", "mix", 3)
    assert told["estimate"] == pytest.approx(values.mean())
    assert [told["low"], told["high"]] == pytest.approx(
        [values.mean() - half, values.mean() + half]
    )
    assert "test AP (percent) at the last milestone" in told["how"]
    assert "new seeds on these images" in told["how"]
    of_bt = table[table["method"] == "bt"]
    gained = other[:, -1] - other[:, 0]
    assert of(of_bt, "gain")["estimate"] == pytest.approx(gained.mean())
    assert of(of_bt, "last")["estimate"] == pytest.approx(other[:, -1].mean())
    # One seed has no interval, and beside answers to each image it changes none of their rows.
    (alone,) = effects([], [precise(one[:1])]).query("statistic == 'last'").itertuples()
    assert np.isnan([alone.low, alone.high]).all()
    beside = effects([peaked()], [precise(one)])
    pd.testing.assert_frame_equal(
        beside[beside["probe"] == "knn"].reset_index(drop=True), effects([peaked()])
    )


def mix(name: str, lambda_reg: float, **others: Any) -> dict[str, Any]:
    settings = {"objective": "mixed", "lambda_bt": 0.01, "lambda_reg": lambda_reg}
    return {"method": name, "settings": settings, **others}


def of(table: pd.DataFrame, statistic: str) -> pd.Series:
    """The one row of a statistic."""
    rows = table[table["statistic"] == statistic]
    assert len(rows) == 1
    return rows.iloc[0]


def interval(images: np.ndarray) -> tuple[float, float]:
    """Mean over seeds of shares (n, images), where nothing is chosen; by loops."""
    n, count = images.shape
    values = images.mean(axis=1)
    rest = 0.0
    for s, i in product(range(n), range(count)):
        rest += (images[s, i] - values[s] - images[:, i].mean() + values.mean()) ** 2
    of_images = (images.mean(axis=0).var(ddof=1) - rest / (n - 1) / (count - 1) / n) / count
    over_seeds = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5
    half = np.hypot(over_seeds, stats.norm.ppf(0.975) * max(0, of_images) ** 0.5)
    return values.mean() - half, values.mean() + half


@pytest.fixture(scope="module")
def demo() -> list[Line]:
    study = load_study(Path("params/demo.yaml"))
    planned = {run.name: study.milestones_of(run) for run in study.runs()}
    return read_lines(RECORDED, planned)


def test_effects_of_a_known_line() -> None:
    table = effects([peaked()])
    estimates = table.set_index("statistic")["estimate"]
    assert list(estimates.index) == [
        *("first", "gain", "last", "peak", "drop", "drop_from_best", "area_lost", "onset")
    ]
    assert estimates["first":"drop_from_best"].tolist() == pytest.approx([51, 18, 69, 76, 7, 7])
    # From epoch 10 to 40 the loss grows from 0 to 5, 7 and 9 points.
    assert estimates["area_lost"] == pytest.approx(30 * 7 / 2)
    assert estimates["onset"] == 40
    units = table.set_index("statistic")["unit"]
    assert units[["first", "last", "peak"]].tolist() == ["%"] * 3
    assert units[["gain", "drop", "drop_from_best"]].tolist() == ["points"] * 3
    assert units[["area_lost", "onset"]].tolist() == ["points x epochs", "epoch"]
    assert (table["n"] == 3).all()
    assert (table["df"] == 2).all()
    assert table["p"].isna().all()
    assert (table["against"] == "").all()
    correct = 100.0 * bits(PEAKED)
    for statistic, shares in {
        "first": correct[:, 0],
        "peak": correct[:, 1],
        "gain": correct[:, 2] - correct[:, 0],
        "drop": correct[:, 1] - correct[:, 2],
    }.items():
        row = of(table, statistic)
        assert (row["low"], row["high"]) == pytest.approx(interval(shares))
        assert row["how"].count("3 seeds") == 1


def test_an_accuracy_is_between_0_and_100_percent() -> None:
    high = np.array([[1.0, 99, 99], [0, 100, 100], [1, 97, 97]])
    table = effects([a_line(high, high)])
    assert of(table, "first")["low"] == 0
    assert of(table, "last")["high"] == 100
    assert of(table, "peak")["high"] == 100
    assert of(table, "gain")["high"] > 98


def test_p_values_are_of_effects_that_could_be_0_and_need_six_seeds() -> None:
    table = effects([a_line(np.tile(PEAKED, (2, 1)), np.array([[60.0, 80, 70]] * 6))])
    table = table.set_index("statistic")
    p = table["p"]
    # All values have one sign: 2 of the 2^6 ways to give signs are as far from 0.
    tested = ["gain", "drop", "drop_from_best", "area_lost"]
    assert p[tested].tolist() == pytest.approx([2 / 64] * 4)
    assert p.drop(tested).isna().all()


def test_one_seed_has_no_interval_and_every_row_says_why() -> None:
    lines = [
        a_line(PEAKED[:1], PEAKED[:1], {"method": method, "embedding_dim": dim})
        for method, dim in product(("bt", "other"), (64, 128))
    ]
    table = effects(lines)
    of_networks = table["statistic"] == "difference_last_these_networks"
    assert table[of_networks]["how"].str.contains("nothing about other seeds").all()
    table = table[~of_networks]
    assert set(table["statistic"]) >= {"peak", "onset", "difference_drop", "trend_last"}
    assert table[["low", "high", "p"]].isna().all(axis=None)
    assert (table["n"] == 1).all()
    assert table["how"].str.contains("one seed, no interval").all()
    assert losses(lines)[["low", "high"]].isna().all(axis=None)


def test_without_validation_there_is_no_peak() -> None:
    lines = [
        a_line(PEAKED, None, {"method": method, "embedding_dim": dim})
        for method, dim in product(("bt", "other"), (64, 128))
    ]
    assert set(effects(lines)["statistic"]) == {
        *("first", "last", "gain", "trend_last"),
        *("difference_last", "difference_last_these_networks"),
    }
    assert losses(lines).empty
    signal = {("rankme", "backbone", "train"): np.array([[1.0, 2, 3]] * 3)}
    told = label_free([replace(lines[0], signals=signal)])
    assert set(told["statistic"]) == {"rank_correlation", "kept", "against_end"}


def test_an_imported_milestone_is_not_the_untrained_network() -> None:
    imported = a_line(PEAKED[:1, :1], PEAKED[:1, :1], {"embedding_dim": 0}, milestones=[1000])
    assert effects([imported])["statistic"].tolist() == ["last"]
    several = a_line(PEAKED[:1, 1:], PEAKED[:1, 1:], {"embedding_dim": 0}, milestones=[50, 90])
    assert not set(effects([several])["statistic"]) & {"first", "gain"}
    assert losses([imported]).empty


@pytest.mark.parametrize(
    ("make", "columns"), [(effects, EFFECTS), (losses, LOSSES), (label_free, LABEL_FREE)]
)
def test_an_empty_study_has_empty_tables_with_columns_and_types(make: Any, columns: Any) -> None:
    empty, full = make([]), make([peaked(signals={("rankme", "backbone", "train"): RISING})])
    assert list(empty.columns) == list(full.columns) == list(columns)
    assert len(full) > len(empty) == 0
    numbers = full.select_dtypes(exclude=["object", "str"]).columns
    assert (empty[numbers].dtypes == full[numbers].dtypes).all()


def test_tables_come_back_from_csv(demo: list[Line]) -> None:
    table = effects(demo)
    assert np.isinf(table["high"]).any()
    text = table.to_csv(index=False, float_format="%.6g")
    assert ",inf," in text
    back = pd.read_csv(io.StringIO(text)).fillna({"against": ""})
    for column in EFFECTS:
        if table[column].dtype == float:
            assert back[column].to_numpy() == pytest.approx(
                table[column].to_numpy(), rel=1e-5, nan_ok=True
            )
        else:
            assert back[column].tolist() == table[column].tolist()


def test_rounding_errors_are_not_written() -> None:
    """They differ between machines, and files shall not."""
    rows = [{"estimate": 0.1 + 0.2 - 0.3}, {"estimate": -1e-15}, {"estimate": 0.3}]
    text = typed(rows, ["estimate"]).to_csv(index=False, float_format="%.6g")
    assert text.split() == ["estimate", "0", "0", "0.3"]


def test_differences_are_paired_by_seed() -> None:
    table = effects([rising({"method": "mix"}), peaked()])
    last = of(table, "difference_last")
    assert (last["method"], last["against"], last["unit"]) == ("bt", "mix", "points")
    difference = 100.0 * (bits(PEAKED[:, 2]).astype(int) - bits(RISING[:, 2]))
    assert last["estimate"] == pytest.approx(difference.mean())
    assert (last["low"], last["high"]) == pytest.approx(interval(difference))
    assert of(table, "difference_drop")["estimate"] == pytest.approx(7 - 0)


def test_a_difference_of_drops_is_unsure_where_both_drops_from_the_best_are() -> None:
    """All choose the end, so both drops are surely 0; what the best milestones lose is not sure."""
    rng = np.random.default_rng(1)
    near = rng.random((2, 3, 3, IMAGES)) < np.array([0.5, 0.745, 0.75])[:, None]
    lines = [
        replace(rising({"method": method}), correct=correct)
        for method, correct in zip(("bt", "mix"), near, strict=True)
    ]
    table = effects(lines)
    sure, unsure = of(table, "difference_drop"), of(table, "difference_drop_from_best")
    assert (sure["estimate"], sure["low"], sure["high"]) == (0, 0, 0)
    assert unsure["estimate"] == 0
    best = table[table["statistic"] == "drop_from_best"].set_index("method")["high"]
    assert (unsure["low"], unsure["high"]) == pytest.approx((-best["mix"], best["bt"]))
    assert unsure["low"] < -0.1 < 0.1 < unsure["high"]


def test_the_same_difference_is_told_of_these_networks_alone() -> None:
    table = effects([rising({"method": "mix"}, seeds=(2, 3, 4)), peaked()])
    row = of(table, "difference_last_these_networks")
    # Seeds 2 and 3: rows 1 and 2 of `peaked`, 0 and 1 of `rising`.
    each = 100.0 * (bits(PEAKED[1:, 2]).astype(int) - bits(RISING[:2, 2]))
    expected = stats.ttest_1samp(each.mean(axis=0), 0).confidence_interval()
    assert (row["method"], row["against"], row["unit"]) == ("bt", "mix", "points")
    assert row["estimate"] == of(table, "difference_last")["estimate"]
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))
    assert row["n"] == IMAGES
    assert "these 2 networks" in row["how"]
    assert np.isnan(row["p"]), "McNemar's test compares two networks"


def test_one_seed_has_an_interval_of_its_networks_and_mcnemars_test() -> None:
    one = effects([peaked(seeds=(1, 2, 3)), rising({"method": "mix"}, seeds=(3, 4, 5))])
    row = of(one, "difference_last_these_networks")
    # Seed 3 has 66 % against 75 %: 18 of the 200 images, all on one side.
    assert row["estimate"] == pytest.approx(-9)
    assert row["low"] < row["estimate"] < row["high"] < 0
    assert row["p"] == pytest.approx(2 / 2**18, abs=1e-9)


def test_methods_are_compared_once_at_one_width_length_and_probe() -> None:
    three = [peaked({"method": name}) for name in ("c", "a", "b")]
    table = effects(three)
    pairs = table[table["statistic"] == "difference_last"]
    assert pairs[["method", "against"]].values.tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]
    for other in (
        rising({"method": "mix", "embedding_dim": 128}),
        rising({"method": "mix", "epochs": 80}),
        replace(rising({"method": "mix"}), setting="k=2", variant="k=2"),
        replace(rising({"method": "mix"}), protocol="reference"),
    ):
        assert not effects([peaked(), other])["statistic"].str.startswith("difference").any()


def test_no_two_methods_are_compared_between_which_a_third_one_stands() -> None:
    other = {"settings": {"objective": "mixed_barlow_twins", "lambda_reg": 4.0}}
    plain = {"recipe": {"view_a": {"hue": 0.0}}}
    cosine = {"schedule": {"name": "mix_cosine", "base_lr": 0.008}}
    faster = {"schedule": {**RUN["schedule"], "base_lr": 0.003}}  # type: ignore[dict-item]
    runs = {
        "bt": {},
        "mix": other,
        "bt-plain": plain,
        "mix-plain": {**other, **plain},
        "bt-cosine": cosine,
        "bt-faster": faster,
        "bt-slower": {"schedule": {**faster["schedule"], "base_lr": 0.0001}},
    }
    lines = [peaked({"method": name, **changes}) for name, changes in runs.items()]
    table = effects(lines)
    pairs = table[table["statistic"] == "difference_last"][["method", "against"]]
    assert {frozenset(pair) for pair in pairs.to_numpy()} == {
        *(frozenset(["bt", name]) for name in runs if name not in ("bt", "mix-plain")),
        frozenset(["bt-plain", "mix-plain"]),
        frozenset(["mix", "mix-plain"]),
        frozenset(["bt-faster", "bt-slower"]),
    }
    # Without the one that stands between them they are all that there is to compare.
    row = of(effects([lines[1], lines[2]]), "difference_last")
    assert (row["method"], row["against"]) == ("bt-plain", "mix")


def test_failed_seeds_are_left_out_of_what_is_compared_and_named() -> None:
    # Seed 2 would make the others choose the end; among 1 and 3 both choose epoch 10.
    whole = a_line(PEAKED, np.array([[60.0, 80, 70], [60, 50, 90], [60, 80, 70]]))
    part = rising({"method": "mix"}, seeds=(1, 3, 4))
    table = effects([whole, part])
    assert of(table[table["method"] == "bt"], "drop")["estimate"] == pytest.approx(8 - 8 + 7 / 3)
    last, drop = of(table, "difference_last"), of(table, "difference_drop")
    # Seeds 1 and 3 of `whole` are its rows 0 and 2, of `part` its rows 0 and 1.
    assert last["estimate"] == pytest.approx(np.mean([70 - 75, 66 - 78]))
    assert drop["estimate"] == pytest.approx(np.mean([75 - 70, 75 - 66]))
    assert (last["n"], last["df"], drop["n"]) == (2, 1, 2)
    assert "paired by seed (1, 3), without seeds that not all have (2, 4)" in last["how"]
    # Each line by itself keeps its own.
    assert table[table["statistic"] == "last"]["n"].tolist() == [3, 3]


def test_one_common_seed_gives_no_interval_and_none_gives_no_row() -> None:
    one = effects([peaked(), rising({"method": "mix"}, seeds=(3, 4, 5))])
    row = of(one, "difference_last")
    assert row["estimate"] == pytest.approx(66 - 75)
    assert row["n"] == 1
    assert np.isnan(row["low"])
    assert "one seed, no interval" in row["how"]
    none = effects([peaked(), rising({"method": "mix"}, seeds=(4, 5, 6))])
    assert not none["statistic"].str.startswith("difference").any()
    assert (none["statistic"] == "last").sum() == 2


def test_trend_over_widths() -> None:
    """Drop and end of known slope: last = 70 - k, drop = 5 + k at k doublings."""
    validation = np.array([[60.0, 80, 70]] * 3)
    lines = [
        a_line(np.array([[50.0, 75, 70 - k]] * 3), validation, {"embedding_dim": 64 * 2**k})
        for k in (4, 0, 2)
    ]
    table = effects(lines)
    last, drop = of(table, "trend_last"), of(table, "trend_drop")
    assert last["estimate"] == pytest.approx(-1)
    assert drop["estimate"] == pytest.approx(1)
    assert last["unit"] == "points per doubling"
    assert last["against"] == drop["against"] == "embedding_dim: 64, 256, 1024"
    assert (last["method"], last["embedding_dim"]) == ("bt", 64)
    shares = 100.0 * sum(
        weight * line.correct[:, 2] for weight, line in zip([2 / 8, -2 / 8, 0], lines, strict=True)
    )
    assert (last["low"], last["high"]) == pytest.approx(interval(shares))


def test_trend_over_lambda_reg_is_over_methods_and_without_0() -> None:
    validation = np.array([[60.0, 80, 70]] * 3)
    ends = {"mix-0": (0.0, 10), "mix-10": (10.0, 64), "mix-2_5": (2.5, 62), "mix-5": (5.0, 63)}
    lines = [
        a_line(np.array([[50.0, 75, end]] * 3), validation, mix(name, value))
        for name, (value, end) in ends.items()
    ]
    row = of(effects(lines), "trend_last")
    assert row["estimate"] == pytest.approx(1)
    assert row["against"] == "lambda_reg: 2.5, 5, 10"
    assert row["method"] == "mix-2_5 + mix-5 + mix-10"
    assert row["objective"].endswith("lambda_reg=2.5")


@pytest.mark.parametrize(
    ("changes", "against"),
    [
        ({"batch_size": 128}, "batch_size: 32, 128"),
        ({"data": {"name": "digits", "fraction": 0.25}}, "fraction: 0.25, 1"),
        ({"settings": {"objective": "barlow_twins", "lambda_bt": 0.04}}, "lambda_bt: 0.01, 0.04"),
        ({"epochs": 160}, "epochs: 40, 160"),
        ({"embedding_dim": 256}, "embedding_dim: 64, 256"),
        ({"backbone": {"name": "small", "width": 64}}, "width: 16, 64"),
        ({"optimizer": {"name": "adam", "weight_decay": 4e-6}}, "weight_decay: 1e-06, 4e-06"),
        ({"schedule": RUN["schedule"] | {"base_lr": 0.004}}, "base_lr: 0.001, 0.004"),
    ],
)
def test_trend_over_any_one_setting(changes: dict[str, Any], against: str) -> None:
    table = effects([peaked(), rising({"method": "b", **changes})])
    row = of(table, "trend_last")
    assert row["against"] == against
    # Two doublings up; of the fraction the other way.
    sign = -1 if "data" in changes else 1
    assert row["estimate"] == pytest.approx(sign * (76 - 69) / 2)
    assert row["method"] == ("b + bt" if sign < 0 else "bt + b")
    both = effects([peaked(), rising({"method": "b", **changes, "threads": 9})])
    assert not both["statistic"].str.startswith("trend").any()


def test_a_longer_run_is_read_at_its_own_end() -> None:
    test = np.array([[50.0, 75, 70, 60]] * 3)
    longer = a_line(test, test, {"epochs": 160}, milestones=[0, 10, 40, 160])
    table = effects([peaked(), longer])
    assert of(table, "trend_last")["estimate"] == pytest.approx((60 - 69) / 2)
    assert of(table, "trend_drop")["estimate"] == pytest.approx((15 - 7) / 2)


TRUNK = {"name": "trunk", "base_lr": 0.008, "cooldown_epochs": 5}
"""Its peak is that of RUN: with a batch of 32, an eighth of what is given."""


@pytest.mark.parametrize(
    ("changes", "factor", "levels"),
    [
        ({"optimizer": {"name": "adam", "weight_decay": 0.0}}, "weight_decay", ["0", "1e-06"]),
        ({"backbone": {"name": "small", "width": 4}}, "width", ["4", "16"]),
        ({"recipe": {"view_a": {"hue": 0.0}}}, "recipe", ["bt", "other"]),
        ({"schedule": {"name": "cosine", "base_lr": 0.008}}, "schedule", ["bt", "other"]),
        ({"schedule": TRUNK, "epochs": 0}, "schedule", ["bt", "other"]),
    ],
)
def test_lines_that_differ_in_one_setting_are_its_levels(
    changes: dict[str, Any], factor: str, levels: list[str]
) -> None:
    table = factors([rising({"method": "other", **changes}), peaked()])
    assert list(table["factor"]) == [factor] * 2
    assert list(table["level"]) == levels
    assert set(table["place"]) == {0}
    # Without an order, or at 0, there is no trend.
    lines = [peaked(), rising({"method": "other", **changes})]
    trends = effects(lines)["statistic"].str.startswith("trend").any()
    assert trends == (factor == "width")
    assert factors([peaked(), rising({"method": "other", **changes, "batch_size": 8})]).empty


def test_peak_rates_are_those_of_training() -> None:
    schedules = set()
    for path in find_studies(Path("params")).values():
        for run in load_study(path).trained():
            schedules.add(run.schedule.name)
            told = peak_rate(run.schedule.model_dump(), run.batch_size)
            assert told == pytest.approx(trained_peak_rate(run))
    assert {"drops", "epoch_cosine", "trunk", "mix_cosine", "bt_cosine"} <= schedules


def test_a_line_may_stand_in_several_factors_and_methods_apart() -> None:
    lines = [
        *(peaked({"method": "bt", "embedding_dim": dim}) for dim in (64, 128)),
        *(peaked(mix("mix", 4.0, embedding_dim=dim)) for dim in (64, 128)),
        rising({"method": "bt-small", "batch_size": 8}),
    ]
    table = factors(lines)
    assert table.groupby(["factor", "place"])["method"].agg(list).to_dict() == {
        ("embedding_dim", 0): ["bt", "bt"],
        ("embedding_dim", 1): ["mix", "mix"],
        ("batch_size", 0): ["bt-small", "bt"],
    }


def test_a_trunk_is_compared_with_a_schedule_of_its_length() -> None:
    trunk = peaked({"method": "cooled", "schedule": TRUNK, "epochs": 0})
    assert of(effects([trunk, rising()]), "difference_drop")["against"] == "cooled"
    longer = rising({"epochs": 80})
    assert not effects([trunk, longer])["statistic"].str.startswith("difference").any()


def test_two_names_of_one_run_count_once() -> None:
    lines = [peaked(), peaked({"method": "same"}), rising({"embedding_dim": 128})]
    row = of(effects(lines), "trend_last")
    assert row["method"] == "bt"
    assert row["estimate"] == pytest.approx(7)
    assert not effects(lines[:2])["statistic"].str.startswith("trend").any()


def test_losses_of_a_known_line() -> None:
    table = losses([peaked(), rising({"method": "mix"})])
    assert table[["method", "epoch"]].values.tolist() == [
        *(["bt", epoch] for epoch in EPOCHS),
        *(["mix", epoch] for epoch in EPOCHS),
    ]
    assert table["after_peak"].tolist() == [False, False, True, False, False, False]
    assert table["estimate"].tolist() == pytest.approx([25, 0, 7, 25, 7, 0])
    correct = 100.0 * bits(PEAKED)
    low, high = interval(correct[:, 1] - correct[:, 2])
    assert (table["low"][2], table["high"][2]) == pytest.approx((low, high))
    assert (table["low"][1], table["high"][1]) == (0, 0)


def test_label_free_signals_of_a_known_line() -> None:
    good = ("rankme", "backbone", "validation")
    signals = {
        good: np.array([[1.0, 3, 2]] * 3),
        ("bt_loss", "projector", "train"): np.array([[3.0, 2, 1]] * 3),
        ("alpha_req", "backbone", "train"): np.array([[np.nan, 1, 2]] * 3),
        ("dead_dimensions", "backbone", "train"): np.zeros((3, 3)),
        ("uniformity", "backbone", "train"): np.array([[1.0, 2, 3], [1, 2, 3], [np.nan] * 3]),
    }
    table = label_free([peaked(signals=signals)])
    estimates = table.set_index(["signal", "space", "split", "statistic"])["estimate"].to_dict()
    rankme = {key[-1]: value for key, value in estimates.items() if key[:-1] == good}
    assert rankme == pytest.approx(
        {"rank_correlation": 1, "kept": 76, "against_end": 7, "against_peak": 0}
    )
    loss = {key[-1]: value for key, value in estimates.items() if key[0] == "bt_loss"}
    assert loss == pytest.approx(
        {"rank_correlation": 0.5, "kept": 69, "against_end": 0, "against_peak": -7}
    )
    # Two milestones have no rank correlation worth the name.
    assert {key[-1] for key in estimates if key[0] == "alpha_req"} == {
        *("kept", "against_end", "against_peak")
    }
    assert {key[0] for key in estimates} == {"rankme", "bt_loss", "alpha_req"}


def test_rows_do_not_depend_on_the_order_of_lines(demo: list[Line]) -> None:
    made = [peaked(), rising({"method": "mix"}), rising({"embedding_dim": 128})]
    for lines in permutations(made):
        pd.testing.assert_frame_equal(effects(lines), effects(made), check_exact=True)
        pd.testing.assert_frame_equal(losses(lines), losses(made), check_exact=True)
    shuffled = [demo[place] for place in np.random.default_rng(0).permutation(len(demo))]
    for make in (effects, losses, label_free):
        pd.testing.assert_frame_equal(make(shuffled), make(demo), check_exact=True)


def test_rows_do_not_depend_on_the_order_of_milestones(demo: list[Line]) -> None:
    study = load_study(Path("params/demo.yaml"))
    planned = {run.name: study.milestones_of(run) for run in reversed(study.runs())}
    contents = sorted(RECORDED, key=lambda content: (str(content["epoch"])[::-1], content["name"]))
    lines = read_lines(contents, planned)
    for make in (effects, losses, label_free):
        pd.testing.assert_frame_equal(make(lines), make(demo), check_exact=True)


@pytest.fixture(scope="module")
def curves() -> dict[tuple[Any, ...], dict[int, float]]:
    """Top-1 by epoch of the demo's table, by method, probe, variant, split and seed."""
    table = probe_table(RECORDED)
    table = table[table["metric"] == "top1"]
    keys = ["method", "probe", "variant", "split", "seed"]
    return {
        key: dict(zip(part["epoch"], part["value"], strict=True))
        for key, part in table.groupby(keys)
    }


def peak_of(curves: Mapping[tuple[Any, ...], dict[int, float]], of_line: Any, seed: int) -> int:
    """The epoch that is best on average over the two other seeds, the earliest of equals."""
    others = [curves[(*of_line, "validation", other)] for other in (1, 2, 3) if other != seed]
    sums = {epoch: round(sum(curve[epoch] for curve in others), 6) for epoch in others[0]}
    return min(sums, key=lambda epoch: (-sums[epoch], epoch))


def test_the_demo_again_by_loops_over_its_table(
    demo: list[Line], curves: dict[tuple[Any, ...], dict[int, float]]
) -> None:
    table = effects(demo).set_index(["statistic", "method", "probe", "variant"])["estimate"]
    lost = losses(demo).set_index(["method", "probe", "variant", "epoch"])["estimate"]
    drops: dict[Any, list[float]] = {}
    ends: dict[Any, list[float]] = {}
    of_lines = sorted({key[:3] for key in curves})
    assert len(of_lines) == len(demo) == 6
    for of_line in of_lines:
        mine = [curves[(*of_line, "test", seed)] for seed in (1, 2, 3)]
        peaks = [peak_of(curves, of_line, seed) for seed in (1, 2, 3)]
        best = [curve[peak] for curve, peak in zip(mine, peaks, strict=True)]
        ends[of_line] = [curve[100] for curve in mine]
        drops[of_line] = [b - end for b, end in zip(best, ends[of_line], strict=True)]
        firsts = [curve[0] for curve in mine]
        assert table["first", *of_line] == pytest.approx(np.mean(firsts))
        assert table["last", *of_line] == pytest.approx(np.mean(ends[of_line]))
        assert table["gain", *of_line] == pytest.approx(np.mean(ends[of_line]) - np.mean(firsts))
        assert table["peak", *of_line] == pytest.approx(np.mean(best))
        assert table["drop", *of_line] == pytest.approx(np.mean(drops[of_line]), abs=1e-6)
        for epoch in mine[0]:
            found = np.mean(best) - np.mean([curve[epoch] for curve in mine])
            assert lost[*of_line, epoch] == pytest.approx(found, abs=1e-6)
    for of_probe in sorted({of_line[1:] for of_line in of_lines}):
        for statistic, values in {"difference_last": ends, "difference_drop": drops}.items():
            found = np.mean(np.subtract(values["mix", *of_probe], values["bt", *of_probe]))
            assert table[statistic, "mix", *of_probe] == pytest.approx(found, abs=1e-6)


def test_the_demos_signals_again_by_loops_over_its_tables(
    demo: list[Line], curves: dict[tuple[Any, ...], dict[int, float]]
) -> None:
    signals = signal_table(RECORDED)
    rows = label_free(demo)
    found = rows.set_index(["method", "probe", "variant", "signal", "space", "split", "statistic"])[
        "estimate"
    ]
    for name, best in {"rankme": max, "alignment": min}.items():
        for space, split in product(("backbone", "projector"), ("train", "validation")):
            some = signals[
                (signals["signal"] == name)
                & (signals["space"] == space)
                & (signals["split"] == split)
            ]
            for of_line in {key[:3] for key in curves}:
                kept, against_peak, rho = [], [], []
                for seed in (1, 2, 3):
                    mine = some[(some["method"] == of_line[0]) & (some["seed"] == seed)]
                    values = dict(zip(mine["epoch"], mine["value"], strict=True))
                    test = curves[(*of_line, "test", seed)]
                    kept.append(test[best(values, key=values.__getitem__)])
                    against_peak.append(kept[-1] - test[peak_of(curves, of_line, seed)])
                    sign = 1 if best is max else -1
                    ranks = [stats.rankdata([sign * values[e] for e in test])]
                    ranks.append(stats.rankdata(list(np.round(list(test.values()), 6))))
                    rho.append(np.corrcoef(*ranks)[0, 1])
                place = (*of_line, name, space, split)
                assert found[*place, "kept"] == pytest.approx(np.mean(kept), abs=1e-6)
                assert found[*place, "against_peak"] == pytest.approx(
                    np.mean(against_peak), abs=1e-6
                )
                assert found[*place, "rank_correlation"] == pytest.approx(np.mean(rho), abs=1e-6)


def test_every_row_names_its_line(demo: list[Line]) -> None:
    names = {tuple(getattr(line, name) for name in LINE) for line in demo}
    for make in (effects, losses, label_free):
        rows = make(demo)[list(LINE)]
        assert set(rows.itertuples(index=False, name=None)) == names
    assert not effects(demo).duplicated(["statistic", *LINE, "against"]).any()


def test_the_best_on_test_is_each_seeds_own_and_only_of_the_reference() -> None:
    curves = np.array([[50.0, 70, 75], [52, 78, 71], [51, 66, 75]])
    line = replace(a_line(curves, None), protocol="reference")
    rows = effects([line]).set_index("statistic")
    assert list(rows.index) == ["first", "gain", "last", "best_on_test"]
    best = rows.loc["best_on_test"]
    assert best["estimate"] == pytest.approx((75 + 78 + 75) / 3)
    assert (best["unit"], best["n"], np.isnan(best["p"])) == ("%", 3, True)
    assert best["low"] < best["estimate"] < best["high"]
    clean = effects([peaked()])
    assert "best_on_test" not in set(clean["statistic"])
    untold = effects([replace(a_line(curves[:, :1], None, milestones=(0,)), protocol="reference")])
    assert "best_on_test" not in set(untold["statistic"])
