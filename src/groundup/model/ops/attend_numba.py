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

from groundup.core.jit import kernel
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
from groundup.model.ops.step_kernels import BLOCK, SEGMENT, TILE, VALUE_BYTES

_LOWEST = -1e30
#: Offsets in the state that all kernels of a call share, in bytes (`inference.step_plan.STATE`).
POSITIONS, SLOTS, ROWS, GROUPS, LAYERS = 16, 24, 32, 40, 56
SCRATCH, SCRATCH_BYTES, NUM_SEGMENTS, RECORDS = 64, 72, 80, 88


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
    layer = read_i64(state + LAYERS) + 64 * read_i64(arguments + 104)
    base, cache_type, row_bytes, head_bytes = (
        read_i64(layer),
        read_i64(layer + 8),
        read_i64(layer + 16),
        read_i64(layer + 24),
    )
    values_at, key_scales_at, value_scales_at = read_i64(layer + 32), read_i64(layer + 40), read_i64(layer + 48)
    width, padded = VALUE_BYTES[cache_type], (size + 15) // 16 * 16
    for token in range(start, end):
        position = read_i64(read_i64(state + POSITIONS) + 8 * token)
        slot, row = read_i64(read_i64(state + SLOTS) + 8 * token), read_i64(read_i64(state + ROWS) + 8 * token)
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


@kernel
def _cache_of(state: int, index: int, row: int, head: int) -> int:
    """The address of a head's keys in the cache of a layer."""
    layer = read_i64(state + LAYERS) + 64 * index
    return read_i64(layer) + row * read_i64(layer + 16) + head * read_i64(layer + 24)


