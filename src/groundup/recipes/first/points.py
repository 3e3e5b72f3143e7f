"""Points in the plane to learn from, and how what was learned is drawn over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

from groundup.recipes.report.charts import BASE, CHAT, GRID, INK, SOFT, tick

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: Colours of the classes 0 and 1.
CLASS_COLOURS = (BASE, CHAT)


def two_moons(count: int, random: np.random.Generator, *, noise: float = 0.18) -> tuple[Floats, Ints]:
    """Two half circles that reach into each other: no straight line divides them.

    Args:
        count: points, half of each class.
        noise: deviation of what is added to each coordinate.

    Returns:
        points (count, 2) in a mixed order, and classes 0 and 1 (count,).
    """
    labels = np.arange(count) % 2
    angle = random.uniform(0, np.pi, count)
    upper = np.column_stack([np.cos(angle), np.sin(angle)])
    lower = np.column_stack([1 - np.cos(angle), 0.5 - np.sin(angle)])
    points = np.where(labels[:, None] == 0, upper, lower) + noise * random.standard_normal((count, 2))
    return points, labels


def draw_regions(points: Floats, labels: Ints, predict: Callable[[Floats], Floats]) -> Callable[[Axes], None]:
    """Points in the colour of their class, over the regions that a model gives to each.

    Args:
        predict: probability of class 1, or the class, of each row.
    """
    low, high = points.min(axis=0) - 0.4, points.max(axis=0) + 0.4
    xs, ys = np.linspace(low[0], high[0], 90), np.linspace(low[1], high[1], 60)
    grid = np.stack(np.meshgrid(xs, ys), axis=-1)
    shown = predict(grid.reshape(-1, 2)).reshape(len(ys), len(xs))

    def draw(axes: Axes) -> None:
        axes.contourf(xs, ys, shown, levels=[-0.01, 0.5, 1.01], colors=list(CLASS_COLOURS), alpha=0.16)
        axes.contour(xs, ys, shown, levels=[0.5], colors=[INK], linewidths=1.1)
        draw_points(axes, points, labels, CLASS_COLOURS)

    return draw


def draw_points(axes: Axes, points: Floats, labels: Ints, colours: tuple[str, ...]) -> None:
    """Points in the plane, without a scale: only their places matter."""
    for label, colour in enumerate(colours):
        own = points[labels == label]
        axes.plot(own[:, 0], own[:, 1], linestyle="none", marker="o", markersize=3.2, color=colour, alpha=0.85)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines["bottom"].set_color(GRID)


def draw_curves(
    curves: Sequence[tuple[str, str, Sequence[float] | Floats]],
    *,
    across: str,
    up: str,
    log: bool = False,
    start: int = 0,
) -> Callable[[Axes], None]:
    """Values over a number of updates, or of anything that is counted.

    Args:
        curves: (name, colour, values); a single one needs no name.
        across, up: names of the axes, with units.
        log: a logarithmic axis upwards.
        start: the number of the first value.
    """

    def draw(axes: Axes) -> None:
        for name, colour, values in curves:
            axes.plot(np.arange(start, start + len(values)), values, color=colour, linewidth=1.6, label=name or None)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.yaxis.grid(color=GRID, linewidth=0.7)
        axes.tick_params(labelcolor=SOFT)
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
            axes.yaxis.set_minor_formatter(NullFormatter())
        if any(name for name, _, _ in curves):
            axes.legend(labelcolor=INK)

    return draw


def draw_letters(axes: Axes, letters: Sequence[str], flat: Floats, colours: Sequence[str]) -> None:
    """Letters at their places (N, 2) in the plane, without a scale."""
    for letter, (x, y), colour in zip(letters, flat, colours, strict=True):
        axes.text(x, y, letter, color=colour, ha="center", va="center", fontsize=11)
    span = np.ptp(flat, axis=0) * 0.08 + 1e-9
    axes.set_xlim(flat[:, 0].min() - span[0], flat[:, 0].max() + span[0])
    axes.set_ylim(flat[:, 1].min() - span[1], flat[:, 1].max() + span[1])
    axes.set_xticks([])
    axes.set_yticks([])


def trailing_mean(values: Floats, window: int) -> Floats:
    """Of each value, its mean with those before it, `window` in all (fewer at the beginning)."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - max(window, 1), 0)
    means: Floats = (sums[ends] - sums[starts]) / (ends - starts)
    return means


def accuracy(predicted: NDArray[np.generic], labels: Ints) -> float:
    """Share of right classes."""
    return float(np.mean(predicted == labels))
