"""The paper's LaTeX: a template, every number of which is filled in from the results."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from barlow_atlas.atlas.frames import LINE
from barlow_atlas.errors import AtlasError
from barlow_atlas.report.answer import NEGLIGIBLE, Finding, Measured, Verdict, points
from barlow_atlas.report.text import PROTOCOLS, latex
from barlow_atlas.tools.export.citation import Paper

HERE = Path(__file__).parent
TEMPLATE = "paper.tex.j2"
NUMBER = re.compile(r"\d+\.\d+")


class PaperError(AtlasError):
    """A paper that cannot be made, or would have a number that nothing stands behind."""


class Tex(str):
    """LaTeX already, not to be escaped."""

    __slots__ = ()


def paper(content: Mapping[str, Any], effects: pd.DataFrame) -> str:
    """The paper's text.

    Args:
        content: what the template names.
        effects: columns of effects.csv, of all studies that the paper is about.

    Raises:
        PaperError: a number of the template itself, or of a sentence, is in no row of the effects.
    """
    environment = _environment(effects)
    source = (HERE / TEMPLATE).read_text()
    for line, number in own_numbers(environment, source):
        raise PaperError(
            f"{HERE / TEMPLATE}, line {line}: {number!r} has no source. The template holds words "
            "only: fill numbers in from the results"
        )
    return environment.get_template(TEMPLATE).render(content, PROTOCOLS=PROTOCOLS)


def own_numbers(environment: Environment, source: str) -> Iterator[tuple[int, str]]:
    """Digits in the words of a template, each with its line."""
    for line, kind, value in environment.lex(source):
        if kind == "data":
            for match in re.finditer(r"\d[\d.]*", value):
                yield line + value[: match.start()].count("\n"), match[0]


def sourced(told: Finding | Verdict, effects: pd.DataFrame) -> str:
    """A sentence, after a look at the rows that its numbers are from.

    Raises:
        PaperError: a finding's row is not among the effects, or has other numbers; or the sentence
            has a number that none of its rows has.
    """
    if isinstance(told, Verdict):
        text, findings = told.answer, told.findings + told.variants
    else:
        text, findings = told.text, (told,)
    known = {points(NEGLIGIBLE), str(NEGLIGIBLE)}
    for finding in findings:
        if finding.effect is not None:
            known |= _printed(_row(finding, effects))
    if unknown := set(NUMBER.findall(text)) - known:
        raise PaperError(
            f"no source for {', '.join(sorted(unknown))} in: {text} Expected the estimate or the "
            "interval of the rows of effects.csv that the sentence is about. Run `make report` for "
            "its study, whose effects.csv may be older than its records"
        )
    return text


def _row(finding: Finding, effects: pd.DataFrame) -> Measured:
    """The row of the effects that a finding names."""
    statistic, against, *line = finding.source
    rows = effects[(effects["statistic"] == statistic) & (effects["against"].fillna("") == against)]
    for name, value in zip(LINE, line, strict=True):
        rows = rows[rows[name] == value]
    measured = [Measured.of(row) for row in rows.to_dict("records")]
    if len(measured) != 1 or not _same(measured[0], finding.effect):
        description = f"{len(measured)} rows" if len(measured) != 1 else f"{measured[0]}"
        raise PaperError(
            f"no source for: {finding.text} Expected one row of effects.csv with "
            f"{finding.effect}, found {description}"
        )
    return measured[0]


def _same(row: Measured, effect: Measured | None) -> bool:
    if effect is None:
        return False
    first, second = ([one.estimate, one.low, one.high, one.n] for one in (row, effect))
    return np.array_equal(first, second, equal_nan=True)


def _printed(effect: Measured) -> set[str]:
    """The numbers of a row as sentences print them, without signs."""
    values = (effect.estimate, effect.low, effect.high)
    return {points(abs(value)) for value in values} | {points(0)}


def _environment(effects: pd.DataFrame) -> Environment:
    environment = Environment(
        block_start_string="((*",
        block_end_string="*))",
        variable_start_string="(((",
        variable_end_string=")))",
        comment_start_string="((=",
        comment_end_string="=))",
        loader=FileSystemLoader(HERE),
        # Escaped by `_escaped`, for LaTeX and not for HTML.
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=_escaped,
    )
    environment.filters.update(
        sourced=lambda told: sourced(told, effects),
        tex=Tex,
        key=bibliography_key,
    )
    return environment


def _escaped(value: object) -> object:
    return value if isinstance(value, Tex) else latex(str(value))


def bibliography_key(work: Paper) -> Tex:
    """The first author's last name, such as `zbontar`."""
    return Tex(work.authors[0].name.split()[-1].lower())
