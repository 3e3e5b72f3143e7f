"""How healthy a network is: what its units do, what gradients reach them, how far an update moves each weight.

Before training, the parameters decide whether anything can be learned. Scores that are too large make a first loss far above that
of a guess; sums that are too large push every tanh to -1 or 1, where its slope, 1 - tanh^2, is 0 and no gradient passes; sums that
are too small let what passes fade from layer to layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import UsageError
from groundup.core.progress import Progress
from groundup.foundations.functions import cross_entropy
from groundup.foundations.names.data import Floats, Ids
from groundup.foundations.names.mlp import ContextMLP
from groundup.foundations.names.training import train
from groundup.foundations.optimizers import Optimizer
from groundup.foundations.tensor import Array, Tensor

#: A tanh beyond this lets less than 6% of a gradient through: 1 - 0.97^2.
SATURATED = 0.97


@dataclass(frozen=True)
class LayerStatistics:
    """What one layer's units gave on a batch, and the derivative of the loss by it.

    Attributes:
        values: (N, H).
        gradient: (N, H).
    """

    values: Array
    gradient: Array

    @property
    def mean(self) -> float:
        """Of the values."""
        return float(self.values.mean())

    @property
    def deviation(self) -> float:
        """Of the values."""
        return float(self.values.std())

    @property
    def saturation(self) -> float:
        """The share of values whose tanh lets almost nothing through."""
        return float((np.abs(self.values) > SATURATED).mean())

    @property
    def dead(self) -> float:
        """The share of units that are saturated for every context of the batch: these cannot learn from it."""
        return float((np.abs(self.values) > SATURATED).all(axis=0).mean())

    @property
    def gradient_deviation(self) -> float:
        """Of the derivatives."""
        return float(self.gradient.std())


@dataclass(frozen=True)
class Study:
    """A training, watched.

    Attributes:
        before, after: each hidden layer on the same batch, untrained and trained.
        losses: of each update's batch, in nats.
        names: of the matrices.
        ratios: (updates, matrices): deviation of an update over that of the matrix. About 1e-3 is healthy: much more and a
            weight is thrown about, much less and it hardly learns.
    """

    before: list[LayerStatistics]
    after: list[LayerStatistics]
    losses: Floats
    names: list[str]
    ratios: Floats


def layer_statistics(model: ContextMLP, x: Ids, y: NDArray[np.int64]) -> list[LayerStatistics]:
    """Run a batch forwards and backwards, and read every hidden layer.

    Args:
        model: keeps its parameters and their gradients; batch norm sees the batch.
        x, y: contexts (N, block) and what followed each (N,).
    """
    kept = [parameter.grad for parameter in model.parameters()]
    for observation in model.observations:
        observation.is_open = True
    cross_entropy(model(x), y).backward()
    for parameter, gradient in zip(model.parameters(), kept, strict=True):
        parameter.grad = gradient
    found = []
    for observation in model.observations:
        observation.is_open = False
        assert observation.values is not None and observation.gradient is not None
        found.append(LayerStatistics(observation.values, observation.gradient))
    return found


def study(
    model: ContextMLP,
    x: Ids,
    y: Ids,
    random: np.random.Generator,
    optimizer: Optimizer,
    *,
    steps: int,
    batch_size: int = 128,
    watched: int = 512,
    progress: Progress | None = None,
) -> Study:
    """Train a model as `train` does and watch it.

    Args:
        model, x, y, random, optimizer, steps, batch_size, progress: as there.
        watched: contexts of the batch whose statistics are read.
    """
    if watched < 2:
        raise UsageError(f"statistics of {watched} contexts: at least 2")
    places = random.choice(len(y), min(watched, len(y)), replace=False)
    matrices = [(name, parameter) for name, parameter in model.named_parameters() if parameter.ndim == 2]
    ratios = np.empty((steps, len(matrices)))
    before = layer_statistics(model, x[places], y[places])
    values = [parameter.data for _, parameter in matrices]

    def note(step: int) -> None:
        nonlocal values
        ratios[step] = [_moved(parameter, old) for (_, parameter), old in zip(matrices, values, strict=True)]
        values = [parameter.data for _, parameter in matrices]

    losses = train(
        model, x, y, random, optimizer, steps=steps, batch_size=batch_size, after_step=note, progress=progress
    )
    after = layer_statistics(model, x[places], y[places])
    return Study(before, after, losses, _short([name for name, _ in matrices]), ratios)


def _moved(parameter: Tensor, old: Array) -> float:
    return float((parameter.data - old).std() / old.std())


def _short(names: Sequence[str]) -> list[str]:
    """`embed`, `layer 1`, ..., `head`: the names of the parts that the matrices are in."""
    inner = [name for name in names if name.startswith("hidden.")]
    return [f"layer {inner.index(name) + 1}" if name in inner else name.split(".")[0] for name in names]
