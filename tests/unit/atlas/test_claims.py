"""The ledger of claims: the file, its rows, their tests on known curves, and how it is told."""

import io
import re
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from demo_results import RECORDED, milestone_of
from ruamel.yaml import YAML

from barlow_atlas.atlas.claims import (
    TESTS,
    UNITS,
    ClaimError,
    Claims,
    Entry,
    SignalName,
    entries,
    load_claims,
)
from barlow_atlas.atlas.label_free import SENSES
from barlow_atlas.atlas.ledger import (
    COLUMNS,
    LEDGER_COLUMNS,
    VERDICTS,
    boundary_p,
    ledger,
    study_claims,
)
from barlow_atlas.atlas.lines import Line, Precision, read_lines
from barlow_atlas.report.ledger import MEASURED, SETS, interval, markdown, table
from barlow_atlas.study.file import find_studies, load_study
from barlow_atlas.study.models import Overrides, Study
from barlow_atlas.study.paths import CLAIMS

TEXT = CLAIMS.read_text()
STUDIES = {name: load_study(path) for name, path in find_studies(Path("params")).items()}
DEMO = STUDIES["demo"]
KNN = "k=200 T=0.5"
PROBE = {"knn": KNN, "linear": "standard"}
EPOCHS = (0, 5, 10, 25, 50, 100)
RISING = (30, 50, 60, 65, 68, 70)
FALLING = (30, 60, 70, 75, 72, 65)
T2 = 4.302652729911275  # 97.5 % quantile of t with 2 degrees of freedom


# The file -----------------------------------------------------------------------------------------


def test_the_committed_claims_fit_their_studies() -> None:
    claims = load_claims(CLAIMS)
    rows = entries(claims, STUDIES)
    assert len({row.id for row in rows}) == len(rows)
    assert {row.claim.id for row in rows} == {claim.id for claim in claims.claims}
    assert {row.study for row in rows} == set(claims.studies)
    for claim in claims.claims:
        assert re.fullmatch(r"[^.]+\.", claim.text), "one sentence"
        assert claim.why


@pytest.mark.parametrize(
    ("test", "methods", "studies"),
    [
        ("drop_from_best", {"bt"}, {"cifar10", "cifar100", "tiny-imagenet", "stl10"}),
        ("drop_from_best", {"bt"}, {"cifar10-small", "demo"}),
        (
            "trend_drop_from_best",
            {"bt"},
            {
                "ablations/mix-width",
                "cifar10-small",
                "fixed-rate/cifar10-clean",
            },
        ),
        (
            "trend_drop_from_best",
            {"bt-no-colour-narrow", "bt-no-colour"},
            {"fixed-rate/small"},
        ),
        (
            "difference_drop_from_best",
            {"bt-no-colour", "bt-no-colour-cooled"},
            {"fixed-rate/small"},
        ),
        (
            "difference_drop_from_best",
            {"bt", "mix"},
            {"cifar10", "cifar100", "tiny-imagenet", "stl10"},
        ),
        ("drop_from_best", {"mix"}, {"cifar10", "cifar100", "tiny-imagenet", "stl10"}),
        ("difference_last", {"mix", "bt"}, {"cifar10", "cifar100", "tiny-imagenet", "stl10"}),
        ("trend_last", {"n128", "n4096"}, {"ablations/bt-batch-size"}),
        ("difference_last", {"n256", "n2048"}, {"ablations/bt-batch-size"}),
        ("trend_last", {"all-16", "all-16384"}, {"ablations/bt-projector-width"}),
        ("difference_last", {"paper-form", "only-invariance"}, {"ablations/bt-loss"}),
        ("difference_last", {"paper-form", "only-redundancy"}, {"ablations/bt-loss"}),
    ],
)
def test_what_the_papers_say_is_asked_with_both_probes(
    test: str, methods: set[str], studies: set[str]
) -> None:
    asked = {
        (row.study, line.probe)
        for row in entries(load_claims(CLAIMS), STUDIES)
        for line in row.lines
        if row.claim.test == test and methods <= {name.method for name in row.lines}
    }
    assert set(product(studies, PROBE)) <= asked


@pytest.mark.parametrize("test", ["agreement", "signal_last"])
def test_agreement_and_collapse_are_asked_on_every_data_set(test: str) -> None:
    rows = entries(load_claims(CLAIMS), STUDIES)
    data_sets = {"cifar10", "cifar100", "tiny-imagenet", "stl10"}
    assert data_sets <= {row.study for row in rows if row.claim.test == test}


