"""Figures: bytes, sizes in print, what must be readable in grey and by any colour vision."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from constructed import NINE, PROBES, Constructed, construct
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from barlow_atlas.atlas import effects
from barlow_atlas.atlas.records import recorded
from barlow_atlas.atlas.training import TRAINING_COLUMNS, training_table
from barlow_atlas.probes.packing import pack_correlations
from barlow_atlas.report import figures
from barlow_atlas.report.figures import Drawing, canvas, epochs, lost, palette
from barlow_atlas.report.figures.curves import asked_methods
from barlow_atlas.report.study import caption_of
from barlow_atlas.study.file import load_study

HOSTILE = 'a $x_1 \\frac{ <script>alert("1")</script> & | \n\x00 $$ %'

LEDGER = pd.DataFrame(
    [
        ("BT's accuracy falls", "cifar10", "points", 3.1, 1.2, 5.0, "above", 0.5, "reproduced"),
        ("MIX removes it", "cifar10", "points", 0.1, -0.4, 0.6, "not above", 0.5, "inconclusive"),
        ("MIX >= BT", "stl10", "points", -2.0, -3.0, -1.2, "not below", 0.5, "contradicted"),
        (HOSTILE, "a/b", "per doubling", 0.1, -0.1, 0.2, "within", 0.3, "reproduced"),
        ("one seed", "a/b", "per doubling", 0.1, np.nan, np.nan, "above", 0, "inconclusive"),
        ("waits", "imagenet", "points", np.nan, np.nan, np.nan, "above", 1, "not yet run"),
    ],
    columns=["text", "study", "unit", "estimate", "low", "high", "holds", "smallest", "verdict"],
).assign(claim="c", widths="64", seen_by="linear standard")
BESIDE = pd.DataFrame(
    [
        ("Mixed Barlow Twins, CIFAR-10, kNN", 90.52, 85.2, 84.1, 86.3, ("2000 epochs there",)),
        ("Barlow Twins, STL-10, linear probe", 88.6, np.nan, np.nan, np.nan, ()),
        (HOSTILE, 66.0, 64.2, np.nan, np.nan, (HOSTILE,)),
    ],
    columns=["label", "published", "estimate", "low", "high", "differs"],
)


def content(method: str, dim: int, seed: int, epoch: int, correlation: bool) -> dict[str, object]:
    """What `correlations` reads of a probe file."""
    record: dict[str, object] = {"split": "validation", "space": "projector", "count": 256}
    if correlation:
        matrix = np.eye(8) if epoch else np.full((8, 8), -0.5)
        record["correlation"] = {"dimensions": 8, "values": pack_correlations(matrix)}
    run = {"method": method, "embedding_dim": dim, "seed": seed, "protocol": "clean"}
    return {"run": run, "epoch": epoch, "signals": [record]}


def all_figures(study: Constructed, title: str = HOSTILE) -> dict[str, Drawing]:
    """Every figure of a study, and those of the ledger."""
    lines = sorted({(line.method, line.embedding_dim) for line in study.lines})
    contents = [content(*line, 1, epoch, True) for line in lines for epoch in (0, 100)]
    return {
        "curves": figures.accuracy_curves(title, study.probes, study.curves),
        "map": figures.lost_map(title, study.losses),
        "signals": figures.signals(title, study.signals, study.curves, study.label_free),
        "dynamics": figures.dynamics(title, study.signals, study.training),
        "correlations": figures.correlations(title, contents),
        "effects": figures.forest(title, study.effects),
        "factors": figures.one_factor(title, study.factors, study.effects),
        "claims": figures.claims_forest(LEDGER),
        "published": figures.published(BESIDE),
    }


def texts(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


def marked(axis: Axes) -> list[Line2D]:
    """The lines of a panel that have markers."""
    return [line for line in axis.lines if line.get_marker() not in (None, "None", "")]


def said(drawing: Drawing) -> str:
    words = [text.get_text().replace("\n", " ") for text in texts(drawing.figure)]
    return " ".join([*words, drawing.caption])


STUDIES: dict[str, Callable[[], Constructed]] = {
    "two methods, four widths": lambda: construct(seeds=3, images=60),
    "nine methods": lambda: construct(NINE, seeds=2, images=60),
    "one seed": lambda: construct(dims=(256,), seeds=1, images=60),
    "no validation": lambda: construct(dims=(256,), seeds=2, validation=False, images=60),
    "one milestone": lambda: construct(dims=(256,), milestones=(0,), seeds=2, images=60),
    "untrained left out": lambda: construct(dims=(256,), milestones=(5, 50), seeds=2, images=60),
}


@cache
def drawn(name: str) -> dict[str, Drawing]:
    """The figures of one of the studies, for tests that only look at them."""
    return all_figures(STUDIES[name]())


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_every_figure_fits_a_page_in_readable_type(name: str) -> None:
    for figure_name, drawing in drawn(name).items():
        figure = drawing.figure
        figure.draw_without_rendering()
        box = figure.get_tightbbox()
        assert box.width <= canvas.WIDTH + 0.1, figure_name
        assert min(text.get_fontsize() for text in texts(figure)) >= 7, figure_name


def test_a_hostile_title_is_shown_as_it_is_without_control_characters() -> None:
    figure = drawn("one seed")["curves"].figure
    shown = [text.get_text() for text in figure.texts][1]
    assert shown == 'a $x_1 \\frac{ <script>alert("1")</script> & | $$ %'
    ElementTree.fromstring(figures.svg(figure, "curves"))


@pytest.mark.slow
def test_what_a_figure_rests_on_stands_in_its_caption_and_not_in_the_picture() -> None:
    for name in ("curves", "map", "effects", "signals", "dynamics"):
        drawing = drawn("nine methods")[name]
        assert {"Protocol clean", "2 seeds"} <= set(
            re.findall(r"Protocol clean|2 seeds", drawing.caption)
        ), name
        assert "Protocol" not in " ".join(text.get_text() for text in texts(drawing.figure)), name
    assert "Protocol reference" in drawn("no validation")["curves"].caption


def test_the_ledger_is_printed_on_pages() -> None:
    many = pd.concat([LEDGER.assign(claim=f"c{number}") for number in range(9)])
    drawing = figures.claims_forest(many)
    assert len(drawing.pages) > 1
    assert (
        max(page.get_size_inches()[1] for page in drawing.pages)
        < 11
        < (drawing.figure.get_size_inches()[1])
    )
    panels = [axis for page in drawing.pages for axis in page.axes]
    assert len(panels) == len(drawing.figure.axes) == 9
    assert len(figures.claims_forest(LEDGER).pages) == 1


@pytest.mark.slow
def test_no_legend_lies_on_a_panel() -> None:
    for name in ("two methods, four widths", "nine methods"):
        for figure in (drawing.figure for drawing in drawn(name).values()):
            figure.draw_without_rendering()
            for legend in figure.legends:
                for axis in figure.axes:
                    assert not legend.get_window_extent().overlaps(axis.get_window_extent())


@pytest.mark.parametrize("entries", range(1, 25))
def test_a_legend_fills_its_columns(entries: int) -> None:
    columns = canvas.legend_columns([f"method, d = {place}" for place in range(entries)])
    rows = -(-entries // columns)
    assert rows * columns - entries < rows


def test_published_values_of_other_set_ups_are_called_not_comparable() -> None:
    assert "not comparable yet" in said(figures.published(BESIDE))
    alike = BESIDE.assign(differs=[()] * len(BESIDE))
    assert "not comparable" not in said(figures.published(alike))


def test_what_cannot_be_drawn_is_said() -> None:
    reference = drawn("no validation")
    assert "no map" in said(reference["map"]).lower()
    assert "protocol reference" in said(reference["map"])
    assert "One seed" in said(drawn("one seed")["curves"])
    old = [content("bt", 8, 1, epoch, False) for epoch in (0, 100)]
    assert "hold no correlation matrices" in said(figures.correlations("T", old))
    nothing = figures.published(BESIDE[BESIDE["estimate"].isna()])
    assert "1 published value, none of them measured yet" in said(nothing)
    waiting = figures.claims_forest(LEDGER[LEDGER["verdict"] == "not yet run"])
    assert "1 claim in 1 row: 1 not yet run" in said(waiting)


def test_tables_without_rows_give_figures_that_say_so() -> None:
    study = STUDIES["one seed"]()
    empty = {
        name: getattr(study, name).iloc[:0]
        for name in Constructed.__annotations__
        if name != "lines"
    }
    none = all_figures(Constructed(lines=[], **empty))
    for name in ("curves", "map", "signals", "dynamics", "correlations", "effects", "factors"):
        assert len(none[name].figure.axes) == 1, name
    assert figures.claims_forest(LEDGER.iloc[:0]).figure.axes
    assert figures.published(BESIDE.iloc[:0]).figure.axes


def test_signals_that_are_nan_everywhere_are_left_out() -> None:
    study = STUDIES["one seed"]()
    broken = study.signals.copy()
    broken.loc[broken["signal"] == "rankme", "value"] = np.nan
    drawing = figures.signals("T", broken, study.curves, study.label_free)
    assert "RankMe" not in said(drawing)
    assert "Effective rank" in said(drawing)


@pytest.mark.slow
def test_five_hundred_milestones() -> None:
    study = construct(dims=(256,), milestones=tuple(range(0, 1000, 2)), seeds=1, images=2)
    for name, drawing in all_figures(study).items():
        assert len(figures.svg(drawing.figure, name)) < 2_000_000
        for axis in drawing.figure.axes:
            assert len(axis.get_xticks()) <= 20


def test_the_map_shows_each_loss_and_marks_those_beyond_chance() -> None:
    study = STUDIES["two methods, four widths"]()
    figure = figures.lost_map("T", study.losses).figure
    cells = [
        text
        for axis in figure.axes
        for text in axis.texts
        if text.get_text().lstrip(canvas.MINUS).replace(".", "").isdigit()
    ]
    assert len(cells) == study.losses["after_peak"].sum() > 0, "blank up to the peak"
    sure = study.losses["after_peak"] & (study.losses["low"] * study.losses["high"] > 0)
    assert sum(text.get_fontweight() == "bold" for text in cells) == sure.sum() > 0


def test_factors_show_each_level_in_its_order_once_a_set_of_lines() -> None:
    study = STUDIES["two methods, four widths"]()
    figure = figures.one_factor("T", study.factors, study.effects).figure
    above, *below = figure.axes
    assert above.get_title(loc="left") == "embedding's width"
    assert [label.get_text() for label in below[-1].get_xticklabels()] == [
        "128",
        "1024",
        "2048",
        "4096",
    ]
    assert len(below) == len(PROBES)
    trends = study.effects[study.effects["statistic"] == "trend_last"]
    slope = trends[(trends["probe"] == "linear") & (trends["method"] == "bt")]["estimate"].item()
    assert above.texts[0].get_text().startswith(canvas.signed(f"{slope:.2f} ["))
    ends = study.effects[
        (study.effects["statistic"] == "last") & (study.effects["probe"] == "linear")
    ]
    for method, line in zip(("bt", "mix"), marked(above), strict=True):
        of_method = ends[ends["method"] == method].sort_values("embedding_dim")
        assert list(line.get_ydata()) == pytest.approx(of_method["estimate"].tolist())


def test_levels_without_an_order_are_not_joined() -> None:
    line = STUDIES["two methods, four widths"]().lines[0]
    lines = [
        replace(line, method=method, run={**line.run, "method": method, "recipe": recipe})
        for method, recipe in (("bt", "coloured"), ("bt-grey", "grey"))
    ]
    figure = figures.one_factor("T", effects.factors(lines), effects.effects(lines)).figure
    above, below = figure.axes
    assert above.get_title(loc="left") == "augmentation"
    assert [label.get_text() for label in below.get_xticklabels()] == ["bt", "bt-grey"]
    assert [line.get_linestyle() for line in marked(above)] == ["None"]


def test_sets_of_levels_that_differ_in_more_are_parted() -> None:
    line = STUDIES["two methods, four widths"]().lines[0]
    lines = [
        replace(line, method=method, epochs=epochs, run={**line.run, **changes})
        for method, epochs, changes in (
            ("bt", 40, {"recipe": "coloured"}),
            ("bt-grey", 40, {"recipe": "grey"}),
            ("bt-long", 80, {"recipe": "coloured", "epochs": 80}),
            ("bt-long-grey", 80, {"recipe": "grey", "epochs": 80}),
        )
    ]
    drawing = figures.one_factor("T", effects.factors(lines), effects.effects(lines))
    (axis,) = (one for one in drawing.figure.axes if one.get_title(loc="left") == "augmentation")
    borders = [one for one in axis.lines if one.get_xdata()[0] == one.get_xdata()[-1] == 1.5]  # type: ignore[index]
    assert len(borders) == 1
    assert "parts sets that differ in something else" in drawing.caption


def test_of_many_methods_those_not_asked_for_have_a_curve_each() -> None:
    study = STUDIES["nine methods"]()
    planned = [*NINE, "not yet run"]
    figure = figures.accuracy_curves("T", study.probes, study.curves, planned).figure
    shown = {axis.get_title(loc="left"): axis for axis in figure.axes}
    asked = asked_methods(study.curves, NINE)
    apart = [method for method in NINE if method not in asked]
    assert list(shown)[-len(apart) :] == apart
    widths = study.curves["embedding_dim"].nunique()
    for method in apart:
        colours = [line.get_color() for line in marked(shown[method])]
        assert colours.count(palette.BEHIND.colour) == widths
        assert len(colours) == 2 * widths
    (legend,) = figure.legends
    assert {text.get_text().partition(",")[0] for text in legend.get_texts()} == set(asked)


def test_a_milestone_that_a_line_lacks_is_grey() -> None:
    losses = STUDIES["two methods, four widths"]().losses
    one = losses[(losses["embedding_dim"] == 4096) & (losses["probe"] == "knn")]
    last = one["epoch"].max()
    short = one[(one["method"] == "bt") | (one["epoch"] < last)]
    drawing = figures.lost_map("T", short)
    bt, mix = np.asarray(drawing.figure.axes[0].images[0].get_array())
    assert tuple(mix[-1]) == lost.NOT_THERE
    assert lost.NOT_THERE not in {tuple(cell) for cell in [*bt, *mix[:-1]]}
    assert "Grey: a milestone that others have." in drawing.caption


def test_no_cell_before_the_peak_has_a_warm_colour() -> None:
    study = STUDIES["two methods, four widths"]()
    one = study.losses[
        (study.losses["method"] == "bt")
        & (study.losses["embedding_dim"] == 4096)
        & (study.losses["probe"] == "knn")
    ]
    figure = figures.lost_map("T", one).figure
    colours = np.asarray(figure.axes[0].images[0].get_array())[0]
    warm = colours[:, 0] > colours[:, 2]
    one = one.sort_values("epoch")
    assert warm.tolist() == (one["after_peak"] & (one["estimate"] > 0)).tolist()
    assert warm.any()
    assert not warm.all()
    scale = [luminance(tuple(colour)) for colour in lost.WARM(np.linspace(0, 1, 20))[:, :3]]
    assert scale == sorted(scale, reverse=True)


def test_where_nothing_is_lost_a_sentence_stands_in_place_of_the_map() -> None:
    study = STUDIES["two methods, four widths"]()
    none = study.losses.assign(estimate=-study.losses["estimate"].abs())
    drawing = figures.lost_map("T", none)
    assert "nothing is lost" in said(drawing)
    assert "nothing is lost" in caption_of("map", drawing), "and not how to read cells"
    assert not drawing.figure.axes[0].images


def test_effects_of_different_units_never_share_a_panel() -> None:
    study = STUDIES["two methods, four widths"]()
    figure = figures.forest("T", study.effects).figure
    units = [axis.get_xlabel() for axis in figure.axes]
    assert units == [
        unit
        for unit in ("points", "points per doubling", f"points {canvas.TIMES} epochs", "epoch")
        for _ in PROBES
    ]


def test_the_generalisation_gap_is_held_out_minus_training() -> None:
    study = STUDIES["one seed"]()
    signals = study.signals.copy()
    chosen = (signals["signal"] == "bt_loss") & (signals["space"] == "projector")
    signals.loc[chosen, "value"] = np.where(signals[chosen]["split"] == "train", 40.0, 42.5)
    figure = figures.dynamics("T", signals, study.training).figure
    (axis,) = [axis for axis in figure.axes if axis.get_title("left") == "Generalisation gap"]
    courses = [line.get_ydata() for line in axis.lines if len(line.get_xdata()) > 2]
    assert len(courses) == 2
    for values in courses:
        np.testing.assert_allclose(np.asarray(values, float), 2.5)


def test_a_correlation_matrix_is_drawn_as_it_is_stored() -> None:
    contents = [content("bt", 8, seed, epoch, True) for seed in (2, 1) for epoch in (0, 50, 100)]
    drawing = figures.correlations("T", contents)
    before, after = (
        axis.images[0] for axis in drawing.figure.axes if axis.images and axis.get_xlabel()
    )
    np.testing.assert_allclose(before.get_array(), -0.5, atol=1 / 254)
    np.testing.assert_allclose(after.get_array(), np.eye(8), atol=1 / 254)
    assert before.norm.vmin == -before.norm.vmax
    assert "seed 1" in said(drawing)


def test_labelled_epochs_leave_each_other_room() -> None:
    assert epochs.spread([0, 5, 10, 25, 50, 100], 7) == [0, 5, 10, 25, 50, 100]
    many = epochs.spread(list(range(0, 1001, 2)), 7)
    assert many[0] == 0
    assert many[-1] == 1000
    assert 4 <= len(many) <= 9
    assert epochs.spread([0], 7) == [0]
    assert epochs.spread([0, 5, 10, 20], 7) == [0, 5, 10, 20]
    assert epochs.spread([0, 500, 1000, 2000], 4) == [0, 500, 2000], "longer labels, fewer of them"


def test_the_band_is_students_t() -> None:
    frame = pd.DataFrame({"epoch": 5, "value": [1.0, 2.0, 4.0, np.nan]})
    row = epochs.over_seeds(frame, ["epoch"]).iloc[0]
    half = 4.302652729911275 * np.std([1, 2, 4], ddof=1) / np.sqrt(3)
    assert [row["n"], row["mean"], row["high"]] == pytest.approx([3, 7 / 3, 7 / 3 + half])


def test_long_words_are_broken_and_lines_fit() -> None:
    lines = canvas.wrap("W" * 300 + " and so on", 8, 2)
    assert "".join(lines).replace(" ", "") == "W" * 300 + "andsoon"
    assert max(canvas._width(line, 8, "normal") for line in lines) <= 144


@pytest.mark.parametrize("drop", [(), ("mix",), ("simclr",)])
def test_a_method_keeps_its_colour_where_others_lack(drop: tuple[str, ...]) -> None:
    everything = palette.looks([(method, 64) for method in NINE], NINE)
    some = palette.looks([(method, 64) for method in NINE if method not in drop], NINE)
    for line, look in some.items():
        assert look == everything[line]
    assert palette.looks([("mix", 8)])["mix", 8].colour == everything["mix", 64].colour


def test_no_two_lines_look_alike() -> None:
    widths = [(method, dim) for method in ("bt", "mix") for dim in (128, 1024, 2048, 4096)]
    many = [(f"m{number:02}", 64) for number in range(27)]
    study = load_study(Path("params/fixed-rate/small.yaml"))
    varied = {(run.method, run.embedding_dim) for run in study.runs()}
    assert len({method for method, _ in varied}) > len(palette.COLOURS)
    for lines in (widths, many, varied, [(method, 64) for method in NINE]):
        found = palette.looks(lines)
        assert len(set(found.values())) == len(lines)


def test_methods_differ_in_grey_print_by_more_than_grey() -> None:
    """Marker, dashes or filling tell any two apart; bt and mix differ in grey by themselves."""
    found = palette.looks([(method, 64) for method in NINE])
    codes = {(look.marker, look.dash, look.fill) for look in found.values()}
    assert len(codes) == len(NINE)
    both = palette.looks([(method, dim) for method in ("bt", "mix") for dim in (64, 128)])
    assert len({(look.marker, look.dash, look.fill) for look in both.values()}) == 4
    bt, mix = (lightness(rgb(colour)) for colour in palette.COLOURS[:2])
    assert abs(bt - mix) >= 20


# Machado, Oliveira and Fernandes, IEEE TVCG 15 (2009) 1291-1298, severity 1, on linear RGB.
VISIONS = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.mark.parametrize("vision", VISIONS)
def test_readers_of_any_colour_vision_tell_the_colours_apart(vision: str) -> None:
    """CIE 1976 differences; 2.3 is just noticeable."""
    seen = [lab(np.asarray(VISIONS[vision]) @ linear(rgb(colour))) for colour in palette.COLOURS]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) >= 20


def rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))


def linear(colour: tuple[float, ...]) -> np.ndarray:
    values = np.asarray(colour)
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def luminance(colour: tuple[float, ...]) -> float:
    return float(linear(colour) @ [0.2126, 0.7152, 0.0722])


def lab(light: np.ndarray) -> np.ndarray:
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    ratio = to_xyz @ np.clip(light, 0, 1) / to_xyz.sum(axis=1)
    x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def lightness(colour: tuple[float, ...]) -> float:
    return float(lab(linear(colour))[0])


def test_an_svg_does_not_depend_on_what_was_drawn_before() -> None:
    """Layouts differ in their last digits then, and matplotlib's ids would be hashes of these."""
    first = figures.svg(figures.claims_forest(LEDGER).figure, "claims")
    figures.svg(figures.published(BESIDE).figure, "published")
    figures.svg(drawn("one seed")["effects"].figure, "effects")
    assert figures.svg(figures.claims_forest(LEDGER).figure, "claims") == first


