"""k nearest neighbours: the answer of the most similar examples. Nothing is learned; retrieval still works this way.

Source: Cover and Hart 1967.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import UsageError

Floats = NDArray[np.float64]


def squared_distances(x: Floats, y: Floats) -> Floats:
    """|a - b|^2 of each row of x to each row of y: (rows of x, rows of y).

    As |a|^2 - 2 a b + |b|^2, one matrix product; rounding may leave a number just below 0, which is cut off. The middle of y is
    taken off both first, which moves no distance: far from 0 the squares would be large, and the distance lost in their rounding.
    """
    middle = y.mean(axis=0) if len(y) else 0.0
    x, y = x - middle, y - middle
    squares = (x**2).sum(axis=1)[:, None] - 2 * x @ y.T + (y**2).sum(axis=1)
    result: Floats = np.maximum(squares, 0)
    return result


class Neighbours:
    """Answers by the examples nearest to a question.

    Args:
        points: (examples, columns).
        labels: (examples,), whole numbers from 0.
        count: neighbours that are asked.
    """

    def __init__(self, points: Floats, labels: NDArray[np.integer], *, count: int = 5) -> None:
        if points.ndim != 2 or labels.shape != (len(points),):
            raise UsageError(f"points of shape {points.shape} with labels of shape {labels.shape}: one for each")
        if not 1 <= count <= len(points):
            raise UsageError(f"{count} neighbours of {len(points)} examples: 1 to all of them")
        self.points, self.labels, self.count = points, labels, count

    def nearest(self, questions: Floats) -> NDArray[np.int64]:
        """Places of the nearest examples, nearest first: (questions, count). Of equally near ones the earlier counts."""
        return np.argsort(squared_distances(questions, self.points), axis=1, kind="stable")[:, : self.count]

    def predict(self, questions: Floats) -> NDArray[np.int64]:
        """The most frequent label among the neighbours, the smallest of equally frequent ones."""
        votes = self.labels[self.nearest(questions)]
        return np.array([np.bincount(row).argmax() for row in votes], np.int64)
