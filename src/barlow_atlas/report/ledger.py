"""The ledger of claims for readers: `reports/claims.md`, and its rows as text for any table."""

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import pandas as pd

from barlow_atlas.atlas.ledger import NOT_RUN, VERDICTS
from barlow_atlas.report.text import markdown as escaped

ROLES = {
    "paper": "a paper's own data and settings",
    "stand-in": "stand-ins",
    "example": "examples",
}
"""What stands above the verdicts of studies of this role."""
TEXTS = ("study", "compared", "width", "probe", "verdict", "note")
NUMBERS = ("effect", "95 % interval", "n", "p", "p (Holm)")
MEASURED = {
    "drop_from_best": "the fall in test {} from the peak to the last milestone",
    "gain": "the gain in test {} over the untrained network",
    "difference_last": "the difference in test {} at the last milestone",
    "difference_drop_from_best": "the difference between the falls in test {} after the peaks",
    "trend_last": "the trend of test {} at the last milestone",
    "trend_drop_from_best": "the trend of the fall in test {} after the peak",
    "agreement": "the rank correlation of the probes' test {} along a run's trained milestones",
    "signal_last": "this signal of held-out embeddings at the last milestone",
}
SETS = {
    "above": "above {}",
    "not above": "below {}",
    "not below": "above -{}",
    "within": "between -{0} and {0}",
}
RUN = "snakemake --profile profiles/local --config study={} -- all"

HOW = """\
Each row is a claim, tested in one study, as one probe sees it. **Reproduced**: the whole 95 %
interval lies in the set of effects that the claim names. **Contradicted**: the whole interval lies
outside of it. **Inconclusive**: anything else, and any single seed. Where the set ends is the
smallest effect of interest, which the claim fixes. Intervals are for new seeds and new test images
(rank correlations and signals: for new seeds on these images), their bounds rounded outwards. p
asks whether the seeds' values lie evenly around the end of the set, on these test images, and
exists from six seeds on; Holm's is for all rows together. MIX is Mixed Barlow Twins, BT the paper
of Barlow Twins. [How to read and extend this](../docs/claims.md)."""


def markdown(ledger: pd.DataFrame) -> str:
    """The page `claims.md`: verdicts of all claims, each claim's rows, and what is open.

    Args:
        ledger: as `atlas.ledger.ledger` gives it. Its texts may hold anything.
    """
    parts = [
        "# The papers' claims",
        _totals(ledger),
        HOW,
        _table(_overview(ledger)),
        *(_section(rows) for _, rows in ledger.groupby("claim", sort=False)),
        *_studies(ledger),
    ]
    return "\n\n".join(parts) + "\n"


def table(ledger: pd.DataFrame) -> pd.DataFrame:
    """The ledger's rows as text, not escaped; effects are in the unit of the row."""
    cells = [_cells(row) for row in ledger.to_dict("records")]
    return pd.DataFrame(cells, columns=[*TEXTS[:-1], *NUMBERS, TEXTS[-1]], dtype=object)


def _cells(row: dict[Any, Any]) -> dict[str, str]:
    role = "" if row["role"] == "paper" else f" ({row['role']})"
    return {
        "study": row["study"] + role,
        "compared": row["compared"],
        "width": row["widths"],
        "probe": row["seen_by"],
        "verdict": row["verdict"],
        "effect": number(row["estimate"]),
        "95 % interval": interval(row["low"], row["high"]),
        "n": str(row["n"]) if row["n"] else "",
        "p": probability(row["p"]),
        "p (Holm)": probability(row["p_holm"]),
        "note": row["note"],
    }


def number(value: float) -> str:
    """Two decimals; empty where there is no number."""
    return "" if math.isnan(value) else f"{round(value, 2) + 0.0:.2f}"


def interval(low: float, high: float) -> str:
    """Such as `-0.31 to 1.25`, rounded outwards: no bound is rounded into a claimed set."""
    if math.isnan(low) or math.isnan(high):
        return ""
    below = math.floor(round(100 * low, 6)) / 100
    above = math.ceil(round(100 * high, 6)) / 100
    return f"{below + 0.0:.2f} to {above + 0.0:.2f}"


def probability(p: float) -> str:
    """Three decimals; empty where there is no test."""
    if math.isnan(p):
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _totals(ledger: pd.DataFrame) -> str:
    """How many rows have which verdict, a line for each role that studies have."""
    return "\n".join(
        f"- On {ROLES[role]}: {_count(ledger['verdict'][ledger['role'] == role])}."
        for role in _roles(ledger)
    )