@pytest.mark.slow
def test_svgs_can_stand_together_in_one_page() -> None:
    embedded = [figures.svg(one.figure, name) for name, one in drawn("one seed").items()]
    ids = [
        element.get("id") for text in embedded for element in ElementTree.fromstring(text).iter()
    ]
    named = [name for name in ids if name]
    assert len(set(named)) == len(named)
    for text in embedded:
        root = ElementTree.fromstring(text)
        assert text.startswith("<svg")
        assert root.get("viewBox")
        assert root.get("width") is None
        assert not [element for element in root.iter() if element.tag.endswith("}style")]
        known = {f"#{element.get('id')}" for element in root.iter()}
        links = [
            value
            for element in root.iter()
            for key, value in element.attrib.items()
            if key.endswith("href") and not value.startswith("data:")
        ]
        assert links
        assert set(links) <= known


PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = ["tests/support", "tests/unit/report"]
from constructed import construct
from test_figures import all_figures
from barlow_atlas.report import figures
folder = Path(sys.argv[1])
for name, drawing in all_figures(construct(dims=(64, 128), seeds=2, images=20)).items():
    figures.save(drawing, folder / f"{name}.pdf", folder / f"{name}.png")
    (folder / f"{name}.svg").write_text(figures.svg(drawing.figure, name))
