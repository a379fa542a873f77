"""Published numbers beside measured ones, with what differs in the set-up.

A published number is a single one: its uncertainty is unknown. So the interval of a difference is
ours alone, shifted by the published number, and says nothing about the spread of theirs.
"""

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from barlow_atlas.atlas.published import (
    DATA_SETS,
    WEIGHTS,
    Ours,
    Probe,
    Published,
    PublishedProbe,
    Row,
    Selector,
    TableError,
    TableSpec,
    find,
)
from barlow_atlas.data.catalog import CATALOG
from barlow_atlas.study.models import Run, Study

COLUMNS = [
    *("table", "method", "dataset", "metric", "published", "unit", "percent", "paper"),
    *("paper_table", "source", "study", "our_method", "embedding_dim", "epochs", "protocol"),
    *("probe", "variant", "ours", "low", "high", "n"),
    *("difference", "difference_low", "difference_high", "differs", "note"),
]
"""A row of the joined table: the published number as printed, and in percent; ours in percent;
differences in points; `differs`, what differs in the set-up, a tuple of texts; `note`, why a number
is missing."""

NOT_YET_RUN = "not yet run"
_REAL = ("ours", "low", "high", "difference", "difference_low", "difference_high")
_WHOLE = ("embedding_dim", "epochs", "n")
_STATISTICS = {"last": "", "best_on_test": ", best on test"}
# Published names of a method, letters and digits only, that its objective does not spell out.
_ALSO_KNOWN_AS = {"w_mse": ("wmse2",)}


@dataclass(frozen=True)
class Fact:
    """One property of the set-up: its value and how it is said."""

    value: Any
    words: str


def beside(
    spec: TableSpec,
    published: Sequence[Published],
    effects: Mapping[str, pd.DataFrame],
    studies: Mapping[str, Study],
) -> pd.DataFrame:
    """A table's rows: published value, ours, their difference, what differs in the set-up.

    Args:
        spec: which numbers stand beside which.
        published: all published numbers.
        effects: study -> its table of effects; studies without one are not yet run.
        studies: every study, by name.

    Returns:
        Columns `COLUMNS`, then one named `also NAME` (percent, text with the source's digits) and
        one `also NAME from` (its metric and set-up) for each further published column.

    Raises:
        TableError: a selector that does not mean exactly one number; a study, method, width or
            probe that does not exist; numbers of two data sets side by side.
    """
    try:
        rows = [joined(spec.name, row, published, effects, studies) for row in spec.rows]
    except TableError as error:
        raise TableError(f"table {spec.name!r}: {error}") from error
    names = dict.fromkeys(name for row in spec.rows for name in row.also)
    also = [column for name in names for column in (f"also {name}", f"also {name} from")]
    return _frame(rows, [*COLUMNS, *also])


def _frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Text is empty and numbers are missing where a row has none; whole numbers stay whole."""
    table = pd.DataFrame([{"differs": (), **row} for row in rows], columns=list(columns))
    table = table.astype(dict.fromkeys(_REAL, "float64") | dict.fromkeys(_WHOLE, "Int64"))
    text = [column for column in columns if column not in ("differs", *_REAL, *_WHOLE)]
    return table.assign(**table[text].astype(object).fillna("").astype(str))


def joined(
    table: str,
    row: Row,
    published: Sequence[Published],
    effects: Mapping[str, pd.DataFrame],
    studies: Mapping[str, Study],
) -> dict[str, Any]:
    """One row of a table as `beside` has it, what it has not left out.

    Raises:
        TableError: as `beside`.
    """
    theirs = None if row.published.none else find(row.published, published)
    also = {name: _also(selector, row.published, published) for name, selector in row.also.items()}
    return {
        **_joined(table, row.published, theirs, row.ours, effects, studies),
        **{f"also {name}": str(number.percent) for name, number in also.items()},
        **{f"also {name} from": _origin(number) for name, number in also.items()},
    }


def _also(selector: Selector, main: Selector, published: Sequence[Published]) -> Published:
    """A further published number, which must be an accuracy on the row's data set."""
    number = find(selector, published)
    if number.probe is None or (main.dataset and number.dataset != main.dataset):
        raise TableError(
            f"{selector.wanted} is {number.metric!r} on {number.dataset!r}: expected a top-1 "
            f"accuracy on {main.dataset!r}"
        )
    return number


