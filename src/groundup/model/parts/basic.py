"""The smallest modules: linear maps and embeddings without side effects, norms, and observation points."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from groundup.model.config import LayerNormConfig, RMSNormConfig
from groundup.model.ops.linear import linear
from groundup.model.ops.norm import layer_norm_fast, rms_norm_fast
from groundup.model.parts.builder import Builder


class Linear(nn.Linear):
    """torch's linear map; its values are set by `initialize` or a file, never from the global generator."""

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""

    def forward(self, input: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows F"]:
        """x W^T + b."""
        return linear(input, self.weight, self.bias)


class ResidualLinear(Linear):
    """A linear map whose output is added to the residual stream; it starts smaller, by the depth of the stack."""


class Embedding(nn.Embedding):
    """torch's embedding table, filled by `initialize` or a file."""

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""


def for_products(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Under autocast, `x` in the type of its products: one copy for all linear maps that read it, not one for each."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


class LayerNorm(nn.Module):
    """Layer norm over the last dimension."""

    def __init__(self, config: LayerNormConfig, size: int, build: Builder) -> None:
        super().__init__()
        del build
        self.eps = config.layer_norm_epsilon
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if config.bias else None

    def forward(self, x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
        """Normalise each row."""
        return layer_norm_fast(x, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """RMS norm over the last dimension."""

    def __init__(self, config: RMSNormConfig, size: int, build: Builder) -> None:
        super().__init__()
        del build
        self.eps, self.unit_offset = config.rms_norm_eps, config.unit_offset
        self.weight = nn.Parameter(torch.zeros(size) if config.unit_offset else torch.ones(size))

    def forward(self, x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
        """Normalise each row."""
        # 1 + weight in float32: in bfloat16 the sum would keep two decimals of the weight.
        weight = (
            1 + self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
            if self.unit_offset
            else self.weight
        )
        return rms_norm_fast(x, weight, self.eps)


class Point(nn.Identity):
    """An observation point: returns its input. Hook it to read or to replace what flows through."""

    @property
    def is_hooked(self) -> bool:
        """True while any forward or backward hook is registered on it."""
        return bool(self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks)
