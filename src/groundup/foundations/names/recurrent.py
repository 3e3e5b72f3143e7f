"""Models of names that read them character by character: an embedding, a recurrent cell, and scores of the next character.

The state after a character stands for all characters before, however many: where an MLP has a window, this has a memory.

    h_t = cell(embedding(character_t), h_t-1);   p(character_t+1) = softmax(h_t W + b)

Source: Mikolov et al. 2010 (recurrent language model); Graves 2013, section 2 (characters).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import UsageError, suggest
from groundup.core.progress import Progress
from groundup.foundations.functions import cross_entropy, log_softmax, softmax
from groundup.foundations.modules import Embedding, Linear, Module
from groundup.foundations.names.data import BOUNDARY, Ids, NameData
from groundup.foundations.names.training import MAX_LENGTH, share_of_rate
from groundup.foundations.optimizers import AdamW, clip_gradients
from groundup.foundations.recurrent import CELLS, unroll
from groundup.foundations.tensor import Tensor, no_grad, stack

#: Names that are sorted by length together, in batches: enough for batches of nearly one length, few enough to be mixed.
_POOL = 16
_EVALUATED_AT_ONCE = 1024


class RecurrentModel(Module):
    """Predicts each next character of a name from all before it.

    Args:
        kind: `rnn`, `gru` or `lstm`.
        vocab_size: different characters, with the boundary.
        random: draws the weights.
        embedding_size, hidden_size: numbers of a character, and of the state.
    """

    def __init__(
        self,
        kind: str,
        vocab_size: int,
        random: np.random.Generator,
        *,
        embedding_size: int = 32,
        hidden_size: int = 128,
    ) -> None:
        if kind not in CELLS:
            raise UsageError(f"there is no cell {kind!r}{suggest(kind, tuple(CELLS))}: {', '.join(CELLS)}")
        self.kind = kind
        self.embed = Embedding(vocab_size, embedding_size, random)
        self.cell = CELLS[kind](embedding_size, hidden_size, random)
        self.head = Linear(hidden_size, vocab_size, random)

    def logits(self, ids: Ids) -> Tensor:
        """Scores of the character after each of (B, T): (B, T, V)."""
        outputs, _ = unroll(self.cell, [self.embed(column) for column in ids.T])
        return self.head(stack(outputs, axis=1))

    def loss(self, ids: Ids, mask: NDArray[np.bool_]) -> Tensor:
        """Mean cross-entropy, in nats, of every character but the first.

        Args:
            ids: (B, T + 1) with the boundaries, as `padded` makes them.
            mask: (B, T), whether what follows belongs to the name. The state needs none: padding stands at the end.
        """
        return cross_entropy(self.logits(ids[:, :-1]), ids[:, 1:], mask)

    def sample(self, random: np.random.Generator, count: int) -> Ids:
        """Names drawn character by character, (count, at most `MAX_LENGTH`); after its end a name goes on with boundaries."""
        column = np.full(count, BOUNDARY)
        state = self.cell.initial_state(count)
        columns: list[Ids] = []
        ended = np.zeros(count, np.bool_)
        with no_grad():
            while len(columns) < MAX_LENGTH and not ended.all():
                state = self.cell(self.embed(column), state)
                shares = softmax(self.head(state[0])).data.cumsum(axis=1)
                # The first character whose cumulated share passes an even draw; the shares' sum is 1 but for rounding.
                drawn = (shares < random.random((count, 1)) * shares[:, -1:]).sum(axis=1)
                column = np.where(ended, BOUNDARY, drawn)
                ended |= column == BOUNDARY
                columns.append(column)
        return np.stack(columns, axis=1)


def padded(names: Sequence[Sequence[int]]) -> tuple[Ids, NDArray[np.bool_]]:
    """Encoded names as one array, filled up with boundaries, and which of its columns after the first belong to a name."""
    lengths = np.array([len(name) for name in names])
    ids = np.full((len(names), lengths.max()), BOUNDARY, np.int64)
    inside = np.arange(lengths.max()) < lengths[:, None]
    ids[inside] = np.concatenate(names)
    return ids, inside[:, 1:]


def batches(
    names: Sequence[Sequence[int]], size: int, random: np.random.Generator
) -> Iterator[tuple[Ids, NDArray[np.bool_]]]:
    """All names once, in shuffled batches of nearly one length each, so that few steps go into padding."""
    order = random.permutation(len(names))
    for start in range(0, len(order), size * _POOL):
        pool = sorted(order[start : start + size * _POOL], key=lambda place: len(names[place]))
        parts = [pool[begin : begin + size] for begin in range(0, len(pool), size)]
        for place in random.permutation(len(parts)):
            yield padded([names[index] for index in parts[place]])


def mean_loss_of(model: RecurrentModel, data: NameData, words: Sequence[str]) -> float:
    """The mean cross-entropy of the characters of words, in nats, each word's end counted as one."""
    coded = sorted((data.encode(word) for word in words), key=len)
    total = count = 0.0
    with no_grad():
        for start in range(0, len(coded), _EVALUATED_AT_ONCE):
            ids, mask = padded(coded[start : start + _EVALUATED_AT_ONCE])
            total += model.loss(ids, mask).item() * mask.sum()
            count += mask.sum()
    return float(total / count)


def loss_by_position(model: RecurrentModel, data: NameData, words: Sequence[str], longest: int) -> NDArray[np.float64]:
    """The mean loss of the first character of words, of the second, and so on; the end counts as one.

    Returns:
        (at most `longest`,), in nats; fewer where no word is as long.
    """
    ids, mask = padded([data.encode(word) for word in words])
    with no_grad():
        logs = log_softmax(model.logits(ids[:, :-1])).data
    losses = -np.take_along_axis(logs, ids[:, 1:, None], axis=2)[:, :, 0] * mask
    means: NDArray[np.float64] = losses.sum(axis=0, dtype=np.float64) / mask.sum(axis=0)
    return means[:longest]


def train_recurrent(
    model: RecurrentModel,
    data: NameData,
    random: np.random.Generator,
    *,
    steps: int,
    batch_size: int = 128,
    rate: float = 0.01,
    weight_decay: float = 0.01,
    clip: float = 1.0,
    progress: Progress | None = None,
) -> list[float]:
    """Train on the names of `data.train` by AdamW, with the schedule of `training.train`.

    Args:
        model: is trained in place.
        data: its names.
        random: draws the batches.
        steps: updates.
        batch_size: names of an update.
        rate: the highest learning rate.
        weight_decay: of AdamW.
        clip: largest norm of a gradient.
        progress: called with (updates done, all updates).

    Returns:
        the loss of each update's batch, in nats a character.
    """
    if steps < 1 or batch_size < 1:
        raise UsageError(f"{steps} steps of batches of {batch_size}: both must be at least 1")
    coded = [data.encode(word) for word in data.train]
    optimizer = AdamW(model.parameters(), rate, weight_decay=weight_decay)
    losses: list[float] = []
    while True:
        for ids, mask in batches(coded, batch_size, random):
            optimizer.rate = rate * share_of_rate(len(losses), steps)
            optimizer.zero_grad()
            loss = model.loss(ids, mask)
            loss.backward()
            clip_gradients(optimizer.parameters, clip)
            optimizer.step()
            losses.append(loss.item())
            if progress is not None:
                progress(len(losses), steps)
            if len(losses) == steps:
                return losses
