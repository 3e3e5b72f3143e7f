"""Training with the compiled kernels: the same merges as `bpe_fast.train_merges`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from groundup.tokenizer.base import replace_surrogates
from groundup.tokenizer.compiled import Text
from groundup.tokenizer.patterns import PATTERNS
from groundup.tokenizer.scan_rules import SCAN_RULES, ScanRules

if TYPE_CHECKING:
    from groundup.tokenizer.bpe_fast import Progress

log = logging.getLogger("groundup.tokenizer")

# Documents are handed over together up to so many characters, so that short ones do not pay a call each.
_BATCH_CHARACTERS = 1 << 20
_MERGES_AT_ONCE = 256


class WordCounts:
    """The distinct pieces of some texts and how often each occurs, in a hash table that grows."""

    def __init__(self) -> None:
        self._table = np.zeros((1 << 12, 4), dtype=np.uint64)
        self._long_words = np.zeros(1 << 12, dtype=np.uint8)
        self._state = np.zeros(3, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._state[1])

    def count(self, texts: Iterable[str], rules: ScanRules) -> None:
        """Split texts and count their pieces."""
        for batch in _batches(texts):
            text = Text(batch)
            for start, ends, _ in text.pieces(rules):
                self._add(text, start, ends, np.ones(len(ends), dtype=np.int64))

    def add(self, words: Mapping[bytes, int]) -> None:
        """Add words that were counted elsewhere."""
        text = Text([])
        text.read(b"".join(words))
        ends = np.cumsum([*map(len, words)], dtype=np.int64)
        self._add(text, 0, ends, np.array([*words.values()], dtype=np.int64))

    def _add(self, text: Text, start: int, ends: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> None:
        from groundup.tokenizer import count_numba

        self._state[0] = start
        done = 0
        while done < len(ends):
            done += count_numba.count_pieces(
                text.data, text.words, ends[done:], counts[done:], self._state, self._table, self._long_words
            )
            if done < len(ends):
                self._grow(int(ends[done]) - int(self._state[0]))

    def _grow(self, length: int) -> None:
        from groundup.tokenizer import count_numba

        if 2 * len(self) >= len(self._table):
            larger = np.zeros((4 * len(self._table), 4), dtype=np.uint64)
            count_numba.copy_counts(self._table, larger)
            self._table = larger
        if self._state[2] + length > len(self._long_words):
            self._long_words = np.resize(self._long_words, 2 * len(self._long_words) + length)

    def lay_out(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Return the cells of all words in one row and their weights (see `count_numba.lay_out`)."""
        from groundup.tokenizer import count_numba

        size = int(self._table[:, count_numba.LENGTH].sum()) + len(self) + 1
        cells, weights = np.empty(size, dtype=np.int32), np.zeros(size, dtype=np.int64)
        count_numba.lay_out(self._table, self._long_words, cells, weights)
        return cells, weights


def train_merges_compiled(
    words: Mapping[bytes, int] | WordCounts,
    num_merges: int,
    min_count: int = 2,
    *,
    on_progress: Progress | None = None,
) -> list[tuple[bytes, bytes]]:
    """Learn merges with the compiled kernels; see `train_merges_reference` for what is learned.

    Args:
        words: pre-tokens and their counts.
        num_merges: how many merges to learn at most.
        min_count: stop when no pair is as frequent as this.
        on_progress: called with (merges learned, merges asked for) now and then.

    Returns:
        The merges in the order in which they were learned.
    """
    from groundup.tokenizer import merges_numba

    if not isinstance(words, WordCounts):
        counts = WordCounts()
        counts.add({word: count for word, count in words.items() if word})
        words = counts
    cells, weights = words.lay_out()
    min_count = max(min_count, 1)
    pairs = _free_pairs(min(len(cells), 1 << 16))
    places = np.empty(3 * len(cells), dtype=np.int32)
    heap = np.empty((len(pairs), 2), dtype=np.int64)
    state = np.zeros(5, dtype=np.int64)
    token_ends, token_bytes = np.zeros(num_merges + 258, dtype=np.int64), np.zeros(1 << 12, dtype=np.uint8)
    merges = np.zeros((num_merges, 2), dtype=np.int64)
    merges_numba.first_pairs(cells, weights, pairs, places, heap, state, token_ends, token_bytes, min_count)
    around = np.zeros((6, num_merges + 257), dtype=np.int64)
    records = np.empty((2 * int(pairs[:, merges_numba.NUMBER].max(initial=0)), 3), dtype=np.int64)
    done = 0
    while done < num_merges:
        stop = min(num_merges, done + _MERGES_AT_ONCE)
        full = merges_numba.learn_merges(
            cells,
            weights,
            pairs,
            places,
            heap,
            state,
            token_ends,
            token_bytes,
            merges,
            around,
            records,
            min_count,
            stop,
        )
        done = int(state[merges_numba.MERGES])
        if full == merges_numba.PAIRS_FULL:
            larger = _free_pairs(2 * len(pairs))
            state[merges_numba.PAIRS] = merges_numba.copy_pairs(pairs, larger)
            pairs, heap = larger, np.concatenate([heap, np.empty_like(heap)])
        elif full == merges_numba.BYTES_FULL:
            token_bytes = np.concatenate([token_bytes, np.zeros(len(token_bytes) + len(cells), dtype=np.uint8)])
        elif done < stop:
            break
        elif on_progress is not None and done < num_merges:
            on_progress(done, num_merges)
    if on_progress is not None:
        on_progress(done, num_merges)
    raw = token_bytes.tobytes()
    content = [raw[token_ends[id] : token_ends[id + 1]] for id in range(256 + done)]
    return [(content[left], content[right]) for left, right in merges[:done].tolist()]


@lru_cache(maxsize=1)
def load() -> bool:
    """Load or compile the kernels of training; False, with one line in the log, where that fails."""
    try:
        counts = WordCounts()
        counts.count(["abab"], SCAN_RULES[PATTERNS["llama3"].portable])
        if train_merges_compiled(counts, 2) != [(b"a", b"b")]:
            raise ValueError("the compiled trainer learns wrong merges")
    except Exception as error:  # whatever a broken installation raises, the pure path still works
        log.warning("the trainer's kernels cannot be used (%s: %s): the slower path runs", type(error).__name__, error)
        return False
    return True


def _free_pairs(number: int) -> npt.NDArray[np.int64]:
    """A table for so many pairs, at least half of it free."""
    pairs = np.zeros((1 << max(4, (2 * number).bit_length()), 4), dtype=np.int64)
    pairs[:, 0] = -1
    return pairs


def _batches(texts: Iterable[str]) -> Iterable[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(replace_surrogates(text))
        characters += len(text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
