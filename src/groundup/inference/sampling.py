"""From the logits of one position to one token: the filters as pure functions of numpy arrays, and the draw.

Semantics and order are those of Hugging Face's logits processors: repetition penalty, temperature, top-k, top-p,
min-p. A draw takes exactly one uniform number from the request's own generator, so a request's tokens depend on its
own seed and logits alone. Imports no torch.
"""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.core.seeds import seed_for
from groundup.inference.config import Sampling

__all__ = [
    "Sampling",
    "UniformGenerator",
    "choose_token",
    "draw",
    "filter_logits",
    "keep_min_p",
    "keep_top_k",
    "keep_top_p",
    "penalize_repetition",
    "sampling_generator",
    "scale_temperature",
    "softmax",
]

# Tokens that are sorted for top-p, unless they hold too little.
_CANDIDATES = 2048
# Weights that are summed together before one is looked for.
_PART = 1024
#: Logits of one row or of several, (..., V), in float32 or float64; the result has the same shape and type.
Logits = NDArray[Any]
Seen = NDArray[np.bool_]


class UniformGenerator:
    """The uniform numbers that a `torch.Generator` of the same seed gives, without torch.

    Both are Mersenne twisters (Matsumoto and Nishimura 1998). torch starts its own from the low 32 bits of a seed by
    the paper's recurrence (`init_genrand`, at::mt19937), where Python's `seed` mixes all bits in.

    Args:
        seed: not negative.
    """

    def __init__(self, seed: int) -> None:
        words = [seed & 0xFFFFFFFF]
        for index in range(1, 624):
            words.append((1812433253 * (words[-1] ^ words[-1] >> 30) + index) & 0xFFFFFFFF)
        self._random = Random()
        # The version of the format, the state with its place (624: used up), and no number of a normal pair.
        self._random.setstate((3, (*words, 624), None))

    def uniform(self) -> float:
        """The next number of `torch.rand(dtype=torch.float64)`: 53 bits of two words, the first one above."""
        high, low = self._random.getrandbits(32), self._random.getrandbits(32)
        return ((high << 32 | low) & (1 << 53) - 1) * 2.0**-53


def sampling_generator(seed: int) -> UniformGenerator:
    """Make the random generator of one request: a seed means the same on every device."""
    return UniformGenerator(seed_for(seed, "sample"))


