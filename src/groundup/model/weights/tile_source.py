"""Where tiles come from, and the blocks of a GGUF file as tiles. Imports no torch."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from groundup.model.config import TransformerConfig
from groundup.model.ops.blocks import dequantize
from groundup.model.ops.tiles import Arena, Tiles, kind_of, tiles_from_blocks
from groundup.model.weights.gguf_contents import check_gguf_tensors, gguf_config
from groundup.model.weights.gguf_names import from_gguf
from groundup.model.weights.gguf_read import GgufFile

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


@runtime_checkable
class TileSource(Protocol):
    """Where a step's weights come from, under the names of `Transformer.state_dict`."""

    def matrix(self, name: str) -> Tiles:
        """A matrix in tiles."""

    def kinds(self) -> set[int]:
        """The kinds of tile among the matrices."""

    def vector(self, name: str) -> Floats | None:
        """A vector in float32, or None where the model has none of that name."""

    def rows(self, name: str, ids: Ids) -> Floats:
        """Rows of an embedding in float32."""


class GgufTiles:
    """The weights of a GGUF file under our names, each matrix in the block format that the file has.

    Args:
        file: an open file; it may be closed afterwards.

    Attributes:
        config: the composition.

    Raises:
        ModelError: when the file holds no model known here, or its tensors do not fit.
    """

    def __init__(self, file: GgufFile) -> None:
        self.config: TransformerConfig = gguf_config(file)
        self._arena, self._release = Arena(), file.page_releaser()
        self._embeddings: dict[str, NDArray[np.uint8]] = {}
        self._architecture = str(file.metadata["general.architecture"])
        self._slots, self._shapes = check_gguf_tensors(file, self.config)
        self._raw = {slot.theirs: file.raw(slot.theirs) for slot in self._slots.values()}
        self._formats = {name: file.tensors[name].format for name in self._raw}

    def matrix(self, name: str) -> Tiles:
        """A matrix in tiles of its own format."""
        rows = self._rows_of(name)
        order = self._order(name)
        stored = rows if order is None else rows[order]
        tiles = tiles_from_blocks(stored, self.format(name), self._shapes[name][1], self._arena)
        self._release()  # or the file would be in memory beside its tiles
        return tiles

    def kinds(self) -> set[int]:
        """The kinds of tile among the matrices."""
        return {kind_of(self.format(name)) for name, shape in self._shapes.items() if len(shape) == 2}

    def vector(self, name: str) -> Floats | None:
        """A vector in float32, or None."""
        if name not in self._slots:
            return None
        slot = self._slots[name]
        # A vector is never stored transposed, so its part of a fused one is a piece of it.
        part = np.split(dequantize(self._raw[slot.theirs], self._formats[slot.theirs]), slot.parts)[slot.part]
        return from_gguf(self._architecture, name, part, self.config)

    def rows(self, name: str, ids: Ids) -> Floats:
        """Rows of an embedding in float32."""
        if name not in self._embeddings:
            self._embeddings[name] = self._rows_of(name)
        values = dequantize(self._embeddings[name][ids], self.format(name))
        return values.reshape(len(ids), -1)

    def format(self, name: str) -> str:
        """The block format of a tensor."""
        return self._formats[self._slots[name].theirs]

    def _rows_of(self, name: str) -> NDArray[np.uint8]:
        """Our matrix as (rows, bytes of a row): a row is whole blocks, so fused matrices come apart."""
        slot = self._slots[name]
        whole = self._raw[slot.theirs].reshape(slot.parts * self._shapes[name][0], -1)
        return np.split(whole, slot.parts)[slot.part]

    def _order(self, name: str) -> Ids | None:
        """Which of their rows is each of ours, where that is not the same one."""
        places = np.arange(self._shapes[name][0])
        ours = from_gguf(self._architecture, name.removesuffix("weight") + "bias", places, self.config)
        return None if ours is places else ours