def _joined(
    table: str,
    selector: Selector,
    theirs: Published | None,
    ours: Ours,
    effects: Mapping[str, pd.DataFrame],
    studies: Mapping[str, Study],
) -> dict[str, Any]:
    """One row without further published columns."""
    shown: dict[str, Any] = {
        "table": table,
        "method": theirs.method if theirs else selector.method,
        "dataset": theirs.dataset if theirs else selector.dataset,
        "metric": theirs.metric if theirs else selector.metric,
        "note": "; ".join(reason for reason in (selector.none, ours.none) if reason),
    }
    if theirs:
        shown |= {
            "published": str(theirs.value),
            "unit": theirs.unit,
            "percent": None if theirs.percent is None else str(theirs.percent),
            "paper": theirs.paper,
            "paper_table": theirs.table,
            "source": theirs.source,
        }
    if ours.none:
        return shown
    study, run = _our_run(ours, studies)
    dataset = str(shown["dataset"])
    if DATA_SETS.get(dataset) != run.data.name:
        raise TableError(
            f"{ours.study}: its images are {run.data.name!r}, the published ones {dataset!r}; "
            f"compare numbers of one data set. Known: {DATA_SETS}"
        )
    shown |= {
        "study": ours.study,
        "our_method": ours.method,
        "embedding_dim": ours.embedding_dim,
        "epochs": _epochs(study, run),
        "protocol": run.protocol,
        "probe": ours.probe,
        "variant": f"{ours.variant}{_STATISTICS[ours.statistic]}",
    }
    if theirs and ours.probe:
        shown["differs"] = what_differs(theirs, study, run, ours.probe, str(ours.variant))
    return shown | _measured(ours, theirs, effects, str(shown["note"]))


def _measured(
    ours: Ours, theirs: Published | None, effects: Mapping[str, pd.DataFrame], note: str
) -> dict[str, Any]:
    """Our accuracy and its difference to theirs, with intervals."""
    of_study = effects.get(str(ours.study))
    if of_study is None or of_study.empty:
        return {"note": "; ".join(filter(None, [note, NOT_YET_RUN]))}
    keys = ("method", "embedding_dim", "probe", "variant")
    lines = of_study[of_study["statistic"] == ours.statistic]
    for key in keys:
        lines = lines[lines[key] == getattr(ours, key)]
    if lines.empty:
        return {"note": "; ".join(filter(None, [note, f"{NOT_YET_RUN}: no finished run"]))}
    if len(lines) > 1:
        raise TableError(f"{len(lines)} lines of the study {ours.study!r} are {ours}: expected one")
    estimate, low, high = (float(lines.iloc[0][key]) for key in ("estimate", "low", "high"))
    measured: dict[str, Any] = {
        "ours": estimate,
        "low": low,
        "high": high,
        "n": int(lines.iloc[0]["n"]),
    }
    if theirs is None or theirs.percent is None:
        return measured
    value = float(theirs.percent)
    return measured | {
        "difference": estimate - value,
        "difference_low": low - value,
        "difference_high": high - value,
    }


