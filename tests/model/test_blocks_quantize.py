"""Quantisers: the same bytes as llama.cpp, the same refusals, bounded errors, and what must not matter."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from groundup.core.errors import ModelError
from groundup.model.ops import blocks_quantize
from groundup.model.ops.blocks import FORMATS, dequantize, num_bytes
from groundup.model.ops.blocks_quantize import QUANTIZERS, quantize

Floats = NDArray[np.float32]

NAMES = list(QUANTIZERS)
OF_32 = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]

# SHA-256 of the bytes of the matrix of `golden_matrix`, written down when they equalled llama.cpp's
# (llama-cpp-python 0.3.36).
DIGESTS = {
    "F32": "32780163d08c6104",
    "F16": "2136669efa623f2e",
    "BF16": "32f8cd4a540e99c6",
    "Q8_0": "4abc11f0d463fa8f",
    "Q4_0": "fc2c46af388c4f59",
    "Q4_1": "9b216986311e31e4",
    "Q5_0": "5eea705494c47e3e",
    "Q5_1": "e19d7ec881477958",
    "Q4_K": "2f66a64b341f5377",
    "Q5_K": "193b4cfc7674c2cb",
    "Q6_K": "ea223a89967199e6",
}


class Ggml:
    """ggml's quantisers through ctypes; loaded without importing llama_cpp, which leaves an open file behind."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.library.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.library.ggml_quantize_chunk.argtypes = [
            *(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p),
            *(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p),
        ]
        self.library.ggml_validate_row_data.restype = ctypes.c_bool
        self.library.ggml_validate_row_data.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]

    def quantize(self, values: Floats, name: str) -> NDArray[np.uint8]:
        rows, columns = values.shape
        values, out = np.ascontiguousarray(values), np.empty((rows, num_bytes(FORMATS[name], columns)), np.uint8)
        written = self.library.ggml_quantize_chunk(
            FORMATS[name].ggml_id, values.ctypes.data, out.ctypes.data, 0, rows, columns, None
        )
        assert written == out.size
        return out

    def is_valid(self, data: NDArray[np.uint8], name: str) -> bool:
        return bool(self.library.ggml_validate_row_data(FORMATS[name].ggml_id, data.ctypes.data, data.size))


@pytest.fixture(scope="module")
def ggml() -> Ggml:
    package = importlib.util.find_spec("llama_cpp")
    folder = Path(package.origin).parent / "lib" if package and package.origin else Path("nowhere")
    found = [path for path in sorted(folder.glob("*ggml-base.*")) if path.suffix in (".so", ".dylib", ".dll")]
    if not found:
        pytest.skip("needs llama-cpp-python (make oracles)")
    return Ggml(found[0])


