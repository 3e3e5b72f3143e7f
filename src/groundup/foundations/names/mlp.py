"""A multilayer perceptron over the last characters: Bengio et al. 2003, on characters, with as many layers as wanted.

Each character of the context is looked up in a table of vectors; the vectors stand side by side, pass layers of tanh, and become
scores of the next character. What a table of counts cannot do, it can: contexts that it never saw are near others that it did.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from groundup.foundations.modules import Activation, BatchNorm, Embedding, Linear, Module, Sequential
from groundup.foundations.names.data import Ids
from groundup.foundations.names.observation import Observation
from groundup.foundations.tensor import Tensor

#: Keeps the deviation of what passes a tanh near where it was (torch.nn.init.calculate_gain).
TANH_GAIN = 5 / 3


class ContextMLP(Module):
    """Embedding, hidden layers of tanh, scores.

    Args:
        vocab_size: characters, with the boundary.
        random: draws the parameters.
        block_size: characters of a context.
        embedding_size: numbers of a character's vector.
        hidden_size: units of a hidden layer.
        num_hidden_layers: at least 1.
        gain: of the hidden layers' weights, over 1 / sqrt(inputs).
        output_gain: of the last layer's: small, so that before training every character is about as probable.
        is_normed: whether batch norm stands before each tanh (the layer's bias is left out then, as the norm has its own).

    Attributes:
        observations: what can be watched behind each tanh.
    """

    def __init__(
        self,
        vocab_size: int,
        random: np.random.Generator,
        *,
        block_size: int = 3,
        embedding_size: int = 10,
        hidden_size: int = 200,
        num_hidden_layers: int = 1,
        gain: float = TANH_GAIN,
        output_gain: float = 0.1,
        is_normed: bool = False,
    ) -> None:
        self.block_size = block_size
        self.embed = Embedding(vocab_size, embedding_size, random)
        self.observations = [Observation() for _ in range(num_hidden_layers)]
        layers: list[Callable[[Tensor], Tensor]] = []
        size = block_size * embedding_size
        for observation in self.observations:
            layers.append(Linear(size, hidden_size, random, gain=gain, bias=not is_normed))
            layers += [BatchNorm(hidden_size)] if is_normed else []
            layers += [Activation(Tensor.tanh), observation]
            size = hidden_size
        self.hidden = Sequential(layers)
        self.head = Linear(size, vocab_size, random, gain=output_gain)

    def __call__(self, contexts: Ids) -> Tensor:
        """Scores (N, V) of what follows contexts (N, block)."""
        vectors = self.embed(contexts)  # (N, block, E)
        return self.head(self.hidden(vectors.reshape(len(contexts), -1)))
