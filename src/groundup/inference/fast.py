"""The compiled step as a language model: what `generate`, chat and evaluation use in place of the modules."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from groundup.core.errors import ModelError
from groundup.inference.step import Step
from groundup.inference.step_cache import StepCache
from groundup.model.config import TransformerConfig
from groundup.model.parts import count_positions
from groundup.model.transformer import join_masks
from groundup.model.weights.files import Progress
from groundup.model.weights.tile_source import TileSource

Floats = NDArray[np.float32]


class FastModel:
    """A causal model computed by one plan of compiled kernels (`groundup.inference.contracts.LanguageModel`).

    A token's hidden vector and logits are the same bits whatever the batch, the pieces of the prompt and the padding.

    Args:
        config: the composition.
        weights: its weights.
        threads: that work together.
        cache_type: of keys and values: float32, bfloat16 or int8.
        on_progress: called with (layers made, all layers).
    """

    def __init__(
        self,
        config: TransformerConfig,
        weights: TileSource,
        *,
        threads: int = 1,
        cache_type: str = "float32",
        on_progress: Progress | None = None,
    ) -> None:
        self.config, self.cache_type, self.training = config, cache_type, False
        self.weights = weights
        self.step = Step(config, weights, threads=threads, on_progress=on_progress)
        # The buffers of the step belong to one call.
        self._one_at_a_time = threading.Lock()
        self._where = nn.Parameter(torch.zeros(0), requires_grad=False)

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
        batch_size, num_tokens = inputs.shape[:2]
        length = 0 if cache is None else cache.length
        if inputs.shape == (1, 1) and positions is None and mask is None and cache is not None and cache.mask is None:
            return self._read_one(inputs, cache)
        if positions is None and length + num_tokens > self.config.max_position_embeddings:
            raise ModelError(
                f"the input is {length + num_tokens} tokens long, this model takes "
                f"{self.config.max_position_embeddings} (max_position_embeddings): shorten it or drop its beginning"
            )
        mask = join_masks(mask, cache, batch_size, num_tokens, torch.device("cpu"))
        if positions is None:
            positions = count_positions(
                (batch_size, num_tokens), length=length, mask=mask, segments=None, device=torch.device("cpu")
            )
        if cache is None:
            cache = StepCache(self.config, batch_size, num_tokens, self.cache_type)
        places = positions.expand(batch_size, num_tokens).numpy()
        reads = np.ones((batch_size, num_tokens), bool) if mask is None else mask[:, length:].numpy()
        hidden = np.zeros((batch_size, num_tokens, self.config.hidden_size), np.float32)
        lengths = places.max(axis=1) + 1
        cache.reserve(int((cache.lengths + reads.sum(1)).max()))
        before = cache.lengths.copy()
        try:
            self._read(inputs, places, reads, lengths, cache, hidden)
        finally:
            cache.lengths = before
        cache.update(num_tokens, mask)
        return torch.from_numpy(hidden)

    def _read_one(self, inputs: Tensor, cache: StepCache) -> Tensor:
        """The next token of a single text, without what batches and padding need: a fifth of a millisecond less."""
        length = cache.length
        if length >= self.config.max_position_embeddings:
            raise ModelError(
                f"the input is {length + 1} tokens long, this model takes {self.config.max_position_embeddings} "
                "(max_position_embeddings): shorten it or drop its beginning"
            )
        cache.reserve(length + 1)
        position = np.array([length])
        embedded = self._embed(inputs[0], position)
        with self._one_at_a_time:
            hidden = self.step.forward(embedded, np.zeros(1, np.int64), position, cache).copy()
        cache.update(1, None)
        return torch.from_numpy(hidden[None])

    def _read(
        self,
        inputs: Tensor,
        places: NDArray[np.int64],
        reads: NDArray[np.bool_],
        lengths: NDArray[np.int64],
        cache: StepCache,
        hidden: Floats,
    ) -> None:
        rows, columns = np.nonzero(reads)
        most = self.step.max_tokens
        for start in range(0, len(rows), most):
            row, column = rows[start : start + most], columns[start : start + most]
            chosen = inputs[torch.from_numpy(row), torch.from_numpy(column)]
            embedded = self._embed(chosen, places[row, column])
            with self._one_at_a_time:
                hidden[row, column] = self.step.forward(embedded, row, places[row, column], cache, lengths[row])
            np.add.at(cache.lengths, row, 1)

    def _embed(self, inputs: Tensor, positions: NDArray[np.int64]) -> Floats:
        if inputs.is_floating_point():
            x: Floats = inputs.float().numpy().copy()
        else:
            x = self.weights.rows("embed.weight", _checked(inputs.numpy(), self.config.vocab_size, "a token id"))
            if self.config.embedding_multiplier is not None:
                x = x * np.float32(self.config.embedding_multiplier)
        if self.config.positions is not None:
            known = _checked(positions, self.config.max_position_embeddings, "a position")
            x = x + self.weights.rows("embed_positions.weight", known)
        return x

    def logits(self, hidden: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows V"]:
        """Scores of every token after `hidden`."""
        flat = hidden.reshape(-1, hidden.shape[-1]).numpy()
        result = np.empty((len(flat), self.config.vocab_size), np.float32)
        for start in range(0, len(flat), self.step.max_tokens):
            piece = flat[start : start + self.step.max_tokens]
            with self._one_at_a_time:
                result[start : start + len(piece)] = self.step.logits(piece)
        return torch.from_numpy(result).view(*hidden.shape[:-1], self.config.vocab_size)

    def new_cache(self, batch_size: int, max_length: int | None = None) -> StepCache:
        """An empty cache for `batch_size` rows of up to `max_length` tokens (the model's longest by default)."""
        return StepCache(self.config, batch_size, max_length or self.config.max_position_embeddings, self.cache_type)

    def modules(self) -> Iterator[nn.Module]:
        """None: there is nothing to hook."""
        return iter(())

    def parameters(self) -> Iterator[nn.Parameter]:
        """One that is empty and says where inputs belong: the CPU."""
        return iter((self._where,))


def _checked(ids: NDArray[np.int64], size: int, what: str) -> NDArray[np.int64]:
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < size:
        wrong = int(ids.min()) if ids.min() < 0 else int(ids.max())
        raise ModelError(f"{what} is {wrong}, this model has 0 to {size - 1}")
    return ids
