"""Block formats: sizes and values equal those of the gguf package; hostile bytes and arguments."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from groundup.core.errors import ModelError
from groundup.model.ops import blocks
from groundup.model.ops.blocks import (
    FORMATS,
    BlockFormat,
    dequantize,
    format_by_id,
    format_by_name,
    join_planes,
    num_bytes,
    pack_scales,
    split_planes,
    unpack_scales,
)

# gguf.quants converts no integers and no float64.
WITHOUT_ORACLE = {"I8", "I16", "I32", "I64", "F64"}

# SHA-256 of the values (NaN made uniform) of the bytes below, written down when they equalled gguf 0.19.0.
DIGESTS = {
    "F32": "5583c47f7793308e",
    "F16": "6a35fdfe65da5b8d",
    "Q4_0": "c268baa48a76aec5",
    "Q4_1": "80b5f708fd592688",
    "Q5_0": "029ad73cb7947386",
    "Q5_1": "602b0e53b6286708",
    "Q8_0": "452b1188b67f3f83",
    "Q2_K": "34035988807e1661",
    "Q3_K": "6262ff391cd81bbe",
    "Q4_K": "40f8ca17f7883134",
    "Q5_K": "e6432c03d4aff889",
    "Q6_K": "5c49617eb331ca64",
    "IQ4_NL": "af74a40d0ff5cd9e",
    "IQ4_XS": "0182d777fb690d22",
    "I8": "fb568dfee8a9a110",
    "I16": "20264da3bcb4e063",
    "I32": "f68330579710249b",
    "I64": "b8bd9d0422abeab8",
    "F64": "d34a36092ced0918",
    "BF16": "dce2cd31da77c7a3",
    "MXFP4": "f1b9715e3ffdcfb9",
}


def random_bytes(format: BlockFormat, num_blocks: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, num_blocks * format.block_bytes, dtype=np.uint8)


def same_bits(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    """Equal to the bit, except that a NaN equals any NaN (its payload is the machine's choice)."""
    return bool(((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))).all())


def by_gguf(data: NDArray[np.uint8], name: str) -> NDArray[np.float32]:
    gguf = pytest.importorskip("gguf", reason="needs the gguf package (make oracles)")
    with np.errstate(all="ignore"):
        values: NDArray[np.float32] = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[name])
    return values.reshape(-1)


def test_sizes_and_numbers_are_those_of_gguf() -> None:
    gguf = pytest.importorskip("gguf", reason="needs the gguf package (make oracles)")
    for name, format in FORMATS.items():
        kind = gguf.GGMLQuantizationType[name]
        assert (format.ggml_id, format.block_size, format.block_bytes) == (int(kind), *gguf.GGML_QUANT_SIZES[kind])


def test_bits_per_value() -> None:
    bits = {name: format.bits_per_value for name, format in FORMATS.items()}
    assert bits["Q4_0"] == bits["Q4_K"] == 4.5 and bits["Q6_K"] == 6.5625 and bits["MXFP4"] == 4.25


@pytest.mark.parametrize("seed", [0, 1, 1001])
@pytest.mark.parametrize("name", sorted(set(FORMATS) - WITHOUT_ORACLE))
def test_random_bytes_become_the_values_of_gguf(name: str, seed: int) -> None:
    data = random_bytes(FORMATS[name], 1500, seed)
    values = dequantize(data, name)
    assert same_bits(values, by_gguf(data, name))
    # Such bytes hold all there is: 1500 random float16 scales include infinities and NaN.
    assert name in ("MXFP4", "F32", "BF16") or not np.isfinite(values).all()


@pytest.mark.parametrize("name", sorted(set(FORMATS) - WITHOUT_ORACLE))
def test_every_byte_in_every_place_becomes_the_value_of_gguf(name: str) -> None:
    data = np.repeat(np.arange(256, dtype=np.uint8), FORMATS[name].block_bytes)
    assert same_bits(dequantize(data, name), by_gguf(data, name))


@pytest.mark.parametrize("name", FORMATS)
def test_values_are_those_written_down(name: str) -> None:
    """The same without the gguf package."""
    data = np.frombuffer(hashlib.shake_256(name.encode()).digest(400 * FORMATS[name].block_bytes), np.uint8)
    values = dequantize(data, name)
    digest = hashlib.sha256(np.where(np.isnan(values), np.float32(0), values).astype("<f4").tobytes()).hexdigest()
    assert digest[:16] == DIGESTS[name]


def test_a_q4_k_block_by_hand() -> None:
    block = np.zeros(1, FORMATS["Q4_K"].layout)
    block["d"], block["dmin"] = 0.5, 0.25
    scales, minima = np.zeros((2, 1, 8), np.uint8)
    scales[0, [0, 1, 5]], minima[0, [0, 1, 5]] = [3, 63, 33], [2, 0, 63]
    block["scales"] = pack_scales(scales, minima)
    block["qs"][0, 0] = 0xA7  # codes 7 and 10 in the first place of sub-blocks 0 and 1
    block["qs"][0, 64 + 31] = 0xF0  # code 15 in the last place of sub-block 5
    values = dequantize(block.view(np.uint8), "Q4_K").reshape(8, 32)
    assert values[0, 0] == 0.5 * 3 * 7 - 0.25 * 2 and values[0, 1] == -0.5
    assert values[1, 0] == 0.5 * 63 * 10 and values[1, 1] == 0
    assert values[5, 31] == 0.5 * 33 * 15 - 0.25 * 63 and values[5, 0] == -15.75
    assert not values[[2, 3, 4, 6, 7]].any()


