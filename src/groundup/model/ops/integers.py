"""Matrices as whole numbers with a scale for each row, or for each group of a row's columns: int8, and int4 packed.

The packing is that of compressed-tensors (`pack-quantized`), which transformers and vLLM load.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import ModelError

Floats = NDArray[np.float32]
Codes = NDArray[np.int8]

#: Columns that a group must be a multiple of: a block of the kernels.
GROUP_STEP = 32
# The largest value of a group over the scale, tried one after the other for codes of four bits. 7 spends no code on what
# lies beyond, 8 rounds the largest value down by up to one step and all others more finely.
_REACHES = (7.0, 7.5, 8.0, 8.5)
# Rows worked on at a time.
_PIECE_VALUES = 1 << 20


@dataclass(frozen=True)
class IntegerFormat:
    """How a matrix is rounded.

    Attributes:
        bits: of a code, 8 or 4.
        group: columns that share a scale, None for a whole row.
    """

    bits: int
    group: int | None = None

    @property
    def name(self) -> str:
        """As a user writes it, such as `int4-g32`."""
        return f"int{self.bits}" + ("" if self.group is None else f"-g{self.group}")

    def fits(self, columns: int) -> bool:
        """True where the rows of a matrix are whole groups."""
        return self.group is None or columns % self.group == 0

    def num_groups(self, columns: int) -> int:
        """Scales of a row."""
        return 1 if self.group is None else -(-columns // self.group)


@dataclass(frozen=True)
class Integers:
    """A rounded matrix: value = code times scale.

    Attributes:
        format: bits and group.
        codes: int8 of shape (rows, columns): -128 to 127, or -8 to 7 with four bits.
        scales: float32 of shape (rows, groups).
    """

    format: IntegerFormat
    codes: Codes
    scales: Floats

    def floats(self) -> Floats:
        """The values, (rows, columns)."""
        columns = self.codes.shape[1]
        wide = np.repeat(self.scales, self.format.group or columns, axis=1)[:, :columns]
        return np.multiply(self.codes, wide, dtype=np.float32)


def integer_format(name: str) -> IntegerFormat | None:
    """The format of that name (`int8`, `int4-g32`, `int8-g128`, ...); None for a name of another sort.

    Raises:
        ModelError: for other bits, and for groups that are no multiple of 32 columns.
    """
    match = re.fullmatch(r"int(\d+)(?:-g(\d+))?", name.lower())
    if match is None:
        return None
    bits, group = int(match.group(1)), None if match.group(2) is None else int(match.group(2))
    if bits not in (4, 8):
        raise ModelError(f"whole numbers of {bits} bits are not known here: int8, or int4-g32")
    if group is not None and (group < 1 or group % GROUP_STEP):
        raise ModelError(f"groups of {group} columns: a multiple of {GROUP_STEP} is needed, as in int4-g32")
    return IntegerFormat(bits, group)


def round_to_integers(values: Floats, format: IntegerFormat) -> Integers:
    """Round a matrix to the nearest whole multiples of its scales.

    With eight bits a scale is the largest value of its group over 127. With four, of four scales the one that leaves the
    least squared error is taken. Scales are bfloat16 numbers, so storing them changes nothing.

    Args:
        values: (rows, columns).
        format: whose groups the columns must fill.

    Raises:
        ModelError: for values that are not finite.
    """
    rows, columns = values.shape
    assert format.fits(columns)
    codes = np.empty((rows, columns), np.int8)
    scales = np.empty((rows, format.num_groups(columns)), np.float32)
    step = max(1, _PIECE_VALUES // columns)
    for start in range(0, rows, step):
        piece = values[start : start + step].reshape(-1, format.group or columns)
        bad = int(np.count_nonzero(~np.isfinite(piece)))
        if bad:
            raise ModelError(
                f"{bad} of {piece.size} values are infinite or NaN: the weights are damaged or their training diverged"
            )
        found, scale = _round(piece, format.bits)
        codes[start : start + step] = found.reshape(-1, columns)
        scales[start : start + step] = scale.reshape(-1, scales.shape[1])
    return Integers(format, codes, scales)


def _round(groups: Floats, bits: int) -> tuple[Codes, Floats]:
    """Codes and scales of groups, one a row."""
    largest = np.abs(groups).max(axis=1, keepdims=True)
    best: Floats | None = None
    for reach in (127.0,) if bits == 8 else _REACHES:
        scale = _up_to_bfloat16(largest / np.float32(reach))
        exact = np.divide(groups, scale, out=np.zeros_like(groups), where=scale > 0)
        tried = np.clip(np.rint(exact), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        error = np.square(tried * scale - groups, dtype=np.float64).sum(axis=1, keepdims=True)
        if best is None:
            codes, scales, best = tried, scale, error
            continue
        better = error < best
        codes, scales = np.where(better, tried, codes), np.where(better, scale, scales)
        best = np.minimum(best, error)
    return codes.astype(np.int8), scales


def _up_to_bfloat16(values: Floats) -> Floats:
    """The smallest bfloat16 numbers that are not below, for values of 0 and more."""
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32)


def pack(codes: Codes, bits: int) -> NDArray[np.int32]:
    """Codes as unsigned numbers, side by side in whole words, the first in the lowest bits.

    Args:
        codes: (rows, columns).
        bits: 4 or 8.

    Returns:
        int32 of shape (rows, words); what a row lacks to whole words is zero.
    """
    unsigned = (codes.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
    unsigned = np.pad(unsigned, ((0, 0), (0, -codes.shape[1] % (32 // bits))))
    bytes_ = unsigned if bits == 8 else unsigned[:, ::2] | unsigned[:, 1::2] << 4
    return np.ascontiguousarray(bytes_).view("<i4")


def unpack(words: NDArray[np.int32], bits: int, columns: int) -> Codes:
    """The codes in words of `pack`, (rows, columns)."""
    bytes_ = np.ascontiguousarray(words).view(np.uint8).reshape(len(words), -1)
    if bits == 4:
        bytes_ = np.stack([bytes_ & 15, bytes_ >> 4], axis=2).reshape(len(words), -1)
    return (bytes_[:, :columns].astype(np.int16) - (1 << (bits - 1))).astype(np.int8)
