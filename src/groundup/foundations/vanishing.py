"""Why a recurrent network forgets: the gradient on its way back, and a task that needs a long memory.

The derivative of the last state by the one t steps before is a product of t Jacobians. With a plain RNN each is

    dh' / dh = U diag(1 - h'^2)

so its norm is bounded by (largest singular value of U)^t: below 1 it vanishes exponentially, and far above 1 it may explode.
An LSTM's memory has dc' / dc = diag(f), which stays near 1 as long as the gate says "keep"; a GRU's state has diag(z) likewise.

Sources: Hochreiter 1991; Bengio et al. 1994; Pascanu et al. 2013, section 2; Hochreiter and Schmidhuber 1997.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import UsageError
from groundup.core.progress import Progress
from groundup.foundations.functions import cross_entropy
from groundup.foundations.modules import Embedding, Linear, Module, parameter
from groundup.foundations.optimizers import Adam, Optimizer, clip_gradients
from groundup.foundations.recurrent import Cell, unroll
from groundup.foundations.tensor import Tensor, no_grad

Ids = NDArray[np.int64]
#: Makes a cell of (numbers read, numbers of the state, random).
MakeCell = Callable[[int, int, np.random.Generator], Cell]


def set_recurrence(cell: Cell, gain: float, random: np.random.Generator) -> None:
    """Make every matrix of U a random rotation times `gain`, so that all its singular values are `gain`."""
    size = cell.hidden_size
    rotations = [np.linalg.qr(random.standard_normal((size, size)))[0] for _ in range(cell.num_gates)]
    cell.from_state.weight.data = gain * np.concatenate(rotations, axis=1)


def gradient_by_distance(cell: Cell, inputs: NDArray[np.floating], random: np.random.Generator) -> NDArray[np.float64]:
    """How much of the gradient of the last step is left t steps back.

    Args:
        cell: with its weights.
        inputs: (B, T, D).
        random: draws the direction of the last h whose derivative is taken, one a row.

    Returns:
        (T,), the norm of the derivative by the whole state (h, and c of an LSTM) t steps before the last, as a share of that by
        the last; the mean over the batch.
    """
    batch, length, _ = inputs.shape
    state = cell.initial_state(batch)
    # Zeros that are added to a state have its derivative, which a computed tensor does not keep.
    probes = []
    for place in range(length):
        state = cell(Tensor(inputs[:, place]), state)
        probes.append([parameter(np.zeros(part.shape)) for part in state])
        state = tuple(part + probe for part, probe in zip(state, probes[-1], strict=True))
    (state[0] * random.standard_normal(state[0].shape)).sum().backward()
    norms = np.zeros(length)
    for distance, parts in enumerate(reversed(probes)):
        squares = sum((probe.grad**2).sum(axis=1) for probe in parts if probe.grad is not None)
        norms[distance] = np.sqrt(squares).mean()
    shares: NDArray[np.float64] = norms / norms[0]
    return shares


def first_symbol_batch(
    random: np.random.Generator, batch: int, distance: int, num_symbols: int
) -> tuple[Ids, NDArray[np.int64]]:
    """Sequences whose answer is their first symbol.

    Args:
        batch: how many.
        distance: steps from the first symbol to the last, at which the answer is due; those between hold noise.
        num_symbols: different first symbols, and as many others for noise.

    Returns:
        ids (B, distance + 1) from 0 to 2 num_symbols - 1, and the answers (B,).
    """
    if distance < 1 or num_symbols < 2:
        raise UsageError(f"a distance of {distance} and {num_symbols} symbols: at least 1 and 2")
    first = random.integers(num_symbols, size=(batch, 1))
    noise = random.integers(num_symbols, 2 * num_symbols, size=(batch, distance))
    return np.concatenate([first, noise], axis=1), first[:, 0]


class Answerer(Module):
    """Reads symbols and scores answers after the last.

    Args:
        make_cell: of the cell.
        num_symbols, hidden_size: as in `first_symbol_batch`, and numbers of the state.
        random: draws the weights.
    """

    def __init__(self, make_cell: MakeCell, num_symbols: int, hidden_size: int, random: np.random.Generator) -> None:
        self.embed = Embedding(2 * num_symbols, hidden_size, random)
        self.cell = make_cell(hidden_size, hidden_size, random)
        self.head = Linear(hidden_size, num_symbols, random)

    def __call__(self, ids: Ids) -> Tensor:
        _, state = unroll(self.cell, [self.embed(column) for column in ids.T])
        return self.head(state[0])


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """How the long-memory task went.

    Attributes:
        accuracy: share of right answers to 500 new sequences.
        losses: cross-entropy of each update's batch, in nats; as many as it took until ten batches in a row were answered without
            a mistake, or as were allowed.
        norms: of the gradient of each, before clipping.
    """

    accuracy: float
    losses: list[float]
    norms: list[float]


def _adam(parameters: list[Tensor]) -> Optimizer:
    return Adam(parameters, 5e-3)


def learn_to_remember(
    make_cell: MakeCell,
    distance: int,
    random: np.random.Generator,
    *,
    steps: int = 300,
    num_symbols: int = 4,
    hidden_size: int = 32,
    batch_size: int = 32,
    make_optimizer: Callable[[list[Tensor]], Optimizer] = _adam,
    clip: float | None = 1.0,
    progress: Progress | None = None,
) -> Remembered:
    """Train an `Answerer` on fresh sequences of one distance and ask it new ones.

    Args:
        make_cell: of the cell.
        distance, num_symbols: as in `first_symbol_batch`.
        random: draws the weights and the sequences.
        steps: most updates; training ends when ten batches in a row were answered without a mistake.
        hidden_size: numbers of the state.
        batch_size: sequences of an update.
        make_optimizer: of the parameters; by default Adam with a rate of 0.005.
        clip: largest norm of a gradient; None leaves it as it is.
        progress: called with (updates done, all updates).
    """
    model = Answerer(make_cell, num_symbols, hidden_size, random)
    model.convert(np.float32)
    optimizer = make_optimizer(model.parameters())
    losses: list[float] = []
    norms: list[float] = []
    in_a_row = 0
    while len(losses) < steps and in_a_row < 10:
        ids, answers = first_symbol_batch(random, batch_size, distance, num_symbols)
        optimizer.zero_grad()
        logits = model(ids)
        loss = cross_entropy(logits, answers)
        loss.backward()
        norms.append(clip_gradients(optimizer.parameters, math.inf if clip is None else clip))
        optimizer.step()
        losses.append(loss.item())
        in_a_row = in_a_row + 1 if (logits.data.argmax(axis=1) == answers).all() else 0
        if progress is not None:
            progress(len(losses), steps)
    ids, answers = first_symbol_batch(random, 500, distance, num_symbols)
    with no_grad():
        right = model(ids).data.argmax(axis=1) == answers
    return Remembered(accuracy=float(right.mean()), losses=losses, norms=norms)
