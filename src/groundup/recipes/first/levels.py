"""Lesson `levels`: the four levels of one GPT, shown equal and then timed."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from groundup.core import console
from groundup.foundations.gpt import GPTShape, initial_weights
from groundup.recipes.first.material import Material, Pace
from groundup.recipes.first.page import Page
from groundup.recipes.levels import LEVELS, LevelCost, losses_and_gradients, measure_level
from groundup.recipes.report.charts import CHAT, GRID, INK, OTHER
from groundup.recipes.report.tables import Table
from groundup.recipes.report.words import decimal, scientific, significant, size

#: Small enough for a graph of single numbers.
TINY = GPTShape(vocab_size=64, hidden_size=16, num_layers=1, num_heads=2, context=16)
#: Larger than scalars can be trained at, small beside a real model.
SMALL = GPTShape(vocab_size=256, hidden_size=128, num_layers=4, num_heads=4, context=64)
SMALL_ROWS = 4


def show_levels(page: Page, material: Material, pace: Pace) -> None:
    """Equal losses and gradients, then time and memory of a token at each level."""
    del material
    page.section("The same loss, the same gradients")
    page.text(
        "One small GPT with the same weights on the same text, in float64: as single numbers that each remember where they came from, "
        "as arrays on our own engine, in plain torch, and as the model that `groundup pretrain` trains."
    )
    page.table(_equality(page, pace.seed))

    page.section("What each level costs")
    page.text(
        "A pass forward and backward over random tokens, the median of several. Memory is what the graph keeps for the way back, beside "
        "the weights. Arrays do in one call what scalars do one by one; torch does it with threads and less memory; the fast path adds "
        "fused kernels and, where the machine multiplies them faster, bfloat16."
    )
    plans = [(TINY, 1, level) for level in LEVELS]
    plans += [(SMALL, SMALL_ROWS, level) for level in LEVELS if level != "scalars"]
    costs: dict[GPTShape, list[LevelCost]] = {TINY: [], SMALL: []}
    with console.progress("measure", len(plans), "levels") as ticker:
        for shape, rows, level in plans:
            costs[shape].append(measure_level(level, shape, rows, seed=pace.seed, timed_s=min(1.0, pace.effort)))
            ticker.advance(1, level)
    page.chart(
        "Time of a token",
        "Time of a token at each level, on a logarithmic axis: each line is ten times as long as the one before.",
        lambda axes: _draw_times(axes, costs[TINY], costs[SMALL]),
        left_in=1.15,
    )
    page.table(_cost_table(TINY, 1, costs[TINY]))
    page.table(_cost_table(SMALL, SMALL_ROWS, costs[SMALL]))
    tiny = {cost.level: cost for cost in costs[TINY]}
    small = {cost.level: cost for cost in costs[SMALL]}
    page.fact("scalars to arrays", f"{_times(tiny, 'scalars', 'arrays')} times", "as fast, the tiny model")
    page.fact("arrays to plain torch", f"{_times(small, 'arrays', 'torch')} times", "as fast, the small model")
    page.fact("plain torch to the fast path", f"{_times(small, 'torch', 'fast')} times", "as fast, the small model")


def _equality(page: Page, seed: int) -> Table:
    weights = initial_weights(TINY, seed, deviation=0.3)
    ids = np.random.default_rng(seed).integers(0, TINY.vocab_size, (1, TINY.context))
    found = losses_and_gradients(TINY, weights, ids)
    loss, gradients = found["torch"]
    table = Table(
        "Loss in nats, and the largest difference of any of the gradients from those of plain torch.",
        ("level", "what it is", "#loss", "#largest difference of a gradient"),
    )
    worst = 0.0
    for level, (own_loss, own) in found.items():
        apart = max(float(np.abs(own[name] - gradient).max()) for name, gradient in gradients.items())
        worst = max(worst, apart, abs(own_loss - loss))
        table.add(level, LEVELS[level], decimal(own_loss, 12), scientific(apart))
    page.fact("largest difference of a gradient", scientific(worst), "between any two levels, float64")
    return table


def _cost_table(shape: GPTShape, rows: int, costs: list[LevelCost]) -> Table:
    number = sum(int(np.prod(sizes)) for sizes in shape.weight_shapes().values())
    table = Table(
        f"{number:,} parameters (width {shape.hidden_size}, layers: {shape.num_layers}), {rows * shape.context} tokens in a pass. Scalars and "
        "arrays compute in float64 where nothing else is said, torch in float32.",
        ("level", "how", "#time a token", "#tokens a second", "#kept a token", "#times the level above"),
    )
    before: float | None = None
    for cost in costs:
        gained = "" if before is None else f"{significant(before / cost.seconds_per_token, 2)}"
        table.add(
            cost.level,
            cost.note or LEVELS[cost.level],
            _time(cost.seconds_per_token),
            significant(1 / cost.seconds_per_token, 3),
            size(cost.bytes_per_token),
            gained,
        )
        before = cost.seconds_per_token
    return table


def _draw_times(axes: Axes, tiny: list[LevelCost], small: list[LevelCost]) -> None:
    rows = {level: row for row, level in enumerate(LEVELS)}
    for costs, colour, name in ((tiny, OTHER, "the tiny model"), (small, CHAT, "the small model")):
        times = [cost.seconds_per_token for cost in costs]
        axes.plot(times, [rows[cost.level] for cost in costs], color=colour, marker="o", markersize=5, label=name)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _time(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.grid(color=GRID, linewidth=0.7)
    axes.set_yticks(list(rows.values()), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.legend(labelcolor=INK)


def _time(seconds: float) -> str:
    if seconds >= 1e-3:
        return f"{significant(seconds * 1e3)} ms"
    return f"{significant(seconds * 1e6)} µs"


def _times(costs: dict[str, LevelCost], slow: str, fast: str) -> str:
    return significant(costs[slow].seconds_per_token / costs[fast].seconds_per_token, 2)