def test_sources_name_what_was_read_and_no_number_that_is_not_published() -> None:
    published = pd.read_csv("params/published.csv")
    papers = {"BT": "Barlow Twins (", "BYOL": "BYOL (", "MIX": "Mixed Barlow Twins ("}
    values = {
        short: published[published["paper"].str.startswith(name)]["value"]
        for short, name in papers.items()
    }
    for claim in load_claims(CLAIMS).claims:
        source = claim.source
        if source.startswith("MIX"):  # of the paper itself, only the abstract
            assert re.search(r"\) ?, (title and )?abstract|, code:|, README", source), source
            assert not re.search(r"table|figure", source)
        else:
            begins = ("BT (arXiv:2103.03230)", "BYOL (arXiv:2006.07733)", "secondary")
            assert source.startswith(begins), source
        cited = [values[short] for short in papers if re.search(rf"\b{short}( \(arXiv|,)", source)]
        for number in re.findall(r"(?<![\d:.])(?<!README )\d+\.\d\b", source):
            assert any(np.isclose(of, float(number)).any() for of in cited), (claim.id, number)


def test_the_demo_and_the_stand_ins_say_what_they_are() -> None:
    settings = load_claims(CLAIMS).studies
    roles = {name: setting.role for name, setting in settings.items()}
    assert roles["demo"] == "example"
    assert roles["cifar10-small"] == "stand-in"
    data_sets = ("cifar10", "cifar100", "tiny-imagenet", "stl10")
    assert {name for name, role in roles.items() if role == "paper"} == {
        *data_sets,
        *(f"fixed-rate/{name}-clean" for name in data_sets),
        *(f"reference/{name}{probes}" for name in data_sets for probes in ("", "-linear")),
        *("imagenet", "imagenet-reference", "svm/imagenet"),
        *("transfer/imagenet", "detection/voc0712", "detection/coco"),
        *(
            f"transfer/{name}{end}"
            for name in data_sets
            if name != "tiny-imagenet"
            for end in ("", "-clean")
        ),
    }
    assert "no data set of the papers" in settings["demo"].note


def test_every_test_and_signal_has_unit_and_words() -> None:
    signals = set(get_args(SignalName))
    assert signals <= set(SENSES)
    assert set(UNITS) == set(TESTS) - {"signal_last"} | signals
    assert set(MEASURED) == set(TESTS)
    used = load_claims(CLAIMS).claims
    assert {claim.test for claim in used} == set(TESTS), "an option that nobody uses"
    assert {claim.holds for claim in used} == set(SETS)


def test_reading_claims_loads_no_heavy_library() -> None:
    code = (
        "import sys; from pathlib import Path; from barlow_atlas.atlas.claims import load_claims;"
        "load_claims(Path('params/claims.yaml'));"
        "print([name for name in ('torch', 'numpy', 'pandas') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("id: bt-falls\n", "id: BT falls\n", ["claim BT falls.id = 'BT falls'", "pattern"]),
        ("text: ", "txt: ", ["claim bt-falls.text is missing", "'txt'", "mean 'text'"]),
        ("holds: above", "holds: higher", ["claim bt-falls.holds = 'higher'", "'not below'"]),
        ("smallest: 0.5", "smallest: -0.5", ["smallest = -0.5", "greater than or equal to 0"]),
        ("smallest: 0.5", "smallest: .nan", ["claim bt-falls.smallest", "finite"]),
        ("test: drop_from_best", "test: drop", ["unknown test 'drop'", "drop_from_best"]),
        ("    test: drop_from_best\n", "", ["claim bt-falls.test is missing"]),
        ("    method: bt\n", "    methods: [bt]\n", ["bt-falls.method is missing", "'methods'"]),
        ("role: paper", "role: papers", ["studies.cifar10.role = 'papers'", "'example'"]),
        ("    note: ", "    notes: ", ["studies.cifar10.note is missing", "mean 'note'"]),
        ("  demo:\n", "  dmo:\n", ["studies lacks 'demo'"]),
        ("id: mix-better", "id: mix-not-worse", ["claim 'mix-not-worse' is there twice"]),
        ("smallest: 1.0", "smallest: 0.0", ["small-batches-suffice", "no effect is within 0"]),
        (
            "signal: effective_rank",
            "signal: efective_rank",
            ["'efective_rank'", "'feature_std'"],
        ),
        ("over: batch_size", "over: batchsize", ["over = 'batchsize'", "'batch_size'"]),
        ("claims:\n", "claims: [\n", ["not valid YAML"]),
        ("studies:\n", "studys:\n", ["studies is missing", "'studys'", "mean 'studies'"]),
    ],
)
def test_what_is_wrong_in_the_file_is_named(
    before: str, after: str, said: list[str], tmp_path: Path
) -> None:
    assert before in TEXT
    path = tmp_path / "claims.yaml"
    path.write_text(TEXT.replace(before, after, 1))
    with pytest.raises(ClaimError) as failure:
        load_claims(path)
    for part in [str(path), *said]:
        assert part in str(failure.value)


