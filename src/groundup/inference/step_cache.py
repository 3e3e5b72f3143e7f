"""Keys and values of all layers for the compiled step: one buffer a layer, and a length for each row of the batch.

Padding is never stored: a row holds its own tokens from its beginning, whatever stands beside it. The layout is that of
`attend_numba`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import ModelError
from groundup.model.config import AttentionConfig, TransformerConfig
from groundup.model.ops.attend_numba import BLOCK, CACHE_TYPES, VALUE_BYTES

_LINE = 64


class _Layer:
    """The buffer of one layer: rows of the batch, heads, and in each the keys, the values and their scales."""

    def __init__(self, num_heads: int, size: int, cache_type: str) -> None:
        self.num_heads, self.padded = num_heads, -(-size // 16) * 16
        self.type, self.width = CACHE_TYPES[cache_type], VALUE_BYTES[CACHE_TYPES[cache_type]]
        self.data: NDArray[np.uint8] | None = None  # rows, heads, bytes of a head
        self.capacity = 0

    @property
    def parts(self) -> tuple[int, int, int, int]:
        """Where values, the keys' scales and the values' scales begin in a head, and its end."""
        values = self.capacity * self.padded * self.width
        scales = 4 * self.capacity if self.width == 1 else 0
        return values, 2 * values, 2 * values + scales, 2 * values + 2 * scales

    def reserve(self, rows: int, capacity: int) -> None:
        """Make room for so many tokens a row, a multiple of `BLOCK`; what is there stays."""
        before, old_parts, old = self.data, self.parts, self.capacity
        self.capacity = capacity
        size = self.parts[3]
        raw = np.zeros(rows * self.num_heads * size + _LINE, np.uint8)
        start = -raw.ctypes.data % _LINE
        self.data = raw[start : start + rows * self.num_heads * size].reshape(rows, self.num_heads, size)
        if before is None or old == 0:
            return
        for place, begin in enumerate((0, *old_parts[:3])):
            length = (*old_parts, 0)[place] - begin
            target = (0, *self.parts[:3])[place]
            self.data[:, :, target : target + length] = before[:, :, begin : begin + length]

    def entry(self) -> list[int]:
        """Its line in the table that the kernels read."""
        assert self.data is not None
        values, key_scales, value_scales, _ = self.parts
        return [
            self.data.ctypes.data,
            self.type,
            self.data.strides[0],
            self.data.strides[1],
            values,
            key_scales,
            value_scales,
            0,
        ]


class StepCache:
    """The cache of a compiled step (`groundup.model.cache.Cache`).

    Args:
        config: the model's.
        batch_size: rows.
        max_length: most tokens of a row.
        cache_type: float32, bfloat16 or int8.

    Attributes:
        length: columns seen, padding included.
        lengths: tokens of each row, padding left out.
        table: int64, what the kernels know of each layer.
    """

    def __init__(self, config: TransformerConfig, batch_size: int, max_length: int, cache_type: str) -> None:
        self.config, self.batch_size, self.max_length, self.cache_type = config, batch_size, max_length, cache_type
        self.length, self.mask = 0, None
        self.lengths = np.zeros(batch_size, np.int64)
        self.layers: Sequence[Any] = ()
        self._layers = []
        for layer in config.layers():
            assert isinstance(layer.mixer, AttentionConfig)
            self._layers.append(_Layer(layer.mixer.num_key_value_heads, layer.mixer.head_dim, cache_type))
        self.table = np.zeros((len(self._layers), 8), np.int64)
        self.capacity = 0

    length: int
    mask: NDArray[np.bool_] | None

    def reserve(self, longest: int) -> None:
        """Make room for rows of so many tokens.

        Raises:
            ModelError: when that is more than the cache was made for.
        """
        if longest > self.max_length:
            raise ModelError(
                f"the cache holds at most {self.max_length} tokens, {longest} are needed: make a longer one"
            )
        if longest <= self.capacity:
            return
        most = -(-self.max_length // BLOCK) * BLOCK
        self.capacity = min(most, max(-(-longest // BLOCK) * BLOCK, 2 * self.capacity))
        for index, layer in enumerate(self._layers):
            layer.reserve(self.batch_size, self.capacity)
            self.table[index] = layer.entry()

    def update(self, num_tokens: int, mask: NDArray[np.bool_] | None) -> None:
        """Count `num_tokens` new columns and keep the mask (B, S) over all of them."""
        self.length += num_tokens
        self.mask = mask
        self._count()

    def _count(self) -> None:
        if self.mask is None:
            self.lengths[:] = self.length
        else:
            self.lengths[:] = self.mask.sum(1)

    def snapshot(self) -> Any:
        """A copy of everything, for `restore`."""
        return self.fork()

    def restore(self, snapshot: Any) -> None:
        """Go back to what `snapshot` returned, which stays usable."""
        copy = snapshot.fork()
        self.length, self.mask, self.lengths = copy.length, copy.mask, copy.lengths
        self._layers, self.table, self.capacity = copy._layers, copy.table, copy.capacity

    def fork(self, rows: Sequence[int] | None = None) -> StepCache:
        """An independent copy with the given rows of the batch, in that order."""
        chosen = list(range(self.batch_size)) if rows is None else list(rows)
        if not all(0 <= row < self.batch_size for row in chosen):
            raise ModelError(
                f"cannot fork rows {chosen} of a cache of {self.batch_size} rows: use 0 to {self.batch_size - 1}"
            )
        copy = StepCache(self.config, len(chosen), self.max_length, self.cache_type)
        copy.length, copy.lengths = self.length, self.lengths[chosen]
        copy.mask = None if self.mask is None else self.mask[chosen]
        if self.capacity and chosen:
            copy.reserve(self.capacity if self.capacity <= self.max_length else self.max_length)
            for own, theirs in zip(copy._layers, self._layers, strict=True):
                assert own.data is not None and theirs.data is not None
                own.data[:] = theirs.data[chosen]
        return copy

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` columns."""
        if not 0 <= length <= self.length:
            raise ModelError(f"cannot truncate a cache of {self.length} tokens to {length}")
        self.length = length
        self.mask = None if self.mask is None else self.mask[:, :length]
        self._count()
