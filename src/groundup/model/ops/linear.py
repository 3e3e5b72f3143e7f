"""Linear maps: torch's, and oneDNN's beside it."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from groundup.model.ops.paths import takes_onednn


def linear(
    x: Float[Tensor, "*rows D"], weight: Float[Tensor, "F D"], bias: Float[Tensor, " F"] | None = None
) -> Float[Tensor, "*rows F"]:
    """x W^T + b, by the library that `compute_paths` names."""
    return linear_onednn(x, weight, bias) if takes_onednn(x) else F.linear(x, weight, bias)


def linear_onednn(
    x: Float[Tensor, "*rows D"], weight: Float[Tensor, "F D"], bias: Float[Tensor, " F"] | None = None
) -> Float[Tensor, "*rows F"]:
    """The same through oneDNN, forward and backward.

    torch sends float32 products to MKL, which takes its AVX2 kernels on processors that are not Intel's; oneDNN asks
    the processor what it can do. On an AMD EPYC with AVX-512 that is more than twice the rate.
    """
    result: Tensor = _OneDnnLinear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return result


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return _product(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        # Its sums run over the batch, so both factors are read along their columns.
        rows = gradient.reshape(-1, gradient.shape[-1])  # N F
        for_x = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            for_x = _product(rows, weight.t(), None).view(x.shape)
        if ctx.needs_input_grad[1]:
            for_weight = _product(rows.t(), x.reshape(-1, x.shape[-1]).t(), None)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            for_bias = rows.sum(0)
        return for_x, for_weight, for_bias
