"""The interval of a difference between two ways of training, measured over seeds and over texts at once.

Both are samples: another seed would have given other weights, another test set other texts. Every seed is measured on
the same texts, so the table of differences is crossed (seeds in rows, texts in columns) and neither its rows nor its
cells are independent: resampling cells as if they were gives intervals that are far too narrow. The same question is
asked of radiologists who read the same cases under two methods, and its answer is used here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import UsageError
from groundup.evaluate.intervals import CONFIDENCE, Interval, Numbers

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class CrossedInterval:
    """A difference with its interval, and what the interval is over.

    Attributes:
        interval: of the difference, second minus first; its borders are infinite where there is one seed and one text.
        degrees: of freedom of Student's t; infinite borders have none (0).
        num_seeds, num_texts: rows and columns of the table.
        between_seeds, between_texts: standard deviation of the difference from seed to seed and from text to text,
            as far as one of each gives any (else 0).
    """

    interval: Interval
    degrees: float
    num_seeds: int
    num_texts: int
    between_seeds: float
    between_texts: float

    @property
    def over(self) -> str:
        """What was sampled, in words."""
        if self.num_seeds > 1:
            return "seeds and texts" if self.num_texts > 1 else "seeds"
        return "texts" if self.num_texts > 1 else "nothing"


def paired_seeds_interval(
    numerators_a: Sequence[Numbers] | FloatArray,
    numerators_b: Sequence[Numbers] | FloatArray,
    denominators: Numbers,
    *,
    confidence: float = CONFIDENCE,
) -> CrossedInterval:
    """Interval of the difference b - a of two ratios, such as bits per byte, over seeds and over texts.

    With y[s, g] the difference in bits of seed s on text g (of n[g] bytes) and r = mean over s of sum y / sum n, the
    ratio is linearised, z[s, g] = G (y[s, g] - r n[g]) / sum n, and z is analysed as a two-way table with random rows
    and columns. The variance of r is

        (MS_seeds + max(MS_texts - MS_rest, 0)) / (S G)

    so what seeds and texts share is not counted twice, and a negative estimate is not believed. The quantile is
    Student's with Satterthwaite's degrees of freedom: with three seeds, 2 where seeds differ more than texts.

    Args:
        numerators_a, numerators_b: bits of each seed (S rows, paired by seed) on each text (G columns).
        denominators: bytes of each text.
        confidence: of the two-sided interval.

    Returns:
        the difference and its interval. One seed gives an interval over texts only, one text one over seeds only.

    Raises:
        UsageError: when the tables do not fit together, or hold values that are not finite.

    Sources: Obuchowski and Rockette 1995 and Hillis 2007 (Statistics in Medicine 26, 596-619) for
    readers crossed with cases; Satterthwaite 1946; Cochran 1977, section 6.3, for the linearised ratio.
    """
    a, b = np.asarray(numerators_a, dtype=np.float64), np.asarray(numerators_b, dtype=np.float64)
    sizes = np.asarray(denominators, dtype=np.float64)
    if a.ndim != 2 or a.shape != b.shape or sizes.shape != a.shape[1:] or 0 in a.shape:
        raise UsageError(
            f"numerators_a {a.shape}, numerators_b {b.shape} and denominators {sizes.shape} must be tables of one row "
            "per seed and one column per text, and one size per text"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all() and sizes.min() >= 0 and sizes.sum() > 0):
        raise UsageError("bits must be finite and bytes not negative, with a sum above 0")
    if not 0 < confidence < 1:
        raise UsageError(f"confidence ({confidence}) must lie between 0 and 1, such as 0.95")
    seeds, texts = a.shape
    differences = b - a
    value = float(differences.sum() / (seeds * sizes.sum()))
    z = texts * (differences - value * sizes) / sizes.sum()  # S G; its mean is 0
    rows, columns = z.mean(axis=1), z.mean(axis=0)
    rest = z - rows[:, None] - columns[None, :]
    of_seeds = texts * float((rows**2).sum()) / (seeds - 1) if seeds > 1 else 0.0
    of_texts = seeds * float((columns**2).sum()) / (texts - 1) if texts > 1 else 0.0
    of_rest = float((rest**2).sum()) / ((seeds - 1) * (texts - 1)) if seeds > 1 and texts > 1 else 0.0
    added = max(of_texts - of_rest, 0.0)
    variance = (of_seeds + added) / (seeds * texts)
    degrees = _satterthwaite(of_seeds, of_texts, of_rest, added, seeds, texts)
    if seeds == 1 and texts == 1:
        half = math.inf
    else:
        half = student_t_quantile((1 + confidence) / 2, degrees) * math.sqrt(variance) if variance > 0 else 0.0
    return CrossedInterval(
        Interval(value, value - half, value + half, confidence),
        degrees,
        seeds,
        texts,
        between_seeds=math.sqrt(of_seeds / texts),
        between_texts=math.sqrt(of_texts / seeds),
    )


def _satterthwaite(of_seeds: float, of_texts: float, of_rest: float, added: float, seeds: int, texts: int) -> float:
    """Degrees of freedom of `of_seeds + added`: its square over the sum of each mean square's square over its own."""
    total = of_seeds + added
    spread = 0.0
    if seeds > 1:
        spread += of_seeds**2 / (seeds - 1)
    if texts > 1 and added > 0:
        spread += of_texts**2 / (texts - 1)
        spread += of_rest**2 / ((seeds - 1) * (texts - 1)) if seeds > 1 else 0.0
    if spread == 0:
        return float(max(seeds, texts) - 1)
    return max(1.0, total**2 / spread)


def student_t_quantile(probability: float, degrees: float | int) -> float:
    """The value that Student's t with `degrees` degrees of freedom stays below with `probability`.

    With t = sqrt(degrees) tan(u), the density is cos(u)^(degrees - 1) up to a constant, which is integrated by
    Gauss-Legendre and inverted by bisection.

    Args:
        probability: between 0 and 1.
        degrees: at least 1, need not be whole.

    Raises:
        UsageError: when one of the two is out of range.
    """
    if not 0 < probability < 1 or not degrees >= 1:
        raise UsageError(f"probability ({probability}) must lie between 0 and 1, and degrees ({degrees}) from 1 on")
    if probability < 0.5:
        return -student_t_quantile(1 - probability, degrees)
    high = 1.0
    while _student_t_above_zero(high, degrees) < probability - 0.5:
        high *= 2
    low = high / 2 if high > 1 else 0.0
    for _ in range(60):
        middle = (low + high) / 2
        if _student_t_above_zero(middle, degrees) < probability - 0.5:
            low = middle
        else:
            high = middle
    return (low + high) / 2


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


def _student_t_above_zero(t: float, degrees: float | int) -> float:
    """Probability that Student's t lies between 0 and `t`."""
    angle = math.atan(t / math.sqrt(degrees))
    inner = (_NODES + 1) / 2 * angle
    integral = float((_WEIGHTS * np.exp((degrees - 1) * np.log(np.cos(inner)))).sum()) * angle / 2
    log_constant = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)
    return integral * math.exp(log_constant) / math.sqrt(math.pi)
