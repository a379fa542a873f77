"""Every sentence is read back: its numbers are those of the one row that it is made of, whole."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from page_views import StudyView, falling, index_view, probe_frame, rising, simulated, view_of

from barlow_atlas.atlas.curves import mean_curves
from barlow_atlas.atlas.effects import effects
from barlow_atlas.atlas.frames import LINE, SIGNAL_COLUMNS
from barlow_atlas.atlas.lines import Line
from barlow_atlas.report.answer import Answer, Finding, answer, overall, points
from barlow_atlas.report.figures.answer import answer_figure
from barlow_atlas.report.figures.panels import Panel, panels
from barlow_atlas.report.objective import loss_course, overfitting
from barlow_atlas.report.page import counted, index_page, most_overfitting, networks
from barlow_atlas.report.study import panels_of

COURSES = {"bt": falling, "mix": rising}
TEN = {**COURSES, **{f"m{k}": (falling if k % 2 else rising) for k in range(8)}}
LATE = tuple(range(0, 1000, 20))


def plateau(epochs: np.ndarray) -> np.ndarray:
    return rising(np.minimum(epochs, 100))


def slightly_up(epochs: np.ndarray) -> np.ndarray:
    """Validation chooses the middle by chance, and the test curve goes on: a negative drop."""
    return 70 + 0.4 * (epochs > 100)


def half_failed() -> StudyView:
    """No run of mix has ended."""
    lines = simulated(COURSES)
    probes = probe_frame(lines)
    there = probes[~((probes["method"] == "mix") & (probes["epoch"] > 100))]
    view = view_of([line for line in lines if line.method == "bt"])
    return replace(view, probes=there, curves=mean_curves(there))


SHAPES: dict[str, Callable[[], StudyView]] = {
    "a fall": lambda: view_of(simulated(COURSES, seeds=range(6))),
    "a rise": lambda: view_of(simulated({"bt": rising, "mix": rising}, seeds=range(6))),
    "a plateau": lambda: view_of(simulated({"bt": plateau, "mix": rising}, images=300)),
    "a gain after the peak": lambda: view_of(
        simulated({"bt": slightly_up, "mix": rising}, seeds=range(5), images=400)
    ),
    "mix ends lower": lambda: view_of(simulated({"bt": rising, "mix": falling})),
    "one seed": lambda: view_of(simulated(COURSES, seeds=(1,))),
    "no validation": lambda: view_of(simulated(COURSES, validation=False)),
    "half of it failed": half_failed,
    "500 checkpoints": lambda: view_of(simulated(COURSES, milestones=LATE, seeds=range(5))),
    "ten methods": lambda: view_of(simulated(TEN, images=400)),
    "two widths": lambda: view_of(simulated(COURSES, dims=(128, 1024), seeds=range(4))),
}


@cache
def read(name: str) -> tuple[StudyView, Answer]:
    view = SHAPES[name]()
    return view, answer(view.curves, view.effects)


def row_of(view: StudyView, found: Finding) -> pd.Series:
    """The row of effects.csv that a finding names."""
    statistic, against, *line = found.source
    rows = view.effects.assign(against=view.effects["against"].astype(object).fillna(""))
    here = (rows[["statistic", "against", *LINE]] == [statistic, against, *line]).all(axis=1)
    assert here.sum() == 1
    return rows[here].iloc[0]


def numbers(text: str) -> list[float]:
    """All decimal numbers of a sentence, in its order."""
    found: list[str] = re.findall(r"-?\d+\.\d\d", text.replace("\N{MINUS SIGN}", "-"))
    return [float(number) for number in found]


@pytest.mark.parametrize("shape", SHAPES)
def test_each_sentence_says_its_row(shape: str) -> None:
    view, told = read(shape)
    sentences = [found for probe in told.probes for found in probe.all]
    assert sentences
    for found in sentences:
        if not found.source:
            assert found.kind == "unfinished"
            assert numbers(found.text) == []
            continue
        row, statistic = row_of(view, found), found.source[0]
        if statistic == "onset":
            assert f"from epoch {row['high']:.0f} on" in found.text
            continue
        # Which way the sentence speaks decides the sign of all its numbers.
        back = bool(re.search(r"\bgains\b|\blower than\b|\bless than\b", found.text))
        sign = -1 if back else 1
        assert (row["estimate"] < 0) == back, found.text
        ends = [row["low"], row["high"]][::sign]
        wanted = [sign * row["estimate"]]
        if not np.isnan(row["low"]):
            wanted += [sign * end for end in ends]
            assert f"n = {row['n']:.0f})" in found.text.replace("\u00a0", " ")
        said = numbers(found.text)
        assert said[: len(wanted)] == pytest.approx(wanted, abs=0.0051)
        # What follows is the size of the fall that is excluded, or not: the bound of the drop.
        for bound in said[len(wanted) :]:
            assert bound == pytest.approx(max(row["high"], 0), abs=0.0051)
        assert not re.search(r"epoch \d", found.text), "an epoch comes from no effect"


@pytest.mark.parametrize("shape", SHAPES)
def test_no_verdict_says_more_than_its_sentences(shape: str) -> None:
    view, told = read(shape)
    for verdict in told.verdicts:
        said = verdict.findings + verdict.variants
        rows = [row_of(view, found) for found in said if found.source]
        bounds = {points(abs(row[end])) for row in rows for end in ("estimate", "low", "high")}
        for number in re.findall(r"\d+\.\d\d", verdict.answer):
            assert number in bounds, verdict.answer


@pytest.mark.parametrize("shape", SHAPES)
def test_the_last_accuracies_are_those_of_the_lines_that_have_ended(shape: str) -> None:
    view, told = read(shape)
    main = view.effects[view.effects["probe"] == "linear"]
    last = main[main["statistic"] == "last"]["estimate"]
    assert len(last)
    if len(last) > 4:
        assert told.ends.startswith(f"{len(last)} lines end at ")
        last = last.agg(["min", "max"])
    else:
        assert told.ends.count(" at ") == len(last)
        assert told.ends.count(" ends at ") == 1
    assert sorted(numbers(told.ends)) == pytest.approx(sorted(last), abs=0.0051)


def verdicts(shape: str) -> list[str]:
    _, told = read(shape)
    return [re.sub(r"\d+\.\d+", "x", verdict.answer) for verdict in told.verdicts]


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ("a fall", ["Yes: by x points, interval x to x.", "Yes: by x points, interval x to x."]),
        ("a rise", ["No: at most x points.", "No: any difference is below x points."]),
        ("a gain after the peak", ["Not shown: up to x points are not excluded.", None]),
        ("mix ends lower", [None, "No: it ends lower, by x points, interval x to x."]),
        ("one seed", ["Open: one seed has no interval, so nothing follows from it."] * 2),
        ("no validation", ["Not asked: without validation images no peak can be chosen.", None]),
        ("half of it failed", [None, "No answer yet: no pair of runs has ended."]),
        ("two widths", ["Yes: by x to x points.", "Yes: by x to x points."]),
    ],
)  # fmt: skip
def test_the_answer_in_a_word(shape: str, wanted: list[str | None]) -> None:
    said = verdicts(shape)
    assert len(said) == 2
    for one, other in zip(said, wanted, strict=True):
        assert other is None or one == other


def test_a_gain_is_told_with_the_interval_of_the_gain() -> None:
    """The interval of the drop beside the size of the gain would be a wrong statement."""
    view, told = read("a gain after the peak")
    (found,) = [found for found in told.probes[0].lines if found.method == "Barlow Twins"]
    row = row_of(view, found)
    assert row["estimate"] < 0 < row["high"]
    assert found.text.replace("\u00a0", " ").startswith(
        f"From peak to end, Barlow Twins gains {points(-row['estimate'])} points (95 % interval "
        f"{points(-row['high'])} to {points(-row['low'])}, n = 5)"
    )


def test_the_verdict_on_a_fall_is_that_of_barlow_twins_alone() -> None:
    _, told = read("ten methods")
    fall, end = told.verdicts
    assert {found.method for found in fall.findings} == {"Barlow Twins"}
    assert len(told.probes[0].lines) == 10
    assert len(end.findings) == 1


def test_a_study_of_other_methods_asks_for_accuracy() -> None:
    view = view_of(simulated({"simclr": falling}, seeds=range(5)))
    (verdict,) = answer(view.curves, view.effects).verdicts
    assert verdict.question == "Does accuracy fall after its peak?"
    assert verdict.word == "Yes"


def with_variants() -> StudyView:
    """Both methods, and both again with another setting, under names of their own."""
    courses = {"bt": rising, "mix": rising, "bt-cosine": falling, "mix-cosine": rising}
    lines = simulated(courses, dims=(128, 1024), seeds=range(6))
    objectives = {line.method: line.objective for line in lines}
    return view_of([_of_variant(line, objectives) for line in lines])


def _of_variant(line: Line, objectives: dict[str, str]) -> Line:
    of, _, setting = line.method.partition("-")
    run = {**line.run, "settings": {"objective": objectives[of]}, "recipe": setting}
    return replace(line, objective=objectives[of], run=run)


def test_variants_are_held_against_their_own_kind_and_told_apart() -> None:
    view = with_variants()
    told = answer(view.curves, view.effects)
    pairs = [(f.method, row_of(view, f)["against"]) for f in told.probes[0].pairs]
    assert sorted(pairs) == [("Mixed Barlow Twins", "bt")] * 2 + [("mix-cosine", "bt-cosine")] * 2
    falls, higher = told.verdicts
    assert [finding.method for finding in falls.findings] == ["Barlow Twins"] * 2
    assert falls.word == "No"
    assert "; 2 of 2 variants fall: bt-cosine, by " in falls.answer
    assert [finding.method for finding in higher.findings] == ["Mixed Barlow Twins"] * 2
    assert "mix-cosine" not in higher.answer
    over = overall([told, told])[0]
    assert over.answer.startswith("No: at most ")
    assert "; 4 of 4 variants fall: bt-cosine, by " in over.answer
    shown = panels("", view.curves, view.signals, told, view.methods)
    for panel, finding in zip(shown, higher.findings, strict=True):
        assert panel.gap in (finding.effect, None)
        assert [course.name for course in panel.courses] == ["Barlow Twins", "Mixed Barlow Twins"]
    renamed = {"bt": "b", "mix": "m"}
    other = replace(
        view,
        curves=view.curves.replace({"method": renamed}),
        effects=view.effects.replace({"method": renamed, "against": renamed}),
    )
    unnamed = answer(other.curves, other.effects).verdicts
    assert [len(verdict.findings) for verdict in unnamed] == [4, 4]
    assert unnamed[0].variants == ()


def test_what_is_shown_but_negligible_is_none() -> None:
    """Its interval excludes 0 and ends below the half point: no claim would be reproduced by it."""
    view, _ = read("a fall")
    drops = view.effects["statistic"] == "drop_from_best"
    ends = view.effects["statistic"] == "difference_last"
    small = view.effects.assign(
        estimate=view.effects["estimate"].where(~(drops | ends), 0.08),
        low=view.effects["low"].where(~(drops | ends), 0.01),
        high=view.effects["high"].where(~(drops | ends), 0.15),
    )
    assert [verdict.answer for verdict in answer(view.curves, small).verdicts] == [
        "No: at most 0.15 points.",
        "No: any difference is below 0.5 points.",
    ]


def test_a_study_without_any_result_has_no_answer() -> None:
    view = view_of([])
    told = answer(view.curves, view.effects)
    assert [one.answer for one in told.verdicts] == ["No answer yet: no milestone has been probed."]


def test_the_answer_rests_on_the_studys_first_variant() -> None:
    view, _ = read("a fall")
    probes = [view.probes.assign(variant=variant) for variant in ("9 labels", "10 labels")]
    told = pd.concat([view.effects.assign(variant=one) for one in ("10 labels", "9 labels")])
    found = answer(mean_curves(pd.concat(probes)), told)
    assert "9 labels" in found.rests_on
    assert "9 labels" in found.probes[0].probe


def test_over_all_studies_it_is_counted_how_many_say_what() -> None:
    fell, rose = read("a fall")[1], read("a rise")[1]
    fall, end = overall([fell, rose])
    assert fall.word == "Yes, in 1 of 2 studies"
    assert end.word == "Yes, in 1 of 2 studies"
    both, _ = overall([rose, rose])
    assert (both.word, both.text.partition("points, ")[2]) == ("No", "in 2 of 2 studies")
    assert overall([fell])[0].answer == fell.verdicts[0].answer
    fall, end = overall([fell, rose, rose], networks=2)
    assert fall.word == end.word == "Yes, in 1 of 3 studies (2 sets of networks)"
    assert overall([])[0].word == "No answer yet"


def test_one_seed_is_not_counted_beside_several() -> None:
    several, one = read("a fall")[0], replace(read("one seed")[0], name="pilot")
    assert [study.name for study in counted([one, several])] == [several.name]
    assert [study.name for study in counted([one])] == ["pilot"]
    told = index_page(index_view(one, several))
    assert "One seed, not counted above" in told
    assert told.index(f'href="{several.name}/index.html"') < told.index('href="pilot/index.html"')
    assert "not counted above" not in index_page(index_view(one))


def test_the_baseline_is_taken_off_whatever_the_names() -> None:
    """Above 0 is in favour of the method that Barlow Twins is compared with."""
    lines = simulated({"bt": falling, "mix": rising, "a": rising}, images=50)
    table = effects(lines)
    ends = table[(table["statistic"] == "difference_last") & (table["probe"] == "knn")]
    assert ends[["method", "against"]].values.tolist() == [["a", "mix"], ["a", "bt"], ["mix", "bt"]]
    assert (ends[ends["against"] == "bt"]["estimate"] > 0).all()


def signals(courses: dict[tuple[str, int, str], list[float]]) -> pd.DataFrame:
    """Two seeds around these means of Barlow Twins' loss, at the first of the milestones."""
    rows = [
        (
            f"{method}-s{seed}",
            method,
            dim,
            "clean",
            seed,
            epoch,
            "projector",
            split,
            9,
            "bt_loss",
            v,
        )
        for (method, dim, split), values in courses.items()
        for seed in (1, 2)
        for epoch, v in zip((0, 10, 50, 100), np.array(values) + (seed - 1.5), strict=True)
    ]
    return pd.DataFrame(rows, columns=SIGNAL_COLUMNS)


