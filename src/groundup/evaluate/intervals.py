"""Intervals for what was measured on a sample, and whether two results can be told apart."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import UsageError
from groundup.core.seeds import seed_for

FloatArray = NDArray[np.float64]
Numbers = Sequence[float | int] | NDArray[Any]

CONFIDENCE = 0.95
NUM_RESAMPLES = 10_000
# Weights drawn at a time: bounds the memory for many documents (4 M numbers of 8 bytes).
CHUNK_WEIGHTS = 4_000_000


@dataclass(frozen=True)
class Interval:
    """An estimate with the interval it lies in; the borders are infinite where one unit cannot give any."""

    value: float
    low: float
    high: float
    confidence: float = CONFIDENCE

    def overlaps_zero(self) -> bool:
        return cannot_be_told(self.low, self.high)


def wilson(num_right: int, num_total: int, *, confidence: float = CONFIDENCE) -> Interval:
    """Interval of a share from independent yes-or-no answers.

    Unlike value +- z s, it stays within 0 and 1 and is not empty at 0 % or 100 %.

    Args:
        num_right, num_total: counts, 0 <= num_right <= num_total, num_total >= 1.
        confidence: of the two-sided interval.

    Source: Wilson 1927; Brown, Cai and DasGupta 2001, equation 4.
    """
    _check_confidence(confidence)
    if not 0 <= num_right <= num_total or num_total < 1:
        raise UsageError(f"{num_right} right of {num_total} is no share: need 0 <= right <= total and total >= 1")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = num_right / num_total
    center = (share + z * z / (2 * num_total)) / (1 + z * z / num_total)
    half = z / (1 + z * z / num_total) * math.sqrt(share * (1 - share) / num_total + (z / (2 * num_total)) ** 2)
    # At the ends the exact borders are 0 and 1; rounding must not push them past the share.
    return Interval(share, min(max(0.0, center - half), share), max(min(1.0, center + half), share), confidence)


def bootstrap_ratio(
    numerators: Numbers,
    denominators: Numbers,
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Percentile interval of a ratio of sums, such as bits per byte, by drawing documents with replacement.

    Args:
        numerators: one per document (bits).
        denominators: one per document (bytes), not negative, their sum above 0.
        seed: the same seed gives the same interval.
        num_resamples: number of resampled corpora.
        confidence: of the two-sided interval.

    Returns:
        the ratio and its interval; with fewer than two documents its borders are infinite.

    Source: Efron and Tibshirani 1993, chapter 13.
    """
    top, bottom = _pair_of_arrays(numerators, denominators, "numerators", "denominators")
    return _bootstrap([top], bottom, seed, num_resamples, confidence)


def paired_bootstrap_ratio(
    numerators_a: Numbers,
    numerators_b: Numbers,
    denominators: Numbers,
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Interval of the difference a - b of two ratios over the same documents.

    Both are resampled together, so what is hard or easy for both cancels and small differences can be told.
    """
    a, bottom = _pair_of_arrays(numerators_a, denominators, "numerators_a", "denominators")
    b, _ = _pair_of_arrays(numerators_b, denominators, "numerators_b", "denominators")
    return _bootstrap([a, b], bottom, seed, num_resamples, confidence)


def paired_bootstrap_accuracy(
    right_a: Sequence[bool],
    right_b: Sequence[bool],
    groups: Sequence[Hashable],
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Interval of the difference a - b of two accuracies on the same questions, drawn group by group.

    Args:
        right_a, right_b: whether each question was answered right, by each of the two.
        groups: what each question belongs to (its module): questions of one group resemble each other, so groups
            and not questions are drawn.

    Returns:
        the difference and its interval; with fewer than two groups its borders are infinite.
    """
    if not len(right_a) == len(right_b) == len(groups):
        raise UsageError(
            f"right_a ({len(right_a)}), right_b ({len(right_b)}) and groups ({len(groups)}) must have one entry per "
            "question"
        )
    names = {name: index for index, name in enumerate(dict.fromkeys(groups))}
    index = np.array([names[group] for group in groups], dtype=np.int64)
    a = np.bincount(index, weights=np.asarray(right_a, dtype=np.float64), minlength=len(names))
    b = np.bincount(index, weights=np.asarray(right_b, dtype=np.float64), minlength=len(names))
    sizes = np.bincount(index, minlength=len(names)).astype(np.float64)
    return paired_bootstrap_ratio(a, b, sizes, seed=seed, num_resamples=num_resamples, confidence=confidence)


def cannot_be_told(low: float, high: float) -> bool:
    """True when an interval of a difference includes 0: it cannot be told from chance."""
    return low <= 0 <= high


def verdict(diff: float, low: float, high: float, *, confidence: float = CONFIDENCE) -> str:
    """Say in a plain sentence whether a difference can be told from chance.

    Args:
        diff: first minus second.
        low, high: the borders of its interval.
        confidence: of that interval; it is only named.
    """
    if not low <= high:
        raise UsageError(f"low ({low}) must not be above high ({high})")
    if math.isinf(low) or math.isinf(high):
        return f"The difference ({diff:+.3g}) cannot be told from chance: there is too little to compare."
    borders = f"{diff:+.3g}, {confidence:.0%} interval {low:+.3g} to {high:+.3g}"
    if cannot_be_told(low, high):
        return f"The difference ({borders}) cannot be told from chance."
    return f"The difference ({borders}) is more than chance."


def _bootstrap(
    numerators: list[FloatArray], denominators: FloatArray, seed: int, num_resamples: int, confidence: float
) -> Interval:
    _check_confidence(confidence)
    if num_resamples < 100:
        raise UsageError(f"num_resamples ({num_resamples}) is too few for an interval: use at least 100")
    top = numerators[0] - numerators[1] if len(numerators) == 2 else numerators[0]
    value = float(top.sum() / denominators.sum())
    count = len(top)
    if count < 2:
        return Interval(value, -math.inf, math.inf, confidence)
    random = np.random.default_rng(seed_for(seed, "bootstrap"))
    ratios = []
    for start in range(0, num_resamples, rows := max(1, CHUNK_WEIGHTS // count)):
        size = min(rows, num_resamples - start)
        # How often each document is drawn, for `size` resampled corpora: (size, count).
        weights = random.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64)
        sums = weights @ denominators
        ratios.append((weights @ top)[sums > 0] / sums[sums > 0])
    low, high = np.quantile(np.concatenate(ratios), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high), confidence)


def _pair_of_arrays(top: Numbers, bottom: Numbers, top_name: str, bottom_name: str) -> tuple[FloatArray, FloatArray]:
    a, b = np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise UsageError(f"{top_name} {a.shape} and {bottom_name} {b.shape} must be lists with one entry per document")
    if len(b) == 0 or b.min() < 0 or b.sum() <= 0:
        raise UsageError(f"{bottom_name} must not be negative and their sum must be above 0 ({len(b)} entries)")
    if not np.isfinite(a).all():
        raise UsageError(f"{top_name} holds {int((~np.isfinite(a)).sum())} entries that are not finite")
    return a, b


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise UsageError(f"confidence ({confidence}) must lie between 0 and 1, such as 0.95")
