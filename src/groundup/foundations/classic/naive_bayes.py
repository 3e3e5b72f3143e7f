"""Naive Bayes: the class whose words these are, as if each word were drawn by itself.

    log p(class | text)  =  log p(class) + sum over words: log p(word | class)  +  a constant

p(word | class) is its share of the words of that class, with `smoothing` added to every count so that a word that was never
seen rules nothing out. A unigram language model for each class, and Bayes' rule between them.

Source: McCallum and Nigam 1998, the multinomial model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from groundup.core.errors import UsageError


def words_of(text: str) -> list[str]:
    """Its words, in lower case."""
    return re.findall(r"\w+", text.lower())


class NaiveBayes:
    """Tells classes of texts apart.

    Args:
        texts, labels: what to learn from.
        smoothing: added to each count, above 0.

    Attributes:
        classes: the labels, sorted.
        words: those that were seen, sorted.
        log_priors: (classes,).
        log_likelihoods: (classes, words).
    """

    def __init__(self, texts: Sequence[str], labels: Sequence[str], *, smoothing: float = 1.0) -> None:
        if len(texts) != len(labels) or not texts:
            raise UsageError(f"{len(texts)} texts and {len(labels)} labels: one for each, and at least one")
        if not smoothing > 0:
            raise UsageError(f"a smoothing of {smoothing}: above 0, or an unseen word makes a class impossible")
        self.classes = sorted(set(labels))
        counts = {label: Counter[str]() for label in self.classes}
        for text, label in zip(texts, labels, strict=True):
            counts[label].update(words_of(text))
        self.words = sorted(set().union(*counts.values()))
        self._place = {word: index for index, word in enumerate(self.words)}
        table = np.array([[counts[label][word] for word in self.words] for label in self.classes], np.float64)
        table = table.reshape(len(self.classes), len(self.words)) + smoothing
        self.log_likelihoods = np.log(table / table.sum(axis=1, keepdims=True))
        number = Counter(labels)
        self.log_priors = np.log([number[label] / len(labels) for label in self.classes])

    def log_probabilities(self, text: str) -> dict[str, float]:
        """log p(class | text) of each class; words that were never seen say nothing."""
        places = [self._place[word] for word in words_of(text) if word in self._place]
        joint = self.log_priors + self.log_likelihoods[:, places].sum(axis=1)
        normalizer = np.logaddexp.reduce(joint)
        return {label: float(score - normalizer) for label, score in zip(self.classes, joint, strict=True)}

    def predict(self, text: str) -> str:
        """The likeliest class."""
        scores = self.log_probabilities(text)
        return max(scores, key=scores.__getitem__)

    def telling_words(self, label: str, count: int = 10) -> list[tuple[str, float]]:
        """The words that speak most for a class, with the log of how much likelier they are there than in the others."""
        own = self.classes.index(label)
        others = [row for row in range(len(self.classes)) if row != own]
        if not others:
            return []
        elsewhere = np.logaddexp.reduce(self.log_likelihoods[others] + self.log_priors[others, None], axis=0)
        odds = self.log_likelihoods[own] - elsewhere + np.logaddexp.reduce(self.log_priors[others])
        best = np.argsort(-odds, kind="stable")[:count]
        return [(self.words[place], float(odds[place])) for place in best]
