"""N-grams beside plain definitions with dictionaries, on random text."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import DataError, UsageError
from groundup.foundations.ngram import DEFAULT_DISCOUNT, AddK, Backoff, KneserNey, NGramModel

symbols = st.integers(0, 4)
documents = st.lists(st.lists(symbols, max_size=20), min_size=1, max_size=5).filter(lambda found: any(found))
Gram = tuple[int, ...]


class Plain:
    """The counts of every order, gram by gram; the separator is the symbol `vocab`."""

    def __init__(self, docs: list[list[int]], vocab: int, order: int) -> None:
        self.vocab, self.order = vocab, order
        self.levels: dict[int, dict[Gram, int]] = {}
        for n in range(1, order + 1):
            grams: Counter[Gram] = Counter()
            for doc in docs:
                padded = [vocab] * (n - 1) + doc
                for end in range(n, len(padded) + 1):
                    grams[tuple(padded[end - n : end])] += 1
            self.levels[n] = dict(grams)

    def discount(self, n: int) -> float:
        once = sum(count == 1 for count in self.levels[n].values())
        twice = sum(count == 2 for count in self.levels[n].values())
        return once / (once + 2 * twice) if once and twice else DEFAULT_DISCOUNT

    def after(self, context: Gram) -> dict[int, int]:
        return {gram[-1]: count for gram, count in self.levels[len(context) + 1].items() if gram[:-1] == context}


class PlainAddK(Plain):
    k = 0.3

    def prob(self, context: Gram, symbol: int) -> float:
        after = self.after(context)
        return (after.get(symbol, 0) + self.k) / (sum(after.values()) + self.k * self.vocab)


class PlainBackoff(Plain):
    def prob(self, context: Gram, symbol: int) -> float:
        lower = lambda c: self.prob(context[1:], c) if context else 1 / self.vocab  # noqa: E731
        after = self.after(context)
        if not after:
            return lower(symbol)
        total = sum(after.values())
        d = self.discount(len(context) + 1) if len(after) < self.vocab else 0.0
        if symbol in after:
            return (after[symbol] - d) / total
        freed = d * len(after) / total
        return freed * lower(symbol) / sum(lower(c) for c in range(self.vocab) if c not in after)


class PlainKneserNey(Plain):
    def __init__(self, docs: list[list[int]], vocab: int, order: int) -> None:
        super().__init__(docs, vocab, order)
        for n in range(order - 1, 0, -1):
            before = defaultdict(set)
            for gram in self.levels[n + 1]:
                before[gram[1:]].add(gram[0])
            self.levels[n] = {gram: len(found) for gram, found in before.items()}

    def prob(self, context: Gram, symbol: int) -> float:
        n = len(context) + 1
        lower = 1 / self.vocab if n == 1 else self.prob(context[1:], symbol)
        after = self.after(context)
        if not after:
            return lower
        d, total = self.discount(n), sum(after.values())
        return (max(after.get(symbol, 0) - d, 0) + d * len(after) * lower) / total


Make = Callable[[list[list[int]], int, int], NGramModel]
MODELS: dict[str, tuple[Make, Callable[..., Any]]] = {
    "add-k": (lambda docs, vocab, order: AddK(docs, vocab, order, k=0.3), PlainAddK),
    "back-off": (Backoff, PlainBackoff),
    "Kneser-Ney": (KneserNey, PlainKneserNey),
}
kinds = st.sampled_from(sorted(MODELS))


@settings(deadline=None, max_examples=75)
@given(kinds, documents, documents, st.integers(1, 4))
def test_equals_the_textbook_definition(
    kind: str, train: list[list[int]], held_out: list[list[int]], order: int
) -> None:
    fast, plain = (make(train, 5, order) for make in MODELS[kind])
    for document in held_out:
        padded = [5] * (order - 1) + document
        expected = [
            -math.log2(plain.prob(tuple(padded[i : i + order - 1]), symbol)) for i, symbol in enumerate(document)
        ]
        assert fast.bits(document) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    totals = fast.document_bits(held_out)
    assert totals == pytest.approx([fast.bits(document).sum() for document in held_out])


@settings(deadline=None, max_examples=75)
@given(kinds, documents, st.integers(1, 4), st.lists(symbols, max_size=6))
def test_is_a_proper_distribution_after_any_context(
    kind: str, train: list[list[int]], order: int, context: list[int]
) -> None:
    model = MODELS[kind][0](train, 5, order)
    probs = model.distribution(context)
    assert probs.sum() == pytest.approx(1, abs=1e-12)
    assert (probs > 0).all()
    # And it is the distribution that bits are measured with.
    measured = [model.bits([*context, symbol])[-1] for symbol in range(5)]
    assert -np.log2(probs) == pytest.approx(np.array(measured), abs=1e-9)


@pytest.mark.parametrize("kind", MODELS)
def test_a_large_vocabulary_still_sums_to_one(kind: str) -> None:
    source = random.Random(2)
    train = [[min(int(source.expovariate(0.002)), 49_999) for _ in range(3_000)] for _ in range(4)]
    model = MODELS[kind][0](train, 50_000, 3)
    for context in ([], train[0][:1], train[0][5:7], [49_999, 3]):
        assert model.distribution(context).sum() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("kind", MODELS)
def test_higher_orders_learn_what_lower_ones_cannot(kind: str) -> None:
    train = [[0, 1, 2, 0, 2, 1] * 200]
    bits = [MODELS[kind][0](train, 3, order).document_bits([[0, 1, 2, 0, 2, 1] * 20])[0] / 120 for order in (1, 2, 3)]
    assert bits[0] == pytest.approx(math.log2(3), abs=0.02)
    assert bits[2] < 0.1 < 0.9 < bits[1] < bits[0]


def test_without_k_only_what_was_seen_is_possible() -> None:
    model = AddK([[0, 1, 0, 1, 0, 2]], 4, 2, k=0)
    assert model.distribution([0]).tolist() == pytest.approx([0, 2 / 3, 1 / 3, 0])
    assert model.distribution([3]).tolist() == [0.25] * 4, "after what never occurred all are alike"
    assert model.bits([0, 3]).tolist() == [0.0, math.inf]


def test_unseen_n_grams_are_found() -> None:
    for kind in MODELS:
        model = MODELS[kind][0]([[0, 1, 2]], 4, 2)
        assert model.unseen([[0, 1, 1, 2], [], [1]]).tolist() == [False, False, True, False, True]
        assert model.unseen([[]]).tolist() == []


@pytest.mark.parametrize("kind", MODELS)
def test_samples_follow_the_distribution(kind: str) -> None:
    model = MODELS[kind][0]([[0, 1, 2], [0, 1, 3], [1, 3]], 4, 2)
    source = np.random.default_rng(0)
    drawn = [model.sample(source, 12, end=3) for _ in range(600)]
    assert all(3 not in document and len(document) <= 12 for document in drawn)
    after_zero = [b for document in drawn for a, b in itertools.pairwise(document) if a == 0]
    expected = model.distribution([0])
    shares = np.bincount(after_zero, minlength=4)[:3] / max(len(after_zero), 1)
    assert shares == pytest.approx(expected[:3] / expected[:3].sum(), abs=0.08)
    assert len(model.sample(source, 5)) == 5
    assert model.sample(np.random.default_rng(4), 9) == model.sample(np.random.default_rng(4), 9)


def test_n_gram_faults_name_the_values() -> None:
    with pytest.raises(UsageError, match="order 5 over 50000 symbols"):
        KneserNey([[1]], 50_000, 5)
    with pytest.raises(UsageError, match=r"order \(0\)"):
        Backoff([[1]], 5, 0)
    with pytest.raises(UsageError, match=r"k \(-1\)"):
        AddK([[1]], 5, 1, k=-1)
    with pytest.raises(DataError, match="no text"):
        AddK([[], []], 5, 3)
    with pytest.raises(DataError, match="symbol 7 is outside 0 to 4"):
        KneserNey([[1, 7]], 5, 2)
    with pytest.raises(DataError, match="symbol -1 is outside"):
        KneserNey([[1, 2]], 5, 2).bits([-1])


def test_a_context_of_symbols_that_do_not_exist_is_refused() -> None:
    model = AddK([np.array([0, 1, 2])], 3, 2)
    for symbol in (-1, 3, 7):
        with pytest.raises(DataError, match=f"symbol {symbol} is outside 0 to 2"):
            model.distribution([symbol])
