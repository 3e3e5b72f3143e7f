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
    """A mixer across tokens, then an MLP on each token; `LayerConfig.placement` says where the norms stand.

    Observation points: `residual_in`, `residual_mid` (between the branches), `residual_out`.
    """

    def __init__(self, config: LayerConfig, hidden_size: int, build: Builder) -> None:
        super().__init__()
        self.placement = config.placement
        self.residual_in, self.residual_mid, self.residual_out = Point(), Point(), Point()
        has_second = config.placement == "sandwich"
        self.attn_norm: nn.Module = build(config.norm, hidden_size)
        self.attn: nn.Module = build(config.mixer, hidden_size)
        self.attn_post_norm: nn.Module | None = build(config.norm, hidden_size) if has_second else None
        self.cross_attn: nn.Module | None = None
        self.cross_attn_post_norm: nn.Module | None = None
        if config.cross_attention is not None:
            self.cross_attn_norm: nn.Module = build(config.norm, hidden_size)
            self.cross_attn = build(config.cross_attention, hidden_size)
            self.cross_attn_post_norm = build(config.norm, hidden_size) if has_second else None
        self.mlp_norm: nn.Module = build(config.norm, hidden_size)
        self.mlp: nn.Module = build(config.mlp, hidden_size)
        self.mlp_post_norm: nn.Module | None = build(config.norm, hidden_size) if has_second else None

    def forward(
        self, x: Float[Tensor, "B T D"], context: Context, cache: LayerCache | None = None
    ) -> Float[Tensor, "B T D"]:
        """Pass the residual stream through the layer."""
        x = self.residual_in(x)
        x = self._add(x, self.attn_norm, lambda y: self.attn(y, context, cache), self.attn_post_norm)
        cross_attn = self.cross_attn
        if cross_attn is not None:
            x = self._add(x, self.cross_attn_norm, lambda y: cross_attn(y, context), self.cross_attn_post_norm)
        x = self.residual_mid(x)
        x = self._add(x, self.mlp_norm, self.mlp, self.mlp_post_norm)
        result: Tensor = self.residual_out(x)
        return result

    def _add(
        self, x: Tensor, norm: nn.Module, branch: Callable[[Tensor], Tensor], post_norm: nn.Module | None
    ) -> Tensor:
        if self.placement == "post":
            normed_sum: Tensor = norm(x + branch(x))
            return normed_sum
        if self.placement == "output":
            added: Tensor = norm(branch(x))
            return x + added
        added = branch(norm(x))
        return x + (added if post_norm is None else post_norm(added))
