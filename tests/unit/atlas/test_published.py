"""Published numbers, the papers' tables' specifications, and both beside what was measured."""

import csv
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from barlow_atlas.atlas.beside import COLUMNS, NOT_YET_RUN, beside, matches, what_differs
from barlow_atlas.atlas.published import (
    WEIGHTS,
    Ours,
    Published,
    Row,
    Selector,
    TableError,
    TableSpec,
    find,
    read_published,
    read_tables,
)
from barlow_atlas.study.file import find_studies, load_study
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import PARAMS

NUMBERS, SPECS = PARAMS / "published.csv", PARAMS / "tables.yaml"
README = {"paper": "Mixed Barlow Twins (arXiv:2312.02151)", "table": "repo README 3.1"}
ON_CIFAR10 = Selector(**README, dataset="CIFAR-10", metric="knn_top1")
K200 = "k=200 T=0.5"
SMALL = Ours(study="cifar10-small", method="mix", embedding_dim=1024, probe="knn", variant=K200)


@pytest.fixture(scope="module")
def published() -> list[Published]:
    return read_published(NUMBERS)


@pytest.fixture(scope="module")
def specs() -> dict[str, TableSpec]:
    return read_tables(SPECS)


@pytest.fixture(scope="module")
def studies() -> dict[str, Study]:
    return {name: load_study(path) for name, path in find_studies(PARAMS).items()}


def raw() -> list[dict[str, str]]:
    with NUMBERS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def said(pattern: str, text: str) -> str:
    stated = re.search(pattern, text)
    return stated[1] if stated else ""


def effects(**changed: Any) -> pd.DataFrame:
    row = {"statistic": "last", "method": "mix", "embedding_dim": 1024, "probe": "knn"}
    row |= {"variant": K200, "estimate": 51.25, "low": 50.0, "high": 52.5, "n": 6}
    other = row | {"statistic": "peak", "estimate": 99.0}
    return pd.DataFrame([other, row | changed])


def one_row(ours: Ours = SMALL, selector: Selector = ON_CIFAR10) -> TableSpec:
    return TableSpec(name="t", title="T", rows=(Row(published=selector, ours=ours),))


def test_every_number_keeps_its_sources_digits(published: list[Published]) -> None:
    rows = raw()
    assert len(published) == len(rows) == 769
    for number, row in zip(published, rows, strict=True):
        assert str(number.value) == row["value"]
        assert (number.method, number.source, number.unit) == (
            row["method"],
            row["source"],
            row["unit"],
        )
        for key in ("embedding_dim", "pretrain_epochs", "backbone"):
            assert str(getattr(number, key) or "") == row[key]


def test_percent_is_defined_for_shares_and_precisions_only(published: list[Published]) -> None:
    for number in published:
        if number.unit == "fraction":
            assert number.percent == Decimal(str(number.value)) * 100
        elif number.unit in ("GB", "minutes (single A6000)"):
            assert number.percent is None
    shares = {number.unit for number in published if number.percent is not None}
    assert shares == {"%", "fraction", "% (about)", "% (about; all d)", "mAP %", "AP %"}


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        ("knn_top1", ("knn", None, False, False)),
        ("knn5_top1", ("knn", 5, False, False)),
        ("online_knn20_top1", ("knn", 20, True, False)),
        ("knn_top1_max_over_epochs", ("knn", None, False, True)),
        ("linear_top1_last", ("linear", None, False, False)),
        ("semisup10_top1", ("fine_tuned", None, False, False)),
    ],
)
def test_what_a_metrics_name_says(
    metric: str, told: tuple[Any, ...], published: list[Published]
) -> None:
    probe = find(ON_CIFAR10, published).model_copy(update={"metric": metric}).probe
    assert probe is not None
    assert (probe.probe, probe.k, probe.online, probe.best_epoch) == told


def test_batch_and_weights_are_those_that_the_text_states(published: list[Published]) -> None:
    for row in raw():
        text = f"{row['method']}; {row['source']}"
        assert row["batch_size"] == said(r"\bbatch (?:size )?(\d+)", text)
        for weight in WEIGHTS:
            assert row[weight] == said(rf"(?i)\b{weight}=(\d+(?:\.\d+)?)", row["method"])
    number = find(ON_CIFAR10, published)
    assert (number.lambda_bt, number.lambda_reg, number.batch_size) == (0.0078125, 4.0, None)
    with_batch = find(
        Selector(
            method="BarlowTwins (batch 512)",
            dataset="CIFAR-10",
            pretrain_epochs=800,
            metric="knn_top1_max_over_epochs",
        ),
        published,
    )
    assert (with_batch.batch_size, with_batch.percent) == (512, Decimal("85.9"))