def softmax(logits: Logits) -> Logits:
    """Probabilities over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Logits = powers / powers.sum(axis=-1, keepdims=True)
    return result


def penalize_repetition(logits: Logits, seen: Seen, penalty: float) -> Logits:
    """Make tokens that occurred less likely: positive logits are divided by the penalty, negative multiplied.

    Args:
        logits: any real numbers.
        seen: True where the token stands in the prompt or was generated.
        penalty: 1 changes nothing; below 1 favours repetition.

    Source: Keskar et al. 2019 (CTRL), section 4.1, with the sign rule of Hugging Face.
    """
    result = logits.copy()
    chosen = logits[seen]
    with np.errstate(over="ignore"):  # to an infinity, which the request reports where it is chosen
        result[seen] = np.where(chosen < 0, chosen * penalty, chosen / penalty)
    return result


def scale_temperature(logits: Logits, temperature: float, out: Logits | None = None) -> Logits:
    """Divide the logits by a temperature above 0: below 1 sharpens the distribution, above 1 flattens it."""
    with np.errstate(over="ignore"):  # to -inf, which is the limit
        result: Logits = np.divide(logits, temperature, out=out)
    return result


def keep_top_k(logits: Logits, k: int) -> Logits:
    """Set all but the `k` largest logits of each row to -inf (what ties with the k-th stays).

    Source: Fan et al. 2018, section 5.4.
    """
    place = logits.shape[-1] - min(k, logits.shape[-1])
    return _without(logits, logits < np.partition(logits, place, axis=-1)[..., place, None])


def keep_top_p(logits: Logits, p: float) -> Logits:
    """Keep the smallest set of likeliest tokens whose probability is at least `p`; at least one is kept.

    Source: Holtzman et al. 2020, section 3.1 (nucleus sampling).
    """
    rows = logits.reshape(-1, logits.shape[-1])
    return np.stack([_keep_top_p(row, p) for row in rows]).reshape(logits.shape)


def _keep_top_p(logits: Logits, p: float) -> Logits:
    # As in Hugging Face, a token goes when it and all less likely ones (of equals those before it) hold at most 1 - p
    # together. The likeliest tokens nearly always hold p, and only they are sorted then: values, since sorting
    # tokens by value takes forty times as long.
    largest, size = logits.max(), len(logits)
    total = np.exp(logits - largest).sum()
    for count in (_CANDIDATES, size):
        place = max(0, size - count)
        values = np.sort(np.partition(logits, place)[place:])
        weights = np.exp(values - largest)
        before = total - weights.sum() if place else 0.0
        num_removed = int((before + weights.cumsum() <= (1 - p) * total).sum())
        if num_removed > 0:
            break
    num_removed = min(num_removed, len(values) - 1)
    smallest_kept = values[num_removed]
    removed = logits < smallest_kept
    num_tied = num_removed + place - int(removed.sum())
    removed[(logits == smallest_kept).nonzero()[0][:num_tied]] = True
    return _without(logits, removed)


def keep_min_p(logits: Logits, p: float) -> Logits:
    """Keep the tokens that are at least `p` times as likely as the likeliest.

    Source: Nguyen et al. 2024 (min-p sampling), section 3.
    """
    probs = softmax(logits)
    return _without(logits, probs < p * probs.max(axis=-1, keepdims=True))


def _without(logits: Logits, removed: NDArray[np.bool_]) -> Logits:
    result = logits.copy()
    result[removed] = -np.inf
    return result


def filter_logits(logits: Logits, sampling: Sampling, seen: Seen) -> Logits:
    """Apply the request's filters in Hugging Face's order; at temperature 0 only the repetition penalty.

    The rows may be shifted by a constant, which no softmax sees.
    """
    if sampling.repetition_penalty != 1:
        logits = penalize_repetition(logits, seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return logits
    # With the maximum at 0 a tiny temperature drives the others to -inf instead of all to inf.
    logits = logits - logits.max(axis=-1, keepdims=True)
    scale_temperature(logits, sampling.temperature, out=logits)
    if 0 < sampling.top_k < logits.shape[-1]:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p < 1:
        logits = keep_top_p(logits, sampling.top_p)
    if sampling.min_p > 0:
        logits = keep_min_p(logits, sampling.min_p)
    return logits


def choose_token(logits: Logits, sampling: Sampling, seen: Seen, generator: UniformGenerator) -> int:
    """Choose the next token from the model's logits.

    Args:
        logits: of one position, (V,), unmodified.
        sampling: the request's settings; temperature 0 takes the largest logit (the lowest id among equals).
        seen: (V,), tokens that occurred, for the repetition penalty.
        generator: the request's own; one uniform number is taken unless the temperature is 0.
    """
    if sampling.temperature == 0:
        return int(filter_logits(logits, sampling, seen).argmax())
    with np.errstate(invalid="ignore"):  # infinite logits, which the request reports
        # float64: the sum over a large vocabulary must not leave a gap at the end of the unit interval.
        weights = filter_logits(logits.astype(np.float64), sampling, seen)
        # In place: arrays of this size are new pages of memory each time, which cost more than the arithmetic.
        weights -= weights.max()
        np.exp(weights, out=weights)
        return draw(weights, generator.uniform())


def draw(weights: NDArray[np.float64], uniform: float) -> int:
    """The first token at which the sum of the weights up to it exceeds a share of the whole; never one of weight 0.

    Sums of parts are formed first and one part is looked through, for a running sum over a large vocabulary costs as
    much as all the rest of a choice.

    Args:
        weights: (V,), not all 0; they need not sum to 1.
        uniform: the share, at least 0 and below 1.
    """
    sums = np.add.reduceat(weights, np.arange(0, len(weights), _PART))
    ends = sums.cumsum()
    target = uniform * ends[-1]
    part = _first_above(ends, target, sums)
    inside = weights[part * _PART : (part + 1) * _PART]
    return part * _PART + _first_above(inside.cumsum(), target - (ends[part - 1] if part else 0.0), inside)


def _first_above(sums: NDArray[np.float64], target: float, weights: NDArray[np.float64]) -> int:
    """The place of the first running sum above the target, or the last that has a weight where rounding leaves none."""
    return min(int(np.searchsorted(sums, target, side="right")), int(weights.nonzero()[0][-1]))
