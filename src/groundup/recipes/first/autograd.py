"""Lessons `autograd` and `optimizers`: derivatives of single numbers and arrays, and what is done with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from numpy.typing import NDArray

from groundup.core import console
from groundup.foundations.functions import cross_entropy
from groundup.foundations.graph_svg import draw_graph
from groundup.foundations.modules import Activation, Linear, Sequential, parameter
from groundup.foundations.optimizers import SGD, Adam, AdamW, Optimizer, RMSProp
from groundup.foundations.scalar import MLP, Value, total
from groundup.foundations.scalar import cross_entropy as scalar_cross_entropy
from groundup.foundations.tensor import Tensor, no_grad
from groundup.recipes.first.material import Material, Pace
from groundup.recipes.first.page import Page
from groundup.recipes.first.points import accuracy, draw_curves, draw_regions, two_moons
from groundup.recipes.report.charts import BASE, CHAT, GRID, INK, OTHER, SOFT
from groundup.recipes.report.tables import Table
from groundup.recipes.report.words import decimal, percent, scientific

NUM_POINTS = 60
RATE = 1.5
Floats = NDArray[np.float64]


# ---------------------------------------------------------------------------------------------- autograd


def show_autograd(page: Page, material: Material, pace: Pace) -> None:
    """A graph drawn, a network of single numbers trained, its derivatives checked by small steps."""
    del material
    page.section("A graph of numbers")
    a, b, c = Value(2.0, label="a"), Value(-3.0, label="b"), Value(10.0, label="c")
    result = (a * b + c).tanh() * a
    result.backward()
    page.text(
        "Each box was made from those on its left. It keeps the number, and after one pass from right to left the derivative of "
        "the last number by it (`grad`). `a` is used twice, so its derivative is the sum of two ways."
    )
    page.drawing(Markup(draw_graph(result)), "The graph of (a b + c).tanh() a, drawn by foundations/graph_svg.py.")

    random = np.random.default_rng(pace.seed)
    points, labels = two_moons(NUM_POINTS, random, noise=0.12)
    network = MLP([2, 8, 8, 2], seed=pace.seed)

    def loss_of() -> Value:
        return total(
            scalar_cross_entropy(network(point), int(label))
            for point, label in zip(points.tolist(), labels, strict=True)
        ) / len(points)

    page.section("A network of single numbers")
    page.text(
        f"{len(network.parameters())} weights and biases, in two layers of eight neurons and two outputs, are to tell the points of two half "
        "circles apart. The outputs are scores of the two classes; softmax makes probabilities of them, and the loss is the mean of minus "
        "the logarithm of that of the right class. Some of the derivatives of the loss, beside what two small steps give:"
    )
    _check_by_steps(page, network, loss_of)
    losses = []
    steps = pace.steps(200)
    with console.progress("train", steps, "updates") as ticker:
        for _ in range(steps):
            for value in network.parameters():
                value.grad = 0.0
            loss = loss_of()
            loss.backward()
            for value in network.parameters():
                value.data -= RATE * value.grad
            losses.append(loss.data)
            ticker.advance(1, f"loss {loss.data:.3f}")
    size = len(loss.ancestors())

    def predict(rows: Floats) -> Floats:
        return np.array([float(second.data > first.data) for first, second in map(network, rows.tolist())])

    page.text(
        f"The network is trained by plain gradient descent on {NUM_POINTS} points. One loss is a graph of {size:,} numbers, and one pass "
        "backwards gives the derivative by every one of them."
    )
    right = accuracy(predict(points), labels)
    page.chart(
        "Regions of the network",
        f"What the network answers in the plane after {steps} updates: {percent(right)} of the points lie on their side.",
        draw_regions(points, labels, predict),
        left_in=0.1,
        bottom_in=0.1,
    )
    page.chart(
        "Loss by update",
        "The mean cross-entropy in nats; a guess at random has 0.693. Steps near the largest that the network bears throw it "
        "back now and then.",
        draw_curves([("", CHAT, losses)], across="update", up="loss (nats)"),
    )
    page.fact("loss", decimal(losses[-1], 3), f"{decimal(losses[0], 3)} at first")
    page.fact("right answers", percent(right), f"of {NUM_POINTS} points")
    page.fact("numbers in the graph of one loss", f"{size:,}", "each with its derivative")


def _check_by_steps(page: Page, network: MLP, loss_of: Callable[[], Value]) -> None:
    """A table of derivatives beside (f(x + h) - f(x - h)) / 2h."""
    step = 1e-5
    loss_of().backward()
    table = Table(
        "Derivatives of the loss before training. The small step is 0.00001 to both sides.",
        ("parameter", "#backward", "#by a small step", "#difference"),
    )
    worst = 0.0
    chosen = network.parameters()[:: max(1, len(network.parameters()) // 6)]
    for index, value in enumerate(chosen):
        given, ends = value.data, []
        for direction in (1, -1):
            value.data = given + direction * step
            ends.append(loss_of().data)
        value.data = given
        numeric = (ends[0] - ends[1]) / (2 * step)
        worst = max(worst, abs(numeric - value.grad))
        table.add(
            f"number {index * max(1, len(network.parameters()) // 6)}",
            decimal(value.grad, 8),
            decimal(numeric, 8),
            scientific(abs(numeric - value.grad)),
        )
    page.table(table)
    page.fact("largest difference from a small step", scientific(worst), f"of {len(chosen)} derivatives")


# -------------------------------------------------------------------------------------------- optimizers

#: Name, how it is made from parameters and a rate, rates that are tried, and the colour of its path.
Rule = tuple[str, Callable[[Sequence[Tensor], float], Optimizer], tuple[float, ...], str]
RULES: tuple[Rule, ...] = (
    ("SGD", lambda p, rate: SGD(p, rate), (0.1, 0.3, 1.0, 3.0), OTHER),
    ("momentum", lambda p, rate: SGD(p, rate, momentum=0.9), (0.03, 0.1, 0.3, 1.0), BASE),
    ("Nesterov", lambda p, rate: SGD(p, rate, momentum=0.9, nesterov=True), (0.03, 0.1, 0.3, 1.0), SOFT),
    ("RMSProp", lambda p, rate: RMSProp(p, rate), (0.003, 0.01, 0.03, 0.1), SOFT),
    ("Adam", lambda p, rate: Adam(p, rate), (0.01, 0.03, 0.1, 0.3), CHAT),
    ("AdamW", lambda p, rate: AdamW(p, rate, weight_decay=0.01), (0.01, 0.03, 0.1, 0.3), INK),
)
#: The valley: fifty times as steep across as along.
STEEPNESS = np.array([1.0, 50.0])
VALLEY_START = np.array([-4.0, 1.2])
#: Rates for the valley, near the largest that each rule bears there.
VALLEY_RATES = {"SGD": 0.035, "momentum": 0.01, "Adam": 0.3}


def show_optimizers(page: Page, material: Material, pace: Pace) -> None:
    """Paths through a valley, and the same network trained by each rule at several rates."""
    del material
    page.section("A narrow valley")
    page.text(
        "The loss (x² + 50 y²) / 2 is fifty times as steep across as along. Plain gradient descent must take steps small enough for "
        "the steep side and then creeps along the other. Momentum adds up what keeps its direction; Adam divides each coordinate "
        "by the size of its own gradients, so both sides look alike to it."
    )
    num_steps = 60
    paths = {
        name: _descend_valley(make, VALLEY_RATES[name], num_steps) for name, make, _, _ in RULES if name in VALLEY_RATES
    }
    colours = {name: colour for name, _, _, colour in RULES}
    page.chart(
        "Paths through a valley",
        f"{num_steps} updates from the left; the lowest point is the cross.",
        lambda axes: _draw_valley(axes, paths, colours),
        left_in=0.1,
        bottom_in=0.1,
    )
    heights = {name: (STEEPNESS * path**2).sum(axis=1) / 2 for name, path in paths.items()}
    page.chart(
        "Height by update",
        "The loss along the paths.",
        draw_curves(
            [(name, colours[name], np.maximum(values, 1e-12)) for name, values in heights.items()],
            across="update",
            up="loss",
            log=True,
        ),
    )

    page.section("The same network, six rules")
    page.text(
        "A small network learns to tell the points of two half circles apart, from 32 of the 400 points in each update. Its weights at "
        "first and its batches are the same for every rule and rate."
    )
    steps = pace.steps(300)
    points, labels = two_moons(400, np.random.default_rng(pace.seed))
    table = Table(
        f"Cross-entropy of all points after {steps} updates on batches of 32, at four rising learning rates of each rule. The best "
        "of each is what to compare: a rule with a bad rate says nothing about the rule.",
        ("rule", "rates", "#lowest", "#second", "#third", "#highest"),
    )
    curves: list[tuple[str, str, Floats]] = []
    best: dict[str, float] = {}
    with console.progress("train", sum(len(rates) for _, _, rates, _ in RULES), "runs") as ticker:
        for name, make, rates, colour in RULES:
            ends, traces = [], []
            for rate in rates:
                losses, end = _train(make, rate, points, labels, steps, pace.seed)
                ends.append(end)
                traces.append(losses)
                ticker.advance(1, f"{name} {rate:g}: {end:.3f}")
            chosen = int(np.argmin(ends))
            best[name] = ends[chosen]
            if name in VALLEY_RATES:
                curves.append((f"{name}, {rates[chosen]:g}", colour, _smooth(traces[chosen])))
            table.add(name, ", ".join(f"{rate:g}" for rate in rates), *(decimal(end, 3) for end in ends))
    page.chart(
        "Loss by update",
        "Three rules at their best rates: the running mean of the loss of the batches.",
        draw_curves([(name, colour, values) for name, colour, values in curves], across="update", up="loss (nats)"),
    )
    page.table(table)
    for name in ("SGD", "momentum", "Adam"):
        page.fact(f"loss with {name}", decimal(best[name], 3), f"after {steps} updates, at its best rate")


def _descend_valley(make: Callable[[Sequence[Tensor], float], Optimizer], rate: float, steps: int) -> Floats:
    place = parameter(VALLEY_START)
    optimizer = make([place], rate)
    path = [place.data]
    for _ in range(steps):
        optimizer.zero_grad()
        (place * place * STEEPNESS / 2).sum().backward()
        optimizer.step()
        path.append(place.data)
    return np.stack(path)


def _draw_valley(axes: Axes, paths: dict[str, Floats], colours: dict[str, str]) -> None:
    xs, ys = np.linspace(-4.6, 2.2, 80), np.linspace(-1.6, 1.6, 60)
    heights = (STEEPNESS[0] * xs[None, :] ** 2 + STEEPNESS[1] * ys[:, None] ** 2) / 2
    axes.contour(xs, ys, heights, levels=[0.5, 2, 5, 10, 20, 40], colors=[GRID], linewidths=0.9)
    for name, path in paths.items():
        axes.plot(path[:, 0], path[:, 1], color=colours[name], linewidth=1.3, marker="o", markersize=2, label=name)
    axes.plot([0], [0], marker="+", markersize=9, color=INK)
    axes.set_xlim(-4.6, 2.2)
    axes.set_ylim(-1.6, 1.6)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(labelcolor=INK)


def _train(
    make: Callable[[Sequence[Tensor], float], Optimizer],
    rate: float,
    points: Floats,
    labels: NDArray[np.int64],
    steps: int,
    seed: int,
) -> tuple[Floats, float]:
    """Losses of the batches, and of all points at the end; the same weights and batches whatever the rule."""
    random = np.random.default_rng(seed)
    network = Sequential([Linear(2, 16, random, gain=5 / 3), Activation(Tensor.tanh), Linear(16, 2, random)])
    optimizer = make(network.parameters(), rate)
    losses = []
    for _ in range(steps):
        batch = random.integers(0, len(points), 32)
        optimizer.zero_grad()
        loss = cross_entropy(network(Tensor(points[batch])), labels[batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with no_grad():
        end = cross_entropy(network(Tensor(points)), labels).item()
    return np.array(losses), end


def _smooth(values: Floats, share: float = 0.05) -> Floats:
    """Mean of what has been, the last weighted most, corrected for having begun at zero."""
    means, mean = [], 0.0
    for count, value in enumerate(values, start=1):
        mean = (1 - share) * mean + share * value
        means.append(mean / (1 - (1 - share) ** count))
    return np.array(means)
