"""The bigram model of characters twice: as a table of counts, and as a network of one layer that gradients lead to the same table.

The table says how often each character follows each other one. The network looks up a row of scores for the character before, and
softmax makes probabilities of them; its loss is least exactly where its probabilities are the table's shares. The one counts in one
pass and is done; the other needs many steps, but goes on to where nothing can be counted: long contexts.
"""

from __future__ import annotations

import numpy as np

from groundup.core.progress import Progress
from groundup.foundations.functions import embedding, log_softmax
from groundup.foundations.modules import Module, parameter
from groundup.foundations.names.data import BOUNDARY, Floats, Ids, NameData
from groundup.foundations.names.training import share_of_rate
from groundup.foundations.ngram import AddK
from groundup.foundations.optimizers import Adam
from groundup.foundations.tensor import Tensor


def count_bigram(data: NameData, k: float = 1.0) -> AddK:
    """The n-gram model of order 2 of the training words and their ends.

    Args:
        data: its training words are counted.
        k: added to every count, so that no pair is impossible.
    """
    return AddK([data.encode(word)[1:] for word in data.train], data.vocab_size, order=2, k=k)


def bigram_table(model: AddK) -> Floats:
    """The probability of each character (column) after each other (row), (V, V); the boundary's row is that of first characters."""
    contexts = [[id] if id != BOUNDARY else [] for id in range(model.vocab_size)]
    return np.stack([model.distribution(context) for context in contexts])


class BigramNetwork(Module):
    """One layer: a one-hot vector of the character before, times a matrix, gives the scores of the next.

    Args:
        vocab_size: characters, with the boundary.
        random: draws the first scores.

    Attributes:
        weight: (V, V), the row of the character before.
    """

    block_size = 1

    def __init__(self, vocab_size: int, random: np.random.Generator) -> None:
        self.weight = parameter(random.standard_normal((vocab_size, vocab_size)))

    def __call__(self, contexts: Ids) -> Tensor:
        """Scores (N, V) after contexts (N, 1)."""
        # A one-hot vector times a matrix is a row of it.
        return embedding(self.weight, contexts[:, 0])


def train_bigram_network(
    network: BigramNetwork,
    data: NameData,
    *,
    k: float = 1.0,
    steps: int = 1500,
    rate: float = 0.3,
    progress: Progress | None = None,
) -> Floats:
    """Train on all pairs of the training words at each step.

    All examples after the same character have the same scores, so that the mean loss over the examples is one over the V x V
    different pairs, each weighted by how often it occurs: the very loss of the examples, for the price of 27 of them.

    Args:
        network: is trained in place.
        data: its training words are read.
        k: every pair counts so much more often than it occurs: the smoothing of the counted table.
        steps, rate: of Adam; the rate falls to 0.
        progress: called with (updates done, all updates).

    Returns:
        the loss of each step, in nats.
    """
    x, y = data.contexts(data.train, 1)
    size = data.vocab_size
    counts = np.bincount(x[:, 0] * size + y, minlength=size * size).reshape(size, size) + k
    shares = counts / counts.sum()
    optimizer = Adam(network.parameters(), rate)
    losses = np.empty(steps)
    for step in range(steps):
        loss = -(log_softmax(network.weight) * shares).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.rate = rate * share_of_rate(step, steps)
        optimizer.step()
        losses[step] = loss.item()
        if progress is not None:
            progress(step + 1, steps)
    return losses
