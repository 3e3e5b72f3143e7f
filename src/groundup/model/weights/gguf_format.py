"""What the reader and the writer of GGUF files share: value types, limits, and the checks of alignment and shapes.

Source: the GGUF specification, versions 2 and 3 (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from groundup.core.errors import ModelError
from groundup.model.ops.blocks import BlockFormat, num_bytes

MAGIC = b"GGUF"
VERSION, READABLE_VERSIONS = 3, (2, 3)
ALIGNMENT_KEY, DEFAULT_ALIGNMENT = "general.alignment", 32
# The specification asks for a multiple of 8 and names no upper end; real files have 32, or the 4096 of a page.
MIN_ALIGNMENT, MAX_ALIGNMENT = 8, 1 << 20
MAX_KEY_BYTES = 65_535
MAX_DIMS = 4
# Arrays of arrays are rare (llama.cpp refuses them altogether); the end keeps a hostile file from deep recursion.
MAX_ARRAY_DEPTH = 4
# ggml counts values in a signed 64-bit number.
MAX_VALUES = 2**63 - 1

#: The value types of metadata; a type's place here is its number in a file.
VALUE_TYPES = ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64")
#: The types of fixed size, as they lie in a file.
NUMBERS: dict[str, np.dtype[Any]] = {
    "u8": np.dtype("u1"),
    "i8": np.dtype("i1"),
    "u16": np.dtype("<u2"),
    "i16": np.dtype("<i2"),
    "u32": np.dtype("<u4"),
    "i32": np.dtype("<i4"),
    "f32": np.dtype("<f4"),
    "bool": np.dtype("?"),
    "u64": np.dtype("<u8"),
    "i64": np.dtype("<i8"),
    "f64": np.dtype("<f8"),
}


@dataclass(frozen=True, slots=True, eq=False)
class Typed:
    """A metadata value with the type it has in the file.

    Attributes:
        type: `u8`, `i8`, `u16`, `i16`, `u32`, `i32`, `u64`, `i64`, `f32`, `f64`, `bool` or `string`; in brackets for
            an array of these (`[i32]`, `[string]`); `[array]` for an array of arrays.
        value: int, float, bool or str; numpy array for an array of numbers or bools, list of str for one of strings,
            list of Typed for one of arrays.
    """

    type: str
    value: Any

    def plain(self) -> Any:
        """The value alone; an array of arrays as a list of plain arrays."""
        return [element.plain() for element in self.value] if self.type == "[array]" else self.value


def aligned(position: int, alignment: int) -> int:
    """The first multiple of `alignment` that is not below `position`."""
    return -(-position // alignment) * alignment


def check_alignment(place: str, alignment: Typed) -> int:
    """Return the value of `general.alignment`, in bytes.

    Raises:
        ModelError: naming `place`, unless it is a u32 and a power of two from 8 to 2^20.
    """
    if alignment.type != "u32":
        raise ModelError(f"{place}: the alignment is of type {alignment.type}: it has to be a u32")
    value: int = alignment.value
    if not MIN_ALIGNMENT <= value <= MAX_ALIGNMENT or value & (value - 1):
        raise ModelError(
            f"{place}: the alignment is {value}: it has to be a power of two from {MIN_ALIGNMENT} to {MAX_ALIGNMENT}"
        )
    return value


def tensor_num_bytes(place: str, shape: tuple[int, ...], block_format: BlockFormat) -> int:
    """Bytes of a tensor of `shape` (outermost dimension first) in a block format.

    Raises:
        ModelError: naming `place`, when the shape is none that GGUF can hold, or does not fit the format's blocks.
    """
    if not 1 <= len(shape) <= MAX_DIMS:
        raise ModelError(f"{place}: it has {len(shape)} dimensions: GGUF holds 1 to {MAX_DIMS}")
    if min(shape) < 1 or math.prod(shape) > MAX_VALUES:
        raise ModelError(f"{place}: its shape is {list(shape)}: every dimension has to be 1 or more, in all below 2^63")
    if shape[-1] % block_format.block_size:
        raise ModelError(
            f"{place}: its rows have {shape[-1]} values, no multiple of the {block_format.block_size} in a block of "
            f"{block_format.name}"
        )
    return num_bytes(block_format, math.prod(shape))
