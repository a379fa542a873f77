"""The page of a study, and the page over all studies: one HTML file each, and pictures beside it.

Style, script, data and the answer's picture stand in the file; the other figures are the PNG files
beside it, which are loaded when they are seen. It opens from a disk and from any static server, and
a Content-Security-Policy forbids everything else. Same views, same bytes.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from barlow_atlas.atlas.ledger import NOT_RUN, VERDICTS
from barlow_atlas.report.answer import Answer, Verdict, answer, overall, points
from barlow_atlas.report.objective import loss_course, overfitting
from barlow_atlas.report.page.curve import curve_data, script_json
from barlow_atlas.report.text import MINUS, PROTOCOLS, duration

__all__ = [
    *("Card", "Figure", "IndexView", "Picture", "StudyView", "TableView"),
    *("claim_matrix", "counted", "curve_data", "index_page", "is_example", "live_parts"),
    *("missing_runs", "most_overfitting", "networks", "provenance", "role_of", "study_page"),
]

HERE = Path(__file__).parent
FIGURE_FILES = ("png", "pdf")
TABLE_FILES = ("csv", "md", "tex")
ROLES = {
    "paper": "the papers' own setting",
    "stand-in": "a stand-in for the papers' setting",
    "example": "an example of how to read this, not a test of the papers",
}


@dataclass(frozen=True)
class Figure:
    """A figure; `name` is that of its files without ending, `alt` says what it shows.

    Attributes:
        size: width and height of its PNG, in pixels.
    """

    name: str
    title: str
    caption: str
    alt: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Picture:
    """A drawing that stands in the page itself, and what it shows in words."""

    svg: str
    alt: str


@dataclass(frozen=True)
class Card:
    """The answer in the first screen: questions, answers, what they rest on, and a picture."""

    verdicts: tuple[Verdict, ...]
    rests_on: str
    objective: str
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class TableView:
    """A table; `html` is a trusted <table>, whose cells may carry `data-sort`."""

    name: str
    title: str
    html: str


@dataclass(frozen=True)
class StudyView:
    """All that a study's page shows.

    Attributes:
        data: the data set in words.
        curves, probes, signals, effects, runs: as in the study's CSV files.
        claims: rows of the ledger that are about this study, `ledger.LEDGER_COLUMNS`.
        pictures: of the answer.
        figures: in the order of the page.
        command: what makes all of this again.
        methods: in the study's order, as the figures got them.
        trainer: of the networks: this study, or the one whose milestones it takes.
    """

    name: str
    title: str
    protocol: str
    data: str
    curves: pd.DataFrame
    probes: pd.DataFrame
    signals: pd.DataFrame
    effects: pd.DataFrame
    claims: pd.DataFrame
    runs: pd.DataFrame
    pictures: tuple[Picture, ...]
    figures: tuple[Figure, ...]
    tables: tuple[TableView, ...]
    command: str
    methods: tuple[str, ...] = ()
    trainer: str = ""

    @property
    def trains(self) -> bool:
        """Whether the networks are its own."""
        return self.trainer in ("", self.name)


@dataclass(frozen=True)
class IndexView:
    """All that the page over all studies shows; `claims` is the whole ledger."""

    studies: tuple[StudyView, ...]
    claims: pd.DataFrame
    figures: tuple[Figure, ...]
    tables: tuple[TableView, ...]
    command: str


def study_page(view: StudyView, live: bool = False) -> str:
    """The page of one study.

    Args:
        live: the page of a study under way, which asks status.json and data.json beside it again
            and again; without it the page asks for nothing.
    """
    return _page(
        "study.html.j2",
        {"curve": _curve(view), "titles": {view.name: view.title}},
        live=live,
        view=view,
        **_said(view),
        provenance=provenance(view.runs),
        home="../" * (view.name.count("/") + 1) + "index.html",
        table_folder="",
    )


def live_parts(view: StudyView) -> dict[str, str]:
    """What changes on a live page beside the curve: the id of each part -> its HTML."""
    parts = _environment().get_template("parts.html.j2").module
    said = _said(view)
    return {
        "verdicts": str(parts.verdicts(said["card"])),  # type: ignore[attr-defined]
        "behind": str(parts.behind(said["card"])),  # type: ignore[attr-defined]
        "findings": str(parts.all_findings(said["answer"])),  # type: ignore[attr-defined]
        "missing-runs": str(parts.missing(said["missing"])),  # type: ignore[attr-defined]
    }


def _said(view: StudyView) -> dict[str, Any]:
    """A study's answer, its card, its claims and what it lacks."""
    study_answer = answer(view.curves, view.effects)
    return {
        "answer": study_answer,
        "card": _card(view, study_answer),
        "claims": claim_matrix(view.claims),
        "missing": missing_runs(view.runs),
    }