def test_a_selector_that_matches_nothing_is_refused_with_the_nearest(
    published: list[Published],
) -> None:
    wrong = Selector(**README, dataset="CIFAR10", metric="knn_top1")
    with pytest.raises(TableError, match=r"no published number.*'CIFAR10'.*nearest.*'CIFAR-10'"):
        find(wrong, published)


def test_a_selector_that_matches_two_is_refused_by_name(published: list[Published]) -> None:
    both = Selector(**README, dataset="CIFAR-10")
    with pytest.raises(TableError, match=r"2 published numbers.*knn_top1.*linear_top1"):
        find(both, published)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("paper,table", "paper,figure", 1), "columns"),
        (lambda text: text.replace(",90.52,", ",ninety,", 1), "row 2: value"),
        (lambda text: text + text.splitlines()[1] + "\n", "row 771 has the place of row 2"),
    ],
)
def test_a_damaged_file_is_refused_by_row(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "published.csv"
    path.write_text(change(NUMBERS.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(TableError, match=message):
        read_published(path)


def test_lists_of_parts_stand_for_their_product(tmp_path: Path) -> None:
    path = tmp_path / "tables.yaml"
    path.write_text(
        """
        tables:
          t:
            title: T
            rows:
              - published: {paper: P}
                ours: {none: because}
                each:
                  - [{published: {dataset: A}}, {published: {dataset: B}}]
                  - [{published: {metric: x}}, {published: {metric: y}}]
        """
    )
    rows = read_tables(path)["t"].rows
    assert [(row.published.paper, row.published.dataset, row.published.metric) for row in rows] == [
        *(("P", "A", "x"), ("P", "A", "y"), ("P", "B", "x"), ("P", "B", "y"))
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tables: []", "expected `tables:`"),
        ("tables: {}\nextra: 1", "unknown key 'extra'"),
        ("tables: {t: {title: T}}", "table 't': expected a mapping with `title` and `rows`"),
        ("tables: {'../t': {title: T, rows: [{published: {}, ours: {none: x}}]}}", "name"),
        ("tables: {t: {title: T, rows: [3]}}", "entry 1: expected a mapping"),
        ("tables: {t: {title: T, rows: [{published: {metrik: x}, ours: {none: x}}]}}", "metrik"),
        ("tables: {t: {title: T, rows: [{published: {}, ours: {study: s}}]}}", "missing: method"),
        (
            "tables: {t: {title: T, rows: [{published: {none: n}, ours: {none: x}}]}}",
            "needs method",
        ),
        ("tables: {t: {title: T, t: 1, rows: [}", "not valid YAML"),
    ],
)
def test_a_wrong_specification_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "tables.yaml"
    path.write_text(text)
    with pytest.raises(TableError, match=re.escape(message)):
        read_tables(path)


def test_all_tables_can_be_made_without_any_result(
    specs: dict[str, TableSpec], published: list[Published], studies: dict[str, Study]
) -> None:
    """Every selector means one number, every line of ours exists in its study."""
    assert {"small-data", "methods", "lambda-reg", "width", "batch-size", "loss"} <= set(specs)
    assert {"imagenet", "transfer"} <= set(specs)
    values = {
        tuple(row[key] for key in ("paper", "table", "source", "metric", "value")) for row in raw()
    }
    for spec in specs.values():
        rows = beside(spec, published, {}, studies)
        assert list(rows.columns[: len(COLUMNS)]) == COLUMNS
        assert len(rows) == len(spec.rows)
        for row in rows.to_dict("records"):
            assert row["note"], "a row without a number of ours says why"
            if row["paper"]:
                place = ("paper", "paper_table", "source", "metric", "published")
                assert tuple(row[key] for key in place) in values
            if row["study"]:
                assert NOT_YET_RUN in row["note"]


def test_ours_beside_theirs(published: list[Published], studies: dict[str, Study]) -> None:
    rows = beside(one_row(), published, {"cifar10-small": effects()}, studies)
    (row,) = rows.to_dict("records")
    assert (row["published"], row["unit"], row["percent"]) == ("90.52", "%", "90.52")
    assert (row["ours"], row["low"], row["high"], row["n"]) == (51.25, 50.0, 52.5, 6)
    assert row["difference"] == pytest.approx(51.25 - 90.52)
    assert row["difference_low"] == pytest.approx(50.0 - 90.52)
    assert row["difference_high"] == pytest.approx(52.5 - 90.52)
    assert row["note"] == ""
    assert row["differs"] == (
        "600 epochs (published 2000)",
        "small backbone (published ResNet-18)",
        "5 % of the training images",
        "16 of the images' 32 pixels a side",
        "clean protocol",
        "k=200 T=0.5 (published not stated)",
    )


def test_the_best_on_test_stands_there_by_its_name(
    published: list[Published], studies: dict[str, Study]
) -> None:
    ours = SMALL.model_copy(update={"study": "reference/cifar10", "statistic": "best_on_test"})
    of_study = pd.concat([effects(), effects(statistic="best_on_test", estimate=61.0)])
    (row,) = beside(one_row(ours), published, {ours.study: of_study}, studies).to_dict("records")
    assert (row["ours"], row["variant"]) == (61.0, f"{K200}, best on test")
    assert row["differs"] == (f"{K200} (published not stated)",)


def test_what_differs_follows_the_study(
    published: list[Published], studies: dict[str, Study]
) -> None:
    ours = SMALL.model_copy(update={"study": "cifar10"})
    content = studies["cifar10"].model_dump()
    for change, said in [
        ({}, ()),
        ({"epochs": 2100}, ()),  # a milestone is probed, not the plan's end
        ({"embedding_dims": [1024], "batch_size": 128}, ()),
        (
            {"methods": {"mix": content["methods"]["mix"] | {"lambda_reg": 2.0}}},
            ("lambda_reg 2 (published 4.0)",),
        ),
    ]:
        study = Study.model_validate({**content, **change})
        rows = beside(one_row(ours), published, {}, {"cifar10": study})
        probed = "k=200 T=0.5 (published not stated)"
        assert rows["differs"][0] == (*said, "clean protocol", probed)


def test_a_single_seed_has_no_interval(
    published: list[Published], studies: dict[str, Study]
) -> None:
    one = effects(low=float("nan"), high=float("nan"), n=1)
    rows = beside(one_row(), published, {"cifar10-small": one}, studies)
    assert rows["difference"].notna().all()
    assert rows[["low", "high", "difference_low", "difference_high"]].isna().all(axis=None)


def test_missing_results_are_named(published: list[Published], studies: dict[str, Study]) -> None:
    unfinished = {"cifar10-small": effects(method="bt")}
    for found, said in [
        ({}, NOT_YET_RUN),
        ({"cifar10-small": effects().iloc[:0]}, NOT_YET_RUN),
        (unfinished, f"{NOT_YET_RUN}: no finished run"),
    ]:
        rows = beside(one_row(), published, found, studies)
        assert rows["note"].tolist() == [said]
        assert rows["ours"].isna().all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"study": "cifar10-smal"}, "table 't': unknown study.*Did you mean 'cifar10-small'"),
        ({"method": "mixx"}, "has no mixx at 1024. Did you mean 'mix at 1024'"),
        ({"embedding_dim": 64}, "has no mix at 64"),
        ({"variant": "k=200"}, f"has no knn probe 'k=200'.*{K200}"),
        ({"study": "stl10"}, "its images are 'stl10', the published ones 'CIFAR-10'"),
    ],
)
def test_a_line_that_does_not_exist_is_refused(
    changed: dict[str, Any], message: str, published: list[Published], studies: dict[str, Study]
) -> None:
    with pytest.raises(TableError, match=message):
        beside(one_row(SMALL.model_copy(update=changed)), published, {}, studies)


