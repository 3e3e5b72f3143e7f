"""What different numbers for words know of meaning: the codes of their letters, their ids, their vectors.

Each gives a distance between two words. If it knew of meaning, words that belong together would lie nearer than words that do not;
`share_nearer` counts how often that is so. A half is what a coin would get.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from groundup.foundations.words.vocabulary import Vocabulary

Floats = NDArray[np.float64]


def edit_distance(first: str, second: str) -> int:
    """Letters that must be put in, taken out or exchanged to make one word of the other (Levenshtein 1966)."""
    row = list(range(len(second) + 1))
    for index, letter in enumerate(first, start=1):
        before, row[0] = row[0], index
        for place, other in enumerate(second, start=1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (letter != other))
    return row[-1]


def code_distance(first: str, second: str) -> float:
    """How far the codes of the letters lie apart: the mean difference place by place, a missing letter as code 0."""
    size = max(len(first), len(second), 1)
    codes = np.zeros((2, size))
    for row, word in enumerate((first, second)):
        codes[row, : len(word)] = [ord(letter) for letter in word]
    return float(np.abs(codes[0] - codes[1]).mean())


def id_distance(vocabulary: Vocabulary, first: str, second: str) -> int:
    """How far the numbers of two words lie apart: like how frequent they are, and nothing else."""
    return abs(vocabulary.number(first) - vocabulary.number(second))


def share_nearer(related: Floats, others: Floats) -> Floats:
    """For each distance between related words the share of the others that are larger, equal ones counted half.

    Its mean is the area under the ROC curve: the probability that a related pair lies nearer than another one.

    Args:
        related: (R,).
        others: (O,).

    Returns:
        (R,), 0 to 1.
    """
    larger = (others > related[:, None]).mean(axis=1)
    equal = (others == related[:, None]).mean(axis=1)
    result: Floats = larger + equal / 2
    return result
