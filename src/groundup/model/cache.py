"""What a model keeps between two forwards: one state per layer behind one protocol.

Attention keeps keys and values, which can be cut back; a recurrent mixer keeps a state of fixed size, which can only
be saved and put back. Code that uses a cache relies on the protocols alone. A cache holds values: no gradient flows
through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from groundup.core.errors import ModelError


@runtime_checkable
class LayerCache(Protocol):
    """The state of one mixer for a batch of sequences."""

    @property
    def length(self) -> int:
        """Tokens seen so far."""

    def update(self, *new: Tensor) -> tuple[Tensor, ...]:
        """Take in what the mixer computed for the new tokens; return what it should read."""

    def snapshot(self) -> Any:
        """A copy of the state that later calls do not change."""

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot, which stays usable."""

    def fork(self, rows: Sequence[int] | None = None) -> LayerCache:
        """An independent copy with the given rows of the batch, in that order (all of them where not given)."""


@runtime_checkable
class TruncatableCache(LayerCache, Protocol):
    """A state that can forget its last tokens without a snapshot."""

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens."""


@runtime_checkable
class Cache(Protocol):
    """The argument `cache` of a forward: the layers' states, and which of the tokens seen are padding."""

    @property
    def layers(self) -> Sequence[LayerCache]: ...

    @property
    def length(self) -> int:
        """Tokens seen so far, padding included."""

    @property
    def mask(self) -> Tensor | None:
        """Bool[B, length], False where a token is padding; None when there is none."""

    def update(self, num_tokens: int, mask: Tensor | None) -> None:
        """Count the tokens of a finished forward; `mask` covers all tokens seen, the new ones included."""

    def snapshot(self) -> Any: ...

    def restore(self, snapshot: Any) -> None: ...

    def fork(self, rows: Sequence[int] | None = None) -> Cache: ...

    def truncate(self, length: int) -> None: ...


class StackCache:
    """The cache of a stack of layers: its length is that of the last finished forward."""

    def __init__(self, layers: Sequence[LayerCache], batch_size: int) -> None:
        self.layers: Sequence[LayerCache] = tuple(layers)
        self.batch_size = batch_size
        self.length = 0
        self.mask: Tensor | None = None

    def update(self, num_tokens: int, mask: Bool[Tensor, "B S"] | None) -> None:
        """Count `num_tokens` new tokens and keep the mask over all tokens."""
        self.length += num_tokens
        self.mask = mask

    def snapshot(self) -> Any:
        """A copy of everything, for `restore`."""
        return self.length, self.mask, [layer.snapshot() for layer in self.layers]

    def restore(self, snapshot: Any) -> None:
        """Go back to what `snapshot` returned."""
        self.length, self.mask, states = snapshot
        for layer, state in zip(self.layers, states, strict=True):
            layer.restore(state)

    def fork(self, rows: Sequence[int] | None = None) -> StackCache:
        """An independent copy with the given rows; `[0, 0, 0]` makes three of the first (beams, samples)."""
        rows = None if rows is None else list(rows)
        if rows is not None and not all(0 <= row < self.batch_size for row in rows):
            raise ModelError(
                f"cannot fork rows {rows} of a cache of {self.batch_size} rows: use 0 to {self.batch_size - 1}"
            )
        copy = StackCache([layer.fork(rows) for layer in self.layers], self.batch_size if rows is None else len(rows))
        copy.length = self.length
        copy.mask = self.mask if self.mask is None or rows is None else self.mask[rows]
        return copy

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens.

        Raises:
            ModelError: when a layer cannot (a recurrent state needs a snapshot), or `length` is out of range.
        """
        if not 0 <= length <= self.length:
            raise ModelError(f"cannot truncate a cache of {self.length} tokens to {length}")
        for layer in self.layers:
            if layer.length == length:
                continue
            if not isinstance(layer, TruncatableCache):
                raise ModelError(
                    f"{type(layer).__name__} cannot be truncated from {layer.length} to {length} tokens: "
                    "take a snapshot before and restore it"
                )
        for layer in self.layers:
            if isinstance(layer, TruncatableCache):
                layer.truncate(length)
        self.length = length
        self.mask = None if self.mask is None else self.mask[:, :length]


class KVCache:
    """Keys and values of one attention layer, in a buffer that is allocated ahead and doubles when full.

    Args:
        batch_size: rows.
        max_length: most tokens it may hold.
    """

    first_capacity = 64

    def __init__(self, batch_size: int, max_length: int) -> None:
        self.batch_size, self.max_length, self.length = batch_size, max_length, 0
        self._keys: Tensor | None = None  # B K capacity d, of the dtype and device of the first keys
        self._values: Tensor | None = None

    def update(self, *new: Float[Tensor, "B K T d"]) -> tuple[Tensor, ...]:
        """Append the keys and values of the new tokens; return those of all tokens, as views of the buffer."""
        key, value = new
        end = self.length + key.shape[2]
        if end > self.max_length:
            raise ModelError(f"the cache holds at most {self.max_length} tokens, {end} are needed: make a longer one")
        keys, values = self._reserve(end, key)
        keys[:, :, self.length : end] = key.detach()
        values[:, :, self.length : end] = value.detach()
        self.length = end
        return keys[:, :, :end], values[:, :, :end]

    def _reserve(self, end: int, like: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self._keys, self._values
        if keys is not None and values is not None and keys.shape[2] >= end:
            return keys, values
        capacity = min(self.max_length, max(end, self.first_capacity, 2 * (0 if keys is None else keys.shape[2])))
        shape = (self.batch_size, like.shape[1], capacity, like.shape[3])
        new_keys, new_values = like.new_zeros(shape), like.new_zeros(shape)
        if keys is not None and values is not None:
            new_keys[:, :, : self.length] = keys[:, :, : self.length]
            new_values[:, :, : self.length] = values[:, :, : self.length]
        self._keys, self._values = new_keys, new_values
        return new_keys, new_values

    def snapshot(self) -> Any:
        """A copy of the keys and values so far."""
        return self.length, self._copy(self._keys, None), self._copy(self._values, None)

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot."""
        self.length, keys, values = snapshot
        self._keys, self._values = self._copy(keys, None), self._copy(values, None)

    def fork(self, rows: Sequence[int] | None = None) -> KVCache:
        """An independent copy of the given rows."""
        copy = KVCache(self.batch_size if rows is None else len(rows), self.max_length)
        copy.length = self.length
        copy._keys, copy._values = self._copy(self._keys, rows), self._copy(self._values, rows)
        return copy

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens."""
        if not 0 <= length <= self.length:
            raise ModelError(f"cannot truncate {self.length} cached tokens to {length}")
        self.length = length

    def _copy(self, buffer: Tensor | None, rows: Sequence[int] | None) -> Tensor | None:
        if buffer is None:
            return None
        filled = buffer[:, :, : self.length]
        return filled.clone() if rows is None else filled[torch.as_tensor(rows, device=buffer.device)]
