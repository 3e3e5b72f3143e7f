"""The compiled step as a model of tensors, for what measures modules."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from groundup.core.errors import ModelError
from groundup.inference.fast import FastModel
from groundup.inference.step_cache import StepCache
from groundup.model.parts.context import count_positions
from groundup.model.transformer import join_masks


class FastTensors:
    """The compiled step as a model of tensors on the CPU: what is measured of modules can be measured of it."""

    def __init__(self, model: FastModel) -> None:
        self.model = model

    @property
    def config(self) -> Any:
        """The model's."""
        return self.model.config

    def new_cache(self, batch_size: int, max_length: int | None = None) -> StepCache:
        """The model's."""
        return self.model.new_cache(batch_size, max_length)

    def __call__(
        self,
        inputs: Int[Tensor, "B T"] | Float[Tensor, "B T D"],
        *,
        positions: Int[Tensor, "#B T"] | None = None,
        segments: Tensor | None = None,
        mask: Bool[Tensor, "B S"] | None = None,
        memory: Tensor | None = None,
        cache: StepCache | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Return the final hidden vector of each token, zeros where a token is padding; as `Transformer.forward`.

        Raises:
            ModelError: as there, and for `segments` and `memory`, which the plan does not have.
        """
        if segments is not None or memory is not None:
            raise ModelError("the compiled step reads whole texts only: use the model itself for segments and memory")
        shape = (inputs.shape[0], inputs.shape[1])
        length, cached = (0, None) if cache is None else (cache.length, cache.mask)
        if positions is None:
            self.model.check_length(length + shape[1])
        joined = join_masks(mask, None if cached is None else torch.from_numpy(cached), length, shape, inputs.device)
        if positions is None and joined is not None:
            positions = count_positions(shape, length=length, mask=joined, segments=None, device=inputs.device)
        read = inputs.float() if inputs.is_floating_point() else inputs
        hidden = self.model.hidden(
            read.numpy(),
            mask=None if joined is None else joined.numpy(),
            positions=None if positions is None else np.ascontiguousarray(positions.expand(shape).numpy()),
            cache=cache,
        )
        return torch.from_numpy(hidden)

    def logits(self, hidden: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows V"]:
        """Scores of every token after `hidden`."""
        flat = self.model.logits(hidden.reshape(-1, hidden.shape[-1]).numpy())
        return torch.from_numpy(flat).view(*hidden.shape[:-1], self.config.vocab_size)
