"""Learning a Unigram vocabulary: many substrings at first, their probabilities by EM, and the least useful leave.

Kudo 2018 (arXiv:1804.10959), section 3.2; the loss of leaving a token out is taken as in SentencePiece (Kudo and
Richardson 2018, arXiv:1808.06226). Dempster, Laird and Rubin 1977 for EM: from one pass to the next the likelihood of
the text never falls while the tokens stay the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from groundup.core.progress import Progress
from groundup.tokenizer.unigram_lattice import Floats, Lattice, build_lattice

#: Longest token in characters, passes of EM between two prunings, and the share that stays (SentencePiece's defaults).
LONGEST_TOKEN = 16
PASSES = 2
KEPT_SHARE = 0.75
MOST_SEEDS = 1_000_000
# The last pruning goes from a little above the size to the size.
_NEARLY = 1.1
# A token that is expected less often than this plays no part in the text any more.
_FEWEST = 0.5
# A character may be expected never; its logarithm is needed all the same.
_TINY = 1e-8
_LONGEST_WORD = 256

Mask = npt.NDArray[np.bool_]


def learn_unigram(
    words: Mapping[str, int],
    num_tokens: int,
    reserved: Collection[str] = (),
    *,
    on_progress: Progress | None = None,
) -> dict[str, float]:
    """Learn the tokens of a Unigram model and their probabilities.

    All characters stay, as otherwise some words could not be cut.

    Args:
        words: pre-tokens and their counts.
        num_tokens: how many tokens there shall be, characters included.
        reserved: what is not to be learned, such as the names of special tokens.
        on_progress: called with (tokens pruned, tokens to prune) after each round.

    Returns:
        The log-probability of each token, the highest first; fewer tokens than asked for where the text has no more
        substrings that occur twice, more where it has more characters.
    """
    words = _cut_long(words)
    texts = sorted(words)
    weights = np.array([words[text] for text in texts], dtype=np.float64)
    seeds = {token: count for token, count in seed_tokens(words).items() if token not in reserved}
    trainer = _Trainer(texts, weights, list(seeds), np.array([*seeds.values()], dtype=np.float64))
    num_tokens = max(num_tokens, int(trainer.must_stay.sum()))
    to_prune = len(seeds) - num_tokens
    while trainer.num_alive > num_tokens:
        for _ in range(PASSES):
            trainer.fit(num_tokens)
        size = trainer.num_alive
        trainer.prune(num_tokens if size <= _NEARLY * num_tokens else max(int(KEPT_SHARE * size), num_tokens))
        if on_progress is not None:
            on_progress(len(seeds) - trainer.num_alive, to_prune)
    for _ in range(PASSES):
        trainer.fit(num_tokens)
    found = {trainer.tokens[id]: float(trainer.scores[id]) for id in np.flatnonzero(trainer.alive).tolist()}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _cut_long(words: Mapping[str, int]) -> dict[str, int]:
    """Text without blanks in parts: tokens are short, and the arrays take a step for each character of the longest."""
    cut: Counter[str] = Counter()
    for word, count in words.items():
        for start in range(0, len(word), _LONGEST_WORD):
            cut[word[start : start + _LONGEST_WORD]] += count
    return cut


def seed_tokens(words: Mapping[str, int], most: int = MOST_SEEDS) -> dict[str, int]:
    """Return all characters, and the substrings that occur twice or more, with their counts.

    A substring that the same character always follows is left out: the longer one says all that it says. Of too many
    those with the greatest count times length stay (SentencePiece finds the same ones with a suffix array).

    Args:
        words: pre-tokens and their counts.
        most: how many substrings there may be, besides the characters.
    """
    texts = [(word, count) for word, count in words.items()]
    counts: Counter[str] = Counter()
    for word, count in texts:
        for character in word:
            counts[character] += count
    characters = dict(sorted(counts.items()))
    # Where a substring of n characters begins that occurs twice: only there one of n + 1 can.
    places = [(word, count, [*range(len(word) - 1)]) for word, count in texts if len(word) > 1]
    found: dict[str, int] = {}
    shorter: dict[str, int] = {}
    for length in range(2, LONGEST_TOKEN + 1):
        counts = Counter()
        for word, count, starts in places:
            for start in starts:
                counts[word[start : start + length]] += count
        frequent = {text: count for text, count in counts.items() if count > 1}
        for text, count in frequent.items():
            if shorter.get(text[:-1]) == count:
                del shorter[text[:-1]]
        found |= shorter
        shorter = frequent
        places = [
            (word, count, kept)
            for word, count, starts in places
            if (
                kept := [
                    start for start in starts if start + length < len(word) and word[start : start + length] in frequent
                ]
            )
        ]
        if not places:
            break
    found |= shorter
    kept = sorted(found.items(), key=lambda item: (-item[1] * len(item[0]), item[0]))[:most]
    return {**characters, **dict(kept)}


def em_pass(lattice: Lattice, scores: Floats, weights: Floats) -> tuple[Floats, Floats, float]:
    """One pass of EM: how often each token is expected under the probabilities, then these as the probabilities.

    Args:
        lattice: all ways to cut the words.
        scores: log-probability of each token, shape (V,).
        weights: how often each word occurs.

    Returns:
        new scores, expected counts, and the log-likelihood of the words before the change.
    """
    counts, log_likelihood = lattice.expected_counts(scores, weights)
    counts = np.maximum(counts, _TINY)
    return np.log(counts) - np.log(counts.sum()), counts, log_likelihood


class _Trainer:
    """The tokens that are still there, their scores, and the lattices of the words and of the tokens themselves."""

    def __init__(self, texts: Sequence[str], weights: Floats, tokens: list[str], counts: Floats) -> None:
        self.tokens, self.weights = tokens, weights
        self.must_stay: Mask = np.array([len(token) == 1 for token in tokens])
        self.alive: Mask = np.ones(len(tokens), dtype=np.bool_)
        self.scores: Floats = np.log(counts / counts.sum())
        ids = {token: id for id, token in enumerate(tokens)}
        self.lattice = build_lattice(texts, ids)
        # How else each token could be cut, were it not there.
        self.others = build_lattice(tokens, ids, left_out=ids.keys())

    @property
    def num_alive(self) -> int:
        return int(self.alive.sum())

    def fit(self, num_tokens: int) -> None:
        """One pass of EM; tokens that are hardly expected any more leave, but never too many."""
        self.scores, counts, _ = em_pass(self.lattice, self.scores, self.weights)
        rare = np.flatnonzero(self.alive & ~self.must_stay & (counts < _FEWEST))
        rare = rare[np.argsort(counts[rare], kind="stable")]
        self._remove(rare[: max(0, self.num_alive - num_tokens)])

    def prune(self, size: int) -> None:
        """Keep the tokens without which the text would lose most likelihood."""
        loss = self.losses()
        ids = np.flatnonzero(self.alive)
        order = ids[np.lexsort((ids, -self.scores[ids], -loss[ids]))]
        self._remove(order[size:])

    def losses(self) -> Floats:
        """Return what leaving each token out would cost the log-likelihood of the best ways, shape (V,).

        With n_i the count of token i on the best ways of all words, n the sum of these, and a the k tokens that would
        take its place, leaving it out costs

            n_i (log n_i / n - sum over a of log (n_a + n_i) / (n + n_i (k - 1)))

        Characters must stay (inf); a token on no best way, or that is itself better cut, is worth nothing (-inf).
        """
        _, steps = self.lattice.best(self.scores)
        counts = np.zeros(len(self.tokens))
        for edges in steps:
            weights = self.weights[self.lattice.words_of(self.lattice.starts[edges])]
            counts += np.bincount(self.lattice.tokens[edges], weights, minlength=len(counts))
        total = counts.sum()
        instead, steps = self.others.best(self.scores)
        num_instead = np.zeros(len(self.tokens))
        logs = np.zeros(len(self.tokens))
        for edges in steps:
            token = self.others.words_of(self.others.starts[edges])
            num_instead[token] += 1
            logs[token] += np.log(np.maximum(counts[self.others.tokens[edges]] + counts[token], _TINY))
        with np.errstate(divide="ignore", invalid="ignore"):
            with_it = np.log(counts) - np.log(total)
            without = logs - num_instead * np.log(total + counts * (num_instead - 1))
            loss: Floats = counts * (with_it - without)
        loss[(counts == 0) | (instead > self.scores)] = -np.inf
        loss[self.must_stay] = np.inf
        return loss

    def _remove(self, ids: npt.NDArray[np.int64]) -> None:
        removed = np.zeros(len(self.tokens), dtype=np.bool_)
        removed[ids] = True
        self.alive &= ~removed
        self.lattice, self.others = self.lattice.without(removed), self.others.without(removed)