def _card(view: StudyView, study_answer: Answer) -> Card:
    return Card(
        study_answer.verdicts,
        "; ".join(filter(None, [study_answer.rests_on, role_of(view)])),
        overfitting(loss_course(view.signals))[1],
        view.pictures,
    )


def role_of(view: StudyView) -> str:
    """What a study is to the papers, in words."""
    return ROLES[view.claims["role"].iloc[0]] if len(view.claims) else "a study of its own"


def index_page(view: IndexView) -> str:
    """The page over all studies; those that are not counted come last."""
    among = counted(view.studies)
    left_out = {
        study.name: "An example" if is_example(study) else "One seed"
        for study in view.studies
        if study.name not in {one.name for one in among}
    }
    shown = sorted(view.studies, key=lambda study: (study.name in left_out, is_example(study)))
    said = [(study, _said(study)) for study in shown]
    answers = [one for study, one in said if study.name not in left_out]
    tests = view.claims[view.claims["role"] != "example"]
    return _page(
        "index.html.j2",
        {
            "curve": {"lines": [line for study in shown for line in _curve(study)["lines"]]},
            "titles": {study.name: study.title for study in shown},
        },
        live=False,
        view=view,
        card=Card(
            overall([one["answer"] for one in answers], networks(among)),
            "; ".join(dict.fromkeys(one["card"].rests_on for one in answers)),
            most_overfitting(among),
            tuple(picture for study in among for picture in study.pictures),
        ),
        said=said,
        not_counted=left_out,
        provenances=[(study, provenance(study.runs)) for study in shown],
        claims=claim_matrix(tests),
        example_claims=claim_matrix(view.claims[view.claims["role"] == "example"]),
        counts={verdict: int((tests["verdict"] == verdict).sum()) for verdict in VERDICTS},
        number_of_claims=tests["claim"].nunique(),
        table_folder="tables/",
    )


def most_overfitting(studies: Sequence[StudyView]) -> str:
    """The sentence on the objective of the study where it overfits most."""
    told = [
        (*overfitting(loss_course(study.signals)), study.title) for study in studies if study.trains
    ]
    _, sentence, title = max(told, default=(0.0, "", ""))
    return f"{title}: {sentence[0].lower()}{sentence[1:]}" if sentence and title else sentence


def _named(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in row.items()}


@dataclass(frozen=True)
class ClaimMatrix:
    """Claims by studies: `cells[claim][study]` are rows of the ledger.

    Attributes:
        studies: that have run for any claim, with what they are to the papers.
        claims: texts and sources of those that have run in any study, by id.
        waiting: claims or parts of them that have not: text -> studies.
    """

    studies: dict[str, str]
    claims: dict[str, tuple[str, str]]
    cells: dict[str, dict[str, list[dict[str, Any]]]]
    waiting: dict[str, list[str]]


def claim_matrix(ledger: pd.DataFrame) -> ClaimMatrix:
    """The ledger's rows by claim and study."""
    run = ledger[ledger["verdict"] != NOT_RUN]
    cells: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in run.to_dict("records"):
        cells.setdefault(row["claim"], {}).setdefault(row["study"], []).append(_named(row))
    waiting: dict[str, list[str]] = {}
    for row in ledger[ledger["verdict"] == NOT_RUN].to_dict("records"):
        studies = waiting.setdefault(row["text"], [])
        if row["study"] not in studies:
            studies.append(row["study"])
    return ClaimMatrix(
        {row["study"]: row["role"] for row in run.to_dict("records")},
        {row["claim"]: (row["text"], row["source"]) for row in run.to_dict("records")},
        cells,
        waiting,
    )


def is_example(study: StudyView) -> bool:
    """Whether the study only shows how the atlas reads; one without claims is somebody's own."""
    return bool(len(study.claims)) and bool((study.claims["role"] == "example").all())


def counted(studies: Sequence[StudyView]) -> list[StudyView]:
    """The studies that the answer over all of them rests on.

    No examples, and none of one seed where others have several: it has no interval, so nothing
    follows from it.
    """
    own = [study for study in studies if not is_example(study)]
    return [study for study in own if (study.curves["seeds"] > 1).any()] or own


def networks(studies: Sequence[StudyView]) -> int:
    """How many sets of networks these studies ask: some ask those of others."""
    return len({study.trainer or study.name for study in studies})


def missing_runs(runs: pd.DataFrame) -> list[str]:
    """What a study lacks, a line for each incomplete run; empty if it is complete."""
    told = []
    for row in runs.to_dict("records"):
        epochs = "" if pd.isna(row["missing"]) else str(row["missing"]).removesuffix(".0")
        if not epochs:
            continue
        lacking = (
            f"epochs {epochs.replace(' ', ', ')} of {_whole(row['planned'])} milestones"
            if _whole(row["milestones"])
            else "all milestones"
        )
        told.append(f"{row['run']}: {lacking}")
    return told


