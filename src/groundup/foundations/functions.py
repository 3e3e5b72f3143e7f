"""The functions of language models on `Tensor`: softmax, cross-entropy, norms, embedding, attention.

Most could be put together from sums, products and powers, and the engine would find their derivatives. Where one formula for
the whole is shorter or safer it is written by hand instead, with the same result. These formulas, of softmax, cross-entropy and the norms,
are in `backward.py`, which `docs/concepts/backward-by-hand.md` derives; here they are hung into the graph.

Letters of shapes: B texts, T positions in each, V tokens in the vocabulary, D numbers for each position or token.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from groundup.core.errors import UsageError
from groundup.foundations import backward
from groundup.foundations.tensor import Array, Tensor, operation, where


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """e^x over its sum along an axis; the largest is taken off first, which changes nothing and cannot overflow."""
    y = backward.softmax_forward(x.data, axis)
    return operation("softmax", y, (x,), lambda up: (backward.softmax_backward(up, y, axis),))


def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """The logarithm of the softmax, without forming it."""
    y = backward.log_softmax_forward(x.data, axis)
    return operation("log_softmax", y, (x,), lambda up: (up - np.exp(y) * up.sum(axis=axis, keepdims=True),))


def cross_entropy(logits: Tensor, targets: ArrayLike | Tensor, mask: ArrayLike | Tensor | None = None) -> Tensor:
    """The mean of -log softmax(logits)[target], in nats.

    Args:
        logits: (..., V), a score for each token of the vocabulary.
        targets: the right tokens, whole numbers 0 to V - 1, of the shape of the logits without their last axis.
        mask: of the shape of the targets, which of them count. All do by default; padding should not.

    Raises:
        UsageError: for targets of another shape, or outside of the vocabulary; for a mask of another shape, or of nothing.
    """
    # Arrays of our own: the derivative must not follow what the caller writes into the old ones later.
    wanted = np.array(targets.data if isinstance(targets, Tensor) else targets)
    if wanted.shape != logits.shape[:-1]:
        raise UsageError(f"targets of shape {wanted.shape} beside logits of shape {logits.shape}")
    size = logits.shape[-1]
    if not wanted.size:
        raise UsageError(f"targets of shape {wanted.shape}: a mean needs at least one")
    if not np.issubdtype(wanted.dtype, np.integer) or not 0 <= wanted.min() <= wanted.max() < size:
        raise UsageError(f"targets are whole numbers from 0 to {size - 1}")
    flat, flat_targets = logits.data.reshape(-1, size), wanted.reshape(-1)
    counts: Any = slice(None)
    if mask is not None:
        counts = np.array(mask.data if isinstance(mask, Tensor) else mask, np.bool_)
        if counts.shape != wanted.shape or not counts.any():
            raise UsageError(
                f"a mask of shape {counts.shape} with {counts.sum()} places beside targets of {wanted.shape}"
            )
        counts = counts.reshape(-1)
    flat_targets = flat_targets[counts]
    loss, logs = backward.cross_entropy_forward(flat[counts], flat_targets)

    def pullback(up: Array) -> tuple[Array]:
        gradient = np.zeros_like(flat)
        gradient[counts] = backward.cross_entropy_backward(up, logs, flat_targets)
        return (gradient.reshape(logits.shape),)

    return operation("cross_entropy", loss, (logits,), pullback)


def mean_squared_error(predicted: Tensor, wanted: ArrayLike) -> Tensor:
    """The mean squared difference."""
    return ((predicted - wanted) ** 2).mean()


def gelu(x: Tensor) -> Tensor:
    """x times the normal distribution's share below x, in its tanh form: a smooth relu (Hendrycks and Gimpel 2016, section 2)."""
    return x * ((x + x**3 * 0.044715) * math.sqrt(2 / math.pi)).tanh() * 0.5 + x * 0.5


def embedding(table: Tensor, ids: ArrayLike | Tensor) -> Tensor:
    """A vector for each id, from the rows of a table; a row that is read several times gets the sum of the derivatives.

    Args:
        table: (V, D).
        ids: whole numbers of any shape.

    Returns:
        (*shape of ids, D).
    """
    places = np.asarray(ids.data if isinstance(ids, Tensor) else ids)
    if not np.issubdtype(places.dtype, np.integer) or (
        places.size and not 0 <= places.min() <= places.max() < len(table)
    ):
        raise UsageError(f"ids are whole numbers from 0 to {len(table) - 1}")
    return table[places]


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) along the last axis, times weight plus bias (Ba et al. 2016)."""
    _check_norm(x, weight, bias)
    y, saved = backward.layer_norm_forward(x.data, weight.data, bias.data, epsilon)
    return operation("layer_norm", y, (x, weight, bias), lambda up: backward.layer_norm_backward(up, saved))


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float = 1e-5) -> tuple[Tensor, Array, Array]:
    """As `layer_norm`, over all axes but the last: each feature over the batch (Ioffe and Szegedy 2015, algorithm 1).

    Args:
        x: (..., D), at least two rows.

    Returns:
        the result, and the mean and the biased variance of each feature.
    """
    _check_norm(x, weight, bias)
    y, saved = backward.batch_norm_forward(x.data, weight.data, bias.data, epsilon)
    result = operation("batch_norm", y, (x, weight, bias), lambda up: backward.batch_norm_backward(up, saved))
    return result, saved.mean.reshape(-1), saved.variance.reshape(-1)


def attention(query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool = True) -> Tensor:
    """softmax(q k^T / sqrt(d)) v: a mean of values, with a share for each that its key and the query decide.

    Each position asks with a query. Its dot products with the keys are scores of what it may look at, softmax makes them shares with the
    sum 1, and the result is the mean of the values under these shares (Vaswani et al. 2017, equation 1). Over sqrt(d) the scores
    keep their size whatever d (`docs/concepts/numbers.md`); where it came from is in `docs/concepts/seq2seq.md`.

    Args:
        query: (..., T, d): T positions that ask, with d numbers each.
        key, value: (..., S, d) and (..., S, e), of S positions that are asked.
        is_causal: no position sees those after it. The queries stand at the end of the keys, of which there must be at least T, so
            query t sees the first S - T + t + 1 keys; where S = T, those up to its own.

    Returns:
        (..., T, e).
    """
    scores = query @ key.swapaxes(-1, -2) * query.shape[-1] ** -0.5
    if is_causal:
        scores = where(backward.hidden_keys(query.shape[-2], key.shape[-2]), -np.inf, scores)
    return softmax(scores) @ value


def _check_norm(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    if not x.ndim or not weight.shape == bias.shape == x.shape[-1:]:
        raise UsageError(
            f"a weight of shape {weight.shape} and a bias of shape {bias.shape} beside rows of shape {x.shape}: both need one "
            "number for each of the last axis"
        )


def dropout(x: Tensor, rate: float, random: np.random.Generator) -> Tensor:
    """Each element 0 with a probability, the others larger by so much that the expectation stays."""
    if not 0 <= rate < 1:
        raise UsageError(f"a dropout rate of {rate}: at least 0 and below 1")
    kept: NDArray[Any] = (random.random(x.shape) >= rate) / (1 - rate)
    return x * kept if rate else x
