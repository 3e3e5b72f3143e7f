"""Entropy, cross-entropy, Kullback-Leibler divergence, perplexity: what a loss of so many nats or bits means.

For distributions p (how it is) and q (what a model believes) over the same outcomes:

    H(p)     = -sum p log p            what an outcome tells on average; no code is shorter
    H(p, q)  = -sum p log q            what it costs to write outcomes of p in the code that suits q
    KL(p|q)  = sum p log(p / q)        what the wrong belief costs:  H(p, q) = H(p) + KL(p|q),  KL >= 0
    perplexity = e^H                   among how many equally likely outcomes one would be as unsure

0 log 0 is 0, its limit: what never happens costs nothing. What does happen and was held impossible costs infinity: p log 0.
The logarithm is natural (nats) unless a base is given; base 2 counts bits.

Source: Shannon 1948; Cover and Thomas 2006, chapter 2.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from groundup.core.errors import UsageError

Floats = NDArray[np.float64]
#: Of the sum of a distribution: rounding of a softmax in float32 over 100,000 words stays below it.
SUM_TOLERANCE = 1e-4


def distribution(values: ArrayLike) -> Floats:
    """The values as float64, once they are known to be a distribution.

    Args:
        values: (V,) none below 0, with the sum 1.

    Raises:
        UsageError: with what is wrong.
    """
    p = np.asarray(values, np.float64)
    if p.ndim != 1 or not len(p):
        raise UsageError(f"a distribution is a list of probabilities, not an array of shape {p.shape}")
    if not np.isfinite(p).all() or p.min() < 0:
        raise UsageError(f"probabilities are 0 or more, the smallest here is {p.min():g}")
    if abs(p.sum() - 1) > SUM_TOLERANCE:
        raise UsageError(f"probabilities have the sum 1 and not {p.sum():.6g}: divide them by their sum")
    return p


def entropy(p: ArrayLike, *, base: float = math.e) -> float:
    """H(p): the mean surprise of an outcome, at most log of how many there are.

    Args:
        p: (V,) probabilities.
        base: of the logarithm; 2 for bits.
    """
    return cross_entropy(p, p, base=base)


def cross_entropy(p: ArrayLike, q: ArrayLike, *, base: float = math.e) -> float:
    """H(p, q): the mean surprise of outcomes of p for one who believes q; infinite where q holds one of them impossible.

    Args:
        p, q: (V,) probabilities of the same outcomes.
        base: of the logarithm; 2 for bits.
    """
    happens, believed = _pair(p, q)
    seen = happens > 0
    with np.errstate(divide="ignore"):
        nats = -(happens[seen] * np.log(believed[seen])).sum()
    return max(0.0, float(nats)) / _nats_in_unit(base)


def kl_divergence(p: ArrayLike, q: ArrayLike, *, base: float = math.e) -> float:
    """KL(p|q): what it costs to believe q where p is true. 0 only if they are equal, and not symmetric.

    Args:
        p, q: (V,) probabilities of the same outcomes.
        base: of the logarithm; 2 for bits.
    """
    happens, believed = _pair(p, q)
    seen = happens > 0
    with np.errstate(divide="ignore"):
        nats = (happens[seen] * (np.log(happens[seen]) - np.log(believed[seen]))).sum()
    # Equal distributions may round to just below 0.
    return max(0.0, float(nats)) / _nats_in_unit(base)


def perplexity(nats: float) -> float:
    """e to a mean loss: among how many equally likely tokens one would be as unsure.

    Args:
        nats: mean negative log-likelihood of a token.
    """
    return math.inf if nats >= math.log(np.finfo(np.float64).max) else math.exp(nats)


def bits(nats: float) -> float:
    """Nats in bits: over log 2."""
    return nats / math.log(2)


def bits_per_byte(nats: float, num_bytes: int) -> float:
    """The bits that a text costs for each of its bytes, which compares models whatever their tokens are.

    Args:
        nats: negative log-likelihood of the whole text, a sum over its tokens.
        num_bytes: of the text in UTF-8.
    """
    if num_bytes < 1:
        raise UsageError(f"{num_bytes} bytes: a text of at least one is needed")
    return bits(nats) / num_bytes


def _pair(p: ArrayLike, q: ArrayLike) -> tuple[Floats, Floats]:
    first, second = distribution(p), distribution(q)
    if first.shape != second.shape:
        raise UsageError(f"distributions over {len(first)} and {len(second)} outcomes: they must be over the same")
    return first, second


def _nats_in_unit(base: float) -> float:
    if not base > 1:
        raise UsageError(f"a base of {base}: above 1, such as 2 for bits")
    return math.log(base)
