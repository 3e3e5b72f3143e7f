"""What the trainer asks of a method: where its batches come from, and what is minimised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class LossSum:
    """The loss of one micro-batch, not yet divided by anything.

    The trainer adds the sums of all micro-batches and processes and divides once by the sum of the counts, so that
    it does not matter how a batch was cut into pieces.

    Attributes:
        total: sum of the losses of all items; its graph leads to the parameters.
        count: how many items (trained tokens, pairs, ...) were summed.
        metrics: further sums over the same items; the trainer reports them divided by the global count.
    """

    total: Float[Tensor, ""]
    count: int
    metrics: dict[str, float] = field(default_factory=dict)


@runtime_checkable
class MicroBatch(Protocol):
    """Anything that can be moved to the device of the model; `data.batch.Batch` is one."""

    def to(self, device: str | torch.device) -> Any: ...


@runtime_checkable
class BatchSource(Protocol):
    """Where the micro-batches of one optimizer update come from.

    `update(step)` may depend on the policy (reinforcement learning rolls out here). The state is JSON, is the same on
    every process, and is saved and restored with each checkpoint.
    """

    def update(self, step: int) -> Sequence[MicroBatch]:
        """Return this process's micro-batches of optimizer update `step`, counted from 0."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> None: ...


@dataclass(frozen=True)
class Observed:
    """What an observer may look at, and must not change.

    Attributes:
        model: on its device, as it is trained.
        optimizer: that of the run; its step hooks tell when the weights change.
        stage: name in metrics.
        step: updates that earlier runs did.
        reaches_layers: False where the forward pass is compiled as a whole, so that hooks inside of it see nothing.
        may_run: False where a forward pass needs the other processes too (shards).
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    stage: str
    step: int
    reaches_layers: bool
    may_run: bool


@runtime_checkable
class Observer(Protocol):
    """Watches a run and leaves it as it is: the weights are the same, bit for bit, with and without it.

    The trainer calls it in the first process only. In the order of an update: `before_data`, `before_update`, then
    forward, backward and the optimizer's step, then `recorded`.
    """

    def begin(self, run: Observed) -> None: ...

    def before_data(self, step: int) -> None:
        """Update `step`, counted from 0, is about to ask for its micro-batches."""
        ...

    def before_update(self, step: int, micro_batches: Sequence[Any]) -> None:
        """Its micro-batches have come."""
        ...

    def recorded(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        """An update or an evaluation was written to the metrics; returns what shall be written beside it."""
        ...


@runtime_checkable
class Objective(Protocol):
    """What is minimised: the loss sum of a model on one micro-batch."""

    def __call__(self, model: nn.Module, batch: Any, /) -> LossSum: ...
