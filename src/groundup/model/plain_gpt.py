"""The GPT of `foundations/gpt.py` in plain torch: tensors and functions, no modules, no fused kernels.

The third of four levels: what was an array engine of ours is torch's, and the code stays the formula. `Transformer` with the preset
`gpt2`, the fourth, computes the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from groundup.foundations.gpt import GPTShape, Weights

_EPSILON = 1e-5


class TorchGPT:
    """A GPT as a function of named tensors.

    Args:
        shape: of the model.
        weights: as `GPTShape.weight_shapes` names them.
        dtype: of the computation.
    """

    def __init__(
        self, shape: GPTShape, weights: Mapping[str, NDArray[np.floating]], dtype: torch.dtype = torch.float64
    ) -> None:
        self.shape = shape
        self.weights = {name: torch.tensor(values, dtype=dtype, requires_grad=True) for name, values in weights.items()}

    def loss(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, ""]:
        """Mean cross-entropy, in nats, of each token but the first."""
        return F.cross_entropy(self.logits(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())

    def logits(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Scores of every token after each of the ids."""
        weights = self.weights
        x = weights["embed.weight"][ids] + weights["embed_positions.weight"][: ids.shape[1]]
        for index in range(self.shape.num_layers):
            name = f"layers.{index}"
            x = x + self._attention(f"{name}.attn", self._norm(f"{name}.attn_norm", x))
            inner = _gelu(self._linear(f"{name}.mlp.up_proj", self._norm(f"{name}.mlp_norm", x)))
            x = x + self._linear(f"{name}.mlp.down_proj", inner)
        return self._norm("final_norm", x) @ weights["embed.weight"].T

    def gradients(self) -> Weights:
        """The derivatives that `backward` left."""
        return {
            name: np.zeros(tuple(weight.shape)) if weight.grad is None else weight.grad.double().numpy()
            for name, weight in self.weights.items()
        }

    def _linear(self, name: str, x: Float[Tensor, "B T I"]) -> Float[Tensor, "B T O"]:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _norm(self, name: str, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        centred = x - x.mean(-1, keepdim=True)
        normed = centred * ((centred**2).mean(-1, keepdim=True) + _EPSILON) ** -0.5
        return normed * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def _attention(self, name: str, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        batch, count, width = x.shape
        size = width // self.shape.num_heads

        def split(part: str) -> Float[Tensor, "B H T d"]:
            return self._linear(f"{name}.{part}_proj", x).view(batch, count, self.shape.num_heads, size).transpose(1, 2)

        scores = split("q") @ split("k").transpose(-1, -2) * size**-0.5  # (B, H, T, T)
        hidden = torch.ones(count, count, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ split("v")
        return self._linear(f"{name}.o_proj", mixed.transpose(1, 2).reshape(batch, count, width))


def _gelu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return x * 0.5 * (((x + x**3 * 0.044715) * math.sqrt(2 / math.pi)).tanh() + 1)
