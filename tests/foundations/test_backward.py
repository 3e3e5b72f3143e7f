"""Backward passes by hand beside torch, beside the small steps of our own engine, and beside differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from groundup.foundations import backward
from groundup.foundations.tensor import Array, Tensor, where

sizes = st.integers(1, 6)
seeds = st.integers(0, 10_000)


def near(ours: Array, theirs: Array) -> None:
    """Equal to 1e-10 of the largest."""
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max(initial=0) <= 1e-10 * max(np.abs(theirs).max(initial=0), 1e-3)


def by_torch(function: Callable[..., torch.Tensor], arrays: list[Array], up: Array) -> tuple[Array, list[Array]]:
    leaves = [torch.tensor(array, requires_grad=True) for array in arrays]
    result = function(*leaves)
    result.backward(torch.tensor(up))
    return result.detach().numpy(), [leaf.grad.numpy() for leaf in leaves if leaf.grad is not None]


def by_engine(function: Callable[..., Tensor], arrays: list[Array], up: Array) -> tuple[Array, list[Array]]:
    leaves = [Tensor(array, requires_grad=True) for array in arrays]
    result = function(*leaves)
    result.backward(up)
    return result.data, [leaf.grad for leaf in leaves if leaf.grad is not None]


def compare(
    value: Array,
    gradients: tuple[Array, ...],
    references: list[tuple[Array, list[Array]]],
) -> None:
    for expected, expected_gradients in references:
        near(np.asarray(value), expected)
        for own, other in zip(gradients, expected_gradients, strict=True):
            near(own, other)


@settings(max_examples=30, deadline=None)
@given(seeds, sizes, st.integers(2, 7), st.sampled_from([1.0, 30.0]))
def test_cross_entropy(seed: int, count: int, size: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    logits, targets = random.normal(size=(count, size)) * scale, random.integers(0, size, count)
    up = np.asarray(random.normal())
    loss, logs = backward.cross_entropy_forward(logits, targets)
    gradient = backward.cross_entropy_backward(up, logs, targets)

    def small_steps(x: Tensor) -> Tensor:
        shifted = x - x.max(axis=1, keepdims=True).detach()
        return (shifted.exp().sum(axis=1).log() - (shifted * np.eye(size)[targets]).sum(axis=1)).mean()

    compare(
        loss,
        (gradient,),
        [
            by_torch(lambda x: F.cross_entropy(x, torch.tensor(targets)), [logits], up),
            by_engine(small_steps, [logits], up),
        ],
    )
    np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(2, 6), sizes, st.integers(2, 5), st.sampled_from(["layer", "batch"]))
def test_norms(seed: int, rows: int, places: int, size: int, kind: str) -> None:
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, places, size)) * 3 + 2
    weight, bias, up = random.normal(size=size), random.normal(size=size), random.normal(size=x.shape)
    axes = (-1,) if kind == "layer" else (0, 1)

    def small_steps(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return (x - x.mean(axes, keepdims=True)) / (x.var(axes, keepdims=True) + 1e-5).sqrt() * weight + bias

    def theirs(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        if kind == "layer":
            return F.layer_norm(x, (size,), weight, bias)
        return F.batch_norm(x.reshape(-1, size), None, None, weight, bias, training=True).reshape(x.shape)

    forward = backward.layer_norm_forward if kind == "layer" else backward.batch_norm_forward
    back = backward.layer_norm_backward if kind == "layer" else backward.batch_norm_backward
    y, saved = forward(x, weight, bias)
    arrays = [x, weight, bias]
    compare(y, back(up, saved), [by_torch(theirs, arrays, up), by_engine(small_steps, arrays, up)])
    # Adding a number to all of x, or making it larger, changes nothing: the gradient has no part along either.
    by_x = back(up, saved)[0]
    np.testing.assert_allclose(by_x.sum(axis=axes), 0, atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(seeds, sizes, sizes, sizes, sizes, st.booleans())
def test_attention(seed: int, count: int, more: int, size: int, width: int, is_causal: bool) -> None:
    random = np.random.default_rng(seed)
    seen = count + more - 1
    shapes = [(2, 3, count, size), (2, 3, seen, size), (2, 3, seen, width)]
    arrays = [random.normal(size=shape) for shape in shapes]
    up = random.normal(size=(2, 3, count, width))
    visible = np.tril(np.ones((count, seen), bool), seen - count) if is_causal else np.ones((count, seen), bool)

    def small_steps(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scores = where(visible, query @ key.swapaxes(-1, -2) / np.sqrt(size), -1e30)
        powers = (scores - scores.max(axis=-1, keepdims=True).detach()).exp()
        return powers / powers.sum(axis=-1, keepdims=True) @ value

    def theirs(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=torch.tensor(visible))

    y, saved = backward.attention_forward(*arrays, is_causal=is_causal)
    compare(
        y,
        backward.attention_backward(up, saved),
        [by_torch(theirs, arrays, up), by_engine(small_steps, arrays, up)],
    )
    assert not saved.shares[..., ~visible].any()


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(0, 1))
def test_softmax_along_both_axes(seed: int, axis: int) -> None:
    random = np.random.default_rng(seed)
    x, up = random.normal(size=(3, 4)) * 5, random.normal(size=(3, 4))
    y = backward.softmax_forward(x, axis)
    expected, (gradient,) = by_torch(lambda x: x.softmax(axis), [x], up)
    compare(y, (backward.softmax_backward(up, y, axis),), [(expected, [gradient])])
    near(backward.log_softmax_forward(x, axis), np.log(expected))


def test_nothing_that_was_given_is_changed() -> None:
    random = np.random.default_rng(0)
    x, up = random.normal(size=(4, 3)), random.normal(size=(4, 3))
    weight, targets = np.ones(3), np.array([0, 1, 2, 0])
    for array in (x, up, weight, targets):
        array.flags.writeable = False
    backward.layer_norm_backward(up, backward.layer_norm_forward(x, weight, weight)[1])
    backward.batch_norm_backward(up, backward.batch_norm_forward(x, weight, weight)[1])
    logs = backward.cross_entropy_forward(x, targets)[1]
    logs.flags.writeable = False
    backward.cross_entropy_backward(1.0, logs, targets)
    saved = backward.attention_forward(x, x, up)[1]
    assert [part.shape for part in backward.attention_backward(up, saved)] == [(4, 3)] * 3


@pytest.mark.parametrize("is_causal", [True, False])
def test_huge_scores_make_no_infinity(is_causal: bool) -> None:
    x = np.array([[1e4, 0.0], [0.0, 1e4], [1e4, 1e4]])
    y, saved = backward.attention_forward(x, x, np.eye(3), is_causal=is_causal)
    assert np.isfinite(y).all()
    assert all(np.isfinite(part).all() for part in backward.attention_backward(np.ones((3, 3)), saved))
