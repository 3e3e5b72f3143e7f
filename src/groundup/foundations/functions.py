"""The functions of language models on `Tensor`: softmax, cross-entropy, norms, embedding, attention.

Each has a derivative written by hand where the formula is simpler or safer than what the small steps would give, and is
equal to that composition. With y the result, g the derivative by it, and sums over the last axis:

    softmax          dx = y (g - sum(g y))
    cross-entropy    dx = (softmax(x) - onehot(target)) / N
    layer norm       dx = (g' - mean(g') - x' mean(g' x')) / sigma,  g' = g * weight,  x' = (x - mean) / sigma
    batch norm       the same over the batch
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from groundup.core.errors import UsageError
from groundup.foundations.tensor import Array, Tensor, operation, where


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """e^x over its sum along an axis; the largest is taken off first, which changes nothing and cannot overflow."""
    y = _softmax(x.data, axis)
    return operation("softmax", y, (x,), lambda up: (y * (up - (up * y).sum(axis=axis, keepdims=True)),))


def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """The logarithm of the softmax, without forming it."""
    shifted = x.data - x.data.max(axis=axis, keepdims=True)
    y = shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
    return operation("log_softmax", y, (x,), lambda up: (up - np.exp(y) * up.sum(axis=axis, keepdims=True),))


def cross_entropy(logits: Tensor, targets: ArrayLike, mask: ArrayLike | None = None) -> Tensor:
    """The mean of -log softmax(logits)[target], in nats.

    Args:
        logits: (..., V).
        targets: whole numbers 0 to V - 1, of the shape of the logits without their last axis.
        mask: of the shape of the targets: which of them count. All do by default; padding should not.

    Raises:
        UsageError: for targets of another shape, or outside of the vocabulary; for a mask of another shape, or of nothing.
    """
    wanted = np.asarray(targets.data if isinstance(targets, Tensor) else targets)
    if wanted.shape != logits.shape[:-1]:
        raise UsageError(f"targets of shape {wanted.shape} beside logits of shape {logits.shape}")
    size = logits.shape[-1]
    if not np.issubdtype(wanted.dtype, np.integer) or (wanted.size and not 0 <= wanted.min() <= wanted.max() < size):
        raise UsageError(f"targets are whole numbers from 0 to {size - 1}")
    counts = np.ones(wanted.shape, np.bool_) if mask is None else np.asarray(mask, np.bool_)
    if counts.shape != wanted.shape or (mask is not None and not counts.any()):
        raise UsageError(f"a mask of shape {counts.shape} and {counts.sum()} places beside targets of shape {wanted.shape}")
    shares = (counts.reshape(-1) / max(counts.sum(), 1)).astype(logits.dtype)
    flat = logits.data.reshape(-1, size)
    places = (np.arange(len(flat)), wanted.reshape(-1))
    shifted = flat - flat.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

    def pullback(up: Array) -> tuple[Array]:
        gradient = np.exp(logs)
        gradient[places] -= 1
        return ((gradient * (up * shares)[:, None]).reshape(logits.shape),)

    return operation("cross_entropy", -(logs[places] * shares).sum(), (logits,), pullback)


def mean_squared_error(predicted: Tensor, wanted: ArrayLike) -> Tensor:
    """The mean squared difference."""
    return ((predicted - wanted) ** 2).mean()


def gelu(x: Tensor) -> Tensor:
    """x Phi(x) in its tanh form (Hendrycks and Gimpel 2016, section 2)."""
    return x * ((x + x**3 * 0.044715) * math.sqrt(2 / math.pi)).tanh() * 0.5 + x * 0.5


def embedding(table: Tensor, ids: ArrayLike) -> Tensor:
    """Rows of a table; a row that is read several times gets the sum of the derivatives.

    Args:
        table: (V, D).
        ids: whole numbers of any shape.

    Returns:
        (*shape of ids, D).
    """
    places = np.asarray(ids)
    if not np.issubdtype(places.dtype, np.integer) or (
        places.size and not 0 <= places.min() <= places.max() < len(table)
    ):
        raise UsageError(f"ids are whole numbers from 0 to {len(table) - 1}")
    return table[places]


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) along the last axis, times weight plus bias (Ba et al. 2016)."""
    centred = x.data - x.data.mean(axis=-1, keepdims=True)
    sigma = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)
    normed, scale = centred / sigma, weight.data

    def pullback(up: Array) -> tuple[Array, Array, Array]:
        rows = tuple(range(up.ndim - 1))
        by_normed = up * scale
        by_x = by_normed - by_normed.mean(axis=-1, keepdims=True)
        by_x = by_x - normed * (by_normed * normed).mean(axis=-1, keepdims=True)
        return by_x / sigma, (up * normed).sum(axis=rows), up.sum(axis=rows)

    return operation("layer_norm", normed * scale + bias.data, (x, weight, bias), pullback)


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float = 1e-5) -> tuple[Tensor, Array, Array]:
    """As `layer_norm`, over all axes but the last: each feature over the batch (Ioffe and Szegedy 2015, algorithm 1).

    Args:
        x: (..., D), at least two rows.

    Returns:
        the result, and the mean and the biased variance of each feature.
    """
    rows = tuple(range(x.ndim - 1))
    mean = x.data.mean(axis=rows)
    variance = x.data.var(axis=rows)
    sigma = np.sqrt(variance + epsilon)
    normed, scale = (x.data - mean) / sigma, weight.data

    def pullback(up: Array) -> tuple[Array, Array, Array]:
        by_normed = up * scale
        by_x = by_normed - by_normed.mean(axis=rows) - normed * (by_normed * normed).mean(axis=rows)
        return by_x / sigma, (up * normed).sum(axis=rows), up.sum(axis=rows)

    return operation("batch_norm", normed * scale + bias.data, (x, weight, bias), pullback), mean, variance


def attention(query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool = True) -> Tensor:
    """softmax(q k^T / sqrt(d)) v (Vaswani et al. 2017, equation 1).

    Args:
        query: (..., T, d).
        key, value: (..., S, d) and (..., S, e).
        is_causal: position t sees the first S - T + t + 1 keys.

    Returns:
        (..., T, e).
    """
    scores = query @ key.swapaxes(-1, -2) * query.shape[-1] ** -0.5
    if is_causal:
        count, seen = query.shape[-2], key.shape[-2]
        hidden = np.arange(seen) > np.arange(count)[:, None] + (seen - count)
        scores = where(hidden, -np.inf, scores)
    return softmax(scores) @ value


def dropout(x: Tensor, rate: float, random: np.random.Generator) -> Tensor:
    """Each element 0 with a probability, the others larger by so much that the expectation stays."""
    if not 0 <= rate < 1:
        raise UsageError(f"a dropout rate of {rate}: at least 0 and below 1")
    kept: NDArray[Any] = (random.random(x.shape) >= rate) / (1 - rate)
    return x * kept if rate else x


def _softmax(x: Array, axis: int) -> Array:
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    result: Array = powers / powers.sum(axis=axis, keepdims=True)
    return result
