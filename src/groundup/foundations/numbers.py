"""What computers make of numbers: overflow in a softmax, rounding in sums, the size of a dot product.

A float has a sign, an exponent and a fraction, and rounds after each operation:

    format      bits of the fraction    largest     smallest normal    from 1 to the next number
    float16     10                      65,504      6.1e-5             9.8e-4
    bfloat16     7                      3.4e38      1.2e-38            7.8e-3
    float32     23                      3.4e38      1.2e-38            1.2e-7
    float64     52                      1.8e308     2.2e-308           2.2e-16

So (a + b) + c is not a + (b + c), e^89 is infinite in float32 and e^12 in float16, and the order of a sum decides its error.

Sources: Goldberg 1991; Higham 2002, chapter 4 (sums); Kahan 1965; Vaswani et al. 2017, section 3.2.1 (the root of d).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import UsageError

Array = NDArray[Any]
Floats = NDArray[np.float64]


# ------------------------------------------------------------------------------------------------ softmax


def naive_softmax(x: Array) -> Array:
    """e^x over its sum along the last axis, as the formula has it.

    inf / inf, not a number, once one e^x is above the largest number; 0 / 0 once all are below the smallest.
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        powers = np.exp(x)
        result: Array = powers / powers.sum(axis=-1, keepdims=True)
    return result


def stable_softmax(x: Array) -> Array:
    """The same with the largest taken off first: e^(x - m) / sum e^(x - m), since e^m cancels.

    The largest power is e^0 = 1 and the sum lies between 1 and V: nothing overflows, and what becomes 0 was too small to matter.
    Infinite negative values (masked) get 0; all of them masked, or one infinite, has no answer and gives not a number.
    """
    with np.errstate(invalid="ignore", under="ignore"):
        powers = np.exp(x - x.max(axis=-1, keepdims=True))
        result: Array = powers / powers.sum(axis=-1, keepdims=True)
    return result


def naive_log_sum_exp(x: Array) -> Array:
    """log sum e^x along the last axis, as the formula has it: infinite where a power is."""
    with np.errstate(over="ignore", divide="ignore", under="ignore"):
        result: Array = np.log(np.exp(x).sum(axis=-1))
    return result


def log_sum_exp(x: Array) -> Array:
    """log sum e^x along the last axis as m + log sum e^(x - m): between the largest and the largest plus log V."""
    largest = x.max(axis=-1, keepdims=True)
    # Minus infinity less itself would be not a number; the sum of no powers is 0, its logarithm minus infinity.
    shift = np.where(np.isfinite(largest), largest, 0)
    with np.errstate(over="ignore", divide="ignore", under="ignore"):
        result: Array = np.log(np.exp(x - shift).sum(axis=-1)) + shift[..., 0]
    return result


# --------------------------------------------------------------------------------------- rounding and sums


def to_bfloat16(x: Array) -> NDArray[np.float32]:
    """The nearest bfloat16 numbers, ties to the even one, held in float32.

    bfloat16 is float32 without the last 16 bits of the fraction; numpy has no such type.
    """
    with np.errstate(over="ignore"):
        whole = np.array(x, np.float32)
    words = whole.view(np.uint32).astype(np.uint64)
    # Half of the last kept bit, a little less where that bit is 0 so that a tie goes down to it.
    rounded = (words + 0x7FFF + ((words >> 16) & 1)) & 0xFFFF0000
    result = rounded.astype(np.uint32).view(np.float32)
    # Infinity stays; adding to the bits of "not a number" could make something else of it.
    return np.asarray(np.where(np.isnan(whole), whole, result), np.float32)


def sum_in_order(values: Array) -> float:
    """One after the other, rounded in the type of the values each time: the error grows like their number."""
    total = values.dtype.type(0)
    for value in values:
        total = total + value
    return float(total)


def sum_by_halves(values: Array) -> float:
    """The sum of the halves' sums: every value passes through log2 N additions in place of N, and so does the error."""
    if len(values) <= 2:
        return sum_in_order(values)
    middle = len(values) // 2
    both = np.array([sum_by_halves(values[:middle]), sum_by_halves(values[middle:])], values.dtype)
    return float(both[0] + both[1])


def sum_compensated(values: Array) -> float:
    """One after the other, with what each addition lost kept and given to the next (Kahan): an error that does not grow."""
    total = lost = values.dtype.type(0)
    for value in values:
        wanted = value - lost
        after = total + wanted
        # What of `wanted` arrived, less `wanted`: 0 in exact numbers.
        lost = (after - total) - wanted
        total = after
    return float(total)


# --------------------------------------------------------------------------------------- the dot product


@dataclass(frozen=True)
class Scores:
    """Attention scores of random queries and keys, and what a softmax makes of them.

    Attributes:
        variance: of the scores.
        entropy: mean entropy of the softmax over the keys, in nats; log of how many keys is the most.
        largest: mean of the largest probability.
        gradient: mean size of the softmax's derivatives, the root of the sum of squares of its Jacobian: 0 where one key has all.
    """

    variance: float
    entropy: float
    largest: float
    gradient: float


def random_scores(
    size: int, random: np.random.Generator, *, num_keys: int = 16, num_queries: int = 500, scaled: bool = False
) -> Scores:
    """Scores q . k of standard normal vectors: d products of variance 1 have the variance d.

    A deviation of sqrt(d) drives the softmax into a corner, where one probability is 1 and every derivative nearly 0. Over sqrt(d)
    the variance is 1 whatever d.

    Args:
        size: d, numbers in a vector.
        num_keys, num_queries: keys for each query, and queries.
        scaled: divide the scores by sqrt(d).
    """
    if min(size, num_keys, num_queries) < 1:
        raise UsageError(f"size ({size}), num_keys ({num_keys}) and num_queries ({num_queries}) must be 1 or more")
    query = random.standard_normal((num_queries, 1, size))
    key = random.standard_normal((num_queries, num_keys, size))
    scores: Floats = (query * key).sum(axis=-1)
    scores = scores / np.sqrt(size) if scaled else scores
    p = stable_softmax(scores)
    logs = np.log(np.where(p > 0, p, 1))
    return Scores(
        variance=float(scores.var()),
        entropy=float(-(p * logs).sum(axis=-1).mean()),
        largest=float(p.max(axis=-1).mean()),
        gradient=float(softmax_gradient_size(p).mean()),
    )


def softmax_gradient_size(p: Floats) -> Floats:
    """The Frobenius norm of the softmax's Jacobian diag(p) - p p^T.

    Args:
        p: (..., V) probabilities.

    Returns:
        (...,).
    """
    # sum_ij (p_i [i = j] - p_i p_j)^2 = sum p^2 - 2 sum p^3 + (sum p^2)^2; rounding may leave less than 0.
    squares = (p**2).sum(axis=-1)
    result: Floats = np.sqrt(np.maximum(squares - 2 * (p**3).sum(axis=-1) + squares**2, 0))
    return result
