"""A list of names or words as what a model of characters trains on: ids, a split, and contexts with what follows them.

One symbol, the boundary, stands before and after every word. It is the context of the first character, and predicting it is
predicting that the word ends, so that a model can both begin and finish a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import DataError, UsageError

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]

#: The id of the boundary.
BOUNDARY = 0
#: Fewer words give no part for validation and for the test.
LEAST_WORDS = 10


class NameData:
    """Words, split 80 / 10 / 10 after a shuffle.

    Args:
        words: at least ten; empty ones and the spaces around others are left out. What occurs several times stays so, as in
            the published list of names, whose figures are measured with a few of the held-out names also in training.
        seed: of the shuffle.

    Attributes:
        vocabulary: the characters by their ids; that of id 0, the boundary, is the empty string.
        train, validation, test: the words of each part.

    Raises:
        DataError: for fewer words than ten.
    """

    def __init__(self, words: Iterable[str], seed: int = 0) -> None:
        kept = [word.strip() for word in words if word.strip()]
        if len(kept) < LEAST_WORDS:
            raise DataError(f"{len(kept)} words are too few to split into three parts: give {LEAST_WORDS} or more")
        self.vocabulary: list[str] = ["", *sorted(set("".join(kept)))]
        self._ids = {character: id for id, character in enumerate(self.vocabulary)}
        order = np.random.default_rng(seed).permutation(len(kept))
        shuffled = [kept[place] for place in order]
        first, second = len(kept) * 8 // 10, len(kept) * 9 // 10
        self.train, self.validation, self.test = shuffled[:first], shuffled[first:second], shuffled[second:]

    @property
    def vocab_size(self) -> int:
        """Number of characters, with the boundary."""
        return len(self.vocabulary)

    def encode(self, word: str) -> list[int]:
        """The ids of a word between two boundaries.

        Raises:
            DataError: for a character that no word had.
        """
        try:
            return [BOUNDARY, *(self._ids[character] for character in word), BOUNDARY]
        except KeyError as error:
            raise DataError(
                f"{word!r} has {error.args[0]!r}, which is in none of the words that the vocabulary was made from"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """The characters of ids; boundaries leave no trace."""
        return "".join(self.vocabulary[id] for id in ids)

    def contexts(self, words: Sequence[str], block_size: int) -> tuple[Ids, Ids]:
        """Every character of the words, and every end, with the characters before it.

        Args:
            words: of characters of the vocabulary.
            block_size: length of a context; before a word's first character it is filled up with boundaries.

        Returns:
            the contexts (N, block_size), the oldest character first, and what followed each (N,).
        """
        if block_size < 1:
            raise UsageError(f"a context of {block_size} characters: at least 1")
        coded = [self.encode(word)[1:] for word in words]
        lengths = np.array([len(ids) for ids in coded], np.int64)
        # Each word behind a whole context of boundaries, so that no window reaches into the word before.
        stream = np.full(int(lengths.sum()) + block_size * (len(words) + 1) + 1, BOUNDARY, np.int64)
        starts = block_size + np.cumsum(lengths + block_size) - (lengths + block_size)
        within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        ends = np.repeat(starts, lengths) + within
        stream[ends] = [id for ids in coded for id in ids]
        windows = np.lib.stride_tricks.sliding_window_view(stream, block_size + 1)[ends - block_size]
        return windows[:, :-1].copy(), windows[:, -1].copy()
