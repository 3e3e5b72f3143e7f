"""Products of rows of activations with matrices in tiles (`tiles.py`), without unpacking the matrix to memory.

Every sum runs over the blocks of a row in the same order, however many rows of activations there are and whichever
thread computes it, so a row's result does not depend on the batch it came in. Block formats meet activations that
`quantize_rows` rounded to eight bits, block by block, and multiply whole numbers; F32 and BF16 meet them as they are.
"""

from __future__ import annotations

from groundup.core.jit import StepKernel
from groundup.core.vectors_numba import (
    absolute,
    add,
    and_i32,
    and_u8,
    call_kernel,
    from_bits,
    larger,
    largest_of,
    load_f32,
    load_f32_from_f16,
    load_f32_from_i8,
    load_f32_from_u8,
    load_i32,
    load_u8,
    mul,
    nearest_i32,
    or_u8,
    or_where,
    prefetch,
    read_f32,
    read_i64,
    rows_add_memory,
    rows_add_product,
    rows_add_scaled,
    rows_add_vector,
    rows_dot_u7,
    rows_dot_u8,
    rows_multiply_add,
    rows_splat_i32,
    rows_splat_sum,
    rows_store_f32,
    rows_zero_f32,
    rows_zero_i32,
    shift_left,
    shift_left_u8,
    shift_right_u8,
    splat_f32,
    splat_u8,
    store_fours,
    sub,
    sum_of,
    sum_of_i32,
    write_f32,
    write_i32,
)
from groundup.model.ops.tiles import BF16, F32, FLOAT_KINDS, INT4, INT8, NAMES, Q4_0, Q4_1, Q4_K, Q5_0, Q6_K, Q8_0, WIDE

#: Rows of activations that stand side by side, number by number, so that one address reaches all of them.
GROUP = 8
#: How far ahead of what it reads a product with one row asks for weights, in bytes.
AHEAD = 4096


@StepKernel
def quantize_rows(arguments: int, start: int, end: int, state: int, worker: int) -> None:
    """Round rows of activations to eight bits, each block of 32 by its own scale, and put `GROUP` rows side by side.

    A block's scale is its largest value over 127. A group holds for all of its blocks: the codes (four neighbours of a
    row, then those of the next row), the scales (float32), scale times the sum of the codes (float32), and the sums of
    the codes of both halves (int32). A value that is not finite makes the block's scale NaN.

    Arguments: source (float32 rows), bytes between its rows, blocks of a row, target (48 bytes for each block and row).
    Items: rows.
    """
    source, stride, num_blocks = read_i64(arguments), read_i64(arguments + 8), read_i64(arguments + 16)
    zero = splat_f32(0.0)
    for row in range(start, end):
        values = source + row * stride
        group = read_i64(arguments + 24) + row // GROUP * 48 * GROUP * num_blocks
        codes = group + 4 * (row % GROUP)
        scales = codes + 32 * GROUP * num_blocks
        sums, halves = scales + 4 * GROUP * num_blocks, scales + 8 * GROUP * num_blocks
        for block in range(num_blocks):
            first, second = load_f32(values + 128 * block), load_f32(values + 128 * block + 64)
            largest = largest_of(larger(absolute(first), absolute(second)))
            # 0 unless a value is not finite, which no comparison would show.
            fault = sum_of(add(mul(first, zero), mul(second, zero)))
            inverse = 127.0 / largest if largest > 0.0 else 0.0
            factor = splat_f32(inverse)
            a, b = nearest_i32(mul(first, factor)), nearest_i32(mul(second, factor))
            store_fours(codes + 32 * GROUP * block, a, 4 * GROUP)
            store_fours(codes + 32 * GROUP * block + 16 * GROUP, b, 4 * GROUP)
            sum_a, sum_b = sum_of_i32(a), sum_of_i32(b)
            scale = largest / 127.0 + fault
            write_f32(scales + 4 * GROUP * block, scale)
            write_f32(sums + 4 * GROUP * block, scale * (sum_a + sum_b))
            write_i32(halves + 8 * GROUP * block, sum_a)
            write_i32(halves + 8 * GROUP * block + 4 * GROUP, sum_b)


