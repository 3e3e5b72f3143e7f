"""Softmax, losses, norms, attention and modules beside torch; the gradient check; the optimizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from groundup.core.errors import UsageError
from groundup.foundations.functions import (
    attention,
    batch_norm,
    cross_entropy,
    dropout,
    embedding,
    gelu,
    layer_norm,
    log_softmax,
    mean_squared_error,
    softmax,
)
from groundup.foundations.gradient_check import check_gradients
from groundup.foundations.modules import Activation, BatchNorm, Embedding, LayerNorm, Linear, Module, Sequential
from groundup.foundations.optimizers import SGD, Adam, AdamW, Optimizer, RMSProp
from groundup.foundations.tensor import Tensor, operation
from tests.foundations.torch_pairs import Pair, agree, pair

IDS = np.array([[0, 3, 3], [4, 0, 0]])
CASES: dict[str, tuple[list[tuple[int, ...]], Callable[..., Any], Callable[..., Any]]] = {
    "softmax": ([(2, 5)], softmax, lambda x: x.softmax(-1)),
    "softmax axis": ([(2, 5)], lambda x: softmax(x, 0), lambda x: x.softmax(0)),
    "log_softmax": ([(2, 5)], log_softmax, lambda x: x.log_softmax(-1)),
    "cross_entropy": (
        [(2, 3, 5)],
        lambda x: cross_entropy(x, IDS),
        lambda x: F.cross_entropy(x.reshape(-1, 5), torch.tensor(IDS).reshape(-1)),
    ),
    "mse": ([(4,), (4,)], mean_squared_error, F.mse_loss),
    "gelu": ([(4, 3)], gelu, lambda x: F.gelu(x, approximate="tanh")),
    "embedding": ([(5, 4)], lambda x: embedding(x, IDS), lambda x: F.embedding(torch.tensor(IDS), x)),
    "layer_norm": ([(2, 3, 4), (4,), (4,)], layer_norm, lambda x, w, b: F.layer_norm(x, (4,), w, b)),
    "batch_norm": (
        [(6, 4), (4,), (4,)],
        lambda x, w, b: batch_norm(x, w, b)[0],
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
    ),
    "batch_norm of steps": (
        [(2, 3, 4), (4,), (4,)],
        lambda x, w, b: batch_norm(x, w, b)[0],
        lambda x, w, b: F.batch_norm(x.reshape(6, 4), None, None, w, b, training=True).reshape(2, 3, 4),
    ),
    "attention": (
        [(2, 3, 5, 4), (2, 3, 5, 4), (2, 3, 5, 6)],
        attention,
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    ),
    "attention of one to all": (
        [(2, 1, 4), (2, 5, 4), (2, 5, 4)],
        attention,
        F.scaled_dot_product_attention,
    ),
    "attention to a memory": (
        [(3, 4), (5, 4), (5, 2)],
        lambda q, k, v: attention(q, k, v, is_causal=False),
        F.scaled_dot_product_attention,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_function_equals_torch(name: str) -> None:
    shapes, ours, theirs = CASES[name]
    for seed in range(3):
        leaves = [pair(shape, 10 * seed + i) for i, shape in enumerate(shapes)]
        agree(ours(*(own for own, _ in leaves)), theirs(*(other for _, other in leaves)), leaves)


@pytest.mark.parametrize("name", CASES)
def test_every_derivative_is_that_of_small_steps(name: str) -> None:
    shapes, ours, _ = CASES[name]
    leaves = [pair(shape, i)[0] for i, shape in enumerate(shapes)]
    weights = np.random.default_rng(1).normal(size=ours(*leaves).shape)
    assert check_gradients(lambda: (ours(*leaves) * weights).sum(), leaves) < 1e-6


def test_a_wrong_derivative_is_found_and_named() -> None:
    from groundup.foundations.tensor import operation

    x = Tensor([1.0, 2.0], requires_grad=True)

    def wrong() -> Tensor:
        return operation("wrong", x.data**2, (x,), lambda up: (up * np.array([2.0, 3.9]),)).sum()

    with pytest.raises(UsageError, match=r"parameter 0, element \(1,\): backward gives 3\.9, .* 4"):
        check_gradients(wrong, [x])
    assert x.data.tolist() == [1.0, 2.0], "left as it was"
    with pytest.raises(UsageError, match="needs float64 and not float32"):
        check_gradients(lambda: y.sum(), [y := Tensor(np.ones(2, np.float32), requires_grad=True)])


def test_extreme_logits_make_no_infinity() -> None:
    x = Tensor([[1e5, -1e5, 0.0]], requires_grad=True)
    loss = cross_entropy(x, [1])
    loss.backward()
    assert loss.item() == 2e5
    assert x.grad is not None and x.grad.tolist() == [[1.0, -1.0, 0.0]]
    assert softmax(x).data.tolist() == [[1.0, 0.0, 0.0]]


def test_ids_and_targets_are_checked() -> None:
    table = Tensor(np.ones((3, 2)), requires_grad=True)
    for bad in ([3], [-1], [0.5]):
        with pytest.raises(UsageError, match="whole numbers from 0 to 2"):
            embedding(table, bad)
    with pytest.raises(UsageError, match="whole numbers from 0 to 1"):
        cross_entropy(table, [0, 1, 2])
    with pytest.raises(UsageError, match=r"targets of shape \(2,\) beside logits of shape \(3, 2\)"):
        cross_entropy(table, [0, 1])
    with pytest.raises(UsageError, match="dropout rate of 1"):
        dropout(table, 1, np.random.default_rng(0))


def test_dropout_keeps_the_expectation() -> None:
    x = Tensor(np.ones(20_000), requires_grad=True)
    y = dropout(x, 0.25, np.random.default_rng(0))
    assert set(np.unique(y.data)) == {0.0, 4 / 3}
    assert abs(y.data.mean() - 1) < 0.03
    y.sum().backward()
    assert x.grad is not None and np.array_equal(x.grad, y.data)


# Modules ----------------------------------------------------------------------------------------------------------


class Small(Module):
    def __init__(self, random: np.random.Generator) -> None:
        self.table = Embedding(5, 4, random)
        self.layers = [Linear(4, 6, random), Activation(Tensor.tanh), BatchNorm(6), Linear(6, 4, random, bias=False)]
        self.body = Sequential(self.layers)
        self.norm = LayerNorm(4)
        self.again = self.table

    def __call__(self, ids: np.ndarray) -> Tensor:
        return self.norm(self.body(self.table(ids))) @ self.table.weight.T


def test_parameters_are_found_once_and_modes_reach_all() -> None:
    model = Small(np.random.default_rng(0))
    names = [name for name, _ in model.named_parameters()]
    assert names == [
        "table.weight",
        "layers.0.weight",
        "layers.0.bias",
        "layers.2.weight",
        "layers.2.bias",
        "layers.3.weight",
        "norm.weight",
        "norm.bias",
    ]
    model.convert(np.float32)
    assert {parameter.dtype.name for parameter in model.parameters()} == {"float32"}
    loss = cross_entropy(model(IDS), IDS)
    loss.backward()
    assert loss.dtype == np.float32 and model.table.weight.grad.dtype == np.float32
    model.convert(np.float64)
    model.train(False)
    assert not any(module.training for module in model.modules())
    assert check_gradients(lambda: cross_entropy(model(IDS), IDS), model.parameters()) < 1e-6
    model.train()
    assert check_gradients(lambda: cross_entropy(model(IDS), IDS), model.parameters()) < 1e-6


def test_batch_norm_keeps_running_numbers_as_torch_does() -> None:
    ours, theirs = BatchNorm(4), torch.nn.BatchNorm1d(4, dtype=torch.float64)
    for seed in range(4):
        x, u = pair((7, 4), seed)
        np.testing.assert_allclose(ours(x).data, theirs(u).detach().numpy(), atol=1e-12)
    np.testing.assert_allclose(ours.running_mean, theirs.running_mean.numpy(), atol=1e-12)
    np.testing.assert_allclose(ours.running_variance, theirs.running_var.numpy(), atol=1e-12)
    ours.train(False)
    theirs.eval()
    x, u = pair((1, 4), 9)
    agree(ours(x), theirs(u), [(x, u)])
    ours.train()
    with pytest.raises(UsageError, match="at least two rows"):
        ours(x)


# Optimizers -------------------------------------------------------------------------------------------------------

OPTIMIZERS: dict[str, tuple[Callable[[list[Tensor]], Optimizer], Callable[[list[torch.Tensor]], Any]]] = {
    "sgd": (lambda p: SGD(p, 0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "momentum": (
        lambda p: SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
    ),
    "nesterov": (
        lambda p: SGD(p, 0.1, momentum=0.8, nesterov=True),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.8, nesterov=True),
    ),
    "rmsprop": (
        lambda p: RMSProp(p, 0.02, alpha=0.9, weight_decay=0.1),
        lambda p: torch.optim.RMSprop(p, 0.02, alpha=0.9, weight_decay=0.1),
    ),
    "adam": (
        lambda p: Adam(p, 0.05, betas=(0.8, 0.9), weight_decay=0.1),
        lambda p: torch.optim.Adam(p, 0.05, betas=(0.8, 0.9), weight_decay=0.1),
    ),
    "adamw": (
        lambda p: AdamW(p, 0.05, weight_decay=0.3),
        lambda p: torch.optim.AdamW(p, 0.05, weight_decay=0.3),
    ),
}


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(OPTIMIZERS)), st.integers(0, 1000), st.integers(1, 12))
def test_optimizers_take_the_steps_of_torch(name: str, seed: int, steps: int) -> None:
    leaves: list[Pair] = [pair((3, 2), seed), pair((4,), seed + 1)]
    unused = Tensor(np.ones(2), requires_grad=True)
    ours = OPTIMIZERS[name][0]([*(own for own, _ in leaves), unused])
    theirs = OPTIMIZERS[name][1]([other for _, other in leaves])
    for step in range(steps):
        ours.zero_grad()
        theirs.zero_grad()
        for (own, other), goal in zip(leaves, (1.0 + step, -2.0), strict=True):
            ((own - goal) ** 2 + 1).sqrt().mean().backward()
            ((other - goal) ** 2 + 1).sqrt().mean().backward()
        ours.step()
        theirs.step()
    for own, other in leaves:
        np.testing.assert_allclose(own.data, other.detach().numpy(), rtol=1e-10, atol=1e-12)
    assert unused.data.tolist() == [1.0, 1.0], "what has no gradient stays"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD([], 0.1), "needs parameters"),
        (lambda: SGD([Tensor(1.0)], 0.1), "each must require a gradient"),
        (lambda: SGD([Tensor(1.0, requires_grad=True)], -1), "a rate of -1"),
        (lambda: SGD([Tensor(1.0, requires_grad=True)], 1, momentum=1), "a momentum of 1"),
        (lambda: SGD([Tensor(1.0, requires_grad=True)], 1, nesterov=True), "which is 0"),
        (lambda: Adam([Tensor(1.0, requires_grad=True)], betas=(0.9, 1.0)), "betas of"),
    ],
)
def test_settings_that_cannot_be_are_refused(make: Callable[[], Optimizer], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


# What broke them -----------------------------------------------------------------------------------------------------


def test_a_gradient_that_is_not_a_number_fails_the_check() -> None:
    x = Tensor([1.0, 2.0], requires_grad=True)

    def broken() -> Tensor:
        return operation("broken", x.data.sum(), (x,), lambda up: (np.full(2, np.nan),))

    with pytest.raises(UsageError, match=r"element \(0,\): backward gives nan"):
        check_gradients(broken, [x])
    empty = Tensor(np.ones((0, 3)), requires_grad=True)
    assert check_gradients(lambda: empty.sum() + x.sum(), [empty, x]) < 1e-6


def test_targets_and_masks_may_be_tensors_and_may_be_changed_after_use() -> None:
    logits = Tensor(np.zeros((2, 3)), requires_grad=True)
    targets, mask = np.array([0, 1]), np.array([True, False])
    loss = cross_entropy(logits, targets, mask)
    targets[:], mask[:] = 2, True
    loss.backward()
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad, [[-2 / 3, 1 / 3, 1 / 3], [0, 0, 0]], atol=1e-15)
    assert cross_entropy(logits, Tensor([0, 1]), Tensor([True, False])).item() == pytest.approx(np.log(3))
    assert embedding(logits, Tensor([1, 1])).shape == (2, 3)


def test_what_has_no_answer_is_refused_with_its_shapes() -> None:
    rows = Tensor(np.ones((2, 3)), requires_grad=True)
    with pytest.raises(UsageError, match=r"targets of shape \(0,\): a mean needs at least one"):
        cross_entropy(Tensor(np.ones((0, 3))), np.zeros(0, np.int64))
    for norm in (layer_norm, batch_norm):
        with pytest.raises(
            UsageError, match=r"weight of shape \(1,\) and a bias of shape \(3,\) beside rows of shape \(2, 3\)"
        ):
            norm(rows, Tensor(np.ones(1)), Tensor(np.ones(3)))
    with pytest.raises(UsageError, match="5 queries at the end of 2 keys: the first 3 would see none"):
        attention(Tensor(np.ones((5, 3))), rows, rows)


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_a_parameter_that_gets_its_first_gradient_late_has_taken_no_steps(name: str) -> None:
    """Adam's corrections count a parameter's own steps: a layer that was frozen for a while begins like a new one."""
    start = np.array([1.0, -2.0])
    ours = [Tensor(start, requires_grad=True) for _ in range(2)]
    theirs = [torch.tensor(start, requires_grad=True) for _ in range(2)]
    optimizer: Optimizer = {"Adam": Adam, "AdamW": AdamW}[name](ours, 0.1, weight_decay=0.01)
    reference = getattr(torch.optim, name)(theirs, 0.1, weight_decay=0.01)
    for step in range(8):
        optimizer.zero_grad()
        reference.zero_grad()
        used = slice(0, 1) if step < 5 else slice(0, 2)
        for x in ours[used]:
            (x * x).sum().backward()
        for y in theirs[used]:
            (y * y).sum().backward()
        optimizer.step()
        reference.step()
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(x.data, y.detach().numpy(), rtol=1e-12)
