"""The compiled step as a decoder: what `generate`, chat and evaluation use in place of the modules. Imports no torch."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import ModelError
from groundup.core.progress import Progress
from groundup.inference.contracts import Floats, Ids, Mask
from groundup.inference.step import Step
from groundup.inference.step_cache import StepCache
from groundup.model.config import TransformerConfig
from groundup.model.weights.tile_source import TileSource


class FastModel:
    """A causal model computed by one plan of compiled kernels (`groundup.inference.contracts.Decoder`).

    A token's hidden vector and logits are the same bits whatever the batch, the pieces of the prompt and the padding.
    Several threads of Python may use it, one after the other: what it returns is the caller's own.

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
        self.config, self.cache_type = config, cache_type
        self.weights = weights
        self.step = Step(config, weights, threads=threads, on_progress=on_progress)
        # The buffers of the step belong to one call.
        self._one_at_a_time = threading.Lock()

    def read(
        self, ids: Ids, *, mask: Mask | None = None, positions: Ids | None = None, cache: StepCache | None = None
    ) -> None:
        """Take tokens into the cache."""
        self.hidden(ids, mask=mask, positions=positions, cache=cache)

    def next_logits(
        self, ids: Ids, *, mask: Mask | None = None, positions: Ids | None = None, cache: StepCache | None = None
    ) -> Floats:
        """Scores of every token after the last column, (B, V)."""
        if ids.shape != (1, 1) or mask is not None or positions is not None or cache is None or cache.mask is not None:
            return self.logits(self.hidden(ids, mask=mask, positions=positions, cache=cache)[:, -1])
        # The next token of a single text, without what batches and padding need: a fifth of a millisecond less.
        length = cache.length
        self.check_length(length + 1)
        cache.reserve(length + 1)
        position = np.array([length])
        embedded = self._embed(ids[0], position)
        with self._one_at_a_time:
            logits = self.step.logits(self.step.forward(embedded, np.zeros(1, np.int64), position, cache)).copy()
        cache.update(1, None)
        return logits

    def hidden(
        self,
        inputs: Ids | Floats,
        *,
        mask: Mask | None = None,
        positions: Ids | None = None,
        cache: StepCache | None = None,
    ) -> Floats:
        """The final hidden vector of each token, (B, T, D), zeros where a token is padding.

        Args:
            inputs: ids (B, T), or embeddings (B, T, D) in their place.
            mask, positions, cache: as in `Decoder`.

        Raises:
            ModelError: when the input is too long, an id or a position is unknown, or the cache has no room.
        """
        batch_size, num_tokens = inputs.shape[:2]
        length = 0 if cache is None else cache.length
        if positions is None:
            self.check_length(length + num_tokens)
            assert mask is None
            assert cache is None or cache.mask is None
            positions = np.broadcast_to(np.arange(length, length + num_tokens), (batch_size, num_tokens))
        if cache is None:
            cache = self.new_cache(batch_size, num_tokens)
        reads = np.ones((batch_size, num_tokens), np.bool_) if mask is None else mask[:, length:]
        hidden = np.zeros((batch_size, num_tokens, self.config.hidden_size), np.float32)
        lengths = positions.max(axis=1) + 1
        cache.reserve(int((cache.lengths + reads.sum(1)).max()))
        before = cache.lengths.copy()
        try:
            self._read(inputs, positions, reads, lengths, cache, hidden)
        finally:
            cache.lengths = before
        cache.update(num_tokens, mask)
        return hidden

    def check_length(self, num_tokens: int) -> None:
        """Raise ModelError for a text that is longer than the model reads."""
        longest = self.config.max_position_embeddings
        if num_tokens > longest:
            raise ModelError(
                f"the input is {num_tokens} tokens long, this model takes {longest} (max_position_embeddings): "
                "shorten it or drop its beginning"
            )

    def _read(
        self,
        inputs: Ids | Floats,
        places: Ids,
        reads: Mask,
        lengths: Ids,
        cache: StepCache,
        hidden: Floats,
    ) -> None:
        rows, columns = np.nonzero(reads)
        most = self.step.max_tokens
        for start in range(0, len(rows), most):
            row, column = rows[start : start + most], columns[start : start + most]
            embedded = self._embed(inputs[row, column], places[row, column])
            with self._one_at_a_time:
                hidden[row, column] = self.step.forward(embedded, row, places[row, column], cache, lengths[row])
            np.add.at(cache.lengths, row, 1)

    def _embed(self, inputs: NDArray[Any], positions: Ids) -> Floats:
        if np.issubdtype(inputs.dtype, np.floating):
            x: Floats = inputs.astype(np.float32, copy=False)
        else:
            x = self.weights.rows("embed.weight", _checked(inputs, self.config.vocab_size, "a token id"))
            if self.config.embedding_multiplier is not None:
                x = x * np.float32(self.config.embedding_multiplier)
        if self.config.positions is not None:
            known = _checked(positions, self.config.max_position_embeddings, "a position")
            x = x + self.weights.rows("embed_positions.weight", known)
        return x

    def logits(self, hidden: Floats) -> Floats:
        """Scores of every token after each of the vectors (N, D): (N, V)."""
        result = np.empty((len(hidden), self.config.vocab_size), np.float32)
        for start in range(0, len(hidden), self.step.max_tokens):
            piece = hidden[start : start + self.step.max_tokens]
            with self._one_at_a_time:
                result[start : start + len(piece)] = self.step.logits(piece)
        return result

    def new_cache(self, batch_size: int, max_length: int | None = None) -> StepCache:
        """An empty cache for `batch_size` rows of up to `max_length` tokens (the model's longest by default)."""
        return StepCache(self.config, batch_size, max_length or self.config.max_position_embeddings, self.cache_type)


def _checked(ids: Ids, size: int, what: str) -> Ids:
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < size:
        wrong = int(ids.min()) if ids.min() < 0 else int(ids.max())
        raise ModelError(f"{what} is {wrong}, this model has 0 to {size - 1}")
    return ids
