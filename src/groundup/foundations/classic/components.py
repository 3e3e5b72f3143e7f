"""Principal components by the singular value decomposition: the directions in which data varies most.

X = U S V^T with X centred: the rows of V^T are the directions, S^2 / (n - 1) the variances along them. Keeping the first few is
the best approximation of that rank (Eckart and Young 1936); low-rank adapters and the projections of embeddings rest on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import UsageError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Components:
    """Directions of data.

    Attributes:
        mean: (columns,).
        directions: (count, columns), of length 1 and at right angles; the largest number of each is positive.
        variances: (count,), largest first.
        shares: of the whole variance.
    """

    mean: Floats
    directions: Floats
    variances: Floats
    shares: Floats

    def project(self, x: Floats) -> Floats:
        """Coordinates along the directions: (rows, count)."""
        result: Floats = (x - self.mean) @ self.directions.T
        return result

    def rebuild(self, coordinates: Floats) -> Floats:
        """The nearest points that the coordinates can say: (rows, columns)."""
        result: Floats = coordinates @ self.directions + self.mean
        return result


def principal_components(x: Floats, count: int) -> Components:
    """The first directions of the rows of x.

    Raises:
        UsageError: for fewer than two rows, or more directions than rows or columns.
    """
    if x.ndim != 2 or len(x) < 2 or not 1 <= count <= min(x.shape):
        raise UsageError(f"{count} components of data of shape {x.shape}: two rows or more, and 1 to {min(x.shape)}")
    mean = x.mean(axis=0)
    _, singular, directions = np.linalg.svd(x - mean, full_matrices=False)
    variances = singular**2 / (len(x) - 1)
    total = variances.sum()
    # A direction and its opposite are the same: one is chosen, so that two machines draw the same picture.
    signs = np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(axis=1)])
    directions = directions * np.where(signs == 0, 1, signs)[:, None]
    shares = variances / total if total > 0 else np.zeros_like(variances)
    return Components(mean, directions[:count], variances[:count], shares[:count])


def leading_singular(
    matrix: NDArray[np.floating], count: int, random: np.random.Generator, *, spare: int = 10, rounds: int = 6
) -> tuple[Floats, Floats, Floats]:
    """The largest singular values of a matrix and their vectors, without computing the others.

    A few more random directions than wanted are sent through the matrix and back several times, which stretches the large
    directions more than the small ones; what they then span holds the wanted ones, and the rest is a decomposition of a narrow matrix.

    Args:
        matrix: (rows, columns).
        count: how many.
        random: draws the first directions.
        spare: directions more than `count`.
        rounds: how often there and back; the error falls with the ratio of neighbouring singular values to the power 2 rounds.

    Returns:
        u (rows, count), singular values (count,) with the largest first, v transposed (count, columns); in each row of v the
        largest number is positive.

    Source: Halko, Martinsson and Tropp 2011, algorithms 4.4 and 5.1.
    """
    if matrix.ndim != 2 or not 1 <= count <= min(matrix.shape):
        raise UsageError(f"{count} singular values of a matrix of shape {matrix.shape}: 1 to {min(matrix.shape)}")
    width = min(count + spare, *matrix.shape)
    basis = np.linalg.qr(matrix @ random.standard_normal((matrix.shape[1], width)).astype(matrix.dtype))[0]
    for _ in range(rounds):
        back = np.linalg.qr(matrix.T @ basis)[0]
        basis = np.linalg.qr(matrix @ back)[0]
    u, singular, v = np.linalg.svd(basis.T @ matrix, full_matrices=False)
    signs = np.sign(v[np.arange(len(v)), np.abs(v).argmax(axis=1)])
    u, v = basis @ u * signs, v * signs[:, None]
    return u[:, :count].astype(np.float64), singular[:count].astype(np.float64), v[:count].astype(np.float64)
