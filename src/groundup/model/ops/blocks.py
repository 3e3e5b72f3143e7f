"""The block formats of GGUF files: what the bytes of a tensor mean, and how they become float32 again.

A quantised tensor is a row of blocks. A block holds the small whole numbers (codes) of a few neighbouring values and
the scales that turn them back into values. The layouts and type numbers are those of ggml (`ggml-common.h` and `ggml.h`
of llama.cpp); the results equal the `gguf` package's bit for bit. Quantising is in `blocks_quantize.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import ModelError, suggest

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Blocks = NDArray[Any]  # one record per block, with the fields of the format's layout

# Values worked on at a time: temporaries stay near 10 MB whatever the size of the tensor, and mostly in the cache.
_PIECE_VALUES = 1 << 17


@dataclass(frozen=True)
class BlockFormat:
    """How a tensor type of GGUF stores its values.

    Attributes:
        name: ggml's name, such as `Q4_K`.
        ggml_id: the number of the type in a GGUF file.
        block_size: values per block.
        layout: the bytes of one block as a numpy dtype; for the formats without blocks, of one value.
    """

    name: str
    ggml_id: int
    block_size: int
    layout: np.dtype[Any]

    @property
    def block_bytes(self) -> int:
        """Bytes per block."""
        return self.layout.itemsize

    @property
    def bits_per_value(self) -> float:
        """Average storage per value, the scales included."""
        return 8 * self.block_bytes / self.block_size


def _record(**fields: Any) -> np.dtype[Any]:
    """A packed record; a field is a dtype, or a number of bytes."""
    return np.dtype([(name, "u1", (kind,)) if isinstance(kind, int) else (name, kind) for name, kind in fields.items()])


def _plain(name: str, ggml_id: int, dtype: str) -> BlockFormat:
    return BlockFormat(name, ggml_id, 1, np.dtype(dtype))


# All numbers are little-endian. `d` scales the codes, `m` or `dmin` is the offset or its scale, `qs` holds the (low bits
# of the) codes and `qh` their high bits.
FORMATS: dict[str, BlockFormat] = {
    format.name: format
    for format in (
        _plain("F32", 0, "<f4"),
        _plain("F16", 1, "<f2"),
        BlockFormat("Q4_0", 2, 32, _record(d="<f2", qs=16)),
        BlockFormat("Q4_1", 3, 32, _record(d="<f2", m="<f2", qs=16)),
        BlockFormat("Q5_0", 6, 32, _record(d="<f2", qh=4, qs=16)),
        BlockFormat("Q5_1", 7, 32, _record(d="<f2", m="<f2", qh=4, qs=16)),
        BlockFormat("Q8_0", 8, 32, _record(d="<f2", qs=32)),
        BlockFormat("Q2_K", 10, 256, _record(scales=16, qs=64, d="<f2", dmin="<f2")),
        BlockFormat("Q3_K", 11, 256, _record(qh=32, qs=64, scales=12, d="<f2")),
        BlockFormat("Q4_K", 12, 256, _record(d="<f2", dmin="<f2", scales=12, qs=128)),
        BlockFormat("Q5_K", 13, 256, _record(d="<f2", dmin="<f2", scales=12, qh=32, qs=128)),
        BlockFormat("Q6_K", 14, 256, _record(qs=128, qh=64, scales=16, d="<f2")),
        BlockFormat("IQ4_NL", 20, 32, _record(d="<f2", qs=16)),
        BlockFormat("IQ4_XS", 23, 256, _record(d="<f2", scales_h="<u2", scales_l=4, qs=128)),
        _plain("I8", 24, "i1"),
        _plain("I16", 25, "<i2"),
        _plain("I32", 26, "<i4"),
        _plain("I64", 27, "<i8"),
        _plain("F64", 28, "<f8"),
        _plain("BF16", 30, "<u2"),
        BlockFormat("MXFP4", 39, 32, _record(e=1, qs=16)),
    )
}

# The sixteen levels of IQ4_NL and IQ4_XS, closer together near zero, where most weights are (ggml's kvalues_iq4nl).
_IQ4_LEVELS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)

# The values of a 4-bit float with 2 exponent bits and 1 mantissa bit, doubled so that they are whole (OCP Microscaling
# Formats (MX) Specification 1.0, section 5.3.3). ggml's doubled -0 is +0.
_E2M1_DOUBLED = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)


def format_by_name(name: str) -> BlockFormat:
    """The format of that name.

    Raises:
        ModelError: when there is none; the nearest name is suggested.
    """
    if name not in FORMATS:
        raise ModelError(f"no block format {name!r}{suggest(name, tuple(FORMATS))}")
    return FORMATS[name]


def format_by_id(ggml_id: int) -> BlockFormat:
    """The format with that type number in GGUF files.

    Raises:
        ModelError: when the number is none of those in `FORMATS`.
    """
    for format in FORMATS.values():
        if format.ggml_id == ggml_id:
            return format
    known = ", ".join(f"{format.ggml_id} {format.name}" for format in FORMATS.values())
    raise ModelError(
        f"tensor type {ggml_id} cannot be read here (known: {known}): convert the file to one of these, for example "
        "with llama-quantize"
    )


def num_bytes(format: BlockFormat, num_values: int) -> int:
    """The size of `num_values` values in that format.

    Raises:
        ModelError: when they do not fill whole blocks.
    """
    if num_values < 0 or num_values % format.block_size:
        raise ModelError(
            f"{format.name} stores blocks of {format.block_size} values, and {num_values} is not a multiple of that"
        )
    return num_values // format.block_size * format.block_bytes


def dequantize(data: Bytes, name: str, out: Floats | None = None) -> Floats:
    """The values of a tensor stored in a block format.

    Args:
        data: the bytes of whole blocks, in any shape.
        name: the format, a key of `FORMATS`.
        out: float32 of shape (number of values,), contiguous, to write to; a new array without it.

    Returns:
        float32 of shape (number of values,); integers and float64 are rounded to float32.

    Raises:
        ModelError: unknown format, or bytes that are no whole blocks.
        ValueError: when `out` has another shape or dtype.
    """
    format = format_by_name(name)
    if data.size % format.block_bytes:
        raise ModelError(
            f"{data.size} bytes are no whole number of {name} blocks of {format.block_bytes} bytes: the data was cut short"
        )
    blocks = np.ascontiguousarray(data).reshape(-1).view(format.layout)
    num_values = len(blocks) * format.block_size
    if out is None:
        out = np.empty(num_values, np.float32)
    elif out.shape != (num_values,) or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError(f"out is {out.dtype} of shape {out.shape}, not contiguous float32 of shape ({num_values},)")
    decode = _DECODERS.get(name, _decode_plain)
    by_block = out.reshape(-1, format.block_size)
    step = _PIECE_VALUES // format.block_size
    # A hostile file's infinite and NaN scales give infinities and NaNs, without a warning.
    with np.errstate(all="ignore"):
        for start in range(0, len(blocks), step):
            by_block[start : start + step] = decode(blocks[start : start + step])
    return out


def split_planes(packed: Bytes, bits: int, width: int) -> Bytes:
    """Codes of `bits` bits, unpacked from bytes that hold one code of each of 8 / bits planes, the first lowest.

    Planes instead of neighbours: the `width` bytes of a group, shifted and masked together, are consecutive codes.

    Args:
        packed: (blocks, bytes); bytes must be a multiple of `width`.
        bits: 1, 2 or 4.
        width: bytes per group.

    Returns:
        (blocks, bytes * 8 / bits): of each group of bytes the first plane, then the second, and so on.
    """
    groups = packed.reshape(len(packed), -1, 1, width)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    mask = np.uint8((1 << bits) - 1)
    return ((groups >> shifts) & mask).reshape(len(packed), packed.shape[1] * 8 // bits)


def join_planes(codes: NDArray[np.integer[Any]], bits: int, width: int) -> Bytes:
    """The inverse of `split_planes`: the low `bits` bits of (blocks, codes) become (blocks, codes * bits / 8)."""
    planes = codes.astype(np.uint8).reshape(len(codes), -1, 8 // bits, width) & np.uint8((1 << bits) - 1)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    packed: Bytes = np.bitwise_or.reduce(planes << shifts, axis=2)
    return packed.reshape(len(codes), codes.shape[1] * bits // 8)


def unpack_scales(packed: Bytes) -> tuple[Bytes, Bytes]:
    """The eight 6-bit scales and eight 6-bit minima in the twelve bytes of a Q4_K or Q5_K block.

    Bytes 0 to 3 hold the first four scales and bytes 4 to 7 the first four minima in their low six bits. The other four
    of each have their low four bits in bytes 8 to 11 and their high two bits in the top bits of bytes 0 to 7.

    Returns:
        scales and minima, each (blocks, 8).
    """
    first, second, low = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 0x3F, (low & 0x0F) | ((first >> 6) << 4)], axis=1)
    minima = np.concatenate([second & 0x3F, (low >> 4) | ((second >> 6) << 4)], axis=1)
    return scales, minima


def pack_scales(scales: Bytes, minima: Bytes) -> Bytes:
    """The inverse of `unpack_scales`: two of (blocks, 8), below 64, become (blocks, 12)."""
    first = scales[:, :4] | ((scales[:, 4:] >> 4) << 6)
    second = minima[:, :4] | ((minima[:, 4:] >> 4) << 6)
    low = (scales[:, 4:] & 0x0F) | ((minima[:, 4:] & 0x0F) << 4)
    return np.concatenate([first, second, low], axis=1)


def _column(blocks: Blocks, field: str) -> Floats:
    """A float16 field of each block as float32, (blocks, 1)."""
    column: Floats = blocks[field].astype(np.float32)[:, None]
    return column


def _scaled(scales: Floats, codes: NDArray[Any]) -> Floats:
    """(blocks, sub-blocks) times the codes of each sub-block: (blocks, sub-blocks, values)."""
    return scales[:, :, None] * codes.reshape(*scales.shape, -1).astype(np.float32)


def _decode_plain(blocks: Blocks) -> Floats:
    return blocks.astype(np.float32)[:, None]


def _decode_bf16(blocks: Blocks) -> Floats:
    # The upper half of a float32.
    return (blocks.astype(np.uint32) << 16).view(np.float32)[:, None]


def _codes_of_32(blocks: Blocks) -> Bytes:
    codes = split_planes(blocks["qs"], 4, 16)
    if "qh" in (blocks.dtype.names or ()):
        codes |= np.unpackbits(blocks["qh"], axis=1, bitorder="little") << 4
    return codes


def _decode_q4_0(blocks: Blocks) -> Floats:
    return _column(blocks, "d") * (_codes_of_32(blocks).view(np.int8) - 8).astype(np.float32)


def _decode_q4_1(blocks: Blocks) -> Floats:
    return _column(blocks, "d") * _codes_of_32(blocks).astype(np.float32) + _column(blocks, "m")


def _decode_q5_0(blocks: Blocks) -> Floats:
    return _column(blocks, "d") * (_codes_of_32(blocks).view(np.int8) - 16).astype(np.float32)


def _decode_q5_1(blocks: Blocks) -> Floats:
    return _column(blocks, "d") * _codes_of_32(blocks).astype(np.float32) + _column(blocks, "m")


def _decode_q8_0(blocks: Blocks) -> Floats:
    return blocks["qs"].view(np.int8).astype(np.float32) * _column(blocks, "d")


def _with_minimum(blocks: Blocks, scales: NDArray[Any], minima: NDArray[Any], codes: NDArray[Any]) -> Floats:
    """d * scale * code - dmin * minimum, as Q2_K, Q4_K and Q5_K have it."""
    values = _scaled(_column(blocks, "d") * scales.astype(np.float32), codes)
    values -= (_column(blocks, "dmin") * minima.astype(np.float32))[:, :, None]
    return values.reshape(len(blocks), -1)


def _decode_q2_k(blocks: Blocks) -> Floats:
    packed = blocks["scales"]
    return _with_minimum(blocks, packed & 0x0F, packed >> 4, split_planes(blocks["qs"], 2, 32))


def _codes_of_q3_k(blocks: Blocks) -> tuple[NDArray[Any], Floats]:
    # Sixteen 6-bit scales, offset by 32: low four bits in bytes 0 to 7, high two bits in bytes 8 to 11.
    packed = blocks["scales"]
    scales = split_planes(packed[:, :8], 4, 8) | (split_planes(packed[:, 8:], 2, 4) << 4)
    # A high bit that is *not* set subtracts 4: codes run from -4 to 3.
    codes = split_planes(blocks["qs"], 2, 32) | (split_planes(blocks["qh"], 1, 32) << 2)
    return codes, _column(blocks, "d") * (scales.view(np.int8) - 32).astype(np.float32)


def _decode_q3_k(blocks: Blocks) -> Floats:
    codes, steps = _codes_of_q3_k(blocks)
    return _scaled(steps, codes.view(np.int8) - 4).reshape(len(blocks), -1)


def _decode_q4_k(blocks: Blocks) -> Floats:
    return _with_minimum(blocks, *unpack_scales(blocks["scales"]), split_planes(blocks["qs"], 4, 32))


def _codes_of_q5_k(blocks: Blocks) -> NDArray[Any]:
    return split_planes(blocks["qs"], 4, 32) | (split_planes(blocks["qh"], 1, 32) << 4)


def _decode_q5_k(blocks: Blocks) -> Floats:
    return _with_minimum(blocks, *unpack_scales(blocks["scales"]), _codes_of_q5_k(blocks))


def _decode_q6_k(blocks: Blocks) -> Floats:
    codes = split_planes(blocks["qs"], 4, 64) | (split_planes(blocks["qh"], 2, 32) << 4)
    steps = _column(blocks, "d") * blocks["scales"].view(np.int8).astype(np.float32)
    return _scaled(steps, codes.view(np.int8) - 32).reshape(len(blocks), -1)


def _decode_iq4_nl(blocks: Blocks) -> Floats:
    return _column(blocks, "d") * _IQ4_LEVELS[split_planes(blocks["qs"], 4, 16)]


def _steps_of_iq4_xs(blocks: Blocks) -> Floats:
    # Eight 6-bit scales, offset by 32: low four bits as neighbours in bytes, high two bits in one 16-bit number.
    low = split_planes(blocks["scales_l"], 4, 1)
    high = (blocks["scales_h"][:, None] >> np.arange(0, 16, 2, dtype=np.uint16)) & 3
    return _column(blocks, "d") * ((low | (high.astype(np.uint8) << 4)).view(np.int8) - 32).astype(np.float32)


def _decode_iq4_xs(blocks: Blocks) -> Floats:
    steps = _steps_of_iq4_xs(blocks)
    return _scaled(steps, _IQ4_LEVELS[split_planes(blocks["qs"], 4, 16)]).reshape(len(blocks), -1)


def _steps_of_mxfp4(blocks: Blocks) -> Floats:
    # The scale is a power of two, 2^(e - 127), halved because the levels are doubled. Written as the bits of a float32:
    # e - 1 in the exponent, except for the two smallest, which are subnormal.
    exponent = blocks["e"].astype(np.uint32)
    bits = np.where(exponent < 2, np.uint32(0x00200000) << exponent, (exponent - 1) << 23)
    steps: Floats = bits.view(np.float32)
    return steps


def _decode_mxfp4(blocks: Blocks) -> Floats:
    return _steps_of_mxfp4(blocks) * _E2M1_DOUBLED[split_planes(blocks["qs"], 4, 16)]


_DECODERS: dict[str, Callable[[Blocks], Floats]] = {
    "BF16": _decode_bf16,
    "Q4_0": _decode_q4_0,
    "Q4_1": _decode_q4_1,
    "Q5_0": _decode_q5_0,
    "Q5_1": _decode_q5_1,
    "Q8_0": _decode_q8_0,
    "Q2_K": _decode_q2_k,
    "Q3_K": _decode_q3_k,
    "Q4_K": _decode_q4_k,
    "Q5_K": _decode_q5_k,
    "Q6_K": _decode_q6_k,
    "IQ4_NL": _decode_iq4_nl,
    "IQ4_XS": _decode_iq4_xs,
    "MXFP4": _decode_mxfp4,
}


def wide_codes(blocks: Blocks, name: str) -> tuple[Bytes, Floats, Floats]:
    """Blocks of the formats that have no kernel of their own as whole numbers 0 to 255 with scale and minimum.

    Args:
        blocks: records of the format's layout, of shape (blocks,).
        name: one of Q5_1, Q2_K, Q3_K, Q5_K, IQ4_NL, IQ4_XS, MXFP4.

    Returns:
        codes of shape (blocks, values), and for each sixteen values a scale and a minimum: a value is
        scale * code + minimum, up to the rounding of the sum.

    Raises:
        ModelError: for a format that holds no weights in blocks.
    """
    if name not in _WIDENERS:
        raise ModelError(f"tensors of {name} hold no weights that can be multiplied: convert the file")
    codes, scales, minima = _WIDENERS[name](blocks)
    sixteens = codes.shape[1] // 16
    scales, minima = (
        np.repeat(part, sixteens // part.shape[1], axis=1).astype(np.float32) for part in (scales, minima)
    )
    return codes.astype(np.uint8), scales, minima


def _with_offset(codes: NDArray[Any], scales: Floats, offset: int) -> tuple[NDArray[Any], Floats, Floats]:
    return codes, scales, scales * np.float32(-offset)


def _scales_and_minima(blocks: Blocks, scales: NDArray[Any], minima: NDArray[Any]) -> tuple[Floats, Floats]:
    return _column(blocks, "d") * scales.astype(np.float32), -_column(blocks, "dmin") * minima.astype(np.float32)


def _widen_q2_k(blocks: Blocks) -> tuple[NDArray[Any], Floats, Floats]:
    packed = blocks["scales"]
    return split_planes(blocks["qs"], 2, 32), *_scales_and_minima(blocks, packed & 0x0F, packed >> 4)


def _widen_q3_k(blocks: Blocks) -> tuple[NDArray[Any], Floats, Floats]:
    codes, steps = _codes_of_q3_k(blocks)
    return _with_offset(codes, steps, 4)


def _widen_q5_k(blocks: Blocks) -> tuple[NDArray[Any], Floats, Floats]:
    return _codes_of_q5_k(blocks), *_scales_and_minima(blocks, *unpack_scales(blocks["scales"]))


def _widen_iq4_nl(blocks: Blocks) -> tuple[NDArray[Any], Floats, Floats]:
    return _with_offset(_IQ4_LEVELS[split_planes(blocks["qs"], 4, 16)] + 128, _column(blocks, "d"), 128)


def _widen_iq4_xs(blocks: Blocks) -> tuple[NDArray[Any], Floats, Floats]:
    return _with_offset(_IQ4_LEVELS[split_planes(blocks["qs"], 4, 16)] + 128, _steps_of_iq4_xs(blocks), 128)


def _widen_mxfp4(blocks: Blocks) -> tuple[NDArray[Any], Floats, Floats]:
    return _with_offset(_E2M1_DOUBLED[split_planes(blocks["qs"], 4, 16)] + 12, _steps_of_mxfp4(blocks), 12)


_WIDENERS: dict[str, Callable[[Blocks], tuple[NDArray[Any], Floats, Floats]]] = {
    "Q5_1": lambda blocks: (_codes_of_32(blocks), _column(blocks, "d"), _column(blocks, "m")),
    "Q2_K": _widen_q2_k,
    "Q3_K": _widen_q3_k,
    "Q5_K": _widen_q5_k,
    "IQ4_NL": _widen_iq4_nl,
    "IQ4_XS": _widen_iq4_xs,
    "MXFP4": _widen_mxfp4,
}