def test_two_lines_of_that_name_are_refused(
    published: list[Published], studies: dict[str, Study]
) -> None:
    twice = pd.concat([effects(), effects()])
    with pytest.raises(TableError, match="2 lines"):
        beside(one_row(), published, {"cifar10-small": twice}, studies)


def test_further_columns_must_be_of_the_same_images(
    published: list[Published], studies: dict[str, Study]
) -> None:
    solo = Selector(
        paper="solo-learn (JMLR 23:56)",
        method="Barlow Twins",
        dataset="CIFAR-100",
        metric="online_linear_top1",
    )
    row = Row(published=ON_CIFAR10, ours=SMALL, also={"solo": solo})
    with pytest.raises(TableError, match=r"'CIFAR-100'.*expected a top-1 accuracy on 'CIFAR-10'"):
        beside(TableSpec(name="t", title="T", rows=(row,)), published, {}, studies)


def test_published_numbers_of_a_study_by_itself(
    published: list[Published], studies: dict[str, Study]
) -> None:
    """The same data set, method and kind of probe; counted here from the file itself."""
    rows = matches("cifar10-small", studies["cifar10-small"], effects(), published)
    top1 = re.compile(r"(online_)?(knn|linear)\d*_top1(_\w+)?")
    names = re.compile(r"Barlow ?Twins( \(.*\))?|Mixed Barlow Twins( \(.*\))?")
    expected = [
        row
        for row in raw()
        if row["dataset"] == "CIFAR-10"
        and top1.fullmatch(row["metric"])
        and names.fullmatch(row["method"])
    ]
    assert len(rows) == len(expected) > 20
    assert set(rows["published"]) == {row["value"] for row in expected}
    assert (rows["our_method"] == "mix").sum() == 4
    width_64 = rows[rows["paper"].str.startswith("W-MSE")]
    assert set(width_64["embedding_dim"]) == {128}
    measured = rows[rows["ours"].notna()]
    assert set(measured["metric"]) == {"knn_top1"}
    assert measured["difference"].to_list() == pytest.approx([51.25 - 90.52, 51.25 - 91.39])


