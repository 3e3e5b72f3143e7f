"""Gradients of a few rows of a large table, and AdaGrad's step for those rows.

A batch of word pairs touches a few hundred of many thousand vectors, and some of them often. `t[ids] += g` would keep only the
last of equal ids, and `np.add.at`, which adds all of them, is slow; sorting the ids brings equal ones together, and one call adds
up each run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import UsageError

Ids = NDArray[np.int64]
Array = NDArray[Any]


def sum_rows(ids: Ids, rows: Array) -> tuple[Ids, Array]:
    """Add up the rows that belong to equal ids.

    Args:
        ids: (N,), at least one.
        rows: (N, ...).

    Returns:
        the different ids, ascending (M,), and the sums (M, ...).
    """
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return ordered[starts], np.add.reduceat(rows[order], starts, axis=0)


class AdaGradRows:
    """A table whose rows learn each at their own rate: the rate over the root of the sum of all squared gradients so far.

    Frequent words get many gradients and soon small steps, rare ones keep large steps. Rows without a gradient cost nothing and
    are what they were, as in the dense algorithm.

    Args:
        table: (V, ...) numbers, changed in place.
        rate: of the first step.
        epsilon: keeps the quotient finite.

    Source: Duchi, Hazan and Singer 2011, figure 1.
    """

    def __init__(self, table: Array, rate: float, *, epsilon: float = 1e-10) -> None:
        if not rate > 0:
            raise UsageError(f"a rate of {rate}: above 0, such as 0.05")
        self.table, self.rate, self.epsilon = table, rate, epsilon
        self.squares = np.zeros_like(table)

    def step(self, ids: Ids, gradients: Array) -> None:
        """Move the rows against their gradients; an id may occur several times, its gradients add up.

        Args:
            ids: (N,).
            gradients: (N, ...), of rows of the table.
        """
        rows, sums = sum_rows(ids, gradients)
        squares = self.squares[rows] + sums * sums
        self.squares[rows] = squares
        self.table[rows] -= self.rate * sums / (np.sqrt(squares) + self.epsilon)
