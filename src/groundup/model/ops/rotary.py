"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), in the half-split layout of Llama and Qwen."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from groundup.model.config import DynamicScaling, LinearScaling, Llama3Scaling, RotaryConfig, YarnScaling


def rotary_frequencies(rotary_dim: int, rope_theta: float | Tensor) -> Float[Tensor, "*rows half"]:
    """Angle per position of each pair i < d/2: theta^(-2i/d).

    Args:
        rotary_dim: turned values of a head (d), even.
        rope_theta: base of the wavelengths; a tensor of shape (rows, 1) gives a row of frequencies for each of them.
    """
    device = rope_theta.device if isinstance(rope_theta, Tensor) else None
    exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32, device=device) / rotary_dim
    return 1.0 / rope_theta**exponents


def scaled_frequencies(
    rotary: RotaryConfig, rotary_dim: int, lengths: Int[Tensor, "#B #T"]
) -> tuple[Float[Tensor, "#B #T half"], float]:
    """The frequencies under the config's scaling, and the factor of cosine and sine.

    Args:
        rotary: base and scaling.
        rotary_dim: turned values of a head.
        lengths: of the text that each token belongs to, on which dynamic scaling depends.
    """
    scaling, theta = rotary.scaling, rotary.rope_theta
    if isinstance(scaling, DynamicScaling):
        trained = scaling.original_max_position_embeddings
        growth = scaling.factor * lengths.clamp(min=trained).float() / trained - (scaling.factor - 1)
        return rotary_frequencies(rotary_dim, theta * growth[..., None] ** (rotary_dim / (rotary_dim - 2))), 1.0
    plain = rotary_frequencies(rotary_dim, theta)[None, None].to(lengths.device)
    if isinstance(scaling, LinearScaling):
        return plain / scaling.factor, 1.0
    if isinstance(scaling, YarnScaling):
        return _yarn(scaling, plain, theta, rotary_dim), yarn_attention_factor(scaling)
    if isinstance(scaling, Llama3Scaling):
        return _llama3(scaling, plain), 1.0
    return plain, 1.0


def yarn_attention_factor(scaling: YarnScaling) -> float:
    """What queries and keys are multiplied by (arXiv:2309.00071, eq. 22): longer texts need sharper attention."""
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return 0.1 * math.log(scaling.factor) + 1.0


def _yarn(scaling: YarnScaling, plain: Tensor, theta: float, rotary_dim: int) -> Tensor:
    def pair_with(turns: float) -> float:
        # The pair (as a real number) that makes so many turns within the trained length.
        wavelengths = scaling.original_max_position_embeddings / (turns * 2 * math.pi)
        return rotary_dim * math.log(wavelengths) / (2 * math.log(theta))

    low, high = pair_with(scaling.beta_fast), pair_with(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    # The small distance keeps a ramp of no length from dividing by zero.
    span = high - low if high != low else 0.001
    pairs = torch.arange(rotary_dim // 2, dtype=torch.float32, device=plain.device)
    interpolated = ((pairs - low) / span).clamp(0, 1)
    return plain / scaling.factor * interpolated + plain * (1 - interpolated)


def _llama3(scaling: Llama3Scaling, plain: Tensor) -> Tensor:
    trained = scaling.original_max_position_embeddings
    wavelengths = 2 * math.pi / plain
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = (trained / wavelengths - low) / (high - low)  # 0 at the long end of the ramp, 1 at the short one
    between = (1 - kept) * plain / scaling.factor + kept * plain
    result = torch.where(wavelengths > trained / low, plain / scaling.factor, between)
    return torch.where(wavelengths < trained / high, plain, result)


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
    frequencies, factor = scaled_frequencies(rotary, rotary.rotary_dim(head_dim), lengths)
    angles = positions[..., None].float() * frequencies
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
