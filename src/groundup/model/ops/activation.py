"""Activations, under the names that `config.json` files use."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def gelu_new(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """GPT-2's tanh approximation of x * Phi(x) (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def gelu_new_fast(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`gelu_new` in one fused pass."""
    return F.gelu(x, approximate="tanh")


def gelu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """x * Phi(x) with the exact normal distribution function."""
    return F.gelu(x)


def relu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """max(x, 0)."""
    return F.relu(x)


def relu2(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """max(x, 0) squared (So et al. 2021, Primer, arXiv:2109.08668)."""
    return F.relu(x).square()


def silu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """x * sigmoid(x), also called swish."""
    return F.silu(x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": gelu_new_fast,
    "gelu": gelu,
    "relu": relu,
    "relu2": relu2,
    "silu": silu,
}