def test_the_objectives_sentence_is_of_the_course_that_rises_most() -> None:
    falls = [90.0, 50, 40, 30]
    table = signals(
        {
            ("bt", 128, "validation"): [90, 50, 40, 41],
            ("bt", 1024, "validation"): [90, 40, 50, 60],
            ("mix", 1024, "validation"): falls,
            ("bt", 1024, "train"): falls,
        }
    )
    assert overfitting(loss_course(table)) == (
        pytest.approx(0.5),
        "The objective overfits: Barlow Twins' loss (d = 1024) on held-out images is lowest at "
        "epoch 10 and ends 50 % higher; under Mixed Barlow Twins it ends within 0.5 % of its "
        "lowest.",
    )
    rise, told = overfitting(loss_course(signals({("bt", 128, "validation"): falls})))
    assert (rise, told.rpartition(": ")[2]) == (0, "the objective does not overfit.")
    assert overfitting(loss_course(table.iloc[:0])) == (0, "")


def drawn(shape: str) -> tuple[tuple[Panel, ...], str]:
    """The panels of a study's figure, and all that is written in it."""
    view, told = read(shape)
    found = panels("", view.curves, view.signals, told, ("bt", "mix"))
    drawing = answer_figure(found, [(one.question, one.answer) for one in told.verdicts])
    assert "lambda_bt" in drawing.caption
    figure = drawing.figure
    figure.draw_without_rendering()
    assert figure.get_size_inches()[0] == (3.3 if len(found) == 1 else 7.2)
    return found, " ".join(text.get_text().replace("\n", " ") for text in figure.findobj(Text))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_figure_names_its_lines_and_no_settings(shape: str) -> None:
    found, said = drawn(shape)
    assert "lambda" not in said
    assert len(found) == (2 if shape == "two widths" else 1)
    for panel in found:
        assert [course.name for course in panel.courses] == ["Barlow Twins", "Mixed Barlow Twins"]
    assert "Mixed Barlow Twins" in said


