"""Tiles of a model that was loaded as modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from groundup.model.ops.tiles import BF16, F32, Arena, Tiles, tiles_from_bfloat16, tiles_from_floats

Floats = NDArray[np.float32]


class ModuleTiles:
    """The weights of a model that was loaded as modules (`groundup.model.weights.tile_source.TileSource`).

    Args:
        state: its state dict.
        dtype: float32, or bfloat16, to which matrices are rounded that are not.
    """

    def __init__(self, state: Mapping[str, Tensor], dtype: Literal["float32", "bfloat16"] = "float32") -> None:
        self._state, self._dtype, self._arena = dict(state), dtype, Arena()

    def matrix(self, name: str) -> Tiles:
        """A matrix in tiles."""
        tensor = self._state[name].detach()
        if self._dtype == "bfloat16":
            bits = tensor.to(torch.bfloat16).contiguous().view(torch.int16).numpy().view(np.uint16)
            return tiles_from_bfloat16(bits, self._arena)
        return tiles_from_floats(tensor.float().contiguous().numpy(), self._arena)

    def kinds(self) -> set[int]:
        """The kinds of tile among the matrices."""
        return {BF16 if self._dtype == "bfloat16" else F32}

    def vector(self, name: str) -> Floats | None:
        """A vector in float32, or None."""
        tensor = self._state.get(name)
        return None if tensor is None else tensor.detach().float().numpy()

    def rows(self, name: str, ids: NDArray[np.int64]) -> Floats:
        """Rows of an embedding in float32."""
        values = self._state[name].detach()[torch.from_numpy(ids)]
        rounded: Floats = values.to(torch.bfloat16 if self._dtype == "bfloat16" else values.dtype).float().numpy()
        return rounded
