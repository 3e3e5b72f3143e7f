"""Lesson `backward`: four backward passes by hand, checked against a graph of basic operations, and what a forgotten term costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from groundup.core import console
from groundup.foundations import backward
from groundup.foundations.tensor import Array, Tensor, where
from groundup.recipes.first.heat import draw_heat
from groundup.recipes.first.material import Material, Pace
from groundup.recipes.first.page import Page
from groundup.recipes.report.charts import BASE, CHAT, GRID, INK
from groundup.recipes.report.tables import Table
from groundup.recipes.report.words import decimal, percent, scientific

Floats = NDArray[np.float64]
EPSILON = 1e-5
STEP = 1e-5
#: Elements of each input whose derivative is also found by a small step.
NUM_STEPPED = 20


@dataclass(frozen=True)
class Case:
    """One function, by hand and out of small operations.

    Attributes:
        inputs: name -> numbers.
        by_hand: the result, and a function from the derivative by it to those by the inputs.
        small_steps: the same result on tensors, out of additions, products and powers.
    """

    name: str
    inputs: dict[str, Floats]
    by_hand: Callable[..., tuple[Array, Callable[[Array], tuple[Array, ...]]]]
    small_steps: Callable[..., Tensor]


def show_backward(page: Page, material: Material, pace: Pace) -> None:
    """A table of differences, gradients as pictures, and formulas with a term left out."""
    del material
    random = np.random.default_rng(pace.seed)
    cases = _cases(random)
    page.section("By hand and by the engine")
    page.text(
        "Each function is written twice: as one formula with the derivative worked out by hand, and as a graph of sums, products and "
        "powers whose derivatives the engine puts together. Both are compared with (f(x + h) - f(x - h)) / 2h. The derivations stand in "
        "the concept page."
    )
    table = Table(
        f"The largest difference from the formula, over the largest derivative. The small step is {STEP:g}.",
        ("function", "by", "#shape", "#graph of basic operations", "#small step"),
    )
    worst = 0.0
    with console.progress("check", len(cases), "functions") as ticker:
        for case in cases:
            for name, graph, stepped in _differences(case, random):
                table.add(case.name, name, " × ".join(map(str, case.inputs[name].shape)), scientific(graph), scientific(stepped))  # fmt: skip
                worst = max(worst, graph)
            ticker.advance(1)
    page.table(table)
    page.fact("largest difference", scientific(worst), "by hand and by the graph, relative")
    _show_cross_entropy(page, random)
    _show_norm(page, random)
    _show_attention(page, random)


def _cases(random: np.random.Generator) -> list[Case]:
    targets = random.integers(0, 7, 5)
    norm_inputs = {
        "x": random.normal(size=(6, 8)) * 2 + 1,
        "weight": random.normal(size=8),
        "bias": random.normal(size=8),
    }
    heads = {name: random.normal(size=(2, 5, 4)) for name in ("query", "key", "value")}
    visible = np.tril(np.ones((5, 5), bool))

    def cross_entropy(x: Floats) -> tuple[Array, Callable[[Array], tuple[Array, ...]]]:
        loss, logs = backward.cross_entropy_forward(x, targets)
        return loss, lambda up: (backward.cross_entropy_backward(up, logs, targets),)

    def cross_entropy_steps(x: Tensor) -> Tensor:
        powers = x.exp()
        return -((powers / powers.sum(axis=1, keepdims=True)).log() * np.eye(7)[targets]).sum() * (1 / 5)

    def layer(x: Floats, weight: Floats, bias: Floats) -> tuple[Array, Callable[[Array], tuple[Array, ...]]]:
        y, saved = backward.layer_norm_forward(x, weight, bias)
        return y, lambda up: backward.layer_norm_backward(up, saved)

    def batch(x: Floats, weight: Floats, bias: Floats) -> tuple[Array, Callable[[Array], tuple[Array, ...]]]:
        y, saved = backward.batch_norm_forward(x, weight, bias)
        return y, lambda up: backward.batch_norm_backward(up, saved)

    def norm_steps(axis: int) -> Callable[..., Tensor]:
        def steps(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            sigma = (x.var(axis, keepdims=True) + EPSILON).sqrt()
            return (x - x.mean(axis, keepdims=True)) / sigma * weight + bias

        return steps

    def attention(is_causal: bool) -> Callable[..., tuple[Array, Callable[[Array], tuple[Array, ...]]]]:
        def forward(*inputs: Floats) -> tuple[Array, Callable[[Array], tuple[Array, ...]]]:
            y, saved = backward.attention_forward(*inputs, is_causal=is_causal)
            return y, lambda up: backward.attention_backward(up, saved)

        return forward

    def attention_steps(is_causal: bool) -> Callable[..., Tensor]:
        def steps(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            scores = query @ key.swapaxes(-1, -2) * query.shape[-1] ** -0.5
            powers = (where(visible, scores, -np.inf) if is_causal else scores).exp()
            return powers / powers.sum(axis=-1, keepdims=True) @ value

        return steps

    return [
        Case("softmax cross-entropy", {"logits": random.normal(size=(5, 7))}, cross_entropy, cross_entropy_steps),
        Case("layer norm", norm_inputs, layer, norm_steps(-1)),
        Case("batch norm", norm_inputs, batch, norm_steps(0)),
        Case("attention", heads, attention(False), attention_steps(False)),
        Case("causal attention", heads, attention(True), attention_steps(True)),
    ]


def _differences(case: Case, random: np.random.Generator) -> list[tuple[str, float, float]]:
    """For each input: the relative difference of the formula from the graph, and from small steps at some of its elements."""
    y, back = case.by_hand(*case.inputs.values())
    up = random.normal(size=np.shape(y))
    leaves = [Tensor(values, requires_grad=True) for values in case.inputs.values()]
    case.small_steps(*leaves).backward(up)
    found = []
    for place, (name, own, leaf) in enumerate(zip(case.inputs, back(up), leaves, strict=True)):
        assert leaf.grad is not None
        size = float(np.abs(leaf.grad).max())
        stepped = 0.0
        for index in random.choice(own.size, min(NUM_STEPPED, own.size), replace=False):
            ends = []
            for direction in (1, -1):
                moved = [values.copy() for values in case.inputs.values()]
                moved[place].reshape(-1)[index] += direction * STEP
                ends.append(float((case.by_hand(*moved)[0] * up).sum()))
            stepped = max(stepped, abs((ends[0] - ends[1]) / (2 * STEP) - float(own.reshape(-1)[index])))
        found.append((name, float(np.abs(own - leaf.grad).max()) / size, stepped / size))
    return found


def _show_cross_entropy(page: Page, random: np.random.Generator) -> None:
    logits = random.normal(size=(1, 12)) * 1.5
    # The second likeliest: wrong, and not hopeless.
    target = np.argsort(logits[0])[-2:-1]
    _, logs = backward.cross_entropy_forward(logits, target)
    gradient = backward.cross_entropy_backward(1.0, logs, target)[0]
    page.section("Cross-entropy: pull one up, push the others down")
    page.text(
        "The derivative by the scores is the probabilities, less 1 at the target: each wrong token is pushed down by as much as it is "
        "believed, the right one is pulled up by what it lacks. They add up to 0."
    )

    def draw(axes: Axes) -> None:
        axes.bar(range(12), gradient, color=[BASE if place == target[0] else CHAT for place in range(12)])
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_xlabel("token")
        axes.set_ylabel("derivative by its score")
        axes.yaxis.grid(color=GRID, linewidth=0.7)

    page.chart(
        "Gradient of cross-entropy",
        f"The target (orange) has the probability {percent(float(np.exp(logs[0, target[0]])))}. The bars sum to {scientific(float(gradient.sum()))}.",
        draw,
    )


def _show_norm(page: Page, random: np.random.Generator) -> None:
    x, weight, up = random.normal(size=(32, 16)), np.ones(16), random.normal(size=(32, 16))
    _, saved = backward.layer_norm_forward(x, weight, 0 * weight)
    right = backward.layer_norm_backward(up, saved)[0]
    mean, through = up.mean(axis=-1, keepdims=True), saved.normed * (up * saved.normed).mean(axis=-1, keepdims=True)
    page.section("Norms: three ways from an input to the loss")
    page.text(
        "An input acts on the loss by its own normed value, by the mean, and by the deviation. Leaving out one of the last two gives numbers of "
        "the right shape and about the right size, and a training that is worse without a message. Only a check tells."
    )
    table = Table("The derivative by x of a layer norm with a way left out.", ("left out", "#relative error"))
    for name, wrong in (
        ("nothing", (up - mean - through) / saved.sigma),
        ("the way through the mean", (up - through) / saved.sigma),
        ("the way through the deviation", (up - mean) / saved.sigma),
        ("both", up / saved.sigma),
    ):
        table.add(name, scientific(float(np.linalg.norm(wrong - right) / np.linalg.norm(right))))
    page.table(table)
    along = float(np.abs(right.sum(axis=-1)).max()), float(np.abs((right * saved.normed).sum(axis=-1)).max())
    page.text(
        f"A check without another implementation: adding a number to a row, or stretching it, does not change the result, so the gradient has "
        f"no part along either. Its rows sum to {scientific(along[0])} at most, and "
        f"their products with the normed row to {scientific(along[1])}, which would be 0 without epsilon."
    )


def _show_attention(page: Page, random: np.random.Generator) -> None:
    query, key, value = (random.normal(size=(10, 8)) for _ in range(3))
    y, saved = backward.attention_forward(query, key, value)
    up = random.normal(size=y.shape)
    by_scores = backward.softmax_backward(up @ value.T, saved.shares)
    page.section("Attention: a mask needs no derivative")
    page.text(
        "The shares of a causal attention, and the size of the derivative by the scores. What must not be seen has a share of 0, and a "
        "softmax passes its gradient on in proportion to the share: above the diagonal it is exactly 0. The first row sees one key, has a "
        "share of 1 whatever its score, and a gradient of 0 too."
    )
    names = [str(place) for place in range(10)]
    page.chart("Shares", "What each query takes of each value.",
               draw_heat(saved.shares, names, names, across="key", up="query"), height_in=3.6, left_in=0.5)  # fmt: skip
    page.chart("Derivative by the scores", "Its absolute value.",
               draw_heat(np.abs(by_scores), names, names, across="key", up="query", colour=BASE), height_in=3.6, left_in=0.5)  # fmt: skip
    above = by_scores[np.triu_indices(10, 1)]
    page.fact("gradient above the diagonal", decimal(float(np.abs(above).max()), 1), "exactly")
