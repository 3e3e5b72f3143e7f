"""Numbers beside scipy, torch and exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from groundup.core.errors import UsageError
from groundup.foundations import information as info
from groundup.foundations import numbers as nums

special = pytest.importorskip("scipy.special", reason="scipy is the reference")
import scipy.stats  # noqa: E402

rows = arrays.arrays(np.float64, st.integers(1, 8), elements=st.floats(-1e3, 1e3))


@st.composite
def distributions(draw: st.DrawFn, size: int | None = None) -> np.ndarray:
    """Weights of very different sizes, some of them 0."""
    count = size or draw(st.integers(1, 8))
    exponents = draw(st.lists(st.one_of(st.none(), st.floats(-30, 3)), min_size=count, max_size=count))
    weights = np.array([0.0 if exponent is None else 10.0**exponent for exponent in exponents])
    if not weights.any():
        weights[draw(st.integers(0, count - 1))] = 1.0
    return weights / weights.sum()


pairs = st.integers(1, 8).flatmap(lambda size: st.tuples(distributions(size), distributions(size)))


# ---------------------------------------------------------------------------------------------- softmax


@settings(max_examples=60, deadline=None)
@given(rows)
def test_softmax_and_log_sum_exp_are_scipy_s(x: np.ndarray) -> None:
    np.testing.assert_allclose(nums.stable_softmax(x), special.softmax(x), rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(nums.log_sum_exp(x), special.logsumexp(x), rtol=1e-12, atol=1e-12)
    assert x.max() <= nums.log_sum_exp(x) <= x.max() + math.log(len(x)) + 1e-9


@settings(max_examples=40, deadline=None)
@given(rows, st.floats(-500, 500))
def test_a_shift_changes_nothing(x: np.ndarray, shift: float) -> None:
    np.testing.assert_allclose(nums.stable_softmax(x + shift), nums.stable_softmax(x), rtol=1e-9, atol=1e-12)
    assert nums.log_sum_exp(x + shift) == pytest.approx(nums.log_sum_exp(x) + shift, abs=1e-9)


@pytest.mark.parametrize(
    ("kind", "bears", "overflows"), [(np.float16, 11.0, 11.2), (np.float32, 88.7, 88.8), (np.float64, 709.0, 710.0)]
)
def test_where_the_naive_softmax_breaks(kind: type[np.floating], bears: float, overflows: float) -> None:
    # The other score is small: only the large one can overflow, or the sum of both.
    good, bad = np.array([bears, 0], kind), np.array([overflows, 0], kind)
    np.testing.assert_allclose(nums.naive_softmax(good), nums.stable_softmax(good), rtol=2e-2)
    assert np.isnan(nums.naive_softmax(bad)[0]) and np.isinf(nums.naive_log_sum_exp(bad))
    np.testing.assert_allclose(nums.stable_softmax(bad), [1, 0], atol=1e-4)
    assert nums.log_sum_exp(bad) == pytest.approx(overflows, rel=1e-3) and nums.stable_softmax(bad).dtype == kind
    # From below: all powers round to 0.
    low = np.array([-1.1 * overflows - 40, -1.1 * overflows - 41], kind)
    assert np.isnan(nums.naive_softmax(low)).all() and nums.naive_log_sum_exp(low) == -np.inf
    assert nums.stable_softmax(low).sum() == pytest.approx(1, abs=1e-3)


def test_masked_scores() -> None:
    assert nums.stable_softmax(np.array([0.0, -np.inf, 0.0])).tolist() == [0.5, 0, 0.5]
    assert (
        nums.log_sum_exp(np.array([-np.inf, -np.inf])) == -np.inf and nums.log_sum_exp(np.array([np.inf, 0])) == np.inf
    )
    assert np.isnan(nums.stable_softmax(np.array([-np.inf, -np.inf]))).all()


# --------------------------------------------------------------------------------------- rounding and sums


@settings(max_examples=100, deadline=None)
@given(arrays.arrays(np.float32, st.integers(1, 6), elements=st.floats(width=32)))
def test_bfloat16_is_torch_s(x: np.ndarray) -> None:
    np.testing.assert_array_equal(nums.to_bfloat16(x), torch.tensor(x).bfloat16().float().numpy())


def test_bfloat16_ties_go_to_the_even_number() -> None:
    assert nums.to_bfloat16(np.array([1 + 2**-8, 1 + 3 * 2**-8])).tolist() == [1, 1 + 2**-6]
    assert nums.to_bfloat16(np.array([3.4e38, -np.inf, 0.0])).tolist() == [np.inf, -np.inf, 0]


@settings(max_examples=40, deadline=None)
@given(arrays.arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32)))
def test_sums_keep_their_bounds(values: np.ndarray) -> None:
    exact = float(sum((Fraction(float(value)) for value in values), Fraction(0)))
    size = float(np.abs(values.astype(np.float64)).sum()) * 2.0**-24
    count = len(values)
    # Higham 2002, equations 4.4, 4.6 and 4.8, with room for terms of second order.
    for function, factor in (
        (nums.sum_in_order, count),
        (nums.sum_by_halves, math.ceil(math.log2(count)) + 1),
        (nums.sum_compensated, 2 + count * 2.0**-22),
    ):
        assert abs(function(values) - exact) <= 1.01 * factor * size + 1e-45


def test_sums_differ_as_promised() -> None:
    values = np.full(20_000, 0.1, np.float32)
    exact = 20_000 * float(values[0])
    errors = [
        abs(function(values) - exact) for function in (nums.sum_in_order, nums.sum_by_halves, nums.sum_compensated)
    ]
    assert errors[0] > 20 * errors[1] and errors[2] <= 2e-4
    # Half of 2,048 is the last whole number step of float16: 1 is lost from there on.
    assert (
        nums.sum_in_order(np.ones(5000, np.float16)) == 2048 and nums.sum_by_halves(np.ones(4096, np.float16)) == 4096
    )
    assert (0.1 + 0.2) + 0.3 != 0.1 + (0.2 + 0.3)
    for function in (nums.sum_in_order, nums.sum_by_halves, nums.sum_compensated):
        assert function(np.zeros(0, np.float32)) == 0


# --------------------------------------------------------------------------------------- the dot product


@pytest.mark.parametrize("size", [1, 16, 256])
def test_the_variance_of_a_dot_product_is_its_dimension(size: int) -> None:
    raw = nums.random_scores(size, np.random.default_rng(0), num_queries=2000)
    scaled = nums.random_scores(size, np.random.default_rng(0), num_queries=2000, scaled=True)
    assert raw.variance == pytest.approx(size, rel=0.1) and scaled.variance == pytest.approx(1, rel=0.1)
    assert 0 < raw.entropy <= scaled.entropy + 1e-9 and scaled.entropy < math.log(16)
    if size == 256:
        assert raw.largest > 0.9 and raw.gradient < 0.2 < scaled.gradient and scaled.entropy > 2
    with pytest.raises(UsageError, match=r"size \(0\)"):
        nums.random_scores(0, np.random.default_rng(0))


@settings(max_examples=30, deadline=None)
@given(distributions())
def test_gradient_size_is_that_of_the_jacobian(p: np.ndarray) -> None:
    jacobian = np.diag(p) - np.outer(p, p)
    assert nums.softmax_gradient_size(p) == pytest.approx(np.linalg.norm(jacobian), abs=1e-7)


# ------------------------------------------------------------------------------------------- information


@settings(max_examples=80, deadline=None)
@given(pairs, st.sampled_from([math.e, 2.0, 10.0]))
def test_information_is_scipy_s(pair: tuple[np.ndarray, np.ndarray], base: float) -> None:
    p, q = pair
    assert info.entropy(p, base=base) == pytest.approx(scipy.stats.entropy(p, base=base), rel=1e-9, abs=1e-12)
    wanted = special.rel_entr(p, q).sum() / math.log(base)
    assert info.kl_divergence(p, q, base=base) == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@settings(max_examples=80, deadline=None)
@given(pairs)
def test_what_holds_between_them(pair: tuple[np.ndarray, np.ndarray]) -> None:
    p, q = pair
    divergence, crossed, own = info.kl_divergence(p, q), info.cross_entropy(p, q), info.entropy(p)
    assert divergence >= 0 and info.kl_divergence(p, p) == 0
    assert crossed == pytest.approx(own + divergence, rel=1e-9, abs=1e-9)
    assert 0 <= own <= math.log(len(p)) + 1e-12
    assert math.isinf(divergence) == bool(((p > 0) & (q == 0)).any())
    # Pinsker's inequality.
    assert divergence >= 0.5 * np.abs(p - q).sum() ** 2 - 1e-9
    assert info.perplexity(own) <= len(p) * (1 + 1e-9)


def test_known_numbers() -> None:
    coin, biased = [0.5, 0.5], [0.9, 0.1]
    assert info.entropy(coin, base=2) == 1 and info.entropy([1, 0]) == 0
    assert info.kl_divergence(coin, biased) == pytest.approx(0.5108256237659907)
    assert info.kl_divergence(biased, coin) == pytest.approx(0.3680642071684971)
    assert info.perplexity(math.log(27)) == pytest.approx(27) and info.perplexity(1e4) == math.inf
    assert info.bits(math.log(2)) == 1 and info.bits_per_byte(8 * math.log(2), 4) == 2
    assert info.cross_entropy([1, 0], [0, 1]) == math.inf


def test_what_is_no_distribution() -> None:
    for wrong, message in (
        ([0.5, 0.6], "sum 1 and not 1.1"),
        ([1.5, -0.5], "smallest here is -0.5"),
        ([math.nan, 1], "0 or more"),
        ([[0.5, 0.5]], r"shape \(1, 2\)"),
        ([], r"shape \(0,\)"),
    ):
        with pytest.raises(UsageError, match=message):
            info.entropy(wrong)
    with pytest.raises(UsageError, match="over 2 and 1 outcomes"):
        info.kl_divergence([0.5, 0.5], [1])
    with pytest.raises(UsageError, match="base of 1"):
        info.entropy([1], base=1)
    with pytest.raises(UsageError, match="0 bytes"):
        info.bits_per_byte(1, 0)


def test_bfloat16_of_one_number_and_of_numbers_above_the_largest() -> None:
    assert nums.to_bfloat16(np.float32(1.2)).shape == ()
    values = np.array([1e300, -1e300, 3.4e38])
    np.testing.assert_array_equal(nums.to_bfloat16(values), torch.tensor(values).bfloat16().float().numpy())


def test_the_perplexity_of_what_is_no_number_is_none() -> None:
    assert math.isnan(info.perplexity(math.nan)) and info.perplexity(1e9) == math.inf