@pytest.mark.parametrize("content", ["", "[]", "claims: [3]\nstudies: {}\n", "claims: 3\n"])
def test_a_file_that_is_no_list_of_claims_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(content)
    with pytest.raises(ClaimError, match=re.escape(str(path))):
        load_claims(path)
    with pytest.raises(ClaimError, match="does not exist"):
        load_claims(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"studies": ["dmo"]}, "unknown study 'dmo'. Did you mean 'demo'?"),
        ({"method": "mixx"}, "unknown method 'mixx'. Did you mean 'mix'?"),
        ({"against": ["b"]}, "unknown method 'b'. Did you mean 'bt'?"),
        ({"probes": ["lineer"]}, "unknown probe 'lineer'. Did you mean 'linear'?"),
        ({"probes": ["knn"]}, "'knn' means several probes; say which: knn k=200"),
        ({"probes": ["linear", "linear standard"]}, "'mix-not-worse/demo/linear' is there twice"),
        ({"studies": ["wide"]}, "mix has the widths [128, 1024] and bt [256]"),
    ],
)
def test_what_a_study_has_not_is_named(changed: dict[str, Any], said: str) -> None:
    only_256 = Overrides(embedding_dims=(256,))
    wide = DEMO.model_copy(update={"embedding_dims": (128, 1024), "overrides": {"bt": only_256}})
    with pytest.raises(ClaimError, match=re.escape(said)) as failure:
        rows_of({**LAST, **changed}, {"demo": DEMO, "wide": wide})
    assert "claim mix-not-worse, study" in str(failure.value)


def test_a_trend_needs_two_values() -> None:
    with pytest.raises(ClaimError, match=r"two different values, these methods have \[256\]"):
        rows_of(TREND, {"demo": DEMO})


def test_a_claim_has_a_row_for_each_study_comparison_width_and_probe() -> None:
    wide = DEMO.model_copy(update={"embedding_dims": (128, 1024)})
    changed = {"against": ["bt", "mix"], "probes": [f"knn {KNN}", "linear"]}
    rows = rows_of({**LAST, **changed, "studies": ["demo", "wide"]}, {"demo": DEMO, "wide": wide})
    assert [row.id for row in rows] == [
        *(f"mix-not-worse/demo/{m}/{p}" for m in ("bt", "mix") for p in ("knn", "linear")),
        *(
            f"mix-not-worse/wide/{m}/d{d}/{p}"
            for m in ("bt", "mix")
            for d in (128, 1024)
            for p in ("knn", "linear")
        ),
    ]


# Its tests, on curves of a known course -----------------------------------------------------------

LAST = {
    "id": "mix-not-worse",
    "text": "It is not worse.",
    "source": "somewhere",
    "test": "difference_last",
    "method": "mix",
    "against": ["bt"],
    "probes": ["linear"],
    "studies": ["demo"],
    "holds": "not below",
    "smallest": 0.5,
    "why": "so",
}
SHARED = {key: value for key, value in LAST.items() if key not in ("method", "against", "test")}
DROP = {**SHARED, "test": "drop_from_best", "method": "bt", "holds": "above"}
GAIN = {**DROP, "test": "gain"}
DIFFERENCE = {**LAST, "test": "difference_drop_from_best", "method": "bt", "against": ["mix"]}
TREND = {**SHARED, "test": "trend_drop_from_best", "methods": ["bt"], "over": "embedding_dim"}
AGREEMENT = {**DROP, "test": "agreement", "probes": [f"knn {KNN}", "linear"], "smallest": 0.7}
SIGNAL = {key: value for key, value in DROP.items() if key != "probes"} | {
    "test": "signal_last",
    "signal": "effective_rank",
    "smallest": 9.0,
}


