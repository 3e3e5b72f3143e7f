"""From texts to numbers of words: the vocabulary, and which of the frequent words are left out.

A word that was seen once or twice has no company to be known by, so words below a minimum count get no number. The few most
frequent words fill half of a text and say little about what stands beside them; each occurrence is kept with the probability

    sqrt(t / f) + t / f,  at most 1

where f is the word's share of the text and t a threshold near 1e-3. (The paper has 1 - sqrt(t / f) for leaving out; this is what
its program does.)

Sources: Mikolov et al. 2013b (arXiv:1310.4546), section 2.3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import DataError, UsageError, suggest
from groundup.foundations.classic.naive_bayes import words_of

Ids = NDArray[np.int64]
Floats = NDArray[np.floating]


class Vocabulary:
    """Words with a number each, the most frequent first, equally frequent ones by the alphabet.

    Args:
        words: no word twice.
        counts: how often each was seen, at least once.
    """

    def __init__(self, words: Sequence[str], counts: Sequence[int]) -> None:
        if len(words) != len(counts) or len(set(words)) != len(words) or not words or min(counts) < 1:
            raise UsageError(f"{len(words)} words and {len(counts)} counts: one for each, above 0, and no word twice")
        self.words = tuple(words)
        self.counts: Ids = np.array(counts, np.int64)
        self._number = {word: number for number, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self._number

    def number(self, word: str) -> int:
        """The place of a word.

        Raises:
            UsageError: for a word that has none, with the nearest one that has.
        """
        if word not in self._number:
            near = suggest(word, self.words) if len(word) > 2 else ""
            near = near if "did you mean" in near else ""
            raise UsageError(
                f"{word!r} is not among the {len(self):,} words, each seen at least {self.counts.min()} times{near}"
            )
        return self._number[word]

    def numbers(self, words: Iterable[str]) -> Ids:
        """The places of words; those without one are left out."""
        return np.array([self._number[word] for word in words if word in self._number], np.int64)


@dataclass(frozen=True)
class Stream:
    """The words of all texts one after the other.

    Attributes:
        words: (N,) their numbers.
        texts: (N,) the text that each stands in: no window reaches into another text.
    """

    words: Ids
    texts: Ids

    def __len__(self) -> int:
        return len(self.words)


def build_vocabulary(texts: Iterable[str], *, min_count: int = 5, max_size: int | None = None) -> Vocabulary:
    """The words of texts.

    Args:
        min_count: a word that was seen less often gets no number.
        max_size: at most so many words, the most frequent ones.

    Raises:
        DataError: when fewer than two words are frequent enough.
    """
    counts = Counter[str]()
    for text in texts:
        counts.update(words_of(text))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kept = [(word, count) for word, count in ranked if count >= min_count][:max_size]
    if len(kept) < 2:
        raise DataError(
            f"{len(kept)} of {len(counts)} words occur at least {min_count} times: word vectors need a longer text or a "
            "smaller minimum count"
        )
    return Vocabulary([word for word, _ in kept], [count for _, count in kept])


def read_stream(texts: Iterable[str], vocabulary: Vocabulary) -> Stream:
    """The texts as numbers; words that have none are left out, and their neighbours move together."""
    parts = [vocabulary.numbers(words_of(text)) for text in texts]
    words = np.concatenate([*parts, np.zeros(0, np.int64)])
    return Stream(words, np.repeat(np.arange(len(parts)), [len(part) for part in parts]))


def keep_probabilities(vocabulary: Vocabulary, threshold: float) -> NDArray[np.float64]:
    """With which probability an occurrence of each word is kept: the formula above.

    Args:
        threshold: t, above 0; infinity keeps all.

    Returns:
        (V,).
    """
    if not threshold > 0:
        raise UsageError(
            f"a subsampling threshold of {threshold}: above 0, such as 1e-3, or infinity to keep all words"
        )
    ratio = threshold / (vocabulary.counts / vocabulary.counts.sum())
    result: NDArray[np.float64] = np.minimum(1.0, np.sqrt(ratio) + ratio)
    return result


def subsample(stream: Stream, keep: NDArray[np.float64], random: np.random.Generator) -> Stream:
    """The stream with each word kept by its probability, drawn anew in every pass through the text."""
    kept = random.random(len(stream)) < keep[stream.words]
    return Stream(stream.words[kept], stream.texts[kept])


def pairs_within(stream: Stream, window: int) -> Iterator[tuple[int, Ids, Ids]]:
    """All pairs of a word and one that follows it in the same text, by their distance.

    Args:
        window: the largest distance, 1 for neighbours.

    Yields:
        distance, the places of the earlier words, the places of the later ones.
    """
    if window < 1:
        raise UsageError(f"a window of {window}: 1 or more words to each side")
    for distance in range(1, min(window, len(stream) - 1) + 1):
        earlier = np.flatnonzero(stream.texts[distance:] == stream.texts[:-distance])
        yield distance, earlier, earlier + distance
