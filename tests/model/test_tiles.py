"""Products with block formats in tiles: every format against its values, every number of rows the same bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import ModelError
from groundup.core.jit import numba_works
from groundup.model.ops.blocks import FORMATS, dequantize, format_by_name, wide_codes
from groundup.model.ops.blocks_quantize import quantize
from groundup.model.ops.integers import IntegerFormat, Integers, round_to_integers
from groundup.model.ops.products import (
    PLAIN_FORMATS,
    multiply_blocks,
    multiply_blocks_reference,
    multiply_tiles,
    round_activations,
)
from groundup.model.ops.tiles import (
    F32,
    INT4,
    INT8,
    NAMES,
    WIDE,
    Arena,
    tiles_from_blocks,
    tiles_from_floats,
    tiles_from_integers,
)

if not numba_works():
    pytest.skip("the kernels need numba", allow_module_level=True)

from groundup.model.ops.pairs import BLOCK_FORMATS, blocks_inputs


def relative(ours: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


@pytest.mark.parametrize("format", BLOCK_FORMATS)
def test_every_format_gives_the_product_of_its_values(format: str) -> None:
    for seed in range(3):
        arguments = blocks_inputs(seed, format)
        assert relative(multiply_blocks(*arguments), multiply_blocks_reference(*arguments)) < 1e-5


@pytest.mark.parametrize("format", BLOCK_FORMATS)
def test_a_row_is_the_same_bits_in_every_batch(format: str) -> None:
    x, data, _ = blocks_inputs(7, format, rows=19, outputs=37)
    whole = multiply_blocks(x, data, format)
    for start, end in ((0, 1), (3, 5), (2, 6), (0, 7), (4, 19)):
        assert np.array_equal(multiply_blocks(x[start:end], data, format), whole[start:end])


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([f for f in BLOCK_FORMATS if FORMATS[f].block_size <= 32]),
    st.integers(1, 20),
    st.integers(1, 70),
    st.integers(1, 9),
    st.integers(0, 1000),
)
def test_any_shape(format: str, rows: int, outputs: int, blocks: int, seed: int) -> None:
    x, data, _ = blocks_inputs(seed, format, rows=rows, outputs=outputs, columns=32 * blocks)
    # Beside the sum of the sizes of what is added: one number alone may be the small difference of large ones.
    size = (np.abs(x) @ np.abs(dequantize(data, format)).reshape(outputs, -1).T).max()
    apart = np.abs(multiply_blocks(x, data, format) - multiply_blocks_reference(x, data, format)).max()
    assert apart < 1e-6 * size


@pytest.mark.parametrize("columns", [1, 31, 33, 80])
def test_floats_of_any_width(columns: int) -> None:
    draw = np.random.default_rng(columns)
    x, w = (draw.normal(size=(rows, columns)).astype(np.float32) for rows in (9, 21))
    ours = multiply_tiles(x, tiles_from_floats(w, Arena()))
    assert relative(ours, x.astype(np.float64) @ w.T.astype(np.float64)) < 1e-5


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("group", "columns"), [(None, 320), (32, 320), (64, 320), (160, 320), (64, 160), (None, 75)])
def test_whole_numbers_with_a_scale_for_each_row_or_group(bits: int, group: int | None, columns: int) -> None:
    draw = np.random.default_rng(columns + bits)
    format = IntegerFormat(bits, group)
    codes = draw.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (35, columns)).astype(np.int8)
    scales = draw.random((35, format.num_groups(columns))).astype(np.float32)
    x = draw.normal(size=(11, columns)).astype(np.float32)
    tiles = tiles_from_integers(Integers(format, codes, scales), Arena())
    values = codes * np.repeat(scales.astype(np.float64), group or columns, axis=1)[:, :columns]
    read = round_activations(np.pad(x, ((0, 0), (0, -columns % 32))))[:, :columns]
    ours = multiply_tiles(x, tiles)
    assert tiles.kind == (INT8 if bits == 8 else INT4)
    assert relative(ours, read.astype(np.float64) @ values.T) < 1e-5
    for start, end in ((0, 1), (3, 5), (4, 11)):
        assert np.array_equal(multiply_tiles(x[start:end], tiles), ours[start:end])


def test_groups_that_are_no_whole_blocks_are_computed_as_floats() -> None:
    integers = round_to_integers(
        np.random.default_rng(0).normal(size=(20, 48)).astype(np.float32), IntegerFormat(4, 16)
    )
    x = np.random.default_rng(1).normal(size=(3, 48)).astype(np.float32)
    tiles = tiles_from_integers(integers, Arena())
    assert tiles.kind == F32
    assert relative(multiply_tiles(x, tiles), x.astype(np.float64) @ integers.floats().T.astype(np.float64)) < 1e-5


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("format", ["Q8_0", "Q4_1", "F32"])
def test_a_value_that_is_not_finite_does_not_vanish(format: str, bad: float) -> None:
    x, data, _ = blocks_inputs(1, format, rows=4, outputs=5)
    x[2, 77] = bad
    found = multiply_blocks(x, data, format)
    assert not np.isfinite(found[2]).any()
    assert np.isfinite(found[[0, 1, 3]]).all()


@pytest.mark.parametrize("format", ["Q4_0", "Q4_1", "Q4_K", "Q6_K", "Q2_K"])
def test_scales_that_are_not_finite_are_refused(format: str) -> None:
    _, data, _ = blocks_inputs(1, format, rows=1, outputs=20)
    data.view(FORMATS[format].layout)["d"][3] = np.inf
    with pytest.raises(ModelError, match=f"a block of {format} has a scale that is not finite"):
        tiles_from_blocks(data, format, 512, Arena())


@pytest.mark.parametrize("format", [name for name in BLOCK_FORMATS if name not in NAMES and name not in PLAIN_FORMATS])
def test_formats_without_a_kernel_are_widened_to_the_same_values(format: str) -> None:
    _, data, _ = blocks_inputs(3, format, rows=1, outputs=8)
    assert tiles_from_blocks(data, format, 512, Arena()).kind == WIDE
    codes, scales, minima = wide_codes(
        np.ascontiguousarray(data).view(format_by_name(format).layout).reshape(-1), format
    )
    values = codes.reshape(len(codes), -1, 16) * scales[:, :, None].astype(np.float64) + minima[:, :, None]
    assert relative(values.ravel(), dequantize(data, format)) < 1e-5


def test_tensors_that_hold_no_weights_are_refused() -> None:
    with pytest.raises(ModelError, match="tensors of I8 hold no weights"):
        tiles_from_blocks(np.zeros((4, 512), np.uint8), "I8", 512, Arena())


@pytest.mark.parametrize("format", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q4_K", "Q6_K"])
def test_tiles_are_about_as_large_as_the_blocks(format: str) -> None:
    data = quantize(np.random.default_rng(0).normal(size=(64, 1536)).astype(np.float32), format)
    assert tiles_from_blocks(data, format, 1536, Arena()).data.nbytes <= 1.05 * data.nbytes


def test_matrices_of_an_arena_lie_side_by_side() -> None:
    arena = Arena()
    first, second = arena.take(100), arena.take(64)
    assert first.ctypes.data % 64 == 0
    assert second.ctypes.data == first.ctypes.data + 128
    large = arena.take(arena.chunk_bytes + 1)
    assert len(large) == arena.chunk_bytes + 1
    large[-1] = 1
