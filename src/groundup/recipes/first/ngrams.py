"""Lesson `ngrams`: what a text says about its next character by counting, and what is left to what was never counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from groundup.core import console
from groundup.core.errors import DataError
from groundup.foundations.ngram import AddK, Backoff, KneserNey, NGramModel
from groundup.recipes.first.material import Material, Pace
from groundup.recipes.first.page import Page
from groundup.recipes.first.points import draw_curves
from groundup.recipes.report.charts import BASE, CHAT, INK, OTHER
from groundup.recipes.report.tables import Table
from groundup.recipes.report.words import count, decimal, label, percent, shorten

Ids = NDArray[np.int64]
Make: TypeAlias = Callable[[Sequence[Ids], int, int], NGramModel]

#: Counting a longer text to order 6 takes more than two minutes on a slow machine.
MAX_CHARS = 1_500_000
MIN_CHARS = 2_000
MAX_ORDER = 6
SAMPLE_CHARS = 300
SMOOTHINGS: tuple[tuple[str, str, Make], ...] = (
    ("add 1", OTHER, lambda texts, size, order: AddK(texts, size, order, k=1)),
    ("add 0.01", INK, lambda texts, size, order: AddK(texts, size, order, k=0.01)),
    ("back-off", BASE, Backoff),
    ("Kneser-Ney", CHAT, KneserNey),
)
BEST = "Kneser-Ney"


def show_ngrams(page: Page, material: Material, pace: Pace) -> None:
    """Bits a character by order and smoothing, what each says of unseen n-grams, and text made by counting."""
    train, held = _split(_limited(material.texts()))
    characters = sorted(set("".join(train + held)))
    if sum(map(len, train)) < MIN_CHARS or not any(held):
        raise DataError(
            f"{material.source} holds {sum(map(len, train + held)):,} characters: at least {MIN_CHARS:,} are needed"
        )
    ids = {character: id for id, character in enumerate(characters)}
    train_ids, held_ids = ([np.array([ids[c] for c in text], np.int64) for text in texts] for texts in (train, held))
    size = len(characters)
    orders = [order for order in range(1, MAX_ORDER + 1) if (size + 1) ** order < 2**63]

    bits: dict[str, list[float]] = {name: [] for name, _, _ in SMOOTHINGS}
    shares: list[float] = []
    kept: dict[int, NGramModel] = {}
    parts: dict[str, tuple[float, float]] = {}
    shown = max(order for order in orders if order <= 5)
    with console.progress("count", len(orders) * len(SMOOTHINGS), "models") as ticker:
        for order in orders:
            for name, _, make in SMOOTHINGS:
                model = make(train_ids, size, order)
                each = np.concatenate([model.bits(text) for text in held_ids])
                bits[name].append(float(each.mean()))
                unseen = model.unseen(held_ids)
                if order == shown:
                    parts[name] = (_mean(each[~unseen]), _mean(each[unseen]))
                if name == BEST:
                    shares.append(float(unseen.mean()))
                    kept[order] = model
                ticker.advance(1, f"order {order}, {name}: {bits[name][-1]:.2f} bits")

    _explain(page, train, held, size)
    _bits_by_order(page, orders, bits, shares)
    _unseen(page, shown, shares[orders.index(shown)], parts)
    _samples(page, kept, characters, pace)
    best = bits[BEST][-1]
    low, at = min((min(bits[name]), name) for name, _, _ in SMOOTHINGS)
    page.fact("bits a character", decimal(low, 3), f"the lowest, {at}; {decimal(np.log2(size), 2)} for a guess")
    page.fact("perplexity", decimal(2**low, 2), "2 to the bits: as unsure as among so many equal ones")
    page.fact(f"order {orders[-1]}, {BEST}", decimal(best, 3), f"bits; add 1 has {decimal(bits['add 1'][-1], 3)}")
    page.fact(f"unseen of order {orders[-1]}", percent(shares[-1]), "of the held-out n-grams")


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else 0.0


def _limited(texts: list[str]) -> list[str]:
    """The first texts, up to `MAX_CHARS` characters in all."""
    kept, left = [], MAX_CHARS
    for text in texts:
        kept.append(text[:left])
        left -= len(kept[-1])
        if not left:
            break
    return kept


def _split(texts: list[str]) -> tuple[list[str], list[str]]:
    """Nine tenths to count and a tenth to predict: every tenth text, or the end of each where there are few."""
    if len(texts) >= 10:
        return [text for i, text in enumerate(texts) if i % 10], texts[::10]
    cuts = [len(text) * 9 // 10 for text in texts]
    return (
        [text[:cut] for text, cut in zip(texts, cuts, strict=True)],
        [text[cut:] for text, cut in zip(texts, cuts, strict=True)],
    )


def _explain(page: Page, train: list[str], held: list[str], size: int) -> None:
    page.section("Counting what follows")
    page.text(
        f"An n-gram model of order n predicts each character from the n - 1 before it, by how often it followed them in "
        f"{count(sum(map(len, train)))} characters. It is measured on {count(sum(map(len, held)))} others. There are {size} different "
        "characters. What it should be is a probability for each of them after any context, also after those that it never met."
    )


def _bits_by_order(page: Page, orders: list[int], bits: dict[str, list[float]], shares: list[float]) -> None:
    page.chart(
        "Bits by order",
        "Bits a character of the held-out text. Longer contexts say more until most of them were never seen; from there on "
        "everything depends on what a model does without a count.",
        draw_curves(
            [(name, colour, bits[name]) for name, colour, _ in SMOOTHINGS],
            across="order (characters of context + 1)",
            up="bits a character",
            start=1,
        ),
    )
    page.chart(
        "Unseen n-grams by order",
        "The share of the held-out text's n-grams that the counted text does not have.",
        draw_curves([("", CHAT, shares)], across="order", up="share that is unseen", start=1),
    )
    table = Table(
        "Bits a character (and perplexity) of the held-out text.",
        ("order", "#unseen", *(f"#{name}" for name, _, _ in SMOOTHINGS)),
    )
    for place, order in enumerate(orders):
        cells = [f"{decimal(bits[name][place], 3)} ({decimal(2 ** bits[name][place], 1)})" for name, _, _ in SMOOTHINGS]
        table.add(str(order), percent(shares[place]), *cells)
    page.table(table)


def _unseen(page: Page, order: int, share: float, parts: dict[str, tuple[float, float]]) -> None:
    page.section("What was never counted")
    page.text(
        f"At order {order}, {percent(share)} of the held-out n-grams are unseen. Adding 1 to every count takes most of the probability "
        "from what was seen, since there are so many things that might have been; adding little leaves almost nothing for the unseen. "
        "Back-off asks the next shorter context instead, and Kneser-Ney asks it how many different contexts a character follows."
    )
    table = Table(
        f"Mean bits of seen and of unseen n-grams of order {order} in the held-out text.",
        ("smoothing", "#seen", "#unseen", "#all"),
    )
    for name, (seen, unseen) in parts.items():
        table.add(name, decimal(seen, 2), decimal(unseen, 2), decimal(seen * (1 - share) + unseen * share, 3))
    page.table(table)


def _samples(page: Page, kept: dict[int, NGramModel], characters: list[str], pace: Pace) -> None:
    page.section("Text by counting")
    page.text(f"Each character drawn with its probability ({BEST}), from the beginning of a text.")
    for order in sorted({1, 2, 3, max(kept)} & set(kept)):
        ids = kept[order].sample(np.random.default_rng(pace.seed), SAMPLE_CHARS)
        text = "".join(characters[id] for id in ids)
        page.code(f"order {order}:\n" + shorten("\n".join(label(line, 100) for line in text.split("\n")), 400))