"""


@pytest.mark.slow
def test_figures_are_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    """Whatever order sets have, and whatever the user's own matplotlib settings are."""
    found = []
    for number in ("1", "2"):
        folder, config = tmp_path / number, tmp_path / f"config{number}"
        folder.mkdir()
        config.mkdir()
        (config / "matplotlibrc").write_text(f"font.size: 1{number}\nlines.linewidth: {number}\n")
        environment = {
            "PYTHONHASHSEED": number,
            "MPLCONFIGDIR": str(config),
            "OMP_NUM_THREADS": "1",
        }
        subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], check=True, env=environment)
        found.append({file.name: file.read_bytes() for file in sorted(folder.iterdir())})
    assert len(found[0]) == 27
    assert found[0] == found[1]
    assert found[0]["map.pdf"].startswith(b"%PDF")


def test_training_metrics_are_a_row_an_epoch() -> None:
    run = load_study(Path("params/demo.yaml")).trained()[4]
    record = recorded("demo", run)
    table = training_table([(run, record)])
    assert list(table.columns) == TRAINING_COLUMNS
    assert table["epoch"].tolist() == list(range(1, 101))
    assert table["loss"].tolist() == [
        loss for metrics in record.training.values() for loss in metrics.get("loss", ())
    ]
    assert set(table["run"]) == {run.name}
    assert list(training_table([]).columns) == TRAINING_COLUMNS
