"""The tables of a study, each in CSV, Markdown and LaTeX from one frame."""

from pathlib import Path

import pandas as pd

# What LaTeX would read as a command, in a study's title.
LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)
LINE = ["method", "embedding_dim", "protocol", "probe", "setting", "seeds"]


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


def write(table: pd.DataFrame, caption: str, csv: Path, markdown: Path, latex: Path) -> None:
    """Writes the table in its three forms."""
    flat = table.reset_index().rename(columns=lambda name: str(name).replace("_", " "))
    flat.columns.name = None
    flat.to_csv(csv, index=False)
    markdown.write_text(f"{caption}\n\n{flat.to_markdown(index=False)}\n")
    styled = flat.style.hide(axis="index").format(escape="latex")
    styled.format_index(escape="latex", axis="columns")
    text = styled.to_latex(
        caption=caption.translate(LATEX),
        hrules=True,
        position="htbp",
        column_format="l" * 6 + "r" * (flat.shape[1] - 6),
    )
    latex.write_text(text.replace("±", r"$\pm$"))
