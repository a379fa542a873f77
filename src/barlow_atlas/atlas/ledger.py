"""The ledger: what the lines of the map say about each of the papers' claims.

Each test is a contrast of lines, with the interval of `statistics.effect`: new seeds and new test
images; of average precisions, which are no sums over images, new seeds on these images. A claimed
set of values and an interval give the verdict; nothing else does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import pandas as pd

from barlow_atlas.atlas import overfitting
from barlow_atlas.atlas.claims import Agreement, Claim, Entry, OneLine, Signal, SignalName, TwoLines
from barlow_atlas.atlas.effects import (
    at_ends,
    drop,
    gain,
    has_peak,
    last,
    precision_gain,
    typed,
    with_seeds,
)
from barlow_atlas.atlas.label_free import spearman
from barlow_atlas.atlas.lines import Line, Precision
from barlow_atlas.atlas.statistics import (
    Contrast,
    Effect,
    Verdict,
    combine,
    effect,
    holm,
    over_seeds,
    sign_flip_p,
    slope_weights,
    verdict,
)

COLUMNS = ("claim", "estimate", "low", "high", "n", "df", "p", "unit", "how", "note")
LEDGER_COLUMNS = (
    *("claim", "entry", "text", "source", "study", "role", "differs"),
    *("compared", "widths", "seen_by"),
    *("test", "holds", "smallest", "unit", "why"),
    *("estimate", "low", "high", "n", "df", "p", "p_holm", "verdict", "note", "how"),
)
NOT_RUN = "not yet run"
VERDICTS = (*get_args(Verdict), NOT_RUN)
PROJECTOR = "projector"

Measured = tuple[Effect, np.ndarray]
"""An effect, and the seeds' values (n,) that it is the mean of."""


class _Missing(Exception):
    """Why a claim has no estimate."""


def study_claims(entries: Sequence[Entry], lines: Sequence[Line | Precision]) -> pd.DataFrame:
    """What the lines of one study say about each entry of the ledger that is about it.

    Args:
        entries: those of this study, see `claims.entries`.
        lines: all of the study's lines.

    Returns:
        `COLUMNS`, a row an entry, `claim` being its id. Without an estimate n is 0 and `note` says
        what is missing; an estimate without an interval, or of fewer seeds than planned, has a
        note, too.
    """
    return typed([_row(entry, lines) for entry in entries], COLUMNS)