@kernel
def _take_queries(arguments: int, state: int, group: int, head: int, target: int) -> None:
    """The queries of a group that share a key-value head, the numbers of TILE of them side by side."""
    queries, stride = read_i64(arguments), read_i64(arguments + 8)
    shared, size = read_i64(arguments + 32) // read_i64(arguments + 40), read_i64(arguments + 48)
    first, count = read_i64(read_i64(state + GROUPS) + 16 * group), read_i64(read_i64(state + GROUPS) + 16 * group + 8)
    padded = (size + 15) // 16 * 16
    for query in range((count * shared + TILE - 1) // TILE * TILE):
        real = min(query, count * shared - 1)  # one that fills a tile up repeats the last
        source = queries + (first + real // shared) * stride + 4 * size * (head * shared + real % shared)
        own = target + 4 * (query // TILE * TILE * padded + query % TILE)
        for place in range(size):
            write_f32(own + 4 * TILE * place, read_f32(source + 4 * place))


@kernel
def _clear(record: int, rows: int, padded: int) -> None:
    """A record of nothing: weighted values, largest score and sum of each query."""
    for place in range(0, rows * padded, 16):
        store_f32(record + 4 * place, splat_f32(0.0))
    for query in range(rows):
        write_f32(record + 4 * rows * padded + 4 * query, _LOWEST)
        write_f32(record + 4 * rows * padded + 4 * rows + 4 * query, 0.0)


@kernel
def _weights_of(
    arguments: int, line: int, begin: int, used: int, slot: int, key_scales: int, value_scales: int, cache_type: int,
    largest: int, sums: int, factor_of_old: int,
) -> None:  # fmt: skip
    """Scores of one query with a block of keys become their weights, in place; largest score and sum are brought up to date."""
    factor, limit = float_from_bits(read_i64(arguments + 64)), float_from_bits(read_i64(arguments + 72))
    window, num_sinks = read_i64(arguments + 80), read_i64(arguments + 88)
    lowest = slot - window + 1 if window else 0
    top = splat_f32(_LOWEST)
    for sixteen in range((used + 15) // 16):
        place = begin + 16 * sixteen
        score = mul(load_f32(line + 64 * sixteen), splat_f32(factor))
        if cache_type == 2:
            score = mul(score, load_f32(key_scales + 4 * place))
        if limit > 0.0:
            score = mul(splat_f32(limit), tanh(mul(score, splat_f32(1.0 / limit))))
        score = keep_up_to(score, iota(), slot - place)
        if place < lowest:
            # Keys before the window, unless they are sinks.
            seen = keep_up_to(score, sub_i32(splat_i32(0), iota()), place - lowest)
            if place < num_sinks:
                seen = larger(seen, keep_up_to(score, iota(), num_sinks - 1 - place))
            score = seen
        store_f32(line + 64 * sixteen, score)
        top = larger(top, score)
    old = read_f32(largest)
    new = max(old, largest_of(top))
    total = splat_f32(0.0)
    for sixteen in range((used + 15) // 16):
        share = exp(sub(load_f32(line + 64 * sixteen), splat_f32(new)))
        total = add(total, share)
        if cache_type == 2:
            share = mul(share, load_f32(value_scales + 4 * (begin + 16 * sixteen)))
        store_f32(line + 64 * sixteen, share)
    shrink = largest_of(exp(splat_f32(old - new)))
    write_f32(factor_of_old, shrink)
    write_f32(largest, new)
    write_f32(sums, read_f32(sums) * shrink + sum_of(total))


@kernel
def _read_segment(arguments: int, state: int, group: int, head: int, segment: int, scratch: int, record: int) -> None:
    """What the queries of a group make of the keys of one segment alone; `record` is empty before.

    Args:
        segment: its first key.
        scratch: room for a widened block, scores, weights and factors, then the queries (`_take_queries`).
    """
    shared, size = read_i64(arguments + 32) // read_i64(arguments + 40), read_i64(arguments + 48)
    window, num_sinks = read_i64(arguments + 80), read_i64(arguments + 88)
    first, count = read_i64(read_i64(state + GROUPS) + 16 * group), read_i64(read_i64(state + GROUPS) + 16 * group + 8)
    layer = read_i64(state + LAYERS) + 64 * read_i64(arguments + 56)
    cache_type, values_at = read_i64(layer + 8), read_i64(layer + 32)
    own = _cache_of(state, read_i64(arguments + 56), read_i64(read_i64(state + ROWS) + 8 * first), head)
    key_scales, value_scales = own + read_i64(layer + 40), own + read_i64(layer + 48)
    width, padded = VALUE_BYTES[cache_type], (size + 15) // 16 * 16
    num_queries = count * shared
    rows = (num_queries + TILE - 1) // TILE * TILE
    wide_keys, wide_values = scratch, scratch + 4 * BLOCK * padded
    scores = wide_values + 4 * BLOCK * padded
    weights, factors = scores + 4 * BLOCK * TILE, scores + 8 * BLOCK * TILE
    queries, largest, sums = factors + 64, record + 4 * rows * padded, record + 4 * rows * padded + 4 * rows
    slots = read_i64(state + SLOTS) + 8 * first
    earliest, last = read_i64(slots), read_i64(slots + 8 * (count - 1))
    for begin in range(segment, min(segment + SEGMENT, last + 1), BLOCK):
        if window and begin + BLOCK <= earliest - window + 1 and begin >= num_sinks:
            continue  # no query sees a key of it
        num_keys = min(BLOCK, last + 1 - begin)
        keys, values = own + begin * padded * width, own + values_at + begin * padded * width
        if cache_type != 0:
            _widen(keys, cache_type, (num_keys + 15) // 16 * padded, wide_keys)
            _widen(values, cache_type, num_keys * padded // 16, wide_values)
            keys, values = wide_keys, wide_values
        for tile in range(0, num_queries, TILE):
            newest = read_i64(slots + 8 * ((min(tile + TILE, num_queries) - 1) // shared))
            if begin > newest:
                continue
            used = min(num_keys, newest + 1 - begin)
            _score(keys, padded, size, queries + 4 * padded * tile, scores, used)
            for place in range(TILE):
                query = tile + place
                slot = read_i64(slots + 8 * (min(query, num_queries - 1) // shared))
                line = scores + 4 * BLOCK * place
                _weights_of(
                    arguments, line, begin, used, slot, key_scales, value_scales, cache_type,
                    largest + 4 * query, sums + 4 * query, factors + 4 * place,
                )  # fmt: skip
            for key in range(used):
                for place in range(TILE):
                    write_f32(weights + 4 * (TILE * key + place), read_f32(scores + 4 * (BLOCK * place + key)))
            _weigh(values, padded, weights, factors, record + 4 * padded * tile, used)


@kernel
def _merge(record: int, part: int, num_queries: int, rows: int, padded: int) -> None:
    """Add what a later segment gave to what all before it gave."""
    largest, sums = 4 * rows * padded, 4 * rows * padded + 4 * rows
    for query in range(num_queries):
        a, b = read_f32(record + largest + 4 * query), read_f32(part + largest + 4 * query)
        new = max(a, b)
        of_old, of_new = exp(splat_f32(a - new)), exp(splat_f32(b - new))
        kept, added = read_f32(record + sums + 4 * query), read_f32(part + sums + 4 * query)
        write_f32(record + sums + 4 * query, kept * largest_of(of_old) + added * largest_of(of_new))
        write_f32(record + largest + 4 * query, new)
        for place in range(0, padded, 16):
            offset = 4 * (query * padded + place)
            values = mul(load_f32(record + offset), of_old)
            store_f32(record + offset, multiply_add(load_f32(part + offset), of_new, values))


@kernel
def _begin(arguments: int, head: int, record: int, num_queries: int, rows: int, padded: int) -> None:
    """The record before the first segment: nothing, or a learned sink's score without a value."""
    _clear(record, rows, padded)
    sinks, shared = read_i64(arguments + 96), read_i64(arguments + 32) // read_i64(arguments + 40)
    if sinks:
        for query in range(num_queries):
            sink = read_f32(sinks + 4 * (head * shared + query % shared))
            write_f32(record + 4 * rows * padded + 4 * query, sink)
            write_f32(record + 4 * rows * padded + 4 * rows + 4 * query, 1.0)


@kernel
def _finish(arguments: int, first: int, head: int, record: int, num_queries: int, rows: int, padded: int) -> None:
    """Write the weighted values of each query over its sum."""
    target, stride = read_i64(arguments + 16), read_i64(arguments + 24)
    shared, size = read_i64(arguments + 32) // read_i64(arguments + 40), read_i64(arguments + 48)
    for query in range(num_queries):
        result = target + (first + query // shared) * stride + 4 * size * (head * shared + query % shared)
        share = 1.0 / read_f32(record + 4 * rows * padded + 4 * rows + 4 * query)
        for place in range(size):
            write_f32(result + 4 * place, read_f32(record + 4 * (query * padded + place)) * share)


def attend(arguments: int, start: int, end: int, state: int, worker: int) -> None:
    """Softmax of the scores of each query with the keys it sees, and the values weighed by it.

    Arguments: queries, bytes between rows, result, bytes between rows, query heads, key-value heads, values of a head,
    layer, the bits of the factor of the scores, the bits of their cap (0: none), window (0: none), sink tokens, sink
    logits (float32, 0: none), bytes of a record. Items: a key-value head of a group of tokens of one row; where the
    state says that segments are divided, one of its segments, whose record is left for `join`.
    """
    num_kv_heads, size = read_i64(arguments + 40), read_i64(arguments + 48)
    padded, shared = (size + 15) // 16 * 16, read_i64(arguments + 32) // num_kv_heads
    num_segments = read_i64(state + NUM_SEGMENTS)
    scratch = read_i64(state + SCRATCH) + worker * read_i64(state + SCRATCH_BYTES)
    queries = scratch + 4 * (2 * BLOCK * padded + 2 * BLOCK * TILE) + 64
    for item in range(start, end):
        pair = item // num_segments
        group, head = pair // num_kv_heads, pair % num_kv_heads
        span = read_i64(state + GROUPS) + 16 * group
        first, count = read_i64(span), read_i64(span + 8)
        num_queries = count * shared
        rows = (num_queries + TILE - 1) // TILE * TILE
        _take_queries(arguments, state, group, head, queries)
        if num_segments > 1:
            record = read_i64(state + RECORDS) + item * read_i64(arguments + 104)
            _clear(record, rows, padded)
            _read_segment(arguments, state, group, head, item % num_segments * SEGMENT, scratch, record)
        else:
            part = queries + 4 * padded * rows
            record = part + 4 * (padded + 2) * rows
            _begin(arguments, head, record, num_queries, rows, padded)
            last = read_i64(read_i64(state + SLOTS) + 8 * (first + count - 1))
            for segment in range(0, last + 1, SEGMENT):
                _clear(part, rows, padded)
                _read_segment(arguments, state, group, head, segment, scratch, part)
                _merge(record, part, num_queries, rows, padded)
            _finish(arguments, first, head, record, num_queries, rows, padded)


def join(arguments: int, start: int, end: int, state: int, worker: int) -> None:
    """Merge the records of the segments that `attend` left, in their order; nothing where it left none.

    Arguments: those of `attend`. Items: a key-value head of a group of tokens.
    """
    num_kv_heads, size = read_i64(arguments + 40), read_i64(arguments + 48)
    padded, shared = (size + 15) // 16 * 16, read_i64(arguments + 32) // num_kv_heads
    num_segments = read_i64(state + NUM_SEGMENTS)
    if num_segments == 1:
        return
    total = read_i64(state + SCRATCH) + worker * read_i64(state + SCRATCH_BYTES)
    for item in range(start, end):
        group, head = item // num_kv_heads, item % num_kv_heads
        span = read_i64(state + GROUPS) + 16 * group
        first, count = read_i64(span), read_i64(span + 8)
        num_queries = count * shared
        rows = (num_queries + TILE - 1) // TILE * TILE
        _begin(arguments, head, total, num_queries, rows, padded)
        for segment in range(num_segments):
            part = read_i64(state + RECORDS) + (item * num_segments + segment) * read_i64(arguments + 104)
            _merge(total, part, num_queries, rows, padded)
        _finish(arguments, first, head, total, num_queries, rows, padded)


assert math.log2(BLOCK).is_integer() and SEGMENT % BLOCK == 0