def provenance(runs: pd.DataFrame) -> dict[str, str]:
    """Who made a study's numbers: fact -> text, from runs.csv."""
    probed = runs[pd.to_numeric(runs["milestones"]).fillna(0) > 0]
    changed = sum(str(value) == "True" for value in probed["changed"])
    note = f" (uncommitted changes in {changed} of {len(probed)} runs)" if changed else ""
    return {
        "Runs": f"{len(probed)} of {len(runs)} have results, "
        f"{int(probed['milestones'].sum())} of {int(runs['planned'].sum())} milestones",
        "Commits": _distinct(probed["commit"]) + note,
        "Data (SHA-256)": _distinct(probed["data_sha256"]),
        "Versions": "; ".join(
            f"{library} {_distinct(probed[column])}"
            for library, column in (
                ("Python", "python"),
                ("torch", "torch"),
                ("torchvision", "torchvision"),
            )
        ),
        "Devices": _distinct(probed["device"]),
        "Machines": _distinct(probed["machine"]),
        "Duration": duration(float(pd.to_numeric(probed["seconds"]).sum())),
    }


def _curve(view: StudyView) -> dict[str, Any]:
    return curve_data(view.curves, view.probes, view.methods)


def _page(template: str, data: Mapping[str, Any], live: bool, **content: object) -> str:
    style, script = ((HERE / name).read_text() for name in ("page.css", "page.js"))
    policy = {
        "default-src": "'none'",
        "style-src": _hash(style),
        "script-src": _hash(script),
        "img-src": "'self' data: file:",
        **({"connect-src": "'self'"} if live else {}),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return (
        _environment()
        .get_template(template)
        .render(
            content,
            style=style,
            script=script,
            policy="; ".join(f"{name} {value}" for name, value in policy.items()),
            data=script_json(data),
            live=live,
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(
        picture=_picture,
        size=_size,
        file=lambda name: quote(name, safe="/"),
        number=_number,
        bare=lambda value: "" if pd.isna(value) else f"{float(value):.6g}",
        claimed=_claimed,
        whole=_whole,
        text=lambda value: "" if pd.isna(value) else str(value),
        records=lambda frame: frame.to_dict("records"),
        verdicts=lambda rows: {
            verdict: count
            for verdict in VERDICTS
            if (count := sum(row["verdict"] == verdict for row in rows))
        },
        slug=lambda text: str(text).replace(" ", "-"),
        seconds=lambda value: "" if pd.isna(value) else duration(float(value)),
    )
    environment.globals.update(
        FIGURE_FILES=FIGURE_FILES, TABLE_FILES=TABLE_FILES, PROTOCOLS=PROTOCOLS
    )
    return environment


def _picture(svg: str) -> Markup:
    """The figure as a data URI for an attribute in double quotes.

    As a picture of its own it can neither run a script nor share ids or styles with the page.
    Encoded is what would end the attribute or the URI; the rest is left, for the file's size. So
    are the figure's own quotes, as single ones.
    """
    svg = svg.replace("'", "&#39;").replace('"', "'")
    signs = "".join(map(chr, range(0x20, 0x7F)))
    safe = signs.translate({ord(sign): None for sign in '"#%&'})
    return Markup(f"data:image/svg+xml,{quote(' '.join(svg.split()), safe=safe)}")


def _size(svg: str) -> Markup:
    """Width and height of the figure's view box, so that the page keeps its place free."""
    box = re.search(r'viewBox="0 0 (\d+)[\d.]* (\d+)', svg)
    return Markup(f' width="{box[1]}" height="{box[2]}"') if box else Markup()


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _distinct(values: pd.Series[Any]) -> str:
    """The different values, in order; a column without any is "unknown"."""
    parts = {part for value in values.dropna() for part in str(value).split("; ")}
    return ", ".join(sorted(parts)) or "unknown"


def _number(value: object) -> str:
    return "" if pd.isna(value) else points(float(value))  # type: ignore[call-overload,arg-type]


def _claimed(holds: str, smallest: float) -> str:
    """The set of values that a claim speaks of, as a condition on the effect."""
    limit = f"{smallest:g}"
    return {
        "above": f"> {limit}",
        "not above": f"< {limit}",
        "not below": f"> {MINUS}{limit}",
        "within": f"\N{PLUS-MINUS SIGN}{limit}",
    }[holds]


def _whole(value: object) -> int:
    return 0 if pd.isna(value) else int(value)  # type: ignore[call-overload]