@StepKernel
def group_rows(arguments: int, start: int, end: int, state: int, worker: int) -> None:
    """Put `GROUP` rows of activations side by side as they are.

    Arguments: source (float32 rows), bytes between its rows, blocks of a row, target (128 bytes for each block and row).
    Items: rows.
    """
    source, stride, num_blocks = read_i64(arguments), read_i64(arguments + 8), read_i64(arguments + 16)
    for row in range(start, end):
        values = source + row * stride
        target = read_i64(arguments + 24) + row // GROUP * 128 * GROUP * num_blocks + 4 * (row % GROUP)
        for column in range(32 * num_blocks):
            write_f32(target + 4 * GROUP * column, read_f32(values + 4 * column))


def _product(KIND: int, COUNT: int) -> StepKernel:
    """The kernel of one kind of tile for the first COUNT rows of a group."""
    # Freevariables are numbers only: numba keeps no machine code of a function that refers to another one so.
    block_bytes = GROUP * (128 if KIND in FLOAT_KINDS else 48)

    @StepKernel
    def product(arguments: int, index: int, row: int, left: int, unused: int) -> None:
        """One tile with one group of rows, of which `left` are written (see `multiply`)."""
        tile = read_i64(arguments) + index * read_i64(arguments + 8)
        scales, minima = tile + read_i64(arguments + 16), tile + read_i64(arguments + 24)
        high, num_blocks, group = tile + read_i64(arguments + 32), read_i64(arguments + 40), read_i64(arguments + 48)
        x = read_i64(arguments + 56) + row // GROUP * block_bytes * num_blocks
        out_stride, bias = read_i64(arguments + 72), read_i64(arguments + 80) + 64 * index
        out = read_i64(arguments + 64) + 64 * index + row * out_stride
        # As `quantize_rows` has them: for a block 256 bytes of codes, 32 of scales, 32 of sums, 64 of sums of halves.
        row_scales, row_sums, row_halves = x + 256 * num_blocks, x + 288 * num_blocks, x + 320 * num_blocks
        # One row waits for memory, and the processor's own prefetching does not keep up; with more rows it has time.
        ahead = tile + AHEAD
        result = rows_zero_f32(COUNT)
        low_bits, four = splat_u8(15), splat_u8(4)
        if KIND == F32:
            for column in range(32 * num_blocks):
                if COUNT == 1:
                    prefetch(ahead + 64 * column, 1)
                result = rows_multiply_add(result, load_f32(tile + 64 * column), x + 32 * column)
        elif KIND == BF16:
            for pair in range(16 * num_blocks):
                if COUNT == 1:
                    prefetch(ahead + 64 * pair, 1)
                both = load_i32(tile + 64 * pair)
                even, odd = from_bits(shift_left(both, 16)), from_bits(and_i32(both, -65536))
                result = rows_multiply_add(result, even, x + 64 * pair)
                result = rows_multiply_add(result, odd, x + 64 * pair + 32)
        elif KIND == INT8:
            ones = splat_f32(1.0)
            for start in range(0, num_blocks, group):
                part = rows_zero_f32(COUNT)
                for block in range(start, min(start + group, num_blocks)):
                    if COUNT == 1:
                        prefetch(ahead + 512 * block, 8)
                    total = rows_splat_sum(COUNT, row_halves + 64 * block, 32, -128)
                    for j in range(8):
                        codes = load_u8(tile + 512 * block + 64 * j)
                        total = rows_dot_u8(total, codes, x + 256 * block + 32 * j)
                    part = rows_add_scaled(part, total, ones, row_scales + 32 * block)
                result = rows_add_product(result, part, load_f32(scales + 64 * (start // group)))
        elif KIND == INT4:
            ones = splat_f32(1.0)
            for start in range(0, num_blocks, group):
                part = rows_zero_f32(COUNT)
                for block in range(start, min(start + group, num_blocks)):
                    if COUNT == 1:
                        prefetch(ahead + 256 * block, 4)
                    total = rows_splat_sum(COUNT, row_halves + 64 * block, 32, -8)
                    for j in range(4):
                        codes, place = load_u8(tile + 256 * block + 64 * j), x + 256 * block + 32 * j
                        total = rows_dot_u7(total, and_u8(codes, low_bits), place)
                        total = rows_dot_u7(total, shift_right_u8(codes, four), place + 128)
                    part = rows_add_scaled(part, total, ones, row_scales + 32 * block)
                result = rows_add_product(result, part, load_f32(scales + 64 * (start // group)))
        elif KIND == Q8_0:
            for block in range(num_blocks):
                if COUNT == 1:
                    prefetch(ahead + 544 * block, 9)
                total = rows_splat_sum(COUNT, row_halves + 64 * block, 32, -128)
                for j in range(8):
                    codes = load_u8(tile + 512 * block + 64 * j)
                    total = rows_dot_u8(total, codes, x + 256 * block + 32 * j)
                result = rows_add_scaled(result, total, load_f32_from_f16(scales + 32 * block), row_scales + 32 * block)
        elif KIND == Q4_0:
            for block in range(num_blocks):
                if COUNT == 1:
                    prefetch(ahead + 288 * block, 5)
                total = rows_splat_sum(COUNT, row_halves + 64 * block, 32, -8)
                for j in range(4):
                    codes, place = load_u8(tile + 256 * block + 64 * j), x + 256 * block + 32 * j
                    total = rows_dot_u7(total, and_u8(codes, low_bits), place)
                    total = rows_dot_u7(total, shift_right_u8(codes, four), place + 128)
                result = rows_add_scaled(result, total, load_f32_from_f16(scales + 32 * block), row_scales + 32 * block)
        elif KIND == Q4_1:
            for block in range(num_blocks):
                if COUNT == 1:
                    prefetch(ahead + 320 * block, 5)
                total = rows_zero_i32(COUNT)
                for j in range(4):
                    codes, place = load_u8(tile + 256 * block + 64 * j), x + 256 * block + 32 * j
                    total = rows_dot_u7(total, and_u8(codes, low_bits), place)
                    total = rows_dot_u7(total, shift_right_u8(codes, four), place + 128)
                scale, minimum = load_f32_from_f16(scales + 32 * block), load_f32_from_f16(minima + 32 * block)
                result = rows_add_scaled(result, total, scale, row_scales + 32 * block)
                result = rows_multiply_add(result, minimum, row_sums + 32 * block)
        elif KIND == Q5_0:
            for block in range(num_blocks):
                if COUNT == 1:
                    prefetch(ahead + 352 * block, 6)
                total = rows_splat_sum(COUNT, row_halves + 64 * block, 32, -16)
                for j in range(4):
                    codes, place = load_u8(tile + 256 * block + 64 * j), x + 256 * block + 32 * j
                    bits = high + 64 * block + 8 * j
                    first = or_where(and_u8(codes, low_bits), read_i64(bits), 16)
                    second = or_where(shift_right_u8(codes, four), read_i64(bits + 32), 16)
                    total = rows_dot_u7(total, first, place)
                    total = rows_dot_u7(total, second, place + 128)
                result = rows_add_scaled(result, total, load_f32_from_f16(scales + 32 * block), row_scales + 32 * block)
        elif KIND == Q4_K:
            zero = splat_f32(0.0)
            for pair in range(num_blocks // 2):  # two blocks share the bytes of their codes
                if COUNT == 1:
                    prefetch(ahead + 592 * pair, 10)
                whole = high + 64 * (pair // 4)  # d and dmin of a super-block of eight
                first, second = rows_zero_i32(COUNT), rows_zero_i32(COUNT)
                for j in range(8):
                    codes, place = load_u8(tile + 512 * pair + 64 * j), x + 512 * pair + 32 * j
                    first = rows_dot_u7(first, and_u8(codes, low_bits), place)
                    second = rows_dot_u7(second, shift_right_u8(codes, four), place + 256)
                d, dmin = load_f32_from_f16(whole), sub(zero, load_f32_from_f16(whole + 32))
                place, sums = row_scales + 64 * pair, row_sums + 64 * pair
                result = rows_add_scaled(result, first, mul(d, load_f32_from_u8(scales + 32 * pair)), place)
                result = rows_multiply_add(result, mul(dmin, load_f32_from_u8(minima + 32 * pair)), sums)
                scale, minimum = load_f32_from_u8(scales + 32 * pair + 16), load_f32_from_u8(minima + 32 * pair + 16)
                result = rows_add_scaled(result, second, mul(d, scale), place + 32)
                result = rows_multiply_add(result, mul(dmin, minimum), sums + 32)
        elif KIND == Q6_K:
            two, high_bits, two_bits = splat_u8(2), splat_u8(48), splat_u8(3)
            for half in range(num_blocks // 4):  # of a super-block: 128 values, four planes of 32
                d = load_f32_from_f16(minima + 32 * (half // 2))
                for side in range(2):  # sixteen values of each plane, which have a scale of their own
                    if COUNT == 1:
                        prefetch(ahead + 840 * (2 * half + side), 14)
                    place, sums = x + 1024 * half + 128 * side, row_halves + 256 * half + 32 * side
                    own, block = scales + 128 * half + 16 * side, row_scales + 128 * half
                    codes, bits = tile + 1024 * half + 256 * side, high + 512 * half + 256 * side
                    # Planes 0 and 2 share the bytes of their low bits, and so do 1 and 3.
                    a, b = rows_splat_i32(COUNT, sums, -32), rows_splat_i32(COUNT, sums + 128, -32)
                    for i in range(4):
                        low, upper = load_u8(codes + 64 * i), load_u8(bits + 64 * i)
                        first = or_u8(and_u8(low, low_bits), shift_left_u8(and_u8(upper, two_bits), four))
                        second = or_u8(shift_right_u8(low, four), and_u8(upper, high_bits))
                        a = rows_dot_u7(a, first, place + 32 * i)
                        b = rows_dot_u7(b, second, place + 512 + 32 * i)
                    result = rows_add_scaled(result, a, mul(d, load_f32_from_i8(own)), block)
                    result = rows_add_scaled(result, b, mul(d, load_f32_from_i8(own + 64)), block + 64)
                    a, b = rows_splat_i32(COUNT, sums + 64, -32), rows_splat_i32(COUNT, sums + 192, -32)
                    for i in range(4):
                        low, upper = load_u8(codes + 512 + 64 * i), load_u8(bits + 64 * i)
                        first = or_u8(and_u8(low, low_bits), and_u8(shift_left_u8(upper, two), high_bits))
                        second = or_u8(shift_right_u8(low, four), and_u8(shift_right_u8(upper, two), high_bits))
                        a = rows_dot_u7(a, first, place + 256 + 32 * i)
                        b = rows_dot_u7(b, second, place + 768 + 32 * i)
                    result = rows_add_scaled(result, a, mul(d, load_f32_from_i8(own + 32)), block + 32)
                    result = rows_add_scaled(result, b, mul(d, load_f32_from_i8(own + 96)), block + 96)
        elif KIND == WIDE:
            for half in range(2 * num_blocks):  # sixteen values
                if COUNT == 1:
                    prefetch(ahead + 384 * half, 6)
                total = rows_zero_i32(COUNT)
                for j in range(4):
                    codes = load_u8(tile + 256 * half + 64 * j)
                    total = rows_dot_u8(total, codes, x + 128 * half + 32 * j)
                block = row_scales + 32 * (half // 2)
                result = rows_add_scaled(result, total, load_f32(scales + 64 * half), block)
                # The minimum times the sum of these sixteen codes times their scale.
                sums = rows_splat_i32(COUNT, row_halves + 32 * half, 1)
                result = rows_add_scaled(result, sums, load_f32(minima + 64 * half), block)
        result = rows_add_vector(result, load_f32(bias))
        if read_i64(arguments + 88):
            result = rows_add_memory(result, out, out_stride)
        rows_store_f32(result, out, out_stride, left)

    return product


@StepKernel
def multiply(arguments: int, start: int, end: int, state: int, worker: int) -> None:
    """Rows of activations times the tiles of a matrix.

    Arguments: tiles, bytes of a tile, where its scales, minima and high bits begin, blocks of a row, blocks of a group of
    the tile, activations (as `quantize_rows` leaves them; as `group_rows` for `FLOAT_KINDS`), result (float32), bytes
    between its rows, bias (zeros where there is none), 1 to add to what the result holds, offset in the state where the
    number of rows stands, the three of `PRODUCTS`. Items: tiles.
    """
    num_rows = read_i64(state + read_i64(arguments + 96))
    one, few, many = read_i64(arguments + 104), read_i64(arguments + 112), read_i64(arguments + 120)
    for index in range(start, end):
        for row in range(0, num_rows, GROUP):
            left = num_rows - row
            product = many if left > GROUP // 2 else few if left > 1 else one
            call_kernel(product, arguments, index, row, left, 0)


#: Kind of tile -> its products for one, up to four and up to eight rows of a group.
PRODUCTS = [tuple(_product(kind, count) for count in (1, GROUP // 2, GROUP)) for kind in range(len(NAMES))]
