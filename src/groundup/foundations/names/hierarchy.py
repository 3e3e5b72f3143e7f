"""A network that joins its context step by step, as WaveNet does (van den Oord et al. 2016, section 2.1).

A perceptron presses all characters of a context together in its first layer. Here the first layer sees pairs of neighbours, the
second pairs of pairs, and so on: with a context of 8, three layers, each with the same weights at all of its places. It is the tree
of WaveNet's dilated convolutions that ends at one prediction, without its gates and skips.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from groundup.core.errors import UsageError
from groundup.foundations.modules import Activation, BatchNorm, Embedding, Linear, Module, Sequential
from groundup.foundations.names.data import Ids
from groundup.foundations.names.mlp import TANH_GAIN
from groundup.foundations.tensor import Tensor


class HierarchicalModel(Module):
    """Embedding, layers that each join two neighbours into one, scores.

    Args:
        vocab_size: characters, with the boundary.
        random: draws the parameters.
        block_size: characters of a context, a power of 2.
        embedding_size: numbers of a character's vector.
        hidden_size: units of every layer.
    """

    def __init__(
        self,
        vocab_size: int,
        random: np.random.Generator,
        *,
        block_size: int = 8,
        embedding_size: int = 24,
        hidden_size: int = 128,
    ) -> None:
        if block_size < 2 or block_size & (block_size - 1):
            raise UsageError(f"pairs of pairs need a context of 2, 4, 8, 16, ... characters, not {block_size}")
        self.block_size = block_size
        self.embed = Embedding(vocab_size, embedding_size, random)
        self.layers = []
        size = embedding_size
        for _ in range(block_size.bit_length() - 1):
            parts: list[Callable[[Tensor], Tensor]] = [
                Linear(2 * size, hidden_size, random, gain=TANH_GAIN, bias=False),
                BatchNorm(hidden_size),
                Activation(Tensor.tanh),
            ]
            self.layers.append(Sequential(parts))
            size = hidden_size
        self.head = Linear(size, vocab_size, random, gain=0.1)

    def __call__(self, contexts: Ids) -> Tensor:
        """Scores (N, V) of what follows contexts (N, block)."""
        x = self.embed(contexts)  # (N, block, E)
        for layer in self.layers:
            count, places, size = x.shape
            x = layer(x.reshape(count, places // 2, 2 * size))  # two neighbours side by side, (N, places / 2, H)
        return self.head(x.reshape(len(contexts), -1))
