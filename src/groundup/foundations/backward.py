"""Backward passes by hand: softmax cross-entropy, batch and layer norm, attention, in plain numpy.

Each comes as a pair: a forward that also returns what its backward needs, and a backward from the derivative `up` of the loss by
the result to those by what went in. No graph and no engine: `functions.py` hangs these formulas into one. The derivations are in
`docs/concepts/backward-by-hand.md`.

In names and comments, `by_x` is the derivative of the loss by x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import UsageError

Array: TypeAlias = NDArray[Any]
Axes: TypeAlias = tuple[int, ...]


# Softmax and cross-entropy ------------------------------------------------------------------------------------------


def softmax_forward(x: Array, axis: int = -1) -> Array:
    """e^x over its sum along an axis; the largest is taken off first, which changes nothing and cannot overflow."""
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    result: Array = powers / powers.sum(axis=axis, keepdims=True)
    return result


def softmax_backward(up: Array, y: Array, axis: int = -1) -> Array:
    """From the derivative by y = softmax(x) to that by x: dy_i / dx_j = y_i (1 if i = j else 0) - y_i y_j.

    Args:
        up: derivative of the loss by y.
        y: the result of the forward.
        axis: of the softmax.
    """
    # sum over i of up_i dy_i/dx_j = up_j y_j - y_j sum_i up_i y_i
    weighted = up * y
    result: Array = weighted - y * weighted.sum(axis=axis, keepdims=True)
    return result


def log_softmax_forward(x: Array, axis: int = -1) -> Array:
    """The logarithm of the softmax, x - log(sum e^x), without forming it."""
    shifted = x - x.max(axis=axis, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
    return result


def cross_entropy_forward(logits: Array, targets: NDArray[np.integer]) -> tuple[Array, Array]:
    """The mean of -log softmax(logits)[target], and the logarithms of the softmax, which the backward needs.

    Args:
        logits: (N, V).
        targets: (N,), 0 to V - 1.
    """
    logs = log_softmax_forward(logits, axis=1)
    return -logs[np.arange(len(logs)), targets].mean(), logs


def cross_entropy_backward(up: Array | float, logs: Array, targets: NDArray[np.integer]) -> Array:
    """From the derivative by the mean loss (1 where it is the end) to that by the logits: (softmax - one-hot) / N.

    Args:
        up: one number.
        logs: (N, V), from the forward.
        targets: (N,).
    """
    by_logits: Array = np.exp(logs)
    # -logit[target] is pulled down by 1, log(sum e^logit) pushes each up by its probability: a row sums to 0.
    by_logits[np.arange(len(logs)), targets] -= 1
    by_logits *= up / len(logs)
    return by_logits


# Norms --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Normed:
    """What the backward of a norm needs.

    Attributes:
        normed: (x - mean) / sigma.
        sigma: sqrt(variance + epsilon), of size 1 along the axes that it was computed over.
        mean, variance: the same; the variance is biased (divided by the number of elements).
        weight: (D,), that of the forward.
        axes: what mean and variance went over.
    """

    normed: Array
    sigma: Array
    mean: Array
    variance: Array
    weight: Array
    axes: Axes


def layer_norm_forward(x: Array, weight: Array, bias: Array, epsilon: float = 1e-5) -> tuple[Array, Normed]:
    """Each row (last axis) to mean 0 and deviation 1, times weight plus bias (Ba et al. 2016, equation 4).

    Args:
        x: (..., D).
        weight, bias: (D,).
        epsilon: added to the variance.
    """
    return _norm_forward(x, weight, bias, epsilon, (x.ndim - 1,))


def layer_norm_backward(up: Array, saved: Normed) -> tuple[Array, Array, Array]:
    """From the derivative by the result of `layer_norm_forward` to those by x, weight and bias."""
    return _norm_backward(up, saved)


def batch_norm_forward(x: Array, weight: Array, bias: Array, epsilon: float = 1e-5) -> tuple[Array, Normed]:
    """Each feature (last axis) over all rows to mean 0 and deviation 1 (Ioffe and Szegedy 2015, algorithm 1).

    Args:
        x: (..., D).
        weight, bias: (D,).
        epsilon: added to the variance.
    """
    return _norm_forward(x, weight, bias, epsilon, tuple(range(x.ndim - 1)))


def batch_norm_backward(up: Array, saved: Normed) -> tuple[Array, Array, Array]:
    """From the derivative by the result of `batch_norm_forward` to those by x, weight and bias."""
    return _norm_backward(up, saved)


def _norm_forward(x: Array, weight: Array, bias: Array, epsilon: float, axes: Axes) -> tuple[Array, Normed]:
    mean = x.mean(axis=axes, keepdims=True)
    centred = x - mean
    variance = (centred * centred).mean(axis=axes, keepdims=True)
    sigma = np.sqrt(variance + epsilon)
    normed = centred / sigma
    return normed * weight + bias, Normed(normed, sigma, mean, variance, weight, axes)


def _norm_backward(up: Array, saved: Normed) -> tuple[Array, Array, Array]:
    """The two norms differ only in the axes that the means go over."""
    normed, axes = saved.normed, saved.axes
    rows = tuple(range(up.ndim - 1))

    # y = normed * weight + bias, where each row has the same weight and bias
    by_bias = up.sum(axis=rows)
    by_weight = (up * normed).sum(axis=rows)
    by_normed = up * saved.weight

    # normed = (x - mean) / sigma. An x moves its own normed by 1 / sigma, all others through the mean, by
    # -1 / (n sigma) each, and all through sigma, by -normed_i normed_j / (n sigma).
    through_mean = by_normed.mean(axis=axes, keepdims=True)
    through_sigma = normed * (by_normed * normed).mean(axis=axes, keepdims=True)
    by_x = (by_normed - through_mean - through_sigma) / saved.sigma
    return by_x, by_weight, by_bias


# Attention ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attended:
    """What the backward of attention needs.

    Attributes:
        query, key, value: as given.
        shares: (..., T, S), what each query took of each value; 0 where it must not look.
    """

    query: Array
    key: Array
    value: Array
    shares: Array


def attention_forward(query: Array, key: Array, value: Array, *, is_causal: bool = True) -> tuple[Array, Attended]:
    """softmax(q k^T / sqrt(d)) v (Vaswani et al. 2017, equation 1).

    Args:
        query: (..., T, d).
        key, value: (..., S, d) and (..., S, e), with the leading axes of the query.
        is_causal: position t sees the first S - T + t + 1 keys, of which there must be at least T.

    Returns:
        the result (..., T, e), and what the backward needs.
    """
    scores = query @ key.swapaxes(-1, -2) * query.shape[-1] ** -0.5
    if is_causal:
        scores = np.where(hidden_keys(query.shape[-2], key.shape[-2]), -np.inf, scores)
    shares = softmax_forward(scores)
    return shares @ value, Attended(query, key, value, shares)


def attention_backward(up: Array, saved: Attended) -> tuple[Array, Array, Array]:
    """From the derivative by the result of `attention_forward` to those by query, key and value."""
    # y = shares @ value: a product C = A B has by_A = by_C B^T and by_B = A^T by_C
    by_value = saved.shares.swapaxes(-1, -2) @ up
    by_shares = up @ saved.value.swapaxes(-1, -2)

    # Hidden places have a share of 0, so that the softmax gives them a derivative of 0: the mask needs no step of its own.
    by_scores = softmax_backward(by_shares, saved.shares)

    # scores = query @ key^T / sqrt(d)
    scale = saved.query.shape[-1] ** -0.5
    by_query = by_scores @ saved.key * scale
    by_key = by_scores.swapaxes(-1, -2) @ saved.query * scale
    return by_query, by_key, by_value


def hidden_keys(count: int, seen: int) -> NDArray[np.bool_]:
    """Which of S keys each of T queries must not look at, (T, S), where the queries stand at the end of the keys.

    Raises:
        UsageError: for more queries than keys, as the first queries would see nothing.
    """
    if count > seen:
        raise UsageError(
            f"{count} queries at the end of {seen} keys: the first {count - seen} would see none; give as many keys, or "
            "is_causal=False"
        )
    result: NDArray[np.bool_] = np.arange(seen) > np.arange(count)[:, None] + (seen - count)
    return result
