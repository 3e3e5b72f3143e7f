"""A table of numbers as squares of one colour, the larger the fuller."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from groundup.recipes.report.charts import CHAT, INK, SOFT


def draw_heat(
    values: NDArray[np.floating],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    across: str = "",
    up: str = "",
    colour: str = CHAT,
) -> Callable[[Axes], None]:
    """Squares whose fill grows with the root of a number, so that small ones are still seen.

    Args:
        values: (rows, columns), 0 or more; the largest is full.
        rows, columns: names beside and under the squares; the first row is the highest.
        across, up: what columns and rows are.
        colour: of a full square, one of `report/charts.py`.
    """
    filled = np.sqrt(np.maximum(values, 0) / max(float(np.max(values, initial=0.0)), 1e-300))

    def draw(axes: Axes) -> None:
        # The style sheet's colour in each square, with its own opacity: matplotlib's colour maps would be fixed colours.
        red, green, blue = to_rgb(colour)
        for row in range(len(rows)):
            for column in range(len(columns)):
                if filled[row, column] > 0.03:
                    axes.bar(
                        column, 0.94, width=0.94, bottom=row - 0.47,
                        color=(red, green, blue, float(filled[row, column])), linewidth=0,
                    )  # fmt: skip
        axes.set_xlim(-0.6, len(columns) - 0.4)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        size = 7 if max(len(rows), len(columns)) > 14 else 9
        axes.set_xticks(range(len(columns)), columns, fontsize=size, color=INK)
        axes.set_yticks(range(len(rows)), rows, fontsize=size, color=INK)
        axes.set_xlabel(across, color=SOFT)
        axes.set_ylabel(up, color=SOFT)
        axes.spines["bottom"].set_visible(False)

    return draw
