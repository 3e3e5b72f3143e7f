"""Lessons `recurrent` and `vanishing`: networks that read step by step, and how far back they learn."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

from groundup.core import console
from groundup.foundations.names.data import NameData
from groundup.foundations.names.recurrent import RecurrentModel, loss_by_position, mean_loss_of, train_recurrent
from groundup.foundations.optimizers import SGD
from groundup.foundations.recurrent import Cell, GRUCell, LSTMCell, RNNCell
from groundup.foundations.vanishing import MakeCell, gradient_by_distance, learn_to_remember, set_recurrence
from groundup.recipes.first.material import Material, Pace
from groundup.recipes.first.page import Page
from groundup.recipes.first.points import draw_curves, trailing_mean
from groundup.recipes.report.charts import BASE, CHAT, GRID, INK, OTHER, SOFT, tick
from groundup.recipes.report.tables import Table
from groundup.recipes.report.words import count, decimal, percent, scientific

Floats = NDArray[np.float64]


# ---------------------------------------------------------------------------------------------- recurrent

#: Kind, its name on the page, and its colour.
KINDS = (("rnn", "RNN", OTHER), ("gru", "GRU", CHAT), ("lstm", "LSTM", BASE))
NUM_SAMPLES = 24
LONGEST_POSITION = 12


def show_recurrent(page: Page, material: Material, pace: Pace) -> None:
    """Three cells trained on names or words: losses, the loss by position, and words that each makes up."""
    data = NameData(material.words(), seed=pace.seed)
    steps = pace.steps(1500)
    models: dict[str, RecurrentModel] = {}
    losses: dict[str, list[float]] = {}
    for kind, title, _ in KINDS:
        random = np.random.default_rng(pace.seed)
        model = RecurrentModel(kind, data.vocab_size, random)
        model.convert(np.float32)
        with console.progress(f"train the {title}", steps, "updates") as ticker:
            losses[kind] = train_recurrent(model, data, random, steps=steps, progress=console.Running(ticker))
        models[kind] = model

    page.section("A state in the place of a window")
    page.text(
        "Each model reads a word character by character and keeps a state of 128 numbers. After every character it gives the "
        "probability of each next one. The three differ in one thing only: how the next state is made from the last and the "
        "character. An `RNN` mixes both and squashes the sum; a `GRU` and an `LSTM` have gates, which say how much of the state stays."
    )
    table = Table(
        f"Cross-entropy in nats a character, each word's end counted as one, after {count(steps)} updates of 128 words: "
        f"{count(len(data.train))} words to train on, {count(len(data.validation))} for validation, {count(len(data.test))} for the test.",
        ("cell", "#parameters", "#training", "#validation", "#test"),
    )
    held_out = {kind: mean_loss_of(model, data, data.validation) for kind, model in models.items()}
    for kind, title, _ in KINDS:
        model = models[kind]
        table.add(
            title,
            count(sum(weight.size for weight in model.parameters())),
            decimal(mean_loss_of(model, data, data.train[: len(data.validation)]), 3),
            decimal(held_out[kind], 3),
            decimal(mean_loss_of(model, data, data.test), 3),
        )
        page.fact(f"{title}, validation loss", decimal(held_out[kind], 3), "nats a character")
    page.table(table)
    _draw_losses(page, data, models, losses)
    _show_samples(page, data, models, pace)


def _draw_losses(page: Page, data: NameData, models: dict[str, RecurrentModel], losses: dict[str, list[float]]) -> None:
    """The loss over the training, and over the positions of a word."""
    window = max(1, len(losses[KINDS[0][0]]) // 30)
    page.chart(
        "Loss by update",
        f"The loss of the batches, a running mean of {window}.",
        draw_curves(
            [
                (title, colour, trailing_mean(np.array(losses[kind]), window)[window - 1 :])
                for kind, title, colour in KINDS
            ],
            across="update",
            up="loss (nats a character)",
            start=window,
        ),
    )
    page.chart(
        "Loss by position",
        "The validation loss of the first character, of the second, and so on. The first is a guess from nothing; each further one "
        "has more before it to go by, though some places are harder than others.",
        draw_curves(
            [
                (title, colour, loss_by_position(models[kind], data, data.validation, LONGEST_POSITION))
                for kind, title, colour in KINDS
            ],
            across="character of the word",
            up="loss (nats)",
            start=1,
        ),
    )


def _show_samples(page: Page, data: NameData, models: dict[str, RecurrentModel], pace: Pace) -> None:
    """Words that each model makes up."""
    page.section("Words that are made up")
    known = set(data.train) | set(data.validation) | set(data.test)
    for kind, title, _ in KINDS:
        drawn = [data.decode(row) for row in models[kind].sample(np.random.default_rng(pace.seed), NUM_SAMPLES)]
        new = sum(word not in known for word in drawn)
        page.text(f"Drawn from the {title}, character by character; {new} of {NUM_SAMPLES} are in no part of the list.")
        page.code(
            "\n".join("  ".join(word or "(empty)" for word in drawn[row : row + 8]) for row in range(0, NUM_SAMPLES, 8))
        )


# ---------------------------------------------------------------------------------------------- vanishing

NUM_STEPS_BACK = 60
SHOWN_DISTANCES = (1, 5, 10, 20, 40, 60)
DISTANCES = (5, 10, 20, 40)
NUM_SYMBOLS = 4


def rotated(gain: float) -> MakeCell:
    """An RNN whose recurrent weights begin as a rotation times `gain`."""

    def make(size: int, hidden_size: int, random: np.random.Generator) -> Cell:
        cell = RNNCell(size, hidden_size, random)
        set_recurrence(cell, gain, random)
        return cell

    return make


OPEN_LSTM = partial(LSTMCell, forget_bias=3.0)
#: Name, cell, colour and line of the gradient's way back.
WAYS_BACK: tuple[tuple[str, MakeCell, str, str], ...] = (
    ("RNN, singular values 2", rotated(2.0), OTHER, "-"),
    ("RNN, singular values 1", rotated(1.0), OTHER, "--"),
    ("RNN, singular values 0.5", rotated(0.5), OTHER, ":"),
    ("RNN as torch begins it", RNNCell, SOFT, "-"),
    ("GRU", GRUCell, CHAT, "-"),
    ("LSTM, forget bias 1", LSTMCell, BASE, "-"),
    ("LSTM, forget bias 3", OPEN_LSTM, BASE, "--"),
)
#: Name, cell, colour and line of the ones that have to remember.
REMEMBERING: tuple[tuple[str, MakeCell, str, str], ...] = (
    ("RNN", RNNCell, SOFT, "-"),
    ("RNN, singular values 1", rotated(1.0), OTHER, "--"),
    ("GRU", GRUCell, CHAT, "-"),
    ("LSTM, forget bias 1", LSTMCell, BASE, "-"),
    ("LSTM, forget bias 3", OPEN_LSTM, BASE, "--"),
)


def show_vanishing(page: Page, material: Material, pace: Pace) -> None:
    """The gradient by distance, a task that needs a long memory, and what clipping is for."""
    del material
    _show_way_back(page, pace)
    _show_memory(page, pace)
    _show_clipping(page, pace)


def _show_way_back(page: Page, pace: Pace) -> None:
    page.section("The gradient on its way back")
    page.text(
        f"Untrained cells of 64 numbers read {NUM_STEPS_BACK} steps of noise. How much does the last state change with the one t steps "
        "before? The chain rule multiplies one matrix for each step. Where each shrinks what passes, nothing is left after a few dozen, and "
        "what happened there cannot be learned from; where each stretches it, the gradient explodes. A gate that is open (an LSTM's "
        "forget gate near 1) lets it pass as it is."
    )
    shares = {}
    for name, make, _, _ in WAYS_BACK:
        random = np.random.default_rng(pace.seed)
        cell = make(16, 64, random)
        shares[name] = gradient_by_distance(cell, random.standard_normal((16, NUM_STEPS_BACK + 1, 16)), random)

    def draw(axes: Axes) -> None:
        for name, _, colour, line in WAYS_BACK:
            axes.plot(np.maximum(shares[name], 1e-300), color=colour, linestyle=line, linewidth=1.6, label=name)
        axes.set_yscale("log")
        axes.set_ylim(1e-12, 1e6)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.grid(color=GRID, linewidth=0.7)
        axes.set_xlabel("steps back")
        _legend_right(axes, NUM_STEPS_BACK, range(0, NUM_STEPS_BACK + 1, 10))

    page.chart(
        "Norm of the gradient by distance",
        "Norm of the derivative of the last step by the state so many steps back, as a share of that by the last state.",
        draw,
        height_in=3.4,
        left_in=0.85,
    )
    table = Table("The same in numbers.", ("cell", *(f"#{distance} back" for distance in SHOWN_DISTANCES)))
    for name, values in shares.items():
        table.add(name, *(_short(values[distance]) for distance in SHOWN_DISTANCES))
    page.table(table)
    for name in ("RNN as torch begins it", "LSTM, forget bias 3"):
        page.fact(f"gradient left 40 steps back: {name}", _short(shares[name][40]), "of that at the last step")


def _show_memory(page: Page, pace: Pace) -> None:
    page.section("Remember the first symbol")
    steps = pace.steps(300)
    page.text(
        f"The first symbol is one of {NUM_SYMBOLS}; then comes noise; at the end the first symbol is asked for. Each cell has 32 numbers and "
        f"at most {steps} updates of 32 fresh sequences, with Adam and clipped gradients. A guess is right {percent(1 / NUM_SYMBOLS)} of the time."
    )
    table = Table(
        "Right answers to 500 new sequences by distance, and in brackets the updates where fewer than all were needed. One "
        "beginning each: near the edge of what a cell can learn, another --seed may say otherwise.",
        ("cell", *(f"#{distance} steps" for distance in DISTANCES)),
    )
    rows: dict[str, list[float]] = {}
    with console.progress("train", len(REMEMBERING) * len(DISTANCES), "runs") as ticker:
        for name, make, _, _ in REMEMBERING:
            cells, rows[name] = [], []
            for distance in DISTANCES:
                result = learn_to_remember(
                    make, distance, np.random.default_rng(pace.seed), steps=steps, num_symbols=NUM_SYMBOLS
                )
                rows[name].append(result.accuracy)
                needed = f" ({len(result.losses)})" if len(result.losses) < steps else ""
                cells.append(f"{percent(result.accuracy)}{needed}")
                ticker.advance(1, f"{name} over {distance} steps: {percent(result.accuracy)}")
            table.add(name, *cells)

    def draw(axes: Axes) -> None:
        for name, _, colour, line in REMEMBERING:
            axes.plot(
                DISTANCES,
                rows[name],
                color=colour,
                linestyle=line,
                linewidth=1.6,
                marker="o",
                markersize=3.4,
                label=name,
            )
        axes.axhline(1 / NUM_SYMBOLS, color=GRID, linewidth=1.0)
        axes.set_ylim(0, 1.05)
        axes.set_xlabel("steps between the symbol and the question")
        axes.set_ylabel("right answers")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value) if value <= 1 else ""))
        axes.yaxis.grid(color=GRID, linewidth=0.7)
        _legend_right(axes, DISTANCES[-1], DISTANCES)

    page.chart("Right answers by distance", "The same as a chart; the grey line is a guess.", draw, height_in=2.8)
    page.table(table)
    longest = {
        name: max((d for d, a in zip(DISTANCES, row, strict=True) if a > 0.9), default=0) for name, row in rows.items()
    }
    for name in ("RNN", "GRU", "LSTM, forget bias 3"):
        page.fact(
            f"{name} remembers",
            f"{longest[name]} steps",
            f"the longest of {DISTANCES[0]} to {DISTANCES[-1]} with 90 % right",
        )


def _show_clipping(page: Page, pace: Pace) -> None:
    page.section("What clipping is for")
    steps, rate, distance = pace.steps(300), 0.5, 10
    page.text(
        f"An RNN whose recurrent weights begin as a rotation has to remember over {distance} steps, trained by plain gradient descent at a rate "
        f"of {rate:g}, from four beginnings. Clipped, a gradient of a norm above 1 is shrunk to 1. Without it, one step over the edge of a "
        "cliff in the loss throws the weights far away, where the gradient may have vanished for good."
    )
    table = Table(
        f"Right answers after at most {steps} updates, and the largest norm of a gradient on the way (before it was clipped).",
        ("beginning", "#clipped: right", "#largest norm", "#not clipped: right", "#largest norm "),
    )
    traces: list[tuple[str, str, list[float] | Floats]] = []
    solved = {"clipped": 0, "not clipped": 0}
    with console.progress("train", 8, "runs") as ticker:
        for beginning in range(4):
            cells = []
            for name, clip, colour in (("clipped", 1.0, CHAT), ("not clipped", None, OTHER)):
                result = learn_to_remember(
                    rotated(1.0),
                    distance,
                    np.random.default_rng([pace.seed, beginning]),
                    steps=steps,
                    make_optimizer=_plain_descent(rate),
                    clip=clip,
                )
                solved[name] += result.accuracy > 0.9
                traces.append((name if not beginning else "", colour, np.array(result.losses)))
                cells += [percent(result.accuracy), decimal(max(result.norms), 1)]
                ticker.advance(1, f"{name}: {percent(result.accuracy)}")
            table.add(str(beginning + 1), *cells)
    page.chart(
        "Loss by update",
        "The loss of each batch, four beginnings each. A line ends where the task was learned.",
        draw_curves(traces, across="update", up="loss (nats)"),
    )
    page.table(table)
    for name, number in solved.items():
        page.fact(f"learned, {name}", f"{number} of 4", "beginnings, plain gradient descent")


def _plain_descent(rate: float) -> partial[SGD]:
    return partial(SGD, rate=rate)


def _legend_right(axes: Axes, end: int, ticks: Sequence[int]) -> None:
    """Names of the lines beside their ends: over many lines there is no room."""
    axes.set_xlim(0, 2.1 * end)
    axes.set_xticks(ticks)
    axes.legend(labelcolor=INK, loc="center right", borderaxespad=0)


def _short(value: float) -> str:
    return decimal(value, 2) if 0.01 <= value < 1000 else scientific(value)
