"""Attention over a cache of keys and values, block by block with an online softmax.

The keys of a head lie in blocks of sixteen, value by value, so that a lane has a key of its own and no sum crosses
lanes; the values lie row by row. Both are float32, bfloat16, or bytes with a scale for each token.

For each query the keys are taken in blocks of `BLOCK` and the blocks in segments of `SEGMENT` keys, counted from the
beginning of the text. Largest score, sum and weighted values of a segment are computed from its keys alone and then
merged in order (Milakov and Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135). So a query's result
depends neither on the other queries of a call nor on how the text came in.
"""

from __future__ import annotations

import math

from groundup.core.jit import StepKernel, kernel
from groundup.core.vectors_numba import (
    add,
    exp,
    float_bits,
    float_from_bits,
    iota,
    keep_up_to,
    larger,
    largest_of,
    load_f32,
    load_f32_from_bf16,
    load_f32_from_i8,
    mul,
    multiply_add,
    read_f32,
    read_i64,
    rows_load_f32,
    rows_multiply,
    rows_multiply_add,
    rows_store_f32,
    rows_zero_f32,
    splat_f32,
    splat_i32,
    store_f32,
    sub,
    sub_i32,
    sum_of,
    tanh,
    write_f32,
    write_i8,
    write_u16,
)

#: Numbers of the types of a cache, and the bytes of a value.
CACHE_TYPES = {"float32": 0, "bfloat16": 1, "int8": 2}
VALUE_BYTES = (4, 2, 1)
BLOCK, SEGMENT = 64, 512
#: Queries that meet a loaded key together.
TILE = 4
_LOWEST = -1e30


@kernel
def _put(address: int, cache_type: int, number: float, inverse: float) -> None:
    """Write one value of a key or value."""
    if cache_type == 0:
        write_f32(address, number)
    elif cache_type == 1:
        bits = float_bits(number)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # to nearest, ties to even
        write_u16(address, rounded if number == number else 0x7FC0)
    else:
        write_i8(address, round(number * inverse))