def test_a_fall_is_shaded_and_a_difference_has_its_bracket() -> None:
    (fell,), said = drawn("a fall")
    view, told = read("a fall")
    assert [course.fell_from for course in fell.courses] == [100, None]
    row = row_of(view, told.verdicts[1].findings[0])
    assert f"+{points(row['estimate'])} points" in said
    (rose,), said = drawn("a rise")
    assert [course.fell_from for course in rose.courses] == [None, None]
    assert "+" not in said


def test_a_study_of_others_networks_shows_no_loss_and_is_told_of_no_objective() -> None:
    view, _ = read("a fall")
    rises = signals({("bt", 256, "validation"): [90.0, 40, 50, 60]})
    trained = replace(view, name="small", signals=rises, trainer="small")
    asked = replace(trained, name="digits", title="Digits", trainer="small")
    assert networks([trained, asked]) == 1
    assert "Digits" not in most_overfitting([trained, asked])
    assert most_overfitting([asked]) == ""
    with_loss, without = (panels_of(one, titled=True) for one in (trained, asked))
    assert [len(course.loss) for course in without[0].courses] == [0, 0]
    figure = answer_figure([*with_loss, *without]).figure
    figure.draw_without_rendering()
    labels = [axis.get_xlabel() for axis in figure.axes]
    assert labels == ["pre-training epoch", "", "pre-training epoch"]


