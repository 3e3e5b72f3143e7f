"""Train a model of contexts, measure it on other words, and let it make up new ones.

A model is a module from contexts (N, block) of ids to scores (N, V), and says its `block_size`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from groundup.core.errors import UsageError
from groundup.core.progress import Progress
from groundup.foundations.backward import softmax_forward
from groundup.foundations.functions import cross_entropy
from groundup.foundations.names.data import BOUNDARY, Floats, Ids, NameData
from groundup.foundations.optimizers import Optimizer
from groundup.foundations.tensor import Tensor, no_grad

#: No made-up word is longer: a model that never ends one would run for ever.
MAX_LENGTH = 40
#: Contexts that are evaluated at a time.
_EVALUATED_AT_ONCE = 1024


class ContextModel(Protocol):
    """What is trained here: a module of contexts."""

    block_size: int
    training: bool

    def __call__(self, contexts: Ids) -> Tensor: ...
    def train(self, is_training: bool = True) -> None: ...
    def parameters(self) -> list[Tensor]: ...


def train(
    model: ContextModel,
    x: Ids,
    y: Ids,
    random: np.random.Generator,
    optimizer: Optimizer,
    *,
    steps: int,
    batch_size: int = 256,
    after_step: Callable[[int], None] | None = None,
    progress: Progress | None = None,
) -> Floats:
    """Train; the rate rises over the first twentieth of the steps and then falls to 0 in a straight line.

    Args:
        model: is trained in place.
        x, y: contexts (N, block) and what followed each (N,).
        random: draws the batches: all contexts in a new order, then again.
        optimizer: of the model's parameters; its rate is the highest.
        steps: updates.
        batch_size: contexts of an update.
        after_step: called with the number of the update while its gradients are still there.
        progress: called with (updates done, all updates).

    Returns:
        the loss of each update's batch, in nats.
    """
    if steps < 1 or batch_size < 1:
        raise UsageError(f"{steps} steps of batches of {batch_size}: both must be at least 1")
    if not len(y):
        raise UsageError("there is no context to train on")
    rate = optimizer.rate
    model.train()
    losses = np.empty(steps)
    order = np.empty(0, np.int64)
    for step in range(steps):
        while len(order) < batch_size:
            order = np.concatenate([order, random.permutation(len(y))])
        batch, order = order[:batch_size], order[batch_size:]
        loss = cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.rate = rate * share_of_rate(step, steps)
        optimizer.step()
        losses[step] = loss.item()
        if after_step is not None:
            after_step(step)
        if progress is not None:
            progress(step + 1, steps)
    return losses


def share_of_rate(step: int, steps: int) -> float:
    """What share of the highest rate update number `step` of `steps` takes."""
    warm = max(1, steps // 20)
    return min((step + 1) / warm, (steps - step) / max(1, steps - warm))


def mean_loss(model: ContextModel, x: Ids, y: Ids) -> float:
    """The mean cross-entropy of what follows contexts, in nats a character, each word's end counted as one.

    Args:
        model: read in its mode of evaluation, which is left as it was.
        x, y: contexts (N, block) and what followed each (N,).
    """
    total = 0.0
    was_training = model.training
    model.train(False)
    with no_grad():
        for start in range(0, len(y), _EVALUATED_AT_ONCE):
            part = slice(start, start + _EVALUATED_AT_ONCE)
            total += cross_entropy(model(x[part]), y[part]).item() * len(y[part])
    model.train(was_training)
    return total / len(y)


def sample(model: ContextModel, data: NameData, random: np.random.Generator, count: int) -> list[str]:
    """New words, one character after the other, each drawn with the probability that the model gives it.

    Args:
        model: trained on `data`.
        data: for its characters.
        random: draws.
        count: of words, made side by side.
    """

    def probabilities(contexts: Ids) -> Floats:
        return softmax_forward(model(contexts).data.astype(np.float64))

    was_training = model.training
    model.train(False)
    with no_grad():
        words = draw_words(probabilities, data, random, count, block_size=model.block_size)
    model.train(was_training)
    return words


def draw_words(
    probabilities: Callable[[Ids], Floats],
    data: NameData,
    random: np.random.Generator,
    count: int,
    *,
    block_size: int,
) -> list[str]:
    """Words from what gives the probabilities (N, V) after contexts (N, block)."""
    contexts = np.full((count, block_size), BOUNDARY, np.int64)
    drawn = np.full((count, MAX_LENGTH), BOUNDARY, np.int64)
    running = np.ones(count, np.bool_)
    for place in range(MAX_LENGTH):
        sums = probabilities(contexts).cumsum(axis=1)
        # The first character whose running sum passes a number drawn from 0 to the whole sum.
        chosen = (sums <= random.random((count, 1)) * sums[:, -1:]).sum(axis=1)
        running &= chosen != BOUNDARY
        if not running.any():
            break
        drawn[:, place] = np.where(running, chosen, BOUNDARY)
        contexts = np.column_stack([contexts[:, 1:], chosen])
    return [data.decode(ids) for ids in drawn]
