"""Matrices laid out for vector kernels: sixteen rows side by side, their bytes moved and never rounded.

A product with a row-major block format ends each block with a sum across lanes. With sixteen rows interleaved every lane
has a row of its own, the scales of sixteen rows are one vector, and weights loaded once serve many rows of activations.
`tiles_from_blocks` moves the codes and scales of a GGUF block format into that order; `dequantize` and the kernels of
`products_numba` read the same numbers out of both.

A tile is sixteen rows of a matrix: the codes of all blocks of 32 columns, then the scales of all blocks, and so on part
by part, each part filled up to 64 bytes. Rows and columns that a matrix lacks are zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import ModelError
from groundup.model.ops.blocks import Blocks, format_by_name, num_bytes, unpack_scales, wide_codes
from groundup.model.ops.integers import IntegerFormat, Integers

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
ROWS, BLOCK = 16, 32
_LINE = 64
# Tiles packed at a time: bounds the temporaries of a large matrix.
_PIECE_TILES = 64

#: Numbers of the kinds of tile, as the kernels know them.
F32, BF16, INT8, INT4, Q8_0, Q4_0, Q4_1, Q5_0, Q4_K, Q6_K, WIDE = range(11)
NAMES = ("F32", "BF16", "INT8", "INT4", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q4_K", "Q6_K", "WIDE")
#: Kinds whose kernels take activations as they are; the others take them rounded to eight bits.
FLOAT_KINDS = frozenset({F32, BF16})


@dataclass(frozen=True)
class Tiles:
    """A matrix in tiles.

    Attributes:
        kind: one of the numbers above.
        rows, columns: of the matrix.
        group: blocks that share a scale (INT8 and INT4); 1 for the other kinds.
        parts: where scales, minima and high bits begin in a tile, in bytes.
        data: uint8 of shape (tiles, bytes of a tile), aligned to a cache line.
    """

    kind: int
    rows: int
    columns: int
    group: int
    parts: tuple[int, int, int]
    data: Bytes

    @property
    def num_blocks(self) -> int:
        """Blocks of 32 columns in a row."""
        return -(-self.columns // BLOCK)


class Arena:
    """Memory for many matrices, one beside the other, each beginning at a cache line.

    numpy asks Linux for pages of 2 MB where an array is large. A weight that is read once for each token crosses half a
    million small pages a second: out of one arena the matrices of a model of 135 M parameters stream at 12.9 GB/s on
    one core, out of arrays of their own at 8.4 (docs/experiments.md).
    """

    chunk_bytes = 64 << 20

    def __init__(self) -> None:
        self._chunk = np.empty(0, np.uint8)
        self._used = 0

    def take(self, num_bytes: int) -> Bytes:
        """Uninitialised bytes."""
        if self._used + num_bytes > len(self._chunk):
            raw = np.empty(max(num_bytes, self.chunk_bytes) + _LINE, np.uint8)
            start = -raw.ctypes.data % _LINE
            self._chunk, self._used = raw[start : len(raw) - _LINE + start], 0
        taken = self._chunk[self._used : self._used + num_bytes]
        self._used += -(-num_bytes // _LINE) * _LINE
        return taken


def kind_of(format: str) -> int:
    """The kind of tile that a GGUF block format becomes."""
    if format == "F16":
        return F32
    return NAMES.index(format) if format in NAMES else WIDE


def tiles_from_blocks(data: Bytes, format: str, columns: int, arena: Arena) -> Tiles:
    """A matrix in a GGUF block format as tiles, with the same codes and scales.

    Args:
        data: uint8 of shape (rows, bytes of a row).
        format: a key of `FORMATS`. F16 becomes F32; formats without a kernel of their own become WIDE, which is larger.
        columns: values of a row.
        arena: where the tiles go.

    Raises:
        ModelError: for a format that holds no weights, and for scales that are not finite.
    """
    found = format_by_name(format)
    assert data.shape[1] == num_bytes(found, columns)
    if format in ("F32", "F16"):
        return tiles_from_floats(data.view(found.layout).astype(np.float32, copy=False), arena)
    if format == "BF16":
        return tiles_from_bfloat16(data.view(np.uint16), arena)
    kind = kind_of(format)

    def pieces(rows: slice) -> list[Any]:
        blocks = np.ascontiguousarray(data[rows]).view(found.layout)
        _check_scales(blocks, format)
        return _PACKERS[format](blocks) if kind != WIDE else _pack_wide(blocks, format)

    return _packed(kind, len(data), columns, 1, pieces, arena)


def tiles_from_floats(values: Floats, arena: Arena) -> Tiles:
    """A float32 matrix as F32 tiles."""

    def pieces(rows: slice) -> list[Any]:
        part = _padded(values[rows])
        return [part.reshape(-1, ROWS, part.shape[1]).transpose(0, 2, 1)]

    return _packed(F32, values.shape[0], values.shape[1], 1, pieces, arena)


def tiles_from_bfloat16(bits: NDArray[np.uint16], arena: Arena) -> Tiles:
    """A bfloat16 matrix, given as its bits, as BF16 tiles."""

    def pieces(rows: slice) -> list[Any]:
        part = _padded(bits[rows])
        return [part.reshape(-1, ROWS, part.shape[1] // 2, 2).transpose(0, 2, 1, 3)]

    return _packed(BF16, bits.shape[0], bits.shape[1], 1, pieces, arena)


def kind_of_integers(format: IntegerFormat) -> int:
    """The kind of tile that a matrix of whole numbers becomes: float32 where a group is no whole blocks."""
    if format.group is not None and format.group % BLOCK:
        return F32
    return INT8 if format.bits == 8 else INT4


def tiles_from_integers(integers: Integers, arena: Arena) -> Tiles:
    """Whole numbers with a scale for each row, or for each group of a row's columns, as tiles of `kind_of_integers`."""
    kind, group = kind_of_integers(integers.format), integers.format.group
    if kind == F32:
        return tiles_from_floats(integers.floats(), arena)
    rows, columns = integers.codes.shape

    def pieces(part: slice) -> list[Any]:
        # One bit turned makes c + 128, which the product takes as unsigned.
        codes = _padded(integers.codes[part]).view(np.uint8) ^ np.uint8(128)
        if kind == INT4:  # 120 less is c + 8; as in Q4_0, sixteen bytes hold the first and the last half of a block
            halves = (codes - np.uint8(120)).reshape(len(codes), -1, 2, BLOCK // 2)
            codes = _flat(halves[:, :, 0] | halves[:, :, 1] << np.uint8(4))
        own = _padded_rows(integers.scales[part])
        return [_fours(codes), _lanes(own)]

    return _packed(kind, rows, columns, -(-(group or columns) // BLOCK), pieces, arena)


def _packed(
    kind: int, rows: int, columns: int, group: int, pieces: Callable[[slice], list[Any]], arena: Arena
) -> Tiles:
    """Lay the parts of each tile side by side, a few tiles at a time."""
    num_tiles = -(-rows // ROWS)
    data: Bytes | None = None
    offsets: list[int] = []
    for start in range(0, num_tiles, _PIECE_TILES):
        count = min(_PIECE_TILES, num_tiles - start)
        parts = [
            np.ascontiguousarray(part).view(np.uint8).reshape(count, -1)
            for part in pieces(slice(start * ROWS, (start + count) * ROWS))
        ]
        if data is None:
            ends = np.cumsum([-(-part.shape[1] // _LINE) * _LINE for part in parts])
            offsets = [0, *(int(end) for end in ends)]
            data = arena.take(num_tiles * offsets[-1]).reshape(num_tiles, offsets[-1])
        for offset, end, part in zip(offsets, offsets[1:], parts, strict=False):
            data[start : start + count, offset : offset + part.shape[1]] = part
            data[start : start + count, offset + part.shape[1] : end] = 0
    assert data is not None
    # What a kind lacks is never read.
    places = (*offsets[1:-1], 0, 0, 0)[:3]
    return Tiles(kind, rows, columns, group, (places[0], places[1], places[2]), data)


def _padded_rows(values: NDArray[Any]) -> NDArray[Any]:
    missing = -len(values) % ROWS
    return np.pad(values, ((0, missing), (0, 0))) if missing else values


def _padded(values: NDArray[Any]) -> NDArray[Any]:
    """Filled up to whole tiles and blocks."""
    missing = -values.shape[1] % BLOCK
    values = _padded_rows(values)
    return np.ascontiguousarray(np.pad(values, ((0, 0), (0, missing))) if missing else values)


def _fours(codes: Bytes) -> NDArray[np.uint32]:
    """(rows, bytes) -> (tiles, bytes / 4, 16 rows): four neighbouring bytes of a row are what a lane multiplies."""
    words = np.ascontiguousarray(codes).view(np.uint32)
    return words.reshape(-1, ROWS, words.shape[1]).transpose(0, 2, 1)


def _lanes(field: NDArray[Any]) -> NDArray[Any]:
    """A number for each block, (rows, blocks, ...) -> (tiles, blocks, ..., 16 rows)."""
    tiles = field.reshape(-1, ROWS, *field.shape[1:])
    return np.moveaxis(tiles, 1, -1)


def _whole(blocks: Blocks) -> Blocks:
    """Filled up to whole tiles with blocks of zeros."""
    missing = -len(blocks) % ROWS
    return np.concatenate([blocks, np.zeros((missing, blocks.shape[1]), blocks.dtype)]) if missing else blocks


def _flat(field: Bytes) -> Bytes:
    return np.ascontiguousarray(field).reshape(len(field), -1)


def _pack_q8_0(blocks: Blocks) -> list[Any]:
    blocks = _whole(blocks)
    return [_fours(_flat(blocks["qs"]) ^ np.uint8(128)), _lanes(blocks["d"])]


def _pack_q4_0(blocks: Blocks) -> list[Any]:
    # Of sixteen bytes the low halves are the first sixteen values: they stay together as they are.
    blocks = _whole(blocks)
    return [_fours(_flat(blocks["qs"])), _lanes(blocks["d"])]


def _pack_q4_1(blocks: Blocks) -> list[Any]:
    blocks = _whole(blocks)
    return [_fours(_flat(blocks["qs"])), _lanes(blocks["d"]), _lanes(blocks["m"])]


def _pack_q5_0(blocks: Blocks) -> list[Any]:
    blocks = _whole(blocks)
    bits = np.unpackbits(_flat(blocks["qh"]), axis=1, bitorder="little").reshape(-1, ROWS, blocks.shape[1] * 8, 4)
    # The four bits of sixteen rows: a mask for the sixty-four bytes that a vector holds.
    masks = np.packbits(bits.transpose(0, 2, 1, 3).reshape(len(bits), -1), axis=1, bitorder="little")
    return [_fours(_flat(blocks["qs"])), _lanes(blocks["d"]), np.empty((len(bits), 0), np.uint8), masks]


def _pack_q4_k(blocks: Blocks) -> list[Any]:
    blocks = _whole(blocks)
    rows, count = blocks.shape
    scales, minima = (part.reshape(rows, count * 8) for part in unpack_scales(_flat(blocks["scales"]).reshape(-1, 12)))
    both = np.stack([blocks["d"], blocks["dmin"]], axis=2)
    return [_fours(_flat(blocks["qs"])), _lanes(scales), _lanes(minima), _lanes(both)]


def _pack_q6_k(blocks: Blocks) -> list[Any]:
    blocks = _whole(blocks)
    return [
        _fours(_flat(blocks["qs"])),
        _lanes(_flat(blocks["scales"])),
        _lanes(blocks["d"]),
        _fours(_flat(blocks["qh"])),
    ]


def _pack_wide(blocks: Blocks, format: str) -> list[Any]:
    rows = len(blocks)
    codes, scales, minima = wide_codes(blocks.reshape(-1), format)
    parts = [_padded_rows(part.reshape(rows, -1)) for part in (codes, scales, minima)]
    return [_fours(parts[0]), _lanes(parts[1]), _lanes(parts[2])]


_PACKERS: dict[str, Callable[[Blocks], list[Any]]] = {
    "Q8_0": _pack_q8_0,
    "Q4_0": _pack_q4_0,
    "Q4_1": _pack_q4_1,
    "Q5_0": _pack_q5_0,
    "Q4_K": _pack_q4_k,
    "Q6_K": _pack_q6_k,
}


def _check_scales(blocks: Blocks, format: str) -> None:
    for name in ("d", "m", "dmin"):
        if name in (blocks.dtype.names or ()) and not np.isfinite(blocks[name]).all():
            raise ModelError(f"a block of {format} has a scale that is not finite: the weights are damaged")
