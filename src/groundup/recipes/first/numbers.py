"""Lesson `numbers`: softmax, sums and dot products as computers do them; surprise, entropy and what a loss means."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from groundup.core.errors import DataError
from groundup.foundations.information import bits, cross_entropy, entropy, kl_divergence, perplexity
from groundup.foundations.numbers import (
    naive_softmax,
    random_scores,
    stable_softmax,
    sum_by_halves,
    sum_compensated,
    sum_in_order,
    to_bfloat16,
)
from groundup.recipes.first.material import Material, Pace
from groundup.recipes.first.page import Page
from groundup.recipes.report.charts import BASE, CHAT, GRID, INK, OTHER, SOFT, Bar, bar_chart, tick
from groundup.recipes.report.tables import Table
from groundup.recipes.report.words import count, decimal, scientific

Floats = NDArray[np.float64]
#: What is added to all scores: it must not change a softmax.
SHIFTS = (0, 10, 12, 80, 90, 700, 720, -20, -110, -800)
DIMENSIONS = (1, 4, 16, 64, 256, 1024)
NUM_KEYS = 16
SUM_LENGTHS = (100, 1_000, 10_000, 100_000)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def show_numbers(page: Page, material: Material, pace: Pace) -> None:
    """Where formulas break in floating point, why scores are divided by sqrt(d), and what entropy says of a text."""
    _show_softmax(page)
    _show_dot_products(page, pace)
    _show_sums(page, pace)
    _show_information(page, material)


# ------------------------------------------------------------------------------------------------ softmax


def _show_softmax(page: Page) -> None:
    page.section("Softmax with and without the maximum taken off")
    page.text(
        "The softmax of scores is e^x over the sum of them all. A number added to all scores cancels, in exact numbers. In floating point e^x "
        "overflows at 11.1 in float16, at 88.7 in float32 and at 709.8 in float64, and infinity over infinity is no number; far below zero all powers become 0, "
        "and 0 over 0 is none either. The largest score taken off first makes the largest power 1."
    )
    kinds = (np.float16, np.float32, np.float64)
    table = Table(
        "The scores 0, 1, 2 with a number added to each: the largest probability, which is 0.6652 in exact numbers.",
        ("#added", *(f"#naive, {kind.__name__}" for kind in kinds), "#stable, float16", "#stable, float64"),
    )
    for shift in SHIFTS:
        cells = []
        for function, kind in (
            *((naive_softmax, kind) for kind in kinds),
            (stable_softmax, np.float16),
            (stable_softmax, np.float64),
        ):
            largest = float(function((np.arange(3) + shift).astype(kind))[2])
            cells.append(decimal(largest, 4) if np.isfinite(largest) else "no number")
        table.add(decimal(shift, 0), *cells)
    page.table(table)
    exact = stable_softmax(np.array([1.0, 2.0, 3.0]))
    page.text(
        "bfloat16 has the range of float32 and two to three digits: the softmax of 1, 2, 3 is "
        f"{', '.join(decimal(p, 6) for p in exact)}, in bfloat16 {', '.join(decimal(float(p), 6) for p in to_bfloat16(exact))}. From 256 on it "
        "does not hold every whole number: "
        f"257 becomes {decimal(float(to_bfloat16(np.array([257.0]))[0]), 0)}."
    )
    page.fact(
        "e^x overflows in float16 from", decimal(math.log(float(np.finfo(np.float16).max)), 1), "in float32 from 88.7"
    )


# ------------------------------------------------------------------------------------------- dot products


def _show_dot_products(page: Page, pace: Pace) -> None:
    page.section("The size of a dot product")
    page.text(
        "A dot product of d pairs of standard normal numbers is a sum of d terms of variance 1, so its variance is d. Attention puts such scores into a softmax: with "
        f"d of 1024 their deviation is 32, and one of {NUM_KEYS} keys gets nearly everything, whatever is learned. There the derivatives are nearly "
        "zero. Divided by the root of d the scores keep the variance 1."
    )
    queries = pace.steps(500)
    raw, scaled = (
        [
            random_scores(d, np.random.default_rng(pace.seed), num_keys=NUM_KEYS, num_queries=queries, scaled=s)
            for d in DIMENSIONS
        ]
        for s in (False, True)
    )
    page.chart(
        "Variance of the scores",
        "The variance of q · k by the dimension d, both axes logarithmic; the grey line is d.",
        _lines(
            [
                ("q · k", CHAT, [s.variance for s in raw]),
                ("over the root of d", BASE, [s.variance for s in scaled]),
                ("", GRID, [float(d) for d in DIMENSIONS]),
            ],
            "variance",
            log=True,
        ),
    )
    page.chart(
        "Entropy of the softmax",
        f"The mean entropy of the softmax over {NUM_KEYS} keys; all alike would be {decimal(math.log(NUM_KEYS), 2)} nats, one alone 0.",
        _lines(
            [("q · k", CHAT, [s.entropy for s in raw]), ("over the root of d", BASE, [s.entropy for s in scaled])],
            "entropy (nats)",
        ),
    )
    table = Table(
        "The softmax over the keys. Size of the derivatives: the root of the sum of squares of all derivatives of probabilities by scores.",
        (
            "#d",
            "#variance",
            "#largest probability",
            "#size of the derivatives",
            "#scaled: variance",
            "#largest probability",
            "#size of the derivatives",
        ),
    )
    for d, a, b in zip(DIMENSIONS, raw, scaled, strict=True):
        cells = (decimal(x, digits) for s in (a, b) for x, digits in ((s.variance, 2), (s.largest, 3), (s.gradient, 4)))
        table.add(count(d), *cells)
    page.table(table)
    page.fact(
        f"largest of {NUM_KEYS} probabilities at d = {DIMENSIONS[-1]}",
        decimal(raw[-1].largest, 3),
        f"{decimal(scaled[-1].largest, 3)} with scores over the root of d",
    )


def _lines(
    series: list[tuple[str, str, list[float]]],
    up: str,
    *,
    log: bool = False,
    across: str = "d",
    places: tuple[int, ...] = DIMENSIONS,
) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        for name, colour, values in series:
            axes.plot(places, values, color=colour, linewidth=1.6, marker="o", markersize=2.5, label=name or None)
        axes.set_xscale("log")
        axes.set_xticks(places, [f"{place:,}" for place in places])
        axes.minorticks_off()
        if log:
            axes.set_yscale("log")
            axes.minorticks_off()
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.yaxis.grid(color=GRID, linewidth=0.7)
        axes.tick_params(labelcolor=SOFT)
        axes.legend(labelcolor=INK)

    return draw


# --------------------------------------------------------------------------------------------------- sums


def _show_sums(page: Page, pace: Pace) -> None:
    page.section("The order of a sum")
    page.text(
        "Every addition rounds, so the order matters. One after the other, small terms meet an ever larger total and lose their last digits; "
        "added by halves (as numpy does in blocks), each passes through few additions; Kahan's sum keeps what each addition lost and gives it to the next. A GPU adds in "
        "whatever order its threads end, which is why two runs may differ in the last bits."
    )
    a, b, c = 0.1, 0.2, 0.3
    page.code(f"({a} + {b}) + {c} = {(a + b) + c!r}\n{a} + ({b} + {c}) = {a + (b + c)!r}")
    ways: tuple[tuple[str, str, Callable[[NDArray[np.float32]], float]], ...] = (
        ("in order", CHAT, sum_in_order),
        ("by halves", BASE, sum_by_halves),
        ("Kahan", OTHER, sum_compensated),
    )
    random = np.random.default_rng(pace.seed)
    errors: dict[str, list[float]] = {name: [] for name, _, _ in ways}
    table = Table(
        "Relative error of the sum of N random numbers between 0 and 1 in float32.",
        ("#N", *(f"#{name}" for name, _, _ in ways)),
    )
    for length in SUM_LENGTHS:
        values = random.random(length, np.float32)
        exact = math.fsum(values.tolist())
        for name, _, function in ways:
            errors[name].append(abs(function(values) / exact - 1))
        table.add(count(length), *(scientific(errors[name][-1]) for name, _, _ in ways))
    page.chart(
        "Relative error of a sum",
        "N random numbers in float32: the relative error of their sum, both axes logarithmic. The last rounding alone may cost 6e-8.",
        _lines(
            [(name, colour, [max(e, 1e-10) for e in errors[name]]) for name, colour, _ in ways],
            "relative error",
            log=True,
            across="N",
            places=SUM_LENGTHS,
        ),
        left_in=0.9,
    )
    page.table(table)
    page.fact(
        f"error of {SUM_LENGTHS[-1]:,} additions in order",
        scientific(errors["in order"][-1]),
        f"by halves {scientific(errors['by halves'][-1])}, Kahan {scientific(errors['Kahan'][-1])}",
    )


# -------------------------------------------------------------------------------------------- information


def _show_information(page: Page, material: Material) -> None:
    everywhere, first = _letter_counts(material)
    p, q = first / first.sum(), everywhere / everywhere.sum()
    uniform = np.full(len(LETTERS), 1 / len(LETTERS))
    page.section("Surprise on average")
    page.text(
        "An outcome of probability p is a surprise of −log p: one bit for a fair coin, none for what is certain. Entropy is its mean. A language "
        "model's loss is the cross-entropy: the mean surprise of one who believes the model, and what it has above the entropy of the text is the divergence of "
        "the two, the price of being wrong."
    )
    page.chart(
        "Entropy of a coin", "The entropy of a coin by the probability of heads: one bit for a fair one.", _draw_coin
    )
    order = [k for k in np.argsort(-q, kind="stable")[:10] if q[k] > 0]
    chart = bar_chart(
        "numbers-letters",
        "Surprise of letters",
        [("bits", [Bar(-math.log2(q[k]), None, None, CHAT, f"{LETTERS[k]}: {100 * q[k]:.1f} %") for k in order])],
        "surprise (bits)",
    )
    page.drawing(chart, f"The most frequent letters of {material.source}, ten at most, and the surprise of each.")
    table = Table(
        "What letters cost, in bits, for three beliefs.",
        ("letters that come", "believed", "#entropy", "#cross-entropy", "#divergence", "#perplexity"),
    )
    rows = (("all letters", q), ("first letters of words", p))
    for name, truth in rows:
        for other, belief in (*rows, ("all alike", uniform)):
            crossed = cross_entropy(truth, belief)
            table.add(
                name,
                other,
                decimal(entropy(truth, base=2), 3),
                _finite(bits(crossed)),
                _finite(kl_divergence(truth, belief, base=2)),
                _finite(perplexity(crossed), 2),
            )
    page.table(table)
    page.text(
        "The divergence is not symmetric: to expect first letters where any may come costs something else than the other way round. Where a letter comes that was "
        "held impossible it is infinite, which is why n-gram models smooth their counts; the softmax of finite scores is above 0 for every token."
    )
    page.fact(
        "entropy of a letter",
        f"{decimal(entropy(q, base=2), 3)} bits",
        f"26 alike would be {decimal(math.log2(26), 3)}",
    )
    page.fact("perplexity of a letter", decimal(perplexity(entropy(q)), 2), "as unsure as among so many alike")


def _letter_counts(material: Material) -> tuple[Floats, Floats]:
    """How often each letter comes, and how often it begins a word."""
    everywhere, first = Counter[str](), Counter[str]()
    for text in material.texts():
        lower = text.lower()
        everywhere.update(lower)
        first.update(word[0] for word in lower.split())
    counts = [np.array([counter[letter] for letter in LETTERS], np.float64) for counter in (everywhere, first)]
    if min(one.sum() for one in counts) < 1:
        raise DataError(f"{material.source} holds no words of the letters a to z: this lesson counts them")
    return counts[0], counts[1]


def _finite(value: float, digits: int = 3) -> str:
    return decimal(value, digits) if math.isfinite(value) else "infinite"


def _draw_coin(axes: Axes) -> None:
    shares = np.linspace(0, 1, 101)
    axes.plot(shares, [entropy([x, 1 - x], base=2) for x in shares], color=CHAT, linewidth=1.7)
    axes.set_xlabel("probability of heads")
    axes.set_ylabel("entropy (bits)")
    axes.yaxis.grid(color=GRID, linewidth=0.7)
