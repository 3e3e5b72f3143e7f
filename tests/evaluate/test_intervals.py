"""Intervals against known values, brute force, and what they promise: coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import UsageError
from groundup.evaluate.intervals import (
    bootstrap_ratio,
    cannot_be_told,
    paired_bootstrap_accuracy,
    paired_bootstrap_ratio,
    verdict,
    wilson,
)


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        # Newcombe 1998, table I, method 3 (Wilson without continuity correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_published_values(right: int, total: int, low: float, high: float) -> None:
    interval = wilson(right, total)
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)
    assert interval.value == right / total


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 500), st.floats(0, 1), st.floats(0.5, 0.999))
def test_wilson_borders_solve_its_equation(total: int, share: float, confidence: float) -> None:
    right = round(share * total)
    interval = wilson(right, total, confidence=confidence)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    mirrored = wilson(total - right, total, confidence=confidence)
    assert interval.low == pytest.approx(1 - mirrored.high, abs=1e-12)
    # |value - border| = z sqrt(border (1 - border) / n), with the same z at both borders.
    scores = [
        abs(interval.value - border) / math.sqrt(border * (1 - border) / total)
        for border in (interval.low, interval.high)
        if 1e-6 < border < 1 - 1e-6
    ]
    assert all(score == pytest.approx(scores[0], rel=1e-6) for score in scores)


def test_the_bootstrap_equals_all_resamples_by_brute_force() -> None:
    bits, sizes = [10.0, 30.0, 7.0, 21.0, 40.0], [4.0, 10.0, 3.0, 6.0, 15.0]
    every = [sum(bits[i] for i in rows) / sum(sizes[i] for i in rows) for rows in itertools.product(range(5), repeat=5)]
    low, high = np.quantile(every, [0.025, 0.975])
    interval = bootstrap_ratio(bits, sizes, num_resamples=200_000)
    assert interval.value == sum(bits) / sum(sizes)
    assert interval.low == pytest.approx(low, abs=0.01)
    assert interval.high == pytest.approx(high, abs=0.01)


def test_the_paired_bootstrap_of_accuracies_draws_groups_by_brute_force() -> None:
    groups = ["os", "re", "os", "json", "re", "os", "math"]
    a = [True, True, False, True, True, True, False]
    b = [False, True, False, False, True, False, False]
    names = sorted(set(groups))
    members = {name: [i for i, group in enumerate(groups) if group == name] for name in names}
    every = []
    for drawn in itertools.product(names, repeat=len(names)):
        rows = [i for name in drawn for i in members[name]]
        every.append(sum(a[i] - b[i] for i in rows) / len(rows))
    low, high = np.quantile(every, [0.05, 0.95])
    interval = paired_bootstrap_accuracy(a, b, groups, num_resamples=200_000, confidence=0.9)
    assert interval.value == pytest.approx(3 / 7)
    assert interval.low == pytest.approx(low, abs=0.01)
    assert interval.high == pytest.approx(high, abs=0.01)


def test_pairing_tells_what_two_separate_intervals_cannot() -> None:
    random = np.random.default_rng(3)
    sizes = random.integers(50, 500, 60).astype(float)
    hard = random.normal(2.0, 0.5, 60)
    a, b = sizes * hard, sizes * (hard - 0.05 + random.normal(0, 0.02, 60))
    difference = paired_bootstrap_ratio(a, b, sizes)
    assert difference.low > 0
    one, other = bootstrap_ratio(a, sizes), bootstrap_ratio(b, sizes)
    assert one.low < other.high and other.low < one.high


@pytest.mark.slow
def test_the_interval_covers_as_often_as_it_says() -> None:
    random = np.random.default_rng(11)
    hits = 0
    for trial in range(400):
        sizes = random.integers(20, 200, 80).astype(float)
        bits = sizes * random.normal(2.0, 0.4, 80)
        interval = bootstrap_ratio(bits, sizes, seed=trial, num_resamples=1_000)
        hits += interval.low <= 2.0 <= interval.high
    assert 0.91 <= hits / 400 <= 0.98


def test_the_same_seed_gives_the_same_interval_and_many_documents_are_done_in_chunks() -> None:
    random = np.random.default_rng(0)
    bits, sizes = random.random(7_000), np.ones(7_000)
    assert bootstrap_ratio(bits, sizes, num_resamples=1_000) == bootstrap_ratio(bits, sizes, num_resamples=1_000)
    other = bootstrap_ratio(bits, sizes, num_resamples=1_000, seed=1)
    assert other.low != bootstrap_ratio(bits, sizes, num_resamples=1_000).low
    # Standard error of a mean of uniform numbers: sqrt(1/12/n).
    assert other.high - other.low == pytest.approx(2 * 1.96 * math.sqrt(1 / 12 / 7_000), rel=0.1)


def test_one_unit_gives_no_interval() -> None:
    assert bootstrap_ratio([8.0], [4.0]).low == -math.inf
    one_module = paired_bootstrap_accuracy([True, True], [False, False], ["os", "os"])
    assert (one_module.value, one_module.low, one_module.high) == (1.0, -math.inf, math.inf)
    assert "too little to compare" in verdict(one_module.value, one_module.low, one_module.high)


def test_verdicts() -> None:
    assert verdict(0.02, -0.01, 0.05) == (
        "The difference (+0.02, 95% interval -0.01 to +0.05) cannot be told from chance."
    )
    assert verdict(-0.2, -0.3, -0.1) == "The difference (-0.2, 95% interval -0.3 to -0.1) is more than chance."
    assert "90% interval" in verdict(0.02, 0.01, 0.05, confidence=0.9)
    assert cannot_be_told(0.0, 0.1) and cannot_be_told(-1.0, 1.0) and not cannot_be_told(0.001, 1.0)


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: wilson(5, 4), "5 right of 4"),
        (lambda: wilson(0, 0), "0 right of 0"),
        (lambda: wilson(1, 4, confidence=1.0), r"confidence \(1.0\)"),
        (lambda: bootstrap_ratio([1.0], [1.0, 2.0]), r"numerators \(1,\) and denominators \(2,\)"),
        (lambda: bootstrap_ratio([], []), r"\(0 entries\)"),
        (lambda: bootstrap_ratio([1.0, math.inf], [1.0, 1.0]), "1 entries that are not finite"),
        (lambda: bootstrap_ratio([1.0, 1.0], [1.0, 1.0], num_resamples=10), r"num_resamples \(10\)"),
        (lambda: paired_bootstrap_accuracy([True], [True, False], ["a"]), r"right_b \(2\)"),
        (lambda: verdict(0.0, 1.0, -1.0), r"low \(1.0\)"),
    ],
)
def test_wrong_use_is_refused_with_the_values(call, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        call()
