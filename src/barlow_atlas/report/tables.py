"""The tables of a study, each in CSV, Markdown and LaTeX from one frame."""

from pathlib import Path

import pandas as pd

# What LaTeX would read as a command, in a study's title.
LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)
LINE = [
    *("method", "objective", "embedding_dim", "protocol"),
    *("probe", "variant", "setting", "seeds"),
]
# Too long for a column of a page: these are written out once, below the table.
NOTED = {"method": "objective", "variant": "setting"}


def milestone_table(curves: pd.DataFrame) -> pd.DataFrame:
    """Method x milestone: test top-1 in percent, mean and half of the 95 % interval over seeds.

    Args:
        curves: as `curves.mean_curves` gives it.

    Returns:
        Text cells such as `91.3 ± 0.4`; one row for each method, width, probe and setting, one
        column for each milestone.
    """
    chosen = curves[(curves["split"] == "test") & (curves["metric"] == "top1")]
    cells = chosen.assign(
        cell=[cell(mean, high) for mean, high in zip(chosen["mean"], chosen["high"], strict=True)]
    )
    table = cells.pivot(index=LINE, columns="epoch", values="cell")
    return table.sort_index(level=["probe", "setting", "method", "embedding_dim"]).fillna("")


def cell(mean: float, high: float) -> str:
    """A mean and half of its interval, or the mean alone where there is none."""
    return f"{mean:.2f}" if pd.isna(high) else f"{mean:.2f} ± {high - mean:.2f}"


def notes(table: pd.DataFrame) -> list[str]:
    """What each method minimises and how each probe is set, a line each.

    Without them a number cannot be compared with another: weights and convention of the
    objective, protocol, settings, epoch rule.
    """
    index = table.index.to_frame(index=False)
    lines = []
    for name, long in NOTED.items():
        pairs = index[[name, long]].drop_duplicates()
        lines += [
            f"{short}: {text}"
            for short, text in zip(pairs[name], pairs[long], strict=True)
            if short != text
        ]
    return lines


def write(table: pd.DataFrame, caption: str, csv: Path, markdown: Path, latex: Path) -> None:
    """Writes the table in its three forms; CSV has all columns, the others have notes instead."""
    told = notes(table)
    flat = table.reset_index()
    flat.columns.name = None
    flat.rename(columns=_words).to_csv(csv, index=False)
    shown = flat.drop(columns=list(NOTED.values())).rename(columns=_words)
    listed = "\n".join(f"- {line}" for line in told)
    markdown.write_text(f"{caption}\n\n{shown.to_markdown(index=False)}\n\n{listed}\n")
    styled = shown.style.hide(axis="index").format(escape="latex")
    styled.format_index(escape="latex", axis="columns")
    words = len(LINE) - len(NOTED)
    text = styled.to_latex(
        caption=f"{caption} {'; '.join(told)}.".translate(LATEX),
        hrules=True,
        position="htbp",
        column_format="l" * words + "r" * (shown.shape[1] - words),
    )
    latex.write_text(text.replace("±", r"$\pm$"))


def _words(name: object) -> str:
    return str(name).replace("_", " ")
