"""The MLPs: dense and gated."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from groundup.model.config import DenseMLPConfig, GatedMLPConfig
from groundup.model.ops.activation import ACTIVATIONS
from groundup.model.parts.basic import Linear, ResidualLinear, for_products
from groundup.model.parts.builder import Builder


class DenseMLP(nn.Module):
    """down(activation(up(x)))."""

    def __init__(self, config: DenseMLPConfig, hidden_size: int, build: Builder) -> None:
        super().__init__()
        del build
        self.activation = ACTIVATIONS[config.activation]
        self.up_proj = Linear(hidden_size, config.intermediate_size, bias=config.bias)
        self.down_proj = ResidualLinear(config.intermediate_size, hidden_size, bias=config.bias)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Transform each token by itself."""
        result: Tensor = self.down_proj(self.activation(self.up_proj(x)))
        return result


class GatedMLP(nn.Module):
    """down(activation(gate(x)) * up(x))."""

    def __init__(self, config: GatedMLPConfig, hidden_size: int, build: Builder) -> None:
        super().__init__()
        del build
        self.activation = ACTIVATIONS[config.activation]
        self.gate_proj = Linear(hidden_size, config.intermediate_size, bias=config.bias)
        self.up_proj = Linear(hidden_size, config.intermediate_size, bias=config.bias)
        self.down_proj = ResidualLinear(config.intermediate_size, hidden_size, bias=config.bias)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Transform each token by itself."""
        x = for_products(x)
        result: Tensor = self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
        return result
