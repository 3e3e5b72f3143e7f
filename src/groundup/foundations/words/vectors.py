"""What can be asked of word vectors: neighbours, analogies, the odd one out, and the mean of a sentence.

All likeness is the cosine of the angle, since the length of a vector tells more of how frequent its word is than of what it means.
An analogy, "a is to b as c is to ?", takes the word nearest to b - a + c (Mikolov et al. 2013c), the three themselves left out.
Without that exception the answer would nearly always be b or c (Linzen 2016), so it must be said beside every accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import UsageError
from groundup.foundations.classic.naive_bayes import words_of
from groundup.foundations.words.vocabulary import Ids, Vocabulary

Floats = NDArray[np.float64]


class WordVectors:
    """Words and a vector for each.

    Args:
        vocabulary: V words.
        matrix: (V, D).

    Attributes:
        matrix: as given, in float64.
        units: the same vectors at length 1; a vector of zeros stays one, and is like nothing.
    """

    def __init__(self, vocabulary: Vocabulary, matrix: NDArray[Any]) -> None:
        if matrix.ndim != 2 or len(matrix) != len(vocabulary):
            raise UsageError(f"{len(vocabulary)} words need as many rows, not a matrix of shape {matrix.shape}")
        if not np.isfinite(matrix).all():
            raise UsageError("vectors with numbers that are not finite: the training has come off the rails")
        self.vocabulary = vocabulary
        self.matrix: Floats = matrix.astype(np.float64)
        self.units = _unit(self.matrix)

    def __getitem__(self, word: str) -> Floats:
        result: Floats = self.matrix[self.vocabulary.number(word)]
        return result

    def likeness(self, first: str, second: str) -> float:
        """The cosine of the angle between two words, -1 to 1."""
        return float(self.units[self.vocabulary.number(first)] @ self.units[self.vocabulary.number(second)])

    def nearest(self, vector: Floats, count: int = 10, *, without: Sequence[str] = ()) -> list[tuple[str, float]]:
        """The words whose vectors lie nearest by angle.

        Args:
            vector: (D,).
            count: at most so many.
            without: words that do not count.

        Returns:
            (word, cosine), nearest first; of equally near words the more frequent one.
        """
        scores = self.units @ _unit(vector)
        scores[self.vocabulary.numbers(without)] = -np.inf
        best = np.argsort(-scores, kind="stable")[:count]
        return [(self.vocabulary.words[place], float(scores[place])) for place in best if scores[place] > -np.inf]

    def neighbours(self, word: str, count: int = 10) -> list[tuple[str, float]]:
        """The words nearest to one."""
        return self.nearest(self[word], count, without=[word])

    def analogy(self, a: str, b: str, c: str, count: int = 5) -> list[tuple[str, float]]:
        """What is to c as b is to a: the words nearest to b - a + c, all three of length 1 and left out."""
        places = [self.vocabulary.number(word) for word in (a, b, c)]
        return self.nearest(self.units[places].T @ np.array([-1.0, 1.0, 1.0]), count, without=[a, b, c])

    def odd_one_out(self, words: Sequence[str]) -> str:
        """The word least like the mean of all, the first of equals.

        Raises:
            UsageError: for fewer than three words.
        """
        if len(words) < 3:
            raise UsageError(f"{len(words)} words have no odd one: give three or more")
        vectors = self.units[[self.vocabulary.number(word) for word in words]]
        return words[int((vectors @ vectors.mean(axis=0)).argmin())]

    def sentence(self, text: str) -> Floats:
        """The mean vector of its known words, (D,); zeros where it has none. It cannot know their order."""
        places = self.vocabulary.numbers(words_of(text))
        # Sorted, so that the same words in another order give the same bits.
        result: Floats = self.units[np.sort(places)].sum(axis=0) / max(len(places), 1)
        return result

    def sentence_likeness(self, first: str, second: str) -> float:
        """The cosine of the mean vectors of two texts; 0 where one has no known word."""
        return float(_unit(self.sentence(first)) @ _unit(self.sentence(second)))

    def answer_analogies(self, questions: Ids, *, excluding: bool = True, without_offset: bool = False) -> Ids:
        """The answers to many analogies at a time.

        Args:
            questions: (Q, 3 or more) numbers of the words a, b, c.
            excluding: leave out the three words.
            without_offset: take the word nearest to c alone: what the difference b - a must beat.

        Returns:
            (Q,) numbers of words.
        """
        a, b, c = (questions[:, place] for place in range(3))
        wanted = self.units[c] if without_offset else self.units[b] - self.units[a] + self.units[c]
        answers = np.zeros(len(questions), np.int64)
        for start in range(0, len(questions), 512):  # bounds the memory: 512 rows of V scores
            part = slice(start, start + 512)
            scores = wanted[part] @ self.units.T
            if excluding:
                for word in (a, b, c):
                    scores[np.arange(len(scores)), word[part]] = -np.inf
            answers[part] = scores.argmax(axis=1)
        return answers


def _unit(vectors: Floats) -> Floats:
    """At length 1; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    result: Floats = vectors / np.where(lengths > 0, lengths, 1)
    return result
