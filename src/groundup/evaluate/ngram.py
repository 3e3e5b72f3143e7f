"""N-gram language models with back-off, for tokens or bytes: the baseline that a neural model has to beat."""

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
class _Level:
    """The counts of one order: how often each n-gram, and what follows each of its contexts.

    Attributes:
        keys: sorted numbers of the n-grams.
        counts: how often each occurred (for lower orders: after how many different symbols).
        context_keys: sorted numbers of the contexts.
        context_counts: the sum of the counts behind each context.
        context_types: how many different symbols followed each context.
        discount: taken from each count and given to the lower order.
    """

    keys: IntArray
    counts: FloatArray
    context_keys: IntArray
    context_counts: FloatArray
    context_types: FloatArray
    discount: float


class NGram:
    """Interpolated Kneser-Ney model of order `order`: a proper distribution after every context.

    Every order gives a part of its probability to the next lower one, which counts after how many *different*
    symbols a symbol occurred; below the unigram stands the uniform distribution, so nothing has probability 0:

        p(c | ab) = (n(abc) - d) / n(ab) + d t(ab) / n(ab) p(c | b)

    where t(ab) is the number of different symbols after ab, and n, in lower orders, counts different symbols before.
    A document's first symbols are predicted after a separator, which is never predicted itself.

    Args:
        documents: the training text, one array of ids per document.
        vocab_size: ids are 0 to vocab_size - 1.
        order: 1 (unigram) or more; `(vocab_size + 1) ** order` must fit into 63 bits.

    Source: Kneser and Ney 1995; Chen and Goodman 1999, section 2.8, equations 14 to 16. The discount of each order is
    n1 / (n1 + 2 n2), where n1 and n2 are the numbers of n-grams counted once and twice (Ney, Essen and Kneser 1994).
    """

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
        self._levels = self._count_levels(keys, counts.astype(np.float64))

    def bits(self, document: Any) -> FloatArray:
        """The bits of each symbol of a document, predicted from the symbols before it."""
        return -np.log2(self._probabilities(self._grams([document])))

    def document_bits(self, documents: Sequence[Any]) -> FloatArray:
        """The bits of each document."""
        lengths = np.array([len(document) for document in documents], dtype=np.int64)
        bits = -np.log2(self._probabilities(self._grams(documents)))
        owner = np.repeat(np.arange(len(documents)), lengths)
        return np.asarray(np.bincount(owner, weights=bits, minlength=len(documents)), dtype=np.float64)

    def distribution(self, context: Sequence[int]) -> FloatArray:
        """The probability of every symbol after `context` (only its last order - 1 symbols count)."""
        padded = [self.vocab_size] * (self.order - 1) + list(context)
        number = 0
        for symbol in padded[len(padded) - (self.order - 1) :]:
            number = number * self.base + symbol
        return self._probabilities(number * self.base + np.arange(self.vocab_size, dtype=np.int64))

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
        if ends.any() and not 0 <= (ids := stream[ends]).min() <= ids.max() < self.vocab_size:
            worst = ids.min() if ids.min() < 0 else ids.max()
            raise DataError(f"symbol {worst} is outside 0 to {self.vocab_size - 1}: is it of another tokenizer?")
        numbers = np.zeros(len(stream), dtype=np.int64)
        for age in range(self.order - 1, -1, -1):
            # The first symbols of the stream are padding, so what np.roll wraps around is never looked at.
            numbers = numbers * self.base + np.roll(stream, age)
        grams: IntArray = numbers[ends]
        return grams

    def _count_levels(self, keys: IntArray, counts: FloatArray) -> list[_Level]:
        levels = []
        for order in range(self.order, 0, -1):
            contexts, first, types = np.unique(keys // self.base, return_index=True, return_counts=True)
            once, twice = int((counts == 1).sum()), int((counts == 2).sum())
            discount = once / (once + 2 * twice) if once and twice else DEFAULT_DISCOUNT
            levels.append(
                _Level(keys, counts, contexts, np.add.reduceat(counts, first), types.astype(np.float64), discount)
            )
            # Without its oldest symbol: how many different symbols stood before each shorter n-gram.
            keys, different = np.unique(keys % self.base ** (order - 1), return_counts=True)
            counts = different.astype(np.float64)
        return levels[::-1]

    def _probabilities(self, grams: IntArray) -> FloatArray:
        probs = np.full(len(grams), 1 / self.vocab_size)
        for order, level in enumerate(self._levels, start=1):
            keys = grams % self.base**order
            counts = _look_up(level.keys, level.counts, keys)
            totals = _look_up(level.context_keys, level.context_counts, keys // self.base)
            types = _look_up(level.context_keys, level.context_types, keys // self.base)
            # A context that never occurred leaves the lower order as it is.
            known = totals > 0
            own = np.maximum(counts[known] - level.discount, 0)
            probs[known] = (own + level.discount * types[known] * probs[known]) / totals[known]
        return probs


def _look_up(keys: IntArray, values: FloatArray, wanted: IntArray) -> FloatArray:
    """The value of each wanted key, 0 where it is not there."""
    index = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[index] == wanted, values[index], 0.0)
