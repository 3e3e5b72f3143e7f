"""Lesson `initialisation`: one deep network begun well and badly, with and without batch norm, and what its inside tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from groundup.core import console
from groundup.foundations.names.data import NameData
from groundup.foundations.names.mlp import TANH_GAIN, ContextMLP
from groundup.foundations.names.statistics import SATURATED, Study, study
from groundup.foundations.names.training import mean_loss
from groundup.foundations.optimizers import SGD
from groundup.recipes.first.material import Material, Pace
from groundup.recipes.first.page import Page
from groundup.recipes.first.points import draw_curves, trailing_mean
from groundup.recipes.report.charts import BASE, CHAT, GRID, INK, OTHER, SOFT
from groundup.recipes.report.tables import Table
from groundup.recipes.report.words import decimal, percent, scientific

Floats = NDArray[np.float64]

NUM_LAYERS = 5
HIDDEN_SIZE = 100
RATE = 0.2
USUAL_STEPS = 1_500


@dataclass(frozen=True)
class Beginning:
    """How a network is begun: the gains of its layers, and whether batch norm stands before each tanh."""

    name: str
    colour: str
    gain: float
    output_gain: float
    is_normed: bool = False


BEGINNINGS = (
    Beginning("too large", OTHER, 5.0, 10.0),
    Beginning("too small", SOFT, 0.3, 0.1),
    Beginning("gain 5/3", BASE, TANH_GAIN, 0.1),
    Beginning("too large, batch norm", INK, 5.0, 10.0, is_normed=True),
    Beginning("too small, batch norm", CHAT, 0.3, 0.1, is_normed=True),
)


def show_initialisation(page: Page, material: Material, pace: Pace) -> None:
    """Histograms of activations and gradients, updates over weights, and losses, for five beginnings of one network."""
    data = NameData(material.words(), pace.seed)
    x, y = data.contexts(data.train, 3)
    held = data.contexts(data.validation, 3)
    steps = pace.steps(USUAL_STEPS)
    studies: dict[Beginning, Study] = {}
    ends: dict[Beginning, float] = {}
    for beginning in BEGINNINGS:
        random = np.random.default_rng(pace.seed)
        model = ContextMLP(
            data.vocab_size,
            random,
            hidden_size=HIDDEN_SIZE,
            num_hidden_layers=NUM_LAYERS,
            gain=beginning.gain,
            output_gain=beginning.output_gain,
            is_normed=beginning.is_normed,
        )
        model.convert(np.float32)
        with console.progress(beginning.name, steps, "updates") as ticker:
            studies[beginning] = study(
                model, x, y, random, SGD(model.parameters(), RATE), steps=steps, progress=console.Running(ticker)
            )
        ends[beginning] = mean_loss(model, *held)

    _losses(page, data, studies, ends, steps)
    _activations(page, studies)
    _gradients(page, studies)
    _ratios(page, studies)


def _losses(
    page: Page, data: NameData, studies: dict[Beginning, Study], ends: dict[Beginning, float], steps: int
) -> None:
    guess = float(np.log(data.vocab_size))
    page.section("One network, five beginnings")
    page.text(
        f"A perceptron of {NUM_LAYERS} hidden layers of {HIDDEN_SIZE} tanh units over three characters, trained by plain gradient descent at "
        f"a rate of {RATE:g} for {steps:,} updates of 128 contexts. What differs is the deviation of its first weights, the gain over "
        "1 / sqrt(inputs), where 5/3 makes up for what a tanh takes away, and whether batch norm stands before each tanh."
    )
    page.text(
        f"A network that knows nothing should guess: its first loss is that of equal probabilities, log {data.vocab_size} = "
        f"{decimal(guess, 2)} nats. A larger one says that the scores are sure of nonsense, and the first updates only unlearn it."
    )
    top = guess + 1
    above = [f"{one.name} at {decimal(found.losses[0], 1)}" for one, found in studies.items() if found.losses[0] > top]
    curves = [
        (one.name, one.colour, trailing_mean(found.losses, len(found.losses) // 50)) for one, found in studies.items()
    ]

    def draw(axes: Axes) -> None:
        draw_curves(curves, across="update", up="loss (nats)")(axes)
        axes.set_ylim(0.97 * min(float(values.min()) for _, _, values in curves), top)

    page.chart(
        "Loss by update",
        "The loss of each batch as a running mean."
        + (f" Above the picture begin: {', '.join(above)}." if above else ""),
        draw,
        height_in=3.4,
    )
    table = Table(
        f"Beginnings and ends. Saturated: beyond {SATURATED:g}, where a tanh lets less than 6% of a gradient through.",
        ("beginning", "#first loss", "#held-out loss", "#deviation, layer 1", f"#layer {NUM_LAYERS}", "#saturated",
         "#gradient, layer 1", f"#layer {NUM_LAYERS}"),
    )  # fmt: skip
    for one, found in studies.items():
        first, last = found.before[0], found.before[-1]
        saturated = float(np.mean([layer.saturation for layer in found.before]))
        table.add(
            one.name, decimal(found.losses[0], 2), decimal(ends[one], 3), decimal(first.deviation, 2),
            decimal(last.deviation, 3), percent(saturated), scientific(first.gradient_deviation),
            scientific(last.gradient_deviation),
        )  # fmt: skip
        page.fact(f"loss, {one.name}", decimal(ends[one], 3), f"held out; {decimal(found.losses[0], 2)} at first")
    page.table(table)


def _activations(page: Page, studies: dict[Beginning, Study]) -> None:
    page.section("What the units do before training")
    page.text(
        "The values behind each tanh, by layer, the strongest line for the first layer and the faintest for the last. At -1 and 1 a unit is saturated: its slope "
        "is 0 and no gradient passes. At 0 all of it passes, but nothing is said. Batch norm sets every unit to mean 0 and deviation 1 "
        "over the batch, whatever the weights are; the last layer has none behind it, and its scores stay as large as they were begun."
    )
    for one, found in studies.items():
        values = [layer.values for layer in found.before]
        page.chart(
            f"Activations, {one.name}",
            f"{one.name}: {percent(float(np.mean([layer.saturation for layer in found.before])))} saturated.",
            _histograms(values, 1.02, "activation"),
        )


def _gradients(page: Page, studies: dict[Beginning, Study]) -> None:
    page.section("What comes back")
    page.text(
        "The deviation of the derivative of the loss by each layer's values, before training and after. A good beginning keeps it level "
        "from the last layer to the first; small weights let it fade on its way back, by the same factor in every layer."
    )
    for name in ("before", "after"):
        page.chart(
            f"Gradients by layer, {name} training",
            f"{name.capitalize()} training.",
            _by_layer(studies, name),
            height_in=3.4,
            left_in=0.9,
        )
    chosen = [one for one in studies if one.name in ("too small", "gain 5/3")]
    for one in chosen:
        layers = studies[one].before
        reach = 4 * max(layer.gradient_deviation for layer in layers)
        page.chart(
            f"Gradients, {one.name}",
            f"{one.name}: derivatives by the values of each layer, before training.",
            _histograms([layer.gradient for layer in layers], reach, "derivative of the loss"),
        )


def _ratios(page: Page, studies: dict[Beginning, Study]) -> None:
    page.section("How far an update moves a weight")
    page.text(
        "The deviation of an update over that of the matrix it moves, as a power of ten. About 10⁻³ is healthy. Where matrices of one network "
        "lie far apart, no rate suits all of them."
    )
    for one, found in studies.items():
        logs = np.log10(np.maximum(found.ratios, 1e-12))
        # Of the inner layers only the outermost are named: the others lie between them.
        colours = {"embed": INK, "layer 1": BASE, f"layer {NUM_LAYERS}": SOFT, "head": CHAT}
        curves = [
            (name if name in colours else "", colours.get(name, GRID), trailing_mean(logs[:, place], len(logs) // 50))
            for place, name in enumerate(found.names)
        ]
        page.chart(
            f"Updates over weights, {one.name}",
            f"{one.name}.",
            _with_line(draw_curves(curves, across="update", up="log10 of update / weight"), -3.0),
        )


def _by_layer(studies: dict[Beginning, Study], when: str) -> Callable[[Axes], None]:
    curves = [
        (one.name, one.colour, [max(layer.gradient_deviation, 1e-12) for layer in getattr(found, when)])
        for one, found in studies.items()
    ]

    def draw(axes: Axes) -> None:
        draw_curves(curves, across="layer", up="deviation of the gradient", log=True, start=1)(axes)
        axes.set_xticks(range(1, NUM_LAYERS + 1))

    return draw


def _with_line(draw: Callable[[Axes], None], height: float) -> Callable[[Axes], None]:
    def both(axes: Axes) -> None:
        draw(axes)
        axes.axhline(height, color=INK, linewidth=0.8, linestyle=":")

    return both


def _histograms(layers: list[NDArray[np.floating]], reach: float, name: str) -> Callable[[Axes], None]:
    """The density of each layer's numbers as a line, the first full and the last faint."""
    edges = np.linspace(-reach, reach, 61)
    middles = (edges[1:] + edges[:-1]) / 2

    def draw(axes: Axes) -> None:
        for place, values in enumerate(layers):
            counts, _ = np.histogram(values, edges)
            axes.plot(
                middles, counts / max(values.size, 1), color=CHAT, alpha=1 - 0.8 * place / max(len(layers) - 1, 1),
                linewidth=1.5, label=f"layer {place + 1}",
            )  # fmt: skip
        axes.set_xlabel(name)
        axes.set_ylabel("share of the values")
        axes.yaxis.grid(color=GRID, linewidth=0.7)
        axes.ticklabel_format(axis="x", style="plain" if reach > 0.01 else "sci", scilimits=(-3, 3))
        axes.legend(labelcolor=INK)

    return draw