@StepKernel
def store(arguments: int, start: int, end: int, state: int, worker: int) -> None:
    """Turn queries and keys by their positions (in place) and put keys and values into the cache.

    Arguments: queries, bytes between rows, keys, bytes between rows, values, bytes between rows, query heads, key-value
    heads, values of a head, turned pairs, cosines, sines (float32 rows), 1 when their row is the token's place in the
    call and not its position, layer. Items: tokens.
    """
    queries, query_stride = read_i64(arguments), read_i64(arguments + 8)
    keys, key_stride = read_i64(arguments + 16), read_i64(arguments + 24)
    values, value_stride = read_i64(arguments + 32), read_i64(arguments + 40)
    num_heads, num_kv_heads = read_i64(arguments + 48), read_i64(arguments + 56)
    size, half = read_i64(arguments + 64), read_i64(arguments + 72)
    cosines, sines, by_token = read_i64(arguments + 80), read_i64(arguments + 88), read_i64(arguments + 96)
    # Of the cache: address, type, bytes of a row of the batch, of a head, where values and both scales begin.
    layer = read_i64(state + 56) + 64 * read_i64(arguments + 104)
    base, cache_type, row_bytes, head_bytes = (
        read_i64(layer),
        read_i64(layer + 8),
        read_i64(layer + 16),
        read_i64(layer + 24),
    )
    values_at, key_scales_at, value_scales_at = read_i64(layer + 32), read_i64(layer + 40), read_i64(layer + 48)
    width, padded = VALUE_BYTES[cache_type], (size + 15) // 16 * 16
    for token in range(start, end):
        position, slot = read_i64(read_i64(state + 16) + 8 * token), read_i64(read_i64(state + 24) + 8 * token)
        row = read_i64(read_i64(state + 32) + 8 * token)
        table = (token if by_token else position) * half * 4
        for head in range(num_heads + num_kv_heads):
            x = queries + token * query_stride + 4 * size * head
            if head >= num_heads:
                x = keys + token * key_stride + 4 * size * (head - num_heads)
            for pair in range(half):
                c, s = read_f32(cosines + table + 4 * pair), read_f32(sines + table + 4 * pair)
                a, b = read_f32(x + 4 * pair), read_f32(x + 4 * (pair + half))
                write_f32(x + 4 * pair, a * c - b * s)
                write_f32(x + 4 * (pair + half), b * c + a * s)
        for head in range(num_kv_heads):
            own = base + row * row_bytes + head * head_bytes
            key, value = keys + token * key_stride + 4 * size * head, values + token * value_stride + 4 * size * head
            key_inverse = value_inverse = float_from_bits(0)
            if cache_type == 2:
                largest_key = largest_value = float_from_bits(0)
                fault = float_from_bits(0)
                for place in range(size):
                    a, b = read_f32(key + 4 * place), read_f32(value + 4 * place)
                    largest_key, largest_value = max(largest_key, abs(a)), max(largest_value, abs(b))
                    fault += (a + b) * float_from_bits(0)
                write_f32(own + key_scales_at + 4 * slot, largest_key / 127.0 + fault)
                write_f32(own + value_scales_at + 4 * slot, largest_value / 127.0 + fault)
                key_inverse = 127.0 / largest_key if largest_key > 0.0 else 0.0
                value_inverse = 127.0 / largest_value if largest_value > 0.0 else 0.0
            key_target = own + (slot // 16 * padded * 16 + slot % 16) * width
            value_target = own + values_at + slot * padded * width
            for place in range(size):
                _put(key_target + 16 * place * width, cache_type, read_f32(key + 4 * place), key_inverse)
                _put(value_target + place * width, cache_type, read_f32(value + 4 * place), value_inverse)


@kernel
def _widen(source: int, cache_type: int, num_vectors: int, target: int) -> None:
    """Values of the cache as float32."""
    if cache_type == 1:
        for index in range(num_vectors):
            store_f32(target + 64 * index, load_f32_from_bf16(source + 32 * index))
    else:
        for index in range(num_vectors):
            store_f32(target + 64 * index, load_f32_from_i8(source + 16 * index))


@kernel
def _score(keys: int, padded: int, size: int, queries: int, scores: int, num_keys: int) -> None:
    """Scores of TILE queries with the keys of a block: scores[query][key], BLOCK apart."""
    for sixteen in range((num_keys + 15) // 16):
        total = rows_zero_f32(TILE)
        key = keys + sixteen * padded * 64
        for place in range(size):
            total = rows_multiply_add(total, load_f32(key + 64 * place), queries + 4 * TILE * place)
        rows_store_f32(total, scores + 64 * sixteen, 4 * BLOCK, TILE)


@kernel
def _weigh(values: int, padded: int, weights: int, factors: int, sums: int, num_keys: int) -> None:
    """Sums of TILE queries times their factors, plus the values of a block times weights[key][query]."""
    for place in range(0, padded, 16):
        total = rows_multiply(rows_load_f32(TILE, sums + 4 * place, 4 * padded), factors)
        for key in range(num_keys):
            total = rows_multiply_add(total, load_f32(values + 4 * (key * padded + place)), weights + 4 * TILE * key)
        rows_store_f32(total, sums + 4 * place, 4 * padded, TILE)


@StepKernel
def attend(arguments: int, start: int, end: int, state: int, worker: int) -> None:
    """Softmax of the scores of each query with the keys it sees, and the values weighed by it.

    Arguments: queries, bytes between rows, result, bytes between rows, query heads, key-value heads, values of a head,
    layer, the bits of the factor of the scores, the bits of their cap (0: none), window (0: none), sink tokens, sink
    logits (float32, 0: none). Items: a key-value head of a group of tokens of one row.
    """
    queries, query_stride = read_i64(arguments), read_i64(arguments + 8)
    target, target_stride = read_i64(arguments + 16), read_i64(arguments + 24)
    num_heads, num_kv_heads, size = read_i64(arguments + 32), read_i64(arguments + 40), read_i64(arguments + 48)
    layer = read_i64(state + 56) + 64 * read_i64(arguments + 56)
    factor, limit = float_from_bits(read_i64(arguments + 64)), float_from_bits(read_i64(arguments + 72))
    window, num_sinks, sink_logits = read_i64(arguments + 80), read_i64(arguments + 88), read_i64(arguments + 96)
    base, cache_type, row_bytes, head_bytes = (
        read_i64(layer),
        read_i64(layer + 8),
        read_i64(layer + 16),
        read_i64(layer + 24),
    )
    values_at, key_scales_at, value_scales_at = read_i64(layer + 32), read_i64(layer + 40), read_i64(layer + 48)
    width, padded, shared = VALUE_BYTES[cache_type], (size + 15) // 16 * 16, num_heads // num_kv_heads
    scratch = read_i64(state + 64) + worker * read_i64(state + 72)
    wide_keys, wide_values = scratch, scratch + 4 * BLOCK * padded
    scores = wide_values + 4 * BLOCK * padded
    weights = scores + 4 * BLOCK * TILE
    factors = weights + 4 * BLOCK * TILE
    inverse = 1.0 / limit if limit > 0.0 else 0.0
    for item in range(start, end):
        group, head = read_i64(state + 40) + 16 * (item // num_kv_heads), item % num_kv_heads
        first, count = read_i64(group), read_i64(group + 8)
        num_queries = count * shared
        rows = (num_queries + TILE - 1) // TILE * TILE
        # For each query: itself, sums of a segment and of all, then largest score and sum of both.
        own_queries = factors + 64
        parts = own_queries + 4 * padded * rows
        wholes = parts + 4 * padded * rows
        part_largest = wholes + 4 * padded * rows
        part_sums, largest, sums = part_largest + 4 * rows, part_largest + 8 * rows, part_largest + 12 * rows
        for query in range(rows):
            for place in range(0, padded, 16):
                store_f32(wholes + 4 * (query * padded + place), splat_f32(0.0))
            # The numbers of TILE queries side by side; a query that fills a tile up repeats the last one.
            real = min(query, num_queries - 1)
            source = queries + (first + real // shared) * query_stride + 4 * size * (head * shared + real % shared)
            own_query = own_queries + 4 * (query // TILE * TILE * padded + query % TILE)
            for place in range(size):
                write_f32(own_query + 4 * TILE * place, read_f32(source + 4 * place))
            write_f32(largest + 4 * query, _LOWEST)
            write_f32(sums + 4 * query, 0.0)
            if sink_logits and query < num_queries:
                write_f32(largest + 4 * query, read_f32(sink_logits + 4 * (head * shared + query % shared)))
                write_f32(sums + 4 * query, 1.0)
        slots = read_i64(state + 24) + 8 * first
        row = read_i64(read_i64(state + 32) + 8 * first)
        own = base + row * row_bytes + head * head_bytes
        earliest, last = read_i64(slots), read_i64(slots + 8 * (count - 1))
        for segment in range(0, last + 1, SEGMENT):
            seen = window == 0 or segment + SEGMENT > earliest - window + 1 or segment < num_sinks
            if not seen:
                continue
            for query in range(rows):
                for place in range(0, padded, 16):
                    store_f32(parts + 4 * (query * padded + place), splat_f32(0.0))
                write_f32(part_largest + 4 * query, _LOWEST)
                write_f32(part_sums + 4 * query, 0.0)
            for begin in range(segment, min(segment + SEGMENT, last + 1), BLOCK):
                if not (window == 0 or begin + BLOCK > earliest - window + 1 or begin < num_sinks):
                    continue
                num_keys = min(BLOCK, last + 1 - begin)
                keys, values = own + begin * padded * width, own + values_at + begin * padded * width
                if cache_type != 0:
                    _widen(keys, cache_type, (num_keys + 15) // 16 * padded, wide_keys)
                    _widen(values, cache_type, num_keys * padded // 16, wide_values)
                    keys, values = wide_keys, wide_values
                for tile in range(0, num_queries, TILE):
                    last_token = (min(tile + TILE, num_queries) - 1) // shared
                    newest = read_i64(slots + 8 * last_token)
                    if begin > newest:
                        continue
                    used = min(num_keys, newest + 1 - begin)
                    _score(keys, padded, size, own_queries + 4 * padded * tile, scores, used)
                    for query in range(tile, tile + TILE):
                        line = scores + 4 * BLOCK * (query - tile)
                        slot = read_i64(slots + 8 * (min(query, num_queries - 1) // shared))
                        lowest = slot - window + 1 if window else 0
                        top = splat_f32(_LOWEST)
                        for sixteen in range((used + 15) // 16):
                            place = begin + 16 * sixteen
                            score = mul(load_f32(line + 64 * sixteen), splat_f32(factor))
                            if cache_type == 2:
                                score = mul(score, load_f32(own + key_scales_at + 4 * place))
                            if limit > 0.0:
                                score = mul(splat_f32(limit), tanh(mul(score, splat_f32(inverse))))
                            score = keep_up_to(score, iota(), slot - place)
                            if place < lowest:
                                # Keys before the window, unless they are sinks.
                                hidden = keep_up_to(score, sub_i32(splat_i32(0), iota()), place - lowest)
                                if place < num_sinks:
                                    hidden = larger(hidden, keep_up_to(score, iota(), num_sinks - 1 - place))
                                score = hidden
                            store_f32(line + 64 * sixteen, score)
                            top = larger(top, score)
                        old = read_f32(part_largest + 4 * query)
                        new = max(old, largest_of(top))
                        news, sums_of_block = splat_f32(new), splat_f32(0.0)
                        for sixteen in range((used + 15) // 16):
                            share = exp(sub(load_f32(line + 64 * sixteen), news))
                            sums_of_block = add(sums_of_block, share)
                            if cache_type == 2:
                                share = mul(share, load_f32(own + value_scales_at + 4 * (begin + 16 * sixteen)))
                            store_f32(line + 64 * sixteen, share)
                        shrink = largest_of(exp(splat_f32(old - new)))
                        write_f32(factors + 4 * (query - tile), shrink)
                        write_f32(part_largest + 4 * query, new)
                        total = read_f32(part_sums + 4 * query) * shrink + sum_of(sums_of_block)
                        write_f32(part_sums + 4 * query, total)
                    for key in range(used):
                        for query in range(TILE):
                            write_f32(weights + 4 * (TILE * key + query), read_f32(scores + 4 * (BLOCK * query + key)))
                    _weigh(values, padded, weights, factors, parts + 4 * padded * tile, used)
            for query in range(num_queries):
                a, b = read_f32(largest + 4 * query), read_f32(part_largest + 4 * query)
                new = max(a, b)
                of_old, of_new = exp(splat_f32(a - new)), exp(splat_f32(b - new))
                total = read_f32(sums + 4 * query) * largest_of(of_old) + read_f32(part_sums + 4 * query) * largest_of(
                    of_new
                )
                write_f32(sums + 4 * query, total)
                write_f32(largest + 4 * query, new)
                for place in range(0, padded, 16):
                    offset = 4 * (query * padded + place)
                    kept = mul(load_f32(wholes + offset), of_old)
                    store_f32(wholes + offset, multiply_add(load_f32(parts + offset), of_new, kept))
        for query in range(num_queries):
            result = target + (first + query // shared) * target_stride + 4 * size * (head * shared + query % shared)
            share = 1.0 / read_f32(sums + 4 * query)
            for place in range(size):
                write_f32(result + 4 * place, read_f32(wholes + 4 * (query * padded + place)) * share)


def scratch_bytes(size: int, shared: int, tokens: int) -> int:
    """What `attend` needs for each worker.

    Args:
        size: values of a head.
        shared: query heads of a key-value head.
        tokens: most tokens of a group.
    """
    padded, rows = -(-size // 16) * 16, -(-tokens * shared // TILE) * TILE
    return 4 * (2 * BLOCK * padded + 2 * BLOCK * TILE + 16 + 3 * padded * rows + 4 * rows) + 256


assert math.log2(BLOCK).is_integer() and SEGMENT % BLOCK == 0
