"""Lesson `seq2seq`: one network reads, another writes, with attention between them and without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from groundup.core import console
from groundup.foundations.seq2seq import Alphabet, Seq2Seq, share_exact, train_seq2seq
from groundup.foundations.seq2seq_tasks import DATE_CHARACTERS, LETTERS, ExampleMaker, date, reversal
from groundup.recipes.first.material import Material, Pace
from groundup.recipes.first.page import Page
from groundup.recipes.first.points import draw_curves, trailing_mean
from groundup.recipes.report.charts import BASE, CHAT, GRID, INK, OTHER
from groundup.recipes.report.tables import Table
from groundup.recipes.report.words import count, percent

SHORTEST, LONGEST = 2, 12
LENGTHS = (2, 4, 6, 8, 10, 12, 14, 16)
NUM_ASKED = 200
NUM_DATES = 500
#: Whether there is attention, its name on the page, and its colour.
WAYS = ((True, "with attention", CHAT), (False, "without", OTHER))


@dataclass(frozen=True)
class Trained:
    """A model with the losses of its training."""

    model: Seq2Seq
    losses: list[float]


def show_seq2seq(page: Page, material: Material, pace: Pace) -> None:
    """Words turned round and dates rewritten: exact answers by length, and where the attention looks."""
    del material
    _show_reversal(page, pace)
    _show_dates(page, pace)


def _train(task: str, alphabet: Alphabet, make: ExampleMaker, steps: int, seed: int) -> dict[bool, Trained]:
    """A model of each way, from the same random numbers."""
    trained = {}
    for has_attention, title, _ in WAYS:
        random = np.random.default_rng(seed)
        model = Seq2Seq(len(alphabet), random, has_attention=has_attention)
        model.convert(np.float32)
        with console.progress(f"{task} {title}", steps, "updates") as ticker:
            losses = train_seq2seq(model, alphabet, make, random, steps=steps, progress=console.Running(ticker))
        trained[has_attention] = Trained(model, losses)
    return trained


def _show_reversal(page: Page, pace: Pace) -> None:
    alphabet, steps = Alphabet(LETTERS), pace.steps(600)
    trained = _train("words", alphabet, reversal(SHORTEST, LONGEST), steps, pace.seed)
    page.section("Words turned round")
    page.text(
        f"An encoder reads random letters, a decoder writes them from the last to the first. Both are GRUs of 64 numbers, trained on "
        f"{count(64 * steps)} fresh words of {SHORTEST} to {LONGEST} letters. Without attention all that was read must fit into the encoder's last "
        "state. With attention the decoder looks back at the state after every letter, and chooses at each step how much of each it takes."
    )
    random = np.random.default_rng([pace.seed, 1])
    asked = {length: [reversal(length, length)(random) for _ in range(NUM_ASKED)] for length in LENGTHS}
    exact = {
        has_attention: [share_exact(run.model, alphabet, asked[length]) for length in LENGTHS]
        for has_attention, run in trained.items()
    }

    def draw(axes: Axes) -> None:
        for has_attention, title, colour in WAYS:
            axes.plot(
                LENGTHS, exact[has_attention], color=colour, linewidth=1.6, marker="o", markersize=3.4, label=title
            )
        axes.axvline(LONGEST, color=GRID, linewidth=1.0)
        axes.annotate(
            "longest in training",
            (LONGEST, 1.06),
            ha="right",
            va="bottom",
            color=INK,
            fontsize=8,
            annotation_clip=False,
        )
        axes.set_ylim(0, 1.17)
        axes.set_xticks(LENGTHS)
        axes.set_xlabel("letters of the word")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value) if value <= 1 else ""))
        axes.yaxis.grid(color=GRID, linewidth=0.7)
        axes.legend(labelcolor=INK, loc="center left")

    page.chart(
        "Exact answers by length",
        f"Share of {NUM_ASKED} new words of each length that are turned round without a wrong letter.",
        draw,
    )
    page.chart("Loss by update", _loss_caption(steps), _draw_losses(trained, steps))
    table = Table("The same in numbers.", ("", *(f"#{length} letters" for length in LENGTHS)))
    for has_attention, title, _ in WAYS:
        table.add(title, *(percent(share) for share in exact[has_attention]))
        shares = dict(zip(LENGTHS, exact[has_attention], strict=True))
        page.fact(f"words of 10 letters, {title}", percent(shares[10]), "turned round without a wrong letter")
    page.table(table)
    _show_map(
        page,
        trained[True].model,
        alphabet,
        "backwards",
        "The word is read from left to right and written from top to bottom.",
    )
    page.text(
        f"Nobody told the decoder where to look: the diagonal from the last letter to the first was learned. On words longer than the "
        f"{LONGEST} letters of its training it fails all the same, since it never had to tell those places apart."
    )


def _show_dates(page: Page, pace: Pace) -> None:
    alphabet, steps = Alphabet(DATE_CHARACTERS), pace.steps(300)
    trained = _train("dates", alphabet, date, steps, pace.seed)
    page.section("Dates")
    page.text(
        "A day of the years 1900 to 2099, written in one of five ways, is to be written as `YYYY-MM-DD`. The order changes, a name becomes a "
        f"number, and what is not needed (a weekday) must be passed over. {count(64 * steps)} fresh dates."
    )
    random = np.random.default_rng([pace.seed, 2])
    asked = [date(random) for _ in range(NUM_DATES)]
    shown = asked[:6]
    answers = {
        has_attention: alphabet.decode(run.model.write(alphabet.encode([read for read, _ in shown]))[0])
        for has_attention, run in trained.items()
    }
    table = Table("What each wrote; wrong ones carry a cross.", ("read", "with attention", "without"))
    for row, (read, right) in enumerate(shown):
        table.add(read, *(f"{answers[way][row]}{'' if answers[way][row] == right else ' ✗'}" for way, _, _ in WAYS))
    for has_attention, title, _ in WAYS:
        share = share_exact(trained[has_attention].model, alphabet, asked)
        page.fact(f"dates, {title}", percent(share), f"of {NUM_DATES} without a wrong character")
    page.chart("Loss by update", _loss_caption(steps), _draw_losses(trained, steps))
    _show_map(
        page, trained[True].model, alphabet, shown[0][0], "A date: each figure written looks at what it is made from."
    )
    page.table(table)


def _loss_caption(steps: int) -> str:
    return f"Cross-entropy of the batches, a running mean of {_window(steps)}."


def _window(steps: int) -> int:
    return max(1, steps // 30)


def _draw_losses(trained: dict[bool, Trained], steps: int) -> Callable[[Axes], None]:
    window = _window(steps)
    curves: list[tuple[str, str, list[float] | NDArray[np.float64]]] = [
        (title, colour, trailing_mean(np.array(trained[way].losses), window)[window - 1 :])
        for way, title, colour in WAYS
    ]
    return draw_curves(curves, across="update", up="loss (nats a character)", start=window)


def _show_map(page: Page, model: Seq2Seq, alphabet: Alphabet, text: str, caption: str) -> None:
    ids, shares = model.write(alphabet.encode([text]))
    written = alphabet.decode(ids)[0]
    page.chart(
        f"Where the attention looks: {text}",
        f"{caption} The fuller, the larger the share of that place; ⏎ is the end.",
        lambda axes: draw_attention(axes, [*text, "⏎"], [*written, "⏎"][: len(ids[0])], shares[0]),
        height_in=0.6 + 0.21 * len(ids[0]),
        left_in=0.4,
    )


def draw_attention(axes: Axes, read: list[str], written: list[str], shares: NDArray[np.floating]) -> None:
    """A square for each symbol written (down) and read (across), as dark as its share (written, read)."""
    for row in range(len(written)):
        for column in range(len(read)):
            share = float(shares[row, column])
            if share > 0.01:
                axes.add_patch(
                    Rectangle((column - 0.5, row - 0.5), 1, 1, color=BASE, alpha=min(1.0, share), linewidth=0)
                )
    axes.set_xlim(-0.5, len(read) - 0.5)
    axes.set_ylim(len(written) - 0.5, -0.5)
    axes.set_xticks(range(len(read)), [symbol.replace(" ", "␣") for symbol in read])
    axes.set_yticks(range(len(written)), written)