def rows_of(claim: dict[str, Any], studies: dict[str, Study]) -> list[Entry]:
    """A claim's rows, each of its studies being an example."""
    told = {name: {"role": "example", "note": "made up"} for name in claim["studies"]}
    return entries(Claims.model_validate({"studies": told, "claims": [claim]}), studies)


def line(
    method: str = "bt",
    percent: Sequence[float] = RISING,
    dim: int = 256,
    probe: str = "linear",
    seeds: Sequence[int] = range(1, 7),
    validation: bool = True,
    signals: dict[tuple[str, str, str], np.ndarray] | None = None,
    scatter: float = 0.1,
) -> Line:
    """Seeds that scatter around these accuracies, on 1,000 images of which the first are right."""
    offsets = np.resize([scatter, -scatter, 0.0], 40)[list(seeds)]
    right = (np.asarray(percent) + offsets[:, None]).round(1)
    return Line(
        study="demo",
        method=method,
        embedding_dim=dim,
        epochs=100,
        protocol="clean" if validation else "reference",
        objective="",
        probe=probe,
        variant=PROBE[probe],
        setting="",
        run={"embedding_dim": dim, "batch_size": 128},
        seeds=tuple(seeds),
        milestones=np.array(EPOCHS),
        validation=np.asarray([percent] * len(seeds), dtype=float) if validation else None,
        correct=np.arange(1000) < np.round(10 * right)[..., None],
        signals=signals or {},
    )


def found(
    claim: dict[str, Any], lines: Sequence[Line | Precision], study: Study | None = None
) -> pd.Series:
    """The ledger's one row about a claim."""
    six = (study or DEMO).model_copy(update={"seeds": tuple(range(1, 7))})
    rows = rows_of(claim, {"demo": six})
    (row,) = ledger(rows, {"demo": study_claims(rows, lines)}).itertuples(index=False)
    return pd.Series(row._asdict())


@pytest.mark.parametrize(
    ("difference", "holds", "verdict"),
    [
        (3, "above", "reproduced"),
        (0, "above", "contradicted"),
        (-3, "above", "contradicted"),
        (0.5, "above", "inconclusive"),
        (0, "not above", "reproduced"),
        (3, "not above", "contradicted"),
        (0, "not below", "reproduced"),
        (-3, "not below", "contradicted"),
        (-0.5, "not below", "inconclusive"),
        (0, "within", "reproduced"),
        (3, "within", "contradicted"),
        (-3, "within", "contradicted"),
        (0.5, "within", "inconclusive"),
    ],
)
def test_known_differences_have_known_verdicts(difference: float, holds: str, verdict: str) -> None:
    # An end of the set within the interval: seeds that differ by more than the effect.
    scatter = 3 if verdict == "inconclusive" else 0.1
    mix = line("mix", [percent + difference for percent in RISING], scatter=scatter)
    row = found({**LAST, "holds": holds}, [mix, line("bt")])
    assert row.verdict == verdict, (row.estimate, row.low, row.high)
    assert row.estimate == pytest.approx(difference)


def precise(one: Line) -> Precision:
    """The same accuracies as if they were average precisions."""
    names = [name for name in vars(one) if name not in ("validation", "correct", "signals")]
    values = 100 * one.correct.mean(axis=2)
    return Precision(**{name: getattr(one, name) for name in names}, metric="AP", values=values)


def test_variants_of_one_probe_have_rows_of_their_own() -> None:
    claim = {**LAST, "probes": ["knn k=200 T=0.5", "knn k=20 T=0.07", "linear"]}
    found_ids = [row.id for row in rows_of(claim, {"demo": DEMO})]
    assert [one.rpartition("/")[2] for one in found_ids] == [*claim["probes"][:2], "linear"]


def test_claims_on_average_precisions() -> None:
    bt, mix = precise(line("bt")), precise(line("mix", [percent + 3 for percent in RISING]))
    row = found({**LAST, "holds": "above"}, [mix, bt])
    assert (row.verdict, row.n) == ("reproduced", 6)
    assert row.estimate == pytest.approx(3)
    assert "new seeds on these images" in row.how
    gained = found({**GAIN, "smallest": 30}, [bt])
    assert gained.verdict == "reproduced"
    assert gained.estimate == pytest.approx(40, abs=0.01)
    fall = found(DROP, [bt])
    assert (fall.verdict, fall.n) == ("not yet run", 0)
    assert fall.note == "AP has no answer to each image, which drop_from_best needs"