def test_of_many_panels_one_legend_names_the_lines() -> None:
    shown: list[Panel] = []
    for shape in ("two widths", "a rise"):
        view, told = read(shape)
        shown += panels(shape, view.curves, view.signals, told, ("bt", "mix"))
    figure = answer_figure(shown, [("Which?", "All of them.")]).figure
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][:2] == [
        "Barlow Twins",
        "Mixed Barlow Twins",
    ]
    said = [text.get_text() for text in figure.findobj(Text)]
    assert said.count("Barlow Twins") == 1
    tops = [axis for axis in figure.axes if axis.get_title(loc="left") or axis.get_title()]
    assert len({round(axis.get_position().y0, 6) for axis in tops}) == 1
    assert len({round(axis.get_position().x0, 6) for axis in tops}) == len(shown) == 3


def test_the_difference_is_written_under_the_lines() -> None:
    view, told = read("two widths")
    shown = panels("", view.curves, view.signals, told, ("bt", "mix"))
    figure = answer_figure(shown).figure
    figure.draw_without_rendering()
    written = [
        (axis, text)
        for axis in figure.axes
        for text in axis.texts
        if text.get_text().endswith(" points")
    ]
    assert len(written) == len(shown)
    for axis, text in written:
        box = text.get_window_extent().transformed(axis.transData.inverted())
        for line in axis.lines[: len(shown[0].courses)]:
            x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
            over = np.linspace(max(box.x0, 0), x.max())
            assert np.interp(over, x, y).min() > box.y1
