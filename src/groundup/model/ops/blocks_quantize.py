"""Float32 matrices to the block formats of GGUF files, with the bytes that llama.cpp would write.

The result follows the reference quantisers of ggml (`quantize_row_*_ref` in `ggml-quants.c` of llama.cpp, which
`llama-quantize` uses without an importance matrix) down to the order of every float32 operation. Blocks lie side by side
here: where the C code loops over the values of one block, an array holds the first value of many blocks, then the second
of all of them, and so on, and each of these columns goes through the same operations in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import ModelError
from groundup.model.ops.blocks import (
    Blocks,
    Bytes,
    Floats,
    dequantize,
    format_by_name,
    join_planes,
    num_bytes,
    pack_scales,
)

# Values worked on at a time. A search keeps about ten float32 arrays of this size; halving or doubling it made Q4_K
# slower (call overhead; cache).
_PIECE_VALUES = 1 << 17

# ggml stores codes of 0 where no value of a sub-block of Q6_K is this large (GROUP_MAX_EPS).
_ALL_ZERO = np.float32(1e-15)


def quantize(values: Floats, name: str) -> Bytes:
    """A matrix in a block format, byte for byte as llama.cpp writes it.

    Args:
        values: float32 of shape (rows, columns); columns must be a multiple of the format's block size.
        name: one of `QUANTIZERS`.

    Returns:
        uint8 of shape (rows, bytes per row).

    Raises:
        ModelError: unknown or read-only format, rows that are no whole blocks, values that are not finite, and finite
            ones so large that the format would store an infinity.
    """
    format = format_by_name(name)
    if name not in QUANTIZERS:
        raise ModelError(f"{name} can be read but not written: use one of {', '.join(QUANTIZERS)}")
    if values.ndim != 2 or values.dtype != np.float32:
        raise ModelError(f"quantize takes a float32 matrix, not {values.dtype} of shape {values.shape}")
    row_bytes = num_bytes(format, values.shape[1])
    blocks = np.ascontiguousarray(values).reshape(values.size // format.block_size, format.block_size)
    result = np.empty(len(blocks), format.layout)
    step = _PIECE_VALUES // format.block_size
    _check_finite(blocks, step)
    for start in range(0, len(blocks), step):
        piece = blocks[start : start + step]
        # Overflow and 0/0 are part of the reference's arithmetic; what they may leave in the result is checked below.
        with np.errstate(all="ignore"):
            result[start : start + step] = QUANTIZERS[name](piece, format.layout)
        _check_readable(result[start : start + step], piece, name)
    return result.view(np.uint8).reshape(values.shape[0], row_bytes)


def _check_finite(blocks: Floats, step: int) -> None:
    bad = sum(int(np.count_nonzero(~np.isfinite(blocks[i : i + step]))) for i in range(0, len(blocks), step))
    if bad:
        raise ModelError(
            f"{bad} of {blocks.size} values are infinite or NaN: the weights are damaged or their training diverged"
        )


def _check_readable(written: Blocks, blocks: Floats, name: str) -> None:
    """Refuse scales that overflowed to an infinity, as `ggml_validate_row_data` does: they read back as no numbers."""
    readable = np.isfinite(dequantize(written.view(np.uint8), name)).reshape(blocks.shape).all(axis=1)
    if not readable.all():
        largest = float(np.abs(blocks[~readable]).max())
        raise ModelError(
            f"values as large as {largest:g} do not fit {name}, which would store an infinity: keep this tensor in F32"
        )


# Plain formats


def _to_f32(values: Floats, layout: np.dtype[Any]) -> Blocks:
    return values[:, 0]


def _to_f16(values: Floats, layout: np.dtype[Any]) -> Blocks:
    return values[:, 0].astype(layout)  # numpy rounds to nearest, ties to even, and to subnormals, as ggml does


def _to_bf16(values: Floats, layout: np.dtype[Any]) -> Blocks:
    # The upper half of the float32, rounded to nearest, ties to even: 0x7FFF carries where the lower half is above the
    # middle, and the lowest bit kept adds the carry of a tie.
    bits = values[:, 0].view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(layout)


# Blocks of 32 with one scale


def _inverse(scale: Floats) -> Floats:
    """1 / scale, and 0 for a scale of 0. The codes are values * (1 / scale), which rounds unlike values / scale."""
    inverse: Floats = np.where(scale != 0, 1 / scale, np.float32(0))
    return inverse


def _whole(numbers: Floats, largest: int) -> Bytes:
    """Positive numbers cut to whole ones; 0 for what is not finite (1 / scale overflows for scales below 2^-128)."""
    return np.minimum(np.where(np.isfinite(numbers), numbers, 0), largest).astype(np.uint8)


def _store_codes(blocks: Blocks, codes: Bytes) -> None:
    blocks["qs"] = join_planes(codes, 4, 16)
    if "qh" in (blocks.dtype.names or ()):
        blocks["qh"] = np.packbits(codes >> 4, axis=1, bitorder="little")


def _to_symmetric(values: Floats, layout: np.dtype[Any], bits: int) -> Blocks:
    """Q4_0 and Q5_0: value = d * (code - 2^(bits-1)).

    The codes reach one further below zero than above, so the value of largest magnitude, whatever its sign, is given the
    lowest code by a scale of the opposite sign.
    """
    middle = 1 << (bits - 1)
    extreme = np.take_along_axis(values, np.abs(values).argmax(axis=1, keepdims=True), axis=1)
    # + 0.0 turns -0 into +0, with which ggml starts to look for the extreme.
    scale: Floats = (extreme + 0.0) / np.float32(-middle)
    blocks = np.empty(len(values), layout)
    blocks["d"] = scale[:, 0]
    # 0.5 rounds, as the codes are positive and cut.
    _store_codes(blocks, _whole(values * _inverse(scale) + (middle + 0.5), 2 * middle - 1))
    return blocks


def _to_asymmetric(values: Floats, layout: np.dtype[Any], bits: int) -> Blocks:
    """Q4_1 and Q5_1: value = d * code + m, with the smallest value at code 0 and the largest at 2^bits - 1."""
    largest = (1 << bits) - 1
    minimum = np.take_along_axis(values, values.argmin(axis=1, keepdims=True), axis=1)
    # + 0.0: the difference of two zeros may be -0, where ggml has +0.
    scale: Floats = (values.max(axis=1, keepdims=True) - minimum + 0.0) / largest
    blocks = np.empty(len(values), layout)
    blocks["d"], blocks["m"] = scale[:, 0], minimum[:, 0]
    _store_codes(blocks, _whole((values - minimum) * _inverse(scale) + 0.5, largest))
    return blocks


def _to_q8_0(values: Floats, layout: np.dtype[Any]) -> Blocks:
    """Q8_0: value = d * code, with codes from -127 to 127."""
    scale = np.abs(values).max(axis=1, keepdims=True) / 127
    scaled = values * _inverse(scale)
    scaled = np.where(np.isfinite(scaled), scaled, 0)  # as in `_whole`
    # C's roundf: to nearest, ties away from zero (numpy's round takes ties to even).
    codes = np.trunc(scaled)
    codes += np.copysign(np.abs(scaled - codes) >= 0.5, scaled)
    blocks = np.empty(len(values), layout)
    blocks["d"] = scale[:, 0]
    blocks["qs"] = codes.astype(np.int8).view(np.uint8)
    return blocks


# Super-blocks of 256 whose sub-blocks have scales of their own


def _nearest(numbers: Floats) -> NDArray[np.int32]:
    """Rounded to nearest, ties to even, up to a magnitude of 2^22.

    Adding 1.5 * 2^23 leaves no bits for a fraction: the addition rounds, and the low bits of the float are the result.
    ggml does it like this, and the bits also give what it makes of NaN (0) and of the infinities (-2^22).
    """
    return ((numbers + np.float32(12582912)).view(np.int32) & 0x007FFFFF) - 0x00400000


def _ordered_sum(terms: Floats) -> Floats:
    """The sum over the first axis, one term after the other; np.sum may add in another order, which rounds otherwise."""
    total: Floats = terms[0].copy()
    for term in terms[1:]:
        total += term
    return total


def _sub_blocks(values: Floats, size: int) -> Floats:
    """(blocks, 256) as (size, sub-blocks): the first values of all sub-blocks, then the second, ..."""
    return np.ascontiguousarray(values.reshape(-1, size).T)


@dataclass(frozen=True)
class _Search:
    """The step sizes that a format with scale and minimum tries.

    Attributes:
        largest: the largest code.
        first: the first try divides the range of the values into `largest + first` steps, each further one into 0.1 more.
        tries: their number.
    """

    largest: int
    first: float
    tries: int

    def spans(self) -> Floats:
        """The number of steps in the range, for each try (float32, as ggml computes it)."""
        tenths = np.float32(0.1) * np.arange(self.tries, dtype=np.float32)
        spans: Floats = np.float32(self.first) + tenths + np.float32(self.largest)
        return spans


def _fit_with_minimum(x: Floats, search: _Search) -> tuple[Floats, Floats, Bytes]:
    """Scale, minimum and codes of each sub-block such that scale * code - minimum is near the values.

    For each of a row of step sizes, the values are rounded to codes, and the weighted least-squares line through
    (code, value) gives a scale and a minimum. The line of least error is kept (ggml's make_qkx2_quants). A value weighs
    its magnitude plus the root mean square of its sub-block: large weights matter more.

    Args:
        x: (32, sub-blocks).
        search: the step sizes.

    Returns:
        scale (sub-blocks), minimum (sub-blocks), at least 0, and codes (32, sub-blocks).
    """
    weights: Floats = np.sqrt(_ordered_sum(x * x) / np.float32(len(x))) + np.abs(x)
    sum_w, sum_x = _ordered_sum(weights), _ordered_sum(weights * x)
    high: Floats = x.max(axis=0)
    low: Floats = np.minimum(x.min(axis=0), np.float32(0))  # the stored minimum has no sign: it only shifts down

    def codes_for(inverse: Floats, low: Floats) -> Floats:
        codes = x - low
        codes *= inverse
        np.rint(codes, out=codes)
        return np.clip(codes, 0, search.largest, out=codes)

    def error_of(codes: Floats, scale: Floats, low: Floats) -> Floats:
        difference = codes * scale
        difference += low
        difference -= x
        difference *= difference
        difference *= weights
        return _ordered_sum(difference)

    inverse: Floats = np.float32(search.largest) / (high - low)
    scale: Floats = np.float32(1) / inverse
    best_inverse, best_low = _finite(inverse), low
    best_error = error_of(codes_for(best_inverse, low), scale, low)
    for span in search.spans():
        inverse = _finite(span / (high - low))
        codes = codes_for(inverse, low)
        fitted, determinant = _line(codes, x, weights, sum_w, sum_x)
        error = error_of(codes, *fitted)
        better = (determinant > 0) & (error < best_error)
        best_inverse, best_low = np.where(better, inverse, best_inverse), np.where(better, low, best_low)
        best_error, scale = np.where(better, error, best_error), np.where(better, fitted[0], scale)
        low = np.where(better, fitted[1], low)  # the next tries span the range from the new minimum
    return scale, -low, codes_for(best_inverse, best_low).astype(np.uint8)


def _line(
    codes: Floats, x: Floats, weights: Floats, sum_w: Floats, sum_x: Floats
) -> tuple[tuple[Floats, Floats], Floats]:
    """The weighted least-squares line through (code, value): its slope and its value at code 0, which is at most 0.

    Returns:
        (slope, value at 0) and the determinant of the normal equations, each (sub-blocks); where the determinant is not
        above 0, all codes are equal and slope and value mean nothing.
    """
    product = weights * codes
    sum_l = _ordered_sum(product)
    sum_xl = _ordered_sum(product * x)
    product *= codes
    sum_l2 = _ordered_sum(product)
    determinant: Floats = sum_w * sum_l2 - sum_l * sum_l
    slope = np.divide(sum_w * sum_xl - sum_x * sum_l, determinant)
    low = np.divide(sum_l2 * sum_x - sum_l * sum_xl, determinant)
    # Where the line would start above 0, the best one through 0 takes its place.
    slope = np.where(low > 0, sum_xl / sum_l2, slope)
    return (slope, np.where(low > 0, np.float32(0), low)), determinant


def _finite(inverse: Floats) -> Floats:
    """0 where 1 / range overflowed; then all codes are 0, as ggml's rounding of infinities and NaN makes them."""
    finite: Floats = np.where(np.isfinite(inverse), inverse, np.float32(0))
    return finite


def _to_scale_and_minimum(values: Floats, layout: np.dtype[Any], search: _Search) -> Blocks:
    """Q4_K and Q5_K: value = d * scale * code - dmin * minimum, eight 6-bit scales and minima per super-block."""
    x = _sub_blocks(values, 32)
    scale, minimum, codes = _fit_with_minimum(x, search)
    blocks = np.empty(len(values), layout)
    blocks["d"], scales = _six_bits(scale)
    blocks["dmin"], minima = _six_bits(minimum)
    blocks["scales"] = pack_scales(scales, minima)
    # The scales were rounded, so the codes are chosen again, for what a reader will multiply with.
    step = (blocks["d"].astype(np.float32)[:, None] * scales.astype(np.float32)).reshape(-1)
    offset = (blocks["dmin"].astype(np.float32)[:, None] * minima.astype(np.float32)).reshape(-1)
    again = np.clip(_nearest((x + offset) / step), 0, search.largest).astype(np.uint8)
    codes = np.where(step != 0, again, codes).T.reshape(len(values), 256)
    blocks["qs"] = join_planes(codes, 4, 32)
    if "qh" in (layout.names or ()):
        blocks["qh"] = join_planes(codes >> 4, 1, 32)
    return blocks


def _six_bits(scale: Floats) -> tuple[NDArray[np.float16], Bytes]:
    """Eight scales per super-block as a common factor (the largest / 63) and whole numbers up to 63.

    Args:
        scale: (sub-blocks).

    Returns:
        the factor (super-blocks) and the numbers (super-blocks, 8).
    """
    scale = scale.reshape(-1, 8)
    largest = np.fmax.reduce(scale, axis=1, keepdims=True, initial=0)  # NaN, from overflow, is passed over
    inverse: Floats = np.where(largest > 0, 63 / largest, np.float32(0))
    # ggml cuts to eight bits first: a negative number, which only rounding can make, becomes the largest.
    numbers = np.minimum(_nearest(inverse * scale).astype(np.uint8), 63)
    return (largest[:, 0] / 63).astype(np.float16), numbers


def _fit_scale(x: Floats) -> tuple[Floats, Bytes]:
    """Scale and codes (plus 32) of each sub-block such that scale * code is near the values, codes from -32 to 31.

    The same search as `_fit_with_minimum` without a minimum: 19 step sizes, a least-squares scale for each, weighted by
    the squared value (ggml's make_qx_quants).

    Args:
        x: (16, sub-blocks).

    Returns:
        scale (sub-blocks), of either sign, and codes (16, sub-blocks).
    """
    magnitude = np.abs(x)
    extreme = np.take_along_axis(x, magnitude.argmax(axis=0, keepdims=True), axis=0)[0]
    weights = x * x
    weighted_x = weights * x

    def codes_for(inverse: Floats) -> Floats:
        codes = x * inverse
        np.rint(codes, out=codes)
        return np.clip(codes, -32, 31, out=codes)

    def sums_for(inverse: Floats) -> tuple[Floats, Floats]:
        codes = codes_for(inverse)
        product = weights * codes
        product *= codes
        codes *= weighted_x
        return _ordered_sum(codes), _ordered_sum(product)

    best_inverse: Floats = -32 / extreme
    sum_xl, sum_l2 = sums_for(best_inverse)
    scale = sum_xl / sum_l2  # sum_l2 is above 0 unless all values are tiny, which is dealt with at the end
    best = scale * sum_xl
    tenths = np.array([*range(-9, 0), *range(1, 10)], np.float32)
    for span in np.float32(32) + np.float32(0.1) * tenths:
        inverse: Floats = -span / extreme
        sum_xl, sum_l2 = sums_for(inverse)
        # With the best scale for these codes, the error is the sum of w x^2 less sum_xl^2 / sum_l2.
        better = sum_xl * sum_xl > best * sum_l2
        scale = np.where(better, sum_xl / sum_l2, scale)
        best = np.where(better, scale * sum_xl, best)
        best_inverse = np.where(better, inverse, best_inverse)
    zero = magnitude.max(axis=0) < _ALL_ZERO
    codes = np.where(zero, 0, codes_for(best_inverse) + 32)
    return np.where(zero, np.float32(0), scale), codes.astype(np.uint8)


def _to_q6_k(values: Floats, layout: np.dtype[Any]) -> Blocks:
    """Q6_K: value = d * scale * (code - 32), sixteen 8-bit scales per super-block."""
    x = _sub_blocks(values, 16)
    scale, codes = _fit_scale(x)
    scale = scale.reshape(-1, 16)
    magnitude = np.nan_to_num(np.abs(scale), nan=0.0, posinf=np.inf)  # in C no comparison with NaN is true
    largest = np.take_along_axis(scale, magnitude.argmax(axis=1, keepdims=True), axis=1)
    inverse: Floats = np.float32(-128) / largest
    blocks = np.zeros(len(values), layout)
    blocks["d"] = 1 / inverse[:, 0]
    scales = np.minimum(_nearest(inverse * scale), 127).astype(np.int8)
    blocks["scales"] = scales.view(np.uint8)
    step = (blocks["d"].astype(np.float32)[:, None] * scales.astype(np.float32)).reshape(-1)
    again = (np.clip(_nearest(x / step), -32, 31) + 32).astype(np.uint8)
    codes = np.where(step != 0, again, codes).T.reshape(len(values), 256)
    blocks["qs"] = join_planes(codes, 4, 64)
    blocks["qh"] = join_planes(codes >> 4, 2, 32)
    blocks[magnitude.max(axis=1) < _ALL_ZERO] = np.zeros((), layout)
    return blocks


QUANTIZERS: dict[str, Callable[[Floats, np.dtype[Any]], Blocks]] = {
    "F32": _to_f32,
    "F16": _to_f16,
    "BF16": _to_bf16,
    "Q8_0": _to_q8_0,
    "Q4_0": partial(_to_symmetric, bits=4),
    "Q4_1": partial(_to_asymmetric, bits=4),
    "Q5_0": partial(_to_symmetric, bits=5),
    "Q5_1": partial(_to_asymmetric, bits=5),
    "Q4_K": partial(_to_scale_and_minimum, search=_Search(largest=15, first=-1.0, tries=21)),
    "Q5_K": partial(_to_scale_and_minimum, search=_Search(largest=31, first=-0.5, tries=16)),
    "Q6_K": _to_q6_k,
}
