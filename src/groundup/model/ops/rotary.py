"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), in the half-split layout of Llama and Qwen."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


def rotary_tables(
    positions: Int[Tensor, "B T"], head_dim: int, rope_theta: float, dtype: torch.dtype
) -> tuple[Float[Tensor, "B T half"], Float[Tensor, "B T half"]]:
    """Cosine and sine of position * theta^(-2i/d) for i < d/2.

    Angles are computed in float32 whatever the dtype of the model: in bfloat16 positions above 256 would coincide.

    Args:
        positions: position of each token; one row serves a whole batch.
        head_dim: size of a head, even.
        rope_theta: base of the wavelengths.
        dtype: dtype of the result.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim
    angles = positions[..., None].float() * (1.0 / rope_theta**exponents)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotary_reference(
    x: Float[Tensor, "B H T d"], cos: Float[Tensor, "#B T half"], sin: Float[Tensor, "#B T half"]
) -> Float[Tensor, "B H T d"]:
    """Turn each pair (x[i], x[i + d/2]) by its angle; the tables have the dtype of `x`."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]  # B 1 T d/2
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def rotary_fast(
    x: Float[Tensor, "B H T d"], cos: Float[Tensor, "#B T half"], sin: Float[Tensor, "#B T half"]
) -> Float[Tensor, "B H T d"]:
    """`rotary_reference` written in place; its gradient is the rotation back, which needs no saved activations."""
    result: Tensor = _Rotate.apply(x, cos[:, None], sin[:, None])  # type: ignore[no-untyped-call]
    return result


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    halves = x.view(*x.shape[:-1], 2, x.shape[-1] // 2)
    result = halves * cos[..., None, :]
    result[..., 0, :].addcmul_(halves[..., 1, :], sin, value=-sign)
    result[..., 1, :].addcmul_(halves[..., 0, :], sin, value=sign)
    return result.flatten(-2)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin, 1.0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(gradient, cos, sin, -1.0), None, None
