"""Tiles out of a model directory's safetensors files, without a model made of modules in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.model.config import TransformerConfig
from groundup.model.hf_config import model_type
from groundup.model.ops.blocks_quantize import quantize
from groundup.model.ops.tiles import (
    BF16,
    F32,
    Arena,
    Tiles,
    kind_of_integers,
    tiles_from_bfloat16,
    tiles_from_floats,
    tiles_from_integers,
)
from groundup.model.shapes import parameter_shapes
from groundup.model.weights.safetensors_read import StoredTensor
from groundup.model.weights.stored_model import Stored, open_stored

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


class DirectoryTiles:
    """The weights of a model directory (`groundup.model.weights.tile_source.TileSource`), each read when it is asked for.

    Matrices are kept in bfloat16 where they are stored so, as whole numbers where they are rounded (and lie in the file as
    they are here), and in float32 otherwise; none of this changes a value.

    Args:
        folder: the directory.
        config: its composition, of attention and MLPs only.
        dtype: `bfloat16` rounds matrices that are stored with more digits.

    Raises:
        ModelError: as `open_stored`.
    """

    def __init__(self, folder: Path, config: TransformerConfig, dtype: str = "float32") -> None:
        self._shapes = parameter_shapes(config)
        self._stored = open_stored(folder, model_type(config), self._shapes)
        self._narrows, self._arena = dtype == "bfloat16", Arena()
        self._embeddings: dict[str, NDArray[Any]] = {}

    def matrix(self, name: str) -> Tiles:
        """A matrix in tiles."""
        tensor = self._tensor(name)
        if not isinstance(tensor, StoredTensor) and self._is_whole(name):
            return tiles_from_integers(tensor.integers(), self._arena)
        values = self._numbers(name)
        if values.dtype == np.uint16:
            return tiles_from_bfloat16(values, self._arena)
        return tiles_from_floats(values, self._arena)

    def kinds(self) -> set[int]:
        """The kinds of tile among the matrices."""
        return {self._kind(name) for name, shape in self._shapes.items() if len(shape) == 2}

    def vector(self, name: str) -> Floats | None:
        """A vector in float32, or None where the model has none of that name."""
        if name not in self._shapes:
            return None
        return np.ascontiguousarray(self._stored.slots[name].take(self._tensor(name).floats()))

    def rows(self, name: str, ids: Ids) -> Floats:
        """Rows of an embedding in float32."""
        if name not in self._embeddings:
            self._embeddings[name] = self._numbers(name)
        rows = self._embeddings[name][ids]
        return (rows.astype(np.uint32) << 16).view(np.float32) if rows.dtype == np.uint16 else rows

    def _tensor(self, name: str) -> Stored:
        return self._stored.tensors[self._stored.slots[name].theirs]

    def _is_whole(self, name: str) -> bool:
        """Whether a matrix of ours is theirs as it is: rounded codes are not taken apart or turned round."""
        slot = self._stored.slots[name]
        return slot.parts == 1 and not slot.transposed

    def _kind(self, name: str) -> int:
        tensor = self._tensor(name)
        if not isinstance(tensor, StoredTensor) and self._is_whole(name):
            return kind_of_integers(tensor.format)
        return BF16 if tensor.dtype_name == "BF16" or self._narrows else F32

    def _numbers(self, name: str) -> NDArray[Any]:
        """A matrix as its kind has it: float32, or the bits of bfloat16 (uint16)."""
        tensor, slot = self._tensor(name), self._stored.slots[name]
        if isinstance(tensor, StoredTensor) and tensor.dtype_name == "BF16":
            return np.ascontiguousarray(slot.take(tensor.numbers()))
        values = np.ascontiguousarray(slot.take(tensor.floats()))
        return quantize(values, "BF16").view(np.uint16) if self._narrows else values
