"""Products of activations with matrices in block formats: what they are, and the compiled kernels that compute them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from groundup.model.ops.blocks import FORMATS, dequantize
from groundup.model.ops.step_kernels import GROUP, PRODUCTS, group_rows, multiply, quantize_rows
from groundup.model.ops.tiles import BLOCK, FLOAT_KINDS, Arena, Tiles, tiles_from_blocks

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
#: Formats that meet activations as they are.
PLAIN_FORMATS = ("F32", "F16", "BF16")


def round_activations(x: Floats) -> Floats:
    """Rows rounded to eight bits, each block of 32 values by its own scale, as llama.cpp does before a product.

    The scale of a block is its largest value over 127; a value becomes the nearest multiple of it, ties to even.

    Args:
        x: (rows, columns), columns a multiple of 32.

    Returns:
        the rounded values, (rows, columns).
    """
    blocks = x.reshape(-1, BLOCK)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    rounded: Floats = (np.rint(blocks * inverse) * (largest / np.float32(127))).reshape(x.shape)
    return rounded


def multiply_blocks_reference(x: Floats, data: Bytes, format: str) -> Floats:
    """x W^T for a matrix in a block format: its values, and activations rounded as the format asks, summed in float64.

    Args:
        x: (rows, columns).
        data: W, uint8 of shape (outputs, bytes of a row).
        format: a key of `FORMATS`.

    Returns:
        float32 of shape (rows, outputs).
    """
    values = dequantize(data, format).reshape(len(data), -1).astype(np.float64)
    read = x if format in PLAIN_FORMATS else round_activations(x)
    return (read.astype(np.float64) @ values.T).astype(np.float32)


def multiply_blocks(x: Floats, data: Bytes, format: str) -> Floats:
    """`multiply_blocks_reference` by the kernel of the format."""
    found = FORMATS[format]
    columns = data.shape[1] // found.block_bytes * found.block_size
    return multiply_tiles(x, tiles_from_blocks(data, format, columns, Arena()))


def multiply_tiles(x: Floats, tiles: Tiles) -> Floats:
    """x W^T for a matrix in tiles, on this thread.

    Args:
        x: (rows, columns).

    Returns:
        float32 of shape (rows, outputs).
    """
    blocks, padded_rows = tiles.num_blocks, -(-len(x) // GROUP) * GROUP
    values = np.zeros((len(x), blocks * BLOCK), np.float32)
    values[:, : x.shape[1]] = x
    is_float = tiles.kind in FLOAT_KINDS
    grouped = np.zeros(padded_rows * blocks * (128 if is_float else 48), np.uint8)
    arguments = np.array([values.ctypes.data, values.strides[0], blocks, grouped.ctypes.data], np.int64)
    (group_rows if is_float else quantize_rows)(arguments.ctypes.data, 0, len(x), 0, 0)
    out = np.zeros((padded_rows, len(tiles.data) * 16), np.float32)
    bias, state = np.zeros(out.shape[1], np.float32), np.array([len(x)], np.int64)
    given = (
        *(tiles.data.ctypes.data, tiles.data.strides[0], *tiles.parts, blocks, tiles.group, grouped.ctypes.data),
        *(out.ctypes.data, out.strides[0], bias.ctypes.data, 0, 0),
        *(product.address for product in PRODUCTS[tiles.kind]),
    )
    arguments = np.array(given, np.int64)
    multiply(arguments.ctypes.data, 0, len(tiles.data), state.ctypes.data, 0)
    return out[: len(x), : tiles.rows]