def test_a_published_number_meets_the_line_that_is_most_like_it(
    published: list[Published], studies: dict[str, Study]
) -> None:
    """Among the batch sizes of an ablation that of the number, among the weights that of it."""
    rows = matches("ablations/imagenet", studies["ablations/imagenet"], effects(), published)
    lines = rows[rows["paper_table"].str.startswith("author table")]
    assert lines["our_method"].tolist() == ["n128", "n256", "n512", "n1024", "bt", "n4096"]
    rows = matches("imagenet", studies["imagenet"], effects(), published)
    lines = rows[rows["paper_table"] == "repo README 3.3"]
    assert lines["our_method"].tolist()[1:] == ["mix-0_0025", "mix-0_1", "mix-1", "mix-2", "mix-3"]
    assert lines["differs"].tolist()[1:] == [("clean protocol",)] * 5
    places = ["paper", "paper_table", "method", "metric", "dataset", "source", "published"]
    assert not rows.duplicated(places).any()


def test_fine_tuning_meets_numbers_of_its_share_of_the_labels(
    published: list[Published], studies: dict[str, Study]
) -> None:
    name = "semi-supervised/imagenet"
    rows = matches(name, studies[name], effects(), published)
    assert set(rows["metric"]) == {"semisup1_top1", "semisup10_top1"}
    for row in rows.to_dict("records"):
        share = "1percent" if row["metric"] == "semisup1_top1" else "10percent"
        assert row["variant"] == f"{share} bt-code"
        assert not any("labels" in words for words in row["differs"])
    theirs = find(
        Selector(table="Table 2", method="Barlow Twins", metric="semisup1_top1"), published
    )
    study = studies["semi-supervised/cifar10"]
    run = study.trained()[0]
    told = what_differs(theirs, study, run, "fine_tuned", "10% standard, labels by seed")
    assert "labels: 10% (published 1 %)" in told


def test_numbers_probed_along_with_training_stand_beside_ours_of_that_kind(
    published: list[Published], studies: dict[str, Study]
) -> None:
    name = "comparison/cifar10-solo"
    rows = matches(name, studies[name], pd.DataFrame(), published).to_dict("records")
    solo = {row["our_method"]: row for row in rows if row["metric"] == "online_linear_top1"}
    assert set(solo) == set(studies[name].methods)
    told = {"probed after training (published: along with it)"}
    for row in solo.values():
        assert (row["probe"], row["variant"]) == ("online_linear", "trained along")
        assert not told & set(row["differs"])
    assert {row["probe"] for row in rows if row["metric"] == "linear_top1"} == {"linear"}
    after = matches("cifar10", studies["cifar10"], pd.DataFrame(), published).to_dict("records")
    (row,) = (row for row in after if row["metric"] == "online_linear_top1")
    assert row["probe"] == "linear"
    assert told <= set(row["differs"])


def test_nothing_is_published_on_the_demos_images(
    published: list[Published], studies: dict[str, Study]
) -> None:
    rows = matches("demo", studies["demo"], effects(), published)
    assert rows.empty
    assert list(rows.columns) == COLUMNS
