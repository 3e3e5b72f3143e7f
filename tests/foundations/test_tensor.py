"""The tensor engine beside torch: random graphs with broadcasting, every operation, what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import UsageError
from groundup.foundations.tensor import Tensor, concatenate, no_grad, operation, stack, where
from tests.foundations.torch_pairs import agree, pair

SHAPES = [(), (1,), (3,), (2, 3), (2, 1), (1, 3), (4, 2, 3), (4, 1, 1), (1, 2, 1)]
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
    "/": lambda x, y: x / (y * y + 1.0),
}
UNARY: dict[str, Callable[[Any], Any]] = {
    "tanh": lambda x: x.tanh(),
    "sigmoid": lambda x: x.sigmoid(),
    "relu": lambda x: x.relu(),
    "exp": lambda x: (x.tanh()).exp(),
    "log": lambda x: (x * x + 0.5).log(),
    "sqrt": lambda x: (x * x + 0.5).sqrt(),
    "power": lambda x: (x * x + 0.5) ** 1.5,
    "numbers": lambda x: 2 - 3 * x + 1 / (x * x + 2) - (x - 1) / 4,
    "sum": lambda x: x.sum(),
    "mean": lambda x: x.mean(),
    "flat": lambda x: x.reshape(-1),
}


def broadcastable(x: tuple[int, ...], y: tuple[int, ...]) -> bool:
    try:
        np.broadcast_shapes(x, y)
    except ValueError:
        return False
    return True


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(SHAPES), min_size=2, max_size=4),
    st.lists(
        st.tuples(st.sampled_from(sorted(BINARY) + sorted(UNARY)), st.integers(0, 60), st.integers(0, 60)), max_size=12
    ),
    st.integers(0, 1000),
)
def test_random_graphs_equal_torch(shapes: list[tuple[int, ...]], steps: list[Any], seed: int) -> None:
    leaves = [pair(shape, seed + i) for i, shape in enumerate(shapes)]
    pool: list[tuple[Any, Any]] = list(leaves)
    for name, i, j in steps:
        (x, u), (y, v) = pool[i % len(pool)], pool[j % len(pool)]
        if name in BINARY and not broadcastable(x.shape, y.shape):
            continue
        made = (BINARY[name](x, y), BINARY[name](u, v)) if name in BINARY else (UNARY[name](x), UNARY[name](u))
        if np.abs(made[0].data).max() > 1e3:
            made = (made[0].tanh(), made[1].tanh())
        pool.append(made)
    ours, theirs = pool[0][0].sum(), pool[0][1].sum()
    for x, u in pool[1:]:
        ours, theirs = ours + x.sum(), theirs + u.sum()
    agree(ours, theirs, leaves, 1e-8)


CASES: dict[str, tuple[list[tuple[int, ...]], Callable[..., Any], Callable[..., Any]]] = {
    "sum axis": ([(2, 3, 4)], lambda x: x.sum(1), lambda x: x.sum(1)),
    "sum axes": ([(2, 3, 4)], lambda x: x.sum((0, -1), keepdims=True), lambda x: x.sum((0, -1), keepdim=True)),
    "mean axis": ([(2, 3, 4)], lambda x: x.mean(-1, keepdims=True), lambda x: x.mean(-1, keepdim=True)),
    "var": ([(2, 3, 4)], lambda x: x.var(1), lambda x: x.var(1, unbiased=False)),
    "max": ([(2, 3, 4)], lambda x: x.max(), lambda x: x.max()),
    "max axis": ([(2, 3, 4)], lambda x: x.max(1), lambda x: x.max(1).values),
    "max keepdims": ([(2, 3)], lambda x: x.max(-1, keepdims=True), lambda x: x.max(-1, keepdim=True).values),
    "transpose": ([(2, 3, 4)], lambda x: x.transpose(2, 0, -2), lambda x: x.permute(2, 0, 1)),
    "T": ([(2, 3)], lambda x: x.T, lambda x: x.T),
    "swapaxes": ([(2, 3, 4)], lambda x: x.swapaxes(0, -1), lambda x: x.swapaxes(0, -1)),
    "slice": ([(4, 5)], lambda x: x[1:, ::2], lambda x: x[1:, ::2]),
    "number": ([(4, 5)], lambda x: x[-1], lambda x: x[-1]),
    "places twice": ([(4, 5)], lambda x: x[[0, 2, 0, 0]], lambda x: x[[0, 2, 0, 0]]),
    "pairs": ([(4, 5)], lambda x: x[[0, 1, 0], [2, 2, 2]], lambda x: x[[0, 1, 0], [2, 2, 2]]),
    "mask": ([(3,)], lambda x: x[np.array([True, False, True])], lambda x: x[torch.tensor([True, False, True])]),
    "new axis": ([(3,)], lambda x: x[:, None] * x, lambda x: x[:, None] * x),
    "matmul": ([(2, 3), (3, 4)], lambda x, y: x @ y, lambda x, y: x @ y),
    "matmul batch": ([(5, 2, 3), (5, 3, 4)], lambda x, y: x @ y, lambda x, y: x @ y),
    "matmul broadcast": ([(5, 1, 2, 3), (4, 3, 2)], lambda x, y: x @ y, lambda x, y: x @ y),
    "matmul vector": ([(2, 3), (3,)], lambda x, y: x @ y, lambda x, y: x @ y),
    "vector matmul": ([(3,), (3, 2)], lambda x, y: x @ y, lambda x, y: x @ y),
    "vector batch": ([(3,), (4, 3, 2)], lambda x, y: x @ y, lambda x, y: x @ y),
    "batch vector": ([(4, 2, 3), (3,)], lambda x, y: x @ y, lambda x, y: x @ y),
    "batch matrix": ([(4, 2, 3), (3, 5)], lambda x, y: x @ y, lambda x, y: x @ y),
    "two axes of batch and a matrix": ([(2, 4, 2, 3), (3, 5)], lambda x, y: x @ y, lambda x, y: x @ y),
    "batch turned round": ([(2, 3, 4), (2, 5)], lambda x, y: x.T @ y, lambda x, y: x.permute(2, 1, 0) @ y),
    "rows": (
        [(4, 5, 2)],
        lambda x: x[np.array([[0, -1, 0], [2, 3, 0]])],
        lambda x: x[torch.tensor([[0, -1, 0], [2, 3, 0]])],
    ),
    "dot": ([(3,), (3,)], lambda x, y: x @ y, lambda x, y: x @ y),
    "itself": ([(3, 3)], lambda x: x @ x, lambda x: x @ x),
    "where": (
        [(2, 3), (3,)],
        lambda x, y: where(np.eye(2, 3) > 0, x, y),
        lambda x, y: torch.where(torch.eye(2, 3) > 0, x, y),
    ),
    "concatenate": ([(2, 3), (2, 1)], lambda x, y: concatenate([x, y, x], 1), lambda x, y: torch.cat([x, y, x], 1)),
    "stack": ([(2, 3), (2, 3)], lambda x, y: stack([x, y], -1), lambda x, y: torch.stack([x, y], -1)),
    "arrays on the left": (
        [(2, 3)],
        lambda x: np.ones((4, 2)) @ x + np.ones(3) * x[0],
        lambda x: torch.ones(4, 2, dtype=torch.float64) @ x + torch.ones(3) * x[0],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_operation_equals_torch(name: str) -> None:
    shapes, ours, theirs = CASES[name]
    leaves = [pair(shape, i) for i, shape in enumerate(shapes)]
    agree(ours(*(own for own, _ in leaves)), theirs(*(other for _, other in leaves)), leaves)


INDICES: dict[str, Any] = {
    "rows": np.array([3, 0, 3, -1, 3]),
    "rows of rows": np.array([[1, 1], [0, -4]]),
    "one row": np.array(2),
    "no rows": np.array([], np.int64),
    "small whole numbers": np.array([3, 3, 0], np.uint8),
    "slices": (slice(None, None, -1), slice(1, 3)),
    "dots": (..., 0),
    "new axes": (None, 1, slice(None), None),
    "nothing": (),
    "numbers": (np.int64(1), 2),
    "mask": np.eye(4, 5) > 0,
    "mask of rows": np.array([True, False, True, True]),
    "pairs": (np.array([0, 0, 1]), np.array([2, 2, 1])),
    "rows and a slice": (np.array([1, 1]), slice(1, 3)),
    "list": [0, 0, 2],
    "tensor": Tensor([1, 1]),
}


@pytest.mark.parametrize("name", INDICES)
def test_what_is_read_gets_the_sum_of_the_derivatives(name: str) -> None:
    index = INDICES[name]
    x = pair((4, 5), 1)[0]
    y = x[index]
    up = np.random.default_rng(2).normal(size=y.shape)
    y.backward(up)
    expected = np.zeros((4, 5))
    np.add.at(expected, index.data if isinstance(index, Tensor) else index, up)
    assert x.grad is not None
    np.testing.assert_allclose(x.grad, expected, rtol=1e-14, atol=1e-15)


def test_a_parameter_takes_another_type() -> None:
    x = Tensor([1.0, 2.0], requires_grad=True)
    (x * x).sum().backward()
    y = x * 2
    x.convert(np.float32)
    assert x.dtype == np.float32 and x.grad is None and y.dtype == np.float64
    (x * x).sum().backward()
    assert x.grad is not None and x.grad.dtype == np.float32 and x.grad.tolist() == [2.0, 4.0]
    with pytest.raises(UsageError, match=r"result of \* keeps its type"):
        y.convert(np.float32)
    with pytest.raises(UsageError, match="not int32"):
        x.convert(np.int32)


def test_equal_largest_share_the_derivative() -> None:
    x = Tensor([1.0, 3.0, 3.0], requires_grad=True)
    x.max().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 0.5, 0.5]


def test_gradients_add_up_over_uses_and_calls() -> None:
    x = Tensor([2.0], requires_grad=True)
    y = (x * x + x).sum()
    y.backward()
    y.backward()
    assert x.grad is not None and x.grad.tolist() == [10.0]
    assert y.grad is None, "only what requires a gradient itself keeps one"


def test_fifty_thousand_steps_deep() -> None:
    x = y = Tensor(1.0, requires_grad=True)
    for _ in range(50 * sys.getrecursionlimit()):
        y = y + x
    y.backward()
    assert x.grad is not None and float(x.grad) == 1 + 50 * sys.getrecursionlimit()


def test_nothing_that_a_gradient_needs_can_change() -> None:
    given = np.array([1.0, 2.0])
    x = Tensor(given, requires_grad=True)
    given[0] = 7  # what it was made from is copied
    y = x * x
    with pytest.raises(ValueError, match="read-only"):
        x.data[0] = 5
    with pytest.raises(ValueError, match="read-only"):
        y.data += 1
    with pytest.raises(UsageError, match="cannot be changed in place"):
        x[0] = 5.0
    with pytest.raises(UsageError, match=r"the result of \* cannot be given other numbers"):
        y.data = np.zeros(2)
    x.data = np.array([10.0, 10.0])  # the next step of training
    z = y
    z += 1
    assert z is not y
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [2.0, 4.0], "of the values at the time"


def test_what_makes_no_sense_is_refused() -> None:
    x = Tensor(np.ones((2, 3)), requires_grad=True)
    for wrong, message in (
        (lambda: x.backward(), r"needs one number to differentiate, this tensor has shape \(2, 3\)"),
        (lambda: x.backward(np.ones(3)), r"weights of shape \(3,\) for a tensor of shape \(2, 3\)"),
        (lambda: Tensor(1.0).backward(), "depends on nothing that requires a gradient"),
        (lambda: x @ x, r"shapes \(2, 3\) and \(2, 3\): 3 is not 2"),
        (lambda: Tensor(np.ones((2, 2, 3))) @ x, r"shapes \(2, 2, 3\) and \(2, 3\): 3 is not 2"),
        (lambda: x @ 2.0, "use \\* for numbers"),
        (lambda: x**x, "exponent must be a plain number"),
        (lambda: setattr(x, "data", np.ones(2)), r"of shape \(2, 3\) was given numbers of shape \(2,\)"),
    ):
        with pytest.raises(UsageError, match=message):
            wrong()


def test_no_graph_inside_no_grad() -> None:
    x = Tensor([1.0], requires_grad=True)
    with no_grad():
        y = (x * 2).exp()
    assert not y.requires_grad and y.parents == ()
    assert (x * 2).requires_grad


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_beside_a_tensor_take_its_type(dtype: type) -> None:
    x = Tensor(np.ones(3, dtype), requires_grad=True)
    y = (2 * x + np.arange(3) - x / 3) ** 2
    assert y.dtype == dtype and (1 - y.mean()).dtype == dtype
    y.sum().backward()
    assert x.grad is not None and x.grad.dtype == dtype


def test_an_operation_of_ones_own() -> None:
    x = Tensor([1.0, 2.0], requires_grad=True)
    cubed = operation("cube", x.data**3, (x,), lambda up: (up * 3 * x.data**2,))
    cubed.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [3.0, 12.0]


# What broke it -------------------------------------------------------------------------------------------------------


def test_an_index_a_condition_or_targets_may_be_changed_after_use() -> None:
    x = Tensor(np.zeros(4), requires_grad=True)
    places, chosen = np.array([0, 1]), np.array([True, False, False, True])
    y = x[places].sum() + where(chosen, x, 0.0).sum() * 10
    places[:], chosen[:] = 3, False
    y.backward()
    assert x.grad is not None and x.grad.tolist() == [11, 1, 0, 10]


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int64, np.uint64])
def test_ids_of_any_whole_type_find_their_rows(kind: type[np.integer]) -> None:
    # 300 rows are more than an index of one byte can say.
    ours, theirs = pair((300, 2), 0)
    places = np.array([0, 120, 7, 120], kind)
    agree(ours[places] * 3.0, theirs[places.astype(np.int64)] * 3.0, [(ours, theirs)])


def test_a_tensor_may_be_the_condition_of_where() -> None:
    x = Tensor([1.0, 2.0], requires_grad=True)
    assert where(Tensor([True, False]), x, 0.0).data.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("left", "right"), [((2, 2, 0), (0, 3)), ((0, 2, 4), (4, 3)), ((2, 0), (0, 3)), ((2, 0, 4), (4, 3))]
)
def test_products_of_nothing_are_zeros(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    pairs = [pair(left, 0), pair(right, 1)]
    agree(pairs[0][0] @ pairs[1][0], pairs[0][1] @ pairs[1][1], pairs)


def test_a_mean_over_nothing_is_refused_and_one_of_no_rows_is_empty() -> None:
    x = Tensor(np.ones((0, 3)), requires_grad=True)
    assert x.mean(1).shape == x.var(1).shape == (0,)
    for axis in (0, None):
        with pytest.raises(UsageError, match=r"axis of size 0, of a tensor of shape \(0, 3\)"):
            x.mean(axis)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_sigmoid_is_right_to_the_last_digits_far_below_zero(kind: type[np.floating]) -> None:
    x = np.array([-800.0, -80.0, -40.0, -20.0, -9.0, 0.0, 9.0, 800.0], kind)
    given_, reference = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    given_.sigmoid().sum().backward()
    reference.sigmoid().sum().backward()
    tolerance = 8 * float(np.finfo(kind).eps)
    np.testing.assert_allclose(given_.sigmoid().data, reference.sigmoid().detach().numpy(), rtol=tolerance)
    assert given_.grad is not None and reference.grad is not None
    np.testing.assert_allclose(given_.grad, reference.grad.numpy(), rtol=tolerance)


def test_a_gradient_is_of_the_type_of_its_parameter() -> None:
    small, large = (Tensor(np.ones(3, kind), requires_grad=True) for kind in (np.float32, np.float64))
    (small * large).sum().backward()
    assert small.grad is not None and small.grad.dtype == np.float32
    assert large.grad is not None and large.grad.dtype == np.float64


def test_a_tensor_of_tensors_is_refused_as_its_graph_would_be_lost() -> None:
    x = Tensor([1.0, 2.0], requires_grad=True)
    for values in ([x, x], ["a"], [1j]):
        with pytest.raises(UsageError, match="stack or concatenate"):
            Tensor(values)  # type: ignore[arg-type]
    x.data = x * 2
    assert x.data.tolist() == [2, 4] and x.requires_grad