def test_the_scales_of_mxfp4_are_powers_of_two() -> None:
    block = np.zeros(5, FORMATS["MXFP4"].layout)
    block["e"][:, 0] = exponents = np.array([0, 1, 2, 127, 254])
    block["qs"][:, 0] = 0xF1  # 0.5 in the first place and -6 in the seventeenth
    values = dequantize(block.view(np.uint8), "MXFP4").reshape(5, 32)
    assert (values[:, 0] == np.ldexp(0.5, exponents - 127)).all()
    assert (values[:4, 16] == np.ldexp(-6.0, exponents[:4] - 127)).all() and values[4, 16] == -np.inf


@pytest.mark.parametrize("dtype", ["i1", "<i2", "<i4", "<i8", "<f8"])
def test_plain_numbers_become_float32(dtype: str) -> None:
    name = {"i": "I", "f": "F"}[np.dtype(dtype).kind] + str(8 * np.dtype(dtype).itemsize)
    numbers = np.array([-128, -1, 0, 1, 77, 127]).astype(dtype)
    assert dequantize(numbers.view(np.uint8), name).tolist() == [-128, -1, 0, 1, 77, 127]
    assert dequantize(np.array([1e300, -1e300]).view(np.uint8), "F64").tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize("name", FORMATS)
def test_the_size_of_the_pieces_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = random_bytes(FORMATS[name], 77, 5)
    whole = dequantize(data, name)
    monkeypatch.setattr(blocks, "_PIECE_VALUES", 10 * FORMATS[name].block_size)
    assert same_bits(dequantize(data, name), whole)


@pytest.mark.parametrize("name", ["Q4_K", "Q6_K", "Q8_0", "IQ4_XS"])
def test_memory_beside_the_result_stays_small(name: str) -> None:
    num_values = 1 << 24
    data = np.zeros(num_bytes(FORMATS[name], num_values), np.uint8)
    out = np.empty(num_values, np.float32)
    tracemalloc.start()
    try:
        assert dequantize(data, name, out) is out
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16e6, peak
    assert not out.any()


def test_any_view_of_bytes_is_read(tmp_path: Path) -> None:
    data = random_bytes(FORMATS["Q5_K"], 6, 3)
    expected = dequantize(data, "Q5_K")
    (tmp_path / "weights").write_bytes(b"x" + data.tobytes())
    mapped = np.memmap(tmp_path / "weights", np.uint8, mode="r", offset=1)  # read-only and at an odd address
    spread = np.repeat(data, 2)[::2]
    for view in (mapped, spread, data.reshape(2, -1), data.reshape(3, 2, -1)):
        assert same_bits(dequantize(view, "Q5_K"), expected)
    assert dequantize(data[:0], "Q5_K").shape == (0,)


def test_format_by_id() -> None:
    assert all(format_by_id(format.ggml_id) is format for format in FORMATS.values())
    with pytest.raises(ModelError, match=r"tensor type 16 cannot be read here \(known: 0 F32, 1 F16, .* 39 MXFP4\)"):
        format_by_id(16)


def test_format_by_name() -> None:
    assert all(format_by_name(name) is format for name, format in FORMATS.items())
    with pytest.raises(ModelError, match=r"no block format 'Q4_KM' \(did you mean 'Q4_K'\?\)"):
        format_by_name("Q4_KM")
    with pytest.raises(ModelError, match="no block format 'IQ1'"):
        dequantize(np.zeros(4, np.uint8), "IQ1")


def test_num_bytes() -> None:
    assert num_bytes(FORMATS["Q4_K"], 512) == 288 and num_bytes(FORMATS["F16"], 3) == 6
    assert num_bytes(FORMATS["Q6_K"], 1 << 60) == (1 << 52) * 210
    for wrong in (300, 32, -256):
        with pytest.raises(ModelError, match=f"Q4_K stores blocks of 256 values, and {wrong} is not a multiple"):
            num_bytes(FORMATS["Q4_K"], wrong)


def test_bytes_that_are_no_whole_blocks_are_refused() -> None:
    with pytest.raises(ModelError, match="145 bytes are no whole number of Q4_K blocks of 144 bytes"):
        dequantize(np.zeros(145, np.uint8), "Q4_K")


@pytest.mark.parametrize(
    "out", [np.empty(255, np.float32), np.empty((16, 16), np.float32), np.empty(512, np.float32)[::2]]
)
def test_an_out_that_does_not_fit_is_refused(out: Any) -> None:
    with pytest.raises(ValueError, match=r"contiguous float32 of shape \(256,\)"):
        dequantize(np.zeros(144, np.uint8), "Q4_K", out)


@given(st.data(), st.sampled_from([(1, 32), (2, 4), (2, 32), (4, 1), (4, 16), (4, 64)]), st.integers(1, 5))
def test_planes_split_and_join(data: st.DataObject, shape: tuple[int, int], rows: int) -> None:
    bits, width = shape
    packed = np.frombuffer(data.draw(st.binary(min_size=rows * width * 2, max_size=rows * width * 2)), np.uint8)
    packed = packed.reshape(rows, 2 * width)
    codes = split_planes(packed, bits, width)
    assert codes.shape == (rows, 2 * width * 8 // bits) and (codes < 1 << bits).all()
    assert (join_planes(codes, bits, width) == packed).all()
    for row in range(rows):
        for plane in range(8 // bits):  # the place of each code, written as a loop
            first = codes[row, plane * width : (plane + 1) * width]
            assert (first == (packed[row, :width] >> (plane * bits)) % (1 << bits)).all()


@given(st.binary(min_size=12, max_size=12))
def test_scales_pack_and_unpack(packed: bytes) -> None:
    row = np.frombuffer(packed, np.uint8)[None]
    scales, minima = unpack_scales(row)
    assert max(scales.max(), minima.max()) < 64
    assert (pack_scales(scales, minima) == row).all()
