"""The readable twin of the compiled step on block formats: torch modules whose activations are rounded as it rounds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from groundup.model.cache import KVCache, StackCache
from groundup.model.config import TransformerConfig
from groundup.model.ops.products import round_activations
from groundup.model.parts import Linear
from groundup.model.transformer import Transformer


class RoundedCache(KVCache):
    """Keys and values as a cache of that type keeps them."""

    def __init__(self, batch_size: int, max_length: int, cache_type: str) -> None:
        super().__init__(batch_size, max_length)
        self.cache_type = cache_type

    def update(self, *new: Tensor) -> tuple[Tensor, ...]:
        return super().update(*(rounded_values(tensor, self.cache_type) for tensor in new))


def rounded_values(tensor: Tensor, cache_type: str) -> Tensor:
    if cache_type == "bfloat16":
        return tensor.bfloat16().float()
    if cache_type == "int8":
        largest = tensor.abs().amax(-1, keepdim=True)
        inverse = torch.where(largest > 0, 127 / largest, 0)
        return (tensor * inverse).round() * (largest / 127)
    return tensor


class RoundedModules:
    """A `LanguageModel` of modules in float32 that reads every matrix product's input rounded to eight bits.

    Args:
        model: with the dequantised weights.
        cache_type: of keys and values.
        rounds_activations: False for formats that meet activations as they are.
    """

    def __init__(self, model: Transformer, cache_type: str = "float32", *, rounds_activations: bool = True) -> None:
        self.model, self.cache_type, self.training = model, cache_type, False
        self.rounds_activations = rounds_activations
        self.config: TransformerConfig = model.config
        for module in model.modules():
            if isinstance(module, Linear) and rounds_activations:
                module.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0]),))

    def __call__(self, inputs: Tensor, *, cache: Any = None, **options: Any) -> Tensor:
        with torch.no_grad():
            return self.model(inputs, cache=self.new_cache(len(inputs)) if cache is None else cache, **options)

    def logits(self, hidden: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model.logits(rounded(hidden) if self.model.head is None and self.rounds_activations else hidden)

    def new_cache(self, batch_size: int, max_length: int | None = None) -> StackCache:
        longest = max_length or self.config.max_position_embeddings
        layers = [RoundedCache(batch_size, longest, self.cache_type) for _ in self.model.layers]
        return StackCache(layers, batch_size)

    def modules(self) -> Any:
        return self.model.modules()

    def parameters(self) -> Any:
        return self.model.parameters()


def rounded(x: Tensor) -> Tensor:
    flat = x.reshape(-1, x.shape[-1])
    return torch.from_numpy(round_activations(flat.detach().numpy())).view(x.shape)