def _our_run(ours: Ours, studies: Mapping[str, Study]) -> tuple[Study, Run]:
    """The study and the (first) run that a specification names."""
    name = str(ours.study)
    if name not in studies:
        raise TableError(f"unknown study {name!r}{_nearest(name, studies)}")
    study = studies[name]
    lines = {(run.method, run.embedding_dim): run for run in study.trained()}
    run = lines.get((str(ours.method), int(ours.embedding_dim or 0)))
    if run is None:
        known = {f"{method} at {dim}": "" for method, dim in lines}
        asked = f"{ours.method} at {ours.embedding_dim}"
        raise TableError(f"study {name!r} has no {asked}{_nearest(asked, known)}")
    variants = _variants(study, str(ours.probe))
    if ours.variant not in variants:
        raise TableError(
            f"study {name!r} has no {ours.probe} probe {ours.variant!r}"
            f"{_nearest(str(ours.variant), dict.fromkeys(variants, ''))}"
        )
    return study, run


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    meant = f". Did you mean {near[0]!r}?" if near else "."
    return f"{meant} Known: {', '.join(sorted(known))}"


def _variants(study: Study, probe: str) -> list[str]:
    """The study's probes of a kind, by the short names of its tables."""
    return [variant for kind, variant in study.probes.variants() if kind == probe]


def _epochs(study: Study, run: Run) -> int:
    return study.milestones_of(run)[-1]


def what_differs(
    theirs: Published, study: Study, run: Run, probe: Probe, variant: str
) -> tuple[str, ...]:
    """What our set-up has otherwise than the published one's, by the facts of both, in words.

    Only what the source states can be compared; epochs, width and backbone that it does not state
    are said to be unknown.
    """
    told = [
        f"{ours.words} (published {'not stated' if value is None else value})"
        for ours, value, must in _comparable(theirs, study, run)
        if (must or value is not None) and ours.value != value
    ]
    return (*told, *_ours_alone(run), *_probe_words(theirs.probe, probe, variant))


def _comparable(theirs: Published, study: Study, run: Run) -> Iterator[tuple[Fact, Any, bool]]:
    """Our fact, the published value, and whether it matters even where it is not stated."""
    epochs, backbone = _epochs(study, run), _in_words(run.backbone.name)
    yield Fact(epochs, f"{epochs} epochs"), theirs.pretrain_epochs, True
    yield Fact(run.embedding_dim, f"width {run.embedding_dim}"), theirs.embedding_dim, True
    # A detector's name ends with its form, which the variant tells.
    yield Fact(backbone, backbone), theirs.backbone and theirs.backbone.removesuffix("-C4"), True
    yield Fact(run.batch_size, f"batch {run.batch_size}"), theirs.batch_size, False
    for weight in WEIGHTS:
        value = getattr(run.settings, weight, None)
        if value is not None:
            yield Fact(value, f"{weight} {value:g}"), getattr(theirs, weight), False


def _in_words(backbone: str) -> str:
    """A backbone as the published numbers name it: ResNet-18 for resnet18."""
    if backbone == "small":
        return "small backbone"
    return re.sub(r"^resnet(\d+)$", r"ResNet-\1", backbone)


def _ours_alone(run: Run) -> Iterator[str]:
    """What the published numbers have no column for, said where it is not the usual."""
    if run.data.fraction < 1:
        yield f"{100 * run.data.fraction:g} % of the training images"
    stored = CATALOG[run.data.name].image_size if run.data.name in CATALOG else run.image_size
    if run.image_size != stored:
        yield f"{run.image_size} of the images' {stored} pixels a side"
    if run.protocol != "reference":
        yield f"{run.protocol} protocol"


def _probe_words(theirs: PublishedProbe | None, probe: Probe, variant: str) -> Iterator[str]:
    """What the name of the published metric says of its probe, against ours."""
    if theirs is None:
        return
    if theirs.probe == "knn":
        ours = re.match(r"k=(\d+) (\S+)", variant)
        if ours is None:
            raise TableError(f"{variant!r} is no kNN probe's name: expected k=... first")
        if theirs.k is None:
            yield f"k={ours[1]} {ours[2]} (published not stated)"
        elif int(ours[1]) != theirs.k:
            yield f"k={ours[1]} {ours[2]} (published k={theirs.k})"
    if theirs.labels is not None and not _has_labels(variant, theirs.labels):
        yield f"labels: {variant.partition(' ')[0]} (published {theirs.labels} %)"
    if theirs.online and probe != "online_linear":
        yield "probed after training (published: along with it)"
    if probe == "online_linear" and not theirs.online:
        yield "probed along with training (published: after it)"
    if theirs.best_epoch:
        yield "last epoch (published: best epoch)"
    if theirs.approximate:
        yield "published value approximate"