def _overview(ledger: pd.DataFrame) -> pd.DataFrame:
    """The same for each claim."""
    return pd.DataFrame(
        [
            {
                "claim": rows["text"].iloc[0],
                **{
                    f"on {ROLES[role]}": _count(rows["verdict"][rows["role"] == role])
                    for role in _roles(ledger)
                },
            }
            for _, rows in ledger.groupby("claim", sort=False)
        ]
    )


def _roles(ledger: pd.DataFrame) -> list[str]:
    return [role for role in ROLES if (ledger["role"] == role).any()]


def _count(verdicts: "pd.Series[str]") -> str:
    """Such as `2 reproduced, 6 not yet run`."""
    counts = [(int((verdicts == verdict).sum()), verdict) for verdict in VERDICTS]
    return ", ".join(f"{count} {verdict}" for count, verdict in counts if count)


def _section(rows: pd.DataFrame) -> str:
    """A claim: what it says, how it is tested, its rows, and what has not been run."""
    first = rows.iloc[0]
    unit = escaped(first["unit"])
    claimed = SETS[first["holds"]].format(f"{first['smallest']:g}")
    compared = "; ".join(dict.fromkeys(rows["compared"]))
    probes = "; ".join(dict.fromkeys(rows["seen_by"]))
    measured = MEASURED[first["test"]].format(_read_by(rows["seen_by"]))
    told = [
        f"- `{first['claim']}`, source: {escaped(first['source'])}.",
        f"- Claimed: {measured} is {claimed} ({unit}). {escaped(first['why'])}",
        f"- Tested on: {escaped(compared)}. Seen by: {escaped(probes)}.",
        *_not_run(rows[rows["verdict"] == NOT_RUN]),
    ]
    parts = [f"## {escaped(first['text']).rstrip('.')}", "\n".join(told)]
    shown = rows[rows["verdict"] != NOT_RUN]
    if len(shown):
        parts.append(_table(_telling(table(shown)), {"effect": f"effect ({unit})"}))
    return "\n\n".join(parts)


def _read_by(probes: Iterable[str]) -> str:
    """What probes are read by, such as `mAP`: a variant ends with it where it is not top-1."""
    ends = (probe.split()[-1] for probe in probes)
    *others, last = dict.fromkeys(end if "AP" in end else "top-1" for end in ends)
    return f"{', '.join(others)} or {last}" if others else last


def _telling(cells: pd.DataFrame) -> pd.DataFrame:
    """Without columns that are empty, or that say the same in each row and stand above already."""
    cells = cells.assign(probe=[probe.split(" ", 1)[0] for probe in cells["probe"]])
    said = [name for name in ("compared", "probe") if cells[name].nunique() == 1]
    empty = [name for name in cells if (cells[name] == "").all()]
    return cells.drop(columns=list({*said, *empty}))


def _not_run(rows: pd.DataFrame) -> list[str]:
    """One line for each thing that is missing."""
    return [
        f"- Not yet run: {escaped(', '.join(dict.fromkeys(same['study'])))}: {escaped(str(note))}."
        for note, same in rows.groupby("note", sort=False)
    ]


def _studies(ledger: pd.DataFrame) -> list[str]:
    """What the studies are to the papers, how many rows they decide, and how to run them."""
    studies = ledger.groupby("study", sort=False)
    counts = pd.DataFrame(
        [
            {
                "study": name,
                "is": rows["role"].iloc[0],
                **{verdict: int((rows["verdict"] == verdict).sum()) for verdict in VERDICTS},
            }
            for name, rows in studies
        ]
    )
    notes = [
        f"- {escaped(str(name))}: {escaped(rows['differs'].iloc[0])}." for name, rows in studies
    ]
    parts = ["## The studies", _table(counts), "\n".join(notes)]
    commands = [
        f"    {RUN.format(name)}" for name, rows in studies if (rows["verdict"] == NOT_RUN).any()
    ]
    if commands:
        parts += ["These decide what has not been run:", "\n".join(commands)]
    if (ledger["verdict"] == "inconclusive").any():
        parts.append(
            "What is inconclusive needs more seeds: add them to `seeds` in the study's file and "
            "run it again. Finished seeds are kept."
        )
    return parts


def _table(frame: pd.DataFrame, titles: Mapping[str, str] = MappingProxyType({})) -> str:
    """A Markdown table; its texts are escaped here and nowhere before. Numbers are our own."""
    cells = frame.astype(str)
    for name in cells.columns.difference(list(NUMBERS)):
        cells[name] = cells[name].map(escaped)
    titled = cells.rename(columns=lambda name: titles.get(name, name))
    return str(titled.to_markdown(index=False, disable_numparse=True))
