"""The interval over seeds and texts: Student's quantile against tables, simple cases by hand, coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import UsageError
from groundup.evaluate.crossed import paired_seeds_interval, student_t_quantile


@pytest.mark.parametrize(
    ("degrees", "value"),
    # Fisher and Yates' table at 97.5 %.
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (10, 2.228), (30, 2.042), (120, 1.980), (1e7, 1.960)],
)
def test_quantiles_are_those_of_the_table(degrees: float, value: float) -> None:
    assert student_t_quantile(0.975, degrees) == pytest.approx(value, abs=6e-4)
    assert student_t_quantile(0.025, degrees) == -student_t_quantile(0.975, degrees)


def test_quantiles_equal_scipys_also_for_degrees_that_are_not_whole() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy comes with the oracles")
    for degrees in (1.0, 1.37, 2.5, 7.1, 211.3):
        for probability in (0.3, 0.6, 0.95, 0.995):
            expected = stats.t.ppf(probability, degrees)
            assert student_t_quantile(probability, degrees) == pytest.approx(expected, rel=1e-6)


def test_one_text_gives_the_t_interval_of_the_seeds() -> None:
    a, b, size = [[10.0], [12.0], [11.0]], [[10.5], [12.1], [11.9]], [2.0]
    found = paired_seeds_interval(a, b, size)
    per_seed = (np.array(b) - np.array(a))[:, 0] / 2
    half = 4.302653 * per_seed.std(ddof=1) / math.sqrt(3)
    assert found.over == "seeds" and found.degrees == pytest.approx(2)
    assert found.interval.value == pytest.approx(per_seed.mean())
    assert found.interval.high - found.interval.value == pytest.approx(half, rel=1e-5)


def test_one_seed_gives_an_interval_over_texts_and_one_of_each_gives_none() -> None:
    random = np.random.default_rng(0)
    sizes = np.full(25, 100.0)
    y = random.normal(1.0, 2.0, 25)
    found = paired_seeds_interval(np.zeros((1, 25)), y[None], sizes)
    half = student_t_quantile(0.975, 24) * y.std(ddof=1) / math.sqrt(25) / 100
    assert found.over == "texts" and found.interval.high - found.interval.value == pytest.approx(half)
    nothing = paired_seeds_interval([[1.0]], [[2.0]], [1.0])
    assert nothing.over == "nothing" and math.isinf(nothing.interval.low) and nothing.interval.value == 1


def test_equal_runs_differ_by_exactly_nothing() -> None:
    bits = np.random.default_rng(1).random((3, 7))
    interval = paired_seeds_interval(bits, bits, np.ones(7)).interval
    assert (interval.low, interval.value, interval.high) == (0, 0, 0) and interval.overlaps_zero()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 12), st.floats(0.1, 100), st.booleans())
def test_swapping_mirrors_and_units_scale(seed: int, seeds: int, texts: int, unit: float, shuffle: bool) -> None:
    random = np.random.default_rng(seed)
    a, b, sizes = random.normal(size=(seeds, texts)), random.normal(size=(seeds, texts)), random.random(texts) + 0.1
    one = paired_seeds_interval(a, b, sizes).interval
    other = paired_seeds_interval(b, a, sizes).interval
    assert other.value == pytest.approx(-one.value) and other.low == pytest.approx(-one.high, rel=1e-6)
    scaled = paired_seeds_interval(a * unit, b * unit, sizes).interval
    assert scaled.low == pytest.approx(one.low * unit, rel=1e-6) and one.low <= one.value <= one.high
    if shuffle:
        rows, columns = random.permutation(seeds), random.permutation(texts)
        moved = paired_seeds_interval(a[rows][:, columns], b[rows][:, columns], sizes[columns]).interval
        assert moved.high == pytest.approx(one.high, rel=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "sizes"),
    [
        ([[1.0, 2.0]], [[1.0]], [1.0, 1.0]),
        ([[1.0]], [[1.0]], [1.0, 2.0]),
        (np.ones(3), np.ones(3), [1.0, 1.0, 1.0]),
        ([[math.nan]], [[1.0]], [1.0]),
        ([[1.0]], [[1.0]], [0.0]),
        (np.zeros((0, 3)), np.zeros((0, 3)), [1.0, 1.0, 1.0]),
    ],
)
def test_tables_that_do_not_fit_are_refused(a: object, b: object, sizes: object) -> None:
    with pytest.raises(UsageError, match=r"rows|row per seed|finite"):
        paired_seeds_interval(a, b, sizes)  # type: ignore[arg-type]


def coverage(seeds: int, texts: int, spread: tuple[float, float, float], count: int, number: int) -> float:
    """Share of intervals that hold the true difference (0.03), where seeds, texts and the rest scatter by `spread`."""
    random = np.random.default_rng(number)
    hits = 0
    for _ in range(count):
        sizes = random.lognormal(8, 0.7, texts)
        shifts = random.normal(0, spread[0], (seeds, 1)) + random.normal(0, spread[1], (1, texts))
        ratios = 0.03 + shifts + random.normal(0, spread[2], (seeds, texts))
        a = np.broadcast_to(random.normal(2, 0.2, (1, texts)) * sizes, (seeds, texts))
        interval = paired_seeds_interval(a, a + ratios * sizes, sizes).interval
        hits += interval.low <= 0.03 <= interval.high
    return hits / count


CASES = [
    (3, 60, (0.01, 0.05, 0.02)),  # seeds and texts scatter alike
    (3, 60, (0.02, 0.0, 0.02)),  # seeds alone
    (3, 60, (0.0, 0.05, 0.02)),  # texts alone
    (5, 30, (0.01, 0.05, 0.02)),
    (3, 8, (0.01, 0.05, 0.02)),  # few texts
    (1, 60, (0.0, 0.05, 0.02)),  # one seed: texts are all there is
    (2, 40, (0.01, 0.05, 0.05)),
]


@pytest.mark.parametrize(("seeds", "texts", "spread"), CASES[:3])
def test_about_95_percent_of_the_intervals_hold_the_truth(
    seeds: int, texts: int, spread: tuple[float, float, float]
) -> None:
    # A chance of 1e-4 to miss: 400 draws of 0.95 have a standard deviation of 0.011.
    assert 0.905 <= coverage(seeds, texts, spread, 400, 0) <= 0.995


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "texts", "spread"), CASES)
def test_coverage_at_length(seeds: int, texts: int, spread: tuple[float, float, float]) -> None:
    assert 0.92 <= coverage(seeds, texts, spread, 4000, 1) <= 0.98


def test_a_bootstrap_of_the_cells_would_not_do() -> None:
    """What the table is for: taken as 180 independent cells, seeds that scatter give false alarms most of the time."""
    random = np.random.default_rng(2)
    alarms = 0
    for _ in range(200):
        cells = random.normal(0, 0.02, (3, 1)) + random.normal(0, 0.02, (3, 60))
        alarms += abs(cells.mean()) > 1.96 * cells.std(ddof=1) / math.sqrt(cells.size)
    assert alarms > 100
