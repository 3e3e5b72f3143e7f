"""N-gram language models over ids of any kind: add-k, back-off and interpolated Kneser-Ney on one way of counting.

An n-gram model reads only the last n - 1 symbols and predicts by how often each symbol followed them. Most n-grams of any text that
was not counted never occurred in the one that was; the three models differ in what they leave to those:

    add-k        every count is k larger: p(c | ab) = (n(abc) + k) / (n(ab) + k V)
    back-off     a seen count is d smaller, and what that frees goes to the unseen symbols, shared as a shorter context says:
                 p(c | ab) = (n(abc) - d) / n(ab)  if abc was seen, else  r(ab) p(c | b)
    Kneser-Ney   the shorter context takes part for seen symbols too, and counts after how many different symbols each occurred:
                 p(c | ab) = (n(abc) - d) / n(ab) + d t(ab) / n(ab) p(c | b)

with V symbols, n the counts, t(ab) the number of different symbols after ab. Each is a proper distribution after every context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import DataError, UsageError

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

# Used where the counts of counts give no estimate (a tiny or uniform text); Church and Gale 1991 found about 0.75.
DEFAULT_DISCOUNT = 0.75


@dataclass(frozen=True)
class Level:
    """The counts of one order: how often each n-gram, and what follows each of its contexts.

    Attributes:
        keys: sorted numbers of the n-grams.
        counts: how often each occurred (for the lower orders of Kneser-Ney: after how many different symbols).
        context_keys: sorted numbers of the contexts.
        context_counts: the sum of the counts behind each context.
        context_types: how many different symbols followed each context.
        first: where the n-grams of each context begin in `keys`.
        discount: what absolute discounting takes from each count.
    """

    keys: IntArray
    counts: FloatArray
    context_keys: IntArray
    context_counts: FloatArray
    context_types: FloatArray
    first: IntArray
    discount: float


class NGramModel:
    """What the models share: the counts of each order, and what is asked of a model.

    A document's first symbols are predicted after a separator, which is never predicted itself.

    Args:
        documents: the training text, one array of ids per document.
        vocab_size: ids are 0 to vocab_size - 1.
        order: 1 (unigram) or more; `(vocab_size + 1) ** order` must fit into 63 bits.

    Attributes:
        levels: the counts of orders 1 to `order`.
        num_symbols: of the training text.
    """

    #: Whether lower orders count different symbols before an n-gram instead of its occurrences.
    counts_different = False

    def __init__(self, documents: Sequence[Any], vocab_size: int, order: int = 3) -> None:
        if order < 1 or vocab_size < 1:
            raise UsageError(f"order ({order}) and vocab_size ({vocab_size}) must be at least 1")
        if (vocab_size + 1) ** order >= 2**63:
            raise UsageError(
                f"order {order} over {vocab_size} symbols does not fit into 63 bits: use a lower order or vocabulary"
            )
        self.vocab_size, self.order, self.base = vocab_size, order, vocab_size + 1
        keys, counts = np.unique(self._grams(documents), return_counts=True)
        self.num_symbols = int(counts.sum())
        if self.num_symbols == 0:
            raise DataError("there is no text to count n-grams in")
        self.levels = self._count_levels(keys, counts.astype(np.float64))

    def bits(self, document: Any) -> FloatArray:
        """The bits of each symbol of a document, predicted from the symbols before it; infinite for a probability of 0."""
        return self._bits(self._grams([document]))

    def document_bits(self, documents: Sequence[Any]) -> FloatArray:
        """The bits of each document."""
        lengths = np.array([len(document) for document in documents], dtype=np.int64)
        owner = np.repeat(np.arange(len(documents)), lengths)
        bits = self._bits(self._grams(documents))
        return np.asarray(np.bincount(owner, weights=bits, minlength=len(documents)), dtype=np.float64)

    def unseen(self, documents: Sequence[Any]) -> NDArray[np.bool_]:
        """For each symbol of the documents: whether the n-gram that ends at it is not in the training text."""
        counts = _look_up(self.levels[-1].keys, self.levels[-1].counts, self._grams(documents))
        return np.asarray(counts == 0, np.bool_)

    def distribution(self, context: Sequence[int]) -> FloatArray:
        """The probability of every symbol after `context` (only its last order - 1 symbols count)."""
        for symbol in context:
            self._check(int(symbol))
        padded = [self.vocab_size] * (self.order - 1) + [int(symbol) for symbol in context]
        number = 0
        for symbol in padded[len(padded) - (self.order - 1) :]:
            number = number * self.base + symbol
        return self._probabilities(number * self.base + np.arange(self.vocab_size, dtype=np.int64), self.order)

    def sample(self, random: np.random.Generator, max_length: int, *, end: int | None = None) -> list[int]:
        """A new document: each symbol drawn with its probability after those before it.

        Args:
            random: draws.
            max_length: the number of symbols, unless an end comes before.
            end: the symbol that ends a document, which is left out.
        """
        document: list[int] = []
        while len(document) < max_length:
            probs = self.distribution(document)
            symbol = int(random.choice(self.vocab_size, p=probs / probs.sum()))
            if symbol == end:
                break
            document.append(symbol)
        return document

    def _probabilities(self, grams: IntArray, order: int) -> FloatArray:
        """The probability of the last symbol of each n-gram after the `order` - 1 symbols before it."""
        raise NotImplementedError

    def _bits(self, grams: IntArray) -> FloatArray:
        with np.errstate(divide="ignore"):
            bits: FloatArray = -np.log2(self._probabilities(grams, self.order))
        return bits

    def _check(self, symbol: int) -> None:
        if not 0 <= symbol < self.vocab_size:
            raise DataError(f"symbol {symbol} is outside 0 to {self.vocab_size - 1}: is it of another tokenizer?")

    def _grams(self, documents: Sequence[Any]) -> IntArray:
        """The number of the n-gram that ends at each symbol: its symbols as digits, the oldest first."""
        pad = np.full(self.order - 1, self.vocab_size, dtype=np.int64)
        parts, predicted = [], []
        for document in documents:
            ids = np.asarray(document, dtype=np.int64)
            parts += [pad, ids]
            predicted += [np.zeros(len(pad), dtype=bool), np.ones(len(ids), dtype=bool)]
        if not parts:
            return np.empty(0, dtype=np.int64)
        stream, ends = np.concatenate(parts), np.concatenate(predicted)
        if ends.any():
            self._check(int(stream[ends].min()))
            self._check(int(stream[ends].max()))
        numbers = np.zeros(len(stream), dtype=np.int64)
        for age in range(self.order - 1, -1, -1):
            # The first symbols of the stream are padding, so what np.roll wraps around is never looked at.
            numbers = numbers * self.base + np.roll(stream, age)
        grams: IntArray = numbers[ends]
        return grams

    def _count_levels(self, keys: IntArray, counts: FloatArray) -> list[Level]:
        levels = []
        for order in range(self.order, 0, -1):
            contexts, first, types = np.unique(keys // self.base, return_index=True, return_counts=True)
            totals = np.add.reduceat(counts, first)
            levels.append(Level(keys, counts, contexts, totals, types.astype(np.float64), first, discount_of(counts)))
            # Without its oldest symbol: an n-gram's occurrences, or the different symbols that stood before it.
            keys, shorter = np.unique(keys % self.base ** (order - 1), return_inverse=True)
            weights = None if self.counts_different else counts
            counts = np.bincount(shorter.reshape(-1), weights=weights, minlength=len(keys)).astype(np.float64)
        return levels[::-1]

    def _known(self, grams: IntArray, order: int) -> tuple[IntArray, FloatArray, NDArray[np.bool_]]:
        """For n-grams at one order: the places of their contexts, their counts, and which contexts occurred."""
        level = self.levels[order - 1]
        keys = grams % self.base**order
        contexts = keys // self.base
        places = np.minimum(np.searchsorted(level.context_keys, contexts), len(level.context_keys) - 1)
        return places, _look_up(level.keys, level.counts, keys), level.context_keys[places] == contexts


class AddK(NGramModel):
    """Every n-gram counts as if it had been seen k times more (Lidstone 1920; k = 1 is Laplace's rule).

    Args:
        k: at least 0; with 0, unseen n-grams are impossible. After a context that never occurred all symbols are alike.
    """

    def __init__(self, documents: Sequence[Any], vocab_size: int, order: int = 3, *, k: float = 1.0) -> None:
        if not 0 <= k < np.inf:
            raise UsageError(f"k ({k}) is added to every count: 0 or more")
        super().__init__(documents, vocab_size, order)
        self.k = k

    def _probabilities(self, grams: IntArray, order: int) -> FloatArray:
        places, counts, known = self._known(grams, order)
        totals = np.where(known, self.levels[order - 1].context_counts[places], 0.0) + self.k * self.vocab_size
        sure = totals > 0
        probs = np.full(len(grams), 1 / self.vocab_size)
        probs[sure] = (counts[sure] + self.k) / totals[sure]
        return probs


class Backoff(NGramModel):
    """A seen n-gram by its discounted count; an unseen one by the next shorter context, with what the discounts freed.

    The freed part d t(ab) / n(ab) is shared among the symbols that did not follow ab in the proportions of p(c | b), so that

        r(ab) = d t(ab) / n(ab) / (1 - sum over the c seen after ab of p(c | b))

    Where every symbol was seen after a context, nothing is discounted. Below the unigram stands the uniform distribution.

    Source: Katz 1987, with the absolute discount of Ney, Essen and Kneser 1994 in place of Good and Turing's, which small
    texts leave undefined.
    """

    def __init__(self, documents: Sequence[Any], vocab_size: int, order: int = 3) -> None:
        super().__init__(documents, vocab_size, order)
        self._discounts: list[FloatArray] = []
        self._ratios: list[FloatArray] = []
        for level in self.levels:
            is_full = level.context_types == vocab_size
            discounts = np.where(is_full, 0.0, level.discount)
            # The probability that the shorter context, whose ratios are known by now, leaves to unseen symbols.
            shorter = self._probabilities(level.keys, len(self._ratios))
            unseen = 1 - np.add.reduceat(shorter, level.first)
            freed = discounts * level.context_types / level.context_counts
            self._discounts.append(discounts)
            self._ratios.append(freed / np.where(is_full, 1.0, unseen))

    def _probabilities(self, grams: IntArray, order: int) -> FloatArray:
        probs = np.full(len(grams), 1 / self.vocab_size)
        for at in range(1, order + 1):
            places, counts, known = self._known(grams, at)
            discounts, totals = self._discounts[at - 1][places], self.levels[at - 1].context_counts[places]
            seen = known & (counts > 0)
            probs = np.where(known, probs * self._ratios[at - 1][places], probs)
            probs[seen] = (counts[seen] - discounts[seen]) / totals[seen]
        return probs


class KneserNey(NGramModel):
    """Interpolated Kneser-Ney.

    Every order gives a part of its probability to the next lower one, which counts after how many *different* symbols a symbol
    occurred: "Francisco" is frequent, but only after "San", so it is improbable after anything else. Below the unigram stands the
    uniform distribution, so that nothing has probability 0.

    Source: Kneser and Ney 1995; Chen and Goodman 1999, section 2.8, equations 14 to 16.
    """

    counts_different = True

    def _probabilities(self, grams: IntArray, order: int) -> FloatArray:
        probs = np.full(len(grams), 1 / self.vocab_size)
        for at, level in enumerate(self.levels[:order], start=1):
            places, counts, known = self._known(grams, at)
            totals, types = level.context_counts[places][known], level.context_types[places][known]
            # A context that never occurred leaves the lower order as it is.
            own = np.maximum(counts[known] - level.discount, 0)
            probs[known] = (own + level.discount * types * probs[known]) / totals
        return probs


def discount_of(counts: FloatArray) -> float:
    """n1 / (n1 + 2 n2), where n1 and n2 are the numbers of n-grams counted once and twice (Ney, Essen and Kneser 1994)."""
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return once / (once + 2 * twice) if once and twice else DEFAULT_DISCOUNT


def _look_up(keys: IntArray, values: FloatArray, wanted: IntArray) -> FloatArray:
    """The value of each wanted key, 0 where it is not there."""
    index = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[index] == wanted, values[index], 0.0)