def matrices(columns: int, seed: int) -> Iterator[tuple[str, Floats]]:
    """Matrices of every kind that is known to matter, each finite and with scales that fit float16."""
    generator = np.random.default_rng(seed)
    shape = (24, columns)
    normal = generator.standard_normal(shape)
    signs = np.sign(generator.standard_normal(shape))
    by_row = generator.standard_normal((24, 1))
    by_block = 10.0 ** generator.integers(-20, 3, (24, columns // 32, 1))
    kinds = {
        "normal": normal,
        "heavy-tailed": 0.1 * generator.standard_t(1.5, shape).clip(-1e5, 1e5),
        "zeros": 0 * normal**2,
        "zeros of both signs": 0 * signs,
        "constant rows": 0 * normal**2 + by_row,
        "nearly constant rows": by_row * (1 + 1e-7 * normal),
        "positive": np.abs(normal) + 0.3,
        "negative": -np.abs(normal) - 0.3,
        "cut off, zeros of both signs": np.maximum(normal, 0) * signs,
        "few are not zero": normal * (generator.random(shape) < 0.03),
        "whole numbers, many ties": generator.integers(-8, 9, shape),
        "magnitudes by block": (by_block * generator.standard_normal((24, columns // 32, 32))).reshape(shape),
        "magnitudes by value": normal * 10.0 ** generator.integers(-45, 3, shape),
        "outliers": np.where(generator.random(shape) < 0.01, 100 * normal, normal),
    }
    kinds |= {
        f"times 1e{power}": normal * 10.0**power
        for power in (-45, -43, -40, -38, -37, -30, -22, -16, -15, -14, -10, -8, -7, -6, -5, -4, 2, 4)
    }
    for kind, values in kinds.items():
        yield kind, values.astype(np.float32)


CASES = [(name, columns) for name in NAMES for columns in (256, 512, 2048)] + [(name, 576) for name in OF_32]


@pytest.mark.parametrize(("name", "columns"), CASES)
def test_the_bytes_are_those_of_llama_cpp(name: str, columns: int, ggml: Ggml) -> None:
    for kind, values in matrices(columns, seed=columns):
        written, expected = quantize(values, name), ggml.quantize(values, name)
        different = np.count_nonzero(written != expected)
        assert not different, f"{kind}: {different} of {expected.size} bytes differ"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_refusals_are_those_of_llama_cpp(name: str, seed: int, ggml: Ggml) -> None:
    """Single rows up to float32's largest: what llama.cpp would not accept is refused, the rest has its bytes."""
    generator = np.random.default_rng(seed)
    refused = 0
    for number in range(60):
        # Sub-blocks from subnormal to 1e6, 1e10, 1e20, 1e38; or one row near the largest scale of float16.
        powers = generator.integers(-46, (6, 10, 20, 39)[number % 4], (16, 1)).astype(float)
        powers = powers if number % 5 else generator.uniform(4, 8, (1, 1))
        row = (generator.standard_normal((16, 16)) * 10.0**powers).clip(-3.4e38, 3.4e38).astype(np.float32)
        row = row.reshape(1, 256)
        expected = ggml.quantize(row, name)
        if ggml.is_valid(expected, name):
            assert (quantize(row, name) == expected).all(), number
        else:
            refused += 1
            with pytest.raises(
                ModelError, match=rf"^values as large as \S+ do not fit {name}, which would store an inf"
            ):
                quantize(row, name)
    assert name in ("F32", "BF16") or 0 < refused < 60


def test_bf16_is_refused_where_rounding_up_gives_an_infinity(ggml: Ggml) -> None:
    largest = np.array([[0x7F7F7FFF]], np.uint32).view(np.float32)
    assert ggml.is_valid(ggml.quantize(largest, "BF16"), "BF16")
    assert quantize(largest, "BF16").tolist() == [[0x7F, 0x7F]]
    above = np.nextafter(largest, np.float32(np.inf))
    assert not ggml.is_valid(ggml.quantize(above, "BF16"), "BF16")
    with pytest.raises(ModelError, match=r"values as large as 3\.3961\S+ do not fit BF16"):
        quantize(above, "BF16")


def golden_matrix() -> Floats:
    """(40, 1024) numbers of all kinds, the same on every machine and with every numpy.

    Sums of twelve bytes are like normal numbers; then zeros of both signs, positive ones, and powers of two that differ
    by block of 32 or by value, down to subnormal numbers.
    """
    data = np.frombuffer(hashlib.shake_256(b"weights").digest(14 * 8 * 1024), np.uint8).reshape(8, 1024, 14).astype(int)
    normal = (data[..., :12].sum(axis=2) - 1530) / 256
    signs = np.where(data[..., 12] < 128, -1.0, 1.0)
    sparse = np.where(data[..., 13] < 8, normal, 0 * signs)
    by_block = np.ldexp(normal, np.repeat(data[:, ::32, 12] % 160 - 149, 32, axis=1))
    by_value = np.ldexp(normal, data[..., 12] % 160 - 149)
    return np.concatenate([normal, np.abs(normal), sparse, by_block, by_value]).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_the_bytes_are_those_written_down(name: str) -> None:
    """The same without llama.cpp."""
    assert hashlib.sha256(quantize(golden_matrix(), name).tobytes()).hexdigest()[:16] == DIGESTS[name]


# Relative rms error of normal values, to two or three digits: the same for llama.cpp, as the bytes are the same.
ERRORS = {
    **{"F32": 0.0, "F16": 2.1e-4, "BF16": 1.7e-3, "Q8_0": 5.4e-3, "Q6_K": 0.0178, "Q5_K": 0.0362, "Q4_K": 0.0715},
    **{"Q5_1": 0.0380, "Q5_0": 0.0430, "Q4_1": 0.0784, "Q4_0": 0.0862},
}


@pytest.mark.parametrize("name", NAMES)
def test_the_error_of_normal_values(name: str) -> None:
    values = np.random.default_rng(2).standard_normal((128, 1024)).astype(np.float32)
    read = dequantize(quantize(values, name), name).reshape(values.shape)
    error = np.sqrt(np.square(read - values, dtype=np.float64).mean() / np.square(values).mean())
    assert error == pytest.approx(ERRORS[name], rel=0.03)


def test_memory_beside_the_result_stays_small() -> None:
    values = np.random.default_rng(4).standard_normal((1024, 4096)).astype(np.float32)
    tracemalloc.start()
    try:
        quantize(values, "Q8_0")
        quantize(values[:256], "Q4_K")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - values.size * 34 / 32 < 16e6, peak


FINITE = st.floats(-60000, 60000, width=32, allow_subnormal=False)


@given(arrays(np.float32, (1, 64), elements=FINITE))
@settings(deadline=None)
def test_an_error_is_at_most_a_step(values: Floats) -> None:
    """Formats with blocks of 32: half a step, for Q4_0 and Q5_0 a whole one at the end with one code less."""
    for name, steps, share in (
        ("Q8_0", 127, 0.5),
        ("Q4_0", 8, 1),
        ("Q5_0", 16, 1),
        ("Q4_1", 15, 0.5),
        ("Q5_1", 31, 0.5),
    ):
        read = dequantize(quantize(values, name), name).reshape(2, 32)
        original = values.reshape(2, 32).astype(np.float64)
        low = original.min(axis=1) if name.endswith("1") else 0
        extent = np.abs(original).max(axis=1) if name.endswith("0") else original.max(axis=1) - low
        # float16 rounds scale and minimum by 2^-11 of themselves, and by 2^-25 when it holds them as subnormals.
        rounding = (extent + np.abs(low)) * 2.0**-11 + (steps + 1) * 2.0**-25
        bound = share * extent / steps + 1.01 * rounding + 1e-6 * np.abs(original).max(axis=1)
        assert (np.abs(read - original).max(axis=1) <= bound).all(), name


@given(arrays(np.float32, (2, 256), elements=st.floats(-1e4, 1e4, width=32)))
@settings(deadline=None, max_examples=15)
def test_whatever_is_finite_is_written_and_read(values: Floats) -> None:
    for name in NAMES:
        data = quantize(values, name)
        assert data.shape == (2, num_bytes(FORMATS[name], 256)) and data.dtype == np.uint8
        assert np.isfinite(dequantize(data, name)).all()


@pytest.mark.parametrize("name", NAMES)
def test_rows_do_not_see_each_other(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).standard_normal((7, 768)).astype(np.float32)
    whole = quantize(values, name)
    assert (np.concatenate([quantize(values[i : i + 1], name) for i in range(7)]) == whole).all()
    monkeypatch.setattr(blocks_quantize, "_PIECE_VALUES", 1024)
    assert (quantize(values, name) == whole).all()
    assert (quantize(np.asfortranarray(values), name) == whole).all()


@pytest.mark.parametrize("name", NAMES)
def test_empty_matrices(name: str) -> None:
    assert quantize(np.empty((0, 512), np.float32), name).shape == (0, num_bytes(FORMATS[name], 512))
    assert quantize(np.empty((3, 0), np.float32), name).shape == (3, 0)


@pytest.mark.parametrize("name", NAMES)
def test_values_that_are_not_finite_are_counted(name: str) -> None:
    values = np.zeros((300, 1024), np.float32)
    values[1, 3], values[200, 4], values[299, 1023] = np.nan, np.inf, -np.inf
    with pytest.raises(ModelError, match="3 of 307200 values are infinite or NaN"):
        quantize(values, name)


def test_a_value_too_large_for_the_scale_is_named() -> None:
    values = np.ones((2, 512), np.float32)
    values[1, 300] = -9e6
    with pytest.raises(ModelError, match=r"values as large as 9e\+06 do not fit Q8_0, .* keep this tensor in F32"):
        quantize(values, "Q8_0")


def test_wrong_use_is_refused() -> None:
    values = np.zeros((2, 576), np.float32)
    with pytest.raises(ModelError, match="Q4_K stores blocks of 256 values, and 576 is not a multiple"):
        quantize(values, "Q4_K")
    with pytest.raises(ModelError, match="IQ4_NL can be read but not written: use one of F32, F16, BF16, Q8_0"):
        quantize(values, "IQ4_NL")
    with pytest.raises(ModelError, match=r"no block format 'q8_0' \(did you mean 'Q8_0'\?\)"):
        quantize(values, "q8_0")
    with pytest.raises(ModelError, match=r"takes a float32 matrix, not float32 of shape \(64,\)"):
        quantize(np.zeros(64, np.float32), "Q8_0")
