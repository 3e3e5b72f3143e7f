"""What a model trains on: one micro-batch of token ids, and which targets count."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

#: A target with this value is not trained or counted (the value torch's cross-entropy ignores by default).
IGNORE_INDEX = -100


@dataclass(frozen=True)
class Batch:
    """One micro-batch.

    Attributes:
        inputs: token ids.
        targets: the token that follows each input, already shifted; IGNORE_INDEX where nothing is learned.
        positions: position of each token in its own sequence; None counts from the left.
        segments: which packed sequence a token belongs to (it sees only its own); -1 is padding.
        mask: True where a key may be seen; None where no padding needs hiding.
    """

    inputs: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    positions: Int[Tensor, "B T"] | None = None
    segments: Int[Tensor, "B T"] | None = None
    mask: Bool[Tensor, "B T"] | None = None

    def to(self, device: str | torch.device) -> Batch:
        """Return the batch with every tensor on `device`."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: t.to(device, non_blocking=True) for name, t in tensors.items() if t is not None})

    def num_targets(self) -> int:
        """Return how many targets are trained."""
        return int((self.targets != IGNORE_INDEX).sum())
