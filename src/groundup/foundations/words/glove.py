"""GloVe: vectors whose dot products are the logarithms of how often words stand together.

    J  =  sum over pairs with X_ij > 0:  f(X_ij) (u_i . v_j + a_i + b_j - log X_ij)^2,      f(x) = min(1, (x / m)^0.75)

X_ij counts the word j near the word i, a neighbour at distance r as 1 / r. The biases take up how frequent each word is by
itself; f keeps the few huge counts from ruling and the ones, which are noise, from mattering. A word's vector is u_i + v_i, since X
is symmetric and both stand for the same word.

Source: Pennington, Socher and Manning 2014, equations 8 and 9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import DataError, UsageError
from groundup.core.progress import Progress
from groundup.foundations.words.rows import AdaGradRows
from groundup.foundations.words.vocabulary import Ids, Stream, pairs_within

Array = NDArray[Any]


@dataclass(frozen=True)
class Counts:
    """How often words stand near each other: the entries above zero of a symmetric table.

    Attributes:
        rows, columns: (E,) numbers of words.
        values: (E,) float64.
        size: V.
    """

    rows: Ids
    columns: Ids
    values: NDArray[np.float64]
    size: int

    def dense(self) -> NDArray[np.float64]:
        """The whole table, (V, V)."""
        table = np.zeros((self.size, self.size))
        table[self.rows, self.columns] = self.values
        return table


def count_together(stream: Stream, size: int, window: int, *, by_distance: bool = True) -> Counts:
    """Count words near each other.

    Args:
        size: V.
        window: the farthest distance.
        by_distance: a pair at distance r counts 1 / r, as in GloVe, and 1 otherwise.

    Raises:
        DataError: when no two words stand side by side.
    """
    keys: Ids = np.zeros(0, np.int64)
    values: NDArray[np.float64] = np.zeros(0)
    for distance, earlier, later in pairs_within(stream, window):
        a, b = stream.words[earlier], stream.words[later]
        # Both orders: the table is symmetric, and a word beside itself counts twice.
        found, number = np.unique(np.concatenate([a * size + b, b * size + a]), return_counts=True)
        keys, inverse = np.unique(np.concatenate([keys, found]), return_inverse=True)
        share = 1 / distance if by_distance else 1.0
        values = np.bincount(inverse, np.concatenate([values, number * share])).astype(np.float64)
    if not len(keys):
        raise DataError(f"a text of {len(stream)} known words holds no two side by side: nothing to learn from")
    return Counts(keys // size, keys % size, values, size)


def weights_of(values: NDArray[np.float64], most: float, power: float = 0.75) -> NDArray[np.float64]:
    """f of the formula: how much each count matters, 1 from `most` on."""
    result: NDArray[np.float64] = np.minimum(1.0, values / most) ** power
    return result


def loss_and_gradients(
    u: Array, v: Array, a: Array, b: Array, logs: Array, weights: Array
) -> tuple[float, Array, Array, Array]:
    """The loss of a batch of pairs, summed, and its derivatives.

    Args:
        u, v: the vectors of both words, (B, D).
        a, b: their biases, (B,).
        logs: log X, (B,).
        weights: f(X), (B,).

    Returns:
        the loss, and the derivatives by u, by v, and by either bias (they are equal).
    """
    error = (u * v).sum(axis=1) + a + b - logs
    by_bias = 2 * weights * error
    return float((weights * error**2).sum()), by_bias[:, None] * v, by_bias[:, None] * u, by_bias


@dataclass(frozen=True)
class GloveSettings:
    """How GloVe learns.

    Attributes:
        size: D, numbers in a vector.
        most: m, the count from which on all weigh alike (100 in the paper, for texts of billions of words).
        epochs: passes through the entries.
        batch_size: entries in an update.
        rate: of AdaGrad.
    """

    size: int = 64
    most: float = 10.0
    epochs: int = 15
    batch_size: int = 4096
    rate: float = 0.05


@dataclass(frozen=True)
class Glove:
    """What was learned.

    Attributes:
        vectors: u + v, (V, D).
        losses: the mean loss of an entry in each batch.
    """

    vectors: Array
    losses: tuple[float, ...]


def train_glove(
    counts: Counts,
    settings: GloveSettings,
    random: np.random.Generator,
    *,
    max_steps: int | None = None,
    progress: Progress | None = None,
) -> Glove:
    """Factorise the logarithms of counts.

    Args:
        max_steps: ends after so many batches.
        progress: told the updates that are done, and about how many there will be.
    """
    numbers = (settings.size, settings.epochs, settings.batch_size)
    if min(numbers) < 1 or not settings.most > 0:
        raise UsageError(f"size, epochs and batch_size {numbers} must be 1 or more, most ({settings.most}) above 0")
    shape = (counts.size, settings.size)
    u, v = (
        AdaGradRows(((random.random(shape) - 0.5) / settings.size).astype(np.float32), settings.rate) for _ in range(2)
    )
    a, b = (AdaGradRows(np.zeros(counts.size, np.float32), settings.rate) for _ in range(2))
    logs = np.log(counts.values).astype(np.float32)
    weights = weights_of(counts.values, settings.most).astype(np.float32)
    losses: list[float] = []
    total = min(max_steps or 10**9, -(-len(logs) // settings.batch_size) * settings.epochs)
    for _ in range(settings.epochs):
        order = random.permutation(len(logs))
        for start in range(0, len(order), settings.batch_size):
            if max_steps is not None and len(losses) >= max_steps:
                return Glove(u.table + v.table, tuple(losses))
            batch = order[start : start + settings.batch_size]
            i, j = counts.rows[batch], counts.columns[batch]
            loss, by_u, by_v, by_bias = loss_and_gradients(
                u.table[i], v.table[j], a.table[i], b.table[j], logs[batch], weights[batch]
            )
            for table, ids, gradient in ((u, i, by_u), (v, j, by_v), (a, i, by_bias), (b, j, by_bias)):
                table.step(ids, gradient)
            losses.append(loss / len(batch))
            if progress is not None:
                progress(len(losses), max(total, len(losses)))
    return Glove(u.table + v.table, tuple(losses))
