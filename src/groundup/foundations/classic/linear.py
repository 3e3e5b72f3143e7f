"""Least squares and logistic regression by gradient descent, and exactly: the two smallest models that learn.

Both compute x w + b. Least squares takes that as the answer and minimises the squared error; logistic regression puts it
through 1 / (1 + e^-z) and minimises the cross-entropy. Their gradients have the same form, the mean of (prediction - target) x,
and so has that of a language model's softmax.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import UsageError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Trace:
    """What gradient descent went through.

    Attributes:
        weights: (steps + 1, columns + 1), the bias last, the starting values first.
        losses: (steps + 1,).
    """

    weights: Floats
    losses: Floats


@dataclass(frozen=True)
class LinearModel:
    """x w + b.

    Attributes:
        weights: (columns,).
        bias: a number.
        trace: how it was found, None where it was computed at once.
    """

    weights: Floats
    bias: float
    trace: Trace | None = None

    def scores(self, x: Floats) -> Floats:
        """x w + b of each row: the answer of least squares, the log-odds of logistic regression."""
        result: Floats = x @ self.weights + self.bias
        return result


def solve_least_squares(x: Floats, y: Floats) -> LinearModel:
    """The weights of least mean squared error, of least length where several have it (by the pseudo-inverse).

    Args:
        x: (rows, columns).
        y: (rows,).
    """
    _check(x, y)
    solution = np.asarray(np.linalg.lstsq(_with_ones(x), y, rcond=None)[0], np.float64)
    return LinearModel(solution[:-1], float(solution[-1]))


def descend_least_squares(x: Floats, y: Floats, *, rate: float = 0.1, steps: int = 200) -> LinearModel:
    """Least squares by gradient descent from zeros.

    The rate must be below 2 over the largest eigenvalue of the mean of x x^T (times 2), or each step overshoots by more than
    the last; columns of one size, as `standardized` makes them, let one rate suit all.

    Raises:
        UsageError: when the error grew beyond all numbers.
    """
    _check(x, y)
    ones = _with_ones(x)

    def loss_and_gradient(weights: Floats) -> tuple[float, Floats]:
        error = ones @ weights - y
        return float(np.mean(error**2)), 2 * ones.T @ error / len(y)

    return _descend(loss_and_gradient, ones.shape[1], rate, steps)


def descend_logistic(
    x: Floats, y: NDArray[np.integer], *, rate: float = 0.5, steps: int = 500, penalty: float = 0.0
) -> LinearModel:
    """Logistic regression by gradient descent from zeros.

    Args:
        x: (rows, columns).
        y: (rows,) of 0 and 1.
        rate, steps: of the descent.
        penalty: times half the squared weights (not the bias) is added to the mean loss; without one the weights of data
            that a plane divides grow for ever.
    """
    _check(x, y)
    if not np.isin(y, (0, 1)).all():
        raise UsageError("logistic regression tells two classes apart: the targets are 0 and 1")
    ones = _with_ones(x)

    def loss_and_gradient(weights: Floats) -> tuple[float, Floats]:
        scores = ones @ weights
        inner = np.append(weights[:-1], 0.0)
        # log(1 + e^z) - y z, and the derivative of its mean.
        loss = float(np.mean(np.logaddexp(0, scores) - y * scores) + penalty / 2 * inner @ inner)
        return loss, ones.T @ (probability(scores) - y) / len(y) + penalty * inner

    return _descend(loss_and_gradient, ones.shape[1], rate, steps)


def probability(scores: Floats) -> Floats:
    """1 / (1 + e^-z): the probability of class 1 whose log-odds are z."""
    # To the last digits also where it is nearly 0: no power that could overflow, no difference of near equals.
    small = np.exp(-np.abs(scores))
    result: Floats = np.where(scores >= 0, 1, small) / (1 + small)
    return result


def standardized(x: Floats) -> Floats:
    """Columns of mean 0 and deviation 1; a constant column becomes zeros."""
    # Not by the deviation: the mean of ten times 0.1 is rounded, so that theirs is above 0.
    varies = np.ptp(x, axis=0) > 0
    result: Floats = np.where(varies, x - x.mean(axis=0), 0) / np.where(varies, x.std(axis=0), 1)
    return result


def _descend(
    loss_and_gradient: Callable[[Floats], tuple[float, Floats]], size: int, rate: float, steps: int
) -> LinearModel:
    weights = np.zeros(size)
    path, losses = [weights], []
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(steps):
            loss, gradient = loss_and_gradient(weights)
            losses.append(loss)
            weights = weights - rate * gradient
            path.append(weights)
        losses.append(loss_and_gradient(weights)[0])
    if not np.isfinite(losses[-1]):
        raise UsageError(f"with a rate of {rate} the steps overshoot and the loss grows: take a smaller one")
    return LinearModel(weights[:-1], float(weights[-1]), Trace(np.stack(path), np.array(losses)))


def _with_ones(x: Floats) -> Floats:
    return np.column_stack([x, np.ones(len(x))])


def _check(x: Floats, y: NDArray[np.generic]) -> None:
    if x.ndim != 2 or y.shape != (len(x),) or not len(x):
        raise UsageError(f"rows of numbers and one target each are needed, not shapes {x.shape} and {y.shape}")
