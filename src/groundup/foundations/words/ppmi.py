"""Word vectors without training: the counts, made surprising, and their largest singular vectors.

    PMI_ij  =  log( X_ij N / (X_i. X_.j) ),      PPMI = max(PMI, 0),      vectors = U sqrt(S) of the first D singular values

Pointwise mutual information asks how much oftener two words meet than words of their frequency would by chance. Skip-gram with
k noise words has its minimum at PMI - log k where vectors are long enough to say it, so it is the same table factorised by other
means. The counts of contexts are raised to 0.75 as the noise is there: without that, rare contexts rule.

Sources: Levy and Goldberg 2014; Levy, Goldberg and Dagan 2015 (the power, and the root of S).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import UsageError
from groundup.foundations.classic.components import leading_singular
from groundup.foundations.words.glove import Counts

#: A table of so many words squared takes 400 MB in float32.
MOST_WORDS = 10_000


def positive_information(counts: Counts, *, power: float = 0.75, negatives: float = 1.0) -> NDArray[np.float64]:
    """PPMI of each entry that was counted; of all others it is 0.

    Args:
        power: of the counts of contexts.
        negatives: k, whose logarithm is taken off; 1 takes off nothing.

    Returns:
        (E,), beside `counts.values`.
    """
    if not negatives > 0:
        raise UsageError(f"negatives ({negatives}) must be above 0")
    words = np.bincount(counts.rows, counts.values, counts.size)
    contexts = np.bincount(counts.columns, counts.values, counts.size) ** power
    chance = words[counts.rows] * contexts[counts.columns] / contexts.sum()
    result: NDArray[np.float64] = np.maximum(np.log(counts.values / chance) - np.log(negatives), 0)
    return result


def factorise(
    counts: Counts, size: int, random: np.random.Generator, *, power: float = 0.75, negatives: float = 1.0
) -> NDArray[Any]:
    """Vectors from the PPMI of counts.

    Args:
        size: D.
        random: of the decomposition, whose result depends on it in the last digits.
        power, negatives: as in `positive_information`.

    Returns:
        (V, D).

    Raises:
        UsageError: for more words than a whole table is reasonable for.
    """
    if counts.size > MOST_WORDS:
        raise UsageError(
            f"a table of {counts.size:,} words squared is too large: keep the {MOST_WORDS:,} most frequent"
        )
    table = np.zeros((counts.size, counts.size), np.float32)
    table[counts.rows, counts.columns] = positive_information(counts, power=power, negatives=negatives)
    u, singular, _ = leading_singular(table, min(size, counts.size), random)
    return u * np.sqrt(singular)