def _has_labels(variant: str, percent: int) -> bool:
    """Whether a probe was fine-tuned on that share of the labels, drawn or by a published list."""
    return variant.startswith((f"{percent}% ", f"{percent}percent "))


def _origin(number: Published) -> str:
    """Where a further published number comes from, and how it was measured."""
    epochs = number.pretrain_epochs or "unstated"
    return f"{number.paper}, {number.table}: {number.metric}, {epochs} epochs"


def matches(
    name: str, study: Study, effects: pd.DataFrame, published: Sequence[Published]
) -> pd.DataFrame:
    """Published top-1 accuracies of a study's own methods on its data set, beside its lines.

    A method is the same if its published name is its objective's, whatever stands in brackets. A
    number is set beside one line of the study: of those with that objective the one whose set-up
    differs in the fewest points, then the one whose width is nearest (the widest where the source
    states none). Of the kNN probes it gets the one with its k, of the fine-tuned ones one with its
    share of the labels, or else the study's first. `differs` says what is still different. Numbers
    of a probe that the study does not ask are left out.

    Args:
        name: the study's.
        study: its parameters.
        effects: its table of effects; empty if it has none yet.
        published: all published numbers.

    Returns:
        Columns `COLUMNS`; no rows where nothing is published on the study's images.
    """
    lines = [run for run in study.trained() if run.seed == study.seeds[0]]
    rows = []
    for number in published:
        probe = number.probe
        same = [run for run in lines if _is_same(number, run)]
        if same and probe is not None and _variants(study, _kind(study, probe)):
            ours = _nearest_line(name, study, number, probe, same)
            rows.append(_joined(name, Selector(), number, ours, {name: effects}, {name: study}))
    return _frame(rows, COLUMNS)


def _is_same(published: Published, run: Run) -> bool:
    """Whether a number is of a run's images and method.

    "BarlowTwins (batch 512)" is Barlow Twins, "Barlow Twins: Only invariance" is not.
    """
    bare = re.sub(r"[^a-z0-9]", "", re.sub(r"\(.*\)", "", published.method).lower())
    objective = run.settings.objective
    names = (objective.replace("_", ""), *_ALSO_KNOWN_AS.get(objective, ()))
    return DATA_SETS.get(published.dataset) == run.data.name and bare in names


def _kind(study: Study, theirs: PublishedProbe) -> Probe:
    """Which of the study's probes a number is set beside: trained along with the network if both
    have that."""
    online: Probe = "online_linear"
    along = theirs.online and theirs.probe == "linear" and _variants(study, online)
    return online if along else theirs.probe


def _nearest_line(
    name: str, study: Study, number: Published, probe: PublishedProbe, runs: Sequence[Run]
) -> Ours:
    kind = _kind(study, probe)
    variants = _variants(study, kind)
    of_its_number = [
        variant
        for variant in variants
        if variant.startswith(f"k={probe.k} ")
        or (probe.labels is not None and _has_labels(variant, probe.labels))
    ]
    variant = (of_its_number or variants)[0]

    def distance(run: Run) -> tuple[int, float]:
        width = number.embedding_dim
        apart = (
            abs(math.log2(run.embedding_dim / width))
            if isinstance(width, int)
            else -run.embedding_dim
        )
        return len(what_differs(number, study, run, kind, variant)), apart

    nearest = min(runs, key=distance)
    return Ours(
        study=name,
        method=nearest.method,
        embedding_dim=nearest.embedding_dim,
        probe=kind,
        variant=variant,
    )