def ledger(entries: Sequence[Entry], of_studies: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """All claims with their verdicts.

    Args:
        entries: of all claims and studies.
        of_studies: each study's `study_claims`, as they are or read back from CSV; a study that has
            none may lack.

    Returns:
        `LEDGER_COLUMNS`, a row an entry in the order given; `p_holm` is Holm's p over all rows.
    """
    table = typed([_told(entry, of_studies.get(entry.study)) for entry in entries], LEDGER_COLUMNS)
    table["p_holm"] = holm(table["p"].to_numpy())
    return table


def _told(entry: Entry, of_study: pd.DataFrame | None) -> dict[str, Any]:
    """A row of the ledger but for Holm's p."""
    claim = entry.claim
    row = _result(entry, of_study)
    measured = Effect(*(row[key] for key in ("estimate", "low", "high", "n", "df", "how")))
    return {
        **row,
        "claim": claim.id,
        "entry": entry.id,
        "text": claim.text,
        "source": claim.source,
        "study": entry.study,
        "role": entry.setting.role,
        "differs": entry.setting.note,
        "compared": entry.compared,
        "widths": entry.widths,
        "seen_by": entry.seen_by,
        "test": claim.test,
        "holds": claim.holds,
        "smallest": claim.smallest,
        "unit": entry.unit,
        "why": claim.why,
        "verdict": verdict(measured, *claim.ends) if measured.n else NOT_RUN,
    }


def _result(entry: Entry, of_study: pd.DataFrame | None) -> dict[str, Any]:
    """The entry's row of its study's claims; if there is none, one that says so."""
    if of_study is None:
        return _without(entry, "the study has no results")
    rows = of_study[of_study["claim"] == entry.id]
    if rows.empty:
        return _without(entry, "the study was analysed before this claim was written")
    (row,) = rows.to_dict("records")
    told = {key: "" if pd.isna(row[key]) else row[key] for key in ("how", "note")}
    return {**{key: row[key] for key in COLUMNS}, **told}


def _row(entry: Entry, lines: Sequence[Line | Precision]) -> dict[str, Any]:
    try:
        used = _of_common_seeds(_lines_of(entry, lines))
        measured, values = _measure(entry.claim, used)
    except _Missing as missing:
        return _without(entry, str(missing))
    absent = [str(seed) for seed in entry.seeds if seed not in used[0].seeds]
    notes = []
    if absent:
        notes.append(f"{len(absent)} of {len(entry.seeds)} seeds missing: {', '.join(absent)}")
    if measured.n == 1:
        notes.append("one seed, so no interval")
    elif np.isnan(measured.low):
        notes.append("undefined: a curve that is constant, or too short")
    return {
        "claim": entry.id,
        "estimate": measured.estimate,
        "low": measured.low,
        "high": measured.high,
        "n": measured.n,
        "df": measured.df,
        "p": claim_p(entry.claim, values),
        "unit": entry.unit,
        "how": measured.method,
        "note": "; ".join(notes),
    }


def _without(entry: Entry, note: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("estimate", "low", "high", "p"), float("nan"))
    empty = {"claim": entry.id, "n": 0, "df": 0, "unit": entry.unit, "how": "", "note": note}
    return {**nothing, **empty}


def _lines_of(entry: Entry, lines: Sequence[Line | Precision]) -> list[Line | Precision]:
    """The lines that the entry names, in its order; raises _Missing with all that are not there."""
    known = {(line.method, line.embedding_dim, line.probe, line.variant): line for line in lines}
    # A signal is the same on the lines of all probes.
    runs = {(line.method, line.embedding_dim, "", ""): line for line in lines}
    there = known | runs
    missing = [name for name in entry.lines if name not in there]
    unfinished = dict.fromkeys(name.run for name in missing if (*name[:2], "", "") not in runs)
    if unfinished:
        raise _Missing(f"no finished run of {', '.join(unfinished)}")
    if missing:
        raise _Missing(f"no answers of {missing[0].probe} {missing[0].variant}")
    return [there[name] for name in entry.lines]


def _of_common_seeds(lines: Sequence[Line | Precision]) -> list[Line | Precision]:
    """The lines with the seeds that all of them have, so that they can be paired."""
    common = [seed for seed in lines[0].seeds if all(seed in line.seeds for line in lines)]
    if not common:
        raise _Missing("these lines have no finished seed in common")
    return [with_seeds(line, common) for line in lines]


def _measure(claim: Claim, every: Sequence[Line | Precision]) -> Measured:
    """What a claim's test finds on its lines, which have the same seeds."""
    lines = [line for line in every if isinstance(line, Line)]
    precisions = [line for line in every if isinstance(line, Precision)]
    if precisions:
        return of_precisions(claim, precisions)
    if isinstance(claim, Signal):
        return last_signal(lines[0], claim.signal)
    if isinstance(claim, Agreement):
        return agreement(*lines)
    if isinstance(claim, OneLine) and claim.test == "gain":
        _check_untrained(lines[0])
        return _by_images(gain(lines[0]))
    if isinstance(claim, OneLine):
        return drops(lines, [1], "")
    if isinstance(claim, TwoLines):
        weights, what = [1.0, -1.0], f", {lines[0].method} minus {lines[1].method}"
    else:
        settings = [float(line.run[claim.over]) for line in lines]
        weights = slope_weights(settings)
        what = f", slope per doubling of {claim.over}: {', '.join(f'{s:g}' for s in settings)}"
    if claim.test in ("difference_last", "trend_last"):
        return lasts(lines, weights, what)
    return drops(lines, weights, what)


def _check_untrained(line: Line | Precision) -> None:
    if line.milestones[0] > 0:
        raise _Missing("no milestone 0, so no untrained network")


def of_precisions(claim: Claim, lines: Sequence[Precision]) -> Measured:
    """What a claim's test finds on lines of average precisions."""
    if isinstance(claim, OneLine) and claim.test == "gain":
        _check_untrained(lines[0])
        return precision_gain(lines[0])
    if isinstance(claim, TwoLines) and claim.test == "difference_last":
        return at_ends(lines, [1.0, -1.0], f", {lines[0].method} minus {lines[1].method}")
    raise _Missing(f"{lines[0].metric} has no answer to each image, which {claim.test} needs")


def lasts(lines: Sequence[Line], weights: Sequence[float], what: str) -> Measured:
    """A weighted sum of test top-1 (percent) at the lines' last milestones."""
    ends = [last(line) for line in lines]
    return _by_images(combine(ends, weights, f"{ends[0].what}{what}"))


def drops(lines: Sequence[Line], weights: Sequence[float], what: str) -> Measured:
    """A weighted sum of drops (points), with the bounds of `overfitting.from_best`.

    Without them, lines whose choices are all the end would have the interval 0 to 0.
    """
    if not all(has_peak(line) for line in lines):
        raise _Missing("no validation images (protocol reference), so no peak")
    chosen = [drop(line) for line in lines]
    fixed = [overfitting.fixed_drops(line.correct) for line in lines]
    summed = overfitting.from_best(chosen, fixed, weights, f"{chosen[0].what}{what}")
    return summed, combine(chosen, weights, "").values


def agreement(first: Line, second: Line) -> Measured:
    """Do two probes order a run's milestones alike? Spearman's rho of their test top-1.

    Along the milestones after epoch 0, for each seed; mean and t interval over seeds. The untrained
    network is left out, since any training is better and any two probes agree on that.
    """
    trained = first.milestones > 0
    rho = np.array(
        [
            spearman(*curves)
            for curves in zip(
                first.correct[:, trained].mean(axis=2),
                second.correct[:, trained].mean(axis=2),
                strict=True,
            )
        ]
    )
    what = f"Spearman's rho of {first.probe} and {second.probe} test top-1 along trained milestones"
    return over_seeds(rho, what, -1, 1), rho


def last_signal(line: Line, signal: SignalName) -> Measured:
    """A label-free signal of held-out projector embeddings at the last milestone.

    The effective rank in dimensions, from 1 (collapsed) to the embedding's width. The feature
    deviation as a share of 1 / sqrt(width), what evenly spread embeddings have: from 0 (collapsed)
    to 1 (SimSiam, arXiv:2011.10566, section 4.1, has this as its sign of collapse).
    """
    splits = [split for _, _, split in line.signals]
    held_out = "validation" if "validation" in splits else "test"
    if (signal, PROJECTOR, held_out) not in line.signals:
        raise _Missing(f"no {signal} of held-out images in the projector's space")
    scale = line.embedding_dim**0.5 if signal == "feature_std" else 1.0
    values = scale * line.signals[signal, PROJECTOR, held_out][:, -1]
    what = f"{signal} of {held_out} images in the projector's space"
    return over_seeds(values, what, 0, np.inf), values


def _by_images(contrast: Contrast) -> Measured:
    return effect(contrast), contrast.values


def claim_p(claim: Claim, values: np.ndarray) -> float:
    """`boundary_p` of a claim's set, as far as the seeds' values (n,) can tell.

    A drop from the milestones that validation chooses is at most the drop from the best ones. So
    it can show that a drop is large, and never that it is small: 1 where its mean is below the end
    of the set. Differences and trends of drops have no p; their interval has both bounds.
    """
    if claim.test in ("difference_drop_from_best", "trend_drop_from_best"):
        return float("nan")
    p = boundary_p(values, claim.ends)
    small = values.mean() < max(filter(np.isfinite, claim.ends))
    return 1.0 if claim.test == "drop_from_best" and small and np.isfinite(p) else p


def boundary_p(values: np.ndarray, ends: tuple[float, float]) -> float:
    """Sign-flip p that the seeds' values (n,) lie symmetrically around an end of a claimed set.

    The larger one where the set has two ends: to be sure on which side of both an effect is. NaN
    below six seeds, and where a value is NaN. It is small for what is reproduced and for what is
    contradicted, and speaks about new seeds on these test images only.
    """
    if np.isnan(values).any():
        return float("nan")
    return max(sign_flip_p(values - end) for end in ends if np.isfinite(end))