def test_a_fall_is_found_and_the_absence_of_one_is_told() -> None:
    fall = found(DROP, [line("bt", FALLING)])
    assert fall.verdict == "reproduced"
    assert fall.estimate == pytest.approx(10, abs=0.01)
    assert found({**DROP, "holds": "not above"}, [line("bt", FALLING)]).verdict == "contradicted"
    assert found({**DROP, "holds": "not above"}, [line("bt")]).verdict == "reproduced"
    gained = found({**GAIN, "smallest": 30}, [line("bt", FALLING)])
    assert gained.verdict == "reproduced"
    assert gained.estimate == pytest.approx(35, abs=0.01)


def test_a_difference_of_falls() -> None:
    row = found({**DIFFERENCE, "holds": "above"}, [line("bt", FALLING), line("mix", RISING)])
    assert row.estimate == pytest.approx(10, abs=0.01)
    assert row.verdict == "reproduced"
    row = found({**DIFFERENCE, "holds": "above"}, [line("bt", RISING), line("mix", FALLING)])
    assert row.estimate == pytest.approx(-10, abs=0.01)
    assert row.verdict == "contradicted"


def test_two_curves_whose_chosen_peak_is_the_end_prove_nothing_about_their_falls() -> None:
    """Validation chooses the end in all seeds, so both drops are exactly 0; but an earlier
    milestone is as good on the test images, as far as seeds can tell."""
    flat = [30, 50, 60, 70, 70, 70]
    noisy = []
    for method in ("bt", "mix"):
        one = line(method, flat)
        random = np.random.default_rng(ord(method[0]))
        correct = one.correct.copy()
        correct[:, 3:] ^= random.random(correct[:, 3:].shape) < 0.1
        chosen = np.tile([30.0, 50, 60, 70, 70, 71], (6, 1))
        noisy.append(Line(**{**vars(one), "correct": correct, "validation": chosen}))
    row = found({**DIFFERENCE, "holds": "above"}, noisy)
    assert row.estimate == 0
    assert row.low < -0.5
    assert row.high > 0.5
    assert row.verdict == "inconclusive"


def test_a_trend_is_a_slope_per_doubling() -> None:
    wide = DEMO.model_copy(update={"embedding_dims": (128, 256, 1024)})
    ends = {128: 74, 256: 72, 1024: 66}  # falls of 1, 3 and 9 points from 75
    lines = [line("bt", [*FALLING[:-1], end], dim) for dim, end in ends.items()]
    x, y = np.array([7, 8, 10]), np.array([1, 3, 9])
    slope = np.polyfit(x, y, 1)[0]
    row = found({**TREND, "holds": "above"}, lines, wide)
    assert row.estimate == pytest.approx(slope, abs=0.05)
    assert row.verdict == "reproduced"
    assert (row.compared, row.widths, row.unit) == ("bt", "128 to 1024", "points per doubling")
    row = found({**TREND, "test": "trend_last", "holds": "above"}, lines[::-1], wide)
    assert row.estimate == pytest.approx(-slope, abs=0.05)
    assert row.verdict == "contradicted"


def test_agreement_is_along_trained_milestones() -> None:
    linear, knn = line("bt", RISING), line("bt", (99, 40, 41, 42, 43, 44), probe="knn")
    row = found(AGREEMENT, [linear, knn])
    assert (row.estimate, row.low, row.high) == (1, 1, 1), "the untrained network does not count"
    assert row.verdict == "reproduced"
    against = found(AGREEMENT, [linear, line("bt", (0, 44, 43, 42, 41, 40), probe="knn")])
    assert against.estimate == -1
    assert against.verdict == "contradicted"
    constant = found(AGREEMENT, [linear, line("bt", [50] * 6, probe="knn")])
    assert np.isnan(constant.estimate)
    assert constant.verdict == "inconclusive"
    assert "undefined" in constant.note


@pytest.mark.parametrize("held_out", ["validation", "test"])
def test_a_signal_is_read_on_held_out_projector_embeddings_at_the_end(held_out: str) -> None:
    values = np.zeros((6, 6))
    values[:, -1] = [10, 11, 12, 10, 11, 12]
    signals = {
        ("effective_rank", "projector", held_out): values,
        ("effective_rank", "projector", "train"): values + 100,
        ("effective_rank", "backbone", held_out): values + 200,
        ("feature_std", "projector", held_out): values / 1600,
    }
    row = found(SIGNAL, [line(signals=signals)])
    half = 2.570581835636314 * np.std([10, 11, 12] * 2, ddof=1) / 6**0.5
    assert row.estimate == pytest.approx(11)
    assert row.high == pytest.approx(11 + half)
    assert row.verdict == "reproduced"
    share = found({**SIGNAL, "signal": "feature_std", "smallest": 0.2}, [line(signals=signals)])
    assert share.estimate == pytest.approx(11 / 1600 * 16)
    assert share.verdict == "contradicted"
    assert found(SIGNAL, [line()]).note.startswith("no effective_rank of held-out images")


