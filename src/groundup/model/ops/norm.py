"""Layer norm and RMS norm over the last dimension."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def layer_norm(
    x: Float[Tensor, "*rows D"], weight: Float[Tensor, " D"], bias: Float[Tensor, " D"] | None, eps: float
) -> Float[Tensor, "*rows D"]:
    """(x - mean) / sqrt(variance + eps) * weight + bias (Ba et al. 2016, arXiv:1607.06450).

    Statistics are taken in at least float32; the result has the dtype of `x`.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = wide - wide.mean(-1, keepdim=True)
    scaled = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    result = scaled * weight if bias is None else scaled * weight + bias
    return result.to(x.dtype)


def layer_norm_fast(
    x: Float[Tensor, "*rows D"], weight: Float[Tensor, " D"], bias: Float[Tensor, " D"] | None, eps: float
) -> Float[Tensor, "*rows D"]:
    """`layer_norm` through torch's fused kernel."""
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def rms_norm(x: Float[Tensor, "*rows D"], weight: Float[Tensor, " D"], eps: float) -> Float[Tensor, "*rows D"]:
    """x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4).

    Statistics are taken in at least float32; the result has the dtype of `x`.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (scaled * weight).to(x.dtype)


def rms_norm_fast(x: Float[Tensor, "*rows D"], weight: Float[Tensor, " D"], eps: float) -> Float[Tensor, "*rows D"]:
    """`rms_norm` with a backward of its own.

    On the CPU torch's F.rms_norm is a chain of small operations whose backward passes over the data more than ten
    times; this one needs five passes. On an accelerator, where F.rms_norm is one kernel, that is used.
    """
    if x.device.type == "cpu":
        result: Tensor = _RMSNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
        return result
    if weight.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
        # Gemma's 1 + weight beside bfloat16: rounded to that, it would keep two decimals of the weight.
        return F.rms_norm(x.to(weight.dtype), weight.shape, weight, eps).to(x.dtype)
    return F.rms_norm(x, weight.shape, weight.to(x.dtype), eps)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        size = x.shape[-1]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = torch.rsqrt(norm.square() / size + eps)  # one value per row
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).mul_(weight).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        size = x.shape[-1]
        gradient = gradient.to(scale.dtype)
        normed = x * scale
        for_weight = (gradient * normed).reshape(-1, size).sum(0)
        for_normed = gradient * weight
        along = torch.linalg.vecdot(for_normed, normed).unsqueeze(-1) / -size
        for_x = for_normed.addcmul_(normed, along).mul_(scale)
        return for_x.to(x.dtype), for_weight.to(weight.dtype), None
