"""A decision tree: questions "is column c at most t?", each chosen to leave the purest groups.

Impurity is Gini's, 1 - sum of squared shares of the classes: the chance that two draws differ. A question is worth the impurity
that it takes away, weighted by the sizes of both groups. Source: Breiman et al. 1984 (CART).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import UsageError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Node:
    """A question or, without one, an answer.

    Attributes:
        counts: (classes,), examples of each class that come here.
        column, threshold: at most goes left; -1 for an answer.
        left, right: what is asked next.
    """

    counts: NDArray[np.int64]
    column: int = -1
    threshold: float = 0.0
    left: Node | None = None
    right: Node | None = None


class DecisionTree:
    """Classes by questions.

    Args:
        x: (rows, columns).
        labels: (rows,), whole numbers from 0.
        depth: most questions one after the other.
        least: examples that a group must have.
    """

    def __init__(self, x: Floats, labels: NDArray[np.integer], *, depth: int = 5, least: int = 1) -> None:
        if x.ndim != 2 or labels.shape != (len(x),) or not len(x):
            raise UsageError(f"rows of shape {x.shape} with labels of shape {labels.shape}: one for each")
        if depth < 0 or least < 1:
            raise UsageError(f"a depth of {depth} and groups of {least}: at least 0 and 1")
        self.num_classes = int(labels.max()) + 1
        self.root = self._grow(x, labels, depth, least)

    def predict(self, x: Floats) -> NDArray[np.int64]:
        """The most frequent class where each row ends, the smallest of equally frequent ones."""
        return np.array([self._find(row).counts.argmax() for row in x], np.int64)

    def describe(self, names: list[str], classes: list[str]) -> str:
        """The questions as indented text."""
        lines: list[str] = []

        def tell(node: Node, indent: str) -> None:
            if node.left is None or node.right is None:
                share = node.counts.max() / node.counts.sum()
                lines.append(f"{indent}{classes[int(node.counts.argmax())]} ({share:.0%} of {node.counts.sum()})")
                return
            lines.append(f"{indent}{names[node.column]} <= {node.threshold:.3g}?")
            tell(node.left, f"{indent}  ")
            lines.append(f"{indent}else")
            tell(node.right, f"{indent}  ")

        tell(self.root, "")
        return "\n".join(lines)

    def _find(self, row: Floats) -> Node:
        node = self.root
        while node.left is not None and node.right is not None:
            node = node.left if row[node.column] <= node.threshold else node.right
        return node

    def _grow(self, x: Floats, labels: NDArray[np.integer], depth: int, least: int) -> Node:
        counts = np.bincount(labels, minlength=self.num_classes)
        best = self._best_question(x, labels, least) if depth and counts.max() < len(labels) else None
        if best is None:
            return Node(counts)
        column, threshold = best
        left = x[:, column] <= threshold
        return Node(
            counts,
            column,
            threshold,
            self._grow(x[left], labels[left], depth - 1, least),
            self._grow(x[~left], labels[~left], depth - 1, least),
        )

    def _best_question(self, x: Floats, labels: NDArray[np.integer], least: int) -> tuple[int, float] | None:
        """Column and threshold, halfway between two neighbours, that leave the least impurity; None where none helps."""
        size = len(labels)
        best, least_impurity = None, size * gini(np.bincount(labels, minlength=self.num_classes)) - 1e-12
        for column in range(x.shape[1]):
            order = np.argsort(x[:, column], kind="stable")
            values = x[order, column]
            # Counts of each class among the first i rows.
            before = np.cumsum(np.eye(self.num_classes)[labels[order]], axis=0)[:-1]
            after = before[-1] + np.eye(self.num_classes)[labels[order[-1]]] - before if size > 1 else before
            sizes = np.arange(1, size)
            impurity = sizes * gini(before) + (size - sizes) * gini(after)
            allowed = (values[1:] > values[:-1]) & (sizes >= least) & (size - sizes >= least)
            if not allowed.any():
                continue
            place = int(np.where(allowed, impurity, np.inf).argmin())
            if impurity[place] < least_impurity:
                least_impurity = impurity[place]
                best = column, _between(float(values[place]), float(values[place + 1]))
        return best


def _between(low: float, high: float) -> float:
    """The middle of two numbers; the lower one where rounding would make it the higher, which must not go to the left."""
    middle = low / 2 + high / 2
    return middle if low <= middle < high else low


def gini(counts: NDArray[np.generic]) -> Floats:
    """1 - sum of squared shares along the last axis."""
    shares = counts / counts.sum(axis=-1, keepdims=True)
    result: Floats = 1 - (shares**2).sum(axis=-1)
    return result