# What is missing ----------------------------------------------------------------------------------


def test_a_claim_without_data_says_what_is_missing() -> None:
    cases = {
        "no finished run of mix at width 256, bt at width 256": [],
        "no finished run of mix at width 256": [line("bt")],
        "no answers of linear standard": [line("bt"), line("mix", probe="knn")],
        "these lines have no finished seed in common": [
            line("bt", seeds=[1, 2]),
            line("mix", seeds=[3]),
        ],
    }
    for note, lines in cases.items():
        row = found(LAST, lines)
        assert (row.verdict, row.n, row.note) == ("not yet run", 0, note)
        assert np.isnan([row.estimate, row.low, row.high, row.p]).all()
    without = found(DROP, [line(validation=False)])
    assert without.verdict == "not yet run"
    assert "no validation images" in without.note


def test_a_study_that_is_not_there_and_one_that_is_older_than_the_claim() -> None:
    rows = rows_of(LAST, {"demo": DEMO})
    (absent,) = ledger(rows, {})["note"]
    assert absent == "the study has no results"
    (old,) = ledger(rows, {"demo": study_claims([], [])})["note"]
    assert old == "the study was analysed before this claim was written"


def test_failed_seeds_are_named_and_the_rest_is_paired_by_seed() -> None:
    row = found(LAST, [line("bt", seeds=[1, 2, 4, 6]), line("mix", seeds=[1, 4, 5, 6])])
    assert row.n == 3
    assert row.df == 2
    assert row.note == "3 of 6 seeds missing: 2, 3, 5"
    one = found(LAST, [line("bt", seeds=[4]), line("mix", seeds=[4])])
    assert one.n == 1
    assert one.verdict == "inconclusive"
    assert np.isnan(one.low)
    assert "5 of 6 seeds missing" in one.note
    assert "one seed, so no interval" in one.note


def test_no_rows_keep_their_columns() -> None:
    assert list(study_claims([], []).columns) == list(COLUMNS)
    nothing = ledger([], {})
    assert list(nothing.columns) == list(LEDGER_COLUMNS)
    assert nothing.empty
    assert markdown(nothing).startswith("# The papers' claims")


# p-values -----------------------------------------------------------------------------------------


def test_p_is_that_of_the_end_of_the_set() -> None:
    values = np.array([0.6, 0.7, 0.9, 0.4, 1.1, 0.8])

    def plain(values: np.ndarray) -> float:
        means = [np.mean(values * signs) for signs in product([-1, 1], repeat=len(values))]
        return float(np.mean(np.abs(means) >= abs(values.mean()) - 1e-12))

    infinity = float("inf")
    assert boundary_p(values, (0.5, infinity)) == pytest.approx(plain(values - 0.5))
    assert boundary_p(values, (-infinity, 0.5)) == pytest.approx(plain(values - 0.5))
    assert boundary_p(values, (-0.5, 0.5)) == pytest.approx(
        max(plain(values - 0.5), plain(values + 0.5))
    )
    assert np.isnan(boundary_p(values[:5], (0.5, infinity)))
    assert np.isnan(boundary_p(np.array([np.nan] * 6), (0.5, infinity)))


def test_a_drop_can_show_that_it_is_large_and_not_that_it_is_small() -> None:
    assert found(DROP, [line("bt", FALLING)]).p == 2 / 2**6
    assert found({**DROP, "smallest": 20}, [line("bt", FALLING)]).p == 1
    assert found(LAST, [line("mix"), line("bt")]).p == 2 / 2**6
    assert np.isnan(found(DIFFERENCE, [line("mix"), line("bt", FALLING)]).p)
    assert np.isnan(found(DROP, [line("bt", FALLING, seeds=range(1, 6))]).p)


def test_holm_is_over_all_rows() -> None:
    rows = rows_of({**LAST, "probes": [f"knn {KNN}", "linear"]}, {"demo": DEMO})
    frame = study_claims(rows, [])
    frame[["estimate", "low", "high", "n", "df"]] = [1.0, 0.5, 1.5, 6, 5]
    frame["p"] = [0.03, 0.02]
    assert list(ledger(rows, {"demo": frame})["p_holm"]) == pytest.approx([0.04, 0.04])


