"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), in the half-split layout of Llama and Qwen."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from groundup.model.config import RotaryConfig
from groundup.model.ops.rotary_angles import rotary_angles


def rotary_tables(
    positions: Int[Tensor, "B T"],
    head_dim: int,
    rotary: RotaryConfig,
    dtype: torch.dtype,
    lengths: Int[Tensor, "B T"] | None = None,
) -> tuple[Float[Tensor, "B T half"], Float[Tensor, "B T half"]]:
    """Cosine and sine of position * frequency, for each turned pair of a head.

    Angles are computed in float32 whatever the dtype of the model: in bfloat16 positions above 256 would coincide.

    Args:
        positions: position of each token; one row serves a whole batch.
        head_dim: size of a head, of which `partial_rotary_factor` is turned.
        rotary: base of the wavelengths and scaling.
        dtype: dtype of the result.
        lengths: of the text that each token belongs to; by default a row is one text.
    """
    if lengths is None:
        lengths = positions.amax(dim=-1, keepdim=True) + 1
    angles, factor = rotary_angles(positions.float(), head_dim, rotary, lengths, torch)
    cos, sin = angles.cos(), angles.sin()
    if factor != 1.0:
        cos, sin = cos * factor, sin * factor
    return cos.to(dtype), sin.to(dtype)


def rotary_reference(
    x: Float[Tensor, "B H T d"], cos: Float[Tensor, "#B T half"], sin: Float[Tensor, "#B T half"]
) -> Float[Tensor, "B H T d"]:
    """Turn each pair (x[i], x[i + r/2]) of the first r values by its angle; the rest of a head stays as it is.

    Args:
        x: queries or keys.
        cos: r/2 values per token, of the dtype of `x`.
        sin: as `cos`.
    """
    turned, rest = x[..., : 2 * cos.shape[-1]], x[..., 2 * cos.shape[-1] :]
    first, second = turned.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]  # B 1 T r/2
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


def rotary_fast(
    x: Float[Tensor, "B H T d"], cos: Float[Tensor, "#B T half"], sin: Float[Tensor, "#B T half"]
) -> Float[Tensor, "B H T d"]:
    """`rotary_reference` written in place; its gradient is the rotation back, which needs no saved activations."""
    result: Tensor = _Rotate.apply(x, cos[:, None], sin[:, None])  # type: ignore[no-untyped-call]
    return result


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    size = 2 * cos.shape[-1]
    if size < x.shape[-1]:
        return torch.cat((_rotate(x[..., :size], cos, sin, sign), x[..., size:]), dim=-1)
    halves = x.reshape(*x.shape[:-1], 2, size // 2)
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
