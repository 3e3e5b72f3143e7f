"""Tensors of both engines with the same numbers, and whether what was computed from them agrees."""

from __future__ import annotations

import numpy as np
import torch

from groundup.foundations.tensor import Tensor

Pair = tuple[Tensor, torch.Tensor]


def pair(shape: tuple[int, ...], seed: int, *, positive: bool = False) -> Pair:
    values = np.random.default_rng(seed).normal(size=shape)
    values = np.abs(values) + 0.5 if positive else values
    return Tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)


def agree(ours: Tensor, theirs: torch.Tensor, leaves: list[Pair], tolerance: float = 1e-10) -> None:
    """Values, and gradients under the same random weights of the result."""
    assert ours.shape == tuple(theirs.shape)
    np.testing.assert_allclose(ours.data, theirs.detach().numpy(), rtol=tolerance, atol=tolerance)
    weights = np.random.default_rng(9).normal(size=ours.shape)
    ours.backward(weights)
    theirs.backward(torch.tensor(weights))
    for own, other in leaves:
        if other.grad is None:
            assert own.grad is None
        else:
            assert own.grad is not None
            np.testing.assert_allclose(own.grad, other.grad.numpy(), rtol=tolerance, atol=tolerance)