# The demo's real lines ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo() -> tuple[pd.DataFrame, pd.DataFrame]:
    """The demo's rows of the ledger; and what its probe files say, a row a number."""
    runs = DEMO.runs()
    planned = {run.name: DEMO.milestones_of(run) for run in runs}
    rows = [row for row in entries(load_claims(CLAIMS), STUDIES) if row.study == "demo"]
    table = ledger(rows, {"demo": study_claims(rows, read_lines(RECORDED, planned))})
    numbers = pd.DataFrame(
        [
            {
                "method": content["run"]["method"],
                "seed": content["run"]["seed"],
                "epoch": content["epoch"],
                "probe": result["probe"],
                "k": result["settings"].get("k"),
                "split": result["split"],
                "top1": result["top1"],
            }
            for content in RECORDED
            for result in content["results"]
        ]
    )
    return table.set_index("entry"), numbers


def curves(numbers: pd.DataFrame, method: str, probe: str, split: str = "test") -> pd.DataFrame:
    """Seeds x epochs, of the linear probe or of kNN with k = 200."""
    chosen = numbers[(numbers["method"] == method) & (numbers["split"] == split)]
    chosen = chosen[(chosen["probe"] == probe) & chosen["k"].isin([200, np.nan])]
    return chosen.pivot(index="seed", columns="epoch", values="top1")


def plain_drops(numbers: pd.DataFrame, method: str, probe: str) -> list[float]:
    """Each seed's fall from the epoch that the other seeds' validation means choose."""
    validation = curves(numbers, method, probe, "validation")
    test = curves(numbers, method, probe)
    chosen = {seed: validation.drop(seed).mean().round(9).idxmax() for seed in validation.index}
    return [test.loc[seed, epoch] - test.loc[seed, 100] for seed, epoch in chosen.items()]


