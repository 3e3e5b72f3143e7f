"""One layer of the stack: mixer, optional cross-attention, MLP, each with its norm and residual connection."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from groundup.model.cache import LayerCache
from groundup.model.config import LayerConfig
from groundup.model.parts.basic import Point
from groundup.model.parts.builder import Builder
from groundup.model.parts.context import Context


class Layer(nn.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x)); with placement `post`, norm(x + branch(x)) instead.

    Observation points: `residual_in`, `residual_mid` (between the branches), `residual_out`.
    """

    def __init__(self, config: LayerConfig, hidden_size: int, build: Builder) -> None:
        super().__init__()
        self.norm_first = config.placement == "pre"
        self.residual_in, self.residual_mid, self.residual_out = Point(), Point(), Point()
        self.attn_norm: nn.Module = build(config.norm, hidden_size)
        self.attn: nn.Module = build(config.mixer, hidden_size)
        self.cross_attn: nn.Module | None = None
        if config.cross_attention is not None:
            self.cross_attn_norm: nn.Module = build(config.norm, hidden_size)
            self.cross_attn = build(config.cross_attention, hidden_size)
        self.mlp_norm: nn.Module = build(config.norm, hidden_size)
        self.mlp: nn.Module = build(config.mlp, hidden_size)

    def forward(
        self, x: Float[Tensor, "B T D"], context: Context, cache: LayerCache | None = None
    ) -> Float[Tensor, "B T D"]:
        """Pass the residual stream through the layer."""
        x = self.residual_in(x)
        x = self._add(x, self.attn_norm, lambda y: self.attn(y, context, cache))
        cross_attn = self.cross_attn
        if cross_attn is not None:
            x = self._add(x, self.cross_attn_norm, lambda y: cross_attn(y, context))
        x = self.residual_mid(x)
        x = self._add(x, self.mlp_norm, self.mlp)
        result: Tensor = self.residual_out(x)
        return result

    def _add(self, x: Tensor, norm: nn.Module, branch: Callable[[Tensor], Tensor]) -> Tensor:
        if self.norm_first:
            return x + branch(norm(x))
        result: Tensor = norm(x + branch(x))
        return result
