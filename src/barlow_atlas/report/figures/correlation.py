"""Cross-correlation matrices of the projector's two views, before and after training."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from barlow_atlas.atlas.frames import NONE
from barlow_atlas.probes.packing import unpack_correlations
from barlow_atlas.report.figures.canvas import (
    SMALL,
    Drawing,
    clean,
    heading,
    plain,
    sheet,
    signed,
    style,
    told,
)
from barlow_atlas.report.figures.palette import ordered

SUBJECT = "Cross-correlation of the two views' embeddings, before and after training"
MAP = "RdBu_r"
COLUMNS = 6
FEW = 2
"""Up to so many lines have their two matrices side by side, in one row."""

Content = Mapping[str, Any]


@style()
def correlations(title: str, contents: Iterable[Content], methods: Sequence[str] = ()) -> Drawing:
    """The matrix at the first milestone above that at the last one, a column for each line.

    Each line is shown by its first seed. Barlow Twins asks for the identity. Under each matrix
    stand the mean of its diagonal and the root mean square of the other entries.

    Args:
        contents: probe files, parsed; those without the entry `correlation` are passed over.
        methods: as in `palette.looks`.
    """
    lines: dict[tuple[str, int], dict[int, dict[int, Content]]] = {}
    for content in contents:
        if "correlation" in content["signals"][-1]:
            run = content["run"]
            line = lines.setdefault((run["method"], run["embedding_dim"] or NONE), {})
            line.setdefault(run["seed"], {})[content["epoch"]] = content
    if not lines:
        return plain(
            SUBJECT,
            title,
            "Not drawn: the probe files hold no correlation matrices. They were written before "
            "matrices were kept; probing the milestones again adds them.",
        )
    order = ordered(method for method, _ in lines)
    order = ordered(order, [name for name in methods if name in order])
    names = sorted(lines, key=lambda line: (order.index(line[0]), line[1]))
    abreast = len(names) <= FEW
    columns = 2 * FEW if abreast else min(max(len(names), 2 * FEW), COLUMNS)
    blocks = -(-len(names) // columns)
    side = 6.4 / columns
    scale = Normalize(-1, 1)
    figure, axes = sheet(
        SUBJECT,
        title,
        [side] * (1 if abreast else 2 * blocks),
        columns,
        around=0.6,
        bar=(ScalarMappable(scale, MAP), "correlation between a dimension of each view"),
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for place, (method, dim) in enumerate(names):
        block, column = divmod(place, columns)
        seeds = lines[method, dim]
        epochs = seeds[min(seeds)]
        width = f"d = {dim}" if dim else ""
        heading(axes[2 * block, 2 * column if abreast else column], clean(method), [width])
        for after, epoch in enumerate(sorted({min(epochs), max(epochs)})):
            at = (0, 2 * column + after) if abreast else (2 * block + after, column)
            axis = axes[at]
            _matrix(axis, _unpacked(epochs[epoch]), epoch, scale)
    return Drawing(figure, told(_caption(lines, names)))


def _unpacked(content: Content) -> np.ndarray:
    kept = content["signals"][-1]["correlation"]
    return unpack_correlations(kept["values"], kept["dimensions"])


def _matrix(axis: Axes, matrix: np.ndarray, epoch: int, scale: Normalize) -> None:
    axis.set_axis_on()
    axis.imshow(matrix, cmap=MAP, norm=scale, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(True)
    axis.grid(False)
    others = matrix[~np.eye(len(matrix), dtype=bool)]
    rest = np.sqrt(np.mean(others**2)) if len(others) else 0.0
    axis.set_xlabel(
        signed(f"epoch {epoch}\n{np.mean(np.diag(matrix)):.2f}; {rest:.2f}"),
        fontsize=SMALL,
    )


def _caption(
    lines: Mapping[tuple[str, int], Mapping[int, Mapping[int, Content]]],
    names: Sequence[tuple[str, int]],
) -> list[str]:
    firsts = [next(iter(lines[name][min(lines[name])].values())) for name in names]
    seeds = sorted({content["run"]["seed"] for content in firsts})
    records = [content["signals"][-1] for content in firsts]
    kept = sorted({record["correlation"]["dimensions"] for record in records})
    protocol = ", ".join(sorted({content["run"]["protocol"] for content in firsts}))
    images = ", ".join(sorted({f"{record['count']} {record['split']}" for record in records}))
    return [
        f"Protocol {clean(protocol)}, one network a line (seed {', '.join(map(str, seeds))}), "
        f"{clean(images)} images, the first {' or '.join(map(str, kept))} dimensions. "
        "Under each matrix: mean of the diagonal; root mean square of the other entries."
    ]