@pytest.mark.parametrize("probe", ["knn", "linear"])
def test_the_demos_numbers_are_those_of_its_files(
    probe: str, demo: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    table, numbers = demo
    bt, mix = curves(numbers, "bt", probe), curves(numbers, "mix", probe)
    falls = {method: np.mean(plain_drops(numbers, method, probe)) for method in ("bt", "mix")}
    expected = {
        "bt-falls": falls["bt"],
        "mix-does-not-fall": falls["mix"],
        "bt-falls-more-than-mix": falls["bt"] - falls["mix"],
        "mix-not-worse": (mix[100] - bt[100]).mean(),
        "mix-better": (mix[100] - bt[100]).mean(),
        "bt-learns": (bt[100] - bt[0]).mean(),
    }
    for claim, value in expected.items():
        row = table.loc[f"{claim}/demo/{probe}"]
        assert row.estimate == pytest.approx(value, abs=1e-3), claim
        assert row.low <= row.estimate <= row.high
        assert row.n == 3
    difference = mix[100] - bt[100]
    half = table.loc[f"mix-better/demo/{probe}"].high - difference.mean()
    assert half >= T2 * difference.std() / 3**0.5 - 1e-3, "at least the plain t interval"


def test_the_demos_agreement_and_signals_are_those_of_its_files(
    demo: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    table, numbers = demo
    knn, linear = curves(numbers, "bt", "knn"), curves(numbers, "bt", "linear")
    ranks = [  # Pearson's correlation of ranks
        knn.loc[seed].drop(0).rank().corr(linear.loc[seed].drop(0).rank()) for seed in knn.index
    ]
    row = table.loc["probes-agree/demo"]
    assert row.estimate == pytest.approx(np.mean(ranks))
    assert row.low == pytest.approx(np.mean(ranks) - T2 * np.std(ranks, ddof=1) / 3**0.5)
    assert row.high == 1
    ends = [milestone_of(run.name, 100)["signals"] for run in DEMO.runs() if run.method == "bt"]
    values = [
        record["values"]
        for records in ends
        for record in records
        if (record["space"], record["split"]) == ("projector", "validation")
    ]
    assert len(values) == 3
    ranks = [value["effective_rank"] for value in values]
    assert table.loc["bt-keeps-its-dimensions/demo"].estimate == pytest.approx(np.mean(ranks))
    spread = [value["feature_std"] * 256**0.5 for value in values]
    assert table.loc["bt-spreads-out/demo"].estimate == pytest.approx(np.mean(spread))


# How it is told -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(demo: tuple[pd.DataFrame, pd.DataFrame]) -> pd.DataFrame:
    """The ledger over all studies, of which only the demo has been run; through CSV."""
    rows = entries(load_claims(CLAIMS), STUDIES)
    own = demo[0].reset_index().assign(claim=lambda table: table["entry"])[list(COLUMNS)]
    text = own.to_csv(index=False, float_format="%.6g")
    return ledger(rows, {"demo": pd.read_csv(io.StringIO(text))})


def test_csv_changes_no_verdict(
    whole: pd.DataFrame, demo: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    back = whole.set_index("entry").loc[demo[0].index]
    assert list(back["verdict"]) == list(demo[0]["verdict"])
    assert list(back["note"]) == list(demo[0]["note"])
    assert set(whole.loc[whole["study"] != "demo", "verdict"]) == {"not yet run"}
    assert set(whole["verdict"]) <= set(VERDICTS)


def test_the_page_tells_every_row_and_is_a_function_of_the_ledger(whole: pd.DataFrame) -> None:
    text = markdown(whole)
    assert text == markdown(whole.copy())
    for claim in load_claims(CLAIMS).claims:
        assert f"## {claim.text.rstrip('.')}\n" in text
        assert f"`{claim.id}`" in text
    counts = whole["verdict"].value_counts()
    for verdict, count in counts.items():
        told = re.findall(rf"(\d+) {verdict}", text.split("\n\n")[1])
        assert sum(map(int, told)) == count
    assert "demo (example)" in text
    assert "no data set of the papers" in text
    for study in set(whole["study"]) - {"demo"}:
        assert f"--config study={study} -- all\n" in text
    assert "--config study=demo" not in text, "nothing of the demo is left to run"
    for width in map(len, text.splitlines()):
        assert width < 300
    well_formed(text)


def test_a_claim_names_what_its_probes_are_read_by(whole: pd.DataFrame) -> None:
    claimed = {
        claim: section.split("- Claimed: ")[1].split(" is above")[0]
        for claim, section in re.findall(r"- `([\w-]+)`, source: (.*?)\n\n", markdown(whole), re.S)
    }
    untrained = "over the untrained network"
    assert claimed["bt-learns"] == f"the gain in test top-1 {untrained}"
    assert claimed["pre-training-helps-svms"] == f"the gain in test mAP {untrained}"
    for claim in ("pre-training-helps-detection", "pre-training-helps-masks"):
        assert claimed[claim] == f"the gain in test AP, AP50 or AP75 {untrained}"


def well_formed(text: str) -> None:
    """Every table's rows have as many cells as its head."""
    for block in text.split("\n\n"):
        if block.startswith("|"):
            bars = {len(re.findall(r"(?<!\\)\|", row)) for row in block.splitlines()}
            assert len(bars) == 1, block


def test_hostile_texts_stay_text(whole: pd.DataFrame) -> None:
    evil = 'a | b\n\n# <script>alert("x")</script> & [y](javascript:z) `c` \\| $d$ | |'
    hostile = whole.assign(
        **dict.fromkeys(("text", "source", "differs", "compared", "seen_by", "note", "why"), evil)
    )
    text = markdown(hostile)
    well_formed(text)
    assert "<script>" not in text
    assert "](javascript" not in text.replace("\\]", "")
    headings = [row for row in text.splitlines() if row.startswith("#")]
    assert len(headings) == 2 + whole["claim"].nunique()
    assert "<script>" in table(hostile)["note"].iloc[0], "the rows as text are not escaped"


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (0.4999, 0.5001, "0.49 to 0.51"),
        (-0.4999, 0.29, "-0.50 to 0.29"),
        (-0.001, 0.0, "-0.01 to 0.00"),
        (np.nan, np.nan, ""),
    ],
)
def test_bounds_are_rounded_outwards(low: float, high: float, told: str) -> None:
    assert interval(low, high) == told


def test_the_documentation_names_every_test_and_set() -> None:
    text = Path("docs/claims.md").read_text()
    for word in [*TESTS, *get_args(SignalName), *SETS, *VERDICTS]:
        assert word in text
    example = re.search(r"(?s)    - id: .*?\n\n", text)
    assert example
    (claim,) = YAML(typ="safe", pure=True).load(example[0])
    told = {"cifar10": {"role": "paper", "note": "x"}}
    assert entries(Claims.model_validate({"studies": told, "claims": [claim]}), STUDIES)
